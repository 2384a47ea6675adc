"""What a search for a level shows: its course, the level it found, and the gain on examples that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.examples import contributions
from supertickets.evidence.findings import level as in_percent
from supertickets.evidence.gains import Gain
from supertickets.evidence.labels import EPOCH, LOOK, TURN
from supertickets.evidence.resampling import Floats, weighted_scores
from supertickets.evidence.runs import DENSE, Runs, TaskInfo
from supertickets.evidence.search.course import (
    METHODS,
    Course,
    begun,
    half_for_gain,
    half_for_search,
    known_at_first,
    seen,
)
from supertickets.evidence.search.known import Ask
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Run
from supertickets.tasks.tables import counted

_TURNS = ("turn", "levels", "seeds", "epoch", "trainings", "spent", "best", "rivals")


@dataclass(frozen=True)
class Searched:
    """A search of `method` among `levels` that may spend the share `budget` of what all winning tickets cost.

    `turns` has a row a turn: the `levels` that it trained, in how many `seeds`, to which `epoch`, the number of
    `trainings` begun or gone on with, the share of the cost `spent` by then, the `best` level by then and its `rivals`.
    `level` is the best one at last (None: the search has not begun), `rivals` those that are not told apart from it,
    `untrained` those that were never trained, `lost` those that were left out as a training diverged. `ended` says
    whether the search has, `unpaid` whether a larger budget would have let it go on; `spent` is its share of the cost,
    `with_level` that with all trainings of the level.

    `over` are the gains of winning tickets at the level over dense and random ones, on the dev examples that the search
    did not see (`unseen` of all `examples`); each run's epoch is chosen on the others. `new_seeds` is the gain over the
    dense model in those seeds alone in which the search looked at no ticket (None: there are none). `diverged` are the
    seeds whose dense training did, without which a search does not begin.
    """

    method: str
    budget: float
    levels: tuple[float, ...]
    turns: pd.DataFrame
    level: float | None = None
    rivals: tuple[float, ...] = ()
    untrained: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()
    ended: bool = False
    unpaid: bool = False
    spent: float = 0.0
    with_level: float = 0.0
    examples: int = 0
    unseen: int = 0
    over: Mapping[str, Gain] = field(default_factory=dict)
    new_seeds: Gain | None = None
    diverged: tuple[int, ...] = ()

    @property
    def sentence(self) -> str:
        """How far the search is, in words."""
        if self.diverged:
            seeds = ", ".join(map(str, self.diverged))
            return (
                f"The search ({self.method}) cannot begin, since the dense training of seed {seeds} diverged; use "
                "other seeds (--first-seed) or a lower --learning-rate."
            )
        if self.level is None or not len(self.turns):
            return f"The search ({self.method}) has not ended its first turn: no level is known to be the best."
        others = "all others that were trained" if self.untrained or self.lost else "all others"
        if self.rivals:
            told = f"not told apart from it: {_listed(self.rivals)}"
        elif self.method == "halving":
            told = f"{others} were dropped, without a test"
        else:
            told = f"{others} are told apart from it"
        so_far = "" if self.ended else " so far"
        told += f"; left out, as a training diverged: {_listed(self.lost)}" if self.lost else ""
        told += f"; never trained: {_listed(self.untrained)}" if self.untrained else ""
        turns = counted(len(self.turns), "turn")
        how_far = f"ended after {turns}" if self.ended else f"had {turns}"
        best = f"the best level{so_far} is {in_percent(self.level)}; {told}"
        cost = f"it has spent {self.spent:.1%} of what all winning tickets cost"
        return f"The search ({self.method}) has {how_far}: {best}; {cost}."

    @property
    def why(self) -> str:
        """Why it stopped, in words."""
        if not self.ended:
            return "It has not ended; the study's command goes on with it."
        if not self.rivals:
            return "It stopped since no other level that it trained was left."
        if self.unpaid:
            return f"It stopped since the budget of {self.budget:.1%} pays for no further turn."
        return "It stopped since its rule asks for no further training."


def searched(runs: Runs, method: str, prices: Mapping[float, float], budget: float) -> Searched:
    """Return what a search in a study of `find` shows; `prices` are what a level's epoch costs, by level."""
    levels, task = tuple(prices), runs.task
    found = Searched(method, budget, levels, pd.DataFrame(columns=_TURNS))
    dense = runs.only(stage=None).every(kind=DENSE)
    outcomes = [run.result for run in dense if run.finished]
    if len(outcomes) < len(dense):
        ended = [run for run in dense if run.outcome is not None and not run.finished]
        return replace(found, diverged=tuple(int(run.step.labels["seed"]) for run in ended))
    seeds = [int(run.step.labels["seed"]) for run in dense]
    known = known_at_first(task, outcomes, levels, np.array([*prices.values()]), budget)
    course = begun(METHODS[method], known).after(partial(_came, _looks(runs), levels, seeds, task))
    answer, done = course.answer, course.known.done
    name = levels.__getitem__
    over, new = _gains(runs, levels[answer.level], seeds, np.asarray(done.any(axis=0)))
    return Searched(
        method=method,
        budget=budget,
        levels=levels,
        turns=_turns(course, levels),
        level=levels[answer.level],
        rivals=tuple(sorted(map(name, answer.rivals))),
        untrained=tuple(level for level, row in zip(levels, done, strict=True) if not row.any()),
        lost=tuple(level for place, level in enumerate(levels) if place not in course.known.open),
        ended=not course.asks,
        unpaid=course.unpaid,
        spent=course.spent,
        with_level=course.with_level,
        examples=len(task.targets),
        unseen=len(half_for_gain(len(task.targets))),
        over=over if not course.asks else {},
        new_seeds=new if not course.asks else None,
    )


