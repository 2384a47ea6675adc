"""A user's own task, from CSV, TSV, JSONL or Parquet files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks.labels import class_order, doubts, read_label_lists, read_labels
from supertickets.tasks.metrics import CLASSIFICATION, MULTI_LABEL, REGRESSION, scored
from supertickets.tasks.source import TaskFiles
from supertickets.tasks.tables import column, counted, read_table, text_column
from supertickets.tasks.task import Split, Task, class_targets, label_targets, real_targets


@dataclass(frozen=True)
class _Read:
    """A file's texts and what its label column holds: numbers, labels as text, or lists of those."""

    path: Path
    texts: list[str]
    pairs: list[str] | None
    values: list[Any]
    notices: tuple[str, ...]
    separated: bool


def load_files(source: TaskFiles) -> Task:
    """Load a task from the user's files; without a dev file, a share of the training file (drawn once) becomes it.

    The drawn dev set has each class in the training file's proportions; where examples have any number of labels, each
    counts as one of its rarest label. The label set is what the training file has, in the order of `labels`, or numbers
    in their order, then other labels alphabetically.
    """
    assert source.train_file is not None
    metrics = _metrics(source)
    files = [_read(path, source) for path in (source.train_file, source.dev_file) if path is not None]
    default = TaskFiles.model_fields["label_separator"].default
    if source.label_separator != default and not any(file.separated for file in files):
        raise TicketError(
            f"--label-separator {source.label_separator}: all labels of {source.train_file} are in lists, so that "
            "nothing is separated by it; leave it out."
        )
    labels, doubted = _labels(source, files[0])
    if not source.regression and not source.multi_label:
        metrics = _positive(source, labels, metrics)
    whole = _split(files[0], source, labels)
    if source.dev_file is not None:
        train, dev = whole, _split(files[1], source, labels)
    else:
        rows = dev_rows(str(source.train_file), _kinds(source, whole.targets), source.dev_share)
        dev, train = whole.take(rows), whole.take(np.setdiff1d(np.arange(len(whole)), rows))
    notices = (*files[0].notices, *doubted, *(notice for file in files[1:] for notice in file.notices))
    return Task(
        source.task,
        labels,
        metrics,
        train,
        dev,
        {},
        notices=notices,
        standardised=source.regression,
        multi_label=source.multi_label,
    )


def _read(path: Path, source: TaskFiles) -> _Read:
    table = read_table(path)
    texts = text_column(table, source.text)
    pairs = text_column(table, source.text_pair) if source.text_pair else None
    values = column(table, source.label)
    read: list[Any]
    if source.multi_label:
        read = read_label_lists(str(path), source.label, values, source.label_separator)
    else:
        read = values if source.regression else read_labels(str(path), source.label, values)
    return _Read(path, texts, pairs, read, table.notices, any(isinstance(value, str) for value in values))


def _labels(source: TaskFiles, train: _Read) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of the training file, none in regression, and sentences on what may be a mistake in them."""
    if source.regression:
        return (), ()
    words = [str(one) for value in train.values for one in (value if source.multi_label else [value])]
    labels = class_order(str(train.path), source.label, words, source.labels, source.multi_label)
    return labels, tuple(doubts(train.path.name, words))


def _split(file: _Read, source: TaskFiles, labels: tuple[str, ...]) -> Split:
    where, targets = str(file.path), file.values
    if source.multi_label:
        return Split(file.texts, file.pairs, label_targets(where, targets, labels))
    return Split(
        file.texts,
        file.pairs,
        real_targets(where, targets) if source.regression else class_targets(where, targets, labels),
    )


def _kinds(source: TaskFiles, targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return what an example is of, `[examples]`, of which a drawn dev set has each in proportion."""
    if source.multi_label:
        counts = np.where(targets > 0, targets.sum(axis=0), len(targets) + 1)
        return np.where(targets.any(axis=1), counts.argmin(axis=1), targets.shape[1])
    return np.zeros(len(targets), np.int64) if source.regression else targets


def _metrics(source: TaskFiles) -> tuple[str, ...]:
    _refuse_together(source)
    known, default = {
        "regression": (tuple(REGRESSION), ("pearson", "spearman", "r2", "mae", "rmse")),
        "several labels": (tuple(MULTI_LABEL), ("micro_f1",)),
        "classes": (tuple(CLASSIFICATION), ("accuracy",)),
    }[kind := "regression" if source.regression else "several labels" if source.multi_label else "classes"]
    chosen = source.metrics or default
    for metric in chosen:
        if metric not in known:
            raise unknown_name(f"metric for {kind}", metric, known)
    if not scored(chosen):
        raise TicketError(
            f"--metrics {','.join(chosen)}: error metrics cannot be the score, since lower is better; add r2, "
            "pearson or spearman."
        )
    if source.positive and "f1" not in chosen:
        raise TicketError("--positive chooses the class for metric f1; add --metrics f1.")
    return chosen


def _refuse_together(source: TaskFiles) -> None:
    """Raise TicketError for settings on labels that exclude each other, or that would be passed over."""
    for flag in ("labels", "positive", "multi_label"):
        if source.regression and getattr(source, flag):
            name = flag.replace("_", "-")
            raise TicketError(f"--{name} is for classes, --regression for real numbers; leave one of them out.")
    if source.multi_label and source.positive:
        raise TicketError("--positive is for one class of two, --multi-label for any number; leave one of them out.")
    if source.label_separator != TaskFiles.model_fields["label_separator"].default and not source.multi_label:
        raise TicketError(f"--label-separator {source.label_separator} is used only with --multi-label; leave it out.")


def _positive(source: TaskFiles, labels: tuple[str, ...], metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics with F1 of the class that is asked for; raises TicketError if there is no such class."""
    if {"f1", "f1_first"} & {*metrics} and len(labels) != 2:
        raise TicketError(f"metric 'f1' needs two classes, the task has {len(labels)}: use 'macro_f1'.")
    if source.positive is None:
        return metrics
    if source.positive not in labels:
        raise unknown_name("label in --positive", source.positive, labels)
    return tuple("f1_first" if metric == "f1" and source.positive == labels[0] else metric for metric in metrics)


def dev_rows(where: str, of: NDArray[Any], share: float) -> NDArray[np.int64]:
    """Return which examples become the dev set, in the file's order: of each kind its share, by largest remainders.

    `of` `[examples]` says which kind each is of. At least one example of each kind stays in training.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(of))
    _, kinds, there = np.unique(of, return_inverse=True, return_counts=True)
    cut = round(share * len(of))
    if not 2 <= cut <= len(of) - len(there):
        of_each = f" that leaves an example of each of {len(there)} classes for training" if len(there) > 1 else ""
        raise TicketError(
            f"{where} has {counted(len(of), 'example')}, too few for a dev set of --dev-share {share} with at "
            f"least two examples{of_each}; choose another --dev-share, or name a dev file with --dev-file."
        )
    wanted = cut * there / len(of)
    taken = np.minimum(np.floor(wanted).astype(np.int64), there - 1)
    first = rng.permutation(len(there))  # among equal remainders, so that it is not always the alphabet's first
    while taken.sum() < cut:
        lacking = np.where(taken < there - 1, wanted - taken, -np.inf)
        taken[first[np.argmax(lacking[first])]] += 1
    return np.sort(np.concatenate([order[kinds[order] == kind][: taken[kind]] for kind in range(len(there))]))
