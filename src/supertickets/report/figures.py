"""The report's plots. Colours tell kinds apart for colour-blind readers too (Okabe and Ito), and so do dashes."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.table import DENSE, curves
from supertickets.tickets import Ticket

_STYLES = {
    "winning": ("#0072B2", "solid", "circle"),
    "random": ("#E69F00", "dash", "square"),
    "losing": ("#D55E00", "dot", "diamond"),
}
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "color": "#808080"},
    "margin": {"l": 60, "r": 20, "t": 20, "b": 55},
}
_GRID = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)"}


def phase_curves(table: pd.DataFrame, score: str) -> go.Figure:
    """Return the phase-transition plot: mean score by level for each kind, a standard deviation either way."""
    figure = go.Figure()
    means = curves(table)
    for kind, (colour, dash, symbol) in _STYLES.items():
        curve = means[means["kind"] == kind]
        if curve.empty:
            continue
        spread = curve["std"] if (curve["runs"] > 1).any() else None
        figure.add_scatter(
            x=curve["level"],
            y=curve["mean"],
            error_y=None if spread is None else {"type": "data", "array": spread.fillna(0.0), "thickness": 1},
            customdata=np.column_stack([curve["std"], curve["runs"]]),
            hovertemplate=f"{kind} %{{x:.0%}}<br>mean %{{y:.2f}}<br>standard deviation %{{customdata[0]:.2f}}"
            "<br>%{customdata[1]} runs<extra></extra>",
            name=f"{kind} tickets",
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 8},
        )
    dense = means[means["kind"] == DENSE]
    if not dense.empty:
        mean, std = float(dense["mean"].iloc[0]), float(dense["std"].iloc[0])
        label = f"dense {mean:.2f}" + (f" ± {std:.2f}" if std == std else "")
        levels = [0.0, float(table["level"].max())]
        figure.add_scatter(
            x=levels,
            y=[mean, mean],
            name=label,
            mode="lines",
            line={"color": "#808080", "width": 1.5},
            hovertemplate=label + "<extra></extra>",
        )
        if std == std:
            figure.add_hrect(y0=mean - std, y1=mean + std, fillcolor="#808080", opacity=0.12, line_width=0)
    figure.update_layout(**_LAYOUT, height=440, legend={"orientation": "h", "y": 1.08}, hovermode="closest")
    figure.update_xaxes(title="share of heads and of FFNs pruned", tickformat=".0%", **_GRID)
    figure.update_yaxes(title=f"dev {score} (%)", **_GRID)
    return figure


def structure_map(ticket: Ticket) -> go.Figure:
    """Return a layer x head map of what a ticket keeps, with a column for the FFNs."""
    layers, heads = ticket.shape
    kept = np.column_stack([ticket.heads, ticket.ffns]).astype(int)
    names = [f"head {head}" for head in range(heads)] + ["FFN"]
    text = [
        [f"layer {layer}, {name}: {'kept' if kept[layer, i] else 'pruned'}" for i, name in enumerate(names)]
        for layer in range(layers)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=kept,
            x=[*map(str, range(heads)), "FFN"],
            y=[str(layer) for layer in range(layers)],
            customdata=text,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[[0, "rgba(128,128,128,0.18)"], [1, "#0072B2"]],
            zmin=0,
            zmax=1,
            xgap=3,
            ygap=3,
            showscale=False,
        )
    )
    figure.update_layout(**_LAYOUT, height=80 + 28 * layers)
    figure.update_xaxes(title="head", type="category", showgrid=False)
    figure.update_yaxes(title="layer", type="category", autorange="reversed", showgrid=False)
    return figure
