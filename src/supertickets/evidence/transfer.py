"""Tickets of one task trained on another: the source x target matrix (Chen et al., 2020, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.findings import Findings
from supertickets.evidence.gains import means, paired_gains
from supertickets.evidence.imp import by_place
from supertickets.evidence.published import published_weights
from supertickets.evidence.runs import DENSE, Runs
from supertickets.tickets import Ticket
from supertickets.tickets.ticket import alike, flat
from supertickets.tickets.weights import WeightTicket

AnyTicket = Ticket | WeightTicket
_BY = ("kind", "source", "task")


@dataclass(frozen=True)
class TransferFindings(Findings):
    """What a study of `transfer` shows.

    `sources` has each source's task by its name (None: what no task found), `targets` are the tasks trained on,
    `sparsity` is that of all tickets. `means` has a row a source and target (`task`): mean, standard deviation, `gain`
    over the dense model and `to_same` over the target's own ticket, each with a paired t-test. `gains` is the matrix of
    gains, sources by targets, with their mean over tasks that are not the source's, and on how many of these it does at
    least as well as the target's own ticket (the paper's dark cells). `published` is the paper's Figure 2 for the same
    sources and targets (BERT-base, tickets of weights). `overlaps` compares every two tickets, `by_place` the same by
    layer and matrix.
    """

    sources: Mapping[str, str | None]
    targets: tuple[str, ...]
    sparsity: float
    means: pd.DataFrame
    gains: pd.DataFrame
    published: pd.DataFrame
    overlaps: pd.DataFrame
    by_place: pd.DataFrame

    text = "transfer.txt.jinja"
    shown = {"gains": "gains over the dense model, by source and task"}  # noqa: RUF012

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of the page."""
        return {"means": self.means, "gains": self.gains, "overlaps": self.overlaps, "overlaps by place": self.by_place}

    @property
    def cells(self) -> pd.DataFrame:
        """The means that have a gain: a row a source and target that have been trained."""
        return self.means[self.means["gain"].notna()]

    @property
    def elsewhere(self) -> pd.Series:
        """The mean gain over all tasks but a source's own, the best source first; none of those that lack a task."""
        away = self.cells[self.cells["away"].eq(True)].groupby("source", sort=False)["gain"].agg(["mean", "count"])
        whole = [sum(self.sources[name] != target for target in self.targets) for name in away.index]
        return away[away["count"] == whole]["mean"].sort_values(ascending=False, kind="stable")

    @property
    def judged(self) -> pd.DataFrame:
        """The cells of sources on tasks that are not their own, whose own tickets have been trained too."""
        return self.cells[self.cells["away"].eq(True) & self.cells["dark"].notna()]

    @property
    def universal(self) -> list[str]:
        """The sources that are at least as good as the dense model on every target."""
        gains = self.gains[list(self.targets)]
        return [str(name) for name in gains.index[(gains >= -1e-9).all(axis=1)]]

    @property
    def whole(self) -> bool:
        """Whether every source has a gain on every target."""
        return bool(self.gains[list(self.targets)].notna().all(axis=None))


def analyse_transfer(
    runs: Runs, sources: Mapping[str, str | None], tickets: Mapping[str, AnyTicket], sparsity: float
) -> TransferFindings:
    """Look at all outcomes of a study of `transfer`.

    `sources` has each source's task by its name, None for what no task found; `tickets` are those there are to compare.
    """
    targets = tuple(task.task for task in runs.tasks)
    of_weights = any(isinstance(ticket, WeightTicket) for ticket in tickets.values())
    found = transfer_means(runs.table, sources)
    return TransferFindings(
        runs=runs.table,
        sources=dict(sources),
        targets=targets,
        sparsity=sparsity,
        means=found,
        gains=_gains(found, sources, targets),
        published=_figure_2(sources if of_weights else (), targets),
        overlaps=overlaps(tickets),
        by_place=_overlaps_by_place(tickets),
    )


def own_tickets(sources: Mapping[str, str | None]) -> dict[str, str]:
    """Return each task's own ticket: the first source that was found on it."""
    return {task: name for name, task in reversed(list(sources.items())) if task is not None}


