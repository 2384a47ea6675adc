"""Looks: each analysis of a study whose verdict somebody saw, and what this does to the p of a study that grew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from supertickets.evidence.statistics import Paired
from supertickets.storage import digest
from supertickets.tasks.tables import counted

_LEVELS = ("level", "sparsity")
_RULE = "Each look is another chance of a false gain, so p-values are to be multiplied by the number of looks"


@dataclass(frozen=True, order=True)
class Look:
    """A look at a study: how many seeds and levels it had then, and a hash of the trials that were tested."""

    seeds: int
    levels: int
    key: str

    @classmethod
    def at(cls, tested: pd.DataFrame) -> Look | None:
        """Return the look at some finished runs; None if there are none."""
        if tested.empty:
            return None
        seeds = int(tested["seed"].nunique()) if "seed" in tested else 1
        levels = next((int(tested.loc[tested[name] > 0, name].nunique()) for name in _LEVELS if name in tested), 0)
        return cls(seeds, levels, digest(sorted({str(trial) for trial in tested["trial"]}))[:16])


def of_looks(before: Sequence[Look], now: Look, test: Paired | None) -> str:
    """Say how often a study was looked at before, and correct the p of its main test for the looks (Bonferroni).

    >>> of_looks([Look(2, 8, "a")], Look(5, 8, "b"), Paired(1.0, 0.02, 0.3, 1.7))[-62:]
    'that of the gain over the dense model is 0.04 instead of 0.02.'
    """
    grown = any(look.levels != now.levels for look in before)
    had = [counted(one.seeds, "seed") + (f" and {counted(one.levels, 'level')}" if grown else "") for one in before]
    times = "once" if len(before) == 1 else f"{len(before)} times"
    looks = len(before) + 1
    said = f"This study was looked at {times} before, with {', then '.join(had)}. {_RULE}, {looks}"
    if test is None or not test.tested:
        return f"{said}."
    return f"{said}: that of the gain over the dense model is {min(1.0, looks * test.p):.2g} instead of {test.p:.2g}."
