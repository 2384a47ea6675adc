"""Model folders and data files with something wrong in them: each ends right or with one sentence.

What ends right is compared with an independent reading of the very files: nothing is trained on something else than the
files say. `SUPERTICKETS_FUZZ_CASES` sets how many cases there are.
"""

import csv
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from helpers.models import FAMILIES, save_tiny_model
from supertickets.errors import TicketError
from supertickets.lab.jobs import Job
from supertickets.lab.trial import TaskTicket, Trial
from supertickets.lab.workbench import Workbench
from supertickets.models import BaseModel, ModelSource, find_model
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.description import describe
from supertickets.tickets import Ticket
from supertickets.training.objectives import describe_tokens
from supertickets.training.recipe import Recipe

CASES = int(os.environ.get("SUPERTICKETS_FUZZ_CASES", "300"))
RECIPE = Recipe(epochs=1, batch_size=8, max_length=12)  # two steps of the sixteen examples
WORDS = [f"w{i}" for i in range(30)]


def two_steps(base: BaseModel, task: Task, source: TaskSource, folder: Path) -> None:
    """Train as a study does; everything it leaves is in a folder of its own."""
    full = Ticket.full(base.shape.layers, base.shape.heads)
    trial = Trial(
        model=str(base.folder),
        weight_hash=base.weight_hash,
        files_hash=base.files_hash,
        tasks=(TaskTicket(source=source, data_hash=task.fingerprint(), ticket=full),),
        recipe=RECIPE,
        seed=0,
    )
    bench = Workbench("cpu", models={base.weight_hash: base}, tasks={task.fingerprint(): task})
    outcome = bench.run(Job(trial, folder / trial.key, False, ""), lambda event: None)
    assert outcome.finished
    assert outcome.predictions()["dev"].shape[1] == len(task.dev)
    shutil.rmtree(folder)


def one_sentence(error: TicketError) -> None:
    said = str(error)
    assert said.strip(), "an empty sentence"
    assert "\n" not in said, said
    assert "Traceback" not in said, said


# --- model folders ----------------------------------------------------------------------------------------------------

Dice = random.Random


def changed_json(dice: Dice, value: Any, depth: int = 0) -> Any:
    """Return a JSON value with one thing in it changed."""
    strange = [None, 0, -1, 1, 3, 7, 10**9, 0.5, 1e300, "", "x", True, [], {}, [1], {"a": 1}, "float16", "[PAD]", "w3"]
    if isinstance(value, dict) and value and (depth == 0 or dice.random() < 0.7):
        key = dice.choice(sorted(value))
        how = dice.randrange(4)
        if how == 0:
            return {name: one for name, one in value.items() if name != key}
        if how == 1:
            return value | {dice.choice(["pad_token_id", "is_decoder", "return_dict", "tie_word_embeddings",
                                         "chunk_size_feed_forward", "new"]): dice.choice(strange)}  # fmt: skip
        return value | {key: changed_json(dice, value[key], depth + 1)}
    if isinstance(value, list) and value and dice.random() < 0.7:
        place = dice.randrange(len(value))
        return [*value[:place], *([changed_json(dice, value[place], depth + 1)] if dice.random() < 0.5 else []),
                *value[place + 1 :]]  # fmt: skip
    if isinstance(value, int) and not isinstance(value, bool) and dice.random() < 0.5:
        return value + dice.choice([-2, -1, 1, 2])
    return dice.choice(strange)


def file_of(dice: Dice, folder: Path) -> Path:
    return dice.choice(sorted(path for path in folder.iterdir() if path.is_file()))


def gone(dice: Dice, folder: Path) -> None:
    file_of(dice, folder).unlink()


def truncated(dice: Dice, folder: Path) -> None:
    path = file_of(dice, folder)
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def renamed(dice: Dice, folder: Path) -> None:
    path = file_of(dice, folder)
    path.rename(path.with_name(dice.choice(["old-", "x"]) + path.name))


def garbled(dice: Dice, folder: Path) -> None:
    path = file_of(dice, folder)
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 8])):
        content[dice.randrange(min(len(content), 4000))] = dice.randrange(256)
    path.write_bytes(bytes(content))


def other_json(dice: Dice, folder: Path) -> None:
    path = dice.choice(sorted(folder.glob("*.json")))
    path.write_text(json.dumps(changed_json(dice, json.loads(path.read_text()))))


def other_config(dice: Dice, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(changed_json(dice, json.loads(path.read_text()))))


