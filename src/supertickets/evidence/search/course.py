"""A search on its way: its turns, rebuilt from what came of them, and the half of the dev set that it sees.

The search sees one half of the dev set's examples; what it found is confirmed on the other, which had no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.examples import contributions
from supertickets.evidence.resampling import Floats, half_weights
from supertickets.evidence.runs import TaskInfo
from supertickets.evidence.search.curve import Curve
from supertickets.evidence.search.halving import Halving
from supertickets.evidence.search.known import Answer, Ask, Known, Method
from supertickets.evidence.search.racing import Racing
from supertickets.lab.outcome import Outcome
from supertickets.lab.partial import Partial

METHODS: Mapping[str, Halving | Racing | Curve] = {"halving": Halving(), "racing": Racing(), "curve": Curve()}
"""What `find --search` takes."""
Came = Callable[[int, Ask], NDArray[np.float32] | None]
"""Gives the contributions `[epochs, examples]` that came of what a turn asked for, None while they are not there."""


@dataclass(frozen=True)
class Turn:
    """A turn that has ended: what it asked for, the share of the grid's cost spent by then, the best level by then."""

    asks: tuple[Ask, ...]
    spent: float
    answer: Answer


@dataclass(frozen=True)
class Course:
    """A search as far as it is known: its turns, what it asks for next (nothing: it has ended), and its answer."""

    method: Method
    known: Known
    turns: tuple[Turn, ...]
    asks: tuple[Ask, ...]

    @property
    def answer(self) -> Answer:
        """The best level so far, and its rivals."""
        return self.method.answer(self.known)

    @property
    def spent(self) -> float:
        """The share of the whole grid's cost that the search took."""
        return self.known.spent

    @property
    def with_level(self) -> float:
        """The same with all trainings of the level that it names."""
        known, level = self.known, self.answer.level
        return known.spent + float((known.epochs - known.done[level]).sum() * known.prices[level]) / known.whole

    @property
    def unpaid(self) -> bool:
        """Whether a search that has ended would go on with a larger budget."""
        return not self.asks and bool(self.method.asks(replace(self.known, budget=np.inf)))

    def after(self, came: Came) -> Course:
        """Return the course with the turns whose outcomes are there."""
        known, turns = self.known, list(self.turns)
        possible = self.method.possible(known)
        while asks := self._next(known, possible[len(turns) :]):
            found = {ask: values for ask in asks if (values := came(len(turns), ask)) is not None}
            if len(found) < len(asks):
                break
            known = known.with_done(found)
            turns.append(Turn(asks, known.spent, self.method.answer(known)))
        return Course(self.method, known, tuple(turns), asks)

    def _next(self, known: Known, possible: Sequence[Sequence[Ask]]) -> tuple[Ask, ...]:
        """Return what the next turn asks for; a search ends where that is nothing that it could have been planned."""
        asks = tuple(self.method.asks(known))
        return asks if possible and set(asks) <= set(possible[0]) else ()


def begun(method: Method, known: Known) -> Course:
    """Return a search that has yet to begin."""
    return Course(method, known, (), ()).after(lambda turn, ask: None)


def half_for_search(examples: int) -> NDArray[np.int64]:
    """Return which dev examples a search sees: a random half, the smaller one, and always the same."""
    return np.flatnonzero(half_weights(examples, 1)[0])


def half_for_gain(examples: int) -> NDArray[np.int64]:
    """Return the others."""
    return np.flatnonzero(half_weights(examples, 1)[1])


def known_at_first(
    task: TaskInfo, dense: Sequence[Outcome], levels: Sequence[float], prices: Floats, budget: float
) -> Known:
    """Return what is known when the dense runs, one a seed, have ended; `prices` are what a level's epoch costs."""
    recipe = dense[0].trial.recipe
    values = np.stack([seen(task, one, recipe.epochs) for one in dense])
    return Known.nothing(levels, values, prices, budget, recipe.keep_epoch == "last")


def seen(task: TaskInfo, came: Outcome | Partial, epochs: int) -> NDArray[np.float32]:
    """Return what the examples that a search sees contribute to the scores of a training's epochs `[epochs, examples]`.

    A training that was stopped early stays as it was; of one that diverged, the epochs that it did not reach are NaN.
    """
    half = half_for_search(len(task.targets))
    outputs: Sequence[NDArray[Any]] = [*came.predictions().get("dev", ())][:epochs]
    values = [contributions(task.metrics, task.targets[half], epoch[half]) for epoch in outputs]
    lost = came.lost if isinstance(came, Partial) else not came.finished
    values += ([np.full(len(half), np.nan)] if lost else values[-1:]) * (epochs - len(values))
    return np.stack(values).astype(np.float32)
