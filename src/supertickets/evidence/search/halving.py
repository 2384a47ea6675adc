"""Successive halving over levels (Jamieson and Talwalkar, AISTATS 2016): the better ones are trained on."""

from dataclasses import dataclass

import numpy as np

from supertickets.evidence.search.known import (
    Answer,
    Ask,
    Known,
    Method,
    first_levels,
    looks,
    of_all,
    possible_looks,
    smoothed,
)


@dataclass(frozen=True)
class Halving(Method):
    """Train all levels a little, then the best 1 / `eta` of them longer, and so on: to more epochs, then in more seeds.

    `first` is the share of a training's epochs at the first look, which has as many levels as the budget pays for. A
    level's score is averaged with its neighbours', which count `neighbours` each: curves over levels are smooth, single
    runs are not.
    """

    eta: float = 2.0
    first: float = 0.25
    neighbours: float = 0.5

    def asks(self, known: Known) -> list[Ask]:
        """Return what the next look needs of the levels that are left."""
        left, place = self._standing(known)
        schedule = looks(known.seeds, known.epochs, self.first)
        if place == len(schedule) or len(left) < 2:
            return []
        asks = known.missing(of_all(left, schedule[place]))
        return asks if known.pays_for(asks, left) else []

    def answer(self, known: Known) -> Answer:
        """Return the best level at the last look that all levels then left were trained to; the others left are rivals.

        Before the first look it is the lightest level.
        """
        left, place = self._standing(known)
        return Answer(left[0], tuple(left[1:])) if place else Answer(0, tuple(range(1, len(known.levels))))

    def possible(self, known: Known) -> list[list[Ask]]:
        """Return what each turn may ask for."""
        return possible_looks(known, self.first)

    def _standing(self, known: Known) -> tuple[list[int], int]:
        """Return the levels that are left, best first, and how many looks there were."""
        schedule = looks(known.seeds, known.epochs, self.first)
        left = first_levels(known, schedule[0][1])
        if not left:
            return left, 0
        for place, look in enumerate(schedule):
            scores = known.scores(*look)
            if np.isnan(scores[left]).any():
                return left, place
            order = smoothed(scores, self.neighbours)
            # Ties go to the lighter level, as in the grid.
            left = sorted(left, key=lambda level, of=order: (-of[level], level))  # type: ignore[misc]
            left = left[: max(1, int(np.ceil(len(left) / self.eta - 1e-9)))]
        return left, len(schedule)
