"""Studies of transfer: tickets of weights and of heads and FFNs on tasks that they were not found on."""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers.models import save_tiny_model
from helpers.study_files import contents
from helpers.trials import write_words
from supertickets.errors import TicketError
from supertickets.evidence.imp import IMP
from supertickets.evidence.runs import DENSE, Runs, load_tasks
from supertickets.lab import Outcome, Trial
from supertickets.lab.jobs import Job
from supertickets.lab.steps import Execution
from supertickets.lab.workbench import Workbench
from supertickets.models import find_model, prunable_weights
from supertickets.studies.config import merge_overrides, save_settings, settings_in
from supertickets.studies.inputs import OpenStudy, open_study
from supertickets.studies.run import Result, check_request, run_study
from supertickets.studies.study import Request
from supertickets.studies.transfer import Transfer, TransferPlan
from supertickets.studies.transfer_settings import RECIPE, TransferSettings
from supertickets.tickets.folder import SharedTicket, load_ticket, load_weight_ticket
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude
from supertickets.training.recipe import Recipe

SMALL: dict[str, Any] = {
    "seeds": 1,
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "max_length": 16,
    "workers": 1,
    "precision": "float32",
}
HERE = {"workers": 1, "precision": "float32"}
ONE_SHOT, RANDOM = "one-shot", "random"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, words: dict[str, Path]) -> dict[str, Path]:
    """Studies of `imp` and of `find` of two tasks, `words` and `lengths`; one has the ways to rewind beside it."""
    folder = tmp_path_factory.mktemp("transfer")
    lengths = {
        name: write_words(folder / f"lengths-{name}.jsonl", size, seed, lambda w: len(w) % 3)
        for seed, (name, size) in enumerate((("train_file", 48), ("dev_file", 30)), start=5)
    }
    for task, files, ways in (("words", words, "0"), ("lengths", lengths, ("0", "none"))):
        common = SMALL | {"model": str(tiny_model), "task": task, **files}
        searched = {"sparsities": (0.3, 0.5), "controls": "one-shot", "control_sparsities": 0.5, "rewind": ways}
        run_study("imp", common, **searched, out=folder / f"imp-{task}")
        run_study("find", common, levels=(0.4,), kinds=("winning",), keep="none", out=folder / f"find-{task}")
    shutil.copytree(folder / "imp-lengths" / "ticket", folder / "lengths-ticket")
    return {"model": tiny_model, **{path.name: path for path in folder.iterdir() if path.is_dir()}}


@pytest.fixture(scope="module")
def asked(places: dict[str, Path]) -> dict[str, Any]:
    return {
        **HERE,
        "model": str(places["model"]),
        "tickets": (places["imp-words"], places["imp-lengths"]),
        "sparsity": 0.5,
        "baselines": (ONE_SHOT, RANDOM),
        "seeds": 2,
    }


@pytest.fixture(scope="module")
def done(asked: dict[str, Any], places: dict[str, Path]) -> Result:
    return run_study("transfer", asked, out=places["model"].parent / "transfer-of-weights")


def transfer(asked: dict[str, Any], **settings: Any) -> Result:
    return run_study("transfer", asked, **settings)


def runs_of(folder: Path) -> Runs:
    return open_study(folder).replay()


SOURCES = ["words", "lengths", "lengths (not rewound)", ONE_SHOT, RANDOM]


def test_every_source_on_every_target(done: Result) -> None:
    runs = done.table
    assert set(runs["status"]) == {"finished"}
    assert len(runs) == 2 * 2 * (1 + len(SOURCES))
    assert list(runs["source"].unique()) == [DENSE, *SOURCES]
    assert list(runs["kind"].unique()) == [DENSE, "ticket", ONE_SHOT, RANDOM]
    assert list(done.findings.gains.index) == SOURCES
    assert set(runs["task"]) == {"words", "lengths"}
    assert len(list((done.folder / "trials").iterdir())) == len(runs)
    names = [str(run.step) for run in runs_of(done.folder).runs[: 1 + len(SOURCES)]]
    assert names[:2] + names[4:] == [
        "dense seed 0, words",
        "ticket 0.5 seed 0, words, words",
        "one-shot 0.5 seed 0, words",
        "random 0.5 seed 0, words",
    ]
    scores = runs.set_index(["source", "task", "seed"])["score"].sort_index()
    for source in SOURCES:
        for target in ("words", "lengths"):
            gain = scores[source, target].mean() - scores[DENSE, target].mean()
            assert done.findings.gains.loc[source, target] == pytest.approx(gain)
    assert not list(done.folder.rglob("weights.safetensors"))


