"""Writing what studies show: the page and the paper's tables."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from supertickets.evidence.adaptation import Adaptation
from supertickets.evidence.conclusions import Conclusions, conclude
from supertickets.evidence.magnitude import Magnitude
from supertickets.evidence.record import Record
from supertickets.evidence.sharing import Sharing
from supertickets.evidence.tables import Looked, gains, paper_tables, write_tables
from supertickets.evidence.transfer import Transfer
from supertickets.studies.config import SETTINGS_FILE
from supertickets.tickets.folder import SharedTicket

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


def write_sharing(record: Record, seen: Sharing, tickets: Sequence[SharedTicket]) -> None:
    """Write the page and tables of a study of `share` into its folder."""
    from supertickets.report.shared import write_sharing_report

    of_task = {subject.task: one.ticket for subject, one in zip(record.subjects, tickets, strict=True)}
    further = sensitivity_tables(record.folder)
    write_sharing_report(record.folder / REPORT, record, seen, of_task, command_of(record), further)
    tables = {"table 3": seen.table, "gains": seen.gains, "who keeps what": seen.keepers, "overlaps": seen.overlaps}
    tables |= {"importance": seen.importance} if not seen.importance.empty else {}
    write_tables(record.folder / TABLES, tables)


def write_adaptation(record: Record, seen: Adaptation) -> None:
    """Write the page and tables of a study of `adapt` into its folder."""
    from supertickets.report.adapted import write_adaptation_report

    write_adaptation_report(record.folder / REPORT, record, seen, command_of(record))
    write_tables(record.folder / TABLES, {"table 4": seen.table, "gains": seen.gains})


def write_magnitude(record: Record, seen: Magnitude) -> None:
    """Write the page and tables of a study of `imp` into its folder."""
    from supertickets.report.magnitude import write_magnitude_report

    write_magnitude_report(record.folder / REPORT, record, seen, command_of(record))
    tables = {"means": seen.means, "table 2": seen.table_2}
    further = {"rewinding": seen.rewinding, "densities": seen.densities, "similarity": seen.similarity}
    tables |= {name: table for name, table in further.items() if not table.empty}
    write_tables(record.folder / TABLES, tables)


def write_transfer(record: Record, seen: Transfer) -> None:
    """Write the page and tables of a study of `transfer` into its folder."""
    from supertickets.report.transfer import write_transfer_report

    write_transfer_report(record.folder / REPORT, record, seen, command_of(record))
    tables = {"means": seen.means, "gains": seen.gains, "overlaps": seen.overlaps, "overlaps by place": seen.by_place}
    write_tables(record.folder / TABLES, {name: table for name, table in tables.items() if not table.empty})


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
    return shlex.join(["supertickets", str(record.settings["study"]), "--config", str(record.folder / SETTINGS_FILE)])
