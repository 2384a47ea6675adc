"""Studies of several tasks on one encoder: finding tickets, sharing them, fine-tuning, what they leave for others."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from helpers.models import HEADS, LAYERS, save_tiny_model
from helpers.several import SHARE, SMALL, outcomes
from helpers.study_files import contents
from supertickets import design
from supertickets.anatomy import Shape
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.labels import MT_DNN, RATES, SEARCH, SHARED, TICKET_SHARE, TUNED
from supertickets.evidence.rates import SPREAD
from supertickets.evidence.runs import TaskInfo, load_tasks, save_tasks
from supertickets.export.shared import load_shared
from supertickets.lab.outcome import WEIGHTS, load_outcome
from supertickets.lab.steps import Execution
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.studies import STUDIES
from supertickets.studies.config import merge_overrides, resolve_settings
from supertickets.studies.draw import draw_ticket
from supertickets.studies.find import FindSettings
from supertickets.studies.folder import clean, status
from supertickets.studies.report import report
from supertickets.studies.run import Result, check_request, run_study
from supertickets.studies.share import ShareSettings, fill_search
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, load_ticket

LIKE_BERT_BASE = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}


# --- share ------------------------------------------------------------------------------------------------------------


def test_a_study_of_share(shared: Result, places: dict[str, Path]) -> None:
    runs, tickets = shared.table, shared.findings.tickets
    assert set(runs["status"]) == {"finished"}
    assert list(runs.columns[:4]) == ["stage", "kind", "seed", "task"]
    assert set(zip(runs["kind"], runs["stage"], strict=True)) == set(product((MT_DNN, TICKET_SHARE), (SHARED, TUNED)))
    assert len(runs) == 4 * 2 * 2
    for task in ("words", "lengths"):
        assert tickets[task] == load_ticket(places[task] / "super-ticket").ticket
        assert load_ticket(shared.folder / "tickets" / task).ticket == tickets[task]
        own = runs[(runs["task"] == task) & (runs["kind"] == TICKET_SHARE)]
        assert set(own["heads"]) == {tickets[task].kept_heads}
    after = " + fine-tuning"
    assert list(shared.findings.table.index) == [MT_DNN, MT_DNN + after, TICKET_SHARE, TICKET_SHARE + after]
    assert shared.report.is_file()
    assert (shared.folder / "tables" / "table-3.md").is_file()


def test_tickets_that_were_only_drawn_are_shared_and_their_cards_say_how_much_they_keep(
    places: dict[str, Path], tmp_path: Path
) -> None:
    of_builtin = {"similarity": "words", "paraphrase": "lengths"}
    how: list[dict[str, Any]] = [{"level": 0.4}, {"target": "encoder-parameters=0.7"}]
    for (task, study), asked in zip(of_builtin.items(), how, strict=True):
        draw_ticket(places[study], tmp_path / task, **asked)
        said = tmp_path / task / "ticket.json"
        said.write_text(said.read_text().replace(f'"task": "{study}"', f'"task": "{task}"'))
    small = SHARE | {"seeds": 1, "epochs": 1, "max_train_examples": 32, "fine_tune": False}
    small.pop("fine_tune_epochs")
    result = run_study(
        "share",
        small,
        model=str(places["model"]),
        tickets=[tmp_path / task for task in of_builtin],
        out=tmp_path / "out",
    )
    cards = [(result.shipped["models"] / task / "README.md").read_text() for task in of_builtin]
    assert "level 0.4, seed 0" in cards[0]
    assert "within `encoder-parameters=0.7`, seed 0" in cards[1]
    for card in cards:
        assert "Trained together" in card
        assert "has not been trained" not in card


def test_a_study_of_given_tickets_does_not_search_for_others(
    shared: Result, places: dict[str, Path], tmp_path: Path
) -> None:
    asked = json.loads(shared.settings.model_dump_json())
    asked = {name: asked[name] for name in ("model", "max_length", "batch_size", "precision")}
    asked |= {"tasks": ("similarity", "paraphrase"), "workers": 1}
    with pytest.raises(TicketError, match=r"--tickets: the study in .* was given tickets; choose another folder"):
        run_study("share", asked, out=shared.folder)
    with pytest.raises(TicketError, match=r"--score-epoch 8: expected at most 2 \(--find-epochs\)"):
        run_study("share", asked, score_epoch=8, epochs=10, find_epochs=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_nobody_keeps_is_not_there(shared: Result) -> None:
    union = shared.findings.tickets["words"] | shared.findings.tickets["lengths"]
    assert not union.is_full
    sizes = {}
    for outcome in outcomes(shared.folder):
        if len(outcome.trial.tasks) == 2:
            sizes[outcome.trial.ticket.is_full] = outcome.cost["parameters"]
            assert outcome.has_weights
    gone = ~union
    expected = gone.kept_heads * 8 * (4 * 32 + 3) + gone.kept_ffns * (2 * 32 * 48 + 32 + 48)
    assert sizes[True] - sizes[False] == expected
    assert shared.findings.sizes.union == pytest.approx(sizes[False] / sizes[True])
    assert shared.findings.sizes.mean < shared.findings.sizes.union


def test_it_is_no_pilot(shared: Result) -> None:
    with pytest.raises(TicketError, match="it holds a study of `share`; expected one of `find`"):
        design(pilot=shared.folder, gain=2.0)


def test_the_table_tells_tasks_apart(shared: Result) -> None:
    """A task's last and best epochs are its own, and its dense model is the one with its output layer."""
    table = shared.table
    runs = [run for run in table.to_dict("records") if run["stage"] == SHARED]
    assert runs
    for run in runs:
        outcome = load_outcome(shared.folder / "trials" / run["trial"])
        assert outcome is not None
        own = [epoch["metrics"][run["task"]]["dev"]["score"] for epoch in outcome.epochs]
        assert (run["last_step"], run["best_of_epochs"]) == (own[-1], max(own))
    together = [load_outcome(shared.folder / "trials" / run["trial"]).epochs for run in runs]  # type: ignore[union-attr]
    assert any(run["last_step"] != epochs[-1]["score"] for run, epochs in zip(runs, together, strict=True))
    assert (table[table["kind"] == MT_DNN]["remaining"] == 1).all()
    assert (table[table["kind"] == TICKET_SHARE]["remaining"] < 1).all()
    assert pd.read_csv(shared.folder / "results.csv")["flops"].dropna().tolist() == table["flops"].dropna().tolist()


