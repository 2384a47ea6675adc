"""The plots of a study of one task's tickets, and of several such studies."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.table import CONTROL, DENSE
from supertickets.report.style import GREY, TASKS, Style, laid_out, plain

STYLES = {
    DENSE: Style(GREY, "solid", "x"),
    "winning": Style("#0072B2", "solid", "circle"),
    "random": Style("#E69F00", "dash", "square"),
    "losing": Style("#D55E00", "dot", "diamond"),
    CONTROL: Style(GREY, "dot", "cross"),
    "super": Style("#009E73", "solid", "star"),
}
_LEVELS = {"title": "share of heads and of FFNs pruned", "tickformat": ".0%"}


def phase_curves(means: pd.DataFrame, measure: str) -> go.Figure:
    """Return the phase-transition plot (paper, Figure 4): mean score by level for each kind, with its interval."""
    figure = go.Figure()
    for kind in ("winning", "random", "losing"):
        curve, style = means[means["kind"] == kind], STYLES[kind]
        if curve.empty:
            continue
        figure.add_scatter(
            x=curve["level"],
            y=curve["mean"],
            error_y={
                "type": "data",
                "array": curve["high"] - curve["mean"],
                "arrayminus": curve["mean"] - curve["low"],
                "thickness": 1,
                "width": 3,
            },
            customdata=curve[["std", "runs", "low", "high"]],
            hovertemplate=f"{kind} %{{x:.0%}}<br>mean %{{y:.2f}} (95 %: %{{customdata[2]:.2f}} to "
            "%{customdata[3]:.2f})<br>standard deviation %{customdata[0]:.2f}<br>%{customdata[1]} runs<extra></extra>",
            name=f"{kind} tickets",
            mode="lines+markers",
            line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 8},
        )
    dense = means[means["kind"] == DENSE]
    if not dense.empty:
        row = dense.iloc[0]
        label = f"dense {row['mean']:.2f}"
        figure.add_scatter(
            x=[0.0, float(means["level"].max())],
            y=[row["mean"]] * 2,
            name=label,
            mode="lines",
            line={"color": STYLES[DENSE].colour, "width": 1.5},
            hovertemplate=f"{label} (95 %: {row['low']:.2f} to {row['high']:.2f})<extra></extra>",
        )
        figure.add_hrect(y0=row["low"], y1=row["high"], fillcolor=STYLES[DENSE].colour, opacity=0.12, line_width=0)
    return laid_out(figure, _LEVELS, {"title": f"dev {measure} (%)"})


def score_distribution(table: pd.DataFrame, measure: str) -> go.Figure:
    """Return every run's score as a point, by kind and level: what the means are made of."""
    figure = go.Figure()
    finished = table[table["status"] == "finished"]
    for kind, style in STYLES.items():
        runs = finished[finished["kind"] == kind]
        if runs.empty:
            continue
        offset = {"winning": -0.012, "losing": 0.012, CONTROL: 0.012}.get(kind, 0.0)
        figure.add_scatter(
            x=runs["level"] + offset,
            y=runs["score"],
            customdata=runs[["level", "seed"]],
            hovertemplate=f"{kind} %{{customdata[0]:.0%}}, seed %{{customdata[1]}}<br>%{{y:.2f}}<extra></extra>",
            name=kind,
            mode="markers",
            marker={"symbol": style.symbol, "size": 8, "color": style.colour, "opacity": 0.75},
        )
    return laid_out(figure, _LEVELS, {"title": f"dev {measure} (%)"})


def cost_against_score(table: pd.DataFrame, measure: str) -> go.Figure:
    """Return mean score against cost, with the front of what nothing cheaper beats."""
    figure = go.Figure()
    finished = table[(table["status"] == "finished") & (table["kind"] != CONTROL)]
    grouped = finished.groupby(["kind", "level"], sort=False)[["inference", "remaining", "score"]].mean().reset_index()
    for kind, style in STYLES.items():
        points = grouped[grouped["kind"] == kind]
        if points.empty:
            continue
        figure.add_scatter(
            x=points["inference"],
            y=points["score"],
            customdata=points[["level", "remaining"]],
            hovertemplate=f"{kind} %{{customdata[0]:.0%}}<br>%{{y:.2f}} at %{{x:.0%}} of the FLOPs, "
            "%{customdata[1]:.0%} of the parameters<extra></extra>",
            name=kind,
            mode="markers",
            marker={"symbol": style.symbol, "size": 10, "color": style.colour},
        )
    front = _front(grouped)
    figure.add_scatter(
        x=front["inference"],
        y=front["score"],
        name="nothing cheaper is better",
        mode="lines",
        line={"color": "#009E73", "shape": "hv", "width": 1.5},
        hoverinfo="skip",
    )
    return laid_out(
        figure,
        {"title": "forward FLOPs, share of dense", "tickformat": ".0%"},
        {"title": f"mean dev {measure} (%)"},
    )


def _front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no cheaper or equally dear one reaches, cheapest first."""
    ordered = points.sort_values(["inference", "score"], ascending=[True, False])
    best_before = ordered["score"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["score"] > best_before]


def ticket_agreement(agreement: pd.DataFrame) -> go.Figure:
    """Return how far the winning tickets of different seeds prune the same structures, with what chance gives."""
    figure = go.Figure()
    for part, name, style in (("heads", "heads", STYLES["winning"]), ("ffns", "FFNs", STYLES["random"])):
        figure.add_scatter(
            x=agreement["level"],
            y=agreement[part],
            customdata=agreement[f"{part}_chance"],
            name=f"{name} that another seed pruned too",
            mode="lines+markers",
            line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 8},
            hovertemplate=f"%{{x:.0%}}: %{{y:.0%}} of the {name} pruned are the same; chance %{{customdata:.0%}}"
            "<extra></extra>",
        )
    figure.add_scatter(
        x=agreement["level"],
        y=agreement["heads_chance"],
        name="chance",
        mode="lines",
        line={"color": GREY, "dash": "dot"},
        hovertemplate="chance %{y:.0%}<extra></extra>",
    )
    return laid_out(figure, _LEVELS, {"title": "shared between seeds", "tickformat": ".0%", "range": [0, 1.05]})


def gains_by_level(curves: Sequence[tuple[str, pd.DataFrame]]) -> go.Figure:
    """Return, for several studies, the winning tickets' mean gain over the dense mean at each level."""
    figure = go.Figure()
    for i, (name, means) in enumerate(curves):
        dense = means[means["kind"] == DENSE]["mean"]
        winning = means[means["kind"] == "winning"]
        if dense.empty or winning.empty:
            continue
        figure.add_scatter(
            x=winning["level"],
            y=winning["mean"] - float(dense.iloc[0]),
            name=plain(name),
            mode="lines+markers",
            line={"color": TASKS[i % len(TASKS)], "dash": ("solid", "dash", "dot", "dashdot")[i // len(TASKS) % 4]},
            marker={"symbol": i % 10, "size": 8},
            hovertemplate=f"{plain(name)}<br>%{{x:.0%}}: %{{y:+.2f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    return laid_out(figure, _LEVELS, {"title": "winning tickets' mean gain over dense"}, showlegend=True)
