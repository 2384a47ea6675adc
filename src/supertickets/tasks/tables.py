"""Tables from files, read strictly: every complaint names the file, the line or column, and what was expected."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError, unknown_name

Table = dict[str, list[Any]]
"""Columns by name, all of one length."""

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


def read_text(path: Path) -> str:
    """Return a file's text (UTF-8, a byte-order mark dropped); raises TicketError if missing, empty or not UTF-8."""
    if path.is_dir():
        raise TicketError(f"{path}: that is a folder; expected a file.")
    if not path.is_file():
        raise TicketError(f"{path}: no such file{_neighbours(path)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TicketError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8.") from error
    if not text.strip():
        raise TicketError(f"{path}: the file is empty.")
    return text


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    files = sorted(item.name for item in path.parent.iterdir() if item.is_file())
    return f"; {path.parent} has {', '.join(files[:8])}" if files else f"; {path.parent} has no files"


def read_tsv(path: Path, header: Sequence[str] | None = None, skip_short: bool = False) -> Table:
    """Read tab-separated lines without quoting, as GLUE's files are; `header` names the columns where line 1 does not.

    A line with fewer cells than columns is an error, or left out with `skip_short` (the official QQP has a few).
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if lines[-1] == "":
        lines.pop()
    columns = list(header) if header else lines[0].split("\t")
    rows = []
    for number, line in enumerate(lines[0 if header else 1 :], start=1 if header else 2):
        cells = line.split("\t")
        if len(cells) < len(columns):
            if skip_short:
                continue
            raise TicketError(
                f"{path}, line {number}: {len(cells)} columns, expected {len(columns)} separated by tabs."
            )
        rows.append(cells)
    return _columns(path, columns, rows)


def read_table(path: Path, ending: str | None = None) -> Table:
    """Read a user's CSV, TSV, JSONL or Parquet file, told apart by its ending unless one is given."""
    ending = ending or path.suffix.lower()
    if ending not in FORMATS:
        raise unknown_name(f"file format of {path}:", ending or "(none)", FORMATS)
    if ending == ".parquet":
        return _read_parquet(path)
    if ending == ".jsonl":
        return _read_jsonl(path)
    rows = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="," if ending == ".csv" else "\t", strict=True
    )
    try:
        columns = next(rows)
        found = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise TicketError(f"{path}, line {rows.line_num}: not well-formed {ending[1:].upper()} ({error}).") from error
    for number, row in found:
        if len(row) != len(columns):
            raise TicketError(f"{path}, line {number}: {len(row)} columns, the header has {len(columns)}.")
    return _columns(path, columns, [row for _, row in found])


def _columns(path: Path, columns: Sequence[str], rows: list[list[str]]) -> Table:
    if not rows:
        raise TicketError(f"{path}: a header and no examples.")
    twice = [name for name in columns if list(columns).count(name) > 1]
    if twice:
        raise TicketError(f"{path}: the header has column {twice[0]!r} twice; give each a name of its own.")
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def _read_jsonl(path: Path) -> Table:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TicketError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise TicketError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise TicketError(f"{path}: no such file{_neighbours(path)}.")
    try:
        table = parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise TicketError(f"{path}: not a Parquet file ({error}).") from error
    if not table or not len(next(iter(table.values()))):
        raise TicketError(f"{path}: no examples.")
    return table


def column(path: Path, table: Table, name: str) -> list[Any]:
    """Return a column; raises UnknownNameError, naming the nearest, if there is none."""
    if name not in table:
        raise unknown_name(f"column of {path}:", name, table)
    return table[name]


def text_column(path: Path, table: Table, name: str) -> list[str]:
    """Return a column of texts; raises TicketError where a value is null or not text."""
    values = column(path, table, name)
    nulls = [row for row, value in enumerate(values) if value is None or (isinstance(value, float) and value != value)]
    if nulls:
        raise TicketError(
            f"{path}: text column {name!r} has {len(nulls)} nulls among {len(values)} values, the first in example "
            f"{nulls[0] + 1}; expected text."
        )
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise TicketError(f"{path}: example {row + 1} has {value!r} in column {name!r}, expected text.")
    if not any(value.strip() for value in values):
        raise TicketError(f"{path}: text column {name!r} is blank in every example.")
    return values