def test_sharing_costs_what_its_tickets_cost(shared: Result) -> None:
    flops = shared.table.groupby(["stage", "kind", "seed"])["flops"].sum()  # a shared training's are in one row
    for seed in (0, 1):
        # Fine-tuning a task has as many epochs here, on the task's ticket alone: the sum is what the sharing takes.
        assert flops[SHARED, TICKET_SHARE, seed] == flops[TUNED, TICKET_SHARE, seed]
        assert flops[SHARED, TICKET_SHARE, seed] < flops[SHARED, MT_DNN, seed]


def test_fine_tuning_starts_where_the_sharing_ended(given: dict[str, Any], tmp_path: Path) -> None:
    """With a learning rate of almost zero, the fine-tuned model is the shared one, output layer and all."""
    change = {"seeds": 1, "fine_tune_learning_rate": 1e-12, "fine_tune_epochs": 1}
    found = outcomes(run_study("share", given | change, out=tmp_path / "still").folder)
    shared = {o.key: o for o in found if len(o.trial.tasks) == 2}
    assert len(shared) == 2
    one, other = (o.predictions()["dev"][o.best_epoch - 1] for o in shared.values())
    assert np.abs(one - other).max() > 1e-2
    tuned = [outcome for outcome in found if outcome.trial.start is not None]
    assert len(tuned) == 4
    for outcome in tuned:
        if outcome.trial.start is not None:
            before = shared[outcome.trial.start.trial]
            expected = before.predictions(outcome.trial.start.output_layer)["dev"][before.best_epoch - 1]
            assert np.allclose(outcome.predictions()["dev"][0], expected, rtol=1e-4, atol=1e-6)


