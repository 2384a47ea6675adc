"""`supertickets measure`: what it writes and prints, what the page shows of it, and what cannot be measured."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import supertickets
from helpers.models import save_tiny_model
from helpers.trials import write_words
from supertickets import Result, Ticket, WeightTicket
from supertickets.anatomy.cost import forward_flops, parameters
from supertickets.cli import main
from supertickets.evidence.measured import size_table, time_table
from supertickets.lab import latency
from supertickets.lab.latency import WARM_UP
from supertickets.lab.measured import MEASURED, Batch, Conditions, Measured, load_measured
from supertickets.models import find_model
from supertickets.tickets.folder import SharedTicket

FEW = ["--batch-sizes", "1,2", "--lengths", "8", "--repeats", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished study of `find`."""
    base = tmp_path_factory.mktemp("measured")
    files = {"train_file": write_words(base / "t.jsonl", 48, 0), "dev_file": write_words(base / "d.jsonl", 20, 1)}
    model = str(save_tiny_model(base / "model"))
    small = {"levels": (0.5,), "epochs": 1, "batch_size": 16, "max_length": 16, "workers": 1, "kinds": ("winning",)}
    more: dict[str, Any] = {"precision": "bfloat16", "device": "cpu", "out": base / "out", "seeds": 1, **small}
    return supertickets.find(model=model, task="words", **files, **more)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh process takes seconds to start; the memory is that of a slow test."""
    monkeypatch.setattr(latency, "peak_memory", lambda folder, batch, conditions: 10 * batch.length)


def measured(capsys: pytest.CaptureFixture[str], *typed: str) -> Measured:
    """Return what a command prints as JSON."""
    assert main(["measure", *typed, *FEW, "--json"]) == 0
    return Measured.model_validate_json(capsys.readouterr().out)


@pytest.mark.usefixtures("no_process")
def test_a_study_is_measured_and_its_page_says_so(
    study: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study.folder
    assert "Real cost" not in study.report.read_text()
    made = measured(capsys, str(folder), "--out", str(tmp_path / "m.json"))
    again = measured(capsys, str(folder), "--out", str(tmp_path / "m.json"))  # replaces both files
    assert again.sizes == made.sizes
    assert again.passes != made.passes
    made = again
    assert Measured.model_validate_json((tmp_path / "m.json").read_bytes()) == load_measured(folder) == made
    ticket = supertickets.load_ticket(folder / "super-ticket")
    assert made.ticket == ticket.ticket.as_dict()
    assert made.trial == ticket.origin["trial"]
    assert made.conditions == Conditions(threads=1, precision="bfloat16", device="cpu")  # as it was trained
    assert made.weight_hash == ticket.base["weight_hash"]
    assert {*made.versions} >= {"torch", "transformers", "supertickets", "python"}
    assert made.device_name
    assert made.date.startswith("20")
    assert (made.repeats, made.warm_up, made.peak_of) == (2, WARM_UP, Batch(batch_size=2, length=8))
    assert [one.batch for one in made.passes] == [Batch(batch_size=size, length=8) for size in (1, 2)]
    shape, tickets = find_model(made.model).shape, {"dense": Ticket.full(3, 4), "ticket": ticket.ticket}
    for which, kept in tickets.items():
        sizes = made.sizes[which]  # type: ignore[index]
        assert sizes.structures == parameters(shape, kept)
        assert sizes.peak == 80
        assert sizes.file > 4 * sizes.parameters
        for one in made.passes:
            timed = one.models[which]  # type: ignore[index]
            assert timed.flops == forward_flops(shape, kept, one.batch.batch_size, 8)
            assert timed.examples_per_second * timed.seconds.median == pytest.approx(one.batch.batch_size)
            assert timed.seconds.low <= timed.seconds.median <= timed.seconds.high
    dense, cut = made.sizes["dense"], made.sizes["ticket"]
    assert dense.parameters - cut.parameters == dense.structures - cut.structures > 0
    shown = study.report.read_text()
    for cell in ("Real cost", f"{dense.parameters:,}", f"{cut.parameters:,}", "bfloat16, torch", "2 x 8 tokens"):
        assert cell in shown
    assert "an earlier super ticket" not in shown


@pytest.mark.usefixtures("no_process")
def test_a_page_tells_what_is_wrong_with_what_was_measured(study: Result, capsys: pytest.CaptureFixture[str]) -> None:
    made = measured(capsys, str(study.folder))
    hostile = made.model_copy(update={"trial": "another", "device_name": "<img src=x onerror=alert(1)>"})
    (study.folder / MEASURED).write_text(hostile.as_json())
    supertickets.report([study.folder])
    shown = study.report.read_text()
    assert "Measured for an earlier super ticket" in shown
    assert "&lt;img src=x" in shown
    assert "<img src=x" not in shown
    (study.folder / MEASURED).write_text(hostile.as_json().replace('"format": 1', '"format": 2'))
    supertickets.report([study.folder])
    shown = study.report.read_text()
    assert "the file is damaged" in shown
    assert "Measured for an earlier super ticket" not in shown
    (study.folder / MEASURED).unlink()
    supertickets.report([study.folder])
    assert "Real cost" not in study.report.read_text()


@pytest.mark.usefixtures("no_process")
def test_a_ticket_folder_and_a_model_are_measured(study: Result, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = study.folder / "super-ticket", str(study.settings.model)
    before = sorted(path.name for path in folder.iterdir())
    made = measured(capsys, str(folder), "--precision", "float32")
    assert made.conditions.precision == "float32"
    assert {*made.sizes} == {"dense", "ticket"}
    assert sorted(path.name for path in folder.iterdir()) == before
    alone = measured(capsys, model)
    assert {*alone.sizes} == {"dense"}
    assert (alone.ticket, alone.trial, alone.passes[0].ratio) == (None, None, None)
    assert alone.sizes["dense"] == made.sizes["dense"]
    assert "ticket / dense" not in time_table(alone)
    assert [*size_table(made)] == ["", "dense", "ticket"]
    assert main(["measure", str(folder), *FEW]) == 0
    shown = capsys.readouterr().out
    for part in ("ticket / dense", "ticket tokens/s", "safetensors file", "1 x 8 tokens", "2 pairs after 2 to warm up"):
        assert part in shown


@pytest.mark.usefixtures("no_process")
def test_the_default_lengths_are_what_the_model_can_read(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", str(tiny_model), "--repeats", "1", "--batch-sizes", "1", "--json"]) == 0
    made = Measured.model_validate_json(capsys.readouterr().out)
    assert [one.batch.length for one in made.passes] == [16, 40]


def save_weight_ticket(folder: Path) -> Path:
    masks = {"encoder.layer.0.output.dense.weight": np.eye(32, 48, dtype=bool)}
    SharedTicket(WeightTicket(masks), {"name": "m", "weight_hash": "h"}, {}, {}).save(folder, "")
    return folder


WRONG: dict[str, tuple[list[str], str]] = {
    "device": (["{model}", "--device", "cuda:9"], "--device cuda:9: this machine has no such device; it has cpu"),
    "length": (
        ["{model}", "--lengths", "8,41"],
        "--lengths 41: model '{model}' reads 1 to 40 tokens; the nearest is 40",
    ),
    "no length": (["{model}", "--lengths", "0"], "--lengths 0: model '{model}' reads 1 to 40 tokens; the nearest is 1"),
    "lengths": (["{model}", "--lengths", "8,long"], "'8,long' is not a list of whole numbers such as 1,32"),
    "batch size": (["{model}", "--batch-sizes", "0"], "--batch-sizes 0: expected a whole number of at least 1"),
    "threads": (["{model}", "--threads", "0"], "--threads 0: expected a whole number of at least 1"),
    "repeats": (["{model}", "--repeats", "0"], "--repeats 0: expected a whole number of at least 1"),
    "precision": (["{model}", "--precision", "float16"], "--precision: unknown value 'float16'; did you mean"),
    "no folder": (["{tmp}/none"], "none: no such folder; expected a model, a ticket folder or a study's folder"),
    "model of a model": (["{model}", "--model", "default"], "is neither a ticket folder nor a study"),
    "base of a model": (["{model}", "--any-base"], "--any-base: {model} is neither a ticket folder nor a study"),
    "other base": (["{ticket}", "--model", "{other}"], "add --any-base"),
    "weights": (["{weights}"], "a ticket of single weights leaves zeros in a model of the same size"),
    "unfinished": (["{unfinished}"], "there is no super ticket in it yet; run its `supertickets find` to the end"),
    "out": (["{model}", "--out", "{tmp}"], "that is a folder; expected a file"),
    "other file": (["{model}", "--out", "{file}"], "the file exists and is not of `measure`; choose another name"),
    "cut model": (["{ticket}/model"], "already pruned to a ticket"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_measured(
    case: str, study: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "dense_and_cut", None)  # nothing is loaded
    places = {"model": str(study.settings.model), "tmp": tmp_path, "ticket": study.folder / "super-ticket"}
    if case == "other file":
        places["file"] = tmp_path / "thesis.json"
        places["file"].write_text("{}")
    if case == "weights":
        places["weights"] = save_weight_ticket(tmp_path / "weights")
    if case == "other base":
        places["other"] = save_tiny_model(tmp_path / "other", seed=1)
    if case == "unfinished":
        places["unfinished"] = tmp_path / "unfinished"
        shutil.copytree(study.folder, tmp_path / "unfinished", ignore=shutil.ignore_patterns("super-ticket"))
    typed, message = WRONG[case]
    assert main(["measure", *(word.format(**places) for word in typed)]) == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said
    assert said.strip().splitlines()[-1].startswith("Error: ")


def test_another_base_of_the_same_shape_may_be_measured(
    study: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_process: None
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    made = measured(capsys, str(study.folder / "super-ticket"), "--model", str(other), "--any-base")
    assert made.model == str(other)
    narrow = save_tiny_model(tmp_path / "narrow", heads=2)
    asked = ["measure", str(study.folder / "super-ticket"), "--model", str(narrow), "--any-base"]
    assert main(asked) == 2
    assert "the ticket is for 3 layers x 4 heads" in capsys.readouterr().err
