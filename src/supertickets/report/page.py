"""The page about tickets of single tasks: one study, or several side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from supertickets.evidence.table import Role, select_super
from supertickets.evidence.tables import Looked, in_order, names_of, task_average
from supertickets.report.figures import (
    cost_against_score,
    gains_by_level,
    phase_curves,
    score_distribution,
    ticket_agreement,
)
from supertickets.report.html import RUNS, Grid, Study, grid, model_name, plot, write_html
from supertickets.report.maps import StructureMap


@dataclass(frozen=True)
class Section:
    """One study on the page, ready to be shown."""

    id: str
    name: str
    model: str
    measure: str
    train: int
    dev: int
    study: Study
    selection: list[tuple[str, str, str, str]]
    plots: dict[str, Markup]
    means: Grid
    maps: list[tuple[str, list[StructureMap]]]


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
    several, names = len(ordered) > 1, names_of(ordered)
    write_html(
        path,
        "report.html.jinja",
        title=f"Tickets in {len(ordered)} studies" if several else _title(ordered[0]),
        sections=[
            _section(f"study-{i}", name, one, commands[one.record.folder], sensitivity[one.record.folder])
            for i, (name, one) in enumerate(zip(names, ordered, strict=True))
        ],
        several=several,
        average=task_average(ordered).sentence() if several else "",
        tables={name: grid(table) for name, table in tables.items() if name != "gains"},
        gains=grid(tables["gains"]),
        by_level=plot(
            gains_by_level([(name, one.conclusions.means) for name, one in zip(names, ordered, strict=True)])
        ),
    )


def _title(one: Looked) -> str:
    return f"Super ticket of {model_name(one.record.subject.model)} on {one.record.name}"


def _section(anchor: str, name: str, one: Looked, command: str, sensitivity: Mapping[str, pd.DataFrame]) -> Section:
    record, seen = one.record, one.conclusions
    subject, table = record.subject, record.table
    plots = {
        "phases": plot(phase_curves(seen.means, subject.measure)),
        "distribution": plot(score_distribution(table, subject.measure)),
        "cost": plot(cost_against_score(table, subject.measure)),
    }
    if not seen.agreement.empty:
        plots["agreement"] = plot(ticket_agreement(seen.agreement))
    titles = {"std": "standard deviation", "low": "95 % low", "high": "95 % high"}
    columns = ["kind", "level", "mean", "std", "low", "high", "runs"]
    return Section(
        id=anchor,
        name=name,
        model=model_name(subject.model),
        measure=subject.measure,
        train=subject.train,
        dev=len(subject.targets),
        study=Study.of(record, seen.sentences, table, command, sensitivity),
        selection=_selection(one),
        plots=plots,
        means=grid(seen.means[columns].rename(columns=titles).reset_index(drop=True), RUNS),
        maps=_maps(one),
    )


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
