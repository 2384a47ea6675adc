"""What the page of `find` says of a target."""

from __future__ import annotations

import pandas as pd

from supertickets.evidence.cells import tested
from supertickets.evidence.reached import Reached
from supertickets.reports.sections import WORDS, Section, Table, Words
from supertickets.tickets.prices import amount


def target_section(found: Reached) -> Section:
    """Return the section of a target: what tickets cost, and how the two ways of drawing compare."""
    costs = found.costs.drop(columns="unit")
    for name in costs.columns[1:]:
        costs[name] = [amount(*pair) for pair in zip(costs[name], found.costs["unit"], strict=True)]
    shares = [pd.Series(one, dtype=float) for one in (found.kept, found.kept_same_share)]
    rows = [
        (name, f"{share.mean():.1%}" if len(share) else "-")
        for name, share in zip(("most importance", "same share of every kind (as in the paper)"), shares, strict=True)
    ]
    blocks = [
        Table(costs, "targets and costs", wrap=True),
        Table(pd.DataFrame(rows, columns=["tickets that keep", "importance kept"]), "importance kept", wrap=True),
    ]
    if (gain := found.over_same_share) is not None:
        row = ("most importance over same share", f"{gain.mean:+.2f}", *tested(gain.test))
        table = pd.DataFrame([row], columns=["what is compared", "gain", "95 % interval", "p"])
        blocks.append(Table(table, "gain over tickets of the same share", wrap=True))
    return Section("Target", [*blocks, Words(WORDS["find"]["target"], "quiet")])
