"""A race of levels: one is dropped once it is worse than the best at a stated error, by the same dev examples.

After Maron and Moore (Hoeffding races, NIPS 1993) and Birattari et al. (F-race, GECCO 2002), with the two-way test of
`evidence.statistics` in the place of Hoeffding's bound, since examples are shared, and Bonferroni's correction.
"""

from dataclasses import dataclass

import numpy as np

from supertickets.evidence.search.known import Known, scored
from supertickets.evidence.search.looks import Looks, looks
from supertickets.evidence.statistics import crossed_variance


@dataclass(frozen=True)
class Racing(Looks):
    """Train the levels that are in the race a little longer, or in one more seed, and drop those that are worse.

    `error` is the chance, over all looks and levels, to drop one that is no worse than the best at that look; what a
    look at fewer epochs says of the last one is not in it.
    """

    error: float = 0.2

    def stay(self, known: Known, ranked: list[int], look: tuple[int, int]) -> list[int]:
        """Return the best of the levels, and those that are not worse by a test."""
        limit = self.error / (len(looks(known.seeds, known.epochs, self.first)) * max(1, len(known.levels) - 1))
        best, others = ranked[:1], ranked[1:]
        return [*best, *(level for level in others if _worse(known, level, best[0], *look) > limit)]


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
