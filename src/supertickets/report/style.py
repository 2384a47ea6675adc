"""How plots look. Colours tell kinds apart for colour-blind readers too (Okabe and Ito); so do dashes and marks.

Text takes its colour from the page's style sheet, so that plots follow light, dark and print.
"""

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True)
class Style:
    """How a kind of run, or a model, is drawn."""

    colour: str
    dash: str
    symbol: str


GREY = "#7f7f7f"
TASKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", GREY, "#F0E442")
_MODELS = (
    Style("#D55E00", "dash", "square"),
    Style("#E69F00", "dot", "diamond"),
    Style("#0072B2", "solid", "circle"),
    Style("#009E73", "dashdot", "star"),
    Style(GREY, "longdash", "x"),
    Style("#CC79A7", "longdashdot", "triangle-up"),
)
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


def of_model(place: int) -> Style:
    """Return how the model at a place of a list is drawn."""
    return _MODELS[place % len(_MODELS)]


def laid_out(figure: go.Figure, x: dict[str, Any], y: dict[str, Any], **layout: Any) -> go.Figure:
    """Return a figure with the look of all plots and these axes."""
    figure.update_layout(**{**_LAYOUT, **layout})
    figure.update_xaxes(**{**_GRID, **x})
    figure.update_yaxes(**{**_GRID, **y})
    return figure


def plain(text: str) -> str:
    """Return text that plotly, which reads a few tags in labels, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def short(text: str) -> str:
    """Return a label for an axis, where a long name would take the plot's place."""
    return plain(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
