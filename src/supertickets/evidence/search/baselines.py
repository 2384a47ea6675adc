"""What a search is compared with: the whole grid, a random level, always the same one."""

from dataclasses import dataclass, field

import numpy as np

from supertickets.evidence.search.known import Answer, Ask, Known, Method


@dataclass(frozen=True)
class WholeGrid(Method):
    """Train everything, as `find` does; the best level is that with the highest mean score over seeds."""

    budgeted: bool = field(default=False, init=False, repr=False)

    def asks(self, known: Known) -> list[Ask]:
        """Return every training."""
        every = [Ask(level, seed, known.epochs) for level in range(len(known.levels)) for seed in range(known.seeds)]
        return known.missing(every)

    def answer(self, known: Known) -> Answer:
        """Return the level with the highest mean score of those that are known in all seeds."""
        scores = known.scores(known.seeds, known.epochs)
        return Answer(int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0)


@dataclass(frozen=True)
class RandomLevel(Method):
    """Name a random level, and train none to choose it."""

    seed: int = 0

    def asks(self, known: Known) -> list[Ask]:
        """Return nothing."""
        return []

    def answer(self, known: Known) -> Answer:
        """Return a level that depends on the seed, and on the dense runs, which differ from study to study."""
        rng = np.random.default_rng([self.seed, int(known.dense_means.sum() * 1e6) % 2**32])
        return Answer(int(rng.integers(len(known.levels))))


@dataclass(frozen=True)
class AlwaysLevel(Method):
    """Name the level next to a given one, and train none to choose it."""

    level: float = 0.1

    def asks(self, known: Known) -> list[Ask]:
        """Return nothing."""
        return []

    def answer(self, known: Known) -> Answer:
        """Return the nearest level."""
        return Answer(int(np.abs(np.subtract(known.levels, self.level)).argmin()))
