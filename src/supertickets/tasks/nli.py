"""SNLI 1.0 and SciTail 1.1, from the folders that their authors distribute: what tickets are adapted to (section 7)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supertickets.errors import TicketError
from supertickets.tasks.tables import Table, column, counted, read_table, read_tsv, text_column
from supertickets.tasks.task import Split, Task, class_targets


@dataclass(frozen=True)
class NLITask:
    """One corpus: where its files may lie and what its labels are.

    `folders` are tried below the data folder, `files` (with `{}` for train or dev) in each, the first found counts.
    `columns` name premise, hypothesis and label; `header` does where a file has none. `synonyms` are other words for
    labels in one of the formats.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    columns: tuple[str, str, str] = ("sentence1", "sentence2", "gold_label")
    header: tuple[str, ...] | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)


NLI: dict[str, NLITask] = {
    "snli": NLITask(
        ("", "snli_1.0", "SNLI", "snli"),
        ("snli_1.0_{}.jsonl", "snli_1.0_{}.txt", "{}.tsv"),
        ("contradiction", "neutral", "entailment"),
    ),
    "scitail": NLITask(
        ("", "SciTailV1.1", "SciTail", "scitail"),
        ("tsv_format/scitail_1.0_{}.tsv", "snli_format/scitail_1.0_{}.txt"),
        ("neutral", "entails"),
        header=("sentence1", "sentence2", "gold_label"),
        synonyms={"entailment": "entails"},
    ),
}
UNDECIDED = "-"
"""SNLI's label where its annotators did not agree; such examples are left out, as everybody does."""


def load_nli(name: str, data: Path | None) -> Task:
    """Load SNLI or SciTail from `data`; raises TicketError if its files are not there or one is wrong."""
    task = NLI[name]
    if data is None:
        raise TicketError(f"task {name!r}: name the folder of its files with --data.")
    if not data.is_dir():
        raise TicketError(f"--data {data}: no such folder.")
    for folder in task.folders:
        for pattern in task.files:
            train, dev = (data / folder / pattern.format(split) for split in ("train", "dev"))
            if train.is_file():
                tables = (_read(task, train), _read(task, dev))
                training, dev_set = (_split(task, table) for table in tables)
                notices = tuple(notice for table in tables for notice in (*table.notices, *_undecided(task, table)))
                return Task(name, task.labels, ("accuracy",), training, dev_set, {}, notices=notices)
    wanted = " or ".join(pattern.format("train") for pattern in task.files)
    raise TicketError(f"--data {data}: there is no {wanted} in it (nor in {', '.join(filter(None, task.folders))}).")


def _undecided(task: NLITask, table: Table) -> list[str]:
    """Return how many examples are left out, if any are."""
    number = column(table, task.columns[2]).count(UNDECIDED)
    what = f"with label {UNDECIDED!r} skipped: their annotators did not agree."
    return [f"{table.path.name}: {counted(number, 'example')} {what}"] if number else []


def _split(task: NLITask, table: Table) -> Split:
    premise, hypothesis = (text_column(table, name) for name in task.columns[:2])
    labels = [task.synonyms.get(str(label), str(label)) for label in column(table, task.columns[2])]
    kept = [row for row, label in enumerate(labels) if label != UNDECIDED]
    targets = class_targets(str(table.path), [labels[row] for row in kept], task.labels)
    return Split([premise[row] for row in kept], [hypothesis[row] for row in kept], targets)


def _read(task: NLITask, path: Path) -> Table:
    """Read a file by its form: SciTail's .txt has JSON lines, SNLI's has tabs."""
    if path.suffix == ".jsonl" or "snli_format" in path.parts:
        return read_table(path, ".jsonl")
    return read_tsv(path, task.header if "tsv_format" in path.parts else None)
