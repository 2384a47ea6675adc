"""A study as statistics see it: what it was about, and one table of what came out. No model, no data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import forward_flops, kept_neurons, parameters
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.examples import BY_EXAMPLE, ByExample
from supertickets.lab.steps import Label, Run
from supertickets.models import BaseModel, counted_layers
from supertickets.storage import write_atomically
from supertickets.tasks import Task, TaskSource
from supertickets.tasks.metrics import scored
from supertickets.tickets import Ticket

TASKS, RESULTS = "study.safetensors", "results.csv"
"""In a study's folder: what it is about; when it has ended, one row a run."""
DENSE = "dense"
CONTROL = "control"
"""Dense runs with other seeds than the study's: what choosing among seeds alone gives."""


@checked_dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class TaskInfo:
    """What a study trains on what: base model, task, and the dev set's targets, which its outputs are judged by."""

    model: str
    model_type: str
    weight_hash: str
    shape: Shape
    task: str
    data_hash: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: int
    targets: NDArray[Any]
    source: TaskSource
    files_hash: str = ""
    layers: int | None = None
    """How many of the base model's first layers are used; None: all."""
    of_weights: str | None = None
    """Then the hash of the whole model's weights."""
    description: tuple[str, ...] = ()
    """What was understood of its data, in sentences."""
    notices: tuple[str, ...] = ()
    """What was understood of the base model, in sentences."""

    @classmethod
    def of(cls, base: BaseModel, source: TaskSource, task: Task) -> TaskInfo:
        """Return this of a base model and a task, which was loaded from `source`."""
        return cls(
            model=base.name,
            model_type=base.config["model_type"],
            weight_hash=base.weight_hash,
            files_hash=base.files_hash,
            layers=base.layers,
            of_weights=base.of_weights,
            shape=base.shape,
            task=task.name,
            data_hash=task.fingerprint(),
            labels=task.labels,
            metrics=task.metrics,
            train=len(task.train),
            targets=task.dev.targets,
            source=source,
        )

    @property
    def identity(self) -> tuple[str, ...]:
        """What is the same wherever model and examples lie."""
        return self.task, self.data_hash, self.model_type, self.weight_hash, self.files_hash

    @property
    def called(self) -> str:
        """The base model's name, with how many of its layers are used if not all."""
        return self.model if self.layers is None else f"{self.model} (first {counted_layers(self.layers)})"

    @property
    def measure(self) -> str:
        """What the score is, in words."""
        names = scored(self.metrics)
        return " and ".join(names) if len(names) < 3 else f"mean of {len(names)} metrics"


def understood(tasks: Sequence[TaskInfo]) -> list[str]:
    """Return what was understood of the base model, and of each task's data, with its name if there are several."""
    several = len({task.task for task in tasks}) > 1
    of_data = [f"{task.task}: {said}" if several else said for task in tasks for said in task.description]
    return list(dict.fromkeys([*tasks[0].notices, *of_data]))


def save_tasks(folder: Path, tasks: Sequence[TaskInfo]) -> None:
    """Write `study.safetensors` into a study's folder."""
    from safetensors.numpy import save

    words = [TypeAdapter(TaskInfo).dump_python(task, mode="json", exclude={"targets"}) for task in tasks]
    arrays = {f"targets.{i}": np.ascontiguousarray(task.targets) for i, task in enumerate(tasks)}
    write_atomically(folder / TASKS, save(arrays, metadata={"tasks": json.dumps(words, sort_keys=True)}))


def load_tasks(folder: Path) -> tuple[TaskInfo, ...]:
    """Read what a study is about; nothing if the folder does not say. Raises TicketError if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / TASKS
    if not path.is_file():
        return ()
    try:
        with safe_open(path, framework="numpy") as file:
            words = json.loads(file.metadata()["tasks"])
            for shape in (one["shape"] for one in words):
                if (times := shape.pop("repeats", 1)) > 1:  # older files say it of all layers together
                    shape["applied"] = [times] * shape["layers"]
            return tuple(TaskInfo(**one, targets=file.get_tensor(f"targets.{i}")) for i, one in enumerate(words))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise TicketError(
            f"{path}: the file is damaged ({said}); run the study's command again to rewrite it."
        ) from error


@dataclass(frozen=True)
class Runs:
    """What came of a study's steps. `settings` are the effective ones, `complete` says whether the study has ended.

    `tasks` are what it is about, on one base model; of a study of one task, `task` is that.
    """

    tasks: tuple[TaskInfo, ...]
    folder: Path
    settings: Mapping[str, Any]
    runs: Sequence[Run]
    complete: bool = True

    @property
    def task(self) -> TaskInfo:
        """The first (or only) task."""
        return self.tasks[0]

    def only(self, **labels: Label | None) -> Runs:
        """Return these runs without those that have other labels; None asks for runs that have no such label."""
        kept = self.every(**labels)
        # With none left out they are the same, and share the table, which takes long to make.
        return self if len(kept) == len(self.runs) else replace(self, runs=kept)

    @property
    def failures(self) -> dict[str, str]:
        """Why trials failed (tracebacks), by the names of their steps."""
        return {str(run.step): run.failure for run in self.runs if run.failure is not None}

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a run (see `runs_table`)."""
        return runs_table(self.runs, self.tasks)

    def where(self, **labels: Label) -> list[Run]:
        """Return the finished runs with these labels, in their order."""
        return [run for run in self.every(**labels) if run.finished]

    def every(self, **labels: Label | None) -> list[Run]:
        """Return the runs with these labels, finished or not; None is as for `only`."""
        wanted = labels.items()
        return [run for run in self.runs if all(run.step.labels.get(name) == value for name, value in wanted)]

    def check_some_finished(self, what: str = "training", **labels: Label) -> None:
        """Raise StudyError, with the first reason, if no run with these labels finished."""
        if not self.where(**labels):
            reasons = [*self.failures.values(), *(run.outcome.reason or "" for run in self.runs if run.outcome)]
            said = reasons[0].strip().splitlines()[-1] if reasons else "none has run yet"
            raise StudyError(f"no {what} finished: {said}")

    @property
    def model(self) -> str:
        """What the base model is called in words."""
        called = self.task.called
        return "the default encoder" + called.removeprefix("default") if self.task.model == "default" else called

    @property
    def name(self) -> str:
        """Task, what distinguishes this study's training set if it is not the whole, and whether tickets are taught."""
        fraction, taught = self.settings.get("fraction", 1.0), self.settings.get("teacher", "none") != "none"
        name = self.task.task if fraction == 1.0 else f"{self.task.task} ({fraction:.4g} of its training set)"
        return f"{name}, taught" if taught else name


