"""Adapting trained models to a new task: what they start from, fractions of its training set, steps, misuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers.models import HEADS, LAYERS, save_tiny_model
from helpers.several import SMALL, outcomes
from helpers.study_files import contents
from helpers.trials import write_words
from supertickets.cli import main
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.labels import MT_DNN, TICKET_SHARE
from supertickets.lab import Outcome
from supertickets.lab.jobs import Job
from supertickets.lab.lab import RETRAINED
from supertickets.lab.outcome import PREDICTIONS, WEIGHTS, load_outcome
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.studies.adapt import Origin
from supertickets.studies.folder import status
from supertickets.studies.plan import plan_study
from supertickets.studies.report import report
from supertickets.studies.run import Result, run_study
from supertickets.studies.study import INPUTS
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.training import dropout
from supertickets.training.dropout import keyed_mask


@pytest.fixture(scope="module")
def asked(places: dict[str, Path], shared: Result) -> dict[str, Any]:
    """What a study of `adapt` of all four models is asked for, all but its folder."""
    files = {
        name: write_words(places["folder"] / f"new-{name}.jsonl", size, seed)
        for seed, (name, size) in enumerate((("train_file", 60), ("dev_file", 30)), start=11)
    }
    return SMALL | {"sources": (places["words"], shared.folder), "fractions": (0.2, 30), "task": "new", **files}


@pytest.fixture(scope="module")
def adapted(places: dict[str, Path], asked: dict[str, Any]) -> Result:
    return run_study("adapt", asked, out=places["folder"] / "adapt")


def the_adapted(result: Result) -> list[Outcome]:
    """The outcomes that began from trained weights, by key: not those of models that were trained again."""
    return [outcome for outcome in outcomes(result.folder) if outcome.trial.start is not None]


def test_a_study_of_adapt(adapted: Result, shared: Result) -> None:
    runs, tickets = adapted.table, shared.findings.tickets
    assert set(runs["status"]) == {"finished"}
    assert list(runs["kind"].unique()) == ["WORDS-ST-DNN", "WORDS-SuperT", MT_DNN, TICKET_SHARE]
    assert sorted(runs["examples"].unique()) == [12, 30]
    assert len(runs) == 4 * 2 * 2
    kept = runs.drop_duplicates("kind").set_index("kind")["heads"]
    union = tickets["words"] | tickets["lengths"]
    assert kept.to_dict() == {
        "WORDS-ST-DNN": LAYERS * HEADS,
        "WORDS-SuperT": tickets["words"].kept_heads,
        MT_DNN: LAYERS * HEADS,
        TICKET_SHARE: union.kept_heads,
    }
    assert list(adapted.findings.table.columns) == ["12 examples", "30 examples"]
    assert adapted.report.is_file()
    assert status(adapted.folder)["done"] == 16 + 4
    # Of `find` the models were trained again, as it kept no weights; those of `share` were taken as they are.
    trained = [outcome for outcome in outcomes(adapted.folder) if outcome.trial.start is None]
    assert sorted(len(outcome.trial.tasks) for outcome in trained) == [1, 1, 2, 2]
    for outcome in trained:
        theirs = load_outcome(shared.folder / "trials" / outcome.key)
        assert (len(outcome.trial.tasks) == 2) == (theirs is not None)
        assert theirs is None or theirs.cost == outcome.cost  # down to the seconds: it is the same training
    assert not list((adapted.folder / "trials").glob(f"*/{WEIGHTS}"))


def test_default_fractions_without_an_example_are_left_out(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.1 % of a small task is no example: where nobody asked for it, the rest is run, and it is said."""
    few = {name: value for name, value in asked.items() if name != "fractions"}
    plan = plan_study("adapt", few | {"seeds": 1, "out": tmp_path / "out"}, quiet=False)
    said = capsys.readouterr().err
    assert "--fractions: 0.001, 0.01 left out: fewer than 2 of 60 training examples of task 'new'." in said
    assert sorted(plan.steps["examples"].dropna().unique()) == [6, 60]
    with pytest.raises(TicketError, match=r"--fractions 0\.001: it leaves 0 of 60"):
        plan_study("adapt", few | {"fractions": (0.001, 1.0), "out": tmp_path / "out"})


