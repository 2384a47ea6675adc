"""Scores of many resamples of an evaluation set: bootstrap resamples and halves of a dev set are rows of weights."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.tasks.metrics import Floats, resampled, scored

RESAMPLES = 1000
SAMPLES = 50
_MAX_WEIGHTS = 20_000_000  # resamples x examples; large dev sets need fewer resamples than this allows


def bootstrap_weights(examples: int, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Return how often each example is drawn in each bootstrap resample, `[resamples, examples]`."""
    resamples = min(resamples, max(200, _MAX_WEIGHTS // examples))
    rng = np.random.default_rng(seed)
    return rng.multinomial(examples, np.full(examples, 1 / examples), size=resamples).astype(np.float64)


@lru_cache(maxsize=2)  # one and the same for all runs of a task
def half_weights(examples: int, halvings: int, seed: int = 0) -> Floats:
    """Return random halves, `[2 * halvings, examples]`: rows 2i and 2i + 1 are the two halves of one split."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((2 * halvings, examples))
    for i in range(halvings):
        order = rng.permutation(examples)
        weights[2 * i, order[: examples // 2]] = 1
        weights[2 * i + 1, order[examples // 2 :]] = 1
    weights.flags.writeable = False
    return weights


def sample_size(examples: int, share: float) -> int:
    """Return how many examples a share of a dev set is, to the nearest number."""
    return int(share * examples + 0.5)


@lru_cache(maxsize=2)
def sample_weights(examples: int, share: float, samples: int = SAMPLES, seed: int = 0) -> Floats:
    """Return random samples of a share of the examples, drawn without replacement, `[samples, examples]`.

    They depend on these numbers alone, so that all runs, seeds and studies on one dev set have the same. A larger
    share's samples hold a smaller one's.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((samples, examples))
    for row in weights:
        row[rng.permutation(examples)[: sample_size(examples, share)]] = 1
    weights.flags.writeable = False
    return weights


def weighted_scores(metrics: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any], weights: Floats) -> Floats:
    """Return the score (the scored metrics' mean in percent) for each row of `weights` `[resamples, examples]`.

    Equal to `tasks.metrics.evaluate` on examples repeated as their weights say; `outputs` are `[examples, outputs]`.
    """
    return np.mean([*resampled(scored(metrics), targets, outputs, weights).values()], axis=0)
