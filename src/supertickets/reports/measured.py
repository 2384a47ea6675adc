"""What pages say of measured costs: of `measured.json` in a study's folder."""

from __future__ import annotations

from pathlib import Path

from supertickets.evidence.measured import size_table, throughput_table, time_table
from supertickets.lab.measured import load_measured
from supertickets.reports.sections import WORDS, Section, Table, Words
from supertickets.storage import read_json

_SAID = WORDS["measured"]


def measured_sections(folder: Path, ticket: Path) -> list[Section]:
    """Return the section of a study's measured costs, none if nothing was measured.

    `ticket` is the file that says which ticket the study ships: what was measured may be an earlier one.
    """
    try:
        made = load_measured(folder)
    except ValueError as error:  # a file that is damaged
        return [Section(_SAID["title"], [Words(str(error), "warning")])]
    if made is None:
        return []
    origin = read_json(ticket).get("origin")
    ships = origin.get("trial") if isinstance(origin, dict) else None
    return [
        Section(
            _SAID["title"],
            [
                None if made.trial == ships else Words(_SAID["earlier"], "warning"),
                Table(time_table(made), "time of a forward pass", wrap=True),
                Table(throughput_table(made), "texts and tokens a second", wrap=True),
                Table(size_table(made), "size and memory", wrap=True),
                Words(_SAID["means"], "quiet"),
                Words(_SAID["machine"].format(made.machine()), "quiet"),
            ],
        )
    ]
