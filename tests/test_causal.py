"""Causal language modelling: from lines of text to exported decoders, against naive code and stock classes."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import supertickets
from helpers.models import HEADS, LAYERS, make_loud, save_tiny_model, tiny_config
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.lab.outcome import load_outcome
from supertickets.models import ModelSource, find_model
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import gated
from supertickets.tasks import Split, Task, TaskSource, load_task
from supertickets.tasks.metrics import evaluate
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.causal import Causal
from supertickets.training.corpus import IGNORED
from supertickets.training.evaluation import judged_on
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe
from supertickets.training.scoring import score

CPU = torch.device("cpu")
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "new_decoder.py"
DECODERS = ("gpt2", "llama")
RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=1e-2, max_length=20, patience=None, dropout=0.0)


@pytest.fixture(scope="module", params=DECODERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with an output layer."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", request.param, auto=AutoModelForCausalLM)


def lines_of(count: int, seed: int = 0) -> list[str]:
    """Lines in which each word says which comes next, but the first of each line."""
    firsts = np.random.default_rng(seed).integers(0, 60, count)
    return [" ".join(f"w{(first + place) % 60}" for place in range(9)) for first in firsts]


def files(folder: Path, train: int = 120, dev: int = 40) -> dict[str, Any]:
    for name, lines in (("train", lines_of(train)), ("dev", lines_of(dev, 1))):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return {"task": "clm", "train_file": folder / "train.txt", "dev_file": folder / "dev.txt"}


def task_of(folder: Path) -> Task:
    return load_task(TaskSource(**files(folder)))


def test_windows_by_hand(folder: Path) -> None:
    """Each token but the first is predicted once, after at least half a window; training reads each once."""
    source = ModelSource(find_model(str(folder)))
    part = Split(["w1 w2 w3 w4", "w5 w6 w7", "w8 w9 w10"], None, np.zeros(3))
    ids = source.tokenizer(" ".join(part.text), add_special_tokens=False)["input_ids"]
    windows = Causal().encode(part, source.tokenizer, 4)
    assert [one.tolist() for one in windows.ids] == [ids[0:4], ids[2:6], ids[4:8], ids[6:10]]
    inputs, targets = windows.collate(range(4), CPU)
    assert targets.tolist() == [
        [*ids[1:4], IGNORED],
        [IGNORED, *ids[4:6], IGNORED],
        [IGNORED, *ids[6:8], IGNORED],
        [IGNORED, *ids[8:10], IGNORED],
    ]
    assert inputs["input_ids"].tolist() == [one.tolist() for one in windows.ids]
    shorter = Causal().encode(Split(["w1 w2 w3 w4 w5"], None, np.zeros(1)), source.tokenizer, 4)
    assert [len(one) for one in shorter.ids] == [4, 3]
    assert (shorter.collate([0, 1], CPU)[1] != IGNORED).sum() == 4  # padding is no token
    blocks = Causal().encode_training(part, source.tokenizer, 4)
    assert [one.tolist() for one in blocks.ids] == [ids[0:4], ids[4:8]]
    assert (blocks.collate([0, 1], CPU)[1] != IGNORED).sum(dim=1).tolist() == [3, 3]


def naive_perplexity(model: PreTrainedModel, ids: list[int], length: int, step: int) -> float:
    """The loop of transformers' documentation, "Perplexity of fixed-length models", with every token counted once."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), step):
        end = min(begin + length, len(ids))
        one = torch.tensor([ids[begin:end]])
        target = one.clone()
        target[:, : -(end - before)] = -100
        with torch.no_grad():
            mean = model(one, labels=target).loss
        valid = int((target[:, 1:] != -100).sum())
        total, count, before = total + float(mean) * valid, count + valid, end
        if end == len(ids):
            break
    assert count == len(ids) - 1 or step == length  # without an overlap, the first token of a window is not predicted
    return float(np.exp(total / count))


