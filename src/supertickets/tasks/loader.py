"""What loads a task, by the task's name. A package adds a task in its pyproject.toml:

[project.entry-points."supertickets.tasks"]
jokes = "my_package.jokes:JOKES"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError, needs
from supertickets.registry import Registry
from supertickets.tasks.source import TaskSource
from supertickets.tasks.task import Form, Task


class TaskLoader:
    """Loads a task whose name says what it is; an instance is registered in `TASKS`.

    `form` is that of its examples. A task that is `built_in` has its examples in a package and reads no files.
    `table_fields` are the settings about columns of a table (see `TaskSource.table_fields`) that it reads.
    """

    form: Form = "sequence"
    built_in: bool = False
    table_fields: tuple[str, ...] = ()

    def reads(self, source: TaskSource) -> bool:
        """Return whether `source.train_file` is in a format of this task; if not, it is a table of texts and labels."""
        return False

    def load(self, source: TaskSource) -> Task:
        """Return the task with its whole training set; raises TicketError for any fault in its files.

        `source` has files of the user's own only if this task `reads` them.
        """
        raise NotImplementedError


_HOME = {
    "builtin": ("acceptability", "sentiment", "entailment", "paraphrase", "similarity"),
    "glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"),
    "ner": ("ner",),
    "nli": ("snli", "scitail"),
    "squad": ("squad",),
    "text": ("mlm", "clm"),
}
TASKS: Registry[TaskLoader] = Registry(
    "task",
    "tasks",
    {name: f"supertickets.tasks.{module}:{name.upper()}" for module, names in _HOME.items() for name in names},
)


def loader_of(task: str) -> TaskLoader | None:
    """Return what loads the task of a name, None if nothing does; case and hyphens do not matter (`SST-2`, `sst2`)."""
    names = {task_name(name): name for name in TASKS}
    return TASKS[names[task_name(task)]] if task_name(task) in names else None


def task_name(name: str) -> str:
    """Return a task's name as it is compared: in lower case, without hyphens."""
    return name.lower().replace("-", "")


def first_file(data: Path, folders: Sequence[str], names: Sequence[str]) -> Path:
    """Return the first of some files in `data` or folders below it; raises TicketError if there is none."""
    if not data.is_dir():
        raise TicketError(f"--data {data}: no such folder.")
    for path in (data / folder / name for folder in ("", *folders) for name in names):
        if path.is_file():
            return path
    raise TicketError(f"--data {data}: there is no {' or '.join(names)} in it (nor in {', '.join(folders)}).")


def ask_hub(task: str, repository: str, *configuration: str, files: str) -> Any:
    """Return the splits of a dataset on the hub; raises TicketError, which asks for `files`, if it gives none."""
    needs("data", f"task {task!r} from the hub")
    import datasets

    try:
        return datasets.load_dataset(repository, *configuration)
    except Exception as error:  # datasets lets errors of its HTTP library through, which are of many kinds
        raise TicketError(
            f"task {task!r}: {repository} could not be downloaded from the hub ({type(error).__name__}); name {files} "
            "with --data."
        ) from error
