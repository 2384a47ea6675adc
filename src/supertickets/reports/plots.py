"""How plots look. Colours differ for colour-blind readers too (Okabe and Ito), and so do dashes and marks.

Text takes its colour from the page's style sheet, so that plots follow light, dark and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True)
class Style:
    """How a kind of run, or a model, is drawn."""

    colour: str
    dash: str
    symbol: str


GREY = "#7f7f7f"
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", GREY, "#F0E442")
_DASHES = ("solid", "dash", "dot", "longdash", "dashdot", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "star", "triangle-up", "pentagon", "triangle-down", "hexagram", "cross")
DENSE, CHANCE = Style(GREY, "solid", "x"), Style(GREY, "dot", "cross")
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 55, "r": 15, "t": 10, "b": 50},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    "hovermode": "closest",
    "hoverlabel": {"bgcolor": "#1b1f24", "bordercolor": GREY},
    "height": 420,
}
_GRID = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)", "automargin": True}
_LONGEST = 24
LEVELS = {"title": "level (fraction pruned)", "tickformat": ".0%"}
"""The axis of levels, which are fractions of structures or of their parameters."""


def look(place: int) -> Style:
    """Return how what is at a place of a list is drawn: no two look alike. Yellow is too pale for lines."""
    return Style(*(of[place % len(of)] for of in (COLOURS[:-1], _DASHES, _SYMBOLS)))


def laid_out(figure: go.Figure, x: dict[str, Any], y: dict[str, Any] | str, **layout: Any) -> go.Figure:
    """Return a figure with the look of all plots and these axes (or what the y axis shows)."""
    figure.update_layout(**{**_LAYOUT, **layout})
    figure.update_xaxes(**{**_GRID, **x})
    figure.update_yaxes(**{**_GRID, **({"title": y} if isinstance(y, str) else y)})
    return figure


def draw(figure: go.Figure, name: str, style: Style, x: Any, y: Any, hover: str, data: Any = None, **more: Any) -> None:
    """Draw a curve, or marks. `hover` says what a point says, in plotly's way: `data` is its `customdata`."""
    how: dict[str, Any] = {
        "mode": "lines+markers",
        "line": {"color": style.colour, "dash": style.dash},
        "marker": {"symbol": style.symbol, "size": 8, "color": style.colour},
    }
    name, hover = plain(name), f"{hover}<extra></extra>"
    figure.add_scatter(x=x, y=y, name=name, customdata=data, hovertemplate=hover, **{**how, **more})


def draw_each(
    figure: go.Figure, rows: pd.DataFrame, styles: Mapping[str, Style], x: str, y: str, hover: str,
    data: Sequence[str] = (), **more: Any,
) -> None:  # fmt: skip
    """Draw a curve, or marks, of each `kind` of rows, in the order of styles; x, y and data name columns.

    Where rows have `low` and `high`, those are the ends of bars.
    """
    for kind, style in styles.items():
        of = rows[rows["kind"] == kind]
        if of.empty:
            continue
        if "low" in data:
            more["error_y"] = bars(of["high"] - of[y], of[y] - of["low"])
        draw(figure, kind, style, of[x], of[y], f"{plain(kind)} {hover}", of[list(data)], **more)


def bars(up: pd.Series, down: pd.Series) -> dict[str, Any]:
    """Return the bars of an interval in plotly's way."""
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1, "width": 3}


def draw_level(figure: go.Figure, label: str, y: float, to: float, low: float, high: float) -> None:
    """Draw what the dense model scores as a line from 0 to `to`, with a band."""
    hover, line = f"{label} ({low:.2f} to {high:.2f})" if low < high else label, {"color": GREY, "width": 1.5}
    draw(figure, label, DENSE, [0.0, to], [y, y], hover, mode="lines", line=line)
    if low < high:
        figure.add_hrect(y0=low, y1=high, fillcolor=GREY, opacity=0.13, line_width=0)


def draw_scores(
    figure: go.Figure,
    runs: pd.DataFrame,
    styles: Mapping[str, Style],
    mode: str = "lines+markers",
    bar: bool = False,
) -> None:
    """Draw means over seeds of each `name`, and its finished runs as small open marks; `at` says where `x` is."""
    for name, style in styles.items():
        own = runs[(runs["name"] == name) & runs["score"].notna()]
        means = own.groupby(["x", "at"], sort=True)["score"].agg(["mean", "std", "count"]).reset_index()
        said = [
            f"{row['mean']:.2f}" + (f" ± {row['std']:.2f}, {row['count']} seeds" if row["count"] > 1 else ", one seed")
            for _, row in means.iterrows()
        ]
        hover, group = f"{plain(name)}<br>%{{customdata[0]}}", {"legendgroup": plain(name)}
        draw(
            figure, name, style, means["x"], means["mean"], f"{hover}: %{{customdata[1]}}",
            np.array([means["at"], said], dtype=object).T, mode=mode, **group,
            error_y=bars(means["std"], means["std"]) if bar else None,
            line={"color": style.colour, "dash": style.dash, "width": 1.5},
            marker={"symbol": style.symbol, "size": 11, "color": style.colour},
        )  # fmt: skip
        draw(
            figure, name, style, own["x"], own["score"], f"{hover}, seed %{{customdata[1]}}: %{{y:.2f}}",
            own[["at", "seed"]], mode="markers", **group, showlegend=False,
            marker={"symbol": f"{style.symbol}-open", "size": 6, "color": style.colour},
        )  # fmt: skip


def plain(text: str) -> str:
    """Return text that plotly, which reads a few tags in labels, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def short(text: str) -> str:
    """Return a label for an axis, where a long name would take the plot's place."""
    return plain(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
