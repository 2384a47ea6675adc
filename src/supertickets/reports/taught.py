"""What the page of `find` says of taught tickets."""

from __future__ import annotations

import pandas as pd

from supertickets.evidence.cells import tested
from supertickets.evidence.gains import Gain
from supertickets.evidence.taught import Taught
from supertickets.reports.sections import WORDS, Section, Table, Words


def taught_section(taught: Taught, over_dense: Gain | None) -> Section:
    """Return the section of taught tickets: gains of super tickets and of teaching alone, and gains by level.

    `over_dense` is the cross-fitted gain of super tickets over the dense model.
    """
    rows = [
        (name, f"{gain.mean:+.2f}", *tested(gain.test))
        for name, gain in (
            ("taught super ticket over taught dense model", taught.over_taught),
            ("taught super ticket over dense model", over_dense),
            ("taught dense model over dense model", taught.teaching),
        )
        if gain is not None
    ]
    gains = pd.DataFrame(rows, columns=["what is compared, cross-fitted", "gain", "95 % interval", "p"])
    tables = [Table(gains, "gains with a teacher", wrap=True)] if rows else []
    by_level = Table(taught.gains.rename(columns={"over_score": "its score"}), "gains with a teacher by level")
    return Section("Taught tickets", [*tables, by_level, Words(WORDS["find"]["taught"], "quiet")])
