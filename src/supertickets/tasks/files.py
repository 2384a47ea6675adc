"""A user's own task, from CSV, TSV, JSONL or Parquet files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks.labels import class_order, doubts, read_labels
from supertickets.tasks.metrics import CLASSIFICATION, REGRESSION, scored
from supertickets.tasks.source import TaskFiles
from supertickets.tasks.tables import column, counted, read_table, text_column
from supertickets.tasks.task import Split, Task, class_targets, real_targets


def load_files(source: TaskFiles) -> Task:
    """Load a task from the user's files; without a dev file, a share of the training file (drawn once) becomes it.

    The drawn dev set has each class in the training file's proportions. The label set is what the training file has, in
    the order of `labels`, or numbers in their order, then other labels alphabetically.
    """
    train_file = source.train_file
    assert train_file is not None
    metrics = _metrics(source)
    notices: list[str] = []

    def read(path: Path) -> tuple[list[str], list[str] | None, list[object] | list[str]]:
        table = read_table(path)
        notices.extend(table.notices)
        texts = text_column(table, source.text)
        pairs = text_column(table, source.text_pair) if source.text_pair else None
        values = column(table, source.label)
        return texts, pairs, values if source.regression else read_labels(str(path), source.label, values)

    def split(path: Path, texts: list[str], pairs: list[str] | None, values: Sequence[object]) -> Split:
        targets = real_targets(str(path), values) if source.regression else class_targets(str(path), values, labels)
        return Split(texts, pairs, targets)

    texts, pairs, values = read(train_file)
    labels: tuple[str, ...] = ()
    if not source.regression:
        words = [str(value) for value in values]
        labels = class_order(str(train_file), source.label, words, source.labels)
        notices += doubts(train_file.name, words)
        metrics = _positive(source, labels, metrics)
    whole = split(train_file, texts, pairs, values)
    if source.dev_file is not None:
        train, dev = whole, split(source.dev_file, *read(source.dev_file))
    else:
        rows = dev_rows(str(train_file), whole.targets, source.dev_share, len(labels))
        dev, train = whole.take(rows), whole.take(np.setdiff1d(np.arange(len(whole)), rows))
    return Task(source.task, labels, metrics, train, dev, {}, standardised=source.regression, notices=tuple(notices))


def _metrics(source: TaskFiles) -> tuple[str, ...]:
    known = REGRESSION if source.regression else CLASSIFICATION
    chosen = source.metrics or (("pearson", "spearman", "r2", "mae", "rmse") if source.regression else ("accuracy",))
    for metric in chosen:
        if metric not in known:
            raise unknown_name("metric for regression" if source.regression else "metric for classes", metric, known)
    if not scored(chosen):
        raise TicketError(
            f"--metrics {','.join(chosen)}: error metrics cannot be the score, since lower is better; add r2, "
            "pearson or spearman."
        )
    for flag in ("labels", "positive"):
        if source.regression and getattr(source, flag):
            raise TicketError(f"--{flag} is for classes, --regression for real numbers; leave one of them out.")
    if source.positive and "f1" not in chosen:
        raise TicketError("--positive chooses the class for metric f1; add --metrics f1.")
    return chosen


def _positive(source: TaskFiles, labels: tuple[str, ...], metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics with F1 of the class that is asked for; raises TicketError if there is no such class."""
    if {"f1", "f1_first"} & {*metrics} and len(labels) != 2:
        raise TicketError(f"metric 'f1' needs two classes, the task has {len(labels)}: use 'macro_f1'.")
    if source.positive is None:
        return metrics
    if source.positive not in labels:
        raise unknown_name("label in --positive", source.positive, labels)
    return tuple("f1_first" if metric == "f1" and source.positive == labels[0] else metric for metric in metrics)


def dev_rows(where: str, targets: NDArray[np.generic], share: float, classes: int) -> NDArray[np.int64]:
    """Return which examples become the dev set, in the file's order: of each class its share, by largest remainders.

    At least one example of each class stays in training. In regression (`classes` 0) all examples are of one kind.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(targets))
    kinds = targets.astype(np.int64) if classes else np.zeros(len(targets), np.int64)
    there = np.bincount(kinds)
    cut = round(share * len(targets))
    if not 2 <= cut <= len(targets) - len(there):
        of_each = f" that leaves an example of each of {len(there)} classes for training" if classes else ""
        raise TicketError(
            f"{where} has {counted(len(targets), 'example')}, too few for a dev set of --dev-share {share} with at "
            f"least two examples{of_each}; choose another --dev-share, or name a dev file with --dev-file."
        )
    wanted = cut * there / len(targets)
    taken = np.minimum(np.floor(wanted).astype(np.int64), there - 1)
    first = rng.permutation(len(there))  # among equal remainders, so that it is not always the alphabet's first
    while taken.sum() < cut:
        lacking = np.where(taken < there - 1, wanted - taken, -np.inf)
        taken[first[np.argmax(lacking[first])]] += 1
    return np.sort(np.concatenate([order[kinds[order] == kind][: taken[kind]] for kind in range(len(there))]))
