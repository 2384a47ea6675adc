"""What the page of `find` says of a dense model that was tuned with the compute of the ticket search."""

from __future__ import annotations

import pandas as pd

from supertickets.evidence.cells import tested
from supertickets.evidence.control import TunedDense
from supertickets.reports.sections import WORDS, Section, Table, Words

_BUDGETS = {
    "seed": "seed",
    "budget": "FLOPs of the search",
    "spent": "FLOPs of the tuned dense model",
    "unspent": "FLOPs not used",
    "trainings": "further trainings",
    "diverged": "diverged",
    "failed": "failed",
    "missing": "missing",
}


def equal_budget_section(tuned: TunedDense) -> Section:
    """Return the section of the equal-budget control: gains, and each seed's FLOPs."""
    rows = []
    for name, gain in (
        ("super ticket over tuned dense model, chosen on the dev set that scores it", tuned.paper),
        ("super ticket over tuned dense model, cross-fitted", tuned.cross_fitted),
        ("super ticket over dense model, cross-fitted", tuned.search),
        ("tuned dense model over dense model, cross-fitted", tuned.tuning),
    ):
        if gain is not None:
            rows.append((name, f"{gain.mean:+.2f}", *tested(gain.test)))
    gains = pd.DataFrame(rows, columns=["what is compared", "gain", "95 % interval", "p"])
    budgets = tuned.budgets[list(_BUDGETS)].copy()
    for name in ("budget", "spent", "unspent"):
        budgets[name] = ["-" if pd.isna(value) else f"{value:.3g}" for value in budgets[name]]
    tables = [Table(gains, "gain over the equally tuned dense model", wrap=True)] if rows else []
    shown_budgets = Table(budgets.rename(columns=_BUDGETS), "FLOPs of each seed", wrap=True)
    return Section("Equal compute", [*tables, shown_budgets, Words(WORDS["find"]["budget"], "quiet")])
