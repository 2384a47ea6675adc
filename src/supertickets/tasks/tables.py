"""Tables from files, one rule for each ending; every error names the file, the line or column, and what was expected.

- `.csv`: RFC 4180. Commas, a header, quotes around cells that hold commas, quotes or line ends; any length of a cell.
- `.tsv`: tabs, a header, no quoting: a quotation mark is a character, as in GLUE's and SNLI's files.
- `.jsonl`: one JSON object a line, by key.
- `.parquet`: columns of strings, numbers or truth values.

Lines with nothing in them are skipped and counted; any other line is a row, or an error.
"""

import csv
import io
import json
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError, needs, unknown_name


@dataclass(frozen=True)
class Table:
    """A file's columns by name, all of one length, and sentences on how it was read."""

    path: Path
    columns: dict[str, list[Any]]
    notices: tuple[str, ...] = ()


FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `2 rows`, `12,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown(value: object) -> str:
    """Return any value in a few characters, without control characters, for a sentence."""
    return repr(value if len(value) <= 60 else value[:60] + "...") if isinstance(value, str) else reprlib.repr(value)


def read_text(path: Path, newline: str | None = None) -> str:
    """Return a file's text (UTF-8, a byte-order mark dropped); raises TicketError if missing, empty or not UTF-8.

    Every line end becomes "\\n", or with `newline=""` stays as it is.
    """
    _check_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise TicketError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8.") from error
    if not text.strip():
        raise TicketError(f"{path}: the file is empty.")
    return text


def _check_file(path: Path) -> None:
    """Raise TicketError unless a path is that of a file that can be read."""
    try:
        if path.is_dir():
            raise TicketError(f"{path}: that is a folder; expected a file.")
        if not path.is_file():
            raise TicketError(f"{path}: no such file{_neighbours(path)}")
        with path.open("rb"):
            pass
    except OSError as error:  # no right to read it, or a name that is too long
        raise TicketError(f"{path}: cannot be read ({error.strerror}); expected a file that you may read.") from error


def _neighbours(path: Path) -> str:
    """Say which file was meant, or which there are."""
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})."
    files = sorted(item.name for item in path.parent.iterdir() if item.is_file())
    if near := get_close_matches(path.name, files, n=1, cutoff=0.75):  # dev.tsv and test.tsv are less alike
        return f"; did you mean {path.with_name(near[0])}?"
    return f"; {path.parent} has {', '.join(files[:8]) or 'no files'}."


def read_tsv(path: Path, header: Sequence[str] | None = None, skip_short: bool = False) -> Table:
    """Read tab-separated lines without quoting; `header` names the columns where line 1 does not.

    A line with fewer cells than columns is an error, or with `skip_short` left out and counted (the official QQP has a
    few); one with more is an error.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line.strip(" ")]
    skipped = [_blank(len(lines) - len(rows))]
    names = list(header) if header else rows.pop(0)[1]
    if skip_short:
        whole = [row for row in rows if len(row[1]) >= len(names)]
        if len(whole) < len(rows):
            skipped.append(f"{counted(len(rows) - len(whole), 'line')} with fewer than {len(names)} cells skipped")
        rows = whole
    table = _columns(path, names, rows, "separated by tabs", skipped)
    quoted = sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for _, cells in rows for cell in cells)
    if header or not quoted:
        return table
    return told(
        table,
        f"{path.name}: {counted(quoted, 'cell')} in quotation marks; they are part of the text in a .tsv file (save "
        "the file as .csv if they are not).",
    )


def read_table(path: Path, ending: str | None = None) -> Table:
    """Read a user's CSV, TSV, JSONL or Parquet file, by its ending unless one is given."""
    _check_file(path)
    ending = ending or path.suffix.lower()
    if ending not in FORMATS:
        raise unknown_name(f"file format of {path}:", ending or "(none)", FORMATS)
    return {".csv": _read_csv, ".tsv": read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[ending](path)


def _read_csv(path: Path) -> Table:
    reader = csv.reader(io.StringIO(read_text(path, newline=""), newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # the module's own, 131072 characters, refuses long documents
    try:
        lines = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise TicketError(f"{path}, line {reader.line_num}: not well-formed CSV ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    rows = [line for line in lines if line[1]]
    _, names = rows.pop(0)
    return _columns(path, names, rows, "separated by commas", [_blank(len(lines) - len(rows) - 1)])


def _blank(number: int) -> str:
    return f"{counted(number, 'blank line')} skipped" if number else ""


def _columns(
    path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], separated: str, skipped: Sequence[str]
) -> Table:
    """Return the columns of numbered rows; raises TicketError for a row that is too short or too long."""
    names = [name.strip() for name in header]
    if not rows:
        raise TicketError(f"{path}: the file has a header and no examples.")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise TicketError(f"{path}: the header has column {twice[0]!r} twice; give each column its own name.")
    for number, cells in rows:
        if len(cells) != len(names):
            raise TicketError(
                f"{path}, line {number}: {counted(len(cells), 'column')}, expected {len(names)} {separated}."
            )
    # A column without a name (pandas' index, a separator at the end of each line) cannot be asked for.
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(names) if name}
    table = _read(path, columns, len(rows), skipped)
    spaced = [name for name in header if name != name.strip()]
    if not spaced:
        return table
    return told(table, f"{path.name}: spaces around names in the header are left out, as in {shown(spaced[0])}.")


def _read(path: Path, columns: dict[str, list[Any]], rows: int, skipped: Sequence[str] = ()) -> Table:
    """Return a table that says how many rows were read, and what was skipped."""
    said = "; ".join([f"{counted(rows, 'row')} read", *filter(None, skipped)])
    return Table(path, columns, (f"{path.name}: {said}.",))


def told(table: Table, notice: str) -> Table:
    """Return a table with one more notice."""
    return replace(table, notices=(*table.notices, notice))


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(path: Path, text: str, line: int | None = None) -> Any:
    """Return what a file's JSON text says; raises TicketError where it is none that can be read and written as UTF-8.

    `line` is the number of the file's line that the text is, None where it is the whole file.

    Refused are keys that an object has twice, lone surrogates such as "\\\\ud800", numbers of thousands of digits and
    deep nesting. NaN and Infinity are numbers here, as Python's own json writes them.
    """
    where = str(path) if line is None else f"{path}, line {line}"
    try:
        found = json.loads(text, object_pairs_hook=_object)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise TicketError(f"{where}: lists or objects are nested too deeply to be read.") from error
    except UnicodeEncodeError as error:
        alone = f"\\u{ord(error.object[error.start]):04x}"
        raise TicketError(
            f"{where}: {alone} is half of a character, without its other half; expected whole characters."
        ) from error
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise TicketError(f"{path}, {place}: not JSON ({error.msg}).") from error
    except ValueError as error:
        raise TicketError(f"{where}: not JSON ({str(error).split(';')[0]}).") from error
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"one object has the key {next(shown(n) for n in names if names.count(n) > 1)} twice")
    return found


def _read_jsonl(path: Path) -> Table:
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = parse_json(path, line, number)
        if not isinstance(row, dict):
            raise TicketError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return _read(path, columns, len(rows), [_blank(len(lines) - len(rows))])


def _read_parquet(path: Path) -> Table:
    needs("data", f"{path}: a Parquet file")
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        if twice := [name for name in names if names.count(name) > 1]:
            raise TicketError(f"{path}: the file has column {twice[0]!r} twice; give each column its own name.")
        columns = parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # a string that is not UTF-8 is a ValueError
        if isinstance(error, TicketError):
            raise
        said = " ".join(str(error).split())
        raise TicketError(f"{path}: not a Parquet file that can be read ({said}).") from error
    rows = len(next(iter(columns.values()), []))
    if not rows:
        raise TicketError(f"{path}: the file has no examples.")
    return _read(path, columns, rows)


def column(table: Table, name: str) -> list[Any]:
    """Return a column; raises UnknownNameError, naming the nearest, if there is none."""
    if name not in table.columns:
        raise unknown_name(f"column of {table.path}:", name, table.columns)
    return table.columns[name]


def text_column(table: Table, name: str) -> list[str]:
    """Return a column of texts; raises TicketError where a value is null or not text, and if all are blank."""
    path, values = table.path, column(table, name)
    nulls = [row for row, value in enumerate(values) if value is None or value != value]
    if nulls:
        raise TicketError(
            f"{path}: text column {name!r} has no text in {len(nulls)} of {counted(len(values), 'example')}, the first "
            f"is example {nulls[0] + 1}; expected text."
        )
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise TicketError(f"{path}: example {row + 1} has {shown(value)} in column {name!r}, expected text.")
    if not any(value.strip() for value in values):
        raise TicketError(f"{path}: text column {name!r} is blank in every example.")
    return values
