"""Cells of tables as text, as the papers have them: `-` for what there is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from supertickets.evidence.statistics import Paired


def number(value: float, form: str = "{:.2f}") -> str:
    """Return a number."""
    return form.format(value) if np.isfinite(value) else "-"


def with_std(mean: float, std: float = np.nan, digits: int = 1) -> str:
    """Return a mean with its standard deviation, if it has one.

    >>> with_std(71.25, 0.5), with_std(71.25)
    ('71.2 ± 0.5', '71.2')
    """
    return number(mean, f"{{:.{digits}f}}") + (f" ± {std:.{digits}f}" if np.isfinite(std) else "")


def tested(test: Paired) -> tuple[str, str]:
    """Return the interval and the p of a test."""
    return (f"{test.low:+.2f} to {test.high:+.2f}", f"{test.p:.2g}") if test.tested else ("-", "-")


def joined_means(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the means of some columns, joined by `/`."""
    return "/".join(f"{value:.1f}" for value in rows[list(names)].astype(float).mean()) if len(rows) else "-"
