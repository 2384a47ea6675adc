"""What is shipped is what was measured: the saved model, loaded again by stock classes, gives the recorded outputs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import supertickets
from helpers.models import FAMILIES, save_tiny_model
from helpers.trials import write_words
from supertickets.errors import StudyError, TicketError
from supertickets.export.predict import predict
from supertickets.export.reloaded import check_reloaded, outputs_again
from supertickets.lab.outcome import Outcome, load_outcome
from supertickets.studies.run import Result
from supertickets.surgery.output_layer import rescaled_outputs
from supertickets.tasks import Task, TaskSource, load_task

ASKED: dict[str, Any] = {
    "task": "words", "levels": (0.4,), "kinds": ("winning",), "seeds": 1, "workers": 1, "epochs": 2, "batch_size": 8,
    "learning_rate": 1e-2, "max_length": 12,
}  # fmt: skip


def shipped(result: Result) -> tuple[Outcome, Task, Path]:
    """Return the outcome, the task and the folder of a study's shipped model."""
    origin = json.loads((result.shipped["ticket"] / "ticket.json").read_text())["origin"]
    outcome = load_outcome(result.folder / "trials" / origin["trial"])
    assert outcome is not None
    return outcome, load_task(result.settings.source), result.shipped["ticket"] / "model"


def measured(outcome: Outcome) -> np.ndarray:
    assert outcome.best_epoch is not None
    return outcome.predictions()["dev"][outcome.best_epoch - 1]


def in_stock_classes(folder: Path, task: Task) -> np.ndarray:
    """Return a folder's float32 logits as anybody would compute them: one padded batch, the tokenizer's defaults."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(task.dev.text, task.dev.pair, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.numpy()


def check_shipped(result: Result) -> None:
    outcome, task, folder = shipped(result)
    recipe = outcome.trial.recipe
    again = outputs_again(folder, task, 12, recipe.batch_size, recipe.precision, recipe.threads)
    np.testing.assert_array_equal(again, measured(outcome))
    ours = outputs_again(folder, task, 12, recipe.batch_size, "float32", recipe.threads)
    np.testing.assert_allclose(in_stock_classes(folder, task), ours, atol=1e-5, rtol=1e-5)


# In 16 bits, layers of the other families compute what BERT's do.
@pytest.mark.parametrize(
    ("family", "precision"),
    [*((name, "float32") for name in FAMILIES), ("bert", "bfloat16"), ("distilbert", "bfloat16")],
)
def test_every_family_and_both_precisions(family: str, precision: str, words: dict[str, Path], tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", family, scale=0.4)
    result = supertickets.find(ASKED, model=str(model), out=tmp_path / "out", precision=precision, **words)
    check_shipped(result)
    card = (result.shipped["ticket"] / "README.md").read_text()
    assert ("in float32" in card) == (precision == "bfloat16")


def odd_padding(folder: Path) -> None:
    """The config's padding id is another token's of the tokenizer (a BERT tokenizer beside a RoBERTa)."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": 7}))