def test_run_again_trains_nothing(shared: Result, given: dict[str, Any]) -> None:
    before = contents(shared.folder)
    stamps = {path: path.stat().st_mtime_ns for path in (shared.folder / "trials").glob("*/outcome.json")}
    model = (shared.shipped["model"] / "shared.json").stat().st_mtime_ns
    again = run_study("share", given, out=shared.folder)
    assert contents(again.folder) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (shared.shipped["model"] / "shared.json").stat().st_mtime_ns == model
    report([shared.folder])
    assert contents(shared.folder) == before
    assert status(shared.folder)["state"] == "finished"
    assert status(shared.folder)["done"] == 12


def test_lost_weights_are_trained_again_when_needed(shared: Result, tmp_path: Path, given: dict[str, Any]) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    kept = list((copy / "trials").glob(f"*/{WEIGHTS}"))
    clean(copy)
    assert list((copy / "trials").glob(f"*/{WEIGHTS}")) == kept  # what others may start from
    for path in kept:
        path.unlink()
    tuned = next(outcome.folder for outcome in outcomes(copy) if outcome.trial.start is not None)
    (tuned / "outcome.json").unlink()
    run_study("share", given, out=copy)
    found, expected = load_outcome(tuned), load_outcome(shared.folder / "trials" / tuned.name)
    assert found is not None
    assert expected is not None
    assert found.epochs == expected.epochs


