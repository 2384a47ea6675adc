"""What the page of a study of `share` says: scores, sizes, kept heads and FFNs, importance per task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.keepers import panel, share_of
from supertickets.evidence.labels import SHARED, TUNED
from supertickets.evidence.runs import Runs
from supertickets.evidence.share import ShareFindings, models_in, name_of
from supertickets.reports import sections as show
from supertickets.reports.maps import StructureMap, structure
from supertickets.reports.plots import COLOURS, draw_scores, laid_out, look, plain, short
from supertickets.reports.sections import Block, Heading, Section, Table, Words, titled
from supertickets.tickets.kinds import NAMES
from supertickets.tickets.ticket import alike

_MATTER = {
    "even": "about equally important to all tasks",
    "one task": "mostly important to one task",
    "two tasks": "mostly important to two tasks",
}
_APART = 0.14
"""How far models stand from each other at the same task."""
_PATTERNS = ("", "/", ".", "x")
_SAID = show.WORDS["share"]


def share_sections(findings: ShareFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `share`."""
    tasks = [task.task for task in findings.tasks]
    sections = [
        Section("", [Words(_SAID["about"], "quiet")]),
        Section("Scores and sizes", _scores(findings, tasks)),
        Section("Kept heads and FFNs", _structures(findings)),
        Section("Importance per task", _importance(findings.importance, tasks)),
    ]
    if findings.spread:
        sections.append(show.tables_section(findings.spread, "Sensitivity", _SAID["spread"]))
    return sections


def _scores(findings: ShareFindings, tasks: Sequence[str]) -> list[Block]:
    gains = Table(findings.gains, "gains of Ticket-Share over MT-DNN")
    meaning = show.tested("Ticket-Share minus MT-DNN", "the tasks of a stage")
    return [
        *titled("Table 3", Table(findings.table, "table 3"), _SAID["table"].format(show.beside(findings.table))),
        Heading("Scores by task"),
        show.of_seeds(scores_by_task(findings.runs, tasks), "Mean dev score of each model on each task"),
        *titled("Gains of Ticket-Share over MT-DNN", gains, meaning),
        *titled("Sizes", _sizes(findings), _SAID["sizes"]),
    ]


def _sizes(findings: ShareFindings) -> Table:
    """Return what each task's ticket keeps, then the mean over tasks and what some task keeps."""
    sizes, union = findings.sizes, reduce(or_, findings.tickets.values())
    *every, of_union = alike(*findings.tickets.values(), union)
    of_tasks = zip(findings.tickets, every, strict=True)
    kept = {task: [*(part.sum() for part in one.values()), sizes.by_task[task]] for task, one in of_tasks}
    *counts, _ = np.mean(list(kept.values()), axis=0)
    kept["mean of the tasks"] = [*counts, sizes.mean]
    kept["kept by at least one task"] = [*(part.sum() for part in of_union.values()), sizes.union]
    columns = [*(f"{NAMES[kind]} (of {part.size})" for kind, part in of_union.items()), "fraction of parameters"]
    return Table(pd.DataFrame.from_dict(kept, orient="index", columns=columns), "sizes of tickets", "{:,.5g}")


def _structures(findings: ShareFindings) -> list[Block]:
    tickets, together = findings.tickets, "How many tasks keep each head and FFN"
    blocks: list[Block] = [
        Heading(together),
        Words(_SAID["together"].format(len(tickets)), "key"),
        show.SharedMap(StructureMap.shared(together, tickets)),
        Heading("Each task's ticket"),
        Words(_SAID["maps"], "key"),
        show.Maps([StructureMap.of(task, ticket) for task, ticket in tickets.items()]),
        *titled("By layer", Table(findings.keepers, "kept heads and FFNs, by layer")),
        Heading("Overlap of tickets"),
    ]
    if len(tickets) > 2:
        alike = findings.overlaps.pivot(index="task", columns="other", values="kept")
        alike = alike.combine_first(alike.T).loc[list(tickets), list(tickets)]
        blocks += [
            Words(_SAID["overlap"], "key"),
            show.HeatMap(alike, "overlap of all pairs", "{:.0%}", shades=alike),
        ]
    return [*blocks, Table(findings.overlaps, "overlap of tickets"), Words(_SAID["overlaps"], "quiet")]


