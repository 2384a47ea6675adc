"""Named entity recognition: a user's own sentences, whose words have tags.

Tags are those of IOB2: B-TYPE on an entity's first word, I-TYPE on its others, O on the rest. Files of IOB1 are read
too (an I-TYPE that begins an entity becomes B-TYPE), since no entity is another one then; files of IOBES or BILOU are
refused.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.errors import TicketError, unknown_name
from supertickets.tasks.files import dev_rows
from supertickets.tasks.loader import TaskLoader
from supertickets.tasks.metrics import entities
from supertickets.tasks.source import TaskFiles, TaskSource
from supertickets.tasks.tables import column, counted, read_table, read_text, shown
from supertickets.tasks.task import Split, Task

METRICS = ("entity_f1", "entity_precision", "entity_recall", "tag_accuracy")
COLUMNS = (".conll", ".txt", ".bio", ".iob", ".iob2", ".tsv")
TABLES = (".jsonl", ".parquet")
_DOCUMENT = "-DOCSTART-"

_Sentence = tuple[list[str], list[str]]
"""Words and their tags."""


class NerTask(TaskLoader):
    """Sentences of tagged words from the user's own files: columns as CoNLL's, or a table of lists."""

    form = "tokens"
    table_fields = ("text", "label")

    def reads(self, source: TaskSource) -> bool:
        """Return True: any file is one of tagged words."""
        return True

    def load(self, source: TaskSource) -> Task:
        """Return the task; raises TicketError if no file is named, or for any fault in one.

        Labels are O and both tags of every type of the training file, by alphabet. Without a dev file, a share of the
        sentences (drawn once) becomes it.
        """
        if source.train_file is None:
            raise TicketError("task 'ner' has no files of its own: name a training file with --train-file.")
        sentences, notices = _read(source.train_file, source)
        types = sorted({tag[2:] for _, tags in sentences for tag in tags if tag != "O"})
        if not types:
            raise TicketError(f"{source.train_file}: every tag is O; expected entities, tagged B-TYPE and I-TYPE.")
        labels = ("O", *(f"{place}-{one}" for one in types for place in "BI"))
        whole = _split(sentences, labels)
        if source.dev_file is not None:
            dev_sentences, more = _read(source.dev_file, source, types)
            train, dev, notices = whole, _split(dev_sentences, labels), [*notices, *more]
        else:
            rows = dev_rows(str(source.train_file), whole.targets, source.dev_share)
            dev, train = whole.take(rows), whole.take(np.setdiff1d(np.arange(len(whole)), rows))
        return Task("ner", labels, METRICS, train, dev, {}, "tokens", tuple(notices))


NER = NerTask()


def _read(path: Path, source: TaskSource, types: Sequence[str] | None = None) -> tuple[list[_Sentence], list[str]]:
    """Return a file's sentences with tags of IOB2, and sentences on how it was read.

    Raises TicketError for a tag that is none, or not of one of `types`.
    """
    ending = path.suffix.lower()
    if ending not in (*COLUMNS, *TABLES):
        raise unknown_name(f"file format of {path}:", ending or "(none)", (*COLUMNS, *TABLES))
    found, notices = _from_table(path, source, types) if ending in TABLES else _from_columns(path, source, types)
    changed = 0
    for _, tags in found:
        for _, first, _ in entities(tags):
            changed += tags[first][0] == "I"
            tags[first] = f"B{tags[first][1:]}"
    if changed:
        what = "it begins an entity" if changed == 1 else "they begin entities"
        notices.append(f"{path.name}: {counted(changed, 'I- tag')} read as B-, since {what} (as in IOB1).")
    return found, notices


def _from_columns(path: Path, source: TaskSource, types: Sequence[str] | None) -> tuple[list[_Sentence], list[str]]:
    """Read a token a line: first the word, last its tag, between them anything; a blank line ends a sentence."""
    for field in source.table_fields:
        raise TicketError(f"--{field} describes columns of a table, but {path} has a word a line and no names of them.")
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    kinds = [_kind(line, cells) for line, cells in zip(lines, rows, strict=True)]
    width = next((len(cells) for cells, kind in zip(rows, kinds, strict=True) if kind == "word"), 0)
    found: list[_Sentence] = []
    skipped = {"document": 0, "comment": 0}
    within = False
    for number, (cells, kind) in enumerate(zip(rows, kinds, strict=True), start=1):
        if kind == "comment" and len(cells) == width and _is_tag(cells[-1]):
            kind = "word"  # the word is #
        if kind == "word":
            word, tag = _columns(path, number, cells, width)
            _check_tag(f"{path}, line {number}", tag, types)
            if not within:
                found.append(([], []))
            found[-1][0].append(word)
            found[-1][1].append(tag)
        elif kind in skipped:
            skipped[kind] += 1
        within = kind == "word" or (kind == "comment" and within)
    if not found:
        raise TicketError(f"{path}: there are no words in it; expected one a line, with its tag.")
    words = sum(len(words) for words, _ in found)
    said = [f"{counted(len(found), 'sentence')} of {counted(words, 'word')} read"]
    names = {"document": f"{_DOCUMENT} line", "comment": "comment line"}
    said += [f"{counted(number, names[kind])} skipped" for kind, number in skipped.items() if number]
    return found, [f"{path.name}: {'; '.join(said)}."]


def _kind(line: str, cells: Sequence[str]) -> str:
    """Return what a line of columns is."""
    if not line.strip():
        return "blank"
    if cells[0] == _DOCUMENT:
        return "document"
    return "comment" if line.startswith("# ") or line.strip() == "#" else "word"


def _columns(path: Path, number: int, cells: Sequence[str], width: int) -> tuple[str, str]:
    """Return the word and the tag of a line; raises TicketError where it has not both, or too few or many columns."""
    if len(cells) != width or width < 2:
        wanted = "a word and its tag" if width < 2 else f"{width} as in the first"
        raise TicketError(
            f"{path}, line {number}: {counted(len(cells), 'column')} separated by tabs or white space, expected "
            f"{wanted}."
        )
    word, tag = cells[0].strip(), cells[-1].strip()
    if not word:
        raise TicketError(f"{path}, line {number}: there is no word in the first column.")
    return word, tag


def _usual(usual: str, asked: str, default: str, there: Collection[str]) -> bool:
    """Return whether the usual column is meant: no other was asked for, or it was and only the usual one is there."""
    return asked == default and (usual in there or asked not in there)


def _from_table(path: Path, source: TaskSource, types: Sequence[str] | None) -> tuple[list[_Sentence], list[str]]:
    """Read a sentence a row: a list of words and a list of their tags."""
    table = read_table(path)
    default = {name: TaskFiles.model_fields[name].default for name in ("text", "label")}
    tagged = "ner_tags" if "ner_tags" in table.columns and "tags" not in table.columns else "tags"
    # A column that is called as other tasks' are by default is read where the usual one is not there.
    text = "tokens" if _usual("tokens", source.text, default["text"], table.columns) else source.text
    label = tagged if _usual(tagged, source.label, default["label"], table.columns) else source.label
    found = []
    for row, (words, tags) in enumerate(zip(column(table, text), column(table, label), strict=True), start=1):
        where = f"{path}: example {row}"
        for name, values, what in ((text, words, "words"), (label, tags, "tags")):
            _check_list(where, name, values, what)
        if not words:
            raise TicketError(f"{where} has no words in column {text!r}; expected at least one.")
        if len(words) != len(tags):
            raise TicketError(
                f"{where} has {counted(len(words), 'word')} and {counted(len(tags), 'tag')}; expected as many."
            )
        if not all(word.strip() for word in words):
            raise TicketError(f"{where} has a word that is blank; expected text in each.")
        for tag in tags:
            _check_tag(where, tag, types)
        found.append((list(words), list(tags)))
    return found, list(table.notices)


def _check_list(where: str, name: str, values: Any, what: str) -> None:
    """Raise TicketError unless a cell is a list of texts."""
    if not isinstance(values, list):
        raise TicketError(f"{where} has {shown(values)} in column {name!r}, expected a list of {what}.")
    for value in values:
        if not isinstance(value, str):
            like = ", such as B-PER and O" if what == "tags" else ""
            raise TicketError(f"{where} has {shown(value)} among its {what} ({name!r}), expected text{like}.")


def _is_tag(tag: str) -> bool:
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def _check_tag(where: str, tag: str, types: Sequence[str] | None) -> None:
    """Raise TicketError unless a tag is one of IOB, and of one of the types, if they are known."""
    if not _is_tag(tag):
        raise TicketError(
            f"{where}: tag {shown(tag)}, expected O, B-TYPE or I-TYPE (IOB2; tags of IOBES and BILOU have to be "
            "converted)."
        )
    if types is not None and tag != "O" and tag[2:] not in types:
        raise unknown_name(f"type of entities in {where} (the training file has none)", tag[2:], types)


def _split(sentences: Sequence[_Sentence], labels: Sequence[str]) -> Split:
    index = {label: place for place, label in enumerate(labels)}
    words = [[(word, index[tag]) for word, tag in zip(*sentence, strict=True)] for sentence in sentences]
    return Split([" ".join(one) for one, _ in sentences], None, np.zeros(len(words)), words=words)
