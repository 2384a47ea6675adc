"""Tickets of one task trained on another: the source x target matrix (Chen et al., 2020, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.magnitude import place_of, published_weights
from supertickets.evidence.record import Record
from supertickets.evidence.statistics import holm, paired_t_test
from supertickets.evidence.table import DENSE, in_columns
from supertickets.tickets import Ticket
from supertickets.tickets.weights import WeightTicket

AnyTicket = Ticket | WeightTicket
_NAMED = 6
"""How many cells are named one by one."""


@dataclass(frozen=True)
class Transfer:
    """What a study of `transfer` shows.

    `sources` has each source's task by its name (None: what no task found), `targets` are the tasks trained on. `runs`
    has a row a source, target and seed; `means` a row a source and target: mean, standard deviation, `gain` over the
    dense model and `to_same` over the target's own ticket, each with a paired t-test. `gains` is the matrix of gains,
    sources by targets, with their mean over tasks that are not the source's, and on how many of these it does at least
    as well as the target's own ticket (the paper's dark cells). `published` is the paper's Figure 2 for the same
    sources and targets (BERT-base, tickets of weights). `overlaps` compares every two tickets, `by_place` the same by
    layer and matrix.
    """

    sources: Mapping[str, str | None]
    targets: tuple[str, ...]
    runs: pd.DataFrame
    means: pd.DataFrame
    gains: pd.DataFrame
    published: pd.DataFrame
    overlaps: pd.DataFrame
    by_place: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the study shows, in words."""
        return " ".join(self.sentences)


def conclude_transfer(
    record: Record, sources: Mapping[str, str | None], tickets: Mapping[str, AnyTicket], sparsity: float
) -> Transfer:
    """Look at all outcomes of a study of `transfer`.

    `sources` has each source's task by its name, None for what no task found; `tickets` are those there are to compare.
    """
    targets = tuple(subject.task for subject in record.subjects)
    of_weights = any(isinstance(ticket, WeightTicket) for ticket in tickets.values())
    found = transfer_runs(record)
    means = transfer_means(found, sources)
    return Transfer(
        sources=dict(sources),
        targets=targets,
        runs=found,
        means=means,
        gains=_gains(means, sources, targets),
        published=_figure_2(sources if of_weights else (), targets),
        overlaps=overlaps(tickets),
        by_place=_by_place(tickets),
        sentences=_sentences(means, sources, targets, sparsity),
    )


def transfer_runs(record: Record) -> pd.DataFrame:
    """Return one row a source, target and seed: status, dev score and metrics in percent, cost."""
    rows = []
    for row in record.rows:
        role, outcome = row.role, row.outcome
        entry: dict[str, Any] = {"source": role.kind, "target": role.variant, "seed": role.seed}
        entry |= {"status": row.status, "score": np.nan}
        if outcome is not None and outcome.finished:
            entry |= {"score": outcome.score}
            entry |= {name: value for name, value in outcome.metrics["dev"].items() if name != "score"}
            entry["best_epoch"] = outcome.best_epoch
        if outcome is not None:
            entry |= {name: outcome.cost[name] for name in ("parameters", "tokens", "flops", "seconds")}
        rows.append(entry | {"trial": row.trial.key if row.trial is not None else None})
    return in_columns(rows)


def own_tickets(sources: Mapping[str, str | None]) -> dict[str, str]:
    """Return each task's own ticket: the first source that was found on it."""
    return {task: name for name, task in reversed(list(sources.items())) if task is not None}


def transfer_means(found: pd.DataFrame, sources: Mapping[str, str | None]) -> pd.DataFrame:
    """Return means over seeds by source and target, beside the dense model and the target's own ticket.

    The paper calls a cell dark where a source's mean is at least that of the target's own ticket. A cell is `away`
    where the source was not found on the target.
    """
    own, rows, none = own_tickets(sources), [], pd.Series(dtype=float)
    cells: dict[Any, pd.Series] = {
        cell: _by_seed(runs) for cell, runs in found.groupby(["source", "target"], sort=False)
    }
    for (source, target), scores in cells.items():
        if not len(scores):
            continue
        entry: dict[str, Any] = {"source": source, "target": target, "mean": scores.mean()}
        entry |= {"std": scores.std(ddof=1) if len(scores) > 1 else np.nan, "runs": len(scores)}
        if source != DENSE:
            test = _paired(scores, cells.get((DENSE, target), none))
            entry |= {"gain": test.mean, "low": test.low, "high": test.high, "p": test.p}
            same = cells.get((own.get(target), target), none)
            if len(same):
                test = _paired(scores, same)
                entry |= {"to_same": test.mean, "p_same": test.p}
                entry["dark"] = bool(test.mean >= -1e-9) if test.n else None
            entry |= {"own": own.get(target) == source, "away": sources.get(source) != target}
        rows.append(entry)
    columns = [
        "source", "target", "mean", "std", "runs", "gain", "low", "high", "p", "to_same", "p_same", "dark", "own",
        "away",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=holm(frame["p"].astype(float).tolist()))


def _by_seed(runs: pd.DataFrame) -> pd.Series:
    return runs.set_index("seed")["score"].astype(float).dropna()


def _paired(one: pd.Series, other: pd.Series) -> Any:
    both = one.index.intersection(other.index)
    return paired_t_test(one[both].tolist(), other[both].tolist())


