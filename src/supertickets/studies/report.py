"""One report about several studies, finished or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from supertickets.errors import TicketError
from supertickets.evidence.adaptation import conclude_adaptation
from supertickets.evidence.conclusions import conclude
from supertickets.evidence.magnitude import conclude_magnitude
from supertickets.evidence.record import Record
from supertickets.evidence.sharing import conclude_sharing
from supertickets.evidence.tables import Average, Looked, names_of, task_average
from supertickets.storage import user_path
from supertickets.studies.adapt import AdaptStudy
from supertickets.studies.find import FindStudy
from supertickets.studies.folder import open_study
from supertickets.studies.imp import ImpStudy
from supertickets.studies.pages import (
    REPORT,
    TABLES,
    write_adaptation,
    write_magnitude,
    write_page,
    write_sharing,
    write_transfer,
)
from supertickets.studies.share import ShareStudy
from supertickets.studies.study import Study, check_place, recall
from supertickets.studies.transfer import TransferStudy

Alone = ShareStudy | AdaptStudy | ImpStudy | TransferStudy
"""Studies whose page is of one alone."""


@dataclass(frozen=True)
class ReportResult:
    """What `report` leaves: the page, the tables by name, each study's verdict, and the average over tasks."""

    page: Path
    tables: Mapping[str, pd.DataFrame]
    average: Average
    verdicts: Mapping[str, str]


def report(folders: Sequence[Path | str], out: Path | str | None = None) -> ReportResult:
    """Write one page and the paper's tables about studies, finished or not; runs nothing.

    A single study's page goes into its own folder, that of several (of `find`) into `out` (default `runs/report`).
    Raises TicketError for a folder without a study, for one named twice, and where `out` holds other things.
    """
    paths = [user_path(folder) for folder in folders]
    out = user_path(out) if out is not None else None
    if len(paths) == 1 and isinstance(study := open_study(paths[0]), Alone):
        return _alone(study, out)
    twice = [path for i, path in enumerate(paths) if path.resolve() in {p.resolve() for p in paths[:i]}]
    if twice:
        raise TicketError(f"{twice[0]}: named twice; name each study once.")
    looked = []
    for path in paths:
        study = open_study(path)
        if not isinstance(study, FindStudy):
            raise TicketError(f"{path}: {_why_not(study, path)}")
        record = recall(study)
        if not any(row.finished for row in record.rows):
            raise TicketError(f"{path}: no run has finished yet; see `supertickets status {path}`.")
        looked.append(Looked(record, conclude(record)))
    default = paths[0] if len(paths) == 1 else Path("runs") / "report"
    folder = out if out is not None else default
    check_place(folder)
    if len(paths) > 1 and folder.resolve() in {path.resolve() for path in paths}:
        raise TicketError(f"--out {folder}: that is one of the studies, whose own page stays; choose another folder.")
    if folder not in paths and folder.is_dir() and (others := _others(folder)):
        raise TicketError(f"--out {folder}: the folder has other files ({others[0]}); choose another folder.")
    tables = write_page(folder, looked)
    verdicts = dict(zip(names_of(looked), (one.conclusions.verdict for one in looked), strict=True))
    return ReportResult(folder / REPORT, tables, task_average(looked), verdicts)


def _alone(study: Alone, out: Path | None) -> ReportResult:
    """Write the page of such a study anew."""
    folder = study.settings.folder
    if out is not None and out.resolve() != folder.resolve():
        raise TicketError(f"--out {out}: the page of a study of `{study.settings.study}` goes into its own folder.")
    record = recall(study)
    if not any(row.finished for row in record.rows):
        raise TicketError(f"{folder}: no run has finished yet; see `supertickets status {folder}`.")
    tables, verdict = _written(study, record)
    one = Average(reason="One study has no average.")
    return ReportResult(folder / REPORT, tables, one, {str(folder): verdict})


def _written(study: Alone, record: Record) -> tuple[dict[str, pd.DataFrame], str]:
    """Write a study's page and tables; return the tables that say most, and the verdict."""
    if isinstance(study, ShareStudy):
        sharing = conclude_sharing(record, study.tickets)
        write_sharing(record, sharing, study.tickets)
        return {"table": sharing.table, "gains": sharing.gains}, sharing.verdict
    if isinstance(study, AdaptStudy):
        adaptation = conclude_adaptation(record, study.pairs)
        write_adaptation(record, adaptation)
        return {"table": adaptation.table, "gains": adaptation.gains}, adaptation.verdict
    if isinstance(study, ImpStudy):
        magnitude = conclude_magnitude(record, study.settings.rule)
        write_magnitude(record, magnitude)
        return {"table": magnitude.table_2, "means": magnitude.means}, magnitude.verdict
    transfer = study.shows(record)
    write_transfer(record, transfer)
    return {"gains": transfer.gains, "means": transfer.means}, transfer.verdict


def _why_not(study: Study | None, path: Path) -> str:
    """Return why a study is not put on one page with others."""
    if study is None:
        return f"the study has not begun; see `supertickets status {path}`."
    alone = isinstance(study, Alone)
    return f"expected a study of `find`, this is one of `{study.settings.study}`{', report it alone' if alone else ''}."


def _others(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (REPORT, TABLES))
