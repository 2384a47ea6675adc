"""Examples with any number of labels: from files to exported models, against scikit-learn and stock classes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import supertickets
from helpers.models import make_loud, save_tiny_model, tiny_config
from supertickets import load_shared
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.resampling import bootstrap_weights, half_weights, weighted_scores
from supertickets.evidence.runs import load_tasks
from supertickets.export.predict import predict
from supertickets.export.reloaded import check_reloaded
from supertickets.lab.outcome import Outcome, load_outcome
from supertickets.models import ModelSource, find_model
from supertickets.studies.run import Result
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.description import describe
from supertickets.tasks.metrics import MULTI_LABEL, evaluate, resampled
from supertickets.training.objectives import encode, example_losses, objective_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let tiny tensors be computed by one thread, as in studies; more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- examples ---------------------------------------------------------------------------------------------------------


def topics(path: Path, examples: int, seed: int) -> Path:
    """Texts with label `a` where w0 is among their words, `b` where w1 is, `c` where w2 is."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(examples):
        there = np.flatnonzero(rng.random(3) < 0.4)
        words = rng.permutation([*there, *rng.integers(3, 24, 4)])
        labels = ["abc"[place] for place in there]
        rows.append({"text": " ".join(f"w{word}" for word in words), "label": labels})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files(folder: Path, train: int = 200, dev: int = 60) -> dict[str, Path]:
    return {"train_file": topics(folder / "train.jsonl", train, 0), "dev_file": topics(folder / "dev.jsonl", dev, 1)}


def load(path: Path, dev: Path | None = None, **options: Any) -> Task:
    return load_task(TaskSource(task="mine", train_file=path, dev_file=dev or path, multi_label=True, **options))


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def listed(path: Path, labels: list[Any]) -> Path:
    return written(path, "".join(json.dumps({"text": f"w{i}", "label": one}) + "\n" for i, one in enumerate(labels)))


# --- files ------------------------------------------------------------------------------------------------------------


LABELS = [["b", "1"], [], ["a"], ["1.0", "b"]]
TARGETS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
@pytest.mark.parametrize("separator", [",", ";", " / "])
def test_files_of_every_format(ending: str, separator: str, tmp_path: Path) -> None:
    path, asked = tmp_path / f"a.{ending}", {} if separator == "," else {"label_separator": separator}
    texts = [f"w{i}" for i in range(4)]
    if ending in ("jsonl", "parquet"):
        asked = {}
        frame = pd.DataFrame({"text": texts, "label": LABELS})
        frame.to_parquet(path) if ending == "parquet" else frame.to_json(path, orient="records", lines=True)
    else:
        cells = [separator.join(one) for one in LABELS]
        pd.DataFrame({"text": texts, "label": cells}).to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    task = load(path, **asked)
    assert task.labels == ("1", "a", "b")
    assert task.train.targets.tolist() == TARGETS
    assert (task.metrics, task.classes, task.is_regression, task.outputs) == (("micro_f1",), (), False, 3)
    assert task.problem == "multi_label_classification"
    assert describe(task)[:3] == (
        "4 training and 4 dev examples.",
        "3 labels (training + dev examples that have them): '1' (2 + 2), 'b' (2 + 2), 'a' (1 + 1).",
        "Examples without any label (training + dev): 1 + 1.",
    )
    ordered = load(path, labels=("b", "a", "1"), **asked)
    assert ordered.train.targets.tolist() == [row[::-1] for row in TARGETS]
    assert ordered.fingerprint() != task.fingerprint()


