"""Pages of a report, compared."""

import re


def without_names(page: str) -> str:
    """A page less the names of its plots and tables, which plotly and pandas draw anew each time."""
    found, names = re.subn(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\bT_[0-9a-f]{5}(?![0-9a-f])", "", page)
    assert names
    return found
