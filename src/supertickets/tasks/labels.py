"""Classes of a user's own files: which values are one class, in which order classes are, what looks like a mistake."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

from supertickets.errors import TicketError, named_twice, unknown_name
from supertickets.tasks.tables import counted, shown

_MISSING = {"nan", "null", "none", "na", "n/a", "<na>", "nat"}
"""What programs write for missing values; there is a notice for a class of such a name."""


def label_text(value: object) -> str:
    """Return a label as text, the same one in every format: 1, 1.0, "1.0" are `1`, True and "TRUE" are `true`."""
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return str(value).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return re.sub(r"^(-?(?:0|[1-9]\d*))\.0*$", r"\1", str(value))


def read_labels(where: str, name: str, values: Sequence[object]) -> list[str]:
    """Return a column of labels as text; raises TicketError for the first that is missing or no single value."""
    for row, value in enumerate(values, start=1):
        if _is_missing(value):
            raise TicketError(f"{where}: column {name!r} has no label in example {row}.")
        _check_one(where, row, value)
    return [label_text(value) for value in values]


def _is_missing(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _check_one(where: str, row: int, value: object) -> None:
    """Raise TicketError unless a label is a single value."""
    finite = isinstance(value, float | Decimal) and math.isfinite(value)
    if not (finite or isinstance(value, str | int)):
        several = " (a list of labels needs --multi-label)" if isinstance(value, list) else ""
        raise TicketError(
            f"{where}: example {row} has label {shown(value)}, expected one value, such as a word or a number{several}."
        )


def read_label_lists(where: str, name: str, values: Sequence[object], separator: str) -> list[list[str]]:
    """Return each example's labels as text, of a column of lists, or of texts with a separator between labels.

    An empty list or text is an example without labels. Raises TicketError for the first value that is neither, and for
    a label that is missing, twice in one example, or no single value.
    """
    found = []
    for row, value in enumerate(values, start=1):
        if isinstance(value, str):
            if value.strip().startswith("[") and value.strip().endswith("]"):
                raise TicketError(
                    f"{where}: example {row} has {shown(value)} in column {name!r}, a list that was written as text; "
                    f"write its labels with {separator!r} between them, or in a JSONL or Parquet file as lists."
                )
            value = [part.strip() for part in value.split(separator)] if value.strip() else []
        if not isinstance(value, list):
            raise TicketError(
                f"{where}: example {row} has {shown(value)} in column {name!r}, expected a list of labels, or text "
                f"with {separator!r} between them (empty where it has none)."
            )
        for one in value:
            if _is_missing(one):
                raise TicketError(f"{where}: example {row} has an empty label among {shown(value)}.")
            _check_one(where, row, one)
        labels = [label_text(one) for one in value]
        if (twice := named_twice(labels)) is not None:
            raise TicketError(f"{where}: example {row} has the label {shown(twice)} twice; name each once.")
        found.append(labels)
    return found


def class_order(
    where: str, column: str, values: Sequence[str], asked: Sequence[str] | None, several: bool = False
) -> tuple[str, ...]:
    """Return the classes of a training file: as asked for, or numbers in their order and then words by alphabet.

    Raises TicketError if there are fewer than two, if the column cannot be one of classes, or if those asked for are
    not exactly those that occur. `values` are of one example each, or of examples that have `several` or none.
    """
    if not values:
        raise TicketError(f"{where}: no example has a label in column {column!r}; expected labels in some of them.")
    labels = tuple(sorted(set(values), key=_natural))
    if len(labels) < 2:
        raise TicketError(f"{where}: every label is {shown(labels[0])}; a task needs at least two classes.")
    numbers = [_number(label) for label in labels]
    real = all(numbers) and any("." in label for label in labels)
    many = len(labels) == len(values) or len(labels) > max(50, len(values) / 2)
    if asked is None and len(labels) > 2 and (many or real):
        what = "occurrence" if several else "example"
        advice = "for real-valued targets add --regression" if all(numbers) else "name the classes' column with --label"
        raise TicketError(
            f"{where}: column {column!r} has {len(labels)} different labels in {counted(len(values), what)}, which do "
            f"not look like classes; {advice}, or name all classes with --labels."
        )
    if asked is None:
        return labels
    if (twice := named_twice(asked)) is not None:
        raise TicketError(f"--labels: {shown(twice)} is named twice; name each class once.")
    for label in asked:
        if label not in labels:
            raise unknown_name(f"label of {where} in --labels", label, labels)
    if missing := [label for label in labels if label not in asked]:
        raise TicketError(f"--labels: {where} also has the label {shown(missing[0])}; name every class.")
    return tuple(asked)


def _number(label: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", label) is not None


def _natural(label: str) -> tuple[int, float, str]:
    return (0, float(label), label) if _number(label) else (1, 0.0, label)


def doubts(where: str, values: Iterable[str]) -> list[str]:
    """Return sentences on labels that differ so little that they may be meant as one, and on words for no value."""
    counts = Counter(values)
    alike = defaultdict(list)
    for label in sorted(counts, key=_natural):
        alike[_folded(label)].append(label)
    told = [
        f"{where}: the labels {_with_counts(group, counts)} differ only in case, spaces or spelling and are different "
        "classes; write them alike in the file to make them one."
        for group in alike.values()
        if len(group) > 1
    ]
    spaced = [label for label in counts if label != label.strip()]
    if spaced and not told:
        told.append(f"{where}: spaces around labels are part of them, as in {shown(spaced[0])}.")
    missing = [label for label in counts if label.strip().lower() in _MISSING]
    return told + [
        f"{where}: {counted(counts[label], 'example')} of class {shown(label)}, a word that often stands for a missing "
        "value; delete these rows if it does."
        for label in missing
    ]


def _folded(label: str) -> str:
    """Return what labels have in common that differ in case, white space, Unicode form or a number's notation."""
    plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    return str(float(plain) + 0.0) if re.fullmatch(r"[+-]?\d+(\.\d*)?", plain, re.ASCII) else plain


def _with_counts(labels: Sequence[str], counts: Counter[str]) -> str:
    return " and ".join(f"{shown(label)} ({counted(counts[label], 'example')})" for label in labels)
