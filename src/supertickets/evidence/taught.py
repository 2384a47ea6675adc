"""Taught tickets: what they gain over the dense model, and over the dense model that was taught in the same way.

Knowledge distillation helps dense models too (Furlanello et al., Born-Again Neural Networks, 2018), so a gain of taught
tickets over the dense model alone does not say that the ticket matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from supertickets.evidence.choice import Choice, chosen_gain, halved
from supertickets.evidence.gains import Gain, all_gains, paired_gains
from supertickets.evidence.labels import TAUGHT
from supertickets.evidence.runs import DENSE, Runs
from supertickets.tasks.metrics import REGRESSION
from supertickets.tickets.drawing import KINDS


@dataclass(frozen=True)
class Taught:
    """What comes of the dense model as a teacher; `weight` and `temperature` are those of the study (None: not used).

    `gains` has a row a kind and level of taught runs, `over` the dense model and over the taught one (see
    `gains.paired_gains`; `over_score` is that one's mean score, `p_holm` corrected for all rows). `over_taught` is the
    cross-fitted gain of super tickets over the taught dense model, `teaching` that of the taught dense model over the
    dense one; None where no seed has both.
    """

    weight: float
    temperature: float | None
    gains: pd.DataFrame
    over_taught: Gain | None
    teaching: Gain | None


def taught_gains(runs: Runs, tickets: Mapping[int, Choice], dense: Mapping[int, Choice]) -> Taught | None:
    """Return what a teacher gives in a study's runs; None if it has none.

    `tickets` and `dense` are what is chosen among a seed's winning tickets and among its dense run's epochs; of the
    taught dense run it is chosen in the same way.
    """
    settings = runs.settings
    if settings.get("teacher", "none") == "none" or not settings.get("kinds"):
        return None
    own = {
        int(run.step.labels["seed"]): Choice.among({run: halved(run.result, runs.task)}, runs.task)
        for run in runs.where(kind=TAUGHT)
    }
    return Taught(
        weight=settings["teacher_weight"],
        temperature=None if all(name in REGRESSION for name in runs.task.metrics) else settings["teacher_temperature"],
        gains=_by_level(runs.table),
        over_taught=_gain(tickets, own),
        teaching=_gain(own, dense),
    )


def _gain(of: Mapping[int, Choice], over: Mapping[int, Choice]) -> Gain | None:
    seeds = sorted(of.keys() & over.keys())
    return chosen_gain({seed: of[seed] for seed in seeds}, {seed: over[seed] for seed in seeds}) if seeds else None


def _by_level(table: pd.DataFrame) -> pd.DataFrame:
    """Return the gains of taught runs by kind and level; a ticket that keeps everything is the dense run."""
    rows = table[table["kind"].isin([DENSE, TAUGHT]) | ~(table["remaining"].astype(float) >= 1)]
    tickets = {"kind": [kind for kind in KINDS if (rows["kind"] == kind).any()]}
    found = []
    for of, over in ((tickets, TAUGHT), (tickets, DENSE), ({"kind": TAUGHT}, DENSE)):
        gains = paired_gains(rows, of, {"kind": [over], "level": [0.0]}, ("kind", "level"))
        found.append(gains.rename(columns={"over": "over_score"}).assign(over=over))
    frame = all_gains(found)
    columns = ["kind", "level", "over", "seeds", "score", "over_score", "difference", "low", "high", "p", "p_holm"]
    return frame[columns]
