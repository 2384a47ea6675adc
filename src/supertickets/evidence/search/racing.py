"""A race of levels: one is dropped once it is worse than the best at a stated error, by the same dev examples.

After Maron and Moore (Hoeffding races, NIPS 1993) and Birattari et al. (F-race, GECCO 2002), with the two-way test of
`evidence.statistics` in the place of Hoeffding's bound, since examples are shared, and Bonferroni's correction.
"""

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
    scored,
    smoothed,
)
from supertickets.evidence.statistics import crossed_variance


@dataclass(frozen=True)
class Racing(Method):
    """Train the levels that are in the race a little longer, or in one more seed, and drop those that are worse.

    `error` is the chance, over all looks and levels, to drop one that is no worse than the best at that look; what a
    look at fewer epochs says of the last one is not in it. Where the budget does not pay for all levels in the race,
    it goes on with as many of the best as it pays for. `first` and `neighbours` are as in `Halving`.
    """

    error: float = 0.2
    first: float = 0.25
    neighbours: float = 0.5

    def asks(self, known: Known) -> list[Ask]:
        """Return what the next look needs of the levels in the race."""
        race, _, place = self._standing(known)
        schedule = looks(known.seeds, known.epochs, self.first)
        if place == len(schedule) or len(race) < 2:
            return []
        for count in range(len(race), 1, -1):
            asks = known.missing(of_all(race[:count], schedule[place]))
            if known.pays_for(asks, race[:count]):
                return asks
        return []

    def answer(self, known: Known) -> Answer:
        """Return the best level in the race; the others that no test has dropped are its rivals."""
        race, untested, place = self._standing(known)
        if not place:
            return Answer(0, tuple(range(1, len(known.levels))))
        return Answer(race[0], (*race[1:], *untested))

    def possible(self, known: Known) -> list[list[Ask]]:
        """Return what each turn may ask for."""
        return possible_looks(known, self.first)

    def _standing(self, known: Known) -> tuple[list[int], list[int], int]:
        """Return the levels in the race, best first, those that the budget left behind, and the number of looks."""
        schedule = looks(known.seeds, known.epochs, self.first)
        race, untested = first_levels(known, schedule[0][1]), list[int]()
        for place, (seeds, epoch) in enumerate(schedule if race else ()):
            scores = known.scores(seeds, epoch)
            on = [level for level in race if np.isfinite(scores[level])]
            if len(on) < (2 if place else len(race)):
                return race, untested, place
            untested += [level for level in race if level not in on]
            order = smoothed(scores, self.neighbours)
            race = sorted(on, key=lambda level, of=order: (-of[level], level))  # type: ignore[misc]
            limit = self.error / (len(schedule) * max(1, len(known.levels) - 1))
            best = race[0]
            race = [best, *(level for level in race[1:] if _worse(known, level, best, seeds, epoch) > limit)]
        return race, untested, len(schedule) if race else 0


def _worse(known: Known, level: int, best: int, seeds: int, epoch: int) -> float:
    """Return the p of "a level is worse than the best one", for new seeds and new examples.

    With one seed, what trainings vary by is taken from the dense runs.
    """
    from scipy.special import stdtr

    pairs = [
        _at_its_epoch(known, level, seed, epoch) - _at_its_epoch(known, best, seed, epoch) for seed in range(seeds)
    ]
    differences = np.stack(pairs).astype(np.float64)
    if np.ptp(differences) <= 1e-9:
        return 1.0
    found = crossed_variance(differences)
    variance, free = found.error(*differences.shape) ** 2, found.free
    if seeds == 1 and known.seeds > 1:
        of_runs = 2 * float(scored(known.dense_means, known.keep_last).var(ddof=1))
        variance, free = variance + of_runs, min(free, 2.0 * (known.seeds - 1))
    return float(stdtr(free, differences.mean() / np.sqrt(variance)))


def _at_its_epoch(known: Known, level: int, seed: int, epoch: int) -> np.ndarray:
    """Return the contributions of a ticket at its best epoch so far, `[examples]`."""
    place = epoch - 1 if known.keep_last else int(known.means[level, seed, :epoch].argmax())
    return np.asarray(known.winning[level, seed, place])