def transfer_means(table: pd.DataFrame, sources: Mapping[str, str | None]) -> pd.DataFrame:
    """Return means over seeds by source and target, beside the dense model and the target's own ticket.

    The paper calls a cell dark where a source's mean is at least that of the target's own ticket. A cell is `away`
    where the source was not found on the target.
    """
    own, tickets = own_tickets(sources), {"kind": [kind for kind in table["kind"].unique() if kind != DENSE]}
    table = table.assign(own=table["source"] == table["task"].map(own))
    gains = paired_gains(table, tickets, {"kind": DENSE, "source": ...}, _BY).rename(columns={"difference": "gain"})
    same = paired_gains(table, tickets, {"own": True, "kind": ..., "source": ...}, _BY)
    gains = gains.assign(
        to_same=same["difference"],
        p_same=same["p"],
        dark=(same["difference"] >= -1e-9).astype(object).where(same["seeds"] > 0, None),
        own=gains["source"] == gains["task"].map(own),
        away=gains["source"].map(sources) != gains["task"],
    )
    return means(table, _BY).merge(gains.drop(columns=["seeds", "score", "over"]), how="left", on=_BY)


def _gains(found: pd.DataFrame, sources: Mapping[str, str | None], targets: Sequence[str]) -> pd.DataFrame:
    tickets = found[found["kind"] != DENSE]
    matrix = tickets.pivot(index="source", columns="task", values="gain").astype(float)
    matrix = matrix.reindex(index=pd.Index(sources, name="source"), columns=list(targets))
    away = tickets[tickets["away"].eq(True)]
    dark = away[away["dark"].notna()].astype({"dark": bool}).groupby("source")["dark"].sum()
    return matrix.assign(**{"other tasks": away.groupby("source")["gain"].mean(), "as good as own": dark})


def _figure_2(sources: Iterable[str], targets: Sequence[str]) -> pd.DataFrame:
    """Return the paper's gains for the sources and targets that it has too; a ticket not rewound is none of its."""
    theirs = published_weights()["figure 2"]
    shared = [name for name in sources if name in theirs]
    rows = [[theirs[name].get(target, np.nan) for target in targets] for name in shared]
    frame = pd.DataFrame(rows, index=pd.Index(shared, name="source"), columns=list(targets))
    return frame.dropna(axis=1, how="all").dropna(axis=0, how="all")


def overlaps(tickets: Mapping[str, AnyTicket]) -> pd.DataFrame:
    """Return the Jaccard index of what every two tickets keep, and what two random ones of these densities have."""
    rows = []
    for (one, first), (other, second) in combinations(tickets.items(), 2):
        entry: dict[str, Any] = {"one": one, "other": other}
        if isinstance(first, WeightTicket) and isinstance(second, WeightTicket):
            here, there = _of_both(first, second)
            entry |= {"jaccard": here.overlap(there), "by tensor": here.overlap(there, "tensors")}
            entry |= {"chance": here.chance(there)}
        elif isinstance(first, Ticket) and isinstance(second, Ticket):
            d, e = (flat(kept).mean() for kept in alike(first, second))
            entry |= {"jaccard": first.overlap(second), "chance": float(d * e / (d + e - d * e)) if d or e else 1.0}
        else:
            continue  # sets of other things
        rows.append(entry)
    return pd.DataFrame(rows, columns=["one", "other", "jaccard", "by tensor", "chance"]).dropna(axis=1, how="all")


def _of_both(*tickets: WeightTicket) -> list[WeightTicket]:
    """Return the parts of tickets that are of tensors that all have masks of (one may leave the pooler alone)."""
    names = [name for name in tickets[0].masks if all(name in ticket.masks for ticket in tickets)]
    return [ticket.part(names) for ticket in tickets]


def _overlaps_by_place(tickets: Mapping[str, AnyTicket]) -> pd.DataFrame:
    """Return the mean Jaccard index over all pairs by layer and matrix, less what chance gives there."""
    found = [ticket for ticket in tickets.values() if isinstance(ticket, WeightTicket)]
    if len(found) < 2:
        return pd.DataFrame()
    found = _of_both(*found)

    def above(name: str) -> float:
        parts = [ticket.part([name]) for ticket in found]
        return float(np.mean([one.overlap(other) - one.chance(other) for one, other in combinations(parts, 2)]))

    return by_place({name: above(name) for name in found[0].masks})