def _importance(importance: pd.DataFrame, tasks: Sequence[str]) -> list[Block]:
    """Return the panels of the paper's Figure 6 that have structures."""
    if importance.empty:
        return [Words(_SAID["unknown"])]
    blocks: list[Block] = [Words(_SAID["importance"], "key")]
    for pattern, matter in _MATTER.items():
        near, count = panel(importance, pattern), int((importance["pattern"] == pattern).sum())
        if count:
            more = f"; the {len(near)} nearest are shown" if len(near) < count else ""
            alt, caption = (words.format(matter, count, len(importance), more) for words in _SAID["panel"])
            blocks += [Heading(matter.capitalize()), show.Figure(importance_panel(near, tasks), alt, caption)]
    return blocks


def scores_by_task(runs: pd.DataFrame, tasks: Sequence[str]) -> go.Figure | None:
    """Return each model's mean score on each task, with every seed's beside it; None without any."""
    if not runs["score"].notna().any():
        return None
    figure, place = go.Figure(), {task: float(i) for i, task in enumerate(tasks)}
    names = [name_of(*model) for model in models_in(runs)]
    aside = {name: (i - (len(names) - 1) / 2) * _APART for i, name in enumerate(names)}
    rows = runs[runs["stage"].isin([SHARED, TUNED])]
    rows = rows.assign(name=[name_of(*model) for model in zip(rows["kind"], rows["stage"], strict=True)])
    rows = rows.assign(x=rows["task"].map(place) + rows["name"].map(aside), at=rows["task"].map(plain))
    draw_scores(figure, rows, {name: look(i) for i, name in enumerate(names)}, "markers")
    # Turned labels end at their place, so that none leaves the page.
    x = {"tickvals": list(place.values()), "ticktext": [short(task) for task in tasks], "zeroline": False}
    x |= {"autotickangles": [0, -45, -90], "range": [-0.5, len(tasks) - 0.5]}
    return laid_out(figure, x, "dev score (%)", showlegend=True)


def importance_panel(structures: pd.DataFrame, tasks: Sequence[str]) -> go.Figure:
    """Return a panel of the paper's Figure 6: a bar a structure, a segment each task's share of its importance."""
    figure, importance = go.Figure(), structures["importance"]
    named = structures[["part", "layer", "head"]].itertuples(index=False)
    names = [structure(layer, part, head) for part, layer, head in named]
    for i, task in enumerate(tasks):
        marker = {"color": COLOURS[i % len(COLOURS)], "line": {"width": 1, "color": "rgba(255,255,255,0.6)"}}
        marker["pattern"] = {"shape": _PATTERNS[i // len(COLOURS) % len(_PATTERNS)]}
        hover = f"%{{y}}<br>{plain(task)}: %{{x:.0%}} of its importance (%{{customdata:.2f}})<extra></extra>"
        figure.add_bar(
            x=structures[share_of(task)], y=names, orientation="h", name=short(task), marker=marker,
            customdata=importance, hovertemplate=hover,
        )  # fmt: skip
    figure.add_scatter(
        x=[1.0] * len(names), y=names, text=[f" {value:.2f}" for value in importance], mode="text",
        textposition="middle right", cliponaxis=False, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    x = {"title": "share of the importance", "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1.0]}
    return laid_out(
        figure, x | {"range": [0, 1]}, {"autorange": "reversed", "ticksuffix": " ", "showgrid": False},
        margin={"l": 55, "r": 50, "t": 10, "b": 50}, barmode="stack", bargap=0.25, showlegend=True,
        height=130 + 26 * len(names) + 10 * len(tasks),
    )  # fmt: skip