def other_vocabulary(dice: Dice, folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words: dict[str, int] = content["model"]["vocab"]
    how = dice.randrange(4)
    if how == 0:  # some words are missing
        content["model"]["vocab"] = {word: i for word, i in words.items() if dice.random() < dice.choice([0.3, 0.9])}
    elif how == 1:  # other words at the same ids
        content["model"]["vocab"] = {word if i < 4 else f"v{i}": i for word, i in words.items()}
    elif how == 2:
        content["model"]["vocab"] = {word: i + (i > 20) * dice.choice([1, 50]) for word, i in words.items()}
    else:
        content["post_processor"] = None
    path.write_text(json.dumps(content))


def other_tensors(dice: Dice, folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    name = dice.choice(sorted(found))
    how = dice.randrange(7)
    if how == 0:
        del found[name]
    elif how == 1:
        found[dice.choice(["", "bert.", "module.", "encoder.", "lm_head."]) + name + dice.choice(["", "2"])] = (
            torch.ones(2)
        )
    elif how == 2:
        found[name] = found[name][..., :-1].clone()
    elif how == 3:
        found[name] = torch.full_like(found[name], dice.choice([torch.nan, torch.inf]))
    elif how == 4:
        found = {dice.choice(["model.", "module."]) + key: value for key, value in found.items()}
    elif how == 5:
        found = {
            key: value.to(dice.choice([torch.float16, torch.bfloat16, torch.float64])) for key, value in found.items()
        }
    else:
        found = {
            key.replace("layer.1.", dice.choice(["layer.2.", "layer.01.", "layers.1."])): v for key, v in found.items()
        }
    save_file({key: value.contiguous() for key, value in found.items()}, folder / "model.safetensors")


def pickled(dice: Dice, folder: Path) -> None:
    path = folder / "model.safetensors"
    content: Any = load_file(path)
    path.unlink()
    content = dice.choice([content, {"state_dict": content}, list(content.values()), content | {"epoch": 3}])
    torch.save(content, folder / "pytorch_model.bin")


MODEL_FAULTS: list[Callable[[Dice, Path], None]] = [
    gone, truncated, renamed, garbled, other_json, other_config, other_config, other_vocabulary, other_vocabulary,
    other_tensors, other_tensors, pickled,
]  # fmt: skip


def as_the_file_says(base: BaseModel, source: ModelSource) -> None:
    """Compare every weight of the encoder with the files', read anew; a pooler may be new, if that was said."""
    found: dict[str, torch.Tensor] = {}
    for name in base.weights:
        path = base.folder / name
        found |= torch.load(path, weights_only=True) if name.endswith(".bin") else load_file(path)
    model = source.build(2, 0.1, 0)
    for name, parameter in model.base_model.named_parameters():
        own = [found[key] for key in (name, f"{model.base_model_prefix}.{name}") if key in found]
        if own:
            assert torch.equal(parameter, own[0].float()), name
        else:
            assert name.startswith("pooler.")
            assert any("initialized randomly" in notice for notice in source.notices)
    assert len(model.base_model.state_dict()) <= len(found) + 2


def as_the_tokenizer_says(base: BaseModel, source: ModelSource, task: Task) -> None:
    """Words of the texts are known to the tokenizer, or it was said how many are not."""
    stock = AutoTokenizer.from_pretrained(base.folder)
    ids = [stock(text)["input_ids"] for text in task.train.text]
    assert [source.tokenizer(text)["input_ids"] for text in task.train.text] == ids
    assert max(map(max, ids)) < base.config["vocab_size"]
    unknown = np.mean([one == stock.unk_token_id for text in ids for one in text])
    said = describe_tokens(task, source.tokenizer, 12)
    assert unknown < 0.2 or any("unknown to the model's tokenizer" in sentence for sentence in said)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("whole")
    return [save_tiny_model(home / family, family) for family in FAMILIES]


def write_task(folder: Path) -> TaskSource:
    dice = Dice(0)
    for name, examples in (("train", 16), ("dev", 6)):
        rows = [{"text": " ".join(dice.choices(WORDS, k=5)), "label": i % 2} for i in range(examples)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskSource(task="t", train_file=folder / "train.jsonl", dev_file=folder / "dev.jsonl")


def try_model(folder: Path, source: TaskSource, task: Task, left: Path) -> bool:
    """Return whether a folder was trained on; raises what is neither right nor one sentence."""
    try:
        base = find_model(str(folder))
        model = ModelSource(base)
        model.check("sequence", 2)
        describe_tokens(task, model.tokenizer, 12)
        two_steps(base, task, source, left)
    except TicketError as error:
        one_sentence(error)
        return False
    as_the_file_says(base, model)
    as_the_tokenizer_says(base, model, task)
    return True


@pytest.mark.slow
def test_model_folders(folders: list[Path], tmp_path: Path) -> None:
    source = write_task(tmp_path)
    task = load_task(source)
    trained = 0
    for folder in folders:
        assert try_model(folder, source, task, tmp_path / "left")  # the controls
    for case in range(CASES // 2):
        dice = Dice(case)
        folder = Path(shutil.copytree(dice.choice(folders), tmp_path / "model"))
        fault = dice.choice(MODEL_FAULTS)
        fault(dice, folder)
        try:
            trained += try_model(folder, source, task, tmp_path / "left")
        except BaseException as error:
            error.add_note(f"case {case}: {fault.__name__} of a {folder.name}")
            raise
        shutil.rmtree(folder)
    assert CASES // 20 < trained < CASES // 2 - CASES // 10  # some of each kind, or nothing was tried


# --- data files -------------------------------------------------------------------------------------------------------

PIECES = [
    *WORDS[:8],
    '"',
    '""',
    "'",
    ",",
    ";",
    "\\",
    " ",
    "  ",
    "é",
    "‰",
    "😀",
    "\u2028",
    "\u00a0",
    "<b>",
    "nan",
    "1.0",
    "{}",
]
LABELS = [["pos", "neg"], [0, 1], [1.0, 2.0], ["a", "A "], [True, False], ["x", "y", "z"]]
Rows = list[dict[str, Any]]


def some_rows(dice: Dice, ending: str, examples: int) -> Rows:
    inside = "" if ending == ".tsv" else dice.choice(["", "\n", "\t", "\r\n"])
    labels = dice.choice(LABELS)
    rows = []
    for i in range(examples):
        text = "".join(dice.choices([*PIECES, inside], k=dice.randrange(1, 9))) + dice.choice(WORDS)
        rows.append({"text": text, "label": labels[i % len(labels)]})
    return rows


def written(rows: Rows, ending: str) -> bytes:
    if ending == ".parquet":
        out = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ending == ".tsv":
        return "\n".join(["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows), ""]).encode()
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["text", "label"])
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def read_again(content: bytes, ending: str) -> list[tuple[str, Any]]:
    """Read a file naively, by the rule of its ending."""
    if ending == ".parquet":
        table = parquet.read_table(io.BytesIO(content)).to_pylist()
    elif ending == ".jsonl":
        lines = content.decode("utf-8-sig").split("\n")
        table = [json.loads(line) for line in lines if line.strip()]
    elif ending == ".tsv":
        lines = [line for line in content.decode("utf-8-sig").replace("\r\n", "\n").split("\n") if line.strip()]
        table = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    else:
        lines = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if "".join(row)]
        table = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    table = [{name.strip(): value for name, value in row.items()} for row in table]
    return [(row["text"], row["label"]) for row in table]


def mutated(dice: Dice, content: bytes) -> bytes:
    """Return a file with a few bytes changed, or nothing."""
    found = bytearray(content)
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        place = dice.randrange(len(found))
        how = dice.randrange(6)
        if how == 0:
            del found[place:]
        elif how == 1:
            del found[place : place + dice.randrange(1, 30)]
        elif how == 2:
            found[place:place] = dice.choice(
                [b"\n", b"\r\n", b"\t", b",", b'"', b"\x00", b"\xff", b"\n\n", b"null", b"[1]"]
            )
        elif how == 3:
            found[place] = dice.randrange(256)
        elif how == 4:
            found[:0] = dice.choice([b"\xef\xbb\xbf", b"\n", b" ", b"sep=,\n"])
        else:
            end = found.find(b"\n", place)
            found[end + 1 : end + 1] = found[place : end + 1]
        if not found:
            return b""
    return bytes(found)


def try_data(path: Path, content: bytes, base: BaseModel, dice: Dice, left: Path) -> bool:
    """Return whether a file was trained on; raises what is neither right nor one sentence."""
    source = TaskSource(task="t", train_file=path, dev_file=path, regression=dice.random() < 0.15)
    try:
        task = load_task(source)
        said = describe(task)
        describe_tokens(task, ModelSource(base).tokenizer, 12)
        two_steps(base, task, source, left)
    except TicketError as error:
        one_sentence(error)
        return False
    expected = read_again(content, path.suffix)
    assert task.train.text == [text for text, _ in expected]  # no row is lost, none is other than it was written
    assert any(str(len(expected)) in sentence for sentence in said)
    if not source.regression:
        own = {str(label).strip().lower().removesuffix(".0") for _, label in expected}
        assert {label.strip().lower().removesuffix(".0") for label in task.labels} == own
    return True


@pytest.mark.slow
def test_data_files(tiny_model: Path, tmp_path: Path) -> None:
    base = find_model(str(tiny_model))
    trained = dict.fromkeys((".csv", ".tsv", ".jsonl", ".parquet"), 0)
    for case in range(CASES - CASES // 2):
        dice = Dice(case)
        ending = dice.choice(sorted(trained))
        content = mutated(dice, written(some_rows(dice, ending, 16), ending))
        path = tmp_path / f"rows{ending}"
        path.write_bytes(content)
        try:
            trained[ending] += try_data(path, content, base, dice, tmp_path / "left")
        except BaseException as error:
            error.add_note(f"case {case}: {content[:2000]!r}")
            raise
    assert min(trained.values()) > CASES // 60  # of each ending some are right
