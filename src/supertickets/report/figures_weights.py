"""The plots of studies of tickets of weights."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.magnitude import IMP
from supertickets.evidence.table import DENSE
from supertickets.report.figures_models import add_scores
from supertickets.report.style import GREY, Style, laid_out

_STYLES = {
    IMP: Style("#0072B2", "solid", "circle"),
    "one-shot": Style("#E69F00", "dash", "square"),
    "random": Style("#D55E00", "dot", "diamond"),
    "matched": Style("#CC79A7", "longdash", "triangle-up"),
    "random-weights": Style(GREY, "dot", "x"),
    "shuffled-layers": Style(GREY, "dash", "cross"),
    "shuffled-elements": Style(GREY, "longdashdot", "pentagon"),
}
_OTHER_WAYS = (
    Style("#009E73", "dashdot", "star"),
    Style("#56B4E9", "longdash", "triangle-down"),
    Style("#009E73", "dot", "hexagram"),
    Style("#56B4E9", "solid", "triangle-left"),
)
_SPARSITIES = {"title": "share of the prunable weights pruned", "tickformat": ".0%"}


def scores_by_sparsity(
    runs: pd.DataFrame, means: pd.DataFrame, lines: Mapping[tuple[str, str], str], measure: str, highest: float | None
) -> go.Figure:
    """Return mean scores by sparsity, with every seed's beside them and the dense model's as a line with a band.

    `lines` has the name of each line by kind and way of rewinding; `runs` and `means` are as `Magnitude` has them, and
    so is `highest`, the highest matching sparsity of the first way.
    """
    figure = go.Figure()
    ways = [variant for kind, variant in lines if kind == IMP and variant]
    for (kind, variant), name in lines.items():
        rows = runs[(runs["kind"] == kind) & (runs["variant"] == variant)]
        rows = rows.assign(x=rows["sparsity"], at=[f"{100 * sparsity:.4g} %" for sparsity in rows["sparsity"]])
        style = _OTHER_WAYS[ways.index(variant) % len(_OTHER_WAYS)] if variant else _STYLES[kind]
        add_scores(figure, name, style, rows, "lines+markers")
    _add_dense(figure, runs, means)
    if highest is not None:
        figure.add_vline(
            highest,
            line={"color": GREY, "dash": "dot", "width": 1},
            annotation={"text": "highest that matches", "font": {"size": 11}, "yanchor": "bottom", "showarrow": False},
            annotation_position="bottom left" if highest > 0.5 else "bottom right",
        )
    most = float(runs["sparsity"].max())
    x = _SPARSITIES | {"range": [-0.04 * most, 1.04 * most]}
    height = 420 + 14 * max(len(lines) - 4, 0)
    return laid_out(figure, x, {"title": f"dev {measure} (%)"}, showlegend=True, height=height)


def _add_dense(figure: go.Figure, runs: pd.DataFrame, means: pd.DataFrame) -> None:
    dense = means[means["kind"] == DENSE]
    if dense.empty:
        return
    mean, std = float(dense["mean"].iloc[0]), float(dense["std"].iloc[0])
    label = f"full model {mean:.2f}" + (f" ± {std:.2f}" if std == std else "")
    figure.add_scatter(
        x=[0.0, float(runs["sparsity"].max())],
        y=[mean] * 2,
        name=label,
        mode="lines",
        line={"color": GREY, "width": 1.5},
        hovertemplate=f"{label}<extra></extra>",
    )
    if std == std:
        figure.add_hrect(y0=mean - std, y1=mean + std, fillcolor=GREY, opacity=0.15, line_width=0)
    single = runs[(runs["kind"] == DENSE) & runs["score"].notna()]
    figure.add_scatter(
        x=[0.0] * len(single),
        y=single["score"],
        customdata=single["seed"],
        hovertemplate="full model, seed %{customdata}: %{y:.2f}<extra></extra>",
        showlegend=False,
        mode="markers",
        marker={"symbol": "circle-open", "size": 6, "color": GREY},
    )


def similarity_by_sparsity(similarity: pd.DataFrame) -> go.Figure:
    """Return how much of what stays the tickets of two seeds have in common, beside what chance gives."""
    figure = go.Figure()
    for column, name, style in (
        ("jaccard", "tickets of two seeds", _STYLES[IMP]),
        ("chance", "chance", Style(GREY, "dot", "x")),
    ):
        figure.add_scatter(
            x=similarity["sparsity"],
            y=similarity[column],
            name=name,
            mode="lines+markers",
            line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 8},
            hovertemplate=f"{name} %{{x:.0%}}: %{{y:.1%}}<extra></extra>",
        )
    return laid_out(
        figure, _SPARSITIES, {"title": "shared of what stays", "tickformat": ".0%", "range": [0, 1.05]}, height=340
    )
