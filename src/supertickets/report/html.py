"""What all pages are made of: everything inside one file, readable with no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from supertickets.evidence.record import Record
from supertickets.storage import write_atomically

RUNS = {
    **dict.fromkeys(("level", "sparsity"), "{:g}"),
    "examples": "{:,}",
    "remaining": "{:.1%}",
    "inference": "{:.1%}",
    "seconds": "{:.1f}",
    "flops": "{:.3g}",
    **dict.fromkeys(("parameters", "tokens"), "{:,.0f}"),
    **dict.fromkeys(("seed", "heads", "ffns", "best_epoch"), "{:.0f}"),
}
"""How numbers are shown in tables of runs, by column."""
GAINS = dict.fromkeys(("difference", "low", "high"), "{:+.2f}") | {"examples": "{:,}"}
"""The same in tables of gains."""


@dataclass(frozen=True)
class Grid:
    """A table for the template: column names, and rows of cells as (shown, sort key)."""

    columns: list[str]
    rows: list[list[tuple[str, Any]]]


@dataclass(frozen=True)
class Study:
    """What every page says of a study: what came out in words, all its runs, how to repeat it."""

    sentences: Sequence[str]
    complete: bool
    missing: int
    runs: Grid
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: str
    sensitivity: Mapping[str, Grid] = field(default_factory=dict)
    data: Sequence[tuple[str, Sequence[str]]] = ()

    @classmethod
    def of(
        cls,
        record: Record,
        sentences: Sequence[str],
        runs: pd.DataFrame,
        command: str,
        sensitivity: Mapping[str, pd.DataFrame] | None = None,
    ) -> "Study":
        """Return this of a study with a table of its runs (`status` says which are missing)."""
        outcome = next((row.outcome for row in record.rows if row.outcome is not None), None)
        return cls(
            sentences=sentences,
            complete=record.complete,
            missing=int((runs["status"] == "missing").sum()),
            runs=grid(runs, RUNS),
            settings=record.settings,
            versions=outcome.environment if outcome is not None else {},
            command=command,
            data=[(subject.task, subject.description) for subject in record.subjects if subject.description],
            sensitivity={title: grid(table) for title, table in (sensitivity or {}).items()},
        )


def write_html(path: Path, template: str, **content: Any) -> None:
    """Write a page: a template of this package with its content."""
    environment = Environment(
        loader=PackageLoader("supertickets.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = Markup(f"<script>{plotly.offline.get_plotlyjs()}</script>")
    page = environment.get_template(template).render(plotly=script, version=version("supertickets"), **content)
    write_atomically(path, page)


def model_name(name: str) -> str:
    """Return what a model is called on a page."""
    return "the default encoder" if name == "default" else name


_CONFIG = {"displayModeBar": False, "responsive": True}


def plot(figure: go.Figure) -> Markup:
    """Return a figure for the template."""
    # Plotly writes the figure as JSON into a script; it escapes </script> and the like itself.
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_width="100%",
        config=_CONFIG,
    )
    return Markup(html)


def grid(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> Grid:
    """Return a table for the template; `formats` are of numbers, by column. An index of names comes first."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(names=table.index.name or "")
    shown = [(formats or {}).get(name, "") for name in table.columns]
    rows = [
        [(_cell(value, form), "" if _is_missing(value) else value) for value, form in zip(row, shown, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    return Grid(list(table.columns), rows)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _cell(value: Any, form: str) -> str:
    if _is_missing(value):
        return "-"
    if form:
        return form.format(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2g}" if abs(value) < 0.01 and value else f"{value:.2f}"
    return str(value)
