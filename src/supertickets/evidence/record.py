"""A study as evidence sees it: what it was about, what each trial stood for, what came out. No model, no data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.anatomy import Shape
from supertickets.errors import TicketError
from supertickets.evidence.table import Role, Row, results_table
from supertickets.models import BaseModel
from supertickets.storage import write_atomically
from supertickets.tasks import Task, TaskSource
from supertickets.tasks.metrics import scored

SUBJECT = "subject.safetensors"


@dataclass(frozen=True)
class Subject:
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
    description: tuple[str, ...] = ()
    """What was understood of its data, in sentences."""

    @classmethod
    def of(cls, base: BaseModel, source: TaskSource, task: Task) -> Subject:
        """Return the subject of a study of a base model on a task, loaded from `source`."""
        return cls(
            model=base.name,
            model_type=base.config["model_type"],
            weight_hash=base.weight_hash,
            files_hash=base.files_hash,
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
    def measure(self) -> str:
        """What the score is, in words."""
        names = scored(self.metrics)
        return " and ".join(names) if len(names) < 3 else f"mean of {len(names)} metrics"


def save_subjects(folder: Path, subjects: Sequence[Subject]) -> None:
    """Write `subject.safetensors` into a study's folder."""
    from safetensors.numpy import save

    words = [
        {name: value for name, value in vars(subject).items() if name != "targets"}
        | {"shape": asdict(subject.shape), "source": subject.source.model_dump(mode="json")}
        for subject in subjects
    ]
    arrays = {f"targets.{i}": np.ascontiguousarray(subject.targets) for i, subject in enumerate(subjects)}
    write_atomically(folder / SUBJECT, save(arrays, metadata={"subjects": json.dumps(words, sort_keys=True)}))


def load_subjects(folder: Path) -> tuple[Subject, ...]:
    """Read what a study is about; nothing if the folder does not say. Raises TicketError if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / SUBJECT
    if not path.is_file():
        return ()
    try:
        with safe_open(path, framework="numpy") as file:
            words = json.loads(file.metadata()["subjects"])
            return tuple(
                Subject(
                    **one
                    | {
                        "source": TaskSource.model_validate(one["source"]),
                        "shape": Shape(**one["shape"]),
                        "labels": tuple(one["labels"]),
                        "metrics": tuple(one["metrics"]),
                        "description": tuple(one.get("description", ())),
                        "targets": file.get_tensor(f"targets.{i}"),
                    }
                )
                for i, one in enumerate(words)
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TicketError(
            f"{path}: the file is damaged ({error}); run the study's command again, which writes it anew."
        ) from error


@dataclass(frozen=True)
class Record:
    """A study and its outcomes. `settings` are the effective ones; `complete` says whether the study had ended.

    `subjects` are the tasks that it is about, on one base model; a study of one task has one `subject`.
    """

    subjects: tuple[Subject, ...]
    folder: Path
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    complete: bool = True
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> Subject:
        """The first (or only) task's."""
        return self.subjects[0]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a role (see `results_table`)."""
        return results_table(self.rows, self.subject.shape)

    @cached_property
    def roles(self) -> dict[Role, Row]:
        """Each role's row."""
        return {row.role: row for row in self.rows}

    def finished(self, kind: str) -> list[Row]:
        """Return the rows of a kind whose trials finished, by level and seed."""
        of_kind = [row for row in self.rows if row.role.kind == kind and row.finished]
        return sorted(of_kind, key=lambda row: (row.role.level, row.role.seed))

    def first_trouble(self) -> str:
        """Return the last line of why a first trial failed or diverged."""
        reasons = [*self.failures.values(), *(row.outcome.reason or "" for row in self.rows if row.outcome)]
        return reasons[0].strip().splitlines()[-1]

    @property
    def name(self) -> str:
        """Task, and what distinguishes this study's training set if it is not the whole."""
        fraction = self.settings.get("fraction", 1.0)
        return self.subject.task if fraction == 1.0 else f"{self.subject.task} ({fraction:.4g} of its training set)"
