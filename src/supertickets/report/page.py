"""The report page: everything inside one file, readable with no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from supertickets.evidence.table import Role, select_super
from supertickets.evidence.tables import Looked, in_order, names_of, task_average
from supertickets.report.figures import (
    StructureMap,
    cost_against_score,
    gains_by_level,
    phase_curves,
    score_distribution,
    ticket_agreement,
)
from supertickets.storage import write_atomically


@dataclass(frozen=True)
class Section:
    """One study on the page, ready to be shown."""

    id: str
    name: str
    model: str
    measure: str
    train: int
    dev: int
    complete: bool
    missing: int
    sentences: tuple[str, ...]
    selection: list[tuple[str, str, str, str]]
    plots: dict[str, Markup]
    means: list[dict[Any, Any]]
    maps: list[tuple[str, list[StructureMap]]]
    columns: list[str]
    rows: list[list[tuple[str, Any]]]
    settings: dict[str, Any]
    versions: dict[str, Any]
    command: str
    sensitivity: dict[str, dict[str, Any]]


def write_report(
    path: Path,
    studies: Sequence[Looked],
    tables: Mapping[str, pd.DataFrame],
    commands: Mapping[Path, str],
    sensitivity: Mapping[Path, Mapping[str, pd.DataFrame]],
) -> None:
    """Write one page about one study or several.

    `tables` are `gains` and the paper's tables, by name; `commands` has what repeats each, `sensitivity` its further
    tables by title, both by the study's folder.
    """
    ordered = in_order(studies)
    environment = Environment(
        loader=PackageLoader("supertickets.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    several, names = len(ordered) > 1, names_of(ordered)
    page = environment.get_template("report.html.jinja").render(
        title=f"Tickets in {len(ordered)} studies" if several else _title(ordered[0]),
        sections=[
            _section(f"study-{i}", name, one, commands[one.record.folder], sensitivity[one.record.folder])
            for i, (name, one) in enumerate(zip(names, ordered, strict=True))
        ],
        several=several,
        average=task_average(ordered).sentence() if several else "",
        tables={name: _grid(table) for name, table in tables.items() if name != "gains"},
        gains=_grid(tables["gains"]),
        by_level=_plot(
            gains_by_level([(name, one.conclusions.means) for name, one in zip(names, ordered, strict=True)])
        ),
        plotly=Markup(f"<script>{plotly.offline.get_plotlyjs()}</script>"),
        version=version("supertickets"),
    )
    write_atomically(path, page)


def _title(one: Looked) -> str:
    return f"Super ticket of {_model(one.record.subject.model)} on {one.record.name}"


def _model(name: str) -> str:
    return "the default encoder" if name == "default" else name


def _section(anchor: str, name: str, one: Looked, command: str, sensitivity: Mapping[str, pd.DataFrame]) -> Section:
    record, seen = one.record, one.conclusions
    subject, table = record.subject, record.table
    plots = {
        "phases": _plot(phase_curves(seen.means, subject.measure)),
        "distribution": _plot(score_distribution(table, subject.measure)),
        "cost": _plot(cost_against_score(table, subject.measure)),
    }
    if not seen.agreement.empty:
        plots["agreement"] = _plot(ticket_agreement(seen.agreement))
    outcome = next((row.outcome for row in record.rows if row.outcome is not None), None)
    return Section(
        id=anchor,
        name=name,
        model=_model(subject.model),
        measure=subject.measure,
        train=subject.train,
        dev=len(subject.targets),
        complete=record.complete,
        missing=sum(row.status == "missing" for row in record.rows),
        sentences=seen.sentences,
        selection=_selection(one),
        plots=plots,
        means=seen.means.to_dict("records"),
        maps=_maps(one),
        columns=list(table.columns),
        rows=_runs(table),
        settings=dict(record.settings),
        versions=dict(outcome.environment) if outcome is not None else {},
        command=command,
        sensitivity={title: _grid(table) for title, table in sensitivity.items()},
    )


def _runs(table: pd.DataFrame) -> list[list[tuple[str, Any]]]:
    """Return each run's cells as (shown, sort key)."""
    return [[(_cell(name, row[name]), _key(row[name])) for name in table.columns] for _, row in table.iterrows()]


def _selection(one: Looked) -> list[tuple[str, str, str, str]]:
    """Return rows of the table of gains: what was done, gain over dense, 95 % interval, p."""
    seen, rows = one.conclusions, []
    names = ("best level and epoch chosen on the dev set that scores it (the paper's way)", "the same choice, paid for")
    for name, gain in zip(names, (seen.paper, seen.honest), strict=True):
        if gain is not None:
            test = gain.test
            interval = f"{test.low:+.2f} to {test.high:+.2f}" if test.tested else "-"
            rows.append((name, f"{gain.mean:+.2f}", interval, f"{test.p:.2g}" if test.tested else "-"))
    if seen.control is not None:
        rows.append((f"best of {seen.controls} dense runs with other seeds", f"{seen.control.paper:+.2f}", "-", "-"))
        rows.append(("the same choice among dense runs, paid for", f"{seen.control.honest:+.2f}", "-", "-"))
    return rows


def _maps(one: Looked) -> list[tuple[str, list[StructureMap]]]:
    """Return the winning tickets as drawings, level by level."""
    chosen = select_super(one.record.table)
    best = None if chosen is None else Role("winning", float(chosen["level"]), int(chosen["seed"]))
    levels: dict[float, list[StructureMap]] = {}
    for row in sorted(one.record.rows, key=lambda row: (row.role.level, row.role.seed)):
        if row.role.kind == "winning" and row.role.level and row.ticket is not None:
            drawn = StructureMap.of(f"seed {row.role.seed}", row.ticket, row.role == best)
            levels.setdefault(row.role.level, []).append(drawn)
    return [(f"{level:.0%} pruned", maps) for level, maps in levels.items()]


_CONFIG = {"displayModeBar": False, "responsive": True}


def _plot(figure: go.Figure) -> Markup:
    # Plotly writes the figure as JSON into a script; it escapes </script> and the like itself.
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_width="100%",
        config=_CONFIG,
    )
    return Markup(html)


def _grid(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table for the template: column names and rows of (shown, sort key); an index of names comes first."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(names="")
    rows = [[(_number(value), _key(value)) for value in row] for row in table.itertuples(index=False)]
    return {"columns": list(table.columns), "rows": rows}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _number(value: Any) -> str:
    if _is_missing(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) and abs(value) < 0.01 and value else (
        f"{value:.2f}" if isinstance(value, float) else str(value)
    )  # fmt: skip


def _key(value: Any) -> Any:
    """Return what a cell is sorted by: a number as it is, what is missing last."""
    return "" if _is_missing(value) else value


def _cell(name: str, value: Any) -> str:
    if _is_missing(value):
        return "-"
    if name == "level":
        return f"{value:g}"
    if name in ("remaining", "inference"):
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
