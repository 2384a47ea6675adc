"""The nine GLUE tasks, from a folder of the official TSV files or from the hub.

Label order follows the released code's task definitions (spec section 6); metrics are GLUE's own.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError
from supertickets.tasks.loader import TaskLoader, ask_hub
from supertickets.tasks.source import TaskSource
from supertickets.tasks.tables import column, read_tsv
from supertickets.tasks.task import Split, Task, class_targets, real_targets

HUB_ID = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask(TaskLoader):
    """A task's folder, columns and labels; `hub_texts` are the hub's column names where they differ.

    Its examples are in `source.data`, the folder that holds `CoLA/`, `SST-2/` and so on, or else on the hub.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    header: tuple[str, ...] | None = None
    hub_texts: tuple[str, ...] | None = None
    skip_short: bool = False
    dev: str = "dev"
    extra: tuple[tuple[str, str, str], ...] = ()  # (name here, file, hub split)
    hub_dev: str = "validation"

    @property
    def on_hub(self) -> tuple[str, ...]:
        """The columns of its texts on the hub."""
        return self.hub_texts or self.texts

    def load(self, source: TaskSource) -> Task:
        """Return the task; raises TicketError for any fault in its files, or if the hub does not give them."""
        return _from_hub(self) if source.data is None else _from_folder(self, source.data)


_BINARY = ("0", "1")
_ENTAILMENT = ("not_entailment", "entailment")
_TWO = ("sentence1", "sentence2")

COLA = GlueTask(
    "cola", "CoLA", ("sentence",), "label", _BINARY, ("matthews",), header=("source", "label", "mark", "sentence")
)
SST2 = GlueTask("sst2", "SST-2", ("sentence",), "label", _BINARY)
MRPC = GlueTask("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", _BINARY, ("accuracy", "f1"), hub_texts=_TWO)
STSB = GlueTask("stsb", "STS-B", _TWO, "score", (), ("pearson", "spearman"))
QQP = GlueTask("qqp", "QQP", ("question1", "question2"), "is_duplicate", _BINARY, ("accuracy", "f1"), skip_short=True)
MNLI = GlueTask(
    "mnli",
    "MNLI",
    _TWO,
    "gold_label",
    ("contradiction", "neutral", "entailment"),
    hub_texts=("premise", "hypothesis"),
    dev="dev_matched",
    extra=(("dev_mismatched", "dev_mismatched", "validation_mismatched"),),
    hub_dev="validation_matched",
)
QNLI = GlueTask("qnli", "QNLI", ("question", "sentence"), "label", _ENTAILMENT)
RTE = GlueTask("rte", "RTE", _TWO, "label", _ENTAILMENT)
WNLI = GlueTask("wnli", "WNLI", _TWO, "label", _BINARY)
GLUE = {task.name: task for task in (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI)}


def _task_folder(task: GlueTask, data: Path) -> Path:
    if not data.is_dir():
        raise TicketError(f"--data {data}: no such folder.")
    wanted = task.folder.lower()
    folders = {item.name.lower(): item for item in data.iterdir() if item.is_dir()}
    for name in (wanted, wanted.replace("-", "")):
        if name in folders:
            return folders[name]
    if data.name.lower() == wanted:
        return data
    found = f"it has {', '.join(sorted(item.name for item in folders.values()))}" if folders else "it has no folders"
    raise TicketError(f"--data {data}: there is no folder {task.folder} in it; {found}.")


def _from_folder(task: GlueTask, data: Path) -> Task:
    folder = _task_folder(task, data)
    notices: list[str] = []

    def split(stem: str) -> Split:
        table = read_tsv(folder / f"{stem}.tsv", task.header, task.skip_short)
        notices.extend(table.notices)
        texts = [column(table, text) for text in task.texts]
        return _split(str(table.path), task, texts, column(table, task.label))

    train, dev = split("train"), split(task.dev)
    extra = {here: split(stem) for here, stem, _ in task.extra if (folder / f"{stem}.tsv").is_file()}
    return Task(task.name, task.labels, task.metrics, train, dev, extra, notices=tuple(notices))


def load_test_texts(
    task: str, sources: Sequence[str], hub: tuple[str, str], data: Path | None
) -> tuple[list[str], list[str] | None] | None:
    """Return the texts of a test set: from the first of `sources` that a GLUE folder has, or from the hub if no folder.

    None if the folder has none of them. Raises TicketError for a fault in the file.
    """
    known = GLUE[task]
    if data is None:
        rows = _ask_hub(hub[0])[hub[1]]
        return _one_or_two([list(rows[text]) for text in known.on_hub])
    for source in sources:
        folder, _, file = source.partition("/")
        path = data / folder / file
        if folder == known.folder:
            with suppress(TicketError):  # there is none
                path = _task_folder(known, data) / file
        if path.is_file():
            table = read_tsv(path)
            return _one_or_two([column(table, name) for name in known.texts])
    return None


def _one_or_two(texts: list[list[str]]) -> tuple[list[str], list[str] | None]:
    """Return the first texts of examples and the second ones, if they have any."""
    return texts[0], texts[1] if len(texts) == 2 else None


def _ask_hub(name: str) -> Any:
    return ask_hub(name, HUB_ID, name, files="a folder of GLUE's TSV files")


def _from_hub(task: GlueTask) -> Task:
    data = _ask_hub(task.name)

    def split(hub_split: str) -> Split:
        rows = data[hub_split]
        texts = [list(rows[text]) for text in task.on_hub]
        values = rows["label"]
        if task.labels:
            names = data["train"].features["label"].names
            # The hub names 0/1 classes by words; their order is the files'.
            values = [names[value] if set(names) == set(task.labels) else str(value) for value in values]
        return _split(f"{HUB_ID} {task.name} {hub_split}", task, texts, list(values))

    extra = {here: split(hub) for here, _, hub in task.extra if hub in data}
    return Task(task.name, task.labels, task.metrics, split("train"), split(task.hub_dev), extra)


def _split(where: str, task: GlueTask, texts: list[list[str]], values: list[Any]) -> Split:
    targets = class_targets(where, values, task.labels) if task.labels else real_targets(where, values)
    return Split(*_one_or_two(texts), targets)