def test_tickets_of_their_own_task_are_what_their_studies_trained(done: Result, places: dict[str, Path]) -> None:
    """The diagonal is, for the study's seed, the very trial of `imp`; the dense and one-shot rows come out the same."""
    found = runs_of(done.folder)
    for task, other in (("words", "lengths"), ("lengths", "words")):
        study = runs_of(places[f"imp-{task}"])
        own = played(study, kind=IMP, sparsity=0.5, rewind="")
        assert played(found, source=task, task=task).key == own.key
        assert played(found, source=DENSE, task=task).epochs == played(study, kind=DENSE).epochs
        one_shot = played(study, kind=ONE_SHOT, sparsity=0.5)
        assert played(found, source=ONE_SHOT, task=task).epochs == one_shot.epochs
        assert played(found, source=other, task=task).epochs != own.epochs  # control
    # Judged where it was found by going on, here from the pre-trained weights.
    going_on = played(study, kind=IMP, sparsity=0.5, rewind="not rewound")
    here = played(found, source="lengths (not rewound)", task="lengths")
    assert going_on.trial.start is not None
    assert here.trial.start is None
    assert here.trial.mask is not None
    assert going_on.trial.mask is not None
    assert here.trial.mask.digest == going_on.trial.mask.digest != own.trial.mask.digest  # type: ignore[union-attr]


def played(runs: Runs, **labels: Any) -> Outcome:
    """Return the outcome of a run of the first seed."""
    (run,) = runs.where(**labels, seed=0)
    assert run.outcome is not None
    return run.outcome


def trials(runs: Runs, **labels: Any) -> list[Trial]:
    return [run.trial for run in runs.where(**labels) if run.trial is not None]


def test_all_are_equally_sparse(done: Result, places: dict[str, Path]) -> None:
    plan = open_study(done.folder).study.inputs
    tickets = {source.name: source.found(done.folder) for source in plan.sources if source.name != RANDOM}
    assert list(tickets) == [name for name in SOURCES if name != RANDOM]
    for ticket in tickets.values():
        assert isinstance(ticket, WeightTicket)
        assert ticket.total - ticket.kept == (ticket.total + 1) // 2
    weights = prunable_weights(find_model(str(places["model"])), Pruning.model_validate({}))
    assert tickets[ONE_SHOT] == prune_by_magnitude(weights, 0.5)
    random = [trial.mask for trial in trials(runs_of(done.folder), kind=RANDOM)]
    assert {(mask.how, mask.sparsity, mask.seed) for mask in random if mask} == {("random", 0.5, 0), ("random", 0.5, 1)}
    overlaps = done.findings.overlaps.set_index(["one", "other"])
    assert len(overlaps) == 6
    assert (overlaps["jaccard"] > overlaps["chance"] + 0.1).all()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trials that run meanwhile."""
    keys: list[str] = []
    run = Workbench.run

    def counting(self: Workbench, job: Job, report: Any) -> Any:
        keys.append(job.trial.key)
        return run(self, job, report)

    monkeypatch.setattr(Workbench, "run", counting)
    return keys


def test_run_again_trains_nothing(done: Result, asked: dict[str, Any], ran: list[str], tmp_path: Path) -> None:
    before = contents(done.folder)
    transfer(asked, out=done.folder)
    assert contents(done.folder) == before
    moved = tmp_path / "moved"
    shutil.copytree(done.folder, moved)
    assert ran == []
    (moved / "trials" / sorted(path.name for path in (moved / "trials").iterdir())[0] / "outcome.json").unlink()
    pd.testing.assert_frame_equal(
        transfer(asked, out=moved).table.drop(columns="seconds"), done.table.drop(columns="seconds")
    )
    assert len(ran) == 1


def test_the_command_again_trains_nothing(done: Result, ran: list[str], capsys: Any) -> None:
    from supertickets.cli import main
    from supertickets.studies.folder import status

    assert status(done.folder)["state"] == "finished"
    before = contents(done.folder)
    assert main(["transfer", "--config", str(done.folder / "settings.yaml"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["results"]) == len(done.table)
    assert contents(done.folder) == before
    assert ran == []


def test_one_target_with_its_own_recipe(asked: dict[str, Any], places: dict[str, Path], tmp_path: Path) -> None:
    """A ticket folder and a study; settings that are asked for win over those of the target's study."""
    tickets = (places["imp-words"], places["lengths-ticket"])
    level = float(load_weight_ticket(places["lengths-ticket"]).origin["sparsity"])
    options = asked | {"tickets": tickets, "sparsity": level, "seeds": 1, "baselines": "none", "epochs": 2}
    result = transfer(options, tasks="words", keep="all", out=tmp_path / "out")
    assert len(list(result.folder.glob("trials/*/weights.safetensors"))) == 3
    assert list(result.table["source"]) == [DENSE, "words", "lengths"]
    recipes = {trial.recipe for trial in trials(runs_of(result.folder))}
    study = settings_in(places["imp-words"])
    assert recipes == {study.recipe.model_copy(update={"epochs": 2})}


