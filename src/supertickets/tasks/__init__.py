"""Tasks: GLUE, SNLI and SciTail, SQuAD, plain text, tagged words, a user's files, and built-in ones without data."""

import math
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks.files import load_files
from supertickets.tasks.loader import TASKS, TaskLoader, loader_of, task_name
from supertickets.tasks.source import TaskFiles, TaskSource
from supertickets.tasks.tables import FORMATS, read_table
from supertickets.tasks.task import CORPORA, Form, Split, Task

__all__ = [
    "TASKS",
    "Form",
    "Split",
    "Task",
    "TaskFiles",
    "TaskLoader",
    "TaskSource",
    "count_of",
    "is_labelled",
    "load_task",
    "loader_of",
    "reads_file",
    "take_part",
    "task_name",
]


def load_task(source: TaskSource) -> Task:
    """Load the examples of a task; raises TicketError for an unknown one and for any fault in its files."""
    return take_part(_load(source), source)


def take_part(task: Task, source: TaskSource, flag: str = "--fraction") -> Task:
    """Return a whole task with the part of its training set that `source` says; raises TicketError if it is no use.

    `flag` is the one that asked for the part.
    """
    if source.fraction < 1:
        task = replace(task, train=_fraction(task, source, flag))
    if task.classes and len(set(task.train.targets.tolist())) < 2:
        raise TicketError(f"task {task.name!r}: every training example is of one class; expected at least two classes.")
    if task.multi_label and (task.train.targets == task.train.targets[0]).all():
        raise TicketError(
            f"task {task.name!r}: every training example has the same labels, so that nothing can be learnt; expected "
            "different ones."
        )
    if task.multi_label and not task.dev.targets.any():
        raise TicketError(f"task {task.name!r}: no dev example has a label, so that F1 is 0 whatever a model predicts.")
    for what, split in (("training", task.train), ("dev", task.dev)):
        if split.words is not None and not any(tag for words in split.words for _, tag in words):
            why = "nothing can be learnt" if what == "training" else "entity_f1 is 0 whatever a model predicts"
            raise TicketError(f"task {task.name!r}: no {what} sentence has an entity, so that {why}.")
    if task.is_regression and len(task.dev) < 2:
        raise TicketError(f"task {task.name!r}: a correlation needs at least two dev examples, there is one.")
    for part, targets in (("training", task.train.targets), ("dev", task.dev.targets)):
        if task.is_regression and np.ptp(targets) == 0:
            why = "nothing can be learnt" if part == "training" else "no correlation with them is defined"
            raise TicketError(
                f"task {task.name!r}: every {part} target is {targets[0]:g}, so that {why}; expected different numbers."
            )
    return task


def count_of(fraction: float, size: int) -> int:
    """Return how many of `size` examples a fraction is, rounded down (as in Table 4: 0.1 % of 549,367 is 549).

    >>> count_of(0.29, 100)
    29
    """
    # Decimal, as written: in floats 0.29 of 100 is 28.99... The ninth place is for 1/3 of 300, written 0.333...
    return math.floor(round(Decimal(repr(float(fraction))) * size, 9))


def _fraction(task: Task, source: TaskSource, flag: str) -> Split:
    """Return a share of the training set: the first examples of one random order, so that fractions are nested.

    Of a corpus it is the first lines, so that a block of text goes on as it does in the whole.
    """
    whole = task.train
    count = count_of(source.fraction, len(whole))
    needed = max(len(task.classes), 2)
    if count < needed:
        least = Context(prec=3, rounding=ROUND_CEILING).divide(Decimal(needed), Decimal(len(whole)))
        raise TicketError(
            f"{flag} {source.fraction:.3g}: it leaves {count} of {len(whole)} training examples of task {task.name!r}; "
            f"expected at least {needed}, a fraction of {least:g} or more."
        )
    order = np.random.default_rng(source.fraction_seed).permutation(len(whole))
    rows = np.arange(count) if task.form in CORPORA else np.sort(order[:count])
    return whole.take(rows)


def reads_file(source: TaskSource) -> bool:
    """Return whether the user's own file is in the format of the task's name; if not, it is a table with any name."""
    loader = loader_of(source.task)
    return source.train_file is not None and loader is not None and loader.reads(source)


def is_labelled(source: TaskSource) -> bool:
    """Return whether the user's own file is a table with the columns of a text and of its label."""
    if source.train_file is None or source.train_file.suffix.lower() not in FORMATS:
        return False
    try:
        columns = read_table(source.train_file).columns
    except TicketError:  # lines of text, or words and tags
        return False
    return {source.text, source.label} <= columns.keys() and isinstance(columns[source.text][0], str)


def _load(source: TaskSource) -> Task:
    loader = loader_of(source.task)
    _refuse_unused(source)
    if source.train_file is not None and not reads_file(source):
        return load_files(source)
    if source.train_file is None and source.dev_file is not None:
        raise TicketError(f"--dev-file {source.dev_file} was given without --train-file; expected both.")
    if fields := [field for field in source.table_fields if loader is None or field not in loader.table_fields]:
        why = "describes your own files: name them with --train-file"
        if source.train_file is not None:
            why = f"describes columns of a table, but the files of task {source.task.lower()!r} are not tables"
        raise TicketError(f"--{fields[0].replace('_', '-')} {why}.")
    if loader is None:
        raise unknown_name("task", source.task, TASKS)
    return loader.load(source)


def _refuse_unused(source: TaskSource) -> None:
    """Raise TicketError if one of the places that examples come from would be passed over."""
    if source.data is not None and source.train_file is not None:
        raise TicketError(f"--data {source.data} and --train-file {source.train_file} were both given; leave one out.")
    split = source.train_file is not None and source.dev_file is None
    if source.dev_share != TaskSource.model_fields["dev_share"].default and not split:
        raise TicketError(
            f"--dev-share {source.dev_share:g} is used only with a --train-file without --dev-file; leave it out."
        )
