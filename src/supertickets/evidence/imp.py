"""What tickets of weights are worth at each sparsity: matching tickets, controls, rewinding (Chen et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.cells import with_std
from supertickets.evidence.findings import Findings, level
from supertickets.evidence.gains import means, paired_gains
from supertickets.evidence.published import published_weights
from supertickets.evidence.runs import DENSE, Runs
from supertickets.lab.steps import Run
from supertickets.tickets.weights import WeightTicket

IMP, ROUND, START = "imp", "round", "start"
"""Kinds of runs: a ticket as it is judged, a round of the search that is not, a training up to a rewind point."""
RULES_SAID = {
    "sub_std": "the mean is at most one standard deviation of the ticket's own runs below the dense model's",
    "full_std": "the mean is at most one standard deviation of the dense model's runs below the dense model's",
    "strict": "the mean is at least the dense model's",
}
RULES = tuple(RULES_SAID)
_BY = ("kind", "sparsity", "rewind")


@dataclass(frozen=True)
class Way:
    """How the tickets of one way of rewinding compare with the dense model.

    `means` are the rows of its tickets, `best` that of the highest sparsity that matches (None: none does), `failing`
    the lower sparsities that do not match. `judged` says whether there are enough runs for the rule.
    """

    label: str
    means: pd.DataFrame
    judged: bool
    best: pd.Series | None
    failing: tuple[float, ...]


@dataclass(frozen=True)
class ImpFindings(Findings):
    """What a study of `imp` shows.

    `means` has a row a kind, sparsity and way of rewinding: mean, standard deviation (over seeds, n - 1), runs, the
    difference to the dense runs with its paired t-test, and whether it matches by each rule. `highest` is the highest
    matching sparsity of each way of rewinding (None: none matches) by `rule`; where single runs leave the rule that was
    `asked` undecided, that is `strict`. `sparsity` is that of the first way, or the highest there is: `table_2`, in the
    paper's layout, and `densities`, the kept shares by layer and matrix, are of it. `rewinding` compares the ways of
    rewinding with the first one, which `first_way` names, `similarity` the tickets of different seeds. `starved` is the
    lowest sparsity at which some tensor has next to no weights left, with the tensor's name.
    """

    means: pd.DataFrame
    highest: Mapping[str, float | None]
    asked: str
    rule: str
    sparsity: float | None
    table_2: pd.DataFrame
    rewinding: pd.DataFrame
    densities: pd.DataFrame
    similarity: pd.DataFrame
    first_way: str
    starved: tuple[float, str] | None

    text = "imp.txt.jinja"
    shown = {"means": "mean scores", "table 2": "Table 2"}  # noqa: RUF012

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of the page."""
        names = ("means", "table_2", "rewinding", "densities", "similarity")
        return {name.replace("_", " "): getattr(self, name) for name in names}

    @property
    def full(self) -> pd.Series | None:
        """The row of the dense model, None if no dense run finished."""
        dense = self.means[self.means["kind"] == DENSE]
        return None if dense.empty else dense.iloc[0]

    @property
    def ways(self) -> list[Way]:
        """What to say of each way of rewinding, the study's first one first."""
        found = []
        for label, highest in self.highest.items():
            rows = self.means[(self.means["kind"] == IMP) & (self.means["rewind"] == label)]
            best = None if highest is None else rows[rows["sparsity"] == highest].iloc[0]
            below = rows[rows["sparsity"] < (highest or 0.0)]
            failing = tuple(below[below[self.rule].eq(False)]["sparsity"])
            found.append(Way(label, rows, bool(rows[self.rule].notna().any()), best, failing))
        return found

    @property
    def controls(self) -> pd.DataFrame:
        """The means of the controls at the sparsity that is shown."""
        return self.means[~self.means["kind"].isin([DENSE, IMP]) & (self.means["sparsity"] == self.sparsity)]

    @property
    def rules(self) -> Mapping[str, str]:
        """What each rule means, in words."""
        return RULES_SAID

    @property
    def to_ship(self) -> list[float]:
        """The sparsities of tickets to ship, the best choice first: what matches, or else by what they gain."""
        if (main := self.highest.get("")) is not None:
            return [main]
        first = self.means[(self.means["kind"] == IMP) & (self.means["rewind"] == "")]
        found: list[float] = first.sort_values(["difference", "mean"], ascending=False)["sparsity"].tolist()
        return found