def test_what_an_example_has_is_in_the_fingerprint(tmp_path: Path) -> None:
    cases = [[["a"], ["b"], []], [["a"], ["b"], ["a"]], [["a"], ["b"], ["a", "b"]], [["b"], ["a"], []]]
    found = {load(listed(tmp_path / f"{i}.jsonl", one)).fingerprint() for i, one in enumerate(cases)}
    single = listed(tmp_path / "single.jsonl", ["a", "b", "a"])
    found.add(load_task(TaskSource(task="mine", train_file=single, dev_file=single)).fingerprint())
    assert len(found) == 5


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["a", "a"], "example 3 has the label 'a' twice"),
        (["a", " "], r"example 3 has an empty label among \['a', ' '\]"),
        ("a,,b", r"example 3 has an empty label among \['a', '', 'b'\]"),
        (None, "example 3 has None in column 'label', expected a list of labels, or text with ','"),
        ("['a', 'b']", r"example 3 has .* a list that was written as text; write its labels with ',' between them"),
        (3, "example 3 has 3 in column 'label', expected a list of labels"),
        ([["a"]], r"example 3 has label \['a'\], expected one value"),
        ([None], r"example 3 has an empty label among \[None\]"),
    ],
)
def test_labels_that_are_refused(label: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message):
        load(listed(tmp_path / "a.jsonl", [["a"], ["b"], label]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression": True}, "--multi-label is for classes, --regression for real numbers; leave one of them out"),
        ({"positive": "a"}, "--positive is for one class of two, --multi-label for any number"),
        ({"metrics": ("f1",)}, "unknown metric for several labels 'f1': known are macro_f1, micro_f1"),
        ({"metrics": ("accuracy",)}, "unknown metric for several labels 'accuracy'.*known are macro_f1, micro_f1"),
        ({"label_separator": ";"}, "--label-separator ;: all labels of .* are in lists, so that nothing is separated"),
        ({"multi_label": False, "label_separator": ";"}, "--label-separator ; is used only with --multi-label"),
        ({"multi_label": False}, r"example 1 has label \['a'\], expected one value.* needs --multi-label"),
        ({"labels": ("a",)}, "--labels: .* also has the label 'b'; name every class"),
        ({"fraction": 0.25}, "it leaves 1 of 4 training examples .*expected at least 2"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = listed(tmp_path / "a.jsonl", [["a"], ["b"], ["a", "b"], []])
    asked = {"task": "mine", "train_file": path, "dev_file": path, "multi_label": True} | options
    with pytest.raises(TicketError, match=message):
        load_task(TaskSource.model_validate(asked))
    for name, value in (("multi_label", True), ("label_separator", ";")):
        with pytest.raises(TicketError, match=f"--{name.replace('_', '-')} describes your own files"):
            load_task(TaskSource.model_validate({"task": "sentiment", name: value}))


def test_examples_that_are_no_use(tmp_path: Path) -> None:
    good = listed(tmp_path / "a.jsonl", [["a"], ["b"], [], []])
    with pytest.raises(TicketError, match="every training example has the same labels, so that nothing can be learnt"):
        load(listed(tmp_path / "b.jsonl", [["a", "b"]] * 4))
    with pytest.raises(TicketError, match="no dev example has a label, so that F1 is 0 whatever a model predicts"):
        load(good, listed(tmp_path / "b.jsonl", [[], []]))
    with pytest.raises(TicketError, match="no example has a label in column 'label'"):
        load(listed(tmp_path / "b.jsonl", [[], []]))
    with pytest.raises(TicketError, match="every label is 'a'; a task needs at least two"):
        load(listed(tmp_path / "b.jsonl", [["a"], []]))
    with pytest.raises(TicketError, match="example 2 has label 'c', expected one of a, b"):
        load(good, listed(tmp_path / "b.jsonl", [["a"], ["b", "c"]]))
    many = listed(tmp_path / "b.jsonl", [[f"x{i}", f"y{i}"] for i in range(40)])
    with pytest.raises(TicketError, match="80 different labels in 80 occurrences, which do not look like classes"):
        load(many)
    told = describe(load(good, listed(tmp_path / "c.jsonl", [["a"], []])))
    assert "1 label has no dev example: 'b'." in told
    told = describe(load(listed(tmp_path / "d.jsonl", [["a"]] * 30 + [[]] * 30 + [["b"]] * 3), good, fraction=0.04))
    assert any("no training example" in sentence for sentence in told)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=30, max_size=60))
def test_a_drawn_dev_set_has_every_kind_in_proportion(tmp_path_factory: Any, labels: list[set[str]]) -> None:
    path = listed(tmp_path_factory.getbasetemp() / "drawn.jsonl", [list("abcd"), list("abcd"), *map(sorted, labels)])
    source = TaskSource(task="mine", train_file=path, multi_label=True, dev_share=0.4)
    task = load_task(source)
    assert task.fingerprint() == load_task(source).fingerprint()
    assert len(task.dev) == round(0.4 * (len(labels) + 2))
    both = np.vstack([task.train.targets, task.dev.targets])
    rarest = int(both.sum(axis=0).argmin())  # each of its examples counts as one of it
    assert abs(task.dev.targets[:, rarest].sum() - 0.4 * both[:, rarest].sum()) <= 1
    none = [(~part.targets.any(axis=1)).sum() for part in (task.train, task.dev)]
    assert abs(none[1] - 0.4 * sum(none)) <= 1


# --- metrics and losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", MULTI_LABEL)
@pytest.mark.parametrize("case", ["ordinary", "nothing predicted", "rare labels"])
def test_metrics_are_scikit_learns_on_repeated_examples(metric: str, case: str) -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((50, 6)) < (0.03 if case == "rare labels" else 0.3)).astype(np.int8)
    outputs = (2.0 * targets - 1 + rng.normal(0, 1.5, targets.shape)).astype(np.float32)
    if case == "nothing predicted":
        outputs[:] = -1
    weights = np.vstack([np.ones(50), bootstrap_weights(50, 1, 30), half_weights(50, 5)])
    found = resampled((metric,), targets, outputs, weights)[metric]
    times = [row.astype(int) for row in weights]
    both = [[np.repeat(side, row, axis=0) for side in (targets, outputs > 0)] for row in times]
    how = {"average": metric.removesuffix("_f1"), "zero_division": 0}
    expected = [f1_score(gold, said, **how) for gold, said in both]
    np.testing.assert_allclose(found, 100 * np.array(expected), atol=1e-9)
    np.testing.assert_array_equal(weighted_scores((metric,), targets, outputs, weights), found)
    assert (np.std(found) > 0.5) == (case != "nothing predicted")
    if case == "ordinary":  # the control: the other average, and the threshold, are told apart
        other = resampled(("macro_f1" if metric == "micro_f1" else "micro_f1",), targets, outputs, weights)
        assert np.abs(found - next(iter(other.values()))).max() > 0.5
        assert np.abs(found - resampled((metric,), targets, outputs - 0.5, weights)[metric]).max() > 0.5