def test_fractions_are_nested_and_recorded(adapted: Result) -> None:
    texts: dict[int, set[str]] = {}
    for outcome in the_adapted(adapted):
        (task,) = outcome.trial.tasks
        train = load_task(task.source).train
        texts[len(train)] = set(train.text)
        assert task.source.fraction_seed == 0
    assert texts[12] < texts[30]


def test_adapting_starts_from_the_trained_encoder_with_a_new_output_layer(adapted: Result, tmp_path: Path) -> None:
    """The start decides: the same ticket, data, recipe and seed from pre-trained weights come out otherwise."""
    found = the_adapted(adapted)
    assert len({outcome.trial.start.weights for outcome in found}) == 4
    assert all(outcome.trial.start.output_layer is None for outcome in found)
    whole = [o for o in found if o.trial.ticket.is_full and o.trial.seed == 0]
    one = next(o for o in whole if (o.trial.start.folder / WEIGHTS).is_file())
    (task,) = one.trial.tasks
    same_data = [o for o in whole if o.key != one.key and o.trial.tasks[0].data_hash == task.data_hash]
    assert same_data
    bench = Workbench(device="cpu")
    pretrained = bench.run(Job(one.trial.but(start=None), tmp_path / "x", False, "x"), lambda event: None)
    for other in (*same_data, pretrained):
        assert [epoch["loss"] for epoch in other.epochs] != [epoch["loss"] for epoch in one.epochs]
    (learner,) = bench.trainer(Job(one.trial, tmp_path / "x", False, "x")).learners
    begun, trained = learner.model.state_dict(), load_file(one.trial.start.folder / WEIGHTS)
    labels, source = load_task(task.source).outputs, ModelSource(find_model(one.trial.model))
    new = source.build(labels, one.trial.dropout(0), one.trial.seed).state_dict()
    rows = begun.pop("bert.embeddings.word_embeddings.weight")  # those of words that the task has
    assert set(map(tuple, rows.tolist())) <= set(map(tuple, trained["bert.embeddings.word_embeddings.weight"].tolist()))
    for name, tensor in begun.items():
        assert torch.equal(tensor, (trained if name.startswith("bert.") else new)[name]), name
    assert not any(torch.equal(trained[name], new[name]) for name in new if "attention.self.query.weight" in name)


def test_adapting_again_trains_nothing_and_needs_no_weights(
    adapted: Result, asked: dict[str, Any], shared: Result, tmp_path: Path
) -> None:
    before = contents(adapted.folder)
    kept = list((shared.folder / "trials").glob(f"*/{WEIGHTS}"))
    assert len(kept) == 4
    away = [(path, tmp_path / f"{i}") for i, path in enumerate(kept)]
    for path, place in away:
        shutil.move(path, place)
    try:
        run_study("adapt", asked, out=adapted.folder)
    finally:
        for path, place in away:
            assert not path.exists()
            shutil.move(place, path)
    assert contents(adapted.folder) == before
    report([adapted.folder])
    assert contents(adapted.folder) == before


def test_a_dry_run_of_adapt_without_trained_weights_measures_a_model_that_is_trained_again(
    places: dict[str, Path], shared: Result, asked: dict[str, Any], tmp_path: Path
) -> None:
    source = shutil.copytree(places["words"], tmp_path / "source")
    for path in source.glob(f"trials/*/{WEIGHTS}"):
        path.unlink()
    plan = plan_study("adapt", asked | {"sources": (source,)}, out=tmp_path / "out")
    assert plan.flops > 0
    assert plan.seconds > 0
    assert "trained again first, as their weights were not kept: WORDS-ST-DNN" in plan.sentence()
    assert plan_study("adapt", asked | {"sources": (shared.folder,)}, out=tmp_path / "out").note == ""  # control
    assert not (tmp_path / "out").exists()
    few = {"sources": (source,), "fractions": (12,), "seeds": 1}
    again = plan_study("adapt", asked | few, out=tmp_path / "out").flops
    adapted = run_study("adapt", asked | few, out=tmp_path / "out")
    taken = sum(outcome.cost["flops"] for outcome in outcomes(adapted.folder))
    models = sum(outcome.cost["flops"] for outcome in outcomes(adapted.folder) if outcome.trial.start is None)
    assert models > taken / 2  # so that a plan without them is far too low
    assert again == pytest.approx(taken, rel=0.5)