def analyse_imp(runs: Runs, rule: str) -> ImpFindings:
    """Look at all outcomes of a study of `imp`; `rule` says when a ticket matches the dense model."""
    table = runs.table
    found = compared_means(table)
    tickets = found[found["kind"] == IMP]
    used = rule if tickets[rule].notna().any() else "strict"  # single runs have no standard deviation
    matching = tickets[tickets[used].eq(True)].groupby("rewind")["sparsity"].max()
    highest = {str(way): float(matching[way]) if way in matching else None for way in tickets["rewind"].unique()}
    first = tickets[tickets["rewind"] == ""]["sparsity"]
    main = highest.get("")
    sparsity = main if main is not None else (float(first.max()) if len(first) else None)
    ticket = ticket_at(runs, sparsity) if sparsity is not None else None
    ways = [label for label in table["rewind"].unique() if label]
    return ImpFindings(
        runs=table,
        means=found,
        highest=highest,
        asked=rule,
        rule=used,
        sparsity=sparsity,
        table_2=_table_2(runs, found, sparsity),
        rewinding=paired_gains(
            table, {"kind": IMP, "rewind": ways}, {"kind": IMP, "rewind": ""}, ("rewind", "sparsity")
        ),
        densities=densities(ticket) if ticket is not None else pd.DataFrame(),
        similarity=_similarity(runs),
        first_way=first_way(runs),
        starved=_starved(runs),
    )


def first_way(runs: Runs) -> str:
    """Return how the tickets of a study's first way of rewinding came about, in words (others' say it themselves)."""
    first = str((runs.settings.get("rewind") or ("0",))[0])
    if first == "none":
        return "not rewound"
    return f"rewound to {first}" if float(first.removesuffix("%")) else "rewound"


def compared_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return means by kind, sparsity and way of rewinding, beside the dense runs' (see `ImpFindings.means`)."""
    judged = table[~table["kind"].isin([ROUND, START])]
    others = [kind for kind in judged["kind"].unique() if kind != DENSE]
    gains = paired_gains(judged, {"kind": others}, {"kind": DENSE, "sparsity": ..., "rewind": ...}, _BY)
    found = means(judged, _BY).merge(gains[[*_BY, "difference", "low", "high", "p", "p_holm"]], how="left", on=_BY)
    dense = found[found["kind"] == DENSE]
    of_dense = np.nan if dense.empty else float(dense["std"].iloc[0])
    for rule in RULES:
        found[rule] = matches(found, of_dense, rule)
    return found


def matches(tickets: pd.DataFrame, of_dense: float, rule: str) -> pd.Series:
    """Return whether tickets match the dense model by a rule; None for too few runs.

    `tickets` has the columns `difference`, the mean over the seeds that both have (so that a seed that diverged, or has
    not been run yet, does not decide), and `std`; `of_dense` is the dense runs' standard deviation. The paper says "one
    standard deviation"; its Table 2 agrees with the ticket's own (spec section 5.1).
    """
    spread: Any = {"strict": 0.0, "sub_std": tickets["std"], "full_std": of_dense}[rule]
    above = tickets["difference"] + spread
    return (above >= -1e-9).astype(object).where(above.notna(), None)


def ticket_at(runs: Runs, sparsity: float, **labels: str | int) -> WeightTicket | None:
    """Return the ticket of a sparsity of the first way and seed (or by labels), None if its file is not there (yet)."""
    found = runs.every(kind=IMP, sparsity=sparsity, **{"rewind": "", **labels})
    return next((ticket for run in found if (ticket := ticket_of(run)) is not None), None)


def ticket_of(run: Run) -> WeightTicket | None:
    """Return the ticket that a run trains, None if its file is not there (yet)."""
    path = mask_file(run)
    return WeightTicket.from_bytes(path.read_bytes(), str(path)) if path is not None else None


def mask_file(run: Run) -> Path | None:
    """Return the file of the masks of the ticket that a run trains, None if it is not there (yet)."""
    mask = run.trial.mask if run.trial is not None else None
    return mask.path if mask is not None and mask.path is not None and mask.path.is_file() else None


