"""What a search knows, what it may ask for, and what a method is. No torch: methods are functions of known outcomes.

A method keeps nothing to itself: what it asks for next, and which level it names, follow from what is known. So a
search that is stopped goes on where it was, and may be asked for its best level at any time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.resampling import Floats


@dataclass(frozen=True)
class Ask:
    """A winning ticket to train to the end of an epoch; `level` and `seed` are places, epochs count from 1."""

    level: int
    seed: int
    epoch: int


@dataclass(frozen=True)
class Answer:
    """The place of the best level so far, and of those that are not told apart from it."""

    level: int
    rivals: tuple[int, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known of a grid of winning tickets by levels and seeds, each trained to some epoch.

    `dense` has what each dev example contributes to the score of each seed's dense run, `[seeds, epochs, examples]`
    in percent; `winning` those of tickets, `[levels, seeds, epochs, examples]`, of which the first `done`
    `[levels, seeds]` epochs are known and the others are NaN; so are those that a diverged training did not reach.
    `dense_means` and `means` are the scores, which are their means over examples. `prices` `[levels]` are what an epoch
    costs, in any unit. `budget` is the share of the whole grid's cost that may be spent, with the trainings of the
    level that is named in all seeds to their end. A training is scored at its best epoch, or at its last (`keep_last`).
    """

    levels: tuple[float, ...]
    dense: NDArray[np.float32]
    dense_means: Floats
    winning: NDArray[np.float32]
    means: Floats
    done: NDArray[np.int64]
    prices: Floats
    budget: float = 0.25
    keep_last: bool = False

    @classmethod
    def nothing(
        cls,
        levels: Sequence[float],
        dense: NDArray[np.float32],
        prices: Floats,
        budget: float = 0.25,
        keep_last: bool = False,
    ) -> Known:
        """Return what is known once the dense runs have ended."""
        shape = (len(levels), *dense.shape)
        return cls(
            levels=tuple(levels),
            dense=dense,
            dense_means=_means(dense),
            winning=np.full(shape, np.nan, np.float32),
            means=np.full(shape[:-1], np.nan),
            done=np.zeros(shape[:2], np.int64),
            prices=prices,
            budget=budget,
            keep_last=keep_last,
        )

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.dense)

    @property
    def epochs(self) -> int:
        """How many epochs a whole training has."""
        return self.dense.shape[1]

    @property
    def lost(self) -> NDArray[np.bool_]:
        """The trainings that diverged, `[levels, seeds]`."""
        last = np.take_along_axis(self.means, np.maximum(self.done - 1, 0)[..., None], axis=-1)[..., 0]
        return np.asarray((self.done > 0) & np.isnan(last))

    @property
    def open(self) -> list[int]:
        """The levels of which no training diverged: the others are not looked at any more, nor named."""
        return [int(level) for level in np.flatnonzero(~self.lost.any(axis=1))]

    def reached(self, levels: Sequence[int], look: tuple[int, int]) -> list[int]:
        """Return those of some levels that were trained to a look (see `looks`)."""
        seeds, epoch = look
        return [level for level in levels if (self.done[level, :seeds] >= epoch).all()]

    def scores(self, seeds: int, epoch: int) -> Floats:
        """Return each level's mean score over the first `seeds`, each trained to an epoch.

        NaN where one is not, or diverged.
        """
        found = scored(self.means[:, :seeds, :epoch], self.keep_last)
        return np.asarray(np.where((self.done[:, :seeds] >= epoch).all(axis=1), found.mean(axis=1), np.nan))

    def with_done(self, outcomes: Mapping[Ask, NDArray[np.float32]]) -> Known:
        """Return what is known with tickets trained to some epoch; their contributions are `[epoch, examples]`.

        They are NaN in the epochs that a diverged training did not reach.
        """
        winning, means, done = self.winning.copy(), self.means.copy(), self.done.copy()
        for ask, contributions in outcomes.items():
            for values, came in ((winning, contributions), (means, _means(contributions))):
                before = values[ask.level, ask.seed, : ask.epoch]
                values[ask.level, ask.seed, : ask.epoch] = np.where(np.isnan(came), before, came)
            done[ask.level, ask.seed] = max(ask.epoch, done[ask.level, ask.seed])
        return replace(self, winning=winning, means=means, done=done)

    def missing(self, asks: Sequence[Ask]) -> list[Ask]:
        """Return those of some asks whose outcomes are not known yet."""
        return [ask for ask in asks if self.done[ask.level, ask.seed] < ask.epoch]

    @property
    def whole(self) -> float:
        """What the whole grid costs."""
        return float(self.prices.sum() * self.seeds * self.epochs)

    @property
    def spent(self) -> float:
        """The share of the whole grid's cost that is spent."""
        return float((self.done * self.prices[:, None]).sum()) / self.whole

    def pays_for(self, asks: Sequence[Ask], candidates: Sequence[int]) -> bool:
        """Whether the budget pays for some asks, and then for all trainings of whichever candidate is named."""
        done = self.done.copy()
        for ask in asks:
            done[ask.level, ask.seed] = max(ask.epoch, done[ask.level, ask.seed])
        left = ((self.epochs - done) * self.prices[:, None]).sum(axis=1)
        total = float((done * self.prices[:, None]).sum()) + float(left[list(candidates)].max())
        return total <= self.budget * self.whole * (1 + 1e-9)


