"""Built-in tasks: generated English, so that everything runs with no data and no network.

There is one for each kind of GLUE task. What a label depends on is grammar and meaning, never a single word, so a small
encoder learns part of it in a few hundred examples. The examples are in `builtin.parquet`, which
`scripts/make_builtin_tasks.py` generates.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from supertickets.errors import needs
from supertickets.tasks.loader import TaskLoader
from supertickets.tasks.source import TaskSource
from supertickets.tasks.task import Split, Task


@cache
def _examples() -> list[dict[str, Any]]:
    """Return every task's examples, in order: task, split (train or dev), text, pair (or None), target."""
    needs("data", "A built-in task")
    from pyarrow import parquet

    with resources.files("supertickets.tasks").joinpath("builtin.parquet").open("rb") as file:
        found: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    return found


@dataclass(frozen=True)
class BuiltinTask(TaskLoader):
    """A built-in task; no labels mean regression."""

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    built_in = True

    def load(self, source: TaskSource) -> Task:
        """Return the task; no text of the dev set is in the training set."""
        return Task(self.name, self.labels, self.metrics, self._split("train"), self._split("dev"), {})

    def _split(self, part: str) -> Split:
        rows = [row for row in _examples() if row["task"] == self.name and row["split"] == part]
        pairs = [row["pair"] for row in rows if row["pair"] is not None]
        targets = np.array([row["target"] for row in rows]).astype(np.int64 if self.labels else np.float64)
        return Split([row["text"] for row in rows], pairs or None, targets)


ACCEPTABILITY = BuiltinTask("acceptability", ("unacceptable", "acceptable"), ("matthews",))
SENTIMENT = BuiltinTask("sentiment", ("negative", "positive"), ("accuracy",))
ENTAILMENT = BuiltinTask("entailment", ("contradiction", "neutral", "entailment"), ("accuracy",))
PARAPHRASE = BuiltinTask("paraphrase", ("different", "same"), ("accuracy", "f1"))
SIMILARITY = BuiltinTask("similarity", (), ("pearson", "spearman"))
BUILTIN = {task.name: task for task in (ACCEPTABILITY, SENTIMENT, ENTAILMENT, PARAPHRASE, SIMILARITY)}


def sentences(part: str) -> list[str]:
    """Return the texts of every task's `train` or `dev` set, the two of a pair one after the other."""
    rows = [row for name in BUILTIN for row in _examples() if row["task"] == name and row["split"] == part]
    return [text for row in rows for text in (row["text"], row["pair"]) if text is not None]
