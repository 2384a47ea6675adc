"""What halving and racing have in common: looks at ever longer trainings, after each of which some levels stay."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from supertickets.evidence.resampling import Floats
from supertickets.evidence.search.known import Answer, Ask, Known, Method, first_levels, named, of_all


@dataclass(frozen=True)
class Looks(Method):
    """Train the levels that are left to each look in turn (see `looks`), and leave some of them behind.

    `first` is the share of a training's epochs at the first look, which has as many levels as the budget pays for.
    Where it does not pay for all levels that are left, the next look is at as many of the best as it pays for. A
    level's score is averaged with its neighbours', which count `neighbours` each: curves over levels are smooth, single
    runs are not. A level of which a training diverged is left behind.
    """

    first: float = 0.25
    neighbours: float = 0.5

    @abstractmethod
    def stay(self, known: Known, ranked: list[int], look: tuple[int, int]) -> list[int]:
        """Return which of the levels, best first, are trained on after a look."""

    def asks(self, known: Known) -> list[Ask]:
        """Return what the next look needs of the levels that are left, or of the best of them."""
        left, _, place = self._standing(known)
        schedule = looks(known.seeds, known.epochs, self.first)
        if place == len(schedule):
            return []
        # The first look is at all its levels, later ones at two at least.
        for count in range(len(left), 1 if place else len(left) - 1, -1):
            asks = known.missing(of_all(left[:count], schedule[place]))
            if count > 1 and known.pays_for(asks, left[:count]):
                return asks
        return []

    def answer(self, known: Known) -> Answer:
        """Return the best of the levels that are left; the others, and those the budget left behind, are rivals.

        Before the first look all levels are alike, and the lightest is named.
        """
        left, unpaid, place = self._standing(known)
        if not place:
            left = known.open
        best = named(known, [*left, *unpaid])
        return Answer(best, tuple(level for level in (*left, *unpaid) if level != best))

    def possible(self, known: Known) -> list[list[Ask]]:
        """Return what each turn may ask for; a turn is a look."""
        every = [*range(len(known.levels))]
        return [of_all(every, look) for look in looks(known.seeds, known.epochs, self.first)]

    def _standing(self, known: Known) -> tuple[list[int], list[int], int]:
        """Return the levels that are left, best first, those that the budget left behind, and the number of looks."""
        schedule = looks(known.seeds, known.epochs, self.first)
        left, unpaid = first_levels(known, schedule[0][1]), list[int]()
        if not left:
            return [], [], 0
        for place, look in enumerate(schedule):
            reached = known.reached(left, look)
            if len(reached) < (2 if place else len(left)):
                return left, unpaid, place
            unpaid += [level for level in left if level not in reached]
            scores = known.scores(*look)
            order = smoothed(scores, self.neighbours)
            there = {level for level in reached if np.isfinite(scores[level])}
            # Ties go to the lighter level, as in the grid.
            ranked = [int(level) for level in np.argsort(-order, kind="stable") if level in there]
            left = self.stay(known, ranked, look)
        return left, unpaid, len(schedule)


def looks(seeds: int, epochs: int, first: float) -> list[tuple[int, int]]:
    """Return how far trainings have gone at each look, as (seeds, epoch): epochs double, then seeds do.

    >>> looks(seeds=3, epochs=4, first=0.25)
    [(1, 1), (1, 2), (1, 4), (2, 4), (3, 4)]
    """
    epoch, found = max(1, round(first * epochs)), list[tuple[int, int]]()
    while epoch < epochs:
        found.append((1, epoch))
        epoch *= 2
    seed = 1
    while seed < seeds:
        found.append((seed, epochs))
        seed *= 2
    return [*found, (seeds, epochs)]


def smoothed(scores: Floats, weight: float) -> Floats:
    """Return scores by level, each averaged with its two neighbours, which count `weight` each; NaN stays so.

    They are rounded to nine decimals, so that those which are equal are.

    >>> smoothed(np.array([1.0, 4.0, np.nan, 2.0]), 0.5).round(2).tolist()
    [2.0, 3.0, nan, 2.0]
    """
    there = np.isfinite(scores)
    padded, counts = np.pad(np.where(there, scores, 0.0), 1), np.pad(there.astype(float), 1)
    total = padded[1:-1] + weight * (padded[:-2] + padded[2:])
    count = counts[1:-1] + weight * (counts[:-2] + counts[2:])
    return np.where(there, total / np.maximum(count, 1e-12), np.nan).round(9)
