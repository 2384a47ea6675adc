"""Scores of many resamples of an evaluation set at once: each example counts as often as a weight says.

Bootstrap resamples and halves of a dev set are rows of weights. What scikit-learn and scipy compute for one of them in
a millisecond comes for all of them from a few matrix products; tests hold the two equal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.tasks.metrics import JUDGED, REGRESSION, scored

Floats = NDArray[np.float64]
RESAMPLES = 1000
_MAX_WEIGHTS = 20_000_000  # resamples x examples; large dev sets need fewer resamples than this allows


def bootstrap_weights(examples: int, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Return how often each example is drawn in each bootstrap resample, `[resamples, examples]`."""
    resamples = min(resamples, max(200, _MAX_WEIGHTS // examples))
    rng = np.random.default_rng(seed)
    return rng.multinomial(examples, np.full(examples, 1 / examples), size=resamples).astype(np.float64)


def half_weights(examples: int, halvings: int, seed: int = 0) -> Floats:
    """Return random halves, `[2 * halvings, examples]`: rows 2i and 2i + 1 are the two halves of one split."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((2 * halvings, examples))
    for i in range(halvings):
        order = rng.permutation(examples)
        weights[2 * i, order[: examples // 2]] = 1
        weights[2 * i + 1, order[examples // 2 :]] = 1
    return weights


def weighted_scores(metrics: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any], weights: Floats) -> Floats:
    """Return the score (the scored metrics' mean in percent) for each row of `weights` `[resamples, examples]`.

    Equal to `tasks.metrics.evaluate` on examples repeated as their weights say; `outputs` are `[examples, outputs]`.
    """
    if all(name in JUDGED for name in metrics):
        return np.mean([JUDGED[name].of(outputs, weights) for name in scored(metrics)], axis=0)
    if all(name in REGRESSION for name in metrics):
        values = [
            _OF_NUMBERS[name](np.asarray(targets, float), outputs[:, 0].astype(float), weights)
            for name in scored(metrics)
        ]
    else:
        counts = _confusion(targets, outputs.argmax(axis=1), outputs.shape[1], weights)
        values = [_FROM_COUNTS[name](counts) for name in metrics]
    return 100.0 * np.mean(values, axis=0)


def _confusion(targets: NDArray[Any], predicted: NDArray[Any], classes: int, weights: Floats) -> Floats:
    """Return weighted counts `[resamples, target class, predicted class]`."""
    classes = max(classes, int(targets.max()) + 1)
    cells = np.zeros((len(targets), classes * classes))
    cells[np.arange(len(targets)), targets * classes + predicted] = 1
    return (weights @ cells).reshape(-1, classes, classes)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, 0 where below is 0, as the libraries do."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _accuracy(counts: Floats) -> Floats:
    return _ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def _f1_by_class(counts: Floats) -> tuple[Floats, Floats]:
    """Return each class's F1 and how much weight it has among targets and predictions, both `[resamples, classes]`."""
    hits = np.einsum("rcc->rc", counts)
    weight = counts.sum(axis=1) + counts.sum(axis=2)
    return _ratio(2 * hits, weight), weight


def _f1(counts: Floats) -> Floats:
    return _f1_by_class(counts)[0][:, 1]


def _f1_first(counts: Floats) -> Floats:
    return _f1_by_class(counts)[0][:, 0]


def _macro_f1(counts: Floats) -> Floats:
    f1, weight = _f1_by_class(counts)
    return _ratio(f1.sum(axis=1), (weight > 0).sum(axis=1).astype(float))


def _matthews(counts: Floats) -> Floats:
    total = counts.sum(axis=(1, 2))
    actual, predicted = counts.sum(axis=2), counts.sum(axis=1)
    right = np.trace(counts, axis1=1, axis2=2)
    covariance = right * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


def _pearson(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Correlate `[examples]` or `[resamples, examples]` under weights."""
    total = weights.sum(axis=1, keepdims=True)
    x = targets - (weights * targets).sum(axis=1, keepdims=True) / total
    y = predicted - (weights * predicted).sum(axis=1, keepdims=True) / total
    spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    return _ratio((weights * x * y).sum(axis=1), np.sqrt(spread))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of each value among those drawn, `[resamples, examples]`; equal values share theirs."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    drawn = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, place]


def _spearman(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    return _pearson(_ranks(targets, weights), _ranks(predicted, weights), weights)


_FROM_COUNTS: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_first": _f1_first,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}


def _r2(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    mean = _ratio(weights @ targets, weights.sum(axis=1))[:, None]
    spread = (weights * (targets - mean) ** 2).sum(axis=1)
    return np.where(spread > 0, 1.0 - _ratio(weights @ (targets - predicted) ** 2, spread), 0.0)


_OF_NUMBERS: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "r2": _r2,
}
