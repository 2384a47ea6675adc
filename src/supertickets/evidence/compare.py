"""What changing one setting at a time does to tickets and scores (a study of `compare`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from supertickets.evidence.find import shared
from supertickets.evidence.findings import Findings
from supertickets.evidence.gains import paired_gains
from supertickets.evidence.runs import DENSE, Runs
from supertickets.tickets import Ticket
from supertickets.tickets.ticket import alike, flat


@dataclass(frozen=True)
class CompareFindings(Findings):
    """What each choice changed: `comparison` has a row a choice, kind and level (level 0: the dense model).

    `overlap` is the share of what is pruned that both ways prune (twice the shared over both sizes), averaged over
    seeds; `heads` and `ffns` are mean counts of what stays; `score` and `over` are mean scores with and without the
    change, `difference` their paired difference with 95 % interval, p and corrected p. Missing where runs are.
    """

    comparison: pd.DataFrame

    text = "compare.txt.jinja"
    shown = {"comparison": "what each setting changes (overlap: of what is pruned; difference: of scores)"}  # noqa: RUF012

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the comparison."""
        return {"comparison": self.comparison}


def analyse_compare(runs: Runs, retrained: Collection[str]) -> CompareFindings:
    """Look at all outcomes of a study of `compare`; `retrained` are the choices that change the dense training too."""
    table = runs.table
    changed = table[(table["choice"] != "") & ((table["kind"] != DENSE) | table["choice"].isin(list(retrained)))]
    both = pd.concat([table[table["choice"] == ""], changed])
    gains = paired_gains(both, {"choice": set(changed["choice"])}, {"choice": ""}, ("choice", "kind", "level"))
    tickets = {tuple(run.step.labels.values()): run.trial.ticket for run in runs.runs if run.trial is not None}
    columns, seeds, rows = ["choice", "kind", "level"], sorted(set(table["seed"])), []
    for choice, kind, level in gains[columns].itertuples(index=False):
        pairs = [(tickets.get((choice, kind, level, seed)), tickets.get(("", kind, level, seed))) for seed in seeds]
        drawn = [(ticket, usual) for ticket, usual in pairs if ticket is not None and usual is not None]
        overlaps = [_overlap(one, other) for one, other in drawn if level]
        kept = [(ticket.kept_heads, ticket.kept_ffns) for ticket, _ in drawn]
        heads, ffns = np.mean(kept, axis=0) if kept else (np.nan, np.nan)
        rows.append((np.mean(overlaps) if overlaps else np.nan, heads, ffns))
    added = pd.DataFrame(rows, columns=["overlap", "heads", "ffns"])
    comparison = pd.concat([gains[columns], added, gains.drop(columns=columns)], axis=1)
    return CompareFindings(table, comparison)


def _overlap(one: Ticket, other: Ticket) -> float:
    return shared(*(~flat(kept) for kept in alike(one, other)))
