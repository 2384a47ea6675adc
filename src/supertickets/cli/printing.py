"""Tables and sizes for the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
"""The flag of every command that has results."""


def print_table(frame: Any, title: str) -> None:
    """Print a data frame as a table with a title; brackets and colons in it are text, no markup."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from supertickets.studies.pages import as_text

    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index(names=frame.index.name or "")
    table = Table(title=Text(title, "table.title"))
    for name in frame.columns:
        table.add_column(Text(str(name)))
    for row in as_text(frame).itertuples(index=False):
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def records(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables as lists of rows, for JSON; an index of names is the column `name`."""
    import pandas as pd

    found = {}
    for name, table in tables.items():
        flat = table if isinstance(table.index, pd.RangeIndex) else table.reset_index(names="name")
        found[name] = json.loads(flat.to_json(orient="records"))
    return found