def place_of(name: str) -> tuple[str, str]:
    """Return where a prunable tensor is: its layer (`layer 0`, or what it is called) and which matrix of it it is."""
    parts = name.removesuffix(".weight").split(".")
    layers = [i for i, part in enumerate(parts) if part.isdigit()]
    if not layers:
        return parts[0], ".".join(parts[1:])
    return f"layer {parts[layers[0]]}", ".".join(parts[layers[0] + 1 :])


def densities(ticket: WeightTicket) -> pd.DataFrame:
    """Return the share of weights that stays, with a row a layer and a column a matrix of it."""
    return by_place({name: float(mask.mean()) for name, mask in ticket.masks.items()})


def by_place(values: Mapping[str, float]) -> pd.DataFrame:
    """Return a value a prunable tensor as a table with a row a layer and a column a matrix of it."""
    table: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        layer, matrix = place_of(name)
        table.setdefault(layer, {})[matrix] = value
    return pd.DataFrame.from_dict(table, orient="index")


STARVED = 0.01
"""A tensor that keeps less than this share hands on next to nothing, as an untrained pooler soon does."""


def _starved(runs: Runs) -> tuple[float, str] | None:
    """Return the lowest sparsity at which some tensor keeps next to no weights, and the tensor that keeps least."""
    for sparsity in _sparsities(runs):
        ticket = ticket_at(runs, sparsity)
        kept = {} if ticket is None else {name: float(mask.mean()) for name, mask in ticket.masks.items()}
        least = min(kept, key=lambda name: kept[name], default="")
        if least and kept[least] < STARVED:
            return sparsity, least
    return None


def _similarity(runs: Runs) -> pd.DataFrame:
    """Return how much tickets of different seeds overlap: Jaccard index of survivors, and what chance gives."""
    rows = []
    for sparsity in _sparsities(runs):
        tickets = map(ticket_of, runs.every(kind=IMP, sparsity=sparsity, rewind=""))
        pairs = combinations([ticket for ticket in tickets if ticket is not None], 2)
        if found := [(one.overlap(other), one.overlap(other, "tensors"), one.chance(other)) for one, other in pairs]:
            rows.append((sparsity, len(found), *np.mean(found, axis=0)))
    return pd.DataFrame(rows, columns=["sparsity", "pairs", "jaccard", "by tensor", "chance"])


def _sparsities(runs: Runs) -> list[float]:
    return sorted({float(run.step.labels["sparsity"]) for run in runs.every(kind=IMP)})


_ROWS = {
    DENSE: "Full model",
    IMP: "f(x, m_IMP . theta_0)",
    "one-shot": "f(x, m_one-shot . theta_0)",
    "random": "f(x, m_RP . theta_0)",
    "matched": "f(x, m_RP, IMP's densities . theta_0)",
    "random-weights": "f(x, m_IMP . theta_0')",
    "shuffled-layers": "f(x, m_IMP . theta_0''), layers",
    "shuffled-elements": "f(x, m_IMP . theta_0''), within tensors",
}
_THEIRS = {DENSE: "full", IMP: "imp", "random": "random", "random-weights": "random weights",
           "shuffled-layers": "shuffled"}  # fmt: skip


def _table_2(runs: Runs, found: pd.DataFrame, sparsity: float | None) -> pd.DataFrame:
    """Return the paper's Table 2 for the study's task, beside its own column (BERT-base). Cells are text."""
    task = runs.task.task
    theirs = published_weights()["table 2"].get(task)
    ours_title = f"{task} at {level(sparsity)}" if sparsity is not None else task
    first, rows = found[found["rewind"] == ""], {}
    for kind, title in _ROWS.items():
        at = first[(first["kind"] == kind) & ((kind == DENSE) | (first["sparsity"] == sparsity))]
        cells = {ours_title: with_std(*at[["mean", "std"]].iloc[0]) if len(at) else "-"}
        if theirs is not None:
            values = theirs.get(_THEIRS.get(kind), ())
            values = values if isinstance(values, list | tuple) else [values]
            cells[f"{task} at {theirs['sparsity']:.0%} (BERT-base, published)"] = with_std(*values) if values else "-"
        if any(cell != "-" for cell in cells.values()):
            rows[title] = cells
    return pd.DataFrame.from_dict(rows, orient="index")