def test_the_score_is_micro_f1_by_hand() -> None:
    """Two of three labels are found, and one is said that is not there: F1 = 2 x 2 / (3 + 3)."""
    targets = np.array([[1, 1, 0], [0, 0, 1]], np.int8)
    outputs = np.array([[3.0, -1.0, -2.0], [0.5, -1.0, 4.0]])
    found = evaluate(("micro_f1", "macro_f1"), targets, outputs)
    assert found["micro_f1"] == pytest.approx(100 * 4 / 6)
    assert found["macro_f1"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert found["score"] == pytest.approx((found["micro_f1"] + found["macro_f1"]) / 2)


def test_the_loss_is_the_stock_one(tiny_model: Path, tmp_path: Path) -> None:
    task = load(files(tmp_path)["train_file"])
    data = encode(task, ModelSource(find_model(str(tiny_model))).tokenizer, 12).train
    config = tiny_config("bert", num_labels=3, problem_type="multi_label_classification")
    model = make_loud(AutoModelForSequenceClassification.from_config(config)).double().eval()
    inputs, targets = data.collate(range(8), torch.device("cpu"))
    assert targets.shape == (8, 3)
    mine = objective_of(task).losses(model(**inputs).logits, targets)
    alone = [data.collate([row], torch.device("cpu")) for row in range(8)]
    expected = torch.stack([model(**one, labels=labels.double()).loss for one, labels in alone])
    torch.testing.assert_close(mine, expected)
    assert (example_losses(model(**inputs).logits, targets.roll(1, 0), False) - expected).abs().max() > 0.1  # control


# --- studies ----------------------------------------------------------------------------------------------------------

ASKED: dict[str, Any] = {
    "task": "topics", "multi_label": True, "seeds": 1, "workers": 1, "epochs": 12, "batch_size": 8,
    "learning_rate": 3e-3, "max_length": 12, "precision": "float32", "patience": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def found(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("find")
    own = {"levels": (0.4,), "kinds": ("winning",), "model": str(model_folder), "out": folder / "out"}
    return supertickets.find(ASKED, **own, metrics="micro_f1,macro_f1", **files(folder))


def measured(result: Result) -> tuple[Outcome, np.ndarray]:
    winning = result.table[result.table["kind"] == "winning"].iloc[0]
    outcome = load_outcome(result.folder / "trials" / winning["trial"])
    assert outcome is not None
    assert outcome.best_epoch is not None
    return outcome, outcome.predictions()["dev"][outcome.best_epoch - 1]


def test_finds_and_ships_a_ticket(found: Result, tmp_path: Path) -> None:
    assert not found.failures
    outcome, outputs = measured(found)
    task, folder = load_task(found.settings.source), found.shipped["ticket"] / "model"
    always = f1_score(task.dev.targets, np.ones_like(task.dev.targets), average="micro")
    dense = found.table[found.table["kind"] == "dense"].iloc[0]
    assert dense["micro_f1"] > 100 * always + 10  # more than by naming every label
    assert dense["score"] == pytest.approx((dense["micro_f1"] + dense["macro_f1"]) / 2)
    assert np.array_equal(load_tasks(found.folder)[0].targets, task.dev.targets)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert np.array_equal(predict(folder, task.dev.text, None, 12, "float32", batch_size=16), outputs)
    inputs = AutoTokenizer.from_pretrained(folder)(task.dev.text, padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs).logits.numpy() > 0
    expected = 100 * f1_score(task.dev.targets, said, average="micro")
    assert outcome.by_task[0]["dev"]["micro_f1"] == pytest.approx(expected)
    card = (found.shipped["ticket"] / "README.md").read_text()
    assert "(micro_f1, macro_f1; level" in card
    assert "3 labels (training + dev examples that have them)" in card
    assert check_reloaded(folder, outcome, task)["largest_difference"] == 0.0
    other = shutil.copytree(folder, tmp_path / "model")
    weights = load_file(other / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudyError, match="outputs of the saved model on the dev set differ"):
        check_reloaded(other, outcome, task)


@pytest.mark.slow
def test_the_other_studies(found: Result, model_folder: Path, tmp_path: Path) -> None:
    own = {**ASKED, "model": str(model_folder), "epochs": 2}
    few = files(tmp_path, 60, 30)
    rounds = supertickets.imp(own, sparsities="0.3,0.5", controls="none", out=tmp_path / "imp", **few)
    moved = supertickets.transfer(
        model=str(model_folder), tickets=(tmp_path / "imp",), seeds=1, epochs=1, max_length=12, workers=1,
        out=tmp_path / "moved",
    )  # fmt: skip
    adapted = supertickets.adapt(
        ASKED | {"epochs": 1}, sources=(found.folder,), output_layer="trained", metrics="micro_f1,macro_f1",
        fractions=(0.25, 1.0), out=tmp_path / "adapt", **few,
    )  # fmt: skip
    for result, name in ((rounds, "micro_f1"), (moved, "micro_f1"), (adapted, "macro_f1")):
        assert not result.failures
        assert result.table[name].notna().all()
    single = listed(tmp_path / "single.jsonl", ["a", "b", "c"] * 9)
    asked = {"task": "other", "multi_label": False, "train_file": single, "dev_file": single, "metrics": ("macro_f1",)}
    with pytest.raises(
        TicketError, match="has any of the labels a, b, c, 'other' the labels a, b, c; expected the same"
    ):
        supertickets.adapt(
            ASKED | asked, sources=(found.folder,), output_layer="trained", out=tmp_path / "no", fractions=1
        )


def test_shares_an_encoder_with_a_task_of_classes(found: Result, model_folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"w{i % 24} w{i % 7},{'xy'[i % 24 < 12]}\n" for i in range(60))
    texts = written(tmp_path / "texts.csv", f"text,label\n{rows}")
    own = {"task": "texts", "multi_label": False, "train_file": texts, "dev_file": texts, "levels": 0.4, "epochs": 1}
    other = supertickets.find(ASKED | own, model=str(model_folder), kinds="winning", out=tmp_path / "texts")
    shared = supertickets.share(
        model=str(model_folder), tickets=(found.folder, other.folder), seeds=1, epochs=2, batch_size=8, workers=1,
        fine_tune=False, max_length=12, max_train_examples=50, precision="float32", out=tmp_path / "share",
    )  # fmt: skip
    assert not shared.failures
    model = load_shared(shared.shipped["model"])
    assert [task.problem for task in model.tasks] == ["multi_label_classification", "single_label_classification"]
    assert model.model("topics").config.problem_type == "multi_label_classification"
    task = load_task(found.settings.source)
    outputs = model.predict("topics", task.dev.text)
    assert outputs.shape == (60, 3)
    score, every, none = (
        evaluate(("micro_f1",), task.dev.targets, one)["score"]
        for one in (outputs, np.ones_like(outputs), -np.ones_like(outputs))
    )
    (told,) = shared.table.query("kind == 'Ticket-Share' and task == 'topics'")["micro_f1"]
    assert score == pytest.approx(told)
    assert min(abs(score - every), abs(score - none)) > 1  # control: what the same labels for all texts would score
