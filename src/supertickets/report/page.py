"""The report page: everything inside one file, readable with no network."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from supertickets.evidence.table import Role, curves, select_super
from supertickets.report.figures import phase_curves, structure_map
from supertickets.storage import write_atomically
from supertickets.tasks import Task
from supertickets.tickets import Ticket


def write_report(
    path: Path,
    task: Task,
    table: pd.DataFrame,
    tickets: Mapping[Role, Ticket],
    verdict: str,
    settings: Mapping[str, Any],
    command: str,
) -> None:
    """Write the report of a study to `path`; `settings` has the effective ones, `command` repeats the study."""
    score = " and ".join(task.metrics) if len(task.metrics) < 3 else f"mean of {len(task.metrics)} metrics"
    chosen = select_super(table)
    maps = []
    if chosen is not None:
        role = Role("winning", float(chosen["level"]), int(chosen["seed"]))
        maps = [(str(role), _plot(structure_map(tickets[role])), _described(tickets[role]))]
    environment = Environment(
        loader=PackageLoader("supertickets.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        settings=settings,
        model="the default encoder" if settings["model"] == "default" else settings["model"],
        command=command,
        verdict=verdict,
        score=score,
        examples=(len(task.train), len(task.dev)),
        curves=_plot(phase_curves(table, score)),
        means=curves(table).to_dict("records"),
        maps=maps,
        columns=list(table.columns),
        rows=[[_cell(name, row[name]) for name in table.columns] for _, row in table.iterrows()],
        plotly=Markup(f"<script>{plotly.offline.get_plotlyjs()}</script>"),
        version=version("supertickets"),
    )
    write_atomically(path, page)


def _plot(figure: go.Figure) -> Markup:
    # Plotly writes the figure as JSON into a script; it escapes </script> and the like itself.
    return Markup(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True})
    )


def _described(ticket: Ticket) -> str:
    layers, heads = ticket.shape
    gone = ", ".join(str(layer) for layer in range(layers) if not ticket.ffns[layer])
    return f"{ticket.kept_heads} of {layers * heads} heads and {ticket.kept_ffns} of {layers} FFNs stay" + (
        f"; the FFNs of layers {gone} are gone" if gone else ""
    )


def _cell(name: str, value: object) -> str:
    if value is None or value != value:
        return "-"
    if name == "level":
        return f"{value:g}"
    if name == "remaining":
        return f"{value:.1%}"
    if name == "seconds":
        return f"{value:.1f}"
    if name == "flops":
        return f"{value:.3g}"
    if name in ("parameters", "tokens"):
        return f"{value:,.0f}"
    if name in ("seed", "heads", "ffns", "best_epoch"):
        return f"{value:.0f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