@dataclass(frozen=True)
class Planned:
    """What `transfer` would run."""

    request: Request

    @property
    def settings(self) -> TransferSettings:
        settings: TransferSettings = self.request.settings
        return settings

    @property
    def plan(self) -> TransferPlan:
        assert isinstance(self.request.inputs, TransferPlan)
        return self.request.inputs

    @cached_property
    def trials(self) -> list[Trial]:
        execution = Execution(Transfer(self.plan).steps(self.settings, check_request(Transfer, self.request)))
        execution.begin()
        return [run.trial for run in execution.runs if run.trial is not None]


def planned(config: Any = None, quiet: bool = True, **asked: Any) -> Planned:
    """Prepare a study, which writes nothing."""
    found = Planned(Transfer.prepare(merge_overrides(TransferSettings, config, asked), quiet))
    assert not found.settings.folder.exists()
    return found


RECIPES: dict[str, Any] = {
    "epochs": 5, "batch_size": 4, "learning_rate": 1e-3, "max_length": 12, "optimizer": "adamax", "warmup": 0.3,
    "lr_schedule": "released", "weight_decay": 0.5, "max_grad_norm": 2.0, "dropout": 0.4, "order": "released",
    "patience": 2, "keep_epoch": "best", "dropout_masks": "sequential",
}  # fmt: skip


@pytest.fixture(scope="module")
def usual(asked: dict[str, Any], places: dict[str, Path]) -> set[Recipe]:
    """The recipes of the targets where no setting of theirs is asked for."""
    return {trial.recipe for trial in planned(**asked, out=places["model"].parent / "usual").trials}


@pytest.mark.parametrize("name", RECIPE)
def test_every_recipe_setting_reaches_every_target(
    name: str, asked: dict[str, Any], usual: set[Recipe], tmp_path: Path
) -> None:
    changed = planned(**asked | {name: RECIPES[name]}, out=tmp_path / "out")
    assert {trial.recipe for trial in changed.trials} == {r.model_copy(update={name: RECIPES[name]}) for r in usual}
    assert RECIPES[name] not in {getattr(recipe, name) for recipe in usual}


def test_recipe_settings_that_are_read_again_are_the_same(asked: dict[str, Any], tmp_path: Path) -> None:
    changed = planned(**asked | RECIPES, out=tmp_path / "out")
    assert all(getattr(changed.settings, name) == value for name, value in RECIPES.items())
    save_settings(changed.settings.model_copy(update={"out": tmp_path / "saved"}))
    again = planned(tmp_path / "saved" / "settings.yaml", out=tmp_path / "again")
    assert [trial.key for trial in again.trials] == [trial.key for trial in changed.trials]


def test_patience_0_is_never_and_nothing_is_the_targets_own(asked: dict[str, Any], tmp_path: Path) -> None:
    for patience, expected in ((2, 2), (0, None), (None, None)):  # imp has none
        study = planned(**asked, patience=patience, out=tmp_path / str(patience))
        assert {trial.recipe.patience for trial in study.trials} == {expected}
        assert study.settings.patience == patience


def test_a_preset_that_is_asked_for_is_every_targets(asked: dict[str, Any], tmp_path: Path) -> None:
    for preset, dropout in (("paper", 0.3), ("released", 0.2)):
        study = planned(**asked | {"tasks": ("words", "entailment"), "preset": preset}, out=tmp_path / preset)
        recipes = [target.recipe for target in study.plan.targets]
        assert {recipe.learning_rate for recipe in recipes} == {2e-4}  # the words' own study has 1e-2
        assert study.settings.preset_recipe(study.request.base.shape, "MNLI").dropout == dropout
        assert study.settings.first_seed == (57 if preset == "released" else 0)


