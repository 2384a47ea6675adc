"""Reports on finished or unfinished studies: one page and the paper's tables; nothing is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from supertickets.errors import TicketError
from supertickets.evidence.tables import AnalysedStudy, Average, in_order, names_of, paper_tables, task_average
from supertickets.evidence.trend import Trend, trends
from supertickets.storage import user_path
from supertickets.studies.checks import check_place
from supertickets.studies.inputs import OpenStudy, open_study
from supertickets.studies.looks import remember_look, with_looks
from supertickets.studies.pages import REPORT, TABLES, command_of, write_findings, write_tables


@dataclass(frozen=True)
class ReportResult:
    """What `report` leaves: the page, the tables by name, each study's verdict, the average over tasks, and trends."""

    page: Path
    tables: Mapping[str, pd.DataFrame]
    average: Average
    verdicts: Mapping[str, str]
    trends: tuple[Trend, ...] = ()


def report(folders: Sequence[Path | str], out: Path | str | None = None) -> ReportResult:
    """Write one page and the tables of studies, finished or not; runs nothing.

    A single study's page goes into its own folder, that of several (of `find`) into `out` (default `runs/report`).
    Raises TicketError for a folder without a study, for one named twice, and where `out` holds other things.
    """
    paths = [user_path(folder) for folder in folders]
    twice = [path for i, path in enumerate(paths) if path.resolve() in {p.resolve() for p in paths[:i]}]
    if twice:
        raise TicketError(f"{twice[0]}: named twice; name each study once.")
    studies = [open_study(path) for path in paths]
    alone = [study for study in studies if not study.study.side_by_side]
    if alone and len(studies) > 1:
        raise TicketError(f"{alone[0].folder}: report studies of `{alone[0].name}` one at a time.")
    default = paths[0] if len(paths) == 1 else Path("runs") / "report"
    folder = user_path(out) if out is not None else default
    _check_out(folder, paths)
    return _one(studies[0], folder) if len(studies) == 1 else _several(studies, folder)


def _check_out(folder: Path, paths: Sequence[Path]) -> None:
    check_place(folder)
    if len(paths) > 1 and folder.resolve() in {path.resolve() for path in paths}:
        raise TicketError(f"--out {folder}: this is the folder of one of the studies; choose another folder.")
    if folder.resolve() not in {path.resolve() for path in paths} and folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in (REPORT, TABLES))
        if others:
            raise TicketError(
                f"--out {folder}: the folder has files that are not a report's ({others[0]}); choose another folder."
            )


def _analysed(study: OpenStudy) -> AnalysedStudy:
    runs = study.replay()
    if not runs.where():
        raise TicketError(f"{study.folder}: no run has finished yet; see `supertickets status {study.folder}`.")
    findings: Any = with_looks(study.study.analyse(runs, study.settings), study.folder)
    return AnalysedStudy(runs, findings)


def _one(study: OpenStudy, folder: Path) -> ReportResult:
    """Write the page of one study anew."""
    one = _analysed(study)
    write_findings(study.study, one.runs, one.findings, folder)
    remember_look(one.findings, study.folder)
    average = Average(reason="One study has no average.")
    return ReportResult(folder / REPORT, one.findings.tables(), average, {str(study.folder): one.findings.verdict})


def _several(studies: Sequence[OpenStudy], folder: Path) -> ReportResult:
    """Write one page about several studies, and the paper's tables of all."""
    from supertickets.reports.find import overview, paper_section
    from supertickets.reports.page import Part, write_parts
    from supertickets.reports.trend import trend_sections, trend_tables

    of_folder = {study.folder: study.study for study in studies}
    ordered = in_order([_analysed(study) for study in studies])
    names, tables, average = names_of(ordered), paper_tables(ordered), task_average(ordered)
    parts = []
    for name, one in zip(names, ordered, strict=True):
        sections = of_folder[one.runs.folder].sections(one.findings, one.runs)
        parts.append(Part(name, sections, one.runs, one.findings, command_of(one.runs)))
    first = overview(names, [one.findings for one in ordered], tables["gains"], average.sentence())
    found = trends(ordered)
    of_trends = trend_tables(found)
    before = [first, *trend_sections(found, of_trends)]
    write_parts(folder / REPORT, f"Tickets in {len(parts)} studies", before, parts, [paper_section(tables)])
    tables |= of_trends
    write_tables(folder / TABLES, tables)
    for one in ordered:
        remember_look(one.findings, one.runs.folder)
    verdicts = dict(zip(names, (one.findings.verdict for one in ordered), strict=True))
    return ReportResult(folder / REPORT, tables, average, verdicts, tuple(found))
