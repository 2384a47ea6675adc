"""Tasks: GLUE, a user's own files, and built-in ones that need no data."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks import builtin, files, glue
from supertickets.tasks.task import Split, Task

__all__ = ["Split", "Task", "TaskSource", "load_task"]


class TaskSource(BaseModel):
    """Where a task's examples come from: a built-in generator, GLUE (a folder or the hub), or the user's files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    data: Path | None = None
    train_file: Path | None = None
    dev_file: Path | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    regression: bool = False
    metrics: tuple[str, ...] | None = None
    dev_share: float = 0.1


def load_task(source: TaskSource) -> Task:
    """Load the examples of a task; raises TicketError for an unknown one and for any fault in its files."""
    if source.train_file is not None:
        return files.load_files(
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
    if source.dev_file is not None:
        raise TicketError(f"--dev-file {source.dev_file} was given without --train-file; expected both.")
    name = source.task.lower().replace("-", "")
    if name in builtin.BUILTIN:
        return builtin.load_builtin(name)
    if name not in glue.GLUE:
        raise unknown_name("task", source.task, [*builtin.BUILTIN, *glue.GLUE])
    return glue.load_glue(name, source.data)