def _gains(means: pd.DataFrame, sources: Mapping[str, str | None], targets: Sequence[str]) -> pd.DataFrame:
    matrix = means[means["source"] != DENSE].pivot(index="source", columns="target", values="gain").astype(float)
    matrix = matrix.reindex(index=list(sources), columns=list(targets))
    others = matrix.copy()
    for name, task in sources.items():
        if task in targets:
            others.loc[name, task] = np.nan
    judged = means[means["dark"].notna() & means["away"].eq(True)]
    dark = judged["dark"].eq(True).groupby(judged["source"]).sum().reindex(matrix.index)
    matrix = matrix.assign(**{"other tasks": others.mean(axis=1), "as good as own": dark})
    matrix.index.name = "source"
    return matrix


def _figure_2(sources: Iterable[str], targets: Sequence[str]) -> pd.DataFrame:
    """Return the paper's gains for the sources and targets that it has too; a ticket not rewound is none of its."""
    theirs = published_weights()["figure 2"]
    shared = [name for name in sources if name in theirs]
    rows = [[theirs[name].get(target, np.nan) for target in targets] for name in shared]
    frame = pd.DataFrame(rows, index=pd.Index(shared, name="source"), columns=list(targets))
    return frame.dropna(axis=1, how="all")


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
            d, e = (np.mean([*ticket.heads.ravel(), *ticket.ffns]) for ticket in (first, second))
            entry |= {"jaccard": first.overlap(second), "chance": float(d * e / (d + e - d * e)) if d or e else 1.0}
        else:
            continue  # sets of other things
        rows.append(entry)
    return pd.DataFrame(rows, columns=["one", "other", "jaccard", "by tensor", "chance"]).dropna(axis=1, how="all")


def _of_both(*tickets: WeightTicket) -> list[WeightTicket]:
    """Return the parts of tickets that are of tensors that all have masks of (one may leave the pooler alone)."""
    names = [name for name in tickets[0].masks if all(name in ticket.masks for ticket in tickets)]
    return [ticket.part(names) for ticket in tickets]


def _by_place(tickets: Mapping[str, AnyTicket]) -> pd.DataFrame:
    """Return the mean Jaccard index over all pairs by layer and matrix, less what chance gives there."""
    found = [ticket for ticket in tickets.values() if isinstance(ticket, WeightTicket)]
    found = _of_both(*found) if found else []
    pairs = list(combinations(found, 2))
    table: dict[str, dict[str, float]] = {}
    for name in found[0].masks if pairs else ():
        layer, matrix = place_of(name)
        above = []
        for one, other in pairs:
            here, there = one.part([name]), other.part([name])
            above.append(here.overlap(there) - here.chance(there))
        table.setdefault(layer, {})[matrix] = float(np.mean(above))
    return pd.DataFrame.from_dict(table, orient="index")


def _sentences(
    means: pd.DataFrame, sources: Mapping[str, str | None], targets: Sequence[str], sparsity: float
) -> tuple[str, ...]:
    """Say which source transfers best, how the targets' own tickets do, and what can be told from chance."""
    cells = means[(means["source"] != DENSE) & means["gain"].notna()]
    if cells.empty:
        return ("No ticket has been trained on any target yet.",)
    seeds = int(cells["runs"].max())
    parts = [f"Tickets of {len(sources)} sources on {len(targets)} targets at {sparsity:.0%}, "
             f"{f'mean of {seeds} seeds' if seeds > 1 else 'one seed'}."]  # fmt: skip
    own = cells[cells["own"].eq(True)]
    if len(own):
        said = ", ".join(f"{row['target']} {row['gain']:+.2f}" for _, row in own.iterrows())
        parts.append(f"The targets' own tickets against the dense model: {said}.")
    off = cells[cells["away"].eq(True)]
    away = off.groupby("source", sort=False)["gain"].agg(["mean", "count"])
    elsewhere = pd.Series({name: sum(task != target for target in targets) for name, task in sources.items()})
    complete = away[away["count"] == elsewhere.reindex(away.index)].sort_values("mean", ascending=False)
    if len(complete) > 1:
        best, worst = complete.index[0], complete.index[-1]
        parts.append(
            f"On tasks not their own, {best} tickets do best ({complete['mean'].iloc[0]:+.2f} on average) and {worst} "
            f"tickets worst ({complete['mean'].iloc[-1]:+.2f})."
        )
    judged = off[off["dark"].notna()]
    if len(judged):
        dark = int(judged["dark"].eq(True).sum())
        parts.append(f"Of {len(judged)} cells off the diagonal, {dark} do at least as well as the target's own "
                     "ticket.")  # fmt: skip
    universal = [
        name for name in sources if len(c := cells[cells["source"] == name]) == len(targets) and (c["gain"] >= 0).all()
    ]
    parts.append(
        f"At least as good as the dense model on every target: {', '.join(universal)}."
        if universal
        else "No source is at least as good as the dense model on every target."
    )
    if seeds == 1:
        parts.append("One seed allows no test.")
    else:
        beyond = cells[cells["p_holm"] < 0.05]
        said = ", ".join(f"{row['source']} on {row['target']} ({row['gain']:+.2f})" for _, row in beyond.iterrows())
        if len(beyond) > _NAMED:
            better = int((beyond["gain"] > 0).sum())
            said = f"{len(beyond)}, {better} of them better and {len(beyond) - better} worse"
        parts.append(f"Apart from the dense model beyond chance (5 %, corrected for {int(cells['p'].notna().sum())} "
                     f"cells): {said or 'none'}.")  # fmt: skip
    return tuple(parts)
