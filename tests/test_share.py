"""Studies of several tasks: sharing tickets, adapting models, their sensitivity, what they leave for others."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from helpers.models import HEADS, LAYERS, save_tiny_model
from helpers.study_files import contents
from helpers.trials import write_words
from supertickets.anatomy import Shape
from supertickets.cli import main
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.record import Subject
from supertickets.evidence.sharing import MT_DNN, TICKET_SHARE, TUNED
from supertickets.export.shared import load_shared
from supertickets.lab.outcome import WEIGHTS, load_outcome
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.studies.adapt import AdaptResult, adapt
from supertickets.studies.config import complete
from supertickets.studies.find import find
from supertickets.studies.folder import clean, status
from supertickets.studies.report import report
from supertickets.studies.sensitivity import sensitivity
from supertickets.studies.settings import FindSettings, ShareSettings
from supertickets.studies.share import ShareResult, _found, share
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, load_ticket
from supertickets.training.loop import Trainer

SMALL: dict[str, Any] = {
    "seeds": 2,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "max_length": 16,
    "workers": 1,
    "precision": "float32",
}


LIKE_BERT_BASE = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
SHARE = SMALL | {"fine_tune_epochs": 3}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, words: dict[str, Path]) -> dict[str, Path]:
    """Studies of `find` of two tasks, `words` and `lengths`, and the files of a third."""
    folder = tmp_path_factory.mktemp("several")
    lengths = {
        name: write_words(folder / f"lengths-{name}.jsonl", size, seed, lambda w: len(w) % 3)
        for seed, (name, size) in enumerate((("train_file", 40), ("dev_file", 30)), start=5)
    }
    for task, files in (("words", words), ("lengths", lengths)):
        find(
            SMALL | {"levels": (0.4,), "kinds": ("winning",)},
            model=str(tiny_model), task=task, out=folder / task, keep="none", **files,
        )  # fmt: skip
    return {"folder": folder, "model": tiny_model, "words": folder / "words", "lengths": folder / "lengths"}


@pytest.fixture(scope="module")
def shared(places: dict[str, Path]) -> ShareResult:
    return share(
        SHARE, model=str(places["model"]), tickets=(places["words"], places["lengths"]), out=places["folder"] / "share"
    )


@pytest.fixture(scope="module")
def adapted(places: dict[str, Path], shared: ShareResult) -> AdaptResult:
    files = {
        name: write_words(places["folder"] / f"new-{name}.jsonl", size, seed)
        for seed, (name, size) in enumerate((("train_file", 60), ("dev_file", 30)), start=11)
    }
    return adapt(
        SMALL, runs=(places["words"], shared.folder), fractions=(0.2, 30, 1.0), task="new", **files,
        out=places["folder"] / "adapt",
    )  # fmt: skip


# --- share ------------------------------------------------------------------------------------------------------------


def test_a_study_of_share(shared: ShareResult, places: dict[str, Path]) -> None:
    runs = shared.sharing.runs
    assert set(runs["status"]) == {"finished"}
    assert sorted(runs["model"].unique()) == [MT_DNN, MT_DNN + TUNED, TICKET_SHARE, TICKET_SHARE + TUNED]
    assert len(runs) == 4 * 2 * 2
    for task in ("words", "lengths"):
        assert shared.tickets[task] == load_ticket(places[task] / "super-ticket").ticket
        own = runs[(runs["task"] == task) & runs["model"].str.startswith(TICKET_SHARE)]
        assert set(own["heads"]) == {shared.tickets[task].kept_heads}
    assert list(shared.sharing.table.index) == [MT_DNN, MT_DNN + TUNED, TICKET_SHARE, TICKET_SHARE + TUNED]
    assert shared.report.is_file()
    assert (shared.folder / "tables" / "table-3.md").is_file()


def test_what_nobody_keeps_is_not_there(shared: ShareResult) -> None:
    union = shared.tickets["words"] | shared.tickets["lengths"]
    assert not union.is_full
    sizes = {}
    for path in (shared.folder / "trials").iterdir():
        outcome = load_outcome(path)
        assert outcome is not None
        if len(outcome.trial.tasks) == 2:
            sizes[outcome.trial.ticket.is_full] = outcome.cost["parameters"]
            assert outcome.has_weights
    gone = ~union
    expected = gone.kept_heads * 8 * (4 * 32 + 3) + gone.kept_ffns * (2 * 32 * 48 + 32 + 48)
    assert sizes[True] - sizes[False] == expected
    assert shared.sharing.sizes.union == pytest.approx(sizes[False] / sizes[True])
    assert shared.sharing.sizes.mean < shared.sharing.sizes.union


def test_sharing_costs_what_its_tickets_cost(shared: ShareResult) -> None:
    runs = shared.sharing.runs.drop_duplicates("trial").set_index(["model", "seed"])
    tuned = shared.sharing.runs[shared.sharing.runs["model"] == TICKET_SHARE + TUNED]
    for seed in (0, 1):
        # Fine-tuning a task has as many epochs here, on the task's ticket alone: the sum is what the sharing takes.
        assert runs.loc[(TICKET_SHARE, seed), "flops"] == tuned[tuned["seed"] == seed]["flops"].sum()
        assert runs.loc[(TICKET_SHARE, seed), "flops"] < runs.loc[(MT_DNN, seed), "flops"]


def test_fine_tuning_starts_where_the_sharing_ended(places: dict[str, Path], tmp_path: Path) -> None:
    """With a learning rate of almost zero, the fine-tuned model is the shared one, output layer and all."""
    again = share(
        SMALL | {"seeds": 1, "fine_tune_learning_rate": 1e-12, "fine_tune_epochs": 1},
        model=str(places["model"]),
        tickets=(places["words"], places["lengths"]),
        out=tmp_path / "still",
    )
    outcomes = [load_outcome(path) for path in (again.folder / "trials").iterdir()]
    shared = {o.key: o for o in outcomes if o is not None and len(o.trial.tasks) == 2}
    assert len(shared) == 2
    one, other = (o.predictions()["dev"][o.best_epoch - 1] for o in shared.values())
    assert np.abs(one - other).max() > 1e-2
    for outcome in outcomes:
        assert outcome is not None
        if outcome.trial.start is not None:
            before = shared[outcome.trial.start.trial]
            expected = before.predictions(outcome.trial.start.output_layer)["dev"][before.best_epoch - 1]
            assert np.allclose(outcome.predictions()["dev"][0], expected, rtol=1e-4, atol=1e-6)


def test_run_again_trains_nothing(shared: ShareResult, places: dict[str, Path]) -> None:
    before = contents(shared.folder)
    stamps = {path: path.stat().st_mtime_ns for path in (shared.folder / "trials").glob("*/outcome.json")}
    model = (shared.model_folder / "shared.json").stat().st_mtime_ns
    again = share(SHARE, model=str(places["model"]), tickets=(places["words"], places["lengths"]), out=shared.folder)
    assert contents(again.folder) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (shared.model_folder / "shared.json").stat().st_mtime_ns == model
    report([shared.folder])
    assert contents(shared.folder) == before
    assert status(shared.folder)["state"] == "finished"
    assert status(shared.folder)["done"] == 12


def test_lost_weights_are_trained_again_when_needed(
    shared: ShareResult, tmp_path: Path, places: dict[str, Path]
) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    kept = list((copy / "trials").glob(f"*/{WEIGHTS}"))
    clean(copy)
    assert list((copy / "trials").glob(f"*/{WEIGHTS}")) == kept  # what others may start from
    for path in kept:
        path.unlink()
    outcomes = [load_outcome(path) for path in sorted((copy / "trials").iterdir())]
    tuned = next(outcome.folder for outcome in outcomes if outcome is not None and outcome.trial.start is not None)
    (tuned / "outcome.json").unlink()
    settings = {"model": str(places["model"]), "tickets": (places["words"], places["lengths"]), "out": copy}
    share(SHARE, **settings)
    found, expected = load_outcome(tuned), load_outcome(shared.folder / "trials" / tuned.name)
    assert found is not None
    assert expected is not None
    assert found.epochs == expected.epochs


def test_weights_trained_again_leave_outcomes_as_they_are(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine a training may come out otherwise: tickets were drawn from the scores that are there."""
    study, _ = tmp_path / "words", shutil.copytree(places["words"], tmp_path / "words")
    files = {name: places["folder"] / f"lengths-{name}.jsonl" for name in ("train_file", "dev_file")}
    settings = SMALL | {"seeds": 1, "epochs": 1, "fractions": (12,), "task": "new", **files, "runs": study}
    for path in (study / "trials").glob(f"*/{WEIGHTS}"):
        path.unlink()
    before = contents(study)
    adapt(settings, out=tmp_path / "same")
    after = contents(study)
    assert all(after[name] == value for name, value in before.items() if "outcome.json" not in name)
    assert not (study / "again").is_dir() or not list((study / "again").iterdir())
    for path in (study / "trials").glob(f"*/{WEIGHTS}"):
        path.unlink()
    before = contents(study)
    train = Trainer.train

    def otherwise(self: Trainer) -> Any:
        self.seed += 1
        return train(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train", otherwise)
        adapt(settings, out=tmp_path / "other")
        after = contents(study)
        assert {name: value for name, value in after.items() if not name.startswith("again")} == before
        assert len(list((study / "again").glob(f"*/{WEIGHTS}"))) == 2
        # A study that began from the first weights cannot go on from others.
        for path in (tmp_path / "same" / "trials").glob("*/outcome.json"):
            path.unlink()
        with pytest.raises(StudyError, match="training again gave others"):
            adapt(settings, out=tmp_path / "same")


def test_weights_are_not_trained_again_on_other_examples(tiny_model: Path, tmp_path: Path) -> None:
    files = {
        name: write_words(tmp_path / f"{name}.jsonl", 24, seed) for seed, name in enumerate(("train_file", "dev_file"))
    }
    asked = SMALL | {"seeds": 1, "epochs": 1, "task": "first", "model": str(tiny_model), **files}
    found = find(asked | {"levels": (0.4,), "kinds": ("winning",)}, keep="none", out=tmp_path / "find")
    new = {name: write_words(tmp_path / f"new-{name}.jsonl", 24, 7) for name in files}
    settings = asked | new | {"task": "new", "fractions": (12,), "runs": found.folder}
    content = files["train_file"].read_text()
    write_words(files["train_file"], 24, 9)
    with pytest.raises(
        TicketError, match="FIRST-ST-DNN were not kept, and the task has other examples than when it was"
    ):
        adapt(settings, out=tmp_path / "adapt")
    files["train_file"].write_text(content)  # control: with its own examples it goes on
    assert not adapt(settings, out=tmp_path / "adapt").failures


def test_a_failed_trial_gets_its_start_back(shared: ShareResult, places: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    outcomes = [load_outcome(path) for path in sorted((copy / "trials").iterdir())]
    tuned = next(outcome.folder for outcome in outcomes if outcome is not None and outcome.trial.start is not None)
    (tuned / "outcome.json").unlink()
    (tuned / "failure.json").write_text(json.dumps({"label": "x", "tries": 3, "traceback": "no memory"}))
    for path in (copy / "trials").glob(f"*/{WEIGHTS}"):
        path.unlink()
    settings = {"model": str(places["model"]), "tickets": (places["words"], places["lengths"])}
    result = share(SHARE, **settings, out=copy)
    assert not result.failures
    assert load_outcome(tuned) is not None


def test_damaged_weights_lose_nothing(shared: ShareResult, tmp_path: Path) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    for path in (copy / "trials").glob(f"*/{WEIGHTS}"):
        path.write_bytes(path.read_bytes()[:-1])
        outcome = load_outcome(path.parent)
        assert outcome is not None
        assert not outcome.has_weights
    report([copy])
    assert status(copy)["done"] == 12
    assert (copy / "results.csv").read_bytes() == (shared.folder / "results.csv").read_bytes()


def test_places_and_what_is_kept_may_change(shared: ShareResult, places: dict[str, Path], tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "share", tmp_path / "elsewhere"
    shutil.copytree(shared.folder, copy)
    for task in ("words", "lengths"):
        shutil.copytree(places[task], elsewhere / task)
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("outcome.json")}
    tickets = (elsewhere / "words", elsewhere / "lengths")
    share(SHARE, model=str(places["model"]), tickets=tickets, out=copy, keep="all")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_failure_while_a_ticket_is_looked_for_ends_the_study(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL | {
        "seeds": 1,
        "epochs": 1,
        "find_epochs": 1,
        "levels": (0.3, 0.6),
        "at_most": 24,
        "fine_tune": False,
    }
    settings |= {"model": str(tiny_model), "tasks": ("similarity", "paraphrase"), "out": tmp_path / "out"}
    settings |= {"at_most": 24, "fine_tune": False}
    run = Workbench.run

    def breaking(self: Workbench, job: Any, tell: Any) -> Any:
        if job.trial.ticket.kept_ffns == LAYERS - 1:
            raise RuntimeError("no memory")
        return run(self, job, tell)

    with monkeypatch.context() as patched:
        patched.setattr(Workbench, "run", breaking)
        with pytest.raises(StudyError, match="trials failed while its ticket was looked for"):
            share(settings)
    found = status(tmp_path / "out")
    assert found["first"] == [str(tmp_path / "out" / "find" / "similarity")]
    assert not share(settings).failures


def test_tickets_are_found_first_where_none_are_given(tiny_model: Path, tmp_path: Path) -> None:
    settings = SMALL | {
        "seeds": 1,
        "epochs": 1,
        "find_epochs": 1,
        "levels": (0.5,),
        "at_most": 24,
        "fine_tune": False,
        "keep": "none",
    }
    result = share(settings, model=str(tiny_model), tasks=("similarity", "paraphrase"), out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "find").iterdir()) == ["paraphrase", "similarity"]
    assert list(result.tickets) == ["similarity", "paraphrase"]
    assert set(result.sharing.runs["model"]) == {MT_DNN, TICKET_SHARE}
    for task, ticket in result.tickets.items():
        assert load_ticket(tmp_path / "out" / "find" / task / "super-ticket").ticket == ticket
        found = json.loads((tmp_path / "out" / "find" / task / "super-ticket" / "ticket.json").read_text())
        assert found["origin"]["recipe"]["learning_rate"] == 3e-3
    trial = next(o.trial for path in (tmp_path / "out" / "trials").iterdir() if (o := load_outcome(path)))
    for task in trial.tasks:
        assert len(load_task(task.source).train) == 24
    assert not list((tmp_path / "out").rglob(WEIGHTS))
    assert not result.model_folder.exists()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("outcome.json")}
    share(settings, model=str(tiny_model), tasks=("similarity", "paraphrase"), out=tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


SETTLED = {"tasks": ("rte", "mnli"), "precision": "float32"}


def subject_of(task: str) -> Subject:
    source = TaskSource(task=task)
    shape = Shape(12, 12, 768, 3072)
    return Subject("m", "bert", "w", shape, task, task, (), ("accuracy",), 9, np.zeros(2), source)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("paper", {"rte": (6, None), "mnli": (6, None)}), ("released", {"rte": (6, 4), "mnli": (3, None)})],
)
def test_epochs_of_a_single_task_are_not_those_of_the_sharing(
    preset: str, expected: dict[str, tuple[int, int | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tickets are looked for with each task's own epochs, fine-tuning has six; the sharing itself five."""
    base = replace(find_model("default"), config={**find_model("default").config, **LIKE_BERT_BASE})
    settings = complete(ShareSettings, SETTLED | {"preset": preset, "out": tmp_path}, base)
    assert settings.recipe.epochs == 5
    assert [settings.fine_tuning(task).epochs for task in settings.tasks] == [6, 6]
    looked: dict[str, tuple[int, int | None]] = {}

    class FoundError(Exception):
        pass

    def found(asked: dict[str, Any], **more: Any) -> None:
        whole = complete(FindSettings, asked, base)
        looked[whole.task] = whole.epochs, whole.score_epoch
        assert whole.learning_rate == settings.learning_rate
        raise FoundError

    monkeypatch.setattr("supertickets.studies.share.find", found)
    for task in settings.tasks:
        with pytest.raises(FoundError):
            _found(settings, subject_of(task), quiet=True)
    assert looked == expected
    for task in settings.tasks:
        with pytest.raises(FoundError):
            _found(settings.model_copy(update={"find_epochs": 2}), subject_of(task), quiet=True)
    assert looked == dict.fromkeys(expected, (2, None))
    small = complete(ShareSettings, SETTLED, find_model("default"))
    assert (small.epochs, small.fine_tune_epochs) == (4, 4)  # our own tuning of small encoders


def test_every_task_has_its_own_dropout(places: dict[str, Path]) -> None:
    paper = ShareSettings(tasks=("MNLI", "CoLA", "rte"), precision="float32")
    assert [paper.dropout_of(task) for task in paper.tasks] == [0.3, 0.05, 0.1]
    released = paper.model_copy(update={"preset": "released"})
    assert released.fine_tuning("mnli").dropout == 0.2
    same = paper.model_copy(update={"dropout": 0.4})
    assert {same.dropout_of(task) for task in paper.tasks} == {same.recipe.dropout} == {0.4}


def test_the_released_preset_leaks() -> None:
    base = find_model("default")
    assert complete(ShareSettings, {"preset": "released"}, base).updates == "leaky"
    assert complete(ShareSettings, {"preset": "released"}, base).epochs == 5
    assert complete(ShareSettings, {}, base).updates == "strict"


# --- what a shared model leaves ---------------------------------------------------------------------------------------


def best_shared(result: ShareResult) -> Any:
    found = [load_outcome(path) for path in (result.folder / "trials").iterdir()]
    key = json.loads((result.model_folder / "shared.json").read_text())["trial"]
    return next(outcome for outcome in found if outcome is not None and outcome.key == key)


def test_shared_models_predict_as_in_training(shared: ShareResult) -> None:
    """In a fresh process, together and each task's model alone."""
    outcome = best_shared(shared)
    script = """
import json, sys
from supertickets import load_shared
from supertickets.export.predict import predict
from pathlib import Path
shared = load_shared(sys.argv[1])
for task, (folder, texts) in json.loads(sys.argv[2]).items():
    print(json.dumps([shared.predict(task, texts).tolist(), predict(Path(folder), texts, None, 16).tolist()]))
"""
    tasks = {task: place for place, task in enumerate(("words", "lengths"))}
    asked = {
        task: (str(shared.task_folders[task] / "model"), load_task(outcome.trial.tasks[place].source).dev.text)
        for task, place in tasks.items()
    }
    command = [sys.executable, "-c", script, str(shared.model_folder), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for place, line in zip(tasks.values(), done.stdout.splitlines(), strict=True):
        expected = outcome.predictions(place)["dev"][outcome.best_epoch - 1]
        assert expected.std(axis=0).max() > 1e-2  # a constant would show nothing
        for found in json.loads(line):
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_shared_model_has_one_encoder_and_small_parts(shared: ShareResult, places: dict[str, Path]) -> None:
    loaded = load_shared(shared.model_folder)
    assert [task.name for task in loaded.tasks] == ["words", "lengths"]
    assert [len(task.labels) for task in loaded.tasks] == [2, 3]
    assert loaded.model("words").base_model is loaded.model("lengths").base_model
    assert loaded.model("lengths").config.id2label == {0: "0", 1: "1", 2: "2"}
    other = {task: loaded.predict(task, ["w1 w2 w3"]) for task in ("words", "lengths", "words")}
    assert np.array_equal(other["words"], loaded.predict("words", ["w1 w2 w3"]))
    for task, folder in shared.task_folders.items():
        small = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        cut_away = (~shared.tickets[task]).kept_heads * 8 * (4 * 32 + 3)
        ffns = (~shared.tickets[task]).kept_ffns * (2 * 32 * 48 + 32 + 48)
        outputs = len(loaded.model(task).config.id2label)
        dense = ModelSource(find_model(str(places["model"]))).build(outputs, 0.0, 0).num_parameters()
        assert small.num_parameters() == dense - cut_away - ffns
        assert load_ticket(folder).origin["shared_with"] == [name for name in ("words", "lengths") if name != task]
    with pytest.raises(TicketError, match="unknown task 'word': did you mean 'words'"):
        loaded.model("word")
    with pytest.raises(TicketError, match="expected a list of texts"):
        loaded.predict("words", "w1 w2")  # type: ignore[arg-type]
    with pytest.raises(TicketError, match="task 'words': expected one text each"):
        loaded.predict("words", ["w1 w2"], ["w3"])
    assert loaded.predict("words", []).shape == (0, 2)
    with pytest.raises(TicketError, match="take the task's own"):
        loaded.model("words").save_pretrained("nowhere")  # its layers are not a stock model's


@pytest.mark.parametrize("what", ["none", "newer", "truncated", "not json", "no outputs", "an output layer less"])
def test_a_folder_without_a_whole_shared_model(shared: ShareResult, tmp_path: Path, what: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(shared.model_folder, copy)
    content = json.loads((copy / "shared.json").read_text())
    if what == "none":
        (copy / "shared.json").unlink()
    elif what == "newer":
        (copy / "shared.json").write_text(json.dumps(content | {"format": 99}))
    elif what == "truncated":
        outputs = (copy / "outputs.safetensors").read_bytes()
        (copy / "outputs.safetensors").write_bytes(outputs[: len(outputs) // 2])
    elif what == "not json":
        (copy / "shared.json").write_text("{")
    elif what == "no outputs":
        (copy / "outputs.safetensors").unlink()
    else:
        outputs = load_file(copy / "outputs.safetensors")
        fewer = {name: value for name, value in outputs.items() if "tasks.1." not in name}
        save_file(fewer, copy / "outputs.safetensors")
    with pytest.raises(TicketError) as error:
        load_shared(copy)
    assert str(copy) in str(error.value)


# --- adapt ------------------------------------------------------------------------------------------------------------


def test_a_study_of_adapt(adapted: AdaptResult, shared: ShareResult) -> None:
    runs = adapted.adaptation.runs
    assert set(runs["status"]) == {"finished"}
    assert list(runs["model"].unique()) == ["WORDS-ST-DNN", "WORDS-SuperT", MT_DNN, TICKET_SHARE]
    assert sorted(runs["examples"].unique()) == [12, 30, 60]
    assert len(runs) == 4 * 3 * 2
    kept = runs.drop_duplicates("model").set_index("model")["heads"]
    union = shared.tickets["words"] | shared.tickets["lengths"]
    assert kept.to_dict() == {
        "WORDS-ST-DNN": LAYERS * HEADS,
        "WORDS-SuperT": shared.tickets["words"].kept_heads,
        MT_DNN: LAYERS * HEADS,
        TICKET_SHARE: union.kept_heads,
    }
    assert list(adapted.adaptation.table.columns) == ["12 examples", "30 examples", "60 examples"]
    assert adapted.report.is_file()
    assert status(adapted.folder)["done"] == 24


def test_fractions_are_nested_and_recorded(adapted: AdaptResult) -> None:
    texts: dict[int, set[str]] = {}
    for path in (adapted.folder / "trials").iterdir():
        outcome = load_outcome(path)
        assert outcome is not None
        (task,) = outcome.trial.tasks
        train = load_task(task.source).train
        texts[len(train)] = set(train.text)
        assert task.source.fraction_seed == 0
    assert texts[12] < texts[30] < texts[60]


def test_adapting_starts_from_the_trained_encoder_with_a_new_output_layer(adapted: AdaptResult) -> None:
    """The start decides: the same ticket, data, recipe and seed from pre-trained weights come out otherwise."""
    found = [load_outcome(path) for path in (adapted.folder / "trials").iterdir()]
    starts = {outcome.trial.start.weights for outcome in found if outcome is not None and outcome.trial.start}
    assert len(starts) == 4
    assert all(outcome is not None and outcome.trial.start.output_layer is None for outcome in found)
    one = next(o for o in found if o is not None and o.trial.ticket.is_full and o.trial.seed == 0)
    others = [o for o in found if o is not None and o.trial.ticket.is_full and o.trial.seed == 0 and o.key != one.key]
    same_data = [o for o in others if o.trial.tasks[0].data_hash == one.trial.tasks[0].data_hash]
    assert same_data
    assert all(o.epochs != one.epochs for o in same_data)


def test_adapting_again_trains_nothing_and_needs_no_weights(
    adapted: AdaptResult, shared: ShareResult, places: dict[str, Path], tmp_path: Path
) -> None:
    before = contents(adapted.folder)
    files = {name: places["folder"] / f"new-{name}.jsonl" for name in ("train_file", "dev_file")}
    kept = list((places["words"] / "trials").glob(f"*/{WEIGHTS}"))
    away = [(path, tmp_path / f"{i}") for i, path in enumerate(kept)]
    for path, place in away:
        shutil.move(path, place)
    settings = {"runs": (places["words"], shared.folder), "fractions": (0.2, 30, 1.0), "task": "new", **files}
    adapt(SMALL, **settings, out=adapted.folder)
    for path, place in away:
        assert not path.exists()
        shutil.move(place, path)
    assert contents(adapted.folder) == before
    report([adapted.folder])
    assert contents(adapted.folder) == before
    copy = tmp_path / "copy"
    shutil.copytree(adapted.folder, copy)
    whole = json.loads((copy / "origins.json").read_text())
    whole[0]["start"]["trial"] = "another"
    for damage, message in ((json.dumps(whole), "adapts other models"), ("[1]", "is damaged"), ("null", "is damaged")):
        (copy / "origins.json").write_text(damage)
        with pytest.raises(TicketError, match=message):
            adapt(SMALL, **settings, out=copy)


def test_a_shared_model_adapts_with_one_tasks_ticket(
    shared: ShareResult, places: dict[str, Path], tmp_path: Path
) -> None:
    files = {name: places["folder"] / f"new-{name}.jsonl" for name in ("train_file", "dev_file")}
    result = adapt(
        SMALL | {"seeds": 1, "epochs": 1}, runs=(shared.folder,), fractions=(12,), task="new", **files,
        as_task="Lengths", out=tmp_path / "out",
    )  # fmt: skip
    heads = result.adaptation.runs.set_index("model")["heads"]
    assert heads.to_dict() == {MT_DNN: LAYERS * HEADS, TICKET_SHARE: shared.tickets["lengths"].kept_heads}
    assert "One seed allows no test." in result.adaptation.verdict


def test_the_trained_output_layer_may_go_on(
    shared: ShareResult, places: dict[str, Path], words: dict[str, Path], tmp_path: Path
) -> None:
    """With a learning rate of almost zero, the adapted model says what the trained one said: output layer and all."""
    still = SMALL | {"seeds": 1, "epochs": 1, "learning_rate": 1e-12, "fractions": (12,), "task": "again", **words}

    def outputs(runs: Path, name: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        result = adapt(still, runs=runs, out=tmp_path / name, **options)
        found, expected = [], []
        for path in sorted((result.folder / "trials").iterdir()):
            after = load_outcome(path)
            assert after is not None
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
    found, expected = outputs(shared.folder, "shared", output_layer="trained", as_task="words")
    # MT-DNN, and Ticket-Share with the ticket under which that output layer was trained
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    found, expected = outputs(places["words"], "new")  # control
    assert np.abs(found - expected).max(axis=(1, 2)).min() > 1e-2


def test_few_examples_get_the_steps_that_are_asked_for(
    places: dict[str, Path], words: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    asked = SMALL | {"seeds": 1, "patience": 1, "task": "again", "runs": places["words"], **words}
    result = adapt(asked, fractions=(12, 30, 64), least_steps=15, out=tmp_path / "least", quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "With 12 examples a training has up to 8 epochs, and at least 15 steps (--least-steps)." in said
    assert "With 30 examples a training has up to 4 epochs, and at least 15 steps (--least-steps)." in said
    assert "With 64 examples" not in said  # 3 epochs of 8 steps, of which early stopping ends none before the second
    for path in (result.folder / "trials").iterdir():
        outcome = load_outcome(path)
        assert outcome is not None
        count = len(load_task(outcome.trial.tasks[0].source).train)
        steps = len(outcome.epochs) * -(-count // 8)
        assert steps >= 15, count
        assert (outcome.trial.recipe.epochs, outcome.trial.recipe.patience) == {
            12: (8, 7), 30: (4, 3), 64: (3, 1),
        }[count]  # fmt: skip
    verdict = result.adaptation.verdict
    assert "With 12 examples trainings had up to 8 epochs in place of 3, for 15 update steps at least." in verdict
    assert "With 64 examples" not in verdict
    assert "in place of 3, for 15 update steps" in result.report.read_text()
    usual = adapt(asked, fractions=(12,), out=tmp_path / "usual")  # control: by default nothing is longer
    (outcome, _) = (load_outcome(path) for path in (usual.folder / "trials").iterdir())
    assert outcome is not None
    assert outcome.trial.recipe.epochs == 3
    assert "update steps" not in usual.adaptation.verdict


# --- sensitivity ------------------------------------------------------------------------------------------------------


def test_sensitivity_of_shared_models(shared: ShareResult, tmp_path: Path) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    count = len(list((copy / "trials").iterdir()))
    result = sensitivity(copy, (3e-3, 1e-3), seeds=2)
    # seed 0 with the study's own learning rate is remembered
    assert len(list((copy / "trials").iterdir())) == count + 2 * 2 * (2 * 2 - 1)
    runs = result.runs
    assert set(runs["status"]) == {"finished"}
    for model in (MT_DNN, TICKET_SHARE):
        for task in ("words", "lengths"):
            own = runs[(runs["model"] == model) & (runs["task"] == task)]
            table = own.pivot(index="seed", columns="rate", values="score").to_numpy()
            assert result.over_seeds.loc[model, task] == pytest.approx(table.mean(axis=1).std(ddof=1))
            assert result.over_learning_rates.loc[model, task] == pytest.approx(table.mean(axis=0).std(ddof=1))
    assert "Table 8" in (copy / "report.html").read_text()
    for path in (copy / "trials").iterdir():
        outcome = load_outcome(path)
        if outcome is not None and outcome.trial.start is not None and outcome.trial.seed == 1:
            assert load_outcome(outcome.trial.start.folder) is not None


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_share(places: dict[str, Path], shared: ShareResult, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other-shape"
    ticket = load_ticket(places["words"] / "super-ticket")
    SharedTicket(Ticket.full(2, 2), ticket.base, ticket.origin, ticket.versions).save(other, "")
    foreign = tmp_path / "foreign"
    SharedTicket(ticket.ticket, {**ticket.base, "weight_hash": "0" * 64}, ticket.origin, {}).save(foreign, "")
    nameless = tmp_path / "nameless"
    SharedTicket(ticket.ticket, ticket.base, {}, {}).save(nameless, "")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(places["words"] / "settings.yaml", unfinished)
    wrong = save_tiny_model(tmp_path / "wrong", seed=3)
    capsys.readouterr()
    words, lengths = str(places["words"]), str(places["lengths"])
    cases = {
        ("--tasks", "rte,RTE"): "--tasks: rte is named twice",
        ("--tickets", words): "sharing needs at least two tasks, got 'words' alone",
        ("--tasks", "rte,cola", "--learning-rate", "inf"): "--learning-rate",
        ("--tasks", "rte,cola", "--fine-tune-learning-rate", "nan"): "--fine-tune-learning-rate",
        ("--tickets", words, "--tickets", str(places["words"] / "super-ticket")): "are both of task 'words'",
        ("--tickets", f"{words},{lengths}", "--tasks", "words,cola"): "task 'cola' has no ticket",
        ("--tickets", f"{words},{lengths}", "--tasks", "words"): "not among --tasks",
        ("--tickets", lengths, "--tickets", str(other)): "the ticket is for 2 layers x 2 heads",
        ("--tickets", lengths, "--tickets", str(foreign)): "with weights 000000000000",
        ("--tickets", words, "--tickets", lengths, "--model", str(wrong)): "the ticket was drawn from",
        ("--tickets", str(nameless)): "does not say which task",
        ("--tickets", str(unfinished)): "there is no super ticket in it",
        ("--tickets", str(shared.folder)): "expected a study of `find`, this is one of `share`",
        ("--tickets", str(tmp_path / "nowhere")): "no such folder",
        ("--tasks", "entailmnet,rte"): "did you mean 'entailment'",
        ("--at-most", "1"): "--at-most",
        ("--tasks", "entailment,paraphrase", "--levels", "0"): "--levels 0: a ticket of level 0 is the dense model",
        ("--tasks", "entailment,paraphrase", "--at-most", "2"): "--at-most 2: task 'entailment' has 3 classes",
        ("--updates", "lax"): "unknown update",
    }
    for arguments, message in cases.items():
        model = () if "--model" in arguments else ("--model", str(places["model"]))
        out = tmp_path / "out"
        assert main(["share", *arguments, *model, "--out", str(out)]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1
        assert not out.exists()


def test_misuse_of_adapt(
    places: dict[str, Path], shared: ShareResult, adapted: AdaptResult, tmp_path: Path, capsys: Any
) -> None:
    new = ["--task", "new", "--train-file", str(places["folder"] / "new-train_file.jsonl")]
    run = ["--from", str(shared.folder)]
    graded = write_words(tmp_path / "graded.jsonl", 30, 5, lambda w: len(w) / 9)
    half, trained = ("--fractions", "0.5"), ("--output-layer", "trained")
    real = ["--task", "new", "--train-file", str(graded), "--regression", "--fractions", "20"]
    wrong = save_tiny_model(tmp_path / "wrong", seed=3)
    capsys.readouterr()
    cases: dict[tuple[str, ...], str] = {
        (*new,): "--from: name the folder",
        (*new, "--from", str(adapted.folder)): "expected a study of `find` or `share`, this is one of `adapt`",
        (*new, "--from", str(tmp_path)): "there is no study in it",
        (*new, "--from", str(tmp_path / "nowhere")): "there is no such folder",
        (*new, "--from", str(shared.model_folder)): f"it belongs to the study in {shared.folder}",
        (*run,): "--task: name the task to adapt to",
        (*new, *run, *run): "both have MT-DNN",
        (*new, *run, "--model", str(wrong)): "its model is not",
        (*new, *run, "--fractions", "0.001"): "leaves 0 of",
        (*new, *run, "--fractions", "5000"): "5000 examples asked for",
        (*new, *run, "--fractions", "-1"): "--fractions: expected shares",
        (*new, *run, "--fractions", "2.5"): "--fractions: expected shares",
        (*new, *run, "--fractions", "inf"): "--fractions",
        (*new, *run, "--fractions", "nan"): "--fractions",
        (*new, *run, "--as-task", "word"): "did you mean 'words'",
        (*new, *run, *half, *trained): "name one with --as-task (words, lengths).",
        (*new, *run, *half, *trained, "--as-task", "lengths"): "has the labels 0, 1, 2, 'new' the labels 0, 1;",
        (*real, "--from", str(places["words"]), *trained): "'new' a real number as target; expected",
        (*new, *run, "--output-layer", "old"): "known are new, trained",
        (*new, *run, "--least-steps", "-1"): "--least-steps",
        ("--task", "mlm", *run, "--fractions", "0.5", "--least-steps", "9"): "task 'mlm' is trained in blocks of text",
        (*new, "--from", str(places["words"]), "--as-task", "words"): "none of the studies is one of `share`",
        (*run, "--task", "snli"): "name the folder of its files with --data",
    }
    for arguments, message in cases.items():
        out = tmp_path / "out"
        assert main(["adapt", *arguments, "--out", str(out)]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1
        assert not out.exists()


def test_a_folder_of_other_tickets_is_refused(shared: ShareResult, places: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "words"
    shutil.copytree(places["words"], other)
    ticket = load_ticket(other / "super-ticket")
    changed = Ticket.from_pruned(LAYERS, HEADS, [(0, 0)])
    SharedTicket(changed, ticket.base, ticket.origin, ticket.versions).save(other / "super-ticket", "")
    with pytest.raises(TicketError, match="shares another ticket of 'words'"):
        share(SHARE, model=str(places["model"]), tickets=(other, places["lengths"]), out=shared.folder)


def test_one_task_under_two_names_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(places["words"], again)
    settings = (again / "settings.yaml").read_text()
    (again / "settings.yaml").write_text(settings.replace("task: words", "task: others"))
    with pytest.raises(TicketError, match="tasks 'words' and 'others' have the same examples"):
        share(SHARE, model=str(places["model"]), tickets=(places["words"], again), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_speak(shared: ShareResult, adapted: AdaptResult, places: dict[str, Path], capsys: Any) -> None:
    flags = [part for name, value in SHARE.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    tickets = ["--tickets", f"{places['words']},{places['lengths']}", "--model", str(places["model"])]
    assert main(["share", *flags, *tickets, "--out", str(shared.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"]["union"] == pytest.approx(shared.sharing.sizes.union)
    assert len(found["results"]) == 16
    assert Path(found["models"]["words"]).is_dir()
    assert main(["share", "--config", str(shared.folder / "settings.yaml"), "--out", str(shared.folder)]) == 0
    assert "Table 3" in capsys.readouterr().out
    assert main(["adapt", "--config", str(adapted.folder / "settings.yaml")]) == 0
    assert "Table 4" in capsys.readouterr().out
    assert main(["report", str(adapted.folder)]) == 0
    assert main(["report", str(adapted.folder), str(shared.folder)]) == 2
    assert "this is one of `adapt`, report it alone" in capsys.readouterr().err
    assert main(["sensitivity", str(shared.folder), "--seeds", "1"]) == 2
    assert "have no spread" in capsys.readouterr().err
    assert main(["status", str(adapted.folder)]) == 0
    assert "finished" in capsys.readouterr().out
