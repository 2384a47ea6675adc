"""Tiny models and data under the names that the documents' commands use, in the working directory."""

import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from helpers.models import save_tiny_model
from supertickets.tasks.glue import GLUE
from supertickets.tasks.submission import FILES

TRAIN, DEV = 48, 16
"""Examples of a task."""


def make_stand_ins(folder: Path) -> None:
    """Write them all."""
    random.seed(0)
    for name in ("bert-base-uncased", "my-encoder"):
        model = save_tiny_model(folder / name, auto=AutoModelForMaskedLM, mask=True)
    for task in ("rte", "cola", "stsb", "mnli"):
        _glue(folder / "glue", task)
    _table(folder / "glue" / "CoLA" / "test.tsv", ["index", "sentence"], FILES["CoLA"].rows)
    snli = [dict(zip(("sentence1", "sentence2"), _texts(), strict=True)) | {"gold_label": _one_of("mnli", i)}
            for i in range(3000)]  # fmt: skip
    for part, rows in (("train", snli), ("dev", snli[:DEV])):
        _lines(folder / "snli_1.0" / f"snli_1.0_{part}.jsonl", rows)
    for part in ("train", "valid"):
        text = "\n".join(" ".join(_texts()) for _ in range(TRAIN)) + "\n"
        _write(folder / "wikitext-2" / f"wiki.{part}.raw", text)
    for part in ("train", "dev"):
        _write(folder / "squad" / f"{part}-v1.1.json", json.dumps({"data": [_article(i) for i in range(DEV)]}))
    teams = ["team", "question"], ("billing", "sales")
    for part, size in (("train", TRAIN), ("dev", DEV)):
        rows = [",".join([teams[1][i % 2], _text()]) for i in range(size)]
        _write(folder / f"{part}.csv", "\n".join([",".join(teams[0]), *rows]) + "\n")
        tagged = "".join(f"{_text()} ".replace(" ", " O\n") + "w100 B-X\n\n" for _ in range(size))
        _write(folder / f"{part}.conll", tagged)
    topics = [f"{_text()},{('', 'a', 'a;b')[i % 3]}\n" for i in range(TRAIN)]
    _write(folder / "topics.csv", "".join(["text,topics\n", *topics]))
    _lines(folder / "train.jsonl", [{"ad": _text(), "price": 100 + 7 * i} for i in range(TRAIN)])
    matrix = "encoder.layer.0.attention.self.query.weight"
    weight = AutoModelForMaskedLM.from_pretrained(model).get_parameter(f"bert.{matrix}")
    torch.save({f"bert.{matrix.removesuffix('.weight')}.weight_mask": (weight > 0).float()}, folder / "mask.pt")


def _text() -> str:
    return " ".join(f"w{random.randrange(24)}" for _ in range(random.randrange(3, 8)))


def _texts() -> tuple[str, str]:
    return _text(), _text()


def _one_of(task: str, row: int) -> str:
    """Return a label; every class comes equally often."""
    labels = GLUE[task].labels
    return labels[row % len(labels)] if labels else f"{random.uniform(0, 5):.2f}"


def _glue(data: Path, name: str) -> None:
    task = GLUE[name]
    header = list(task.header or ("index", *task.texts, task.label))
    parts = ("train", "dev_matched", "dev_mismatched") if name == "mnli" else ("train", "dev")
    for part in parts:
        path, size = data / task.folder / f"{part}.tsv", TRAIN if part == "train" else DEV
        _table(path, header, size, task.label, name, with_header=task.header is None)


def _table(
    path: Path, header: list[str], rows: int, label: str | None = None, task: str = "", with_header: bool = True
) -> None:
    cells = [[_one_of(task, i) if name == label else _text() for name in header] for i in range(rows)]
    lines = [header, *cells] if with_header else cells
    _write(path, "".join("\t".join(line) + "\n" for line in lines))


def _lines(path: Path, rows: list[dict[str, object]]) -> None:
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _article(number: int) -> dict[str, object]:
    context = f"w1 {_text()} answer{number} {_text()}"
    answer = {"text": f"answer{number}", "answer_start": context.index("answer")}
    question = {"id": str(number), "question": _text(), "answers": [answer]}
    return {"title": "", "paragraphs": [{"context": context, "qas": [question]}]}
