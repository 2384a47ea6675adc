"""What the page of `find` says of soups: their gains, and the barriers between trainings by level."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from supertickets.evidence.runs import DENSE
from supertickets.evidence.soup import Soups
from supertickets.reports.plots import LEVELS, draw_each, draw_level, laid_out, look
from supertickets.reports.sections import WORDS, Figure, Section, Table, Words

_SAID = WORDS["find"]
_BARRIERS = {
    "barrier": "loss barrier",
    "barrier_std": "loss barrier std",
    "middle": "loss in the middle",
    "error_barrier": "error barrier",
    "error_std": "error barrier std",
}


def soup_section(soups: Soups) -> Section:
    """Return the section of soups: a table of gains, and a figure and a table of barriers by level."""
    barriers = soups.barriers.rename(columns=_BARRIERS)
    figure = [Figure(barriers_by_level(soups), *_SAID["barriers"])] if len(barriers) else []
    gains = Table(soups.gains, "gains of soups")
    return Section(
        "Soups",
        [gains, Words(_SAID["soups"].format(soups.members), "quiet"), *figure, Table(barriers, "barriers by level"),
         Words(_SAID["barrier"], "quiet")],
    )  # fmt: skip


def barriers_by_level(soups: Soups) -> go.Figure:
    """Return mean barriers of winning tickets by level with one standard deviation over seeds, the dense one beside."""
    name, deviation = ("barrier", "barrier_std") if soups.has_loss else ("error_barrier", "error_std")
    spread = soups.barriers[deviation].fillna(0.0)
    rows = soups.barriers.assign(low=soups.barriers[name] - spread, high=soups.barriers[name] + spread)
    figure = go.Figure()
    hover = "%{x:.0%}<br>barrier %{y:.3g} (± one standard deviation: %{customdata[0]:.3g} to %{customdata[1]:.3g})"
    draw_each(figure, rows, {"winning": look(0)}, "level", name, hover, ["low", "high"])
    for _, row in rows[rows["kind"] == DENSE].iterrows():
        most = float(np.nanmax(rows["level"].astype(float)))
        draw_level(figure, f"dense {row[name]:.3g}", row[name], most, row["low"], row["high"])
    return laid_out(figure, LEVELS, f"{'loss' if soups.has_loss else 'error'} barrier on the dev set")
