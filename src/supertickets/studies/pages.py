"""Writing down what a study shows: its page and its tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.findings import Findings
from supertickets.evidence.runs import Runs
from supertickets.storage import write_atomically
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.study import Study

REPORT, TABLES = "report.html", "tables"
_ASKED = {"level", "sparsity", "fraction", "learning_rate", "batch_size", "epochs", "examples", "seed", "seeds", "runs"}


def write_findings(study: Study[Any], runs: Runs, findings: Findings, folder: Path | None = None) -> None:
    """Write `report.html` and `tables/` into a study's folder, or another one."""
    from supertickets.reports.page import write_page

    folder = folder or runs.folder
    write_tables(folder / TABLES, findings.tables())
    write_page(folder / REPORT, study.title(runs), study.sections(findings, runs), runs, findings, command_of(runs))


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], to_print: bool = True) -> None:
    """Write each table that has rows as CSV, and, where they are `to_print`, as Markdown and LaTeX.

    Of one without rows, what was written before goes: it belongs to no page any more.
    """
    for name, table in tables.items():
        stem = folder / name.replace(" ", "-")
        if table.empty:
            for suffix in (".csv", ".md", ".tex"):
                stem.with_suffix(suffix).unlink(missing_ok=True)
            continue
        named = not isinstance(table.index, pd.RangeIndex)
        write_atomically(stem.with_suffix(".csv"), as_csv(table, named))
        if not to_print:
            continue
        text = as_text(table)
        markdown = text.map(lambda cell: cell.replace("|", "\\|"))
        write_atomically(stem.with_suffix(".md"), markdown.to_markdown(index=named, disable_numparse=True) + "\n")
        write_atomically(stem.with_suffix(".tex"), text.to_latex(index=named, escape=True))


def as_csv(table: pd.DataFrame, named: bool = False) -> str:
    """Return a table as CSV, with its index if rows have names: whole numbers whole, others to ten digits."""

    def number(value: Any) -> str:
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.10g}"

    text: str = table.to_csv(index=named, float_format=number)
    return text


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table's cells as text; what a study was asked for, such as levels, with as many decimals as it has."""
    return table.apply(lambda column: column.map(lambda value: shown(value, column.name in _ASKED)))


def shown(value: Any, asked: bool = False) -> str:
    """Return a cell as text: two decimals (more for small numbers, or all if it was `asked` for), `-` for nothing."""
    if value is None or value is pd.NA:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        form = ".6g" if asked else ".3g" if -0.1 < value < 0.1 else ".2f"
        return f"{value:{form}}" if np.isfinite(value) else "-"
    return str(value)


def command_of(runs: Runs) -> str:
    """Return the command that repeats a study."""
    return shlex.join(["supertickets", str(runs.settings["study"]), "--config", str(runs.folder / SETTINGS_FILE)])