def test_a_failed_trial_gets_its_start_back(shared: Result, given: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    tuned = next(outcome.folder for outcome in outcomes(copy) if outcome.trial.start is not None)
    (tuned / "outcome.json").unlink()
    (tuned / "failure.json").write_text(json.dumps({"label": "x", "tries": 3, "traceback": "no memory"}))
    for path in (copy / "trials").glob(f"*/{WEIGHTS}"):
        path.unlink()
    result = run_study("share", given, out=copy)
    assert not result.failures
    assert load_outcome(tuned) is not None


def test_damaged_weights_lose_nothing(shared: Result, tmp_path: Path) -> None:
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


def test_places_and_what_is_kept_may_change(
    shared: Result, places: dict[str, Path], given: dict[str, Any], tmp_path: Path
) -> None:
    copy, elsewhere = tmp_path / "share", tmp_path / "elsewhere"
    shutil.copytree(shared.folder, copy)
    for task in ("words", "lengths"):
        shutil.copytree(places[task], elsewhere / task)
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("outcome.json")}
    tickets = (elsewhere / "words", elsewhere / "lengths")
    run_study("share", given | {"tickets": tickets, "keep": "all"}, out=copy)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_failure_while_a_ticket_is_looked_for_leaves_it_unshared(
    searching: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what did finish a lesser ticket could be drawn: nothing is trained with it, and it is looked for again."""
    run = Workbench.run

    def breaking(self: Workbench, job: Any, tell: Any) -> Any:
        if job.trial.ticket.kept_ffns == LAYERS - 1:
            raise RuntimeError("no memory")
        return run(self, job, tell)

    with monkeypatch.context() as patched:
        patched.setattr(Workbench, "run", breaking)
        result = run_study("share", searching, levels=(0.3, 0.6), out=tmp_path / "out")
    looked = {f"winning 0.3 seed 0, search, {task}" for task in searching["tasks"]}
    assert set(result.failures) == looked
    assert set(status(tmp_path / "out")["failures"]) == looked
    stages = result.table.set_index(["stage", "kind"])["status"]
    assert set(stages[SHARED, MT_DNN]) == {"finished"}
    assert set(stages[SHARED, TICKET_SHARE]) == {"missing"}
    again = run_study("share", searching, levels=(0.3, 0.6), out=tmp_path / "out")
    assert not again.failures
    assert set(again.table["status"]) == {"finished"}


@pytest.fixture
def searching(tiny_model: Path) -> dict[str, Any]:
    """What a study of `share` without tickets is asked for."""
    return SMALL | {
        "model": str(tiny_model),
        "tasks": ("similarity", "paraphrase"),
        "seeds": 1,
        "epochs": 1,
        "find_epochs": 1,
        "max_train_examples": 24,
        "fine_tune": False,
        "keep": "none",
    }


def test_tickets_are_found_first_where_none_are_given(searching: dict[str, Any], tmp_path: Path) -> None:
    asked, out = searching | {"levels": (0.3, 0.6)}, tmp_path / "out"
    result = run_study("share", asked, out=out)
    runs, tickets = result.table, result.findings.tickets
    assert set(runs["status"]) == {"finished"}
    assert list(tickets) == ["similarity", "paraphrase"]
    assert set(zip(runs["stage"], runs["kind"], strict=True)) == {
        (SEARCH, "dense"), (SEARCH, "winning"), (SHARED, MT_DNN), (SHARED, TICKET_SHARE),
    }  # fmt: skip
    assert sorted(path.name for path in (out / "tickets").iterdir()) == ["paraphrase", "similarity"]
    found = {outcome.key: outcome for outcome in outcomes(out)}
    (together,) = [o.trial for o in found.values() if len(o.trial.tasks) == 2 and not o.trial.ticket.is_full]
    for place, (task, ticket) in enumerate(tickets.items()):
        searched = runs[(runs["task"] == task) & (runs["kind"] == "winning")]
        best = searched.sort_values(["score", "parameters"], ascending=[False, True])["trial"].iloc[0]
        assert found[best].trial.ticket == together.tasks[place].ticket == ticket
        assert load_ticket(out / "tickets" / task).ticket == ticket
        origin = json.loads((out / "tickets" / task / "ticket.json").read_text())["origin"]
        assert origin["recipe"]["learning_rate"] == 3e-3
        assert origin["trial"] == best
        assert len(load_task(together.tasks[place].source).train) == 24
    assert not list(out.rglob(WEIGHTS))
    assert result.shipped == {}
    assert not (out / "model").exists()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("outcome.json")}
    run_study("share", asked, out=out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("outcome.json")} == stamps


def test_a_search_is_a_study_of_find(searching: dict[str, Any], tmp_path: Path) -> None:
    """The same trials, so that tickets that were found alone are those that would have been found here."""
    asked = searching | {"tasks": ("similarity", "paraphrase"), "levels": (0.3, 0.6), "max_train_examples": None}

    def trials(name: str, settings: dict[str, Any]) -> list[tuple[Any, ...]]:
        kind = STUDIES[name]
        request = kind.prepare(merge_overrides(kind.settings, settings, {}))
        infos = check_request(kind, request)
        steps = list(kind(request.inputs).steps(request.settings, infos))
        ended = Execution(steps)
        ended.begin()
        made = {str(run.step.labels.get("task", "")): run.trial.key for run in ended.runs if run.trial is not None}
        return list(made.items())

    together = dict(trials("share", asked | {"out": tmp_path / "share"}))
    for task in asked["tasks"]:
        alone = {name: value for name, value in asked.items() if name in FindSettings.model_fields}
        alone |= {"task": task, "epochs": 1, "kinds": ("winning",), "out": tmp_path / task}
        assert trials("find", alone) == [("", together[task])]
    other = {name: value for name, value in asked.items() if name in FindSettings.model_fields}
    other |= {"task": "similarity", "epochs": 2, "kinds": ("winning",), "out": tmp_path / "other"}
    assert trials("find", other) != [("", together["similarity"])]  # control


SETTLED = {"tasks": ("rte", "mnli"), "precision": "float32"}


def task_info(task: str) -> TaskInfo:
    source, shape = TaskSource(task=task), Shape(12, 12, 768, 3072)
    return TaskInfo("m", "bert", "w", shape, task, task, (), ("accuracy",), 9, np.zeros(2), source)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("paper", {"rte": (6, None), "mnli": (6, None)}), ("released", {"rte": (6, 4), "mnli": (3, None)})],
)
def test_epochs_of_a_single_task_are_not_those_of_the_sharing(
    preset: str, expected: dict[str, tuple[int, int | None]], tmp_path: Path
) -> None:
    """Tickets are looked for with each task's own epochs, fine-tuning has six; the sharing itself five."""
    base = replace(find_model("default"), config={**find_model("default").config, **LIKE_BERT_BASE})
    settings = resolve_settings(ShareSettings, SETTLED | {"preset": preset, "out": tmp_path}, base)
    assert settings.recipe.epochs == 5
    assert [settings.fine_tuning(task).epochs for task in settings.tasks] == [6, 6]

    def searched(settings: ShareSettings) -> dict[str, tuple[int, int | None]]:
        found = [fill_search(settings, task_info(task)) for task in settings.tasks]
        assert all(whole.learning_rate == settings.learning_rate for whole in found)
        return {whole.task: (whole.epochs, whole.score_epoch) for whole in found}

    assert searched(settings) == expected
    assert searched(settings.model_copy(update={"find_epochs": 2})) == dict.fromkeys(expected, (2, None))
    small = resolve_settings(ShareSettings, SETTLED, find_model("default"))
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
    assert resolve_settings(ShareSettings, {"preset": "released"}, base).updates == "leaky"
    assert resolve_settings(ShareSettings, {"preset": "released"}, base).epochs == 5
    assert resolve_settings(ShareSettings, {}, base).updates == "strict"


# --- what a shared model leaves ---------------------------------------------------------------------------------------


def best_shared(result: Result) -> Any:
    key = json.loads((result.shipped["model"] / "shared.json").read_text())["trial"]
    return next(outcome for outcome in outcomes(result.folder) if outcome.key == key)


PREDICT = """
import json, sys
from supertickets import load_shared
from supertickets.export.predict import predict
from pathlib import Path
shared = load_shared(sys.argv[1])
for task, (folder, texts) in json.loads(sys.argv[2]).items():
    print(json.dumps([shared.predict(task, texts).tolist(), predict(Path(folder), texts, None, 16).tolist()]))
"""


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_shared_models_predict_as_in_training(
    shared: Result, fresh: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process and in a fresh one, together and each task's model alone."""
    outcome = best_shared(shared)
    tasks = {task: place for place, task in enumerate(("words", "lengths"))}
    asked = {
        task: (str(shared.shipped["models"] / task / "model"), load_task(outcome.trial.tasks[place].source).dev.text)
        for task, place in tasks.items()
    }
    words = ["-c", str(shared.shipped["model"]), json.dumps(asked)]
    if fresh:
        command = [sys.executable, "-c", PREDICT, *words[1:]]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        monkeypatch.setattr(sys, "argv", words)
        exec(PREDICT, {})
        said = capsys.readouterr().out
    for place, line in zip(tasks.values(), said.splitlines(), strict=True):
        expected = outcome.predictions(place)["dev"][outcome.best_epoch - 1]
        assert expected.std(axis=0).max() > 1e-2  # a constant would show nothing
        for found in json.loads(line):
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_shared_model_has_one_encoder_and_small_parts(shared: Result, places: dict[str, Path]) -> None:
    loaded = load_shared(shared.shipped["model"])
    assert [task.name for task in loaded.tasks] == ["words", "lengths"]
    assert [len(task.labels) for task in loaded.tasks] == [2, 3]
    assert loaded.model("words").base_model is loaded.model("lengths").base_model
    assert loaded.model("lengths").config.id2label == {0: "0", 1: "1", 2: "2"}
    other = {task: loaded.predict(task, ["w1 w2 w3"]) for task in ("words", "lengths", "words")}
    assert np.array_equal(other["words"], loaded.predict("words", ["w1 w2 w3"]))
    for task in ("words", "lengths"):
        folder, ticket = shared.shipped["models"] / task, shared.findings.tickets[task]
        small = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        cut_away = (~ticket).kept_heads * 8 * (4 * 32 + 3)
        ffns = (~ticket).kept_ffns * (2 * 32 * 48 + 32 + 48)
        outputs = len(loaded.model(task).config.id2label)
        dense = ModelSource(find_model(str(places["model"]))).build(outputs, 0.0, 0).num_parameters()
        assert small.num_parameters() == dense - cut_away - ffns
        assert load_ticket(folder).origin["shared_with"] == [name for name in ("words", "lengths") if name != task]
    with pytest.raises(TicketError, match="unknown task 'word': did you mean 'words'"):
        loaded.model("word")
    with pytest.raises(TicketError, match="expected a list of texts"):
        loaded.predict("words", "w1 w2")  # type: ignore[arg-type]
    with pytest.raises(TicketError, match="task 'words': expected single texts"):
        loaded.predict("words", ["w1 w2"], ["w3"])
    assert loaded.predict("words", []).shape == (0, 2)
    with pytest.raises(TicketError, match="use the task's own"):
        loaded.model("words").save_pretrained("nowhere")  # its layers are not a stock model's


@pytest.mark.parametrize("what", ["none", "newer", "truncated", "not json", "no outputs", "an output layer less"])
def test_a_folder_without_a_whole_shared_model(shared: Result, tmp_path: Path, what: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(shared.shipped["model"], copy)
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


# --- other learning rates and seeds -----------------------------------------------------------------------------------


def test_fine_tuning_with_other_learning_rates_and_seeds(shared: Result, given: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "share"
    shutil.copytree(shared.folder, copy)
    count = len(outcomes(copy))
    result = run_study("share", given, learning_rates=(3e-3, 1e-3), rate_seeds=2, out=copy)
    # seed 0 with the study's own learning rate is remembered
    assert len(outcomes(copy)) == count + 2 * 2 * (2 * 2 - 1)
    runs, spread = result.table[result.table["stage"] == RATES], result.findings.spread
    assert set(runs["status"]) == {"finished"}
    for kind in (MT_DNN, TICKET_SHARE):
        for task in ("words", "lengths"):
            own = runs[(runs["kind"] == kind) & (runs["task"] == task)]
            table = own.pivot(index="seed", columns="learning_rate", values="score").to_numpy()
            assert spread[SPREAD[0]].loc[kind, task] == pytest.approx(table.mean(axis=1).std(ddof=1))
            assert spread[SPREAD[1]].loc[kind, task] == pytest.approx(table.mean(axis=0).std(ddof=1))
    assert "Table 8" in result.report.read_text()
    assert (copy / "tables" / "spread-over-learning-rates.csv").is_file()
    assert result.findings.gains.equals(shared.findings.gains)  # the rest is what it was
    by_key = {outcome.key: outcome for outcome in outcomes(copy)}
    first = {o.key for o in by_key.values() if len(o.trial.tasks) == 2 and o.trial.seed == 0}
    tuned = [by_key[key].trial for key in runs["trial"]]
    assert {trial.start.trial for trial in tuned} == first
    assert {trial.seed for trial in tuned} == {0, 1}


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_share(places: dict[str, Path], shared: Result, tmp_path: Path, capsys: Any) -> None:
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
    begun = shutil.copytree(unfinished, tmp_path / "begun")
    shutil.copy(places["words"] / "study.safetensors", begun)
    dense = shutil.copytree(begun, tmp_path / "dense")
    content = yaml.safe_load((dense / "settings.yaml").read_text())
    (dense / "settings.yaml").write_text(yaml.safe_dump({**content, "kinds": []}))
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
        ("--tickets", lengths, "--tickets", str(other)): "with 2 layers x 2 heads, but model",
        ("--tickets", lengths, "--tickets", str(foreign)): "with weights 000000000000",
        ("--tickets", words, "--tickets", lengths, "--model", str(wrong)): "use tickets of that model, or --model "
        + ticket.base["name"],
        ("--tickets", str(nameless)): "does not say which task",
        ("--tickets", str(unfinished)): "the study has not begun",
        ("--tickets", str(dense)): f"--tickets {dense}: the study has no winning tickets (--kinds none).",
        ("--tickets", str(begun)): "there is no super ticket in it",
        (
            "--tickets",
            str(shared.folder),
        ): "a study of `share` has no tickets to use; expected `find` or, for `transfer`, `imp`",
        ("--tickets", str(tmp_path / "nowhere")): "no such folder",
        ("--tasks", "entailmnet,rte"): "did you mean 'entailment'",
        ("--max-train-examples", "1"): "--max-train-examples",
        ("--tasks", "entailment,paraphrase", "--levels", "0"): "--levels 0: a ticket of level 0 is the dense model",
        (
            "--tasks",
            "entailment,paraphrase",
            "--max-train-examples",
            "2",
        ): "--max-train-examples 2: task 'entailment' has 3 classes",
        ("--updates", "lax"): "--updates: unknown value 'lax'; ",
        ("--learning-rates", "1e-3", "--seeds", "1"): "--learning-rates: expected at least two learning rates",
        ("--learning-rates", "1e-3", "--rate-seeds", "1"): "--learning-rates: expected at least two learning rates",
        ("--rate-seeds", "2"): "--rate-seeds: it would change nothing, since --learning-rates is not set",
    }
    for arguments, message in cases.items():
        model = () if "--model" in arguments else ("--model", str(places["model"]))
        out = tmp_path / "out"
        assert main(["share", *arguments, *model, "--out", str(out)]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1
        assert not out.exists()


def test_a_folder_of_other_tickets_is_refused(
    shared: Result, places: dict[str, Path], given: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "words"
    shutil.copytree(places["words"], other)
    ticket = load_ticket(other / "super-ticket")
    changed = Ticket.from_pruned(LAYERS, HEADS, [(0, 0)])
    SharedTicket(changed, ticket.base, ticket.origin, ticket.versions).save(other / "super-ticket", "")
    with pytest.raises(TicketError, match=r"created with different tickets \(that of words\); choose another folder"):
        run_study("share", given | {"tickets": (other, places["lengths"])}, out=shared.folder)


def test_one_task_under_two_names_is_refused(places: dict[str, Path], given: dict[str, Any], tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(places["words"], again)
    (info,) = load_tasks(again)
    save_tasks(again, [replace(info, task="others", source=info.source.model_copy(update={"task": "others"}))])
    path = again / "super-ticket" / "ticket.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "origin": {**content["origin"], "task": "others"}}))
    with pytest.raises(TicketError, match="tasks 'words' and 'others' have the same examples"):
        run_study("share", given | {"tickets": (places["words"], again)}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_speaks(shared: Result, places: dict[str, Path], capsys: Any) -> None:
    flags = [part for name, value in SHARE.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    tickets = ["--tickets", f"{places['words']},{places['lengths']}", "--model", str(places["model"])]
    assert main(["share", *flags, *tickets, "--out", str(shared.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = {row["name"]: row["Union size"] for row in found["tables"]["table 3"]}
    assert sizes[TICKET_SHARE] == f"{shared.findings.sizes.union:.1%}"
    assert len(found["results"]) == 16
    assert found["verdict"] == shared.verdict
    assert (Path(found["shipped"]["models"]) / "words").is_dir()
    assert main(["share", "--config", str(shared.folder / "settings.yaml"), "--out", str(shared.folder)]) == 0
    assert "Table 3" in capsys.readouterr().out
