"""What the page of `find` says of a search for a level: its course, where it stopped and why."""

from __future__ import annotations

from supertickets.evidence.searched import Searched
from supertickets.reports.sections import WORDS, Section, Table, Words

_SHOWN = {"epoch": "to epoch", "best": "best so far", "rivals": "not told apart", "spent": "cost so far"}


def search_section(search: Searched) -> Section:
    """Return the section of a search: a row a turn."""
    turns = search.turns.assign(spent=search.turns["spent"].map("{:.1%}".format)).rename(columns=_SHOWN)
    said = Words(f"{search.sentence} {search.why}")
    words = WORDS["find"]["search"].format(search.budget)
    return Section("Search", [said, Table(turns, "turns of the search", wrap=True), Words(words, "quiet")])