def first_levels(known: Known, epoch: int, step: int = 1) -> list[int]:
    """Return the levels of a first look: every `step`-th, or fewer where the budget does not pay for one seed of all.

    Nothing if it does not pay for two.
    """
    before = replace(known, done=np.zeros_like(known.done))  # later looks begin with the same ones
    for stride in range(step, len(known.levels)):
        levels = [*range(0, len(known.levels), stride)]
        if before.pays_for(of_all(levels, (1, epoch)), levels):
            return levels
    return []


def least_budget(known: Known, epoch: int) -> float:
    """Return the smallest budget with which a first look has two levels."""
    found = []
    for stride in range(1, len(known.levels)):
        levels = [*range(0, len(known.levels), stride)]
        first = epoch * known.prices[levels]
        rest = (known.seeds * known.epochs - epoch) * known.prices[levels]
        found.append(float(first.sum() + rest.max()) / known.whole)
    return min(found, default=np.inf)


def _means(contributions: NDArray[np.float32]) -> Floats:
    return np.asarray(contributions.mean(axis=-1, dtype=np.float64))


def scored(means: Floats, keep_last: bool) -> Floats:
    """Return the score of trainings by their scores at each epoch `[..., epochs]`."""
    return np.asarray(means[..., -1] if keep_last else means.max(axis=-1))


@dataclass(frozen=True)
class Method(ABC):
    """A way to search for the best level; its fields are what it can be tuned by."""

    budgeted: bool = field(default=True, init=False, repr=False)
    """Whether it keeps to the budget; what a search is compared with may not."""

    @abstractmethod
    def asks(self, known: Known) -> list[Ask]:
        """Return what to train next, side by side; nothing if the search has ended, or cannot be paid for."""

    @abstractmethod
    def answer(self, known: Known) -> Answer:
        """Return the best level by what is known, at any time."""

    def possible(self, known: Known) -> list[list[Ask]]:
        """Return what each turn may ask for, whatever comes of those before; known are levels, dense runs, prices."""
        return [self.asks(known)]


def of_all(levels: Sequence[int], look: tuple[int, int]) -> list[Ask]:
    """Return what has to be known of some levels at a look."""
    seeds, epoch = look
    return [Ask(level, seed, epoch) for level in levels for seed in range(seeds)]


def named(known: Known, best_first: Sequence[int]) -> int:
    """Return the first of some levels that the budget pays for, and of which no training diverged.

    Where there is none, it is the lightest such level, or the first one that is not paid for.
    """
    there = set(known.open)
    ranked = [level for level in dict.fromkeys([*best_first, *range(len(known.levels))]) if level in there]
    paid = [level for level in ranked if known.pays_for([], [level])]
    return next(iter(paid or ranked), 0)