@pytest.mark.parametrize("family", DECODERS)
def test_perplexity_is_that_of_a_sliding_window(family: str, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", family))))
    model = make_loud(AutoModelForCausalLM.from_config(tiny_config(family)).double()).eval()
    lines = lines_of(20)
    data = Causal().encode(Split(lines, None, np.zeros(20)), source.tokenizer, 16)
    outputs = judged_on(data, model, Causal(), 8, "float32", CPU)
    found = evaluate(("token_accuracy", "perplexity"), data.targets, outputs)
    ids = source.tokenizer(" ".join(lines), add_special_tokens=False)["input_ids"]
    assert found["perplexity"] == pytest.approx(naive_perplexity(model, ids, 16, 8), rel=1e-5)
    assert found["perplexity"] != pytest.approx(naive_perplexity(model, ids, 16, 16), rel=1e-3)  # the control
    with torch.no_grad():
        said = model(torch.tensor([ids[:16]])).logits[0, :-1].argmax(dim=-1)
    assert outputs[0, 1] == (said == torch.tensor(ids[1:16])).sum()


def test_an_examples_loss_is_the_stock_one(folder: Path, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(folder)))
    model, form = source.build(1, 0.0, 0, "causal").double().eval(), Causal()
    assert type(model).__name__.endswith(("LMHeadModel", "ForCausalLM"))
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(*(one.get_output_embeddings().weight.float() for one in (model, stock)))  # the checkpoint's own
    data = encode(task_of(tmp_path), source.tokenizer, 20).train
    inputs, targets = data.collate([0, 3], CPU)
    with torch.no_grad():
        losses = form.losses(form.forward(model, inputs, targets), targets)
        expected = [model(row[None], labels=row[None]).loss for row in inputs["input_ids"]]
    torch.testing.assert_close(losses.float(), torch.stack(expected).float())  # stock losses are float32


def trainer_of(source: ModelSource, task: Task, recipe: Recipe = RECIPE) -> Trainer:
    model, full = source.build(task.outputs, 0.0, 0, task.form), Ticket.full(LAYERS, HEADS)
    return Trainer([Learner(encode(task, source.tokenizer, recipe.max_length), model, full)], Plan(recipe, 0), CPU)


def test_a_tiny_decoder_learns_which_word_is_next(folder: Path, tmp_path: Path) -> None:
    source, task = ModelSource(find_model(str(folder))), task_of(tmp_path)
    untrained = RECIPE.model_copy(update={"learning_rate": 1e-12})
    found, control = (trainer_of(source, task, recipe).train().epochs[-1] for recipe in (RECIPE, untrained))
    assert found["score"] > control["score"] + 8


def test_importance_is_that_of_each_block(folder: Path, tmp_path: Path) -> None:
    """One head's by finite differences of each block's loss."""
    trainer = trainer_of(
        ModelSource(find_model(str(folder))), task_of(tmp_path), RECIPE.model_copy(update={"epochs": 1})
    )
    trainer.train()
    heads = score(trainer, ScoringSettings.model_validate({}), lambda: None)["heads"]
    (learner,) = trainer.learners
    learner.model.double().eval()
    form, data, step = Causal(), learner.data.train, 1e-4
    inputs, targets = data.collate(range(len(data.ids)), CPU)

    def losses(gate: float) -> torch.Tensor:
        at = torch.tensor([1.0, gate, 1.0, 1.0], dtype=torch.float64)[:, None]
        with (
            torch.inference_mode(),
            gated(learner.model, heads=lambda layer, context: at if layer == 1 else torch.ones(1)),
        ):
            return form.losses(form.forward(learner.model, inputs, targets), targets)

    expected = ((losses(1 + step) - losses(1 - step)) / (2 * step)).abs().mean()
    assert heads[1, 1] == pytest.approx(float(expected), rel=1e-3)
    assert heads[1, 2] != pytest.approx(float(expected), rel=1e-3)  # control


@pytest.mark.parametrize(("heads", "shared"), [(1, 1), (4, 2), (5, 1)])
def test_a_new_decoder_has_heads_that_share_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: int, shared: int
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(lines_of(5)))
    asked = ["--text", str(tmp_path / "text.txt"), "--vocabulary", "300", "--layers", "1", "--heads", str(heads)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "new"), *asked])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    shape = find_model(str(tmp_path / "new")).shape
    assert (shape.heads, shape.kv_heads) == (heads, shared)


