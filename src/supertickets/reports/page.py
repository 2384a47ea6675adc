"""Writing a page: its study's sections and what every page has, all inside one file, readable with no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import plotly
from markupsafe import Markup

from supertickets.evidence.examples import plain
from supertickets.evidence.findings import Findings
from supertickets.evidence.runs import Runs, TaskInfo, understood
from supertickets.reports.sections import WORDS, Facts, Heading, Listed, Section, Table, Words, environment
from supertickets.storage import write_atomically


@dataclass(frozen=True)
class Part:
    """A study on a page: its sections, its runs with what they show, and the command that repeats it."""

    name: str
    sections: Sequence[Section]
    runs: Runs
    findings: Findings
    command: str

    @property
    def first(self) -> list[Any]:
        """The blocks that come first: what the study is about, whether it has ended, what it shows."""
        lines, model, status = about(self.runs.tasks), self.runs.model, self.findings.runs["status"]
        warning = WORDS["all"]["unfinished"].format(missing=(status == "missing").sum(), runs=len(status))
        return [
            Words(f"{model}; {lines[0]}" if len(lines) == 1 else f"{model}; tasks:", "quiet"),
            Listed(lines if len(lines) > 1 else [], "quiet"),
            *(block for section in self.sections if not section.title for block in section.blocks),
            None if self.runs.complete else Words(warning, "warning"),
            Listed(self.findings.sentences, "verdict"),
        ]

    @property
    def rest(self) -> list[Section]:
        """The study's sections; then all runs, what is known of the data, and how to repeat the study."""
        runs, data = self.runs, understood(self.runs.tasks)
        outcome = next((run.outcome for run in runs.runs if run.outcome is not None), None)
        particulars = [
            Heading("All runs"),
            Table(plain(self.findings.runs).dropna(axis=1, how="all"), "all runs"),
            *(Words(words, "quiet") for words in WORDS["all"]["runs"]),
            Heading("Data") if data else None,
            Listed(data),
            Heading("Settings"),
            Words(Markup("To repeat: <code>{}</code>").format(self.command)),
            Facts(runs.settings),
            Heading("Versions"),
            Facts(outcome.environment if outcome is not None else {}),
        ]
        titled = [section for section in self.sections if section.title]
        return [*titled, Section("Runs and settings", particulars)]


def write_page(
    path: Path, title: str, sections: Sequence[Section], runs: Runs, findings: Findings, command: str
) -> None:
    """Write the page about a study; `command` repeats it."""
    part = Part("", sections, runs, findings, command)
    _write(path, title, [Section("", part.first), *part.rest])


def write_parts(
    path: Path, title: str, before: Sequence[Section], parts: Sequence[Part], after: Sequence[Section] = ()
) -> None:
    """Write one page about several studies, with sections before and after them.

    What a section after them shows of all studies is left out of each.
    """
    shown, once = list(before), {section.title for section in after}
    for i, part in enumerate(parts):
        shown.append(Section(part.name, part.first, anchor(i)))
        shown += [_below(section) for section in part.rest if section.title not in once]
    _write(path, title, [*shown, *after], {anchor(i): part.name for i, part in enumerate(parts)})


def anchor(place: int) -> str:
    """Return the address on the page of one of several studies."""
    return f"study-{place}"


def about(tasks: Sequence[TaskInfo]) -> list[str]:
    """Return what each task's data are, a sentence a task; a task may have training sets of several sizes."""
    of_name: dict[str, list[TaskInfo]] = {}
    for task in tasks:
        of_name.setdefault(task.task, []).append(task)
    return [
        f"{name}: {', '.join(f'{task.train:,}' for task in of)} training and {len(of[0].targets):,} dev examples; "
        f"score: {of[0].measure}."
        for name, of in of_name.items()
    ]


def _below(section: Section) -> Section:
    """Return a section as a part of another."""
    blocks = [replace(block, level=4) if isinstance(block, Heading) else block for block in section.blocks]
    return replace(section, blocks=blocks, level=3)


def _write(path: Path, title: str, sections: Sequence[Section], links: Mapping[str, str] | None = None) -> None:
    script = Markup(f"<script>{plotly.offline.get_plotlyjs()}</script>")
    content = {"title": title, "sections": sections, "links": links or {}, "version": version("supertickets")}
    write_atomically(path, environment().get_template("page.html.jinja").render(content, plotly=script))
