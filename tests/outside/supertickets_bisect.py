"""A study of an outside package: bisect the levels for the heaviest one whose winning ticket keeps the dense score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd
from pydantic import Field

from supertickets import Step, Study, study
from supertickets.evidence.findings import Findings
from supertickets.evidence.runs import Runs, TaskInfo
from supertickets.lab.steps import Done
from supertickets.lab.trial import Trial
from supertickets.studies.settings import DrawnSettings
from supertickets.studies.study import full_ticket, training_flops, trial_of
from supertickets.tickets.drawing import draw_ranked, normalise

Answers = tuple[tuple[Step, bool], ...]
"""Steps that must have ended before, each with the answer (whether its ticket passed) that leads to the next one."""


class BisectSettings(DrawnSettings):
    """Settings of `supertickets bisect`."""

    margin: float = Field(1.0, ge=0, description="a ticket passes if it scores at most this many points below dense")


@dataclass(frozen=True)
class BisectFindings(Findings):
    """`found` has a row a seed: the heaviest level that passed (none: missing), and how many levels were tried."""

    found: pd.DataFrame
    levels: int
    margin: float

    text = (
        "{% for row in f.found.itertuples() %}"
        "Seed {{ row.seed }}: {% if row.level is known %}level {{ row.level | g }} is the heaviest{% else %}no level"
        "{% endif %} within {{ f.margin | g }} points of the dense model; {{ row.tried }} of {{ f.levels }} levels "
        "were tried.\n{% endfor %}"
    )
    shown: ClassVar = {"found": "the heaviest level of each seed"}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table of what was found."""
        return {"found": self.found}


@study("bisect", settings=BisectSettings)
class Bisect(Study[BisectSettings]):
    """Bisect the levels for the heaviest winning ticket that is as good as the dense model.

    With levels 0.1 to 0.7, the middle one is tried first; if its ticket passes, a heavier one is next, else a lighter
    one: three trainings instead of seven. That finds the answer if scores only fall as levels grow.
    """

    def steps(self, settings: BisectSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield the dense run of each seed, then all levels, of which only those on the way are wanted."""
        (task,) = tasks
        full = full_ticket(task)
        for seed in settings.all_seeds:
            trial = trial_of(settings, task, full, seed, scoring=settings.scoring)
            cost = training_flops(task, full, settings.epochs, scored=True)
            dense = Step({"kind": "dense", "level": 0.0, "seed": seed}, lambda done, trial=trial: trial, cost=cost)
            yield dense
            levels = [level for level in settings.drawn_levels(task.shape) if level]
            yield from self._halves(settings, task, dense, levels, ())

    def _halves(
        self, settings: BisectSettings, task: TaskInfo, dense: Step, levels: Sequence[float], before: Answers
    ) -> Iterator[Step]:
        """Yield the step of the middle level, then those of the lighter and of the heavier half."""
        if not levels:
            return
        middle = len(levels) // 2
        level, seed = levels[middle], int(dense.labels["seed"])
        step = Step(
            {"kind": "winning", "level": level, "seed": seed},
            partial(self._wanted, settings, task, dense, level, before),
            needs=(dense, *(step for step, _ in before)),
            cost=(1 - level) * training_flops(task, full_ticket(task), settings.epochs),
        )
        yield step
        yield from self._halves(settings, task, dense, levels[:middle], (*before, (step, False)))
        yield from self._halves(settings, task, dense, levels[middle + 1 :], (*before, (step, True)))

    @staticmethod
    def _wanted(
        settings: BisectSettings, task: TaskInfo, dense: Step, level: float, before: Answers, done: Done
    ) -> Trial | None:
        """Return the trial of a level's winning ticket, None if the answers until now lead elsewhere."""
        scored = done[dense]
        for step, answer in before:
            outcome = done.get(step)  # None: it was not wanted itself
            if outcome is None or (outcome.score >= scored.score - settings.margin) is not answer:
                return None
        counts = settings.drawn_levels(task.shape)[level]
        ticket = draw_ranked(normalise(scored.scores()), counts, "winning", block=settings.neuron_block)
        return trial_of(settings, task, ticket, int(dense.labels["seed"]))

    def analyse(self, runs: Runs, settings: BisectSettings) -> BisectFindings:
        """Return the heaviest level of each seed whose ticket passed."""
        runs.check_some_finished("dense training", kind="dense")
        rows = []
        for seed, of_seed in runs.table[runs.table.status == "finished"].groupby("seed"):
            dense, winning = of_seed[of_seed.kind == "dense"], of_seed[of_seed.kind == "winning"]
            passed = winning[winning.score >= dense.score.max() - settings.margin]
            rows.append({"seed": seed, "level": passed.level.max(), "tried": len(winning)})
        levels = sum(level > 0 for level in settings.levels)
        return BisectFindings(runs.table, pd.DataFrame(rows), levels, settings.margin)