def _looks(runs: Runs) -> dict[tuple[object, ...], Run]:
    """Return the trainings that turns asked for, by turn, level, seed and epoch."""
    wanted = (run for run in runs.every(stage=LOOK, kind="winning") if run.trial is not None)
    return {tuple(run.step.labels[name] for name in (TURN, "level", "seed", EPOCH)): run for run in wanted}


def _came(
    looks: Mapping[tuple[object, ...], Run],
    levels: Sequence[float],
    seeds: Sequence[int],
    task: TaskInfo,
    turn: int,
    ask: Ask,
) -> NDArray[np.float32] | None:
    run = looks.get((turn + 1, levels[ask.level], seeds[ask.seed], ask.epoch))
    came = None if run is None else run.outcome or run.partial
    return None if came is None else seen(task, came, ask.epoch)


def _turns(course: Course, levels: Sequence[float]) -> pd.DataFrame:
    rows = []
    for number, turn in enumerate(course.turns, start=1):
        asked = sorted({levels[ask.level] for ask in turn.asks})
        row = {
            "turn": number,
            "levels": ", ".join(map(in_percent, asked)),
            "seeds": len({ask.seed for ask in turn.asks}),
            "epoch": max(ask.epoch for ask in turn.asks),
            "trainings": len(turn.asks),
            "spent": turn.spent,
            "best": in_percent(levels[turn.answer.level]),
            "rivals": ", ".join(in_percent(levels[place]) for place in sorted(turn.answer.rivals)),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=list(_TURNS))


def _gains(
    runs: Runs, level: float, seeds: Sequence[int], looked: NDArray[np.bool_]
) -> tuple[dict[str, Gain], Gain | None]:
    """Return gains at a level on the unseen examples: over dense and random tickets; and in unseen seeds alone."""
    every = {
        kind: {int(run.step.labels["seed"]): run.result for run in runs.only(stage=None).where(kind=kind, level=at)}
        for kind, at in (("winning", level), (DENSE, 0.0), ("random", level))
    }
    judged = {kind: {seed: _judged(runs.task, one) for seed, one in of.items()} for kind, of in every.items()}

    def gain(over: str, of: Sequence[int]) -> Gain | None:
        both = [seed for seed in of if seed in judged["winning"] and seed in judged[over]]
        if not both:
            return None
        sides = [[judged[kind][seed] for seed in both] for kind in ("winning", over)]
        scores, others = ([score for score, _ in side] for side in sides)
        differences = np.stack([one - other for (_, one), (_, other) in zip(*sides, strict=True)])
        return Gain.of(both, scores, others, differences)

    found = {kind: of for kind in (DENSE, "random") if (of := gain(kind, seeds)) is not None}
    return found, gain(DENSE, [seed for seed, was in zip(seeds, looked, strict=True) if not was])


def _judged(task: TaskInfo, outcome: Outcome) -> tuple[float, Floats]:
    """Return a run's score on the unseen examples and what each contributes, at the epoch that the others choose."""
    outputs = outcome.predictions()["dev"]
    choice, rest = half_for_search(len(task.targets)), half_for_gain(len(task.targets))
    targets, last = task.targets, outcome.trial.recipe.keep_epoch == "last"

    def score(epoch: NDArray[np.float32], half: NDArray[np.int64]) -> float:
        return float(weighted_scores(task.metrics, targets[half], epoch[half], np.ones((1, len(half))))[0])

    best = len(outputs) - 1 if last else int(np.argmax([score(epoch, choice) for epoch in outputs]))
    return score(outputs[best], rest), contributions(task.metrics, targets[rest], outputs[best][rest])


def _listed(levels: Sequence[float]) -> str:
    return ", ".join(map(in_percent, levels))
