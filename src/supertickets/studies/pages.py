"""Writing what studies show: the page and the paper's tables."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from supertickets.evidence.conclusions import Conclusions, conclude
from supertickets.evidence.record import Record
from supertickets.evidence.tables import Looked, gains, paper_tables, write_tables
from supertickets.studies.settings import SETTINGS_FILE

REPORT = "report.html"
TABLES = "tables"
SENSITIVITY = "sensitivity"


def write_study_report(record: Record) -> Conclusions:
    """Write a study's page and tables into its folder, and return what they say."""
    conclusions = conclude(record)
    write_page(record.folder, [Looked(record, conclusions)])
    return conclusions


def write_page(folder: Path, studies: Sequence[Looked]) -> Mapping[str, pd.DataFrame]:
    """Write `report.html` and `tables/` into a folder; return the tables by name."""
    from supertickets.report.page import write_report

    commands = {one.record.folder: command_of(one.record) for one in studies}
    more = {one.record.folder: sensitivity_tables(one.record.folder) for one in studies}
    tables = {"gains": gains(studies), **paper_tables(studies)}
    write_report(folder / REPORT, studies, tables, commands, more)
    write_tables(folder / TABLES, tables)
    return tables


def sensitivity_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return what `supertickets sensitivity` left in a study's folder, by title; nothing if it was not run."""
    titles = {"table-5": "standard deviation over seeds (Table 5)", "table-8": "over learning rates (Table 8)"}
    found = {title: folder / SENSITIVITY / f"{name}.csv" for name, title in titles.items()}
    return {
        title: pd.read_csv(path, index_col=0)
        for title, path in found.items()
        if path.is_file() and path.stat().st_size > 1
    }


def command_of(record: Record) -> str:
    """Return the command that repeats a study."""
    return shlex.join(["supertickets", "find", "--config", str(record.folder / SETTINGS_FILE)])
