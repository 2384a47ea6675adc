"""When importance has been measured on enough examples: measured on all of them, it would give the same tickets.

A measure that is a mean over examples is known, after some of them, up to its sampling error. That error moves a
structure only if its neighbours in the ranking are near, so what is looked at is the tickets: at every tenth of each
kind of structures (the papers' levels), winning and losing ones.

The Bayesian bootstrap (Rubin, The Annals of Statistics, 1981) gives means as other samples would have given them: with
random exponential weights of the examples. It takes one pass, and allows for the normalisation by layer and for what
every layer keeps, which a standard error of each structure's mean would not. Examples are drawn without replacement, so
the error of the mean is smaller by sqrt(1 - share of the examples that are done), and zero once all are (Cochran,
Sampling Techniques, 1977, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from supertickets.tickets.drawing import Kind, normalise, order_of_pruning
from supertickets.tickets.importance.measured import Measured, Scores
from supertickets.tickets.kinds import Structure

ERROR = 0.05
"""The share of structures that may change sides, as expected, at each tenth: of those that go, or stay, if fewer do."""
RESAMPLES = 100
KINDS_RANKED: tuple[Kind, ...] = ("winning", "losing")
LEAST = 64
"""Fewer examples than this say too little about their own error."""


class SettledCheck:
    """Follows the mean over examples of a measure, and tells where it may stop."""

    def __init__(self, measured: Measured) -> None:
        self._measured, self._rng, self._examples = measured, np.random.default_rng([measured.seed, 17]), 0
        self._weights = np.zeros(RESAMPLES)
        self._totals: Scores = {kind: np.zeros(kept.shape) for kind, kept in measured.kept.items()}
        self._resampled: Scores = {kind: np.zeros((RESAMPLES, kept.size)) for kind, kept in measured.kept.items()}

    def settled(self, values: Scores) -> bool:
        """Add the values of a batch `[batch, ...]`; return whether no more are needed.

        That may be after each of the measured parts, but for the last: after it, there are no more.
        """
        batch = len(values["ffns"])
        weights = self._rng.exponential(size=(RESAMPLES, batch))
        self._weights += weights.sum(axis=1)
        self._examples += batch
        for kind, of_kind in values.items():
            self._totals[kind] = self._totals[kind] + of_kind.sum(axis=0)
            self._resampled[kind] += weights @ of_kind.reshape(batch, -1)
        at_a_part = self._examples in self._measured.parts[:-1] and self._examples >= LEAST
        return at_a_part and displaced(*self._means(), self._measured.kept) <= ERROR

    def _means(self) -> tuple[Scores, list[Scores]]:
        """Return the mean until now, and as it may be once all examples are done."""
        mean = {kind: total / self._examples for kind, total in self._totals.items()}
        error = math.sqrt(1 - self._examples / self._measured.parts[-1])
        resampled = [
            {kind: of + error * (self._resampled[kind][i].reshape(of.shape) / weight - of) for kind, of in mean.items()}
            for i, weight in enumerate(self._weights)
        ]
        return mean, resampled


def displaced(scores: Scores, others: list[Scores], kept: Mapping[Structure, NDArray[np.bool_]]) -> float:
    """Return which share of structures goes in tickets of `scores` but stays in those of others, on average over them.

    It is the largest of all tenths, of winning and losing tickets, and of each kind: a share of the structures of that
    kind that go, or that stay, if those are fewer. Scores are as measured; `kept` is what the model has.

    >>> kept = {"heads": np.ones((1, 4), bool), "ffns": np.ones(2, bool)}
    >>> scores = {"heads": np.array([[1.0, 2.0, 3.0, 4.0]]), "ffns": np.array([1.0, 2.0])}
    >>> other = scores | {"ffns": np.array([2.0, 1.0])}
    >>> displaced(scores, [scores, scores], kept), displaced(scores, [scores, other], kept)
    (0.0, 0.5)
    """
    of, ranked = normalise(scores), [normalise(one) for one in others]
    worst = 0.0
    for what, there in kept.items():
        every, missing = int(there.sum()), int((~there).sum())
        for kind in KINDS_RANKED:
            order = order_of_pruning(of[what], what, kind, there)
            places = np.full((len(ranked), there.size), there.size)  # what always stays is behind all cuts
            for place, one in zip(places, ranked, strict=True):
                other = order_of_pruning(one[what], what, kind, there)
                place[other] = np.arange(len(other))
            for gone in sorted({round(every * tenth / 10) for tenth in range(1, 10)} - {0, every}):
                if (count := gone + missing) <= len(order):
                    moved = (places[:, order[:count]] >= count).sum(axis=1).mean()
                    worst = max(worst, float(moved) / min(gone, every - gone))
    return worst
