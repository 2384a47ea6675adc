"""The loss of a model on the dev set, from its stored outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.tasks.metrics import JUDGED, REGRESSION


def mean_loss(metrics: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> float:
    """Return the mean loss of outputs `[examples, outputs]` of a task with these metrics; NaN where it is not known.

    It is the cross-entropy of the logits (of several labels, the mean of their binary ones), in regression the mean
    squared error in the targets' units, and of a corpus the mean over predicted tokens. Of questions' answers and of
    tagged words, outputs are what was judged, and have no loss.

    >>> round(mean_loss(("accuracy",), np.array([0, 1]), np.zeros((2, 4))), 4)  # log 4
    1.3863
    """
    found = outputs.astype(np.float64)
    if "perplexity" in metrics:
        return float(found[:, 2].sum() / found[:, 0].sum())
    if any(name in JUDGED for name in metrics):
        return float("nan")
    if all(name in REGRESSION for name in metrics):
        return float(np.mean((found[:, 0] - targets) ** 2))
    if targets.ndim == 2:
        return float(np.mean(np.logaddexp(0.0, found) - targets * found))
    return float(np.mean(np.logaddexp.reduce(found, axis=1) - found[np.arange(len(found)), targets]))