def one_segment(folder: Path) -> None:
    """The tokenizer gives two segments, the model has one."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"type_vocab_size": 1}))
    found = load_file(folder / "model.safetensors")
    name = "embeddings.token_type_embeddings.weight"
    save_file(found | {name: found[name][:1].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder, model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def left_padding(folder: Path) -> None:
    edit(folder, padding_side="left")


def edit(folder: Path, **values: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("oddity", [odd_padding, one_segment, left_padding])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_every_odd_tokenizer(
    family: str, oddity: Callable[[Path], None], words: dict[str, Path], tmp_path: Path
) -> None:
    """Texts use words below and above the padding ids; pairs use both segments."""
    folder = save_tiny_model(tmp_path / "model", family, scale=0.4)
    oddity(folder)
    files = {}
    for name, path in words.items():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        files[name] = tmp_path / path.name
        files[name].write_text("".join(json.dumps(row | {"other": row["text"][::-1]}) + "\n" for row in rows))
    check_shipped(
        supertickets.find(
            ASKED, model=str(folder), out=tmp_path / "out", text_pair="other", precision="float32", **files
        )
    )


def test_a_saved_model_that_is_another_is_not_shipped(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    outcome, task, folder = shipped(supertickets.find(ASKED, model=str(tiny_model), out=tmp_path / "out", **words))
    found = check_reloaded(folder, outcome, task)
    assert found["largest_difference"] == 0.0
    assert found["float32"]["score"] == pytest.approx(outcome.score, abs=5.0)
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    weights = load_file(changed / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * 1.5
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudyError, match="outputs of the saved model on the dev set differ"):
        check_reloaded(changed, outcome, task)
    fewer = replace(task, dev=load_task(TaskSource(task="words", **words)).train)
    with pytest.raises(StudyError, match="outputs of the saved model"):
        check_reloaded(folder, outcome, fewer)


# --- real numbers on any scale ----------------------------------------------------------------------------------------


def numbers(folder: Path, scale: float, offset: float) -> dict[str, Path]:
    return {
        f"{name}_file": write_words(
            folder / f"{name}.jsonl", examples, seed, lambda w: offset + scale * sum(i < 12 for i in w) / len(w)
        )
        for seed, (name, examples) in enumerate({"train": 64, "dev": 40}.items())
    }


LEARNS: dict[str, Any] = {**ASKED, "epochs": 12, "patience": None, "learning_rate": 3e-3, "levels": (0.2,)}


@pytest.mark.parametrize(
    ("scale", "offset", "precision"),
    [
        (4e5, 1e5, "float32"), (10.0, 2000.0, "float32"), (1e-6, -1e-3, "float32"),
        (10.0, 2000.0, "bfloat16"),  # the hardest of them: 16 bits have steps of 8 at 2000
    ],
)  # fmt: skip
def test_targets_on_any_scale_are_learned_and_shipped_in_their_own_units(
    scale: float, offset: float, precision: str, tiny_model: Path, tmp_path: Path
) -> None:
    files = numbers(tmp_path, scale, offset)
    result = supertickets.find(
        LEARNS, model=str(tiny_model), out=tmp_path / "out", regression=True, precision=precision, **files
    )
    check_shipped_numbers(result, scale)
    row = result.table[result.table["kind"] == "dense"].iloc[0]
    assert row["r2"] > 30.0  # it has learned something, on every scale alike
    assert row["mae"] == pytest.approx(0.15 * scale, rel=0.6)
    assert row["rmse"] > row["mae"]


def check_shipped_numbers(result: Result, scale: float) -> None:
    outcome, task, folder = shipped(result)
    recipe = outcome.trial.recipe
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.problem_type == "regression"
    given = predict(folder, task.dev.text, None, 12, recipe.precision, batch_size=2 * recipe.batch_size)
    np.testing.assert_array_equal(given, measured(outcome))
    assert np.abs(given[:, 0] - task.dev.targets).mean() < 0.3 * scale  # in the user's units
    ours = predict(folder, task.dev.text, None, 12)
    apart = 1e-5 * scale + 1e-6 * np.abs(ours).max()  # a share of how far targets are apart, and float32's steps
    np.testing.assert_allclose(in_stock_classes(folder, task), ours, rtol=0, atol=apart)


def test_without_standardising_large_targets_are_not_learned(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a good correlation, and predictions that stay near where they started."""
    files = numbers(tmp_path, 4e5, 1e5)
    monkeypatch.setattr(Task, "scale", (0.0, 1.0))
    dense = {name: value for name, value in LEARNS.items() if name != "levels"} | {"kinds": (), "regression": True}
    result = supertickets.find(dense, model=str(tiny_model), out=tmp_path / "out", **files)
    assert result.table["mae"].min() > 1e5
    assert result.table["r2"].max() < 0.0


def test_the_scale_is_that_of_the_examples_trained_on(tmp_path: Path) -> None:
    files = numbers(tmp_path, 4e5, 1e5)
    whole = load_task(TaskSource(task="t", regression=True, **files))
    part = load_task(TaskSource(task="t", regression=True, fraction=0.25, **files))
    for task in (whole, part):
        assert task.scale == (np.mean(task.train.targets), np.std(task.train.targets))
    assert part.scale != whole.scale
    assert load_task(TaskSource(task="similarity")).scale == (0.0, 1.0)  # as published tasks are
    same = write_words(tmp_path / "same.jsonl", 8, 0, lambda w: 3.5)
    with pytest.raises(TicketError, match=r"every training target is 3\.5"):
        load_task(TaskSource(task="t", regression=True, train_file=same, dev_file=files["dev_file"]))


def test_weights_are_bit_for_bit_what_they_were_after_judging(tiny_model: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with rescaled_outputs(model, 123.456, 1e5 / 3):
        assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
