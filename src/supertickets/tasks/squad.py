"""SQuAD v1.1: questions whose answers are spans of a context, from the official JSON files or from the hub.

One's own file may also have a row a question, as the hub's and transformers' example scripts have it: .jsonl, .parquet,
or .json (a list, or one below `data`).

Source: Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text (EMNLP 2016).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.tasks.loader import TaskLoader, ask_hub, first_file
from supertickets.tasks.source import TaskSource
from supertickets.tasks.tables import counted, parse_json, read_table, read_text, shown
from supertickets.tasks.task import Split, Task

HUB_ID = "rajpurkar/squad"
METRICS = ("answer_f1", "exact_match")
_FOLDERS = ("squad", "SQuAD")
_TRAIN, _DEV = "train-v1.1.json", "dev-v1.1.json"

_Question = tuple[str, str, str, list[tuple[int, str]]]
"""Id, question, context, gold answers."""


class SquadTask(TaskLoader):
    """SQuAD v1.1 from a folder, from the hub, or the user's own files in its format."""

    form = "spans"

    def reads(self, source: TaskSource) -> bool:
        """Return whether the user's file is in SQuAD's format: it may also be a table of texts and labels."""
        assert source.train_file is not None
        if source.train_file.suffix.lower() == ".json":
            return True
        return not source.table_fields and not {"text", "label"} <= {*read_table(source.train_file).columns}

    def load(self, source: TaskSource) -> Task:
        """Return the task; raises TicketError if a file is missing or not in SQuAD's format."""
        if source.train_file is not None:
            return _from_files(source.train_file, source.dev_file)
        if source.data is None:
            data = ask_hub("squad", HUB_ID, files=f"the folder of {_TRAIN} and {_DEV}")
            train, dev = (_split(f"{HUB_ID} {p}", _from_rows(Path(HUB_ID), data[p])) for p in ("train", "validation"))
            return _task(train, dev)
        train_file = first_file(source.data, _FOLDERS, (_TRAIN,))
        return _from_files(train_file, train_file.with_name(_DEV))


SQUAD = SquadTask()


def _from_files(train_file: Path, dev_file: Path | None) -> Task:
    if dev_file is None:
        raise TicketError(f"--train-file {train_file}: name a dev file of the same format with --dev-file.")
    (train, read), (dev, also_read) = _read(train_file), _read(dev_file)
    return _task(train, dev, (*read, *also_read))


def _task(train: Split, dev: Split, notices: tuple[str, ...] = ()) -> Task:
    return Task("squad", (), METRICS, train, dev, {}, "spans", notices)


def _read(path: Path) -> tuple[Split, tuple[str, ...]]:
    """Return a file's questions and sentences on how it was read; raises TicketError where it is not SQuAD v1.1."""
    if path.suffix.lower() == ".json":
        split = _split(str(path), _from_json(path))
        return split, (f"{path.name}: {counted(len(split), 'question')} read.",)
    table = read_table(path)
    rows = (dict(zip(table.columns, cells, strict=True)) for cells in zip(*table.columns.values(), strict=True))
    return _split(str(path), _from_rows(path, rows)), table.notices


@contextmanager
def _format_of(path: Path, where: str) -> Iterator[None]:
    """Raise TicketError for what is not in the format of SQuAD v1.1 within the context."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TicketError(
            f"{path}: not in the format of SQuAD v1.1, see {where} ({type(error).__name__}: {error}); expected data > "
            "paragraphs > context and qas > id, question and answers > answer_start, text, or a row a question with "
            "question, context and answers > answer_start, text."
        ) from error


def _from_json(path: Path) -> Iterator[_Question]:
    content = parse_json(path, read_text(path))
    with _format_of(path, "the file"):
        items = list(content if isinstance(content, list) else content["data"])
    for number, item in enumerate(items, start=1):
        where = f"article {number}"
        with _format_of(path, where):
            if not isinstance(item, Mapping):
                raise TypeError(f"it is {shown(item)}, expected an object")
            if "paragraphs" not in item and "question" in item:
                where, questions = f"row {number}", [item]
            else:
                questions = [
                    {**question, "id": question["id"], "context": paragraph["context"]}
                    for paragraph in item["paragraphs"]
                    for question in paragraph["qas"]
                ]
        yield from _from_rows(path, questions, where)


def _from_rows(path: Path, rows: Iterable[Mapping[str, Any]], where: str = "row {}") -> Iterator[_Question]:
    """Yield the questions that rows have; those without an id are called by their number."""
    for number, row in enumerate(rows, start=1):
        with _format_of(path, f"question {row['id']!r}" if row.get("id") is not None else where.format(number)):
            if row.get("is_impossible") not in (None, False, True):
                raise TypeError(f"is_impossible is {shown(row['is_impossible'])}, expected true or false")
            answers = [] if row.get("is_impossible") else _answers(row)
            texts = (row["context"], row["question"], *(text for _, text in answers))
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("expected text")
        yield str(row.get("id", number)), row["question"], row["context"], answers


def _answers(row: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return a question's answers: a list of them, the hub's two lists, or one text and its place, alone or inside."""
    given = row["answers"] if "answers" in row else {name: row[name] for name in ("text", "answer_start")}
    if isinstance(given, Mapping):
        texts, starts = given["text"], given["answer_start"]
        both = zip(texts, starts, strict=True) if isinstance(texts, list) else [(texts, starts)]
        given = [{"text": text, "answer_start": start} for text, start in both]
    return [(_place(one["answer_start"]), one["text"]) for one in given or []]


def _place(value: Any) -> int:
    """Return an answer's first character; raises ValueError where it is no whole number."""
    if isinstance(value, bool) or float(value) != int(value):
        raise ValueError(f"answer_start is {shown(value)}, expected a whole number")
    return int(value)


def _split(where: str, questions: Iterator[_Question]) -> Split:
    found = list(questions)
    if not found:
        raise TicketError(f"{where}: there are no questions in it.")
    impossible = sum(not answers for *_, answers in found)
    if impossible:
        raise TicketError(
            f"{where}: {impossible:,} of {counted(len(found), 'question')} without an answer, as in SQuAD v2; expected "
            "v1.1, in which every question has one: remove these."
        )
    for name, question, context, answers in found:
        for text, what in ((question, "question"), (context, "context")):
            if not text.strip():
                raise TicketError(f"{where}: question {name!r} has an empty {what}.")
        for start, text in answers:
            _check_answer(where, name, context, start, text)
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
