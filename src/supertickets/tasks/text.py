"""Language modelling, masked or causal: WikiText or a user's own plain text, line by line.

Lines stay lines here; the model's tokenizer makes blocks of them (`training.masked`, `.causal`), because only it knows
how long they are.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError
from supertickets.tasks.builtin import sentences
from supertickets.tasks.loader import TaskLoader, first_file
from supertickets.tasks.source import TaskSource
from supertickets.tasks.tables import counted, read_text
from supertickets.tasks.task import Form, Split, Task

METRICS = ("token_accuracy", "perplexity")
_FOLDERS = ("wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")
_TRAIN = ("wiki.train.raw", "wiki.train.tokens")
_DEV = ("wiki.valid.raw", "wiki.valid.tokens")
_Lines = tuple[list[list[str]], tuple[str, ...]]


@dataclass(frozen=True)
class TextTask(TaskLoader):
    """WikiText from a folder, the user's own plain text, or else the built-in tasks' sentences as a small corpus."""

    name: str
    form: Form

    def reads(self, source: TaskSource) -> bool:
        """Return True: any file is plain text."""
        return True

    def load(self, source: TaskSource) -> Task:
        """Return the task; raises TicketError if there are no such files, or one is empty or not UTF-8."""
        if source.train_file is not None:
            return self._task(*_from_files(source.train_file, source.dev_file, source.dev_share))
        if source.data is None:
            return self._task([sentences("train"), sentences("dev")])
        train = first_file(source.data, _FOLDERS, _TRAIN)
        dev = next((train.with_name(name) for name in _DEV if train.with_name(name).is_file()), None)
        if dev is None:
            raise TicketError(f"{train.parent}: there is {train.name} and no {' or '.join(_DEV)} in it.")
        return self._task(*read_lines(train, dev))

    def _task(self, parts: list[list[str]], notices: tuple[str, ...] = ()) -> Task:
        train, dev = (Split(lines, None, np.zeros(len(lines))) for lines in parts)
        return Task(self.name, (), METRICS, train, dev, {}, self.form, notices)


MLM, CLM = TextTask("mlm", "masked"), TextTask("clm", "causal")
NAMES = tuple(task.name for task in (MLM, CLM))


def _from_files(train_file: Path, dev_file: Path | None, dev_share: float) -> _Lines:
    """Load plain text; without a dev file the last lines, a share of them, become the dev set."""
    if dev_file is not None:
        return read_lines(train_file, dev_file)
    (lines,), notices = read_lines(train_file)
    cut = round(dev_share * len(lines))
    if not 1 <= cut < len(lines):
        raise TicketError(
            f"{train_file} has {counted(len(lines), 'line')}, too few for a dev set of --dev-share {dev_share}; name a "
            "dev file with --dev-file."
        )
    return [lines[:-cut], lines[-cut:]], notices


def read_lines(*paths: Path) -> _Lines:
    """Return the lines of each file that are not blank, stripped, and a sentence on each file."""
    found, notices = [], []
    for path in paths:
        lines = [line.strip() for line in read_text(path).removesuffix("\n").split("\n")]
        found.append([line for line in lines if line])
        blank = len(lines) - len(found[-1])
        left_out = f", of which {counted(blank, 'blank line')} left out" if blank else ""
        notices.append(f"{path.name}: {counted(len(lines), 'line')} read{left_out}.")
    return found, tuple(notices)
