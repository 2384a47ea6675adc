"""How a target was reached: what the tickets cost, what importance they keep, and what the way of drawing gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from supertickets.evidence.gains import Gain, compared
from supertickets.evidence.labels import SAME_SHARE
from supertickets.evidence.runs import DENSE, Runs
from supertickets.lab.steps import Run
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import Structure
from supertickets.tickets.knapsack import Cap, worth_of
from supertickets.tickets.scoring import Scores


@dataclass(frozen=True)
class Reached:
    """What a study for a target shows beside the scores.

    `costs` has a row a target: what may be spent, what the dense model and the winning tickets cost (mean over seeds,
    and the largest). `kept` and `kept_same_share` are the shares of all importance that winning tickets keep, and those
    that reach the target by the same share of every kind, one a seed. `over_same_share` is the gain over these (None:
    no seed has both).
    """

    names: tuple[str, ...]
    costs: pd.DataFrame
    kept: tuple[float, ...]
    kept_same_share: tuple[float, ...]
    over_same_share: Gain | None


def reached(runs: Runs, caps: Sequence[Cap], structures: Sequence[Structure]) -> Reached:
    """Return how the winning tickets of a study reach its target; runs that did not finish are left out."""
    winning, other, dense = (
        {int(run.step.labels["seed"]): run for run in found}
        for found in (
            runs.only(stage=None).where(kind="winning"),
            runs.where(stage=SAME_SHARE, kind="winning"),
            runs.only(stage=None).where(kind=DENSE),
        )
    )
    tickets = [run.result.trial.ticket for run in winning.values()]
    full, rows = Ticket.full(*runs.task.shape.of_tickets), []
    for cap in caps:
        found = [cap.of(ticket) for ticket in tickets] or [np.nan]
        rows.append((cap.name, cap.prices.unit, cap.of(full), cap.most, float(np.mean(found)), float(np.max(found))))
    scores = {seed: run.result.scores() for seed, run in dense.items()}
    both = sorted(winning.keys() & other.keys())
    table = runs.table.set_index("trial")
    of, over = ([one[seed].result for seed in both] for one in (winning, other))
    first, second = ([out.score for out in one] for one in (of, over))
    gain = None
    if both:
        mine, others = (_rows(table, [out.key for out in one]) for one in (of, over))
        test = compared(mine, others)
        gain = Gain(tuple(both), tuple(first), tuple(second), test)
    return Reached(
        tuple(cap.name for cap in caps),
        pd.DataFrame(rows, columns=["target", "unit", "dense model", "at most", "winning, mean", "winning, largest"]),
        _share(scores, winning, structures),
        _share(scores, other, structures),
        gain,
    )


def _rows(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return the rows of trials; tickets that came out equal share one."""
    return table[~table.index.duplicated()].loc[list(keys)].reset_index()


def _share(scores: dict[int, Scores], runs: dict[int, Run], structures: Sequence[Structure]) -> tuple[float, ...]:
    return tuple(
        importance_kept(scores[seed], runs[seed].result.trial.ticket, structures)
        for seed in sorted(runs.keys() & scores.keys())
    )


def importance_kept(scores: Scores, ticket: Ticket, structures: Sequence[Structure]) -> float:
    """Return which share of the importance of some kinds of structures a ticket keeps (see `knapsack.worth_of`)."""
    scores = worth_of(scores)
    width = scores["neurons"].shape[1] if "neurons" in scores else 1
    kept = {"heads": ticket.heads, "ffns": ticket.ffns, "neurons": ticket.neurons_of(width)}
    every = sum(float(scores[kind].sum()) for kind in structures)
    there = sum(float((scores[kind] * kept[kind]).sum()) for kind in structures)
    return there / every if every else 1.0
