"""A model of the curve over levels: a Gaussian process with noise of runs, and what an early epoch says of the last.

After Swersky et al. (Freeze-thaw Bayesian optimization, 2014), with the two best levels compared in turn as in top-two
sampling (Russo, COLT 2016). With some tens of observations, numpy is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supertickets.evidence.resampling import Floats
from supertickets.evidence.search.known import Answer, Ask, Known, Method, first_levels, named, of_all, scored

_LENGTH = 0.2
"""How far apart levels are that say little of each other."""
_STEEP = 20.0
"""Points by which a level's square may lower (or raise) the score: curves fall at heavy levels."""
_GUESS = 0.5
"""The variance of a run from seed to seed, in points squared, where little is known of it."""


@dataclass(frozen=True)
class Curve(Method):
    """Model gains over the dense run of the same seed and epoch; train where the best level is least known.

    `bend` is by how many points the curve departs from a parabola; `early` how many points the curve at the first epoch
    differs in shape from the last; `first` the share of epochs that a training begins with; `step` the number of levels
    from one to the next in the first look. The search ends where no other level is the best with a chance of `sure`.
    """

    bend: float = 2.0
    early: float = 2.0
    first: float = 0.25
    step: int = 1
    sure: float = 0.05

    def asks(self, known: Known) -> list[Ask]:
        """Return the first look, then one training that goes on at a time.

        Two levels at least stay within the budget, whichever is trained.
        """
        begin = max(1, round(self.first * known.epochs))
        levels = first_levels(known, begin, self.step)
        if look := known.missing(of_all(levels, (1, begin))):
            return look
        mean, covariance = self._posterior(known)
        chances = _chances(mean, covariance, known.open)
        order = sorted(known.open, key=lambda level: (-chances[level], level))
        if len(levels) < 2 or len(order) < 2 or chances[order[1]] < self.sure:
            return []
        spread, two = np.sqrt(np.diag(covariance)), order[:2]
        for level in sorted(two, key=lambda level: -spread[level]):
            ask = self._next(known, level, begin)
            if ask is not None and known.pays_for([ask], two):
                return [ask]
        return []

    def answer(self, known: Known) -> Answer:
        """Return the level with the highest expected score that the budget pays for; those that may be best are rivals.

        Before anything is known all levels are alike, and the lightest is named.
        """
        mean, covariance = self._posterior(known)
        chances = _chances(mean, covariance, known.open)
        best = named(known, sorted(known.open, key=lambda level: (-mean[level], level)))
        rivals = [level for level in known.open if level != best and chances[level] >= self.sure]
        return Answer(best, tuple(sorted(rivals, key=lambda level: -chances[level])))

    def possible(self, known: Known) -> list[list[Ask]]:
        """Return what each turn may ask for: after the first look one training that goes on, while the budget lasts."""
        begin, every = max(1, round(self.first * known.epochs)), range(len(known.levels))
        goes_on = [begin]
        while goes_on[-1] < known.epochs:
            goes_on.append(min(known.epochs, 2 * goes_on[-1]))
        chain = [(seed, epoch) for seed in range(known.seeds) for epoch in goes_on]
        costs = np.diff([0, *goes_on]).tolist() * known.seeds
        cheapest = np.sort(np.outer(known.prices, costs).ravel())
        turns = int(np.searchsorted(cheapest.cumsum(), known.budget * known.whole * (1 + 1e-9), side="right"))
        later = [[Ask(level, *at) for level in every for at in chain[: turn + 1]] for turn in range(1, turns + 1)]
        return [of_all([*every], (1, begin)), *later]

    def _next(self, known: Known, level: int, begin: int) -> Ask | None:
        """Return how a level's trainings go on: one seed to its end, by doubling, then the next seed."""
        for seed in range(known.seeds):
            done = int(known.done[level, seed])
            if done < known.epochs:
                return Ask(level, seed, min(known.epochs, max(begin, 2 * done)))
        return None

    def _posterior(self, known: Known) -> tuple[Floats, Floats]:
        """Return mean and covariance of the levels' gains at the end of training, given what is known."""
        places = np.argwhere((known.done > 0) & ~known.lost)
        levels = np.asarray(known.levels)
        prior = self._over_levels(levels, levels)
        if not len(places):
            return -1e-6 * levels, prior  # nothing is known: the lightest
        epochs = known.done[tuple(places.T)]
        found = [self._gain(known, level, seed, epoch) for (level, seed), epoch in zip(places, epochs, strict=True)]
        at, left = levels[places[:, 0]], 1.0 - epochs / known.epochs
        both = np.minimum(left[:, None], left[None, :])
        close = np.exp(-0.5 * ((at[:, None] - at[None, :]) / (2 * _LENGTH)) ** 2)
        # What an unfinished training hides: as much for all levels (wide), and less or more by level.
        hidden = both * (5.0**2 + self.early**2 * close)
        noise = self._noise(known)
        of_seeds = noise * (places[:, None, 1] == places[None, :, 1])  # all gains of a seed are over one dense run
        of_found = self._over_levels(at, at) + hidden + of_seeds + np.diag(noise * (1.0 + left))
        weights = np.linalg.solve(of_found, self._over_levels(at, levels)).T
        return weights @ np.asarray(found), prior - weights @ self._over_levels(at, levels)

    def _over_levels(self, one: Floats, other: Floats) -> Floats:
        distance = (one[:, None] - other[None, :]) / _LENGTH
        parabola = 5.0**2 + (_STEEP * one[:, None] * other[None, :]) ** 2 + 10.0**2 * one[:, None] * other[None, :]
        return np.asarray(self.bend**2 * np.exp(-0.5 * distance**2) + parabola)

    @staticmethod
    def _gain(known: Known, level: int, seed: int, epoch: int) -> float:
        own = scored(known.means[level, seed, :epoch], known.keep_last)
        return float(own - scored(known.dense_means[seed, :epoch], known.keep_last))

    @staticmethod
    def _noise(known: Known) -> float:
        """Return the variance of a run: as dense runs vary, with a guess that counts as two of them."""
        scores = scored(known.dense_means, known.keep_last)
        squares, free = float(((scores - scores.mean()) ** 2).sum()), len(scores) - 1
        return (squares + 2 * _GUESS) / (free + 2)


def _chances(mean: Floats, covariance: Floats, among: Sequence[int]) -> Floats:
    """Return the chance of each level to be the best among some, from the same draws each time."""
    values, vectors = np.linalg.eigh(covariance)
    normal = np.random.default_rng(0).normal(size=(512, len(mean)))
    draws = mean + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    outside = np.isin(range(len(mean)), among, invert=True)
    return np.bincount(np.where(outside, -np.inf, draws).argmax(axis=1), minlength=len(mean)) / len(draws)
