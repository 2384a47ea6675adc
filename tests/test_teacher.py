"""A teacher: the loss against formulas, rows against examples, trials that are taught and those that are not."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from helpers.models import make_loud
from helpers.trials import make_trial
from supertickets.errors import TicketError
from supertickets.lab import Trial, on_ray
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import LOGITS, Outcome, load_outcome
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.storage import file_digest
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import distances, encode, objective_of
from supertickets.training.recipe import Recipe
from supertickets.training.teacher import Lesson, as_stored


def task_of(**more: Any) -> Task:
    return Task(
        "t", **{"labels": ("a", "b", "c"), "metrics": ("accuracy",), "train": None, "dev": None, "extra": {}, **more}
    )  # type: ignore[arg-type]


def some(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the loss ---------------------------------------------------------------------------------------------------------


def softened(logits: Any, temperature: float) -> Any:
    powers = np.exp(np.asarray(logits) / temperature)
    return powers / powers.sum()


def kl(p: Any, q: Any) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_classes_by_hand_and_by_torch(temperature: float) -> None:
    student, teacher = some(5, 3), some(5, 3, seed=1)
    found = distances(task_of(), student, teacher, temperature)
    expected = [
        temperature**2 * kl(softened(t, temperature), softened(s, temperature))
        for s, t in zip(student, teacher, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    of_torch = nn.functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )
    np.testing.assert_allclose(found.mean(), temperature**2 * of_torch, rtol=1e-12)
    swapped = distances(task_of(), teacher, student, temperature)
    assert not np.allclose(found, swapped)  # the divergence is no distance: which is the teacher matters
    assert torch.equal(distances(task_of(), student, student, temperature), torch.zeros(5, dtype=torch.float64))


def test_the_gradient_is_that_of_soft_targets() -> None:
    """Hinton et al., equation 2: d/dz of T^2 KL is T (q - p), with q and p softened."""
    student, teacher = some(4, 3).requires_grad_(), some(4, 3, seed=1)
    distances(task_of(), student, teacher, 3.0).sum().backward()
    expected = 3.0 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1))
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-12, atol=1e-14)
    own = torch.autograd.gradcheck(lambda z: distances(task_of(), z, teacher, 3.0), (some(4, 3).requires_grad_(),))
    assert own


def test_several_labels_by_hand() -> None:
    student, teacher, t = some(4, 3), some(4, 3, seed=1), 2.0
    found = distances(task_of(multi_label=True), student, teacher, t)
    for row in range(4):
        p, q = (1 / (1 + np.exp(-of[row].numpy() / t)) for of in (teacher, student))
        each = [kl((a, 1 - a), (b, 1 - b)) for a, b in zip(p, q, strict=True)]
        assert float(found[row]) == pytest.approx(t**2 * np.mean(each), rel=1e-12)
    assert not np.allclose(found, distances(task_of(), student, teacher, t))


def test_real_numbers_by_hand() -> None:
    """Outputs are of standardised targets, the teacher's are stored in the targets' own units."""
    train = type("Targets", (), {"targets": np.array([10.0, 20.0, 60.0])})()
    student, teacher = some(4, 1), 30 + 10 * some(4, 1, seed=1)
    plain, scaled = (task_of(labels=(), train=train, standardised=how) for how in (False, True))
    mean, deviation = 30.0, float(np.std([10.0, 20.0, 60.0]))
    for task, (shift, scale) in ((plain, (0.0, 1.0)), (scaled, (mean, deviation))):
        expected = (student[:, 0] - (teacher[:, 0] - shift) / scale) ** 2
        for temperature in (1.0, 5.0):
            torch.testing.assert_close(distances(task, student, teacher, temperature), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(distances(plain, student, teacher, 1.0), distances(scaled, student, teacher, 1.0))


def test_spans_by_hand_with_padding() -> None:
    lengths, t = [6, 4], 2.0
    student, teacher = some(2, 6, 2), some(2, 6, 2, seed=1)
    student[1, 4:], teacher[1, 4:] = -torch.inf, 0.0  # as `Spans` gives and stores them
    student.requires_grad_()
    found = distances(task_of(form="spans", labels=()), student, teacher, t)
    found.sum().backward()
    for row, n in enumerate(lengths):
        both = [kl(softened(teacher[row, :n, end], t), softened(student.detach()[row, :n, end], t)) for end in (0, 1)]
        assert found[row].item() == pytest.approx(t**2 * np.mean(both), rel=1e-12)
    assert torch.isfinite(student.grad).all()
    assert not student.grad[1, 4:].any()
    assert student.grad[1, :4].all()


# --- trials -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(device="cpu")


@pytest.fixture(scope="module")
def dense(
    bench: Workbench, tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """A dense run that has stored its outputs."""
    trial = make_trial(tiny_model, words, epochs=2, batch_size=16, learning_rate=1e-2)
    trial = changed(trial, logits=True, scoring=ScoringSettings())
    return run(bench, trial, tmp_path_factory.mktemp("dense"), keep=True)


def run(bench: Workbench, trial: Trial, folder: Path, keep: bool = False, **more: Any) -> Any:
    return bench.run(Job(trial, folder / trial.key, keep, "x", **more), lambda event: None)


def changed(trial: Trial, **more: Any) -> Trial:
    """Another trial, whose key is its own."""
    return Trial(**{**{name: getattr(trial, name) for name in Trial.model_fields}, **more})


def taught_by(dense: Outcome, weight: float = 0.5, temperature: float = 2.0, **more: Any) -> Trial:
    """A small ticket that learns from a dense run."""
    plain = {"logits": False, "scoring": None, "teacher": dense.teacher(weight, temperature)}
    (of_task,) = dense.trial.tasks
    ticket = Ticket.from_pruned(3, 4, pruned_heads=[(0, 1), (2, 2)], pruned_ffns=[1])
    tasks = (of_task.model_copy(update={"ticket": ticket}),)
    return changed(dense.trial, **{**plain, "tasks": tasks, **more})


def with_outputs(dense: Outcome, outputs: Any, folder: Path) -> Outcome:
    """The dense run with other outputs in its file."""
    folder.mkdir(exist_ok=True)
    save_file({"logits": outputs}, folder / LOGITS)
    return replace(dense, folder=folder, files={**dense.files, LOGITS: file_digest(folder / LOGITS)})


def same(one: Outcome, other: Outcome) -> bool:
    of, over = (load_file(outcome.folder / "predictions.safetensors") for outcome in (one, other))
    losses = [[epoch["loss"] for epoch in outcome.epochs] for outcome in (one, other)]
    return losses[0] == losses[1] and all(np.array_equal(of[name], over[name]) for name in of)


def test_a_dense_run_that_stores_its_outputs_is_the_same_training(
    bench: Workbench, dense: Outcome, tmp_path: Path
) -> None:
    plain = run(bench, changed(dense.trial, logits=False), tmp_path, keep=True)
    assert plain.key != dense.key
    assert same(plain, dense)
    assert {**plain.files, LOGITS: dense.files[LOGITS]} == dense.files  # weights and scores too
    assert not (plain.folder / LOGITS).exists()
    extra = {name: dense.cost[name] - plain.cost[name] for name in ("flops", "scoring_flops", "tokens")}
    assert extra["flops"] == extra["scoring_flops"] > 0  # what a dense training takes by itself has not changed
    assert load_outcome(dense.folder) is not None


def test_stored_outputs_are_those_of_the_last_weights_in_the_order_of_the_training_set(
    bench: Workbench, dense: Outcome
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    where = dense.trial.model
    model = AutoModelForSequenceClassification.from_pretrained(where, num_labels=2).eval()
    model.load_state_dict(load_file_torch(dense.folder / "weights.safetensors"))
    texts = load_task(dense.trial.tasks[0].source).train.text
    tokenizer = AutoTokenizer.from_pretrained(where)
    with torch.no_grad():
        expected = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).numpy()
    stored = load_file(dense.folder / LOGITS)["logits"]
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=2e-3)
    assert not np.allclose(stored, expected[::-1], rtol=2e-3, atol=2e-3)
    assert (dense.folder / LOGITS).stat().st_size < 4 * expected.nbytes


def load_file_torch(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def task_in(folder: Path, kind: str) -> Task:
    """A task of 40 examples; of the form `spans` their contexts are of different lengths, some in two windows."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 24, rng.integers(3, 9))) for _ in range(40)]
    if kind == "spans":
        longer = [" ".join(texts[row : row + 1 + row % 4]) for row in range(40)]
        asked = [
            {"context": text, "qas": [{"id": "q", "question": "w1 ?", "answers": [{"answer_start": 0, "text": "w"}]}]}
            for text in longer
        ]
        for name in ("train-v1.1.json", "dev-v1.1.json"):
            (folder / name).write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": asked}]}))
        return load_task(TaskSource(task="squad", data=folder))
    labels = {"classes": lambda row: "abc"[row % 3], "labels": lambda row: ["a", "b", "c"][: row % 4], "numbers": float}
    rows = [{"text": text, "label": labels[kind](row)} for row, text in enumerate(texts)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train_file": folder / "train.jsonl", "dev_file": folder / "train.jsonl"}
    return load_task(TaskSource(task="mine", multi_label=kind == "labels", regression=kind == "numbers", **files))


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers", "spans"])
def test_rows_are_matched_with_examples_in_shuffled_batches(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """A student that equals its teacher has no distance from it in any batch; with other rows it has."""
    task, source = task_in(tmp_path, kind), ModelSource(find_model(str(tiny_model)))
    data = encode(task, source.tokenizer, 24)
    recipe, full = Recipe(epochs=1, batch_size=8, max_length=24), Ticket.full(3, 4)

    def trainer(lesson: Lesson | None) -> Trainer:
        model = make_loud(source.build(task.outputs, 0.1, 0, task.form)).eval()
        return Trainer([Learner(data, model, full, lesson)], Plan(recipe), torch.device("cpu"))

    before = trainer(None)
    outputs = before.taught(before.learners[0])
    assert len(outputs) == len(data.train.ids) >= 40
    found = {}
    for name, stored in (("own", outputs), ("permuted", outputs[np.random.default_rng(0).permutation(len(outputs))])):
        student = trainer(Lesson(stored, 1.0, 2.0))
        orders = [rows for _, rows in student._orders[0]]
        assert sorted(np.concatenate(orders)) == list(range(len(outputs))) != list(np.concatenate(orders))
        with torch.no_grad():
            found[name] = max(float(student.passes.losses(student.learners[0], rows, 1).max()) for rows in orders)
    assert found["own"] < 1e-4 < 1e-1 < found["permuted"]


def test_a_part_of_the_training_set_has_its_own_rows(
    bench: Workbench, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    trial = make_trial(tiny_model, words)
    source = trial.tasks[0].source.model_copy(update={"fraction": 0.5})
    part = trial.tasks[0].model_copy(update={"source": source, "data_hash": load_task(source).fingerprint()})
    half, whole = (bench.trainer(Job(changed(trial, tasks=(of,)), tmp_path, False, "x")) for of in (part, *trial.tasks))
    taught = [one.taught(one.learners[0]) for one in (half, whole)]
    places = [load_task(trial.tasks[0].source).train.text.index(text) for text in load_task(source).train.text]
    assert len(places) == 32
    assert places != list(range(32))
    np.testing.assert_allclose(taught[0], taught[1][places], atol=1e-5)
    assert not np.allclose(taught[0], taught[1][:32], atol=1e-3)  # control


def test_the_loss_is_mixed_by_the_weight(bench: Workbench, dense: Outcome, tmp_path: Path) -> None:
    rows, outputs, targets = np.array([5, 3, 60]), some(3, 2).float(), torch.tensor([0, 1, 1])

    def losses(trial: Trial) -> Tensor:
        (learner,) = bench.trainer(Job(trial, tmp_path, False, "x")).learners
        return learner.losses(outputs, targets, rows)

    task = load_task(dense.trial.tasks[0].source)
    own = losses(taught_by(dense, teacher=None))
    assert torch.equal(own, objective_of(task).losses(outputs, targets))  # bit for bit, without a teacher
    stored = torch.from_numpy(load_file(dense.folder / LOGITS)["logits"][rows].astype(np.float32))
    fit = distances(task, outputs, stored, 2.0)
    for weight in (1.0, 0.5, 0.25, 1e-6):
        torch.testing.assert_close(losses(taught_by(dense, weight)), (1 - weight) * own + weight * fit)
    torch.testing.assert_close(losses(taught_by(dense, 1.0)), fit)
    torch.testing.assert_close(losses(taught_by(dense, 1e-6)), own, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(own, fit)


def test_a_teacher_changes_a_training_and_a_wrong_one_changes_it_otherwise(
    bench: Workbench, dense: Outcome, tmp_path: Path
) -> None:
    right = run(bench, taught_by(dense), tmp_path)
    assert same(right, run(bench, taught_by(dense), tmp_path / "again"))
    stored = load_file(dense.folder / LOGITS)["logits"]
    permuted = with_outputs(dense, stored[::-1].copy(), tmp_path / "permuted")
    others = [
        taught_by(dense, 0.25),
        taught_by(dense, temperature=4.0),
        taught_by(permuted),
        taught_by(dense, teacher=None),
    ]
    assert len({taught_by(dense).key, *(trial.key for trial in others)}) == 5
    for trial in others:
        assert not same(right, run(bench, trial, tmp_path))
    assert right.finished
    assert LOGITS not in right.files
    assert json.loads((right.folder / "outcome.json").read_text())["trial"]["teacher"]["trial"] == dense.key


def test_importance_is_that_of_the_tasks_own_loss(bench: Workbench, dense: Outcome, tmp_path: Path) -> None:
    """What a taught ticket is pruned by further on does not ask the teacher."""
    from supertickets.training.scoring import score

    found = []
    stored = load_file(dense.folder / LOGITS)["logits"]
    for teacher in (None, with_outputs(dense, -stored, tmp_path / "other").teacher(1.0, 2.0)):
        trainer = bench.trainer(Job(taught_by(dense, teacher=teacher), tmp_path, False, "x"))
        trainer.state.best = [p.detach().clone() for p in trainer._parameters]
        found.append(score(trainer, ScoringSettings(), lambda: None))  # type: ignore[arg-type, return-value]
    np.testing.assert_array_equal(found[0]["heads"], found[1]["heads"])


def test_a_stopped_taught_training_ends_bit_identical(bench: Workbench, dense: Outcome, tmp_path: Path) -> None:
    trial = taught_by(dense)
    whole = run(bench, trial, tmp_path / "whole", keep=True)
    for until in (0.2, 0.7):
        run(Workbench(device="cpu"), trial, tmp_path / "part", until=until)
    part = run(Workbench(device="cpu"), trial, tmp_path / "part", keep=True)
    assert part.files == whole.files
    assert part.epochs == whole.epochs


def test_outputs_may_come_as_bytes_and_others_are_refused(bench: Workbench, dense: Outcome, tmp_path: Path) -> None:
    here = run(bench, taught_by(dense), tmp_path)
    away = taught_by(replace(dense, folder=tmp_path / "no such folder"))
    assert away.key == here.key
    content = (dense.folder / LOGITS).read_bytes()
    digest = dense.files[LOGITS]
    assert same(here, run(bench, away, tmp_path / "sent", sent={digest: content}))
    with pytest.raises(TicketError, match="outputs that this training learns from were deleted"):
        run(bench, away, tmp_path / "gone")
    with pytest.raises(TicketError, match="outputs that this training learns from have changed"):
        run(bench, away, tmp_path / "other", sent={digest: content[:-1] + b"x"})
    short = with_outputs(dense, load_file(dense.folder / LOGITS)["logits"][:-1], tmp_path / "short")
    with pytest.raises(TicketError, match=r"those on 63 examples; expected 64, as in the training set of task 'words'"):
        run(bench, taught_by(short), tmp_path)


def test_a_machine_of_a_cluster_is_sent_the_outputs(
    bench: Workbench, dense: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = taught_by(dense)
    digest = dense.files[LOGITS]
    assert on_ray._files_of(trial) == {digest: dense.folder / LOGITS}
    assert on_ray._files_of(dense.trial) == {}
    ray = SimpleNamespace(get=lambda value: value)
    monkeypatch.setattr(on_ray, "require_ray", lambda: ray)
    monkeypatch.setattr(on_ray, "_FOLDER", tmp_path / f"{on_ray._PREFIX}x")
    mailbox = SimpleNamespace(put=SimpleNamespace(remote=lambda message: None))
    away = Job(taught_by(replace(dense, folder=tmp_path / "no such folder")), tmp_path / "trials" / "x", False, "x")
    content = (dense.folder / LOGITS).read_bytes()

    def there(sent: dict[str, bytes]) -> tuple[Any, Any]:
        options = {"device": "cpu"}
        return on_ray._run_remotely(away, sent, None, frozenset(), [{}], [{}], options, mailbox)

    message, files = there({digest: content})
    assert message == ("done", trial.key, None)
    here = run(bench, trial, tmp_path)
    name = "predictions.safetensors"
    assert files[f"trials/{trial.key}/{name}"] == (here.folder / name).read_bytes()
    assert there({})[0][0] == "refused"  # control: it cannot be read there


def test_a_trial_says_what_a_teacher_may_be(dense: Outcome) -> None:
    for wrong in ({"weight": 0.0}, {"weight": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ValidationError):
            dense.teacher(**{"weight": 0.5, "temperature": 2.0, **wrong})
    trial = taught_by(dense)
    with pytest.raises(ValidationError, match="one task's training set"):
        changed(trial, tasks=trial.tasks * 2)
    again = Trial.model_validate_json(trial.model_dump_json())
    assert again == trial
    elsewhere = trial.teacher.model_copy(update={"folder": Path("x"), "trial": "y"})
    assert changed(trial, teacher=elsewhere).key == trial.key
    named = dense.trial.model_dump(mode="json")
    assert {"logits", "teacher"} <= named.keys()
    assert "teacher" not in dense.trial.content()


def test_outputs_too_large_for_half_precision_are_stored_whole(dense: Outcome) -> None:
    large = np.array([[1e5, -2.0]], np.float32)
    assert np.array_equal(as_stored(large), large)
    assert as_stored(large / 10).dtype == np.float16
    years = np.array([[1999.6], [2003.4]], np.float32)
    assert np.array_equal(as_stored(years, regression=True), years)
    assert not np.array_equal(as_stored(years), years)  # control


def test_a_teacher_is_found_where_its_study_was_moved_to(dense: Outcome, tmp_path: Path) -> None:
    trial, here = taught_by(dense), tmp_path / "trials" / dense.key
    here.mkdir(parents=True)
    moved = trial.found_in(tmp_path / "trials")
    assert moved.teacher is not None
    assert moved.teacher.folder == here.resolve()
    assert moved.key == trial.key
    assert trial.found_in(tmp_path / "elsewhere") == trial  # control
