"""The main job, end to end, on a tiny model and a task of random words."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoModel, AutoModelForSequenceClassification

import supertickets
from helpers.drawing import ranked
from helpers.models import HEADS, LAYERS, save_tiny_model
from helpers.process import process
from helpers.study_files import contents, super_ticket
from helpers.weight_records import run, task_info
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.runs import TASKS, load_tasks, runs_table
from supertickets.evidence.selection import select_super
from supertickets.lab import Lab, Trial
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import load_outcome, save_outcome
from supertickets.lab.steps import Run, Step
from supertickets.lab.trial import TaskTicket
from supertickets.lab.workbench import Workbench
from supertickets.studies.config import settings_in
from supertickets.studies.run import Result
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import normalise_by_layer
from supertickets.training.recipe import Recipe

SMALL: dict[str, Any] = {
    "task": "words",
    "levels": (0.2, 0.5),
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
}
ONE_TICKET: dict[str, Any] = {"seeds": 1, "epochs": 1, "levels": (0.5,), "kinds": ("winning",)}


@pytest.fixture(scope="module")
def done(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return supertickets.find(SMALL, model=str(tiny_model), out=tmp_path_factory.mktemp("study") / "out", **words)


def test_leaves_everything_in_the_folder(done: Result) -> None:
    assert {path.name for path in done.folder.iterdir() if path.name != ".lock"} == {
        "settings.yaml", "study.safetensors", "machine.json", "results.csv", "report.html", "tables", "super-ticket",
        "trials", "looks",
    }  # fmt: skip
    table = pd.read_csv(done.folder / "results.csv")
    assert table["score"].nunique() > 3  # else the tests below could not tell right from wrong
    assert len(table) == 2 * (1 + 2 * 3)
    assert (table["status"] == "finished").all()
    assert set(table.columns) >= {"score", "accuracy", "parameters", "flops", "tokens", "seconds", "remaining"}
    dense = table[table["kind"] == "dense"]
    assert (dense["remaining"] == 1.0).all()
    by_level = table[table["kind"] == "winning"].groupby("level")[["parameters", "flops"]].mean()
    assert by_level.loc[0.5, "parameters"] < by_level.loc[0.2, "parameters"] < dense["parameters"].mean()
    assert by_level.loc[0.5, "flops"] < by_level.loc[0.2, "flops"] < dense["flops"].mean()
    settings = yaml.safe_load((done.folder / "settings.yaml").read_text())
    assert settings["epochs"] == SMALL["epochs"]
    assert settings["optimizer"] == "adamax"  # filled in, not asked for


def test_every_trial_keeps_its_evidence(done: Result, words: dict[str, Path]) -> None:
    task = load_task(TaskSource(task="words", **words))
    folders = list((done.folder / "trials").iterdir())
    with Lab(done.folder) as lab:
        for row in done.table.itertuples():
            outcome = lab.remembered(read_trial(done.folder / "trials" / row.trial))
            assert outcome is not None
            predictions = outcome.predictions()["dev"]
            assert predictions.shape == (len(outcome.epochs), len(task.dev), 2)
            for epoch, logits in zip(outcome.epochs, predictions, strict=True):  # the metrics are those of the outputs
                accuracy = 100 * np.mean(logits.argmax(axis=1) == task.dev.targets)
                assert epoch["metrics"]["words"]["dev"]["accuracy"] == pytest.approx(accuracy)
            assert outcome.score == max(epoch["score"] for epoch in outcome.epochs)
            if row.kind == "dense":
                assert outcome.scores()["heads"].shape == (LAYERS, HEADS)
    assert sum((folder / "weights.safetensors").is_file() for folder in folders) == 1  # the super ticket's only


def read_trial(folder: Path) -> Trial:
    return Trial.model_validate(json.loads((folder / "outcome.json").read_text())["trial"])


def test_tickets_are_drawn_from_their_own_seeds_scores(done: Result) -> None:
    with Lab(done.folder) as lab:
        for row in done.table[done.table["kind"].isin(["winning", "losing"])].itertuples():
            (dense,) = done.table[(done.table["kind"] == "dense") & (done.table["seed"] == row.seed)]["trial"]
            heads, ffns = lab.remembered(read_trial(done.folder / "trials" / dense)).scores().values()
            expected = ranked(normalise_by_layer(heads), ffns, row.level, row.kind)
            assert read_trial(done.folder / "trials" / row.trial).ticket == expected


def test_the_super_ticket_is_the_best_winning_one_and_loads(done: Result, words: dict[str, Path]) -> None:
    winning = done.table[done.table["kind"] == "winning"]
    shared = supertickets.load_ticket(done.shipped["ticket"])
    assert shared.origin["score"] == winning["score"].max()
    assert shared.ticket == super_ticket(done)
    model = AutoModelForSequenceClassification.from_pretrained(done.shipped["ticket"] / "model").eval()
    (row,) = winning[winning["trial"] == shared.origin["trial"]].itertuples()
    assert model.num_parameters() == row.parameters
    # It predicts what the trial predicted at its best epoch.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(done.shipped["ticket"] / "model")
    task = load_task(TaskSource(task="words", **words))
    with torch.no_grad():
        logits = model(**tokenizer(task.dev.text, return_tensors="pt", padding=True, truncation=True)).logits.numpy()
    with Lab(done.folder) as lab:
        outcome = lab.remembered(read_trial(done.folder / "trials" / row.trial))
    np.testing.assert_allclose(logits, outcome.predictions()["dev"][outcome.best_epoch - 1], atol=1e-5)
    assert model.config.id2label == {0: "0", 1: "1"}


def test_rewinding_starts_from_the_pretrained_weights(done: Result, tiny_model: Path, tmp_path: Path) -> None:
    """What the study's own trial of the super ticket begins with: the base model's weights, the dense output layer."""
    bench, ticket = Workbench("cpu"), super_ticket(done)

    def begun(trial: str) -> dict[str, torch.Tensor]:
        job = Job(read_trial(done.folder / "trials" / trial), tmp_path / trial, False, "a run")
        return bench.trainer(job).learners[0].model.state_dict()

    origin = supertickets.load_ticket(done.shipped["ticket"]).origin
    dense = done.table[done.table["kind"] == "dense"].set_index("seed")["trial"]
    (seed,) = done.table[done.table["trial"] == origin["trial"]]["seed"]
    small, whole, other = (begun(trial) for trial in (origin["trial"], dense[seed], dense[1 - seed]))
    pretrained = AutoModel.from_pretrained(tiny_model).state_dict()
    value, kept = "encoder.layer.0.attention.self.value.weight", torch.from_numpy(np.repeat(ticket.heads[0], 8))
    assert torch.equal(small[f"bert.{value}"], pretrained[value][kept])
    embeddings = "embeddings.position_embeddings.weight"  # of words only those of the task are trained
    assert torch.equal(small[f"bert.{embeddings}"], pretrained[embeddings])
    assert torch.equal(small["classifier.weight"], whole["classifier.weight"])
    assert not torch.equal(small["classifier.weight"], other["classifier.weight"])  # control: another seed's is another


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_study_that_says_how_often_all_layers_are_applied_is_read(repeats: int, done: Result, tmp_path: Path) -> None:
    """As files had it before layers could be applied unequally often."""
    path = done.folder / TASKS
    with safe_open(path, framework="numpy") as file:
        (words,), arrays = json.loads(file.metadata()["tasks"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert words["shape"].pop("applied") == []
    words["shape"]["repeats"] = repeats
    save_file(arrays, tmp_path / TASKS, metadata={"tasks": json.dumps([words])})
    (found,), (now,) = load_tasks(tmp_path), load_tasks(done.folder)
    assert found.shape == replace(now.shape, applied=() if repeats == 1 else (2,) * now.shape.layers)


def test_the_same_command_gives_the_same_bytes(
    done: Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    again = supertickets.find(SMALL, model=str(tiny_model), out=tmp_path / "again", **words)
    assert contents(again.folder) == contents(done.folder)
    dense = {name: value for name, value in SMALL.items() if name != "levels"} | {"kinds": ()}
    other = supertickets.find(dense, model=str(tiny_model), out=tmp_path / "other", first_seed=5, seeds=1, **words)
    assert not set(other.table["trial"]) & set(done.table["trial"])
    outputs = []
    for study in (other, done):  # control: another seed's are others; scores of two seeds may be equal by chance
        outcome = load_outcome(study.folder / "trials" / study.table["trial"].iloc[0])
        assert outcome is not None
        assert outcome.trial.ticket.is_full
        outputs.append(outcome.predictions()["dev"])
    assert outputs[0].shape == outputs[1].shape
    assert not np.array_equal(*outputs)


class Counting(Workbench):
    """A workbench that counts the trials it runs."""

    ran: list[str] = []  # noqa: RUF012

    def run(self, job: Job, report: Any) -> Any:
        Counting.ran.append(job.trial.key)
        return super().run(job, report)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("supertickets.lab.workbench.Workbench", Counting)
    Counting.ran = []
    return Counting.ran


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tables and page as they are: of studies that are opened again nobody looks at them."""
    monkeypatch.setattr("supertickets.studies.run.write_findings", lambda *_: None)


