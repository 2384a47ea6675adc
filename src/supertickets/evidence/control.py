"""The equal-budget control: super tickets against a dense model that was tuned with the FLOPs of the search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.budgets import Budget
from supertickets.evidence.choice import Choice, chosen_gain, halved
from supertickets.evidence.gains import Gain
from supertickets.evidence.labels import BUDGET, OF_SEED
from supertickets.evidence.runs import DENSE, Runs
from supertickets.lab.steps import Run

_COLUMNS = (
    "seed", "budget", "spent", "unspent", "search", "tuning", "trainings", "diverged", "failed", "missing", "compared",
)  # fmt: skip


@dataclass(frozen=True)
class TunedDense:
    """What super tickets gain over the best of equally many FLOPs of dense trainings.

    `budgets` has a row a seed, in FLOPs: what the search used (`budget`), what the tuned dense model used of it
    (`spent`, `unspent`), what both used beyond the dense training (`search`, `tuning`), the numbers of the other dense
    trainings by what became of them (`trainings` finished), and whether the seed is `compared`: its search and its
    tuning have ended. All gains are over compared seeds: those of super tickets over the tuned dense model, as chosen
    on the dev set that scores it (`paper`) and cross-fitted (`cross_fitted`), and cross-fitted over the dense model
    (`search`); those of the tuned dense model over the dense model (`tuning`). None where no seed is compared.
    `diverged` names the compared seeds' dense trainings that diverged.
    """

    budgets: pd.DataFrame
    paper: Gain | None = None
    cross_fitted: Gain | None = None
    search: Gain | None = None
    tuning: Gain | None = None
    diverged: tuple[str, ...] = ()

    @property
    def compared(self) -> pd.DataFrame:
        """The budgets of the seeds that are compared."""
        return self.budgets[self.budgets["compared"].astype(bool)]

    @property
    def left_out(self) -> list[str]:
        """The seeds that are not compared, in words, with how many trainings of the tuned dense model they lack."""
        rows = self.budgets[~self.budgets["compared"].astype(bool)]
        return [f"seed {row.seed} ({row.failed} tuned failed, {row.missing} missing)" for row in rows.itertuples()]

    @property
    def used(self) -> float:
        """The share of their budgets that tuned dense models used."""
        return float(self.compared["spent"].sum() / self.compared["budget"].sum())

    @property
    def power(self) -> int:
        """The power of ten of FLOPs that `points` are for: the order of what a seed's search uses."""
        return math.floor(math.log10(self.compared["search"].mean()))

    @property
    def points(self) -> dict[str, float]:
        """What search and tuning gain over the dense model for 10^`power` FLOPs more, cross-fitted; NaN for none."""
        flops = self.compared[["search", "tuning"]].mean() / 10.0**self.power
        gains = {"search": self.search, "tuning": self.tuning}
        return {name: g.mean / flops[name] if g and flops[name] else np.nan for name, g in gains.items()}


def tuned_dense(runs: Runs, tickets: Mapping[int, Choice], dense: Mapping[int, Choice]) -> TunedDense | None:
    """Compare each seed's super ticket with its tuned dense model; None if the study has no such control.

    `tickets` and `dense` are what is chosen among a seed's winning tickets and among its dense run's epochs. The tuned
    dense model is chosen in the same way, among the epochs of the seed's dense run and of all its other trainings.
    """
    if runs.settings.get("control") != "equal-budget" or not runs.settings.get("kinds"):
        return None
    grid = runs.only(stage=None)
    rows, tuned, diverged = list[dict[str, Any]](), dict[int, Choice](), list[str]()
    for seed in (int(run.step.labels["seed"]) for run in grid.every(kind=DENSE)):
        (own,), winning = grid.every(kind=DENSE, seed=seed), grid.every(kind="winning", seed=seed)
        others = [run for run in runs.every(stage=BUDGET) if run.step.labels[OF_SEED] == seed]
        ended = all(_ended(run) for run in (own, *winning, *others)) and seed in tickets and seed in dense
        rows.append({"seed": seed, **_row(own, winning, others), "compared": ended})
        if ended:
            among = [run for run in (own, *others) if run.finished]
            diverged += [str(run.step) for run in others if run.status == "diverged"]
            tuned[seed] = Choice.among({run: halved(run.result, runs.task) for run in among}, runs.task)
    budgets = pd.DataFrame(rows, columns=_COLUMNS)
    if not tuned:
        return TunedDense(budgets)
    of = [{seed: choices[seed] for seed in tuned} for choices in (tickets, tuned, dense)]
    scored = [[choice.selected.paper for choice in choices.values()] for choices in of]
    paper = Gain.of([*tuned], scored[0], scored[1])
    over_tuned, search, tuning = (chosen_gain(of[a], of[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    return TunedDense(budgets, paper, over_tuned, search, tuning, tuple(diverged))


def _ended(run: Run) -> bool:
    """Whether all is known of a step: it finished, diverged, or was not wanted."""
    return run.outcome is not None or run.unwanted


def _row(dense: Run, winning: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
    """Return a seed's row of `TunedDense.budgets`; what is not known is missing."""
    became = Counter(run.status for run in others if run.counts)
    counts = {"trainings": became.pop("finished", 0)} | {
        name: became.pop(name, 0) for name in ("diverged", "failed", "missing")
    }
    if dense.outcome is None or not dense.finished or not all(map(_ended, winning)):
        return counts
    budget = Budget(
        dense.outcome, *([run.outcome for run in of if run.outcome is not None] for of in (winning, others))
    )
    flops = {"budget": budget.total, "spent": budget.spent, "unspent": budget.left}
    return {**flops, "search": budget.searched, "tuning": budget.tuning, **counts}