@pytest.mark.slow
def test_a_new_decoder_is_made_from_a_text(tmp_path: Path) -> None:
    """Its tokenizer gives every text back, and a study trains it."""
    (tmp_path / "text.txt").write_text("\n".join(lines_of(50)))
    script = [str(SCRIPT), str(tmp_path / "new"), "--text", str(tmp_path / "text.txt"), "--vocabulary", "300"]
    subprocess.run([sys.executable, *script, "--layers", "2", "--heads", "2"], check=True, capture_output=True)
    source = ModelSource(find_model(str(tmp_path / "new")))
    assert (source.base.shape.heads, source.base.shape.kv_heads) == (2, 1)
    ids = source.tokenizer("w1 w2, w99\n")["input_ids"]
    assert source.tokenizer.decode(ids) == "w1 w2, w99\n"
    done = supertickets.find(
        SMALL, model=str(tmp_path / "new"), kinds="none", keep="dense", out=tmp_path / "out", **files(tmp_path)
    )
    assert find_model(str(done.folder / "model")).shape == source.base.shape


SMALL: dict[str, Any] = {
    "seeds": 1, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "max_length": 20, "precision": "float32",
    "workers": 1,
}  # fmt: skip


def test_finds_a_ticket_of_a_decoder_that_writes_text(folder: Path, tmp_path: Path) -> None:
    done = supertickets.find(
        SMALL, model=str(folder), out=tmp_path / "out", levels=(0.4,), kinds=("winning",), **files(tmp_path)
    )
    assert not done.failures
    table = done.table
    assert np.allclose(table["score"], table["token_accuracy"])
    assert (table["perplexity"] > 1).all()
    best = table[table["kind"] == "winning"].iloc[0]
    model = AutoModelForCausalLM.from_pretrained(done.shipped["ticket"] / "model").eval()
    assert "AutoModelForCausalLM.from_pretrained" in (done.shipped["ticket"] / "README.md").read_text()
    outcome = load_outcome(done.folder / "trials" / best["trial"])
    assert outcome is not None
    ids = AutoTokenizer.from_pretrained(folder)(" ".join(lines_of(40, 1)), add_special_tokens=False)["input_ids"]
    assert naive_perplexity(model, ids, 20, 10) == pytest.approx(best["perplexity"], rel=1e-4)
    dense = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert naive_perplexity(dense, ids, 20, 10) != pytest.approx(best["perplexity"], rel=1e-2)  # control
    assert model.generate(torch.tensor([ids[:5]]), max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 8)


@pytest.mark.slow
def test_prunes_and_transfers_single_weights_of_a_decoder(folder: Path, tmp_path: Path) -> None:
    own, model = files(tmp_path), str(folder)
    found = supertickets.imp(SMALL, model=model, sparsities=(0.5,), out=tmp_path / "imp", **own)
    moved = supertickets.transfer(
        SMALL, tickets=(found.folder,), tasks=("clm",), model=model, out=tmp_path / "transfer"
    )
    for done in (found, moved):
        assert not done.failures
        assert done.table["perplexity"].notna().all()


def test_a_decoder_without_its_output_layer_is_given_one_first(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "llama")
    with pytest.raises(TicketError, match="has no language modelling head; leave the flag out to train one first"):
        supertickets.imp(
            SMALL, model=str(model), sparsities=(0.5,), pretrain=False, out=tmp_path / "imp", **files(tmp_path)
        )


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        (
            "bert",
            [],
            "(bert) reads a text in both directions, and causal language modelling (--task clm) needs a decoder",
        ),
        ("gpt2", ["--dropout", "0.2"], "language modelling has no dropout before its output layer"),
        (
            "gpt2",
            ["--max-length", "40"],
            "the dev set has 45 tokens, expected at least 2 blocks of 40 (--max-length 40)",
        ),
    ],
)
def test_misuse_is_told(
    family: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, own = save_tiny_model(tmp_path / "model", family), files(tmp_path, dev=5)
    asked = ["find", "--task", "clm", "--model", str(model), "--out", str(tmp_path / "out"), "--max-length", "20"]
    asked += ["--train-file", str(own["train_file"]), "--dev-file", str(own["dev_file"]), *more]
    assert main(asked) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cut_decoder_has_its_own_output_layer(folder: Path) -> None:
    """Tied where the dense one's is."""
    source = ModelSource(find_model(str(folder)))
    model = cut(source.build(1, 0.0, 0, "causal"), Ticket.from_pruned(LAYERS, HEADS, [(0, 1)], [2]))
    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", model.config.tie_word_embeddings)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
