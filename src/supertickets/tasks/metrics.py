"""Metrics as GLUE defines them, in percent, from scikit-learn and scipy."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Metric = Callable[[NDArray[Any], NDArray[Any]], float]
"""(targets, predictions) -> value; predictions are class indices, or real numbers in regression."""


def _accuracy(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(np.mean(targets == predictions))


def _f1(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, zero_division=0.0))


def _macro_f1(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, average="macro", zero_division=0.0))


def _matthews(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets, predictions))


def _correlation(name: str) -> Metric:
    def correlation(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
        from scipy import stats

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            value = float(getattr(stats, name)(targets, predictions).statistic)
        return 0.0 if np.isnan(value) else value  # constant predictions correlate with nothing

    return correlation


CLASSIFICATION: dict[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
REGRESSION: dict[str, Metric] = {"pearson": _correlation("pearsonr"), "spearman": _correlation("spearmanr")}


def evaluate(names: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> dict[str, float]:
    """Return each metric in percent, and their mean as `score`; `outputs` are logits `[examples, outputs]`."""
    regression = all(name in REGRESSION for name in names)
    predictions = outputs[:, 0] if regression else outputs.argmax(axis=1)
    known = REGRESSION if regression else CLASSIFICATION
    values = {name: 100.0 * known[name](targets, predictions) for name in names}
    return {**values, "score": float(np.mean(list(values.values())))}
