"""Grids that searches are replayed on: of recorded studies, resampled, and made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.evidence.recorded import RecordedGrid, RecordedRun
from supertickets.evidence.resampling import Floats
from supertickets.evidence.runs import DENSE
from supertickets.evidence.search.known import scored


@dataclass(frozen=True)
class Grid:
    """All winning tickets of a study: `winning` `[levels, seeds, epochs, examples]`, `dense` `[seeds, epochs,
    examples]`.

    They are what examples contribute to scores, in percent, and a score is their mean: exactly, of accuracy; of other
    metrics up to the bias that the jackknife removes. `prices` `[levels]` are the FLOPs of an epoch; a training that
    was stopped early is taken to stay as it was, and to cost as much. Grids of one `group` are of one task.
    """

    name: str
    group: str
    levels: tuple[float, ...]
    winning: NDArray[np.float32]
    dense: NDArray[np.float32]
    prices: Floats
    keep_last: bool = False
    left_out: tuple[int, ...] = ()

    @property
    def scores(self) -> Floats:
        """Each level's mean score over seeds, `[levels]`."""
        means = self.winning.mean(axis=-1, dtype=np.float64)
        return np.asarray(scored(means, self.keep_last).mean(axis=1))

    @property
    def best(self) -> int:
        """The place of the level that the whole grid chooses; ties go to the lighter one."""
        return int(self.scores.argmax())

    def of_examples(self, examples: NDArray[np.int64]) -> Grid:
        """Return the grid on some of its dev examples, which may come several times."""
        return replace(self, winning=self.winning[..., examples], dense=self.dense[..., examples])

    def of_seeds(self, seeds: NDArray[np.int64]) -> Grid:
        """Return the grid of some of its seeds, which may come several times."""
        return replace(self, winning=self.winning[:, seeds], dense=self.dense[seeds])

    def resampled(self, rng: np.random.Generator, seeds: bool = True, examples: bool = True) -> Grid:
        """Return the grid with seeds and examples drawn with replacement, in a random order."""
        count, there = self.dense.shape[0], self.dense.shape[-1]
        drawn = self.of_seeds(rng.integers(count, size=(count,)) if seeds else rng.permutation(count))
        return drawn.of_examples(rng.integers(there, size=(there,))) if examples else drawn


def grid_of(recorded: RecordedGrid, name: str) -> Grid:
    """Return the winning tickets of a recorded grid; seeds in which some did not finish are left out.

    Raises TicketError if that leaves none, or fewer than two levels.
    """
    found = dict[tuple[float, int], RecordedRun]()
    for run in recorded.where(kind="winning"):
        found[run.level, run.seed] = run
    dense = {run.seed: run for run in recorded.where(kind=DENSE)}
    seeds = [seed for seed in recorded.seeds if all((level, seed) in found for level in recorded.levels)]
    if not seeds or len(recorded.levels) < 2:
        raise TicketError(
            f"{name}: expected two levels or more, and a seed in which all winning tickets have finished."
        )
    epochs = int(recorded.about["recipe"]["epochs"])
    winning = np.stack([[_padded(recorded, found[level, s], epochs) for s in seeds] for level in recorded.levels])
    flops = [[found[level, s].flops / len(found[level, s].scores) for s in seeds] for level in recorded.levels]
    return Grid(
        name=name,
        group=str(recorded.about["task"]),
        levels=recorded.levels,
        winning=winning,
        dense=np.stack([_padded(recorded, dense[seed], epochs) for seed in seeds]),
        prices=np.mean(flops, axis=1),
        keep_last=recorded.about["recipe"]["keep_epoch"] == "last",
        left_out=tuple(seed for seed in recorded.seeds if seed not in seeds),
    )


def _padded(recorded: RecordedGrid, run: RecordedRun, epochs: int) -> NDArray[np.float32]:
    values = recorded.contributions(run).astype(np.float32)
    return np.concatenate([values, np.repeat(values[-1:], epochs - len(values), axis=0)])


@dataclass(frozen=True)
class MadeUp:
    """Studies that are made up: which of them an example gets right has parts of levels, seeds, epochs and examples.

    An example is right where ability, its own ease, and what ticket, run and epoch do to it together are above 0.
    Curves over levels rise by `rise` points about `best`, and fall beyond `knee`; trainings approach their end at a
    `pace` per epoch, heavier tickets later. `noise` is the standard deviation of a run, in points.
    """

    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    seeds: int = 3
    epochs: int = 4
    examples: int = 400
    rise: float = 1.0
    best: float = 0.25
    knee: float = 0.4
    fall: float = 60.0
    pace: float = 0.8
    noise: float = 0.7

    @classmethod
    def random(cls, rng: np.random.Generator, **fixed: int) -> MadeUp:
        """Return a study with phases, noise and pace of its own."""
        drawn = {
            "rise": rng.uniform(0, 2.5), "best": rng.uniform(0.05, 0.5), "knee": rng.uniform(0.2, 0.6),
            "fall": rng.uniform(20, 120), "pace": rng.uniform(0.5, 1.2), "noise": rng.uniform(0.3, 1.2),
        }  # fmt: skip
        return cls(**drawn, **fixed)  # type: ignore[arg-type]

    def curve(self) -> Floats:
        """Return what each level gains over the dense model, in points, about."""
        levels = np.asarray(self.levels)
        bump = self.rise * np.exp(-0.5 * ((levels - self.best) / 0.15) ** 2)
        return np.asarray(bump - self.fall * np.maximum(levels - self.knee, 0.0) ** 2)

    def grid(self, seed: int, name: str = "made up") -> Grid:
        """Return a study's grid."""
        rng = np.random.default_rng([seed, 23])
        of_levels = np.concatenate([[0.0], self.curve()])  # the dense model first
        count, slope = len(of_levels), 33.0  # about how many points a unit of ability is worth
        to_go = np.exp(-self.pace * np.arange(1, self.epochs + 1))
        slow = 1.0 + np.concatenate([[0.0], self.levels])
        shared = rng.normal(size=(1, self.seeds, 1)) * self.noise * 0.7
        runs = shared + rng.normal(size=(count, self.seeds, 1)) * self.noise * 0.7
        points = of_levels[:, None, None] + runs - 25.0 * slow[:, None, None] * to_go
        shape = (count, self.seeds, self.epochs, self.examples)
        ease = rng.normal(size=shape[-1])
        steps = rng.normal(size=(count, 1, 1, self.examples))
        of_tickets = np.cumsum(steps, axis=0) / np.sqrt(np.arange(1, count + 1))[:, None, None, None]
        by_run = rng.normal(size=(count, self.seeds, 1, self.examples)) + 0.5 * rng.normal(size=shape)
        right = points[..., None] / slope + 0.5 + ease + 0.25 * of_tickets + 0.35 * by_run > 0
        values = np.where(right, 100.0, 0.0).astype(np.float32)
        return Grid(name, name, tuple(self.levels), values[1:], values[0], 1.05 - 0.6 * np.asarray(self.levels))
