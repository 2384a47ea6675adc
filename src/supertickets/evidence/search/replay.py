"""Replays of search methods on whole grids: what each costs, and what it loses against the level the grid chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from supertickets.evidence.resampling import Floats
from supertickets.evidence.search.baselines import AlwaysLevel, RandomLevel, WholeGrid
from supertickets.evidence.search.course import METHODS
from supertickets.evidence.search.curve import Curve
from supertickets.evidence.search.grid import Grid
from supertickets.evidence.search.halving import Halving
from supertickets.evidence.search.known import Answer, Ask, Known, Method
from supertickets.evidence.search.racing import Racing


def _variants(kind: Callable[..., Method], **values: Sequence[float]) -> tuple[Method, ...]:
    return tuple(kind(**dict(zip(values, chosen, strict=True))) for chosen in product(*values.values()))


FAMILIES: Mapping[str, tuple[Method, ...]] = {
    "the whole grid": (WholeGrid(),),
    "always 0.1": (AlwaysLevel(0.1),),
    "random level": (RandomLevel(),),
    **{name: (method,) for name, method in METHODS.items()},
    "halving, tuned": _variants(Halving, eta=(2.0, 4.0), first=(0.25, 0.5), neighbours=(0.0, 0.5, 1.0)),
    "racing, tuned": _variants(Racing, error=(0.05, 0.5), first=(0.25, 0.5), neighbours=(0.0, 0.5)),
    "curve, tuned": _variants(Curve, bend=(1.0, 3.0), early=(1.0, 3.0), first=(0.25, 0.5), step=(1, 2)),
}
"""Methods by name, each with the variants it is tuned among; three are as `find --search` takes them."""


@dataclass(frozen=True)
class Played:
    """What came of a search: what it knows at its end, what it asked for in turn, and the level that it names."""

    known: Known
    asks: tuple[tuple[Ask, ...], ...]
    answer: Answer

    @property
    def cost(self) -> float:
        """The share of the whole grid's cost that the search took."""
        return self.known.spent

    @property
    def whole_cost(self) -> float:
        """The same with all trainings of the level that it names."""
        known, level = self.known, self.answer.level
        left = float((known.epochs - known.done[level]).sum() * known.prices[level])
        return known.spent + left / known.whole


def replay(method: Method, grid: Grid, budget: float = 0.25) -> Played:
    """Return what a method does on a grid; it sees only what it asked for.

    Raises ValueError if it spends more than the budget, or asks for something that it knows.
    """
    known = Known.nothing(grid.levels, grid.dense, grid.prices, budget, grid.keep_last)
    turns = list[tuple[Ask, ...]]()
    while asks := method.asks(known):
        if len(known.missing(asks)) < len(asks):
            raise ValueError(f"{method} asks for what it knows")
        known = known.with_done({ask: grid.winning[ask.level, ask.seed, : ask.epoch] for ask in asks})
        turns.append(tuple(asks))
    played = Played(known, tuple(turns), method.answer(known))
    if method.budgeted and played.cost and played.whole_cost > budget * (1 + 1e-9):
        raise ValueError(f"{method} spends {played.whole_cost:.3f} of the grid's cost, more than {budget:g}")
    return played


@dataclass(frozen=True)
class Tried:
    """A method on one grid: costs, its regret on the grid itself and on `resamples` of it, in points.

    A regret is what the level that the grid chooses scores more than the one that the method names, both as the whole
    grid has them. `halves` are regrets where grid and method choose on one half of the dev examples and are judged on
    the other: without the luck of the grid's own choice, so they may be negative.
    """

    cost: float
    whole_cost: float
    regret: float
    same: bool
    resamples: Floats
    halves: Floats


