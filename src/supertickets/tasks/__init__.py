"""Tasks: GLUE, SNLI and SciTail, SQuAD, plain text, a user's own files, and built-in ones that need no data."""

import math
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks import builtin, files, glue, nli, squad, tables, text
from supertickets.tasks.source import TaskFiles, TaskSource
from supertickets.tasks.task import Form, Split, Task

__all__ = ["Form", "Split", "Task", "TaskFiles", "TaskSource", "count_of", "load_task", "take_part"]


def _default(field: str) -> object:
    return TaskSource.model_fields[field].default


def load_task(source: TaskSource) -> Task:
    """Load the examples of a task; raises TicketError for an unknown one and for any fault in its files."""
    return take_part(_load(source), source)


def take_part(task: Task, source: TaskSource) -> Task:
    """Return a whole task with the part of its training set that `source` says; raises TicketError if it is no use."""
    if source.fraction < 1:
        task = replace(task, train=_fraction(task, source))
    if task.labels and len(set(task.train.targets.tolist())) < 2:
        raise TicketError(f"task {task.name!r}: every training example is of one class; expected at least two classes.")
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


def _fraction(task: Task, source: TaskSource) -> Split:
    """Return a share of the training set: the first examples of one random order, so that fractions are nested.

    Of a corpus it is the first lines, so that a block of text goes on as it does in the whole.
    """
    whole = task.train
    count = count_of(source.fraction, len(whole))
    needed = max(len(task.labels), 2)
    if count < needed:
        least = Context(prec=3, rounding=ROUND_CEILING).divide(Decimal(needed), Decimal(len(whole)))
        raise TicketError(
            f"a fraction of {source.fraction:.3g} leaves {count} of {len(whole)} training examples of task "
            f"{task.name!r}; expected at least {needed}, a fraction of {least:g} or more."
        )
    order = np.random.default_rng(source.fraction_seed).permutation(len(whole))
    rows = np.arange(count) if task.form == "masked" else np.sort(order[:count])
    pair = None if whole.pair is None else [whole.pair[row] for row in rows]
    answers = None if whole.answers is None else [whole.answers[row] for row in rows]
    return Split([whole.text[row] for row in rows], pair, whole.targets[rows], answers)


SPANS, MASKED = "squad", "mlm"
"""The tasks whose examples are no rows of a table."""


def _load(source: TaskSource) -> Task:
    name = source.task.lower().replace("-", "")
    _refuse_unused(source)
    if source.train_file is not None and (name == MASKED or _is_squad(source, source.train_file)):
        _refuse_columns(source, f"speaks of the columns of a table, which task {name!r} has not")
        if name == MASKED:
            return text.load_text_files(name, source.train_file, source.dev_file, source.dev_share)
        return squad.load_squad_files(name, source.train_file, source.dev_file)
    if source.train_file is not None:
        return files.load_files(source, source.train_file)
    if source.dev_file is not None:
        raise TicketError(f"--dev-file {source.dev_file} was given without --train-file; expected both.")
    _refuse_columns(source, "speaks of your own files: name them with --train-file")
    if name in builtin.BUILTIN:
        return builtin.load_builtin(name)
    if name in nli.NLI:
        return nli.load_nli(name, source.data)
    if name == SPANS:
        return squad.load_squad(source.data)
    if name == MASKED:
        return text.load_text(name, source.data)
    if name not in glue.GLUE:
        raise unknown_name("task", source.task, [*builtin.BUILTIN, *glue.GLUE, *nli.NLI, SPANS, MASKED])
    return glue.load_glue(name, source.data)


def _is_squad(source: TaskSource, train_file: Path) -> bool:
    """Whether a user's file is in SQuAD's format; a task named `squad` may also be of a table with labels."""
    if source.task.lower() != SPANS or train_file.suffix.lower() == ".json":
        return source.task.lower() == SPANS
    return not _columns_named(source) and not {"text", "label"} <= {*tables.read_table(train_file).columns}


def _refuse_unused(source: TaskSource) -> None:
    """Raise TicketError if one of the places that examples come from would be passed over."""
    if source.data is not None and source.train_file is not None:
        raise TicketError(f"--data {source.data} and --train-file {source.train_file} were both given; leave one out.")
    if source.dev_share != _default("dev_share") and (source.train_file is None or source.dev_file is not None):
        raise TicketError(
            f"--dev-share {source.dev_share:g} makes a part of --train-file the dev set, where there is no --dev-file; "
            "leave it out."
        )


def _refuse_columns(source: TaskSource, why: str) -> None:
    """Raise TicketError if a column, or what is done with one, was named."""
    if own := _columns_named(source):
        raise TicketError(f"--{own[0].replace('_', '-')} {why}.")


def _columns_named(source: TaskSource) -> list[str]:
    fields = ("text", "text_pair", "label", "regression", "labels", "positive", "metrics")
    return [field for field in fields if getattr(source, field) != _default(field)]
