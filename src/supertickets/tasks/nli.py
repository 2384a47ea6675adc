"""SNLI 1.0 and SciTail 1.1, from the folders that their authors distribute: what tickets are adapted to (section 7)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supertickets.errors import TicketError
from supertickets.tasks.loader import TaskLoader, first_file
from supertickets.tasks.source import TaskSource
from supertickets.tasks.tables import Table, column, counted, read_table, read_tsv, text_column
from supertickets.tasks.task import Split, Task, class_targets

_COLUMNS = ("sentence1", "sentence2", "gold_label")
"""Premise, hypothesis and label; SciTail's files of tabs have no header."""


@dataclass(frozen=True)
class NLITask(TaskLoader):
    """One corpus: where its files may lie and what its labels are.

    `files` are training files; the first that is in the data folder or one of `folders` below it counts. The dev file
    lies beside it. `synonyms` are other words for labels in one of the formats.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)

    def load(self, source: TaskSource) -> Task:
        """Return the task from `source.data`; raises TicketError if its files are not there or one is wrong."""
        if source.data is None:
            raise TicketError(f"task {self.name!r}: name the folder of its files with --data.")
        train = first_file(source.data, self.folders, self.files)
        tables = [_read(path) for path in (train, train.with_name(train.name.replace("train", "dev")))]
        training, dev = (_split(self, table) for table in tables)
        notices = tuple(told for table in tables for told in (*table.notices, *_undecided(table)))
        return Task(self.name, self.labels, ("accuracy",), training, dev, {}, notices=notices)


SNLI = NLITask(
    "snli",
    ("snli_1.0", "SNLI", "snli"),
    ("snli_1.0_train.jsonl", "snli_1.0_train.txt", "train.tsv"),
    ("contradiction", "neutral", "entailment"),
)
SCITAIL = NLITask(
    "scitail",
    ("SciTailV1.1", "SciTail", "scitail"),
    ("tsv_format/scitail_1.0_train.tsv", "snli_format/scitail_1.0_train.txt"),
    ("neutral", "entails"),
    synonyms={"entailment": "entails"},
)
UNDECIDED = "-"
"""SNLI's label where its annotators did not agree; such examples are left out, as is usual."""


def _undecided(table: Table) -> list[str]:
    """Return how many examples are left out, if any are."""
    number = column(table, _COLUMNS[2]).count(UNDECIDED)
    what = f"with label {UNDECIDED!r} skipped: their annotators did not agree."
    return [f"{table.path.name}: {counted(number, 'example')} {what}"] if number else []


def _split(task: NLITask, table: Table) -> Split:
    premise, hypothesis = (text_column(table, name) for name in _COLUMNS[:2])
    labels = [task.synonyms.get(str(label), str(label)) for label in column(table, _COLUMNS[2])]
    kept = [row for row, label in enumerate(labels) if label != UNDECIDED]
    targets = class_targets(str(table.path), [labels[row] for row in kept], task.labels)
    return Split([premise[row] for row in kept], [hypothesis[row] for row in kept], targets)


def _read(path: Path) -> Table:
    """Read a file by its form: SciTail's .txt has JSON lines, SNLI's has tabs."""
    if path.suffix == ".jsonl" or "snli_format" in path.parts:
        return read_table(path, ".jsonl")
    return read_tsv(path, _COLUMNS if "tsv_format" in path.parts else None)
