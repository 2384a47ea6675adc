"""The plots of studies of several models: of tasks that share tickets, and of a new task with few examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.keepers import share_of
from supertickets.report.maps import structure
from supertickets.report.style import TASKS, Style, laid_out, of_model, plain, short

_APART = 0.14
"""How far models stand from each other where they have the same place."""
_PATTERNS = ("", "/", ".", "x")


def scores_by_task(runs: pd.DataFrame, models: Sequence[str], tasks: Sequence[str]) -> go.Figure:
    """Return each model's mean score on each task, with every seed's beside it; `runs` are as `Sharing` has them."""
    figure = go.Figure()
    place = {task: float(i) for i, task in enumerate(tasks)}
    for i, model in enumerate(models):
        rows = runs[runs["model"] == model]
        shift = (i - (len(models) - 1) / 2) * _APART
        rows = rows.assign(x=rows["task"].map(place) + shift, at=rows["task"].map(plain))
        add_scores(figure, model, of_model(i), rows, "markers")
    x = _of_tasks(tasks) | {"range": [-0.5, len(tasks) - 0.5]}
    return laid_out(figure, x, {"title": "dev score (%)"}, showlegend=True)


def _of_tasks(tasks: Sequence[str]) -> dict[str, Any]:
    """Return an axis with a place for each task; turned labels end at their place, so that none leaves the page."""
    names = [short(task) for task in tasks]
    return {"tickvals": list(range(len(tasks))), "ticktext": names, "autotickangles": [0, -45, -90], "zeroline": False}


def scores_by_examples(runs: pd.DataFrame, models: Sequence[str], measure: str) -> go.Figure:
    """Return each model's mean score by number of training examples, with its standard deviation and every seed's."""
    figure = go.Figure()
    counts = sorted(set(runs["examples"]))
    gaps = np.diff(np.log(counts))
    apart = float(gaps.min()) * _APART / 4 if len(gaps) else 0.01
    for i, model in enumerate(models):
        rows = runs[runs["model"] == model]
        shift = np.exp((i - (len(models) - 1) / 2) * apart)
        rows = rows.assign(x=rows["examples"] * shift, at=rows["examples"].map("{:,} examples".format))
        add_scores(figure, model, of_model(i), rows, "lines+markers", spread=True)
    x = {"title": "training examples", "type": "log", "tickvals": counts, "ticktext": [f"{n:,}" for n in counts]}
    return laid_out(figure, x, {"title": f"dev {measure} (%)"}, showlegend=True)


def add_scores(
    figure: go.Figure, model: str, style: Style, runs: pd.DataFrame, mode: str, spread: bool = False
) -> None:
    """Draw a model's means over seeds, and its finished runs as small open marks; `at` says where `x` is."""
    name = plain(model)
    runs = runs[runs["score"].notna()]
    means = runs.groupby(["x", "at"], sort=True)["score"].agg(["mean", "std", "count"]).reset_index()
    said = [
        f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}, {row['count']} seeds" if row["count"] > 1 else ", one seed")
        for _, row in means.iterrows()
    ]
    figure.add_scatter(
        x=means["x"],
        y=means["mean"],
        error_y={"type": "data", "array": means["std"], "thickness": 1, "width": 4} if spread else None,
        customdata=np.array([means["at"], said], dtype=object).T,
        hovertemplate=f"{name}<br>%{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
        name=name,
        legendgroup=name,
        mode=mode,
        line={"color": style.colour, "dash": style.dash, "width": 1.5},
        marker={"symbol": style.symbol, "size": 11, "color": style.colour},
    )
    figure.add_scatter(
        x=runs["x"],
        y=runs["score"],
        customdata=runs[["at", "seed"]],
        hovertemplate=f"{name}<br>%{{customdata[0]}}, seed %{{customdata[1]}}: %{{y:.2f}}<extra></extra>",
        legendgroup=name,
        showlegend=False,
        mode="markers",
        marker={"symbol": f"{style.symbol}-open", "size": 6, "color": style.colour},
    )


def importance_panel(structures: pd.DataFrame, tasks: Sequence[str]) -> go.Figure:
    """Return a panel of the paper's Figure 6: a bar a structure, a segment each task's share of its importance."""
    figure = go.Figure()
    names = [
        structure(layer, None if part == "FFN" else head)
        for part, layer, head in zip(structures["part"], structures["layer"], structures["head"], strict=True)
    ]
    for i, task in enumerate(tasks):
        figure.add_bar(
            x=structures[share_of(task)],
            y=names,
            orientation="h",
            customdata=structures["importance"],
            hovertemplate=f"%{{y}}<br>{plain(task)}: %{{x:.0%}} of its importance (%{{customdata:.2f}})<extra></extra>",
            name=short(task),
            marker={
                "color": TASKS[i % len(TASKS)],
                "pattern": {"shape": _PATTERNS[i // len(TASKS) % len(_PATTERNS)]},
                "line": {"width": 1, "color": "rgba(255,255,255,0.6)"},
            },
        )
    figure.add_scatter(
        x=[1.0] * len(names),
        y=names,
        text=[f" {value:.2f}" for value in structures["importance"]],
        mode="text",
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )
    return laid_out(
        figure,
        {"title": "share of a structure's importance", "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1.0]}
        | {"range": [0, 1]},
        {"autorange": "reversed", "ticksuffix": " ", "showgrid": False},
        margin={"l": 55, "r": 50, "t": 10, "b": 50},
        barmode="stack",
        bargap=0.25,
        showlegend=True,
        height=130 + 26 * len(names) + 10 * len(tasks),
    )


def overlap_map(overlaps: pd.DataFrame, tasks: Sequence[str]) -> go.Figure:
    """Return how much of what stays every two tasks have in common, as shades with numbers."""
    places = range(len(tasks))
    of = {(row["task"], row["other"]): row["kept"] for _, row in overlaps.iterrows()}
    kept = [[of.get((a, b), of.get((b, a), np.nan)) for b in tasks] for a in tasks]
    text = [["" if np.isnan(value) else f"{value:.0%}" for value in row] for row in kept]
    names = [plain(task) for task in tasks]
    figure = go.Figure(
        go.Heatmap(
            x=list(places),
            y=list(places),
            z=kept,
            text=text,
            texttemplate="%{text}",
            customdata=[[f"{a} and {b}" for b in names] for a in names],
            hovertemplate="%{customdata}: %{z:.1%}<extra></extra>",
            # Shades stay pale enough on light and dark pages for numbers in the page's colour of text.
            colorscale=[[0, "rgba(0,114,178,0.12)"], [1, "rgba(0,114,178,0.6)"]],
            showscale=False,
            hoverongaps=False,
            xgap=2,
            ygap=2,
        )
    )
    ticks = _of_tasks(tasks) | {"showgrid": False}
    return laid_out(figure, ticks, ticks | {"autorange": "reversed"}, height=130 + 44 * len(tasks))
