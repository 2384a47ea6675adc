"""SQuAD v1.1: questions whose answers are spans of a context, from the official JSON files or from the hub.

Source: Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text (EMNLP 2016).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.tasks.tables import read_text
from supertickets.tasks.task import Split, Task

HUB_ID = "rajpurkar/squad"
METRICS = ("answer_f1", "exact_match")
_FOLDERS = ("", "squad", "SQuAD")
_TRAIN, _DEV = "train-v1.1.json", "dev-v1.1.json"

_Question = tuple[str, str, str, list[tuple[int, str]]]
"""Id, question, context, gold answers."""


def load_squad(data: Path | None) -> Task:
    """Load SQuAD v1.1 from a folder, or from the hub if None; raises TicketError if its files are not that."""
    if data is None:
        return _from_hub()
    if not data.is_dir():
        raise TicketError(f"--data {data}: no such folder.")
    for folder in _FOLDERS:
        if (data / folder / _TRAIN).is_file():
            return load_squad_files("squad", data / folder / _TRAIN, data / folder / _DEV)
    raise TicketError(f"--data {data}: there is no {_TRAIN} in it (nor in {' or '.join(filter(None, _FOLDERS))}).")


def load_squad_files(name: str, train_file: Path, dev_file: Path | None) -> Task:
    """Load a task from files in SQuAD's format; raises TicketError if one is missing or not in it."""
    if dev_file is None:
        raise TicketError(f"--train-file {train_file}: name a file of the same format with --dev-file.")
    return _task(name, *(_split(str(path), _read(path), path == train_file) for path in (train_file, dev_file)))


def _task(name: str, train: Split, dev: Split) -> Task:
    return Task(name, (), METRICS, train, dev, {}, "spans")


def _read(path: Path) -> Iterator[_Question]:
    """Yield the questions of a file; raises TicketError where it is not SQuAD v1.1."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, TicketError):
            raise
        raise TicketError(f"{path}: not JSON ({error}).") from error
    where = "the file"
    try:
        for number, article in enumerate(content["data"], start=1):
            for paragraph in article["paragraphs"]:
                where = f"article {number}"
                context = paragraph["context"]
                for question in paragraph["qas"]:
                    where = f"question {question['id']!r}"
                    if "is_impossible" in question:
                        raise TicketError(
                            f"{path}: {where} has `is_impossible`, which is SQuAD v2; expected v1.1, where every "
                            "question has an answer."
                        )
                    answers = [(int(one["answer_start"]), one["text"]) for one in question["answers"]]
                    texts = (context, question["question"], *(text for _, text in answers))
                    if not all(isinstance(text, str) for text in texts):
                        raise TypeError("expected text")
                    yield str(question["id"]), question["question"], context, answers
    except (KeyError, TypeError, AttributeError) as error:
        raise TicketError(
            f"{path}: not in the format of SQuAD v1.1, see {where} ({type(error).__name__}: {error}); expected "
            "data > paragraphs > context and qas > id, question and answers > answer_start, text."
        ) from error


def _split(where: str, questions: Iterator[_Question], train: bool) -> Split:
    found: list[_Question] = []
    for one in questions:
        name, question, context, answers = one
        for text, what in ((question, "question"), (context, "context")):
            if not text.strip():
                raise TicketError(f"{where}: question {name!r} has an empty {what}.")
        if not answers:
            use = "to learn from" if train else "to judge by"
            raise TicketError(f"{where}: question {name!r} has no answer {use}; expected one at least.")
        for start, text in answers:
            _check_answer(where, name, context, start, text)
        found.append(one)
    if not found:
        raise TicketError(f"{where}: there are no questions in it.")
    _, texts, contexts, gold = (list(column) for column in zip(*found, strict=True))
    return Split(texts, contexts, np.zeros(len(found)), gold)


def _check_answer(where: str, name: str, context: str, start: int, text: str) -> None:
    """Raise TicketError unless an answer is in its context at the place that it names."""
    if text.strip() and start >= 0 and context[start : start + len(text)] == text:
        return
    if not text.strip():
        raise TicketError(f"{where}: question {name!r} has an empty answer.")
    there = context.find(text)
    hint = f"it is at {there}" if there >= 0 else "the context does not have it at all"
    raise TicketError(f"{where}: question {name!r} has no answer {text[:60]!r} at character {start}; {hint}.")


def _from_hub() -> Task:
    import datasets

    try:
        data = datasets.load_dataset(HUB_ID)
    except (OSError, ValueError, RuntimeError) as error:  # what datasets raises when offline is one of these
        raise TicketError(
            f"task 'squad': the hub did not give {HUB_ID} ({type(error).__name__}); name the folder of {_TRAIN} and "
            f"{_DEV} with --data."
        ) from error

    def questions(rows: Any) -> Iterator[_Question]:
        for row in rows:
            given = row["answers"]
            yield (
                row["id"],
                row["question"],
                row["context"],
                list(zip(given["answer_start"], given["text"], strict=True)),
            )

    train, dev = (
        _split(f"{HUB_ID} {part}", questions(data[part]), part == "train") for part in ("train", "validation")
    )
    return _task("squad", train, dev)
