"""Tasks: GLUE, SNLI and SciTail, SQuAD, plain text, a user's own files, and built-in ones that need no data."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from supertickets.errors import TicketError, unknown_name
from supertickets.storage import UserPath
from supertickets.tasks import builtin, files, glue, nli, squad, text
from supertickets.tasks.task import Form, Split, Task

__all__ = ["Form", "Split", "Task", "TaskFiles", "TaskSource", "load_task", "take_part"]


class TaskFiles(BaseModel):
    """Where a task's examples are: a built-in generator, GLUE and SQuAD (a folder or the hub), SNLI, SciTail and
    WikiText (a folder), or the user's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    data: UserPath | None = Field(
        None, description="folder of the task's files (without it, GLUE and SQuAD come from the hub)"
    )
    train_file: UserPath | None = Field(
        None, description="your own training file: .csv, .tsv, .jsonl or .parquet; for mlm plain text, for squad .json"
    )
    dev_file: UserPath | None = Field(
        None, description="your own evaluation file (without it, a share of the training file)"
    )
    text: str = Field("text", description="column of the text")
    text_pair: str | None = Field(None, description="column of the second text, if there is one")
    label: str = Field("label", description="column of the label or target")
    regression: bool = Field(False, description="targets are real numbers")
    metrics: tuple[str, ...] | None = Field(None, description="metrics of your own task; their mean is the score")
    dev_share: float = Field(0.1, gt=0, lt=1, description="share of the training file that becomes the dev set")


class TaskSource(TaskFiles):
    """Where a task's examples come from, and which part of them is trained on."""

    fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training set to train on; smaller ones are parts"
    )
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which fractions are taken")


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
    _ = task.scale  # refuses targets that are all equal
    return task


def _fraction(task: Task, source: TaskSource) -> Split:
    """Return a share of the training set: the first examples of one random order, so that fractions are nested.

    Of a corpus it is the first lines, so that a block of text goes on as it does in the whole.
    """
    whole = task.train
    count = math.floor(source.fraction * len(whole) + 0.5)
    needed = max(len(task.labels), 2)
    if count < needed:
        raise TicketError(
            f"a fraction of {source.fraction:.3g} leaves {count} of {len(whole)} training examples of task "
            f"{task.name!r}; expected at least {needed}, a fraction of {needed / len(whole):.3g} or more."
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
    if source.train_file is not None and (name == MASKED or _is_squad(name, source.train_file)):
        _refuse_columns(source, f"speaks of the columns of a table, which task {name!r} has not")
        if name == MASKED:
            return text.load_text_files(name, source.train_file, source.dev_file, source.dev_share)
        return squad.load_squad_files(name, source.train_file, source.dev_file)
    if source.train_file is not None:
        task = files.load_files(
            source.task,
            source.train_file,
            source.dev_file,
            source.text,
            source.text_pair,
            source.label,
            source.regression,
            source.metrics,
            source.dev_share,
        )
        return replace(task, standardised=task.is_regression)
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


def _is_squad(name: str, train_file: Path) -> bool:
    """Whether a user's file is in SQuAD's format; a task named `squad` may also be of a table with labels."""
    return name == SPANS and train_file.suffix.lower() == ".json"


def _refuse_columns(source: TaskSource, why: str) -> None:
    """Raise TicketError if a column, or what is done with one, was named."""
    own = [f for f in ("text", "text_pair", "label", "regression", "metrics") if getattr(source, f) != _default(f)]
    if own:
        raise TicketError(f"--{own[0].replace('_', '-')} {why}.")