@dataclass(frozen=True)
class Trials:
    """The same resamples and halves of some grids for all methods, and what came of those that were tried."""

    grids: Sequence[Grid]
    budget: float = 0.25
    resamples: int = 50
    seed: int = 0
    _grids: dict[int, tuple[list[Grid], list[tuple[Grid, Floats]]]] = field(default_factory=dict, repr=False)
    _tried: dict[tuple[Method, int], Tried] = field(default_factory=dict, repr=False)

    def tried(self, method: Method, place: int) -> Tried:
        """Return what came of a method on the grid at a place."""
        if (method, place) not in self._tried:
            self._tried[method, place] = self._try(method, place)
        return self._tried[method, place]

    def _try(self, method: Method, place: int) -> Tried:
        grid = self.grids[place]
        scores, best = grid.scores, grid.best
        resampled, halved = self._drawn(place)
        played = replay(method, grid, self.budget)
        drawn = [replay(method, one, self.budget).answer.level for one in resampled]
        halves = [
            float(truth[half.best] - truth[replay(method, half, self.budget).answer.level]) for half, truth in halved
        ]
        return Tried(
            cost=played.cost,
            whole_cost=played.whole_cost,
            regret=float(scores[best] - scores[played.answer.level]),
            same=played.answer.level == best,
            resamples=scores[best] - scores[drawn],
            halves=np.array(halves),
        )

    def _drawn(self, place: int) -> tuple[list[Grid], list[tuple[Grid, Floats]]]:
        """Return a grid's resamples, and its halves with the levels' scores on the other half; the same every time."""
        if place not in self._grids:
            grid, rng = self.grids[place], np.random.default_rng([self.seed, place])
            resampled, halved = [grid.resampled(rng) for _ in range(self.resamples)], list[tuple[Grid, Floats]]()
            examples = grid.dense.shape[-1]
            for _ in range(max(1, self.resamples // 10)):
                order = rng.permutation(examples)
                one, other = (grid.of_examples(part) for part in (order[: examples // 2], order[examples // 2 :]))
                halved += [(one, other.scores), (other, one.scores)]
            self._grids[place] = resampled, halved
        return self._grids[place]

    def tuned(self, variants: Sequence[Method], places: Sequence[int]) -> Method:
        """Return the variant with the least mean regret over resamples of some grids; ties go to the cheaper one."""
        if len(variants) == 1:
            return variants[0]

        def loss(method: Method) -> tuple[float, float]:
            found = [self.tried(method, place) for place in places]
            regret = float(np.mean([one.resamples.mean() for one in found]))
            return round(regret, 9), float(np.mean([one.cost for one in found]))

        return min(variants, key=loss)

    def judged(self, variants: Sequence[Method]) -> dict[int, Method]:
        """Return for each grid the variant that is the best on the grids of other groups; with none, the first one."""
        chosen = {}
        for place, grid in enumerate(self.grids):
            others = [i for i, other in enumerate(self.grids) if other.group != grid.group]
            chosen[place] = self.tuned(variants, others) if others else variants[0]
        return chosen


def compare(trials: Trials, families: Mapping[str, Sequence[Method]] = FAMILIES) -> pd.DataFrame:
    """Return a row a method, each tuned on other grids than it is judged on.

    `cost` is the search's share of what the grid's winning tickets cost beyond the dense runs, `with level` the same
    with all trainings of the level it names. `regret` (mean) and `worst` are on the grids themselves, `same` how often
    the level is the grid's. `resampled` is the mean regret where seeds and examples are drawn anew, from `low` to
    `high` in 95 % of resamples (each of all grids): that of the whole grid is the noise of its own choice. `halves` is
    the mean regret where levels are chosen on one half of the examples and judged on the other.
    """
    rows = []
    for name, variants in families.items():
        found = [trials.tried(method, place) for place, method in trials.judged(variants).items()]
        by_resample = np.mean([one.resamples for one in found], axis=0)
        low, high = np.quantile(by_resample, [0.025, 0.975])
        rows.append(
            {
                "method": name,
                "cost": np.mean([one.cost for one in found]),
                "with level": np.mean([one.whole_cost for one in found]),
                "regret": np.mean([one.regret for one in found]),
                "worst": max(one.regret for one in found),
                "same": np.mean([one.same for one in found]),
                "resampled": by_resample.mean(),
                "low": low,
                "high": high,
                "halves": np.mean([one.halves.mean() for one in found]),
            }
        )
    return pd.DataFrame(rows)