def runs_table(runs: Sequence[Run], tasks: Sequence[TaskInfo]) -> pd.DataFrame:
    """Return one row a run, and of a training of several tasks one row a task. All scores and metrics are in percent.

    The columns of every study are its labels (text in the order of its first appearance, numbers rising), `task`,
    `status` (finished, diverged, failed or missing), `score`, the task's metrics, `last_step` and `best_of_epochs`
    (scores after the last and the best epoch), `best_epoch`, what is kept (`heads`, `ffns`, `neurons`; `encoder`, the
    share of the parameters of heads and FFNs; `parameters`; `remaining`, their share of the dense model's; `inference`,
    the share of its FLOPs for a text of 32 tokens), what the training took (`tokens`, `flops`, `seconds`; of several
    tasks in the first one's row, so that costs add up), and the key of the `trial`. What a run does not have is missing
    (NaN), never zero. `by_example` has what each dev example contributes to the score (`evidence.examples`), and is in
    no file.
    """
    dense: dict[tuple[str, ...], float] = {}  # by the tasks, whose output layers differ
    for run in runs:
        if run.outcome is not None and run.outcome.trial.ticket.is_full:
            dense[run.outcome.trial.examples] = run.outcome.cost["parameters"]
    rows = [
        _row(run, task, place, dense) for run in runs if run.counts for place, task in enumerate(_tasks_of(run, tasks))
    ]
    frame = pd.DataFrame(rows)
    labels = list(dict.fromkeys(name for run in runs if run.counts for name in run.step.labels))
    labels += [] if "task" in labels else ["task"]
    frame = frame[[*labels, *(name for name in frame.columns if name not in (*labels, *_LAST)), *_LAST]]
    order = pd.DataFrame({name: _in_order(frame[name]) for name in labels})
    return frame.loc[order.sort_values(labels, kind="stable").index].reset_index(drop=True)


_LAST = (
    "last_step", "best_of_epochs", "best_epoch", "heads", "ffns", "neurons", "encoder", "parameters", "remaining",
    "inference", "tokens", "flops", "seconds", "trial", BY_EXAMPLE,
)  # fmt: skip


def _in_order(column: pd.Series) -> pd.Series:
    """Return what a column is sorted by: text by its first appearance, numbers by their value."""
    return column if is_numeric_dtype(column) else pd.Series(pd.factorize(column)[0], index=column.index)


def _tasks_of(run: Run, tasks: Sequence[TaskInfo]) -> Sequence[TaskInfo]:
    """Return the tasks of a run, among the study's own; `task` may be a label, or the trial's examples say which."""
    if run.trial is not None:
        by_data = {task.data_hash: task for task in tasks}
        return [by_data[of.data_hash] for of in run.trial.tasks if of.data_hash in by_data]
    named = run.step.labels.get("task")
    return [task for task in tasks if task.task == named][:1] if named else tasks


def _row(run: Run, task: TaskInfo, place: int, dense: Mapping[tuple[str, ...], float]) -> dict[str, Any]:
    outcome, trial = run.outcome, run.trial
    row: dict[str, Any] = {**run.step.labels, "task": task.task, "status": run.status, "score": np.nan}
    row |= dict.fromkeys(_LAST)
    if outcome is not None and outcome.finished:
        for split, metrics in outcome.by_task[place].items():
            prefix = "" if split == "dev" else f"{split}_"
            row |= {prefix + name: value for name, value in metrics.items() if prefix + name != "score"}
        row["score"] = outcome.by_task[place]["dev"]["score"]
        row[BY_EXAMPLE] = ByExample(outcome, place, task.metrics, task.targets)
        several = len(outcome.trial.tasks) > 1  # then an epoch's score is the mean over tasks
        scores = [
            list(epoch["metrics"].values())[place]["dev"]["score"] if several else epoch["score"]
            for epoch in outcome.epochs
        ]
        row |= {"last_step": scores[-1], "best_of_epochs": max(scores), "best_epoch": outcome.best_epoch}
    if trial is not None:
        ticket = trial.tasks[place].ticket
        full = forward_flops(task.shape, Ticket.full(*ticket.shape), 1, 32)
        row |= {"heads": ticket.kept_heads, "ffns": ticket.kept_ffns, "neurons": kept_neurons(task.shape, ticket)}
        row["encoder"] = parameters(task.shape, ticket) / parameters(task.shape, Ticket.full(*ticket.shape))
        row |= {"inference": forward_flops(task.shape, ticket, 1, 32) / full, "trial": trial.key}
    if outcome is not None:
        row["parameters"] = outcome.cost["parameters"]
        if (whole := dense.get(outcome.trial.examples)) is not None:
            row["remaining"] = row["parameters"] / whole
        row |= {name: outcome.cost[name] for name in ("tokens", "flops", "seconds") if not place}
    return row
