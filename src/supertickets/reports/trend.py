"""What pages say of trends: whether gains differ by the size of the training set or of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from supertickets.evidence.trend import Trend
from supertickets.reports.sections import WORDS, Section, Table, Words, titled


def trend_tables(trends: Sequence[Trend]) -> dict[str, pd.DataFrame]:
    """Return the tables of all trends: gains by size, and their slopes; without rows where nothing could be tested."""
    tested = [one for one in trends if one.size is not None]
    points = [one.points for one in tested]
    slopes = [one.slopes for one in tested]
    frames = {"trend": points, "trend slopes": slopes}
    return {name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for name, parts in frames.items()}


def trend_sections(trends: Sequence[Trend], tables: Mapping[str, pd.DataFrame]) -> list[Section]:
    """Return the section of trends; nothing where no task has several studies."""
    if not trends:
        return []
    said = [Words(one.sentence(), "verdict") for one in trends]
    points = titled("Gains by size", Table(tables["trend"], "trend"))
    slopes = titled("Slopes", Table(tables["trend slopes"], "trend slopes"), WORDS["find"]["trend"])
    return [Section("Trend", [*said, *points, *slopes], "trend")]