def test_copies_of_models_are_called_by_their_weights(tmp_path: Path) -> None:
    """Names are paths, and may be alike in more letters than a folder's name has."""
    full = Ticket.full(2, 2)
    one, other = (
        Origin(name=f"/{'x' * 100}/{end}", ticket=full, weights=end * 64).copied(tmp_path) for end in ("a", "b")
    )
    assert one != other


def test_a_study_in_which_no_model_could_be_adapted_fails(
    places: dict[str, Path], words: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    asked = SMALL | {"seeds": 1, "epochs": 1, "fractions": (12,), "task": "again", "sources": places["words"], **words}
    with pytest.raises(StudyError, match="no adaptation finished: the loss became"):
        run_study("adapt", asked, learning_rate=1e30, out=tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(table["status"]) == {"diverged"}
    assert any(outcome.finished for outcome in outcomes(tmp_path / "out"))  # the models that it begins with


@pytest.mark.parametrize(
    ("damage", "message"),
    [(None, "created with different models to adapt; choose"), ("[1]", "is damaged"), ("null", "is damaged"),
     ("{}", "is damaged"), ('{"origins": [1]}', "is damaged"), ("{", "is damaged")],
)  # fmt: skip
def test_a_folder_of_other_models_is_refused(
    damage: str | None, message: str, adapted: Result, asked: dict[str, Any], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapted.folder, tmp_path / "copy")
    if damage is None:
        whole = json.loads((copy / INPUTS).read_text())
        whole["origins"][0]["trial"]["seed"] = 7
        damage = json.dumps(whole)
    (copy / INPUTS).write_text(damage)
    before = contents(copy)
    with pytest.raises(TicketError, match=message):
        run_study("adapt", asked, out=copy)
    assert contents(copy) == before


def test_a_shared_model_adapts_with_one_tasks_ticket(shared: Result, asked: dict[str, Any], tmp_path: Path) -> None:
    change = {"seeds": 1, "epochs": 1, "sources": (shared.folder,), "fractions": (12,), "ticket_of": "Lengths"}
    result = run_study("adapt", asked | change, out=tmp_path / "out")
    heads = result.table.set_index("kind")["heads"]
    assert heads.to_dict() == {MT_DNN: LAYERS * HEADS, TICKET_SHARE: shared.findings.tickets["lengths"].kept_heads}
    assert "With one seed, intervals and p are over dev examples alone" in result.verdict


def test_the_trained_output_layer_may_go_on(
    shared: Result, places: dict[str, Path], words: dict[str, Path], tmp_path: Path
) -> None:
    """With a learning rate of almost zero, the adapted model says what the trained one said: output layer and all."""
    still = SMALL | {"seeds": 1, "epochs": 1, "learning_rate": 1e-12, "fractions": (12,), "task": "again", **words}

    def outputs(source: Path, name: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        result = run_study("adapt", still, sources=source, out=tmp_path / name, **options)
        found, expected = [], []
        for after in the_adapted(result):
            assert after.trial.start is not None
            before = load_outcome(after.trial.start.folder)
            assert before is not None
            assert [task.source.task for task in before.trial.tasks][after.trial.start.output_layer or 0] == "words"
            found.append(after.predictions()["dev"][0])
            expected.append(before.predictions(after.trial.start.output_layer or 0)["dev"][before.best_epoch - 1])
        assert len(found) == 2
        return np.stack(found), np.stack(expected)

    found, expected = outputs(places["words"], "trained", output_layer="trained")
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected).max() > 1e-2
    found, expected = outputs(shared.folder, "shared", output_layer="trained", ticket_of="words")
    # MT-DNN, and Ticket-Share with the ticket under which that output layer was trained
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    found, expected = outputs(shared.folder, "new", ticket_of="words")  # control
    assert np.abs(found - expected).max(axis=(1, 2)).min() > 1e-2


def test_few_examples_get_the_steps_that_are_asked_for(
    adapted: Result, places: dict[str, Path], words: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    asked = SMALL | {"seeds": 1, "patience": 1, "task": "again", "sources": places["words"], **words}
    result = run_study("adapt", asked, fractions=(12, 30, 64), least_steps=15, out=tmp_path / "least", quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "With 12 examples a training has up to 8 epochs, and at least 15 steps (--least-steps)." in said
    assert "With 30 examples a training has up to 4 epochs, and at least 15 steps (--least-steps)." in said
    assert "With 64 examples" not in said  # 3 epochs of 8 steps, of which early stopping ends none before the second
    for outcome in the_adapted(result):
        count = len(load_task(outcome.trial.tasks[0].source).train)
        steps = len(outcome.epochs) * -(-count // 8)
        assert steps >= 15, count
        assert (outcome.trial.recipe.epochs, outcome.trial.recipe.patience) == {
            12: (8, 7), 30: (4, 3), 64: (3, 1),
        }[count]  # fmt: skip
    longer = "trainings had up to {} epochs instead of 3, so that each has at least 15 update steps."
    assert f"With 12 examples, {longer.format(8)} With 30 examples, {longer.format(4)}" in result.verdict
    assert "With 64 examples" not in result.verdict
    assert longer.format(8) in result.report.read_text()
    assert {outcome.trial.recipe.epochs for outcome in the_adapted(adapted)} == {3}  # control: as by default
    assert "update steps" not in adapted.verdict


# --- weights that are gone --------------------------------------------------------------------------------------------


def test_weights_trained_again_leave_other_studies_as_they_are(
    places: dict[str, Path], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models whose weights were not kept are trained in the study's own folder, whatever comes out."""
    source, change = places["words"], {"seeds": 1, "epochs": 1, "fractions": (12,), "sources": places["words"]}
    assert not list(source.rglob(WEIGHTS))
    before = contents(source)
    same = run_study("adapt", asked | change, out=tmp_path / "same")
    assert contents(source) == before
    models = [outcome for outcome in outcomes(same.folder) if outcome.trial.start is None]
    assert [(source / "trials" / model.key).is_dir() for model in models] == [True, True]
    theirs = {outcome.key: outcome for outcome in outcomes(source)}
    assert all(model.files[PREDICTIONS] == theirs[model.key].files[PREDICTIONS] for model in models)
    with monkeypatch.context() as patched:  # on another machine a training may come out otherwise
        patched.setattr(dropout, "keyed_mask", lambda key, *more: keyed_mask((1, *key), *more))
        other = run_study("adapt", asked | change, out=tmp_path / "other")
        assert contents(source) == before
        again = {outcome.key: outcome for outcome in outcomes(other.folder)}
        assert all(model.files[WEIGHTS] != again[model.key].files[WEIGHTS] for model in models)
        # A study that began from the first weights cannot go on from others.
        for outcome in the_adapted(same):
            (outcome.folder / "outcome.json").unlink()
        with pytest.raises(StudyError, match="training again did not reproduce them"):
            run_study("adapt", asked | change, out=same.folder)
        assert not list((same.folder / RETRAINED).glob(f"*/{WEIGHTS}"))
    for model in models:
        assert not (model.folder / WEIGHTS).exists()
    assert not run_study("adapt", asked | change, out=same.folder).failures  # control: on this machine it goes on


def test_weights_are_not_trained_again_on_other_examples(tiny_model: Path, tmp_path: Path) -> None:
    files = {
        name: write_words(tmp_path / f"{name}.jsonl", 24, seed) for seed, name in enumerate(("train_file", "dev_file"))
    }
    asked = SMALL | {"seeds": 1, "epochs": 1, "task": "first", "model": str(tiny_model), **files}
    found = run_study("find", asked, levels=(0.4,), kinds=("winning",), keep="none", out=tmp_path / "find")
    new = {name: write_words(tmp_path / f"new-{name}.jsonl", 24, 7) for name in files}
    settings = asked | new | {"task": "new", "fractions": (12,), "sources": found.folder}
    content = files["train_file"].read_text()
    write_words(files["train_file"], 24, 9)
    message = "FIRST-ST-DNN were not kept, so it must be trained again, but the examples of task 'first' have changed"
    with pytest.raises(TicketError, match=message):
        run_study("adapt", settings, out=tmp_path / "adapt")
    assert not (tmp_path / "adapt").exists()
    files["train_file"].write_text(content)  # control: with its own examples it goes on
    assert not run_study("adapt", settings, out=tmp_path / "adapt").failures


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_adapt(places: dict[str, Path], shared: Result, adapted: Result, tmp_path: Path, capsys: Any) -> None:
    new = ["--task", "new", "--train-file", str(places["folder"] / "new-train_file.jsonl")]
    run = ["--sources", str(shared.folder)]
    graded = write_words(tmp_path / "graded.jsonl", 30, 5, lambda w: len(w) / 9)
    half, trained = ("--fractions", "0.5"), ("--output-layer", "trained")
    real = ["--task", "new", "--train-file", str(graded), "--regression", "--fractions", "20"]
    wrong = save_tiny_model(tmp_path / "wrong", seed=3)
    capsys.readouterr()
    cases: dict[tuple[str, ...], str] = {
        (*new,): "--sources: name the folder",
        (
            *new,
            "--sources",
            str(adapted.folder),
        ): f"--sources {adapted.folder}: a study of `adapt` has no models to adapt; expected `find` or `share`",
        (*new, "--sources", str(tmp_path)): f"--sources {tmp_path}: there is no study in it",
        (*new, "--sources", str(tmp_path / "nowhere")): f"Error: --sources {tmp_path / 'nowhere'}: no such folder.",
        (*new, "--sources", str(shared.shipped["model"])): f"it belongs to the study in {shared.folder}",
        (*run,): "--task: name the task to adapt to",
        (*new, *run, *run): "two of them have a model called MT-DNN",
        (*new, *run, "--model", str(wrong)): "its base model is not",
        (*new, *run, "--fractions", "0.001"): "--fractions 0.001: it leaves 0 of",
        (*new, *run, "--fractions", "5000"): "5000 examples requested",
        (*new, *run, "--fractions", "-1"): "--fractions: expected fractions",
        (*new, *run, "--fractions", "2.5"): "--fractions: expected fractions",
        (*new, *run, "--fractions", "inf"): "--fractions",
        (*new, *run, "--fractions", "nan"): "--fractions",
        (*new, *run, *half, "--ticket-of", "word"): "did you mean 'words'",
        (*new, *run, *half, *trained): "choose one with --ticket-of (words, lengths).",
        (*new, *run, *half, *trained, "--ticket-of", "lengths"): "has the labels 0, 1, 2, 'new' the labels 0, 1;",
        (*real, "--sources", str(places["words"]), *trained): "'new' a real number as target; expected",
        (*new, *run, "--output-layer", "old"): "--output-layer: unknown value 'old'; expected one of new, trained.",
        (*new, *run, "--least-steps", "-1"): "--least-steps",
        (
            "--task",
            "mlm",
            *run,
            "--fractions",
            "0.5",
            "--least-steps",
            "9",
        ): "which is trained on blocks of text",
        (
            *new,
            "--sources",
            str(places["words"]),
            "--ticket-of",
            "words",
        ): "none of the --sources is a study of `share`",
        (*run, "--task", "snli"): "name the folder of its files with --data",
    }
    for arguments, message in cases.items():
        out = tmp_path / "out"
        assert main(["adapt", *arguments, "--out", str(out)]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1
        assert not out.exists()


def test_the_command_speaks(adapted: Result, shared: Result, capsys: Any) -> None:
    assert main(["adapt", "--config", str(adapted.folder / "settings.yaml")]) == 0
    assert "Table 4" in capsys.readouterr().out
    assert main(["report", str(adapted.folder)]) == 0
    assert main(["report", str(adapted.folder), str(shared.folder)]) == 2
    assert "report studies of `adapt` one at a time" in capsys.readouterr().err
    assert main(["status", str(adapted.folder)]) == 0
    assert "finished" in capsys.readouterr().out