@pytest.mark.usefixtures("no_page")
def test_settings_may_come_from_a_file(done: Result, counting: list[str]) -> None:
    assert supertickets.find(done.folder / "settings.yaml").table.equals(done.table)
    assert supertickets.find(str(done.folder / "settings.yaml")).verdict == done.verdict
    assert counting == []


@pytest.mark.usefixtures("no_page")
def test_a_finished_study_opens_without_its_model_being_built(
    done: Result, tmp_path: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was understood of the same model and data is in the folder; of other data nothing is, so it is asked."""
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    description = load_tasks(copy)[0].description
    asked = dict(SMALL, model=done.settings.model, **words)

    def built(*of: object) -> None:
        raise AssertionError("the model is built")

    monkeypatch.setattr("supertickets.models.ModelSource", built)
    assert supertickets.find(asked, out=copy).table.equals(done.table)
    assert load_tasks(copy)[0].description == description != ()
    (copy / "results.csv").unlink()  # the control has not ended
    with pytest.raises(AssertionError, match="the model is built"):
        supertickets.find(asked, out=copy)


def test_what_is_done_is_not_run_again(
    done: Result, counting: list[str], tmp_path: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    asked = dict(SMALL, model=done.settings.model, out=copy, **words)
    with monkeypatch.context() as patch:
        patch.setattr("supertickets.studies.run.write_findings", lambda *_: None)
        assert supertickets.find(asked).table.equals(done.table)
    assert counting == []
    # A trial without its outcome, one with a damaged file and one with half an outcome run again; no other does.
    random, winning, losing = (
        done.table[done.table["kind"] == kind]["trial"].iloc[0] for kind in ("random", "winning", "losing")
    )
    (copy / "trials" / random / "outcome.json").unlink()
    predictions = copy / "trials" / winning / "predictions.safetensors"
    predictions.write_bytes(predictions.read_bytes()[:-1] + b"\x00")
    outcome = copy / "trials" / losing / "outcome.json"
    outcome.write_text(outcome.read_text()[:-100])
    supertickets.find(asked)
    assert sorted(counting) == sorted([random, winning, losing])
    assert contents(copy) == contents(done.folder)


def test_a_super_ticket_whose_weights_are_gone_is_trained_again(
    done: Result, counting: list[str], tmp_path: Path, words: dict[str, Path]
) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    shutil.rmtree(copy / "super-ticket")
    trial = supertickets.load_ticket(done.shipped["ticket"]).origin["trial"]
    (copy / "trials" / trial / "weights.safetensors").unlink()
    supertickets.find(SMALL, model=done.settings.model, out=copy, **words)
    assert counting == [trial]
    assert contents(copy) == contents(done.folder)


def test_a_folder_of_other_settings_is_refused(done: Result, words: dict[str, Path]) -> None:
    before = contents(done.folder)
    with pytest.raises(TicketError, match=r"created with different settings: --batch-size was 8 and is now 4"):
        supertickets.find(dict(SMALL, batch_size=4), model=done.settings.model, out=done.folder, **words)
    assert contents(done.folder) == before


def test_a_folder_of_other_things_is_refused(tmp_path: Path, tiny_model: Path, words: dict[str, Path]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(TicketError, match="the folder is not empty"):
        supertickets.find(SMALL, model=str(tiny_model), out=tmp_path, **words)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_data_that_changed_are_another_study(done: Result, tmp_path: Path, words: dict[str, Path]) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    lines = words["train_file"].read_text().splitlines()
    changed = tmp_path / "train.jsonl"
    changed.write_text("\n".join([lines[0].replace("w", "w1"), *lines[1:]]))
    task = load_task(TaskSource(task="words", train_file=changed, dev_file=words["dev_file"]))
    assert task.fingerprint() != load_task(TaskSource(task="words", **words)).fingerprint()
    before = contents(copy)
    with pytest.raises(
        TicketError, match=rf"this folder's study has different examples \(--train-file was .* and is now {changed}\)"
    ):
        supertickets.find(SMALL, model=done.settings.model, out=copy, train_file=changed, dev_file=words["dev_file"])
    other = save_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(
        TicketError, match=rf"this folder's study has different weights \(--model was .* and is now {other}\)"
    ):
        supertickets.find(SMALL, model=str(other), out=copy, **words)
    assert contents(copy) == before


@pytest.mark.usefixtures("no_page")
def test_the_same_study_from_other_places_goes_on(
    done: Result, counting: list[str], tmp_path: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a study is about is known by hashes: other spellings of a path and moved or copied files change nothing."""
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    moved = {name: Path(shutil.copy(path, tmp_path / f"moved-{path.name}")) for name, path in words.items()}
    shutil.copytree(done.settings.model, tmp_path / "m" / "bert")
    monkeypatch.chdir(tmp_path)
    places = [("m/bert", words), ("m/bert", moved)]  # the others go back to the files of before
    places += [(model, words) for model in ("m/bert/", "./m/bert", str(tmp_path / "m" / "bert"), "m/../m/bert")]
    for model, files in places:
        again = supertickets.find(SMALL, model=model, out=copy, **files)
        assert counting == []
        assert again.table.equals(done.table)
        recorded = settings_in(copy)
        assert (recorded.model, recorded.train_file) == (model, files["train_file"])  # type: ignore[attr-defined]
        assert load_tasks(copy)[0].source.train_file == files["train_file"]
    assert contents(copy).keys() == contents(done.folder).keys()


@pytest.mark.usefixtures("no_page")
def test_a_config_or_tokenizer_that_changed_is_another_study(
    done: Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    """The weights are the same and so are the examples; what a training would give is not."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    supertickets.find(
        SMALL, model=str(model), out=shutil.copytree(done.folder, tmp_path / "same"), **words
    )  # the control goes on
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(TicketError, match="has different model files"):
        supertickets.find(SMALL, model=str(model), out=tmp_path / "same", **words)
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["Renamed"]}))
    supertickets.find(SMALL, model=str(model), out=tmp_path / "same", **words)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TicketError, match="has different model files"):
        supertickets.find(SMALL, model=str(model), out=tmp_path / "same", **words)


def test_a_diverged_trial_does_not_end_the_study(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supertickets.training.loop import Trainer

    step = Trainer._step

    def breaking(self: Trainer, which: int, rows: Any) -> torch.Tensor:
        loss, learner = step(self, which, rows), self.learners[which]
        return loss if learner.ticket.is_full or learner.ticket.kept_ffns == LAYERS - 1 else loss * float("nan")

    monkeypatch.setattr(Trainer, "_step", breaking)
    result = supertickets.find(SMALL, model=str(tiny_model), out=tmp_path / "out", seeds=1, epochs=1, **words)
    diverged = result.table[result.table["status"] == "diverged"]
    assert set(diverged["level"]) == {0.5}
    assert diverged["score"].isna().all()
    assert not super_ticket(result).is_full
    reason = json.loads((result.folder / "trials" / diverged["trial"].iloc[0] / "outcome.json").read_text())["reason"]
    assert "the loss became nan at step 1" in reason
    assert "diverged" in result.report.read_text()


def test_no_dense_training_finished(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no dense training finished: the loss became"):
        supertickets.find(
            dict(SMALL, learning_rate=1e30), model=str(tiny_model), out=tmp_path / "out", seeds=1, **words
        )


def test_a_trial_that_breaks_is_named_and_the_rest_goes_on(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Workbench.run

    def breaking(self: Workbench, job: Job, report: Any) -> Any:
        if not job.trial.ticket.is_full and job.trial.ticket.kept_ffns == LAYERS - 2:
            raise OSError("the disk is gone")
        return run(self, job, report)

    monkeypatch.setattr(Workbench, "run", breaking)
    asked = dict(SMALL, model=str(tiny_model), out=tmp_path / "out", seeds=1, epochs=1, **words)
    result = supertickets.find(asked)
    failed = result.table[result.table["status"] == "failed"]
    assert set(result.failures) == {f"{kind} 0.5 seed 0" for kind in ("winning", "random", "losing")}
    assert len(failed) == 3
    assert all("the disk is gone" in reason for reason in result.failures.values())
    monkeypatch.setattr(Workbench, "run", run)
    again = supertickets.find(asked)
    assert not again.failures
    assert (again.table["status"] == "finished").all()


def test_level_zero_is_the_dense_run(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    asked = dict(SMALL, levels=(0.0, 0.5), seeds=1, epochs=1)
    result = supertickets.find(asked, model=str(tiny_model), out=tmp_path / "out", **words)
    assert (result.table["level"] == 0).sum() == 4  # the dense run's row and one of each kind
    assert result.table[result.table["level"] == 0]["trial"].nunique() == 1


def test_the_dense_run_is_never_the_super_ticket(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    """Neither at level 0 nor at one so low that nothing goes, though it scores best: in table, folder and page."""
    asked = dict(SMALL, model=str(tiny_model), epochs=4, seeds=1, first_seed=1, kinds=("winning",), **words)
    result = supertickets.find(asked, out=tmp_path / "out", levels=(0.0, 0.01, 0.5))
    scores = result.table.set_index(["kind", "level"])["score"]
    dense, pruned = scores["dense", 0.0], scores["winning", 0.5]
    assert scores["winning", 0.0] == scores["winning", 0.01] == dense > pruned  # control: it would be chosen
    assert supertickets.load_ticket(result.shipped["ticket"]).origin["level"] == 0.5
    assert not super_ticket(result).is_full
    assert f"({pruned:.2f} for {dense:.2f}" in result.verdict
    assert (
        "The winning ticket with the highest score, which is partly luck, is that of seed 1 at level 50%"
        in result.verdict
    )
    assert result.verdict.split(":")[0] in result.report.read_text()
    kept = [path.parent.name for path in result.folder.glob("trials/*/weights.safetensors")]
    assert kept == result.table[result.table["level"] == 0.5]["trial"].tolist()
    none = supertickets.find(asked, out=tmp_path / "none", epochs=1, levels=(0.0, 0.01))
    assert none.shipped == {}
    assert not (none.folder / "super-ticket").exists()
    assert "No super ticket: no winning ticket that prunes anything finished" in none.verdict
    assert "No super ticket" in none.report.read_text()
    few = {name: value for name, value in asked.items() if name != "levels"} | {"kinds": ()}
    dense = supertickets.find(few, out=tmp_path / "dense", epochs=1)
    assert dense.verdict == (
        f"The dense model reaches accuracy {dense.table['score'].iloc[0]:.2f}; it is saved as a base model for --model "
        f"at {dense.shipped['model']}."
    )
    assert sorted(path.stem for path in (dense.folder / "tables").glob("*.csv")) == ["means"]
    assert "The paper's tables" not in dense.report.read_text()
    with pytest.raises(TicketError, match="no winning ticket above level 0 has finished"):
        supertickets.adapt(sources=none.folder, out=tmp_path / "adapt", **{**words, "task": "other"})


def test_the_released_preset_runs(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    # Released random tickets may empty a layer of heads.
    asked = {"task": "words", "levels": (0.7,), "epochs": 1, "max_length": 16, "workers": 1, "preset": "released"}
    result = supertickets.find(asked, model=str(tiny_model), out=tmp_path / "out", seeds=1, **words)
    assert result.settings.order == result.settings.optimizer == result.settings.lr_schedule == "released"
    assert set(result.table["seed"]) == {2018}
    assert (result.table["status"] == "finished").all()


def test_regression(tiny_model: Path, tmp_path: Path) -> None:
    from helpers.trials import write_words

    files = {
        name: write_words(tmp_path / f"{name}.jsonl", 40, seed, lambda w: sum(i < 12 for i in w) / len(w))
        for seed, name in enumerate(("train_file", "dev_file"))
    }
    asked = SMALL | ONE_TICKET | {"regression": True}
    result = supertickets.find(asked, model=str(tiny_model), out=tmp_path / "out", **files)
    assert {"pearson", "spearman"} <= set(result.table.columns)
    model = AutoModelForSequenceClassification.from_pretrained(result.shipped["ticket"] / "model")
    assert model.config.problem_type == "regression"
    other = {"task": "other", "regression": True, "fractions": (12,), "output_layer": "trained", **files}
    with pytest.raises(TicketError, match=r"--output-layer trained.* standardizes its targets .* use --output-lay"):
        supertickets.adapt(sources=result.folder, out=tmp_path / "adapted", **other)


# --- keys -------------------------------------------------------------------------------------------------------------


def trial(**changes: Any) -> Trial:
    task: dict[str, Any] = {"source": TaskSource(task="t"), "data_hash": "d", "ticket": Ticket.full(2, 2)}
    of_task = {name: changes.pop(name) for name in (*task, "dropout") if name in changes}
    values: dict[str, Any] = {"model": "m", "weight_hash": "w", "recipe": Recipe(), "seed": 0}
    return Trial(**{"tasks": (TaskTicket(**task | of_task),)} | values | changes)


def test_keys_follow_content_not_places() -> None:
    from supertickets.tickets.scoring import ScoringSettings

    same = [
        trial(model="elsewhere"),
        trial(source=TaskSource(task="other name", data=Path("/x"))),
        trial(recipe=Recipe(epochs=6)),
        Trial.model_validate_json(trial().model_dump_json()),
    ]
    assert {one.key for one in same} == {trial().key}
    other = [
        trial(weight_hash="v"),
        trial(data_hash="e"),
        trial(ticket=Ticket.from_pruned(2, 2, [(0, 0)])),
        trial(recipe=Recipe(epochs=5)),
        trial(recipe=Recipe(threads=2)),
        trial(seed=1),
        trial(scoring=ScoringSettings()),
    ]
    assert len({one.key for one in [trial(), *other]}) == 1 + len(other)


def test_a_default_that_changes_is_another_key() -> None:
    class Later(Recipe):
        epochs: int = 5

    assert trial(recipe=Later()).key != trial().key
    assert trial(recipe=Later(epochs=6)).key == trial().key
    left_out = {"exclude_defaults": True}  # the control: without defaults, two trainings have one key
    assert Later().model_dump(**left_out) == Recipe().model_dump(**left_out)


def test_an_outcome_of_another_trial_is_not_used(done: Result, tmp_path: Path) -> None:
    """As after a copy by hand, or an edit: the stored trial is compared with the one asked for."""
    source = done.folder / "trials" / done.table["trial"].iloc[0]
    asked = read_trial(source)
    lab = Lab(tmp_path)
    shutil.copytree(source, lab.folder / asked.key)
    assert lab.remembered(asked) is not None
    outcome = lab.remembered(asked)
    other = asked.model_copy(update={"recipe": asked.recipe.model_copy(update={"epochs": 9})})
    save_outcome(replace(outcome, trial=other))
    assert load_outcome(lab.folder / asked.key) is not None  # whole, and of this key by its own word
    assert lab.remembered(asked) is None


def test_a_call_leaves_random_state_and_threads_of_the_callers_process(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    asked = SMALL | ONE_TICKET | {"kinds": ("winning", "random")}
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        before = process()
        result = supertickets.find(asked, model=str(tiny_model), out=tmp_path / "out", **words)
        supertickets.apply_ticket(result.shipped["ticket"], str(tiny_model), tmp_path / "small")
        assert torch.get_num_threads() == threads + 1
        assert process() == before
    finally:
        torch.set_num_threads(threads)


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_selection_takes_the_smaller_of_equal_scores() -> None:
    table = pd.DataFrame(
        {
            "kind": ["dense", "winning", "winning", "random", "winning"],
            "level": [0, 0.1, 0.2, 0.3, 0.3],
            "seed": 0,
            "status": ["finished"] * 4 + ["diverged"],
            "score": [80.0, 81.0, 81.0, 99.0, None],
            "parameters": [10, 9, 8, 7, 7],
            "remaining": [1.0, 0.9, 0.8, 0.7, 0.7],
            "heads": 1,
            "ffns": 1,
        }
    )
    assert select_super(table)["level"] == 0.2
    assert select_super(table[table["kind"] != "winning"]) is None
    for what, value in (("level", 0.0), ("remaining", 1.0)):  # the dense run under the best score
        full = table.iloc[[1]].assign(score=99.0, **{what: value})
        assert select_super(pd.concat([full, table]))["level"] == 0.2
        assert select_super(full) is None
    assert select_super(pd.concat([table.iloc[[1]].assign(score=99.0), table]))["level"] == 0.1  # control


def test_a_missing_trial_is_missing_not_zero() -> None:
    failed = run({"kind": "dense", "level": 0.0, "seed": 0}, "cola", None)
    failed.failure = "it broke"
    missing = Run(Step({"kind": "winning", "level": 0.1, "seed": 0}, lambda done: None))
    table = runs_table([failed, missing], [task_info("cola")])
    assert table["status"].tolist() == ["failed", "missing"]
    assert table["score"].isna().all()


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_apply_makes_the_small_model(done: Result, tiny_model: Path, tmp_path: Path) -> None:
    made = supertickets.apply_ticket(done.shipped["ticket"], str(tiny_model), tmp_path / "small")
    assert made["parameters"] < made["dense_parameters"]
    from transformers import AutoModel

    small, dense = AutoModel.from_pretrained(tmp_path / "small"), AutoModel.from_pretrained(tiny_model)
    assert small.num_parameters() == made["parameters"]
    kept = torch.from_numpy(np.repeat(super_ticket(done).heads[1], 8))
    assert torch.equal(
        small.encoder.layer[1].attention.self.key.weight, dense.encoder.layer[1].attention.self.key.weight[kept]
    )


def test_apply_refuses_another_base(done: Result, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(TicketError, match=r"the ticket was drawn from.*--any-base"):
        supertickets.apply_ticket(done.shipped["ticket"], str(other), tmp_path / "small")
    assert not (tmp_path / "small").exists()
    supertickets.apply_ticket(done.shipped["ticket"], str(other), tmp_path / "small", any_base=True)
    with pytest.raises(TicketError, match="the folder is not empty"):
        supertickets.apply_ticket(done.shipped["ticket"], str(other), tmp_path / "small", any_base=True)
    wide = save_tiny_model(tmp_path / "wide", heads=8)
    with pytest.raises(TicketError, match=r"3 layers x 4 heads.*3 layers x 8 heads"):
        supertickets.apply_ticket(done.shipped["ticket"], str(wide), tmp_path / "small2", any_base=True)


def test_one_dev_example_is_too_few(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    one = tmp_path / "dev.jsonl"
    one.write_text(words["dev_file"].read_text().splitlines()[0] + "\n")
    with pytest.raises(TicketError, match="has one dev example; expected at least two"):
        supertickets.find(SMALL, model=str(tiny_model), out=tmp_path / "out", **{**words, "dev_file": one})
    assert not (tmp_path / "out").exists()
