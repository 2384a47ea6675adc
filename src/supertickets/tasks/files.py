"""A user's own task, from CSV, TSV, JSONL or Parquet files."""

import re
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks.metrics import CLASSIFICATION, REGRESSION, scored
from supertickets.tasks.tables import column, read_table, text_column
from supertickets.tasks.task import Split, Task, class_targets, real_targets


def load_files(
    name: str,
    train_file: Path,
    dev_file: Path | None,
    text: str,
    pair: str | None,
    label: str,
    regression: bool,
    metrics: tuple[str, ...] | None,
    dev_share: float,
) -> Task:
    """Load a task from the user's files; without a dev file, a share of the training file (drawn once) becomes it.

    The label set is what the training file has, numbers in their order, other labels alphabetically.
    """
    known = REGRESSION if regression else CLASSIFICATION
    chosen = metrics or (("pearson", "spearman", "r2", "mae", "rmse") if regression else ("accuracy",))
    for metric in chosen:
        if metric not in known:
            raise unknown_name("metric for regression" if regression else "metric for classes", metric, known)
    if not scored(chosen):
        raise TicketError(
            f"--metrics {','.join(chosen)}: errors are reported and are no score, since less is better; add r2, "
            "pearson or spearman."
        )

    def read(path: Path) -> tuple[list[str], list[str] | None, list[object]]:
        table = read_table(path)
        texts = text_column(path, table, text)
        pairs = text_column(path, table, pair) if pair else None
        values = column(path, table, label)
        empty = [row for row, value in enumerate(values) if value is None or value == "" or value != value]
        if empty:
            raise TicketError(f"{path}: column {label!r} has no label in example {empty[0] + 1}.")
        return texts, pairs, values if regression else [_label(value) for value in values]

    train_text, train_pair, values = read(train_file)
    labels: tuple[str, ...] = ()
    if not regression:
        labels = tuple(sorted({str(value) for value in values}, key=_natural))
        if len(labels) < 2:
            raise TicketError(f"{train_file}: every label is {labels[0]!r}; a task needs at least two classes.")
        if len(labels) > max(50, len(values) // 4):
            raise TicketError(
                f"{train_file}: column {label!r} has {len(labels)} different labels in {len(values)} examples; "
                "for a real-valued target add --regression."
            )
        if "f1" in chosen and len(labels) != 2:
            raise TicketError(f"metric 'f1' needs two classes, the task has {len(labels)}: use 'macro_f1'.")

    def split(path: Path, texts: list[str], pairs: list[str] | None, raw: list[object]) -> Split:
        targets = real_targets(str(path), raw) if regression else class_targets(str(path), raw, labels)
        return Split(texts, pairs, targets)

    train = split(train_file, train_text, train_pair, values)
    if dev_file is not None:
        return Task(name, labels, chosen, train, split(dev_file, *read(dev_file)), {})
    order = np.random.default_rng(0).permutation(len(train))
    cut = round(dev_share * len(train))
    if not 1 <= cut < len(train):
        raise TicketError(
            f"{train_file}: {len(train)} examples cannot give a dev set of share {dev_share}; name one with --dev-file."
        )
    return Task(name, labels, chosen, _take(train, np.sort(order[cut:])), _take(train, np.sort(order[:cut])), {})


def _take(split: Split, rows: "np.ndarray") -> Split:
    pair = [split.pair[row] for row in rows] if split.pair is not None else None
    return Split([split.text[row] for row in rows], pair, split.targets[rows])


def _label(value: object) -> str:
    """Return a class label as text; 1.0 and 1 are the same one, as JSON and Parquet may write either."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(label: str) -> tuple[int, float, str]:
    return (0, float(label), label) if re.fullmatch(r"-?\d+(\.\d+)?", label) else (1, 0.0, label)