def test_the_highest_sparsity_that_all_have(
    asked: dict[str, Any],
    places: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Studies went to 0.5; without the tickets of 0.5 of one of them, to 0.3."""
    free = asked | {"sparsity": None}
    assert planned(**free, quiet=False, out=tmp_path / "out").plan.sparsity == pytest.approx(0.5, abs=1e-3)
    assert "--sparsity: using 0.5, the highest sparsity that all --tickets have." in capsys.readouterr().err
    planned(**asked, quiet=False, out=tmp_path / "asked")
    assert "--sparsity" not in capsys.readouterr().err
    short = Path(shutil.copytree(places["imp-words"], tmp_path / "short"))
    outcome = played(runs_of(short), kind=IMP, sparsity=0.3)
    (outcome.folder / "mask.safetensors").unlink()  # of 0.5
    pair = {"tickets": (short, places["imp-lengths"])}
    study = planned(**free | pair, quiet=False, out=tmp_path / "low")
    assert study.plan.sparsity == pytest.approx(0.3, abs=1e-3)
    assert study.settings.sparsity == 0.3
    assert "using 0.3" in capsys.readouterr().err
    with pytest.raises(TicketError, match=rf"--sparsity 0.5: not all --tickets .*{short} has 0.3; .* has 0.3, 0.5"):
        transfer(asked | pair)
    mixed = {"tickets": (places["imp-words"], places["lengths-ticket"]), "tasks": ("words",)}
    level = float(load_weight_ticket(places["lengths-ticket"]).origin["sparsity"])
    assert planned(**free | mixed, out=tmp_path / "mixed").plan.sparsity == pytest.approx(level, abs=1e-3)
    other = {0.3: 0.5, 0.5: 0.3}[level]
    with pytest.raises(TicketError, match=rf"--sparsity {other}: not all --tickets have a ticket of this sparsity"):
        transfer(asked | mixed | {"sparsity": other})


def test_sparsities_that_are_near_are_not_the_same(
    asked: dict[str, Any],
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.271 of one study is not 0.27 of another; a ticket folder's sparsity is what came out."""
    there = {places["imp-words"]: [0.271, 0.3], places["imp-lengths"]: [0.27, 0.3, 0.5]}
    monkeypatch.setattr(OpenStudy, "sparsities", lambda study: there[study.folder])
    assert planned(**asked | {"sparsity": None}, out=tmp_path / "out").settings.sparsity == 0.3
    there = {path: found[:1] for path, found in there.items()}
    with pytest.raises(TicketError, match=r"no sparsity in common.* has 0.271; .* has 0.27\."):
        transfer(asked | {"sparsity": None})


def test_another_study_in_the_folder_is_refused(done: Result, asked: dict[str, Any], places: dict[str, Path]) -> None:
    before, settings = contents(done.folder), (done.folder / "settings.yaml").read_bytes()
    assert not list(done.folder.glob("trials/*/weights.safetensors"))  # nobody's, by default
    both = (places["imp-lengths"], places["imp-words"])
    for changes, message in (
        ({"tickets": both}, "different (sources|examples)"),
        ({"baselines": (ONE_SHOT,)}, "different settings"),
        ({"epochs": 3}, "different recipes"),
        ({"warmup": 0.5}, "different recipes"),
        ({"sparsity": 0.3}, "different tickets"),
    ):
        with pytest.raises(TicketError, match=message):
            transfer({**asked, **changes}, out=done.folder)
    assert contents(done.folder) == before
    assert (done.folder / "settings.yaml").read_bytes() == settings


# --- heads and FFNs ---------------------------------------------------------------------------------------------------


def test_structured_tickets(asked: dict[str, Any], places: dict[str, Path], tmp_path: Path, ran: list[str]) -> None:
    tickets = (places["find-words"], places["find-lengths"] / "super-ticket")
    files = {"data": None} | asked | {"tickets": tickets, "seeds": 1, "sparsity": None}
    with pytest.raises(TicketError, match="--sparsity: tickets of heads and FFNs have no sparsity to choose"):
        transfer(files | {"sparsity": 0.5}, out=tmp_path / "out")
    for name, value in (("baselines", (ONE_SHOT, RANDOM)), ("pooler", False), ("scope", "tensor")):
        with pytest.raises(TicketError, match=f"--{name}: .* is for tickets of single weights"):
            transfer(files | {"baselines": (RANDOM,), name: value}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    files["baselines"] = (RANDOM,)
    result = transfer(files | {"tickets": (tickets[0], places["find-lengths"])}, out=tmp_path / "out")
    runs = result.table
    assert list(dict.fromkeys(runs["source"])) == [DENSE, "words", "lengths", RANDOM]  # one-shot is of weights
    assert set(runs["status"]) == {"finished"}
    plan = open_study(result.folder).study.inputs
    found = {task: load_ticket(places[f"find-{task}"] / "super-ticket").ticket for task in ("words", "lengths")}
    lost = [1 - (t.kept_heads + t.kept_ffns) / (t.heads.size + t.ffns.size) for t in found.values()]
    assert plan.sparsity == pytest.approx(sum(lost) / 2, abs=1e-4)
    runs_here = runs_of(result.folder)
    for task in ("words", "lengths"):
        here = played(runs_here, source=task, task=task)
        assert here.trial.ticket == found[task]
        assert here.trial.mask is None
        outcome = played(runs_of(places[f"find-{task}"]), kind="winning")
        assert outcome.trial.ticket == found[task]
        assert here.epochs == outcome.epochs  # the same-task diagonal
    count = len(ran)
    before = contents(result.folder)
    transfer(files | {"tickets": (tickets[0], places["find-lengths"])}, out=tmp_path / "out")
    assert len(ran) == count
    assert contents(result.folder) == before


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_transfer(done: Result, places: dict[str, Path], tmp_path: Path) -> None:
    words, lengths = str(places["imp-words"]), str(places["imp-lengths"])
    wrong = save_tiny_model(tmp_path / "wrong", seed=3)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(places["imp-words"] / "settings.yaml", unfinished)
    stopped = tmp_path / "stopped"
    shutil.copytree(places["imp-words"], stopped)
    for path in stopped.glob("trials/*/mask.safetensors"):
        path.unlink()
    shared = load_weight_ticket(places["lengths-ticket"])
    foreign = tmp_path / "foreign"
    SharedTicket(shared.ticket, {**shared.base, "weight_hash": "0" * 64}, shared.origin, {}).save(foreign, "")
    nameless = tmp_path / "nameless"
    SharedTicket(shared.ticket, shared.base, {"kind": "imported"}, {}).save(nameless, "")
    broken = tmp_path / "broken"
    shutil.copytree(places["lengths-ticket"], broken)
    (broken / "ticket.safetensors").write_bytes(b"junk")
    nothing = tmp_path / "nothing"
    shutil.copytree(places["find-words"], nothing)
    shutil.rmtree(nothing / "super-ticket")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "--tickets: name finished studies of `imp` or `find`"),
        ({"tickets": tmp_path / "nowhere"}, "no such folder"),
        ({"tickets": tmp_path}, f"--tickets {tmp_path}: not a ticket folder"),
        ({"tickets": f"{words},{lengths}", "sparsity": 0.7}, f"{words} has 0.3, 0.5; {lengths} has 0.3, 0.5"),
        ({"tickets": words, "sparsity": 1}, "--sparsity"),
        ({"tickets": words, "model": str(wrong)}, "the ticket was drawn from"),
        ({"tickets": foreign}, "with weights 000000000000"),
        ({"tickets": broken}, "does not match ticket.json"),
        ({"tickets": f"{words},{words}"}, "there are two tickets of words; expected each source once"),
        ({"tickets": f"{lengths},{places['lengths-ticket']}"}, "there are two tickets of lengths"),
        ({"tickets": f"{words},{places['find-lengths']}"}, "some are of single weights, others of heads and FFNs"),
        ({"tickets": words, "tasks": "entailmnet"}, "did you mean 'entailment'"),
        ({"tickets": words, "tasks": "cola", "data": tmp_path / "none"}, "none"),
        ({"tickets": done.folder}, "a study of `transfer` has no tickets to use; expected `find` or, for `transfer`"),
        ({"tickets": unfinished}, "the study has not begun"),
        ({"tickets": stopped}, "there is no ticket in it yet"),
        ({"tickets": nothing}, "there is no super ticket in it"),
        ({"tickets": nameless}, "--tasks: the tickets do not say which tasks they were found on"),
        ({"tickets": words, "baselines": "one-shott"}, "did you mean 'one-shot'"),
        ({"tickets": words, "max_length": 500}, "positions"),
    ]
    common = {"model": str(places["model"]), "sparsity": 0.5, **HERE, "out": tmp_path / "out"}
    for settings, message in cases:
        level = {"sparsity": None} if settings.get("tickets") == nothing else {}
        with pytest.raises(TicketError) as error:
            run_study("transfer", {**common, **level, **settings})
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    before = contents(places["imp-words"])
    with pytest.raises(TicketError, match="this folder holds a study of `imp`"):
        run_study("transfer", {**common, "tickets": words, "out": words})
    assert contents(places["imp-words"]) == before
    assert load_tasks(places["imp-words"])
