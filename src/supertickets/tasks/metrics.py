"""Metrics as GLUE defines them, in percent, from scikit-learn and scipy; those of SQuAD and of masked tokens.

What a model says of a masked block or of a question is judged where it is computed (`training.masked`, `.spans`);
outputs are the judgements then, and a metric of many is a ratio of sums:

- masked: `[blocks, 3]`, how many tokens were masked, how many of them were right, the sum of their losses;
- spans: `[questions, 4]`, exact match (0 or 1), F1 (0 to 1), the answer's first character and the one after its last.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


def _f1_first(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Return F1 of the first of two classes, where `--positive` names it."""
    return _f1(1 - targets, 1 - predictions)


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
    "f1_first": _f1_first,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}


def _r2(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    spread = float(np.sum((targets - np.mean(targets)) ** 2))
    return 1.0 - float(np.sum((targets - predictions) ** 2)) / spread if spread > 0 else 0.0


def _mae(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(np.mean(np.abs(predictions - targets)))


def _rmse(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((predictions - targets) ** 2)))


ERRORS: dict[str, Metric] = {"mae": _mae, "rmse": _rmse}
"""Mean absolute error and root mean squared error, in the targets' units. No correlation sees these, or an offset:
`r2`, the share of the targets' variance that predictions explain, is what makes a score see them."""
REGRESSION: dict[str, Metric] = {
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
    "r2": _r2,
    **ERRORS,
}


@dataclass(frozen=True)
class Judged:
    """A metric of judged outputs: a ratio of sums over examples; `column` None below counts the examples.

    `shown` turns the ratio into what is reported: percent, unless it says otherwise.
    """

    above: int
    below: int | None = None
    shown: Callable[[Any], Any] = lambda ratio: 100.0 * ratio

    def of(self, outputs: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the metric for each row of `weights` `[resamples, examples]`: how often each example counts."""
        found = outputs.astype(np.float64)
        above = weights @ found[:, self.above]
        below = weights.sum(axis=1) if self.below is None else weights @ found[:, self.below]
        ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.asarray(self.shown(ratio))


def _perplexity(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(np.minimum(loss, 700.0))  # beyond it is infinite, which JSON has no word for


JUDGED: dict[str, Judged] = {
    "token_accuracy": Judged(1, below=0),
    "perplexity": Judged(2, below=0, shown=_perplexity),
    "answer_f1": Judged(1),
    "exact_match": Judged(0),
}
UNSCORED = frozenset({"perplexity", "exact_match", *ERRORS})
"""Metrics that are reported and are no part of the score: lower perplexity and errors are better, and the paper scores
SQuAD by F1 alone (Chen et al., The Lottery Ticket Hypothesis for Pre-trained BERT Networks, Table 2)."""


def scored(names: Iterable[str]) -> list[str]:
    """Return the metrics whose mean is the score."""
    return [name for name in names if name not in UNSCORED]


def evaluate(names: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> dict[str, float]:
    """Return each metric in percent (perplexity and errors as they are), and the scored ones' mean as `score`.

    `outputs` are logits `[examples, outputs]`, or judgements (see above), for which `targets` are not read.
    """
    if all(name in JUDGED for name in names):
        once = np.ones((1, len(outputs)))
        values = {name: float(JUDGED[name].of(outputs, once)[0]) for name in names}
    else:
        regression = all(name in REGRESSION for name in names)
        predictions = outputs[:, 0] if regression else outputs.argmax(axis=1)
        known = REGRESSION if regression else CLASSIFICATION
        predictions = predictions.astype(np.float64) if regression else predictions
        values = {name: (1.0 if name in ERRORS else 100.0) * known[name](targets, predictions) for name in names}
    return {**values, "score": float(np.mean([values[name] for name in scored(values)]))}


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and superfluous white space.

    Source: the official evaluate-v1.1.py.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def judge_answer(answer: str, gold: Iterable[str]) -> tuple[float, float]:
    """Return exact match (0 or 1) and F1 over words (0 to 1) of an answer: the best against any gold answer.

    All are normalised already.
    """
    words = Counter(answer.split())
    exact = f1 = 0.0
    for other in gold:
        exact = max(exact, float(answer == other))
        others = Counter(other.split())
        shared = (words & others).total()
        if shared:
            f1 = max(f1, 2 * shared / (words.total() + others.total()))
    return exact, f1
