"""Masked language modelling: WikiText or a user's own plain text, line by line.

Lines stay lines here; the model's tokenizer makes blocks of them (`training.masked`), because only it knows how long
they are.
"""

from pathlib import Path

import numpy as np

from supertickets.errors import TicketError
from supertickets.tasks.builtin import BUILTIN, load_builtin
from supertickets.tasks.tables import counted, read_text
from supertickets.tasks.task import Split, Task

METRICS = ("token_accuracy", "perplexity")
_FOLDERS = ("", "wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")
_TRAIN = ("wiki.train.raw", "wiki.train.tokens")
_DEV = ("wiki.valid.raw", "wiki.valid.tokens")


def load_text(name: str, data: Path | None) -> Task:
    """Load WikiText from a folder, or without one the sentences of the built-in tasks as a small corpus.

    Raises TicketError if there are no such files in the folder, or one is empty or not UTF-8.
    """
    if data is None:
        return _builtin(name)
    if not data.is_dir():
        raise TicketError(f"--data {data}: no such folder.")
    for folder in _FOLDERS:
        train = _first(data / folder, _TRAIN)
        if train is not None:
            dev = _first(data / folder, _DEV)
            if dev is None:
                raise TicketError(f"{data / folder}: there is {train.name} and no {' or '.join(_DEV)} in it.")
            return _task(name, *_lines(train, dev))
    raise TicketError(f"--data {data}: there is no {' or '.join(_TRAIN)} in it (nor in {', '.join(_FOLDERS[1:])}).")


def load_text_files(name: str, train_file: Path, dev_file: Path | None, dev_share: float) -> Task:
    """Load the user's own plain text; without a dev file the last lines, a share of them, become the dev set."""
    if dev_file is not None:
        return _task(name, *_lines(train_file, dev_file))
    (lines,), notices = _lines(train_file)
    cut = round(dev_share * len(lines))
    if not 1 <= cut < len(lines):
        raise TicketError(
            f"{train_file}: {counted(len(lines), 'line')} cannot give a dev set of share {dev_share}; name one with "
            "--dev-file."
        )
    return _task(name, [lines[:-cut], lines[-cut:]], notices)


def _task(name: str, parts: list[list[str]], notices: tuple[str, ...] = ()) -> Task:
    train, dev = (_split(lines) for lines in parts)
    return Task(name, (), METRICS, train, dev, {}, "masked", notices)


def _split(lines: list[str]) -> Split:
    return Split(lines, None, np.zeros(len(lines)))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _lines(*paths: Path) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return the lines of each file that are not blank, stripped, and a sentence on each file."""
    found, notices = [], []
    for path in paths:
        lines = [line.strip() for line in read_text(path).removesuffix("\n").split("\n")]
        found.append([line for line in lines if line])
        blank = len(lines) - len(found[-1])
        left_out = f", of which {counted(blank, 'blank line')} left out" if blank else ""
        notices.append(f"{path.name}: {counted(len(lines), 'line')} read{left_out}.")
    return found, tuple(notices)


def _builtin(name: str) -> Task:
    tasks = [load_builtin(one) for one in BUILTIN]
    parts = [[text for task in tasks for text in _texts(getattr(task, part))] for part in ("train", "dev")]
    return _task(name, parts)


def _texts(split: Split) -> list[str]:
    """Return the texts of a split, the two of a pair one after the other."""
    if split.pair is None:
        return split.text
    return [text for both in zip(split.text, split.pair, strict=True) for text in both]
