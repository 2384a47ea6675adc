"""The lab survives: kills, damage, full disks, second comers. And it runs anywhere with the same result."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file

import supertickets
from helpers.optional import lack, optional_import
from helpers.study_files import contents
from helpers.trials import make_trial, step_of
from supertickets.cli import main
from supertickets.errors import NoSpaceError, StudyError, TicketError
from supertickets.lab import Lab, Trial, workers
from supertickets.lab.jobs import Job, Message
from supertickets.lab.lock import hold, holder
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import Outcome, load_outcome
from supertickets.lab.progress import Board, ProgressDisplay, describe, duration
from supertickets.lab.steps import Execution, Step
from supertickets.lab.timing import time_training
from supertickets.lab.trial import Prune, TaskTicket, WeightMask
from supertickets.lab.workbench import Workbench
from supertickets.lab.workers import WorkerPool
from supertickets.models import find_model
from supertickets.storage import digest, write_atomically
from supertickets.studies.checks import check_runner, settle_precision
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.folder import clean, status
from supertickets.studies.plan import _Speed
from supertickets.studies.run import Result
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Recipe, Sharing, Span

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def trial(tiny_model: Path, words: dict[str, Path]) -> Trial:
    return make_trial(tiny_model, words)


@pytest.fixture(scope="module")
def study(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a small study, all but its folder."""
    return {
        "model": str(tiny_model),
        "task": "words",
        **words,
        "levels": (0.5,),
        "seeds": 1,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "max_length": 16,
        "workers": 1,
        "precision": "float32",
    }


@pytest.fixture(scope="module")
def done(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return supertickets.find(study, out=tmp_path_factory.mktemp("lab") / "done")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_stay_what_they_were() -> None:
    """A folder's trials are found again by later versions, as long as they compute the same."""
    full, source = Ticket.full(2, 2), TaskSource(task="rte")
    tasks = [TaskTicket(source=source, data_hash="d", ticket=full)]
    tasks += [TaskTicket(source=source, data_hash="e", ticket=full, dropout=0.2)]
    every: dict[str, Any] = {"model": "m", "weight_hash": "a" * 64, "files_hash": "f", "seed": 3}
    other = Recipe(epochs=2, patience=0, optimizer="released", precision="bfloat16", threads=4)
    scoring = ScoringSettings(importance="taylor", score_epoch=2)
    weights = WeightMask(how="magnitude", sparsity=0.5, pruning=Pruning()), Prune(sparsity=0.6, pruning=Pruning())
    trials = [
        Trial(**every, tasks=tasks[:1], recipe=Recipe()),
        Trial(**every, tasks=tasks[:1], recipe=other, scoring=scoring),
        Trial(**every, tasks=tasks, recipe=Recipe(), sharing=Sharing()),
        Trial(**every, tasks=tasks[:1], recipe=Recipe(), mask=weights[0], prune=weights[1], span=Span(skip=0.1)),
    ]
    before = [
        "bac6e7f848a0b378b9da56c7",
        "a100fe5a40f1a7c17accddbc",
        "6bacb1eb89a67aba619c09d7",
        "fda46160cd1357cf4955c40d",
    ]
    assert [trial.key for trial in trials] == before


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial that has ended."""
    trial, folder = make_trial(tiny_model, words), tmp_path_factory.mktemp("ended")
    with Lab(folder) as lab:
        lab.run([step_of(trial)])
    return folder / "trials" / trial.key


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "other key", "older schema"])
def test_a_damaged_outcome_is_noticed(ended: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(ended, tmp_path / ended.name)
    file = folder / "outcome.json"
    assert load_outcome(folder) is not None
    text = file.read_text()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_text(text[: len(text) // 2])
    elif damage == "flipped":  # one digit of one number
        score = json.loads(text)["epochs"][0]["loss"]
        file.write_text(text.replace(str(score), str(score)[:-1] + ("1" if str(score)[-1] != "1" else "2")))
    elif damage == "older schema":  # else as written
        content = json.loads(text)
        content["schema"] -= 1
        del content["digest"]
        file.write_text(json.dumps({**content, "digest": digest(content)}))
    else:
        folder = shutil.copytree(folder, tmp_path / "another")
    assert load_outcome(folder) is None


@pytest.mark.parametrize("name", ["predictions.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_damaged_file_of_an_outcome_is_noticed(ended: Path, tmp_path: Path, name: str, damage: str) -> None:
    file = shutil.copytree(ended, tmp_path / ended.name) / name
    assert load_outcome(file.parent) is not None
    whole = file.read_bytes()
    damaged = {"truncated": whole[:-10], "flipped": whole[:-1] + bytes([whole[-1] ^ 1])}
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    assert load_outcome(file.parent) is None


class Flaky:
    """A workbench whose trials fail a number of times before they work."""

    def __init__(self, fail: int, **options: Any) -> None:
        self.fail, self.tried = fail, 0

    def run(self, job: Job, report: Any) -> None:
        self.tried += 1
        if self.tried <= self.fail:
            raise RuntimeError(f"try {self.tried} went wrong")
        Workbench("cpu").run(job, report)


@pytest.mark.parametrize(("fail", "works"), [(0, True), (2, True), (3, False)])
def test_three_tries(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: int, works: bool) -> None:
    bench = Flaky(fail)
    monkeypatch.setattr("supertickets.lab.workbench.Workbench", lambda **options: bench)
    with Lab(tmp_path) as lab:
        (run,) = lab.run([step_of(trial)]).runs
    assert run.finished == works
    assert bench.tried == min(fail + 1, 3)
    recorded = tmp_path / "trials" / trial.key / "failure.json"
    if works:
        assert not recorded.exists()
    else:
        assert "try 3 went wrong" in json.loads(recorded.read_text())["traceback"]
        assert "try 3 went wrong" in str(run.failure)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    """Really killed, from outside, while it trains."""
    trials = [make_trial(tiny_model, words, seed, epochs=30) for seed in range(3)]
    pool = WorkerPool(["cpu", "cpu"], {})
    victims = {worker.process.pid for worker in pool._workers}
    seen: list[Message] = []
    killed: list[int] = []
    waiting = [Job(trial, tmp_path / "trials" / trial.key, False, "x") for trial in trials]

    def send(message: Message) -> None:
        seen.append(message)
        if message[0] == "progress" and not killed:
            busy = next(w for w in pool._workers if w.job is not None and w.job.trial.key == message[1])
            killed.append(busy.process.pid)
            os.kill(busy.process.pid, signal.SIGKILL)

    try:
        pool.run(lambda: waiting.pop() if waiting else None, send)
        assert {worker.process.pid for worker in pool._workers} != victims
    finally:
        pool.close()
    failed = [message for message in seen if message[0] == "failed"]
    assert len(failed) == 1
    assert "exit code -9" in failed[0][2]
    assert sorted(message[1] for message in seen if message[0] == "done") == sorted(
        trial.key for trial in trials if trial.key != failed[0][1]
    )


def test_changed_weights_are_refused_not_tried_again(trial: Trial, tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        (run,) = lab.run([step_of(trial.model_copy(update={"weight_hash": "other"}))]).runs
    assert run.outcome is None
    assert "have changed since" in str(run.failure)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        lack("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("room", "there"),  # during a trial, shipping the model, the report
    [(100_000, []), (200_000, ["results.csv"]), (2_000_000, ["results.csv", "super-ticket"])],
)
def test_a_full_disk_stops_the_study_and_it_goes_on_after(
    small_disk: Path, study: dict[str, Any], done: Result, room: int, there: list[str]
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (12 * 2**20 - room))
    folder = small_disk / "study"
    with pytest.raises(StudyError, match=r"no space left for .* free some and run the same command again"):
        supertickets.find(study, out=folder)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]  # nothing half-written stays
    assert [name for name in ("results.csv", "super-ticket", "report.html") if (folder / name).exists()] == there
    ballast.unlink()
    supertickets.find(study, out=folder)
    assert contents(folder) == contents(done.folder)


def test_a_write_that_finds_no_room_leaves_the_old_file(small_disk: Path) -> None:
    file = small_disk / "file"
    write_atomically(file, "old")
    with pytest.raises(NoSpaceError, match="no space left for file"):
        write_atomically(file, b"x" * 20_000_000)
    assert file.read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["file"]


# --- one study at a time ----------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_folder(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
import sys, time
from pathlib import Path
from supertickets.lab.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        assert holder(tmp_path)["pid"] == first.pid
        with (
            pytest.raises(TicketError, match=rf"^{tmp_path}: process {first.pid} on .* wait for it\.$"),
            hold(tmp_path),
        ):
            pass
        arguments = [part for name, value in study.items() for part in (f"--{name.replace('_', '-')}", _typed(value))]
        capsys.readouterr()
        assert main(["find", *arguments, "--out", str(tmp_path)]) == 2
        assert f"--out {tmp_path}: process {first.pid}" in capsys.readouterr().err
        assert not (tmp_path / "settings.yaml").exists()
    finally:
        first.kill()
        first.wait()
    with hold(tmp_path):  # the system let go
        assert holder(tmp_path)["pid"] == os.getpid()
    assert holder(tmp_path) is None


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_a_folder_of_another_schema_is_refused(done: Result, study: dict[str, Any], tmp_path: Path) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    content = yaml.safe_load((copy / "settings.yaml").read_text())
    for schema in (0, 1, None):
        (copy / "settings.yaml").write_text(yaml.safe_dump({**content, "schema": schema}))
        with pytest.raises(TicketError, match=f"^--out {copy}: .* written by another version \\(schema {schema}"):
            supertickets.find(study, out=copy)
    for content, said in (("a: [\n", "not YAML"), ("schema: 5\nstudy: fnd\n", "unknown study 'fnd'")):
        (copy / "settings.yaml").write_text(content)
        with pytest.raises(TicketError, match=f"^{copy}/settings.yaml: {said}"):  # no flag names the folder
            status(copy)


# --- watching and cleaning --------------------------------------------------------------------------------------------


def test_status_and_clean(
    done: Result, study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    found = status(copy)
    assert (found["state"], found["total"], found["done"], found["failed"]) == ("finished", 4, 4, 0)
    assert main(["status", str(copy)]) == 0
    assert "4 of 4 trainings done" in capsys.readouterr().out
    before = contents(copy)
    dry = clean(copy, dry=True)
    assert contents(copy) == before
    swept = clean(copy)
    assert swept["freed"] == dry["freed"] > 0
    assert status(copy)["bytes"] == found["bytes"] - swept["freed"]
    gone = before.keys() - contents(copy).keys()
    assert gone
    assert all(name.endswith("weights.safetensors") for name in gone)
    again = supertickets.find(study, out=copy)  # the report needs nothing of what went
    assert again.table.equals(done.table)
    assert (copy / "super-ticket" / "model" / "model.safetensors").is_file()
    shutil.rmtree(copy / "super-ticket")
    unshipped = copy / "trials" / "x"
    unshipped.mkdir()
    (unshipped / "outcome.json").touch()
    (unshipped / "weights.safetensors").write_bytes(b"needed")
    clean(copy)
    assert (unshipped / "weights.safetensors").exists()
    assert main(["status", str(tmp_path)]) == 2
    assert "it has studies in copy" in capsys.readouterr().err


def test_a_dry_run_counts_what_another_run_would_try_again(
    done: Result, study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each_takes_one(monkeypatch)
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    (winning,) = done.table.query("kind == 'winning' and seed == 0").trial
    (dense,) = done.table.query("kind == 'dense' and seed == 0").trial
    for fails, ahead, longest in ((winning, 1, 1), (dense, 3, 2)):  # winning and losing tickets need the dense run
        (copy / "trials" / fails / "outcome.json").unlink()
        (copy / "trials" / fails / "failure.json").write_text(json.dumps({"traceback": "Error: no luck"}))
        assert status(copy)["failed"] == 1
        for number in (1, 4):
            plan = supertickets.plan_study("find", study | {"workers": number}, out=copy)
            assert (plan.trainings, plan.done, plan.flops) == (4, 4 - ahead, ahead)
            assert plan.seconds == max(ahead / number, longest)  # the others would have nothing to do
    for backend, number, said in (
        ("slurm", "auto", "at this machine's speed, with up to 100 jobs at the same time."),
        ("slurm", 3, "with up to 3 jobs"),
        ("ray", "auto", "with one after the other at this machine's speed; how many Ray runs at the same time depends"),
    ):
        monkeypatch.setattr("supertickets.studies.run.check_runner", lambda settings: None)  # neither is here
        plan = supertickets.plan_study("find", study | {"backend": backend, "workers": number}, out=copy)
        assert plan.seconds == (3 if backend == "ray" else 2)
        assert said in plan.sentence()


def test_a_dry_run_saves_no_checkpoint(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clock = count(step=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))  # at every look it would be time to save one
    assert time_training(trial, Machine())[1] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_has_devices_that_this_machine_lacks(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What starts the study need not have them: it chooses a precision and times a training without."""
    monkeypatch.setattr("supertickets.lab.on_slurm.SlurmRunner.check", lambda address: None)
    asked = FindSettings(task="words", backend="slurm", device="cuda:7", out=tmp_path)
    check_runner(asked)
    assert settle_precision(asked, None, "bert") == "float32"
    assert time_training(trial, Machine(backend="slurm", device="cuda:7"))[1] > 0
    for device, said in (("cuda:x", "torch knows no such device"), ("mps:0", "no float64")):
        with pytest.raises(TicketError, match=f"--device {device}: .*{said}"):
            check_runner(asked.model_copy(update={"device": device}))
    with pytest.raises(TicketError, match="this machine has no such device"):  # control
        check_runner(asked.model_copy(update={"backend": "local"}))


def each_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training take a second and a FLOP in a dry run."""
    monkeypatch.setattr("supertickets.studies.plan._measure", lambda *asked: _Speed(1.0, 1.0))
    monkeypatch.setattr("supertickets.studies.plan._cost", lambda *asked: 1.0)


@pytest.fixture(scope="module")
def without_weights(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that kept no weights."""
    return supertickets.find(study, out=tmp_path_factory.mktemp("lab") / "none", keep="none").folder


def test_a_dry_run_counts_what_is_trained_again_to_be_shipped(
    without_weights: Path, study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each_takes_one(monkeypatch)
    out = shutil.copytree(without_weights, tmp_path / "out")
    plan = supertickets.plan_study("find", study, out=out)
    assert (plan.trainings, plan.done, plan.repeated, plan.seconds) == (4, 4, 1, 1)
    assert "All 4 trainings are done. To have weights that were not kept, 1 training takes about 1 FLOPs" in (
        plan.sentence()
    )
    assert supertickets.plan_study("find", study, out=out, keep="none").repeated == 0  # control


@pytest.mark.parametrize(
    ("asked", "weights", "shipped"),
    [({"kinds": ()}, 1, "model"), ({"keep": "dense"}, 2, "ticket"), ({"kinds": (), "keep": "none"}, 0, "model")],
)
def test_nothing_is_trained_twice_to_be_shipped_where_weights_may_stay(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, weights: int, shipped: str
) -> None:
    keys, whole = [], Workbench.run

    def noted(self: Workbench, job: Job, *more: Any) -> Any:
        keys.append(job.trial.key)
        return whole(self, job, *more)

    monkeypatch.setattr(Workbench, "run", noted)
    asked = {name: value for name, value in study.items() if "kinds" not in asked or name != "levels"} | asked
    plan = supertickets.plan_study("find", asked, out=tmp_path / "out")
    result = supertickets.find(asked, out=tmp_path / "out")
    assert result.shipped[shipped].is_dir()
    if shipped == "model":  # which says what its outputs mean
        labels = json.loads((result.shipped["model"] / "config.json").read_text())["id2label"]
        assert not any("LABEL" in label for label in labels.values())
    assert len(keys) - len(set(keys)) == plan.repeated == (asked.get("keep") == "none")  # which keeps none to ship
    assert len(list((tmp_path / "out" / "trials").rglob("weights.safetensors"))) == max(weights, plan.repeated)


def test_what_starts_from_weights_that_are_gone_is_trained_again_from_its_beginning(trial: Trial) -> None:
    chain = [Step({"seed": 0}, trial)]
    for seed in (1, 2, 3):
        chain.append(Step({"seed": seed}, trial.but(seed=seed), starts_from=(chain[-1],)))
    other = Step({"seed": 4}, trial.but(seed=4))
    execution = Execution([*chain, other])
    gone = cast("Outcome", SimpleNamespace(finished=True, has_weights=False))
    for run in execution.runs[:3]:
        run.outcome = gone
    assert [run.step for run in execution.repeated()] == chain[2::-1]
    # Weights of the last one are shipped: by then those that the others have had again are gone once more.
    assert [run.step for run in execution.repeated(execution.runs[3:4])] == [*chain[2::-1], *chain[::-1]]
    execution.runs[1].outcome = cast("Outcome", SimpleNamespace(finished=True, has_weights=True))
    assert [run.step for run in execution.repeated()] == [chain[2]]
    execution.runs[3].outcome = gone
    assert execution.repeated() == []  # control: nothing is to come
    assert [run.step for run in execution.repeated(execution.runs[3:4])] == [chain[3], chain[2]]


def check_kept(folder: Path, weights: int, model: bool) -> None:
    """Check how many trainings' weights are in a study's folder, and whether a model is shipped beside the ticket."""
    assert len(list(folder.rglob("weights.safetensors"))) == weights
    assert (folder / "super-ticket" / "model").is_dir() == model
    assert (folder / "super-ticket" / "ticket.json").is_file()


def test_the_super_tickets_weights_stay_unless_others_are_asked_for(done: Result, without_weights: Path) -> None:
    """Of all weights, see the test of live state."""
    assert done.settings.keep == "super"
    check_kept(done.folder, 1, True)
    check_kept(without_weights, 0, False)


def test_weights_that_are_asked_for_too_late_are_said_to_be_missing(
    without_weights: Path, study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(without_weights, tmp_path / "out")
    capsys.readouterr()
    supertickets.find(study, out=tmp_path / "out", keep="all", quiet=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "--keep all: 4 trainings had finished before without keeping weights, the first is dense seed 0" in said
    assert "winning 0.5 seed 0: its trained weights were not kept, so it is trained again to ship them." in said
    assert len(list((tmp_path / "out" / "trials").rglob("weights.safetensors"))) == 1  # the super ticket's
    assert supertickets.plan_study("find", study, out=tmp_path / "out").repeated == 0  # it is shipped


def begun(*steps: Step) -> Execution:
    """Steps whose trials have been made."""
    execution = Execution(steps)
    execution.begin()
    return execution


def test_time_left_knows_that_pruned_trials_are_cheap(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cheap = trial.model_copy(update={"seed": 1})
    cheap = Trial.model_validate(cheap.model_dump(mode="json"))
    board = Board(begun(step_of(trial, cost=100.0), step_of(cheap, cost=10.0)))
    for one in (trial, cheap):
        board.asked(one, False)
    assert board.seconds_left() is None
    board.message(("started", trial.key, None))
    now[0] = 50.0
    board.message(("progress", trial.key, {"step": 0, "steps": 100, "epoch": 1, "epochs": 1, "loss": 1.0}))
    now[0] = 100.0
    board.message(("progress", trial.key, {"step": 50, "steps": 100, "epoch": 1, "epochs": 1, "loss": 1.0}))
    assert board.seconds_left() == pytest.approx(120.0)  # half of 100 took 100 s; half of it and 10 are ahead
    now[0] = 200.0
    board.message(("done", trial.key, None))
    assert board.seconds_left() == pytest.approx(20.0)
    assert describe(board.snapshot()) == "1 of 2 trainings done, 0 running, about 20 s left"
    assert [duration(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]


@pytest.mark.parametrize("chained", [True, False])
def test_time_left_knows_what_waits_for_what(trial: Trial, monkeypatch: pytest.MonkeyPatch, chained: bool) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    steps = [step_of(trial, cost=100.0)]
    for seed in range(1, 4):
        steps.append(step_of(trial.but(seed=seed), cost=50.0, needs=tuple(steps[-1:] if chained else steps[:1])))
    board = Board(begun(*steps))
    board.workers = 2
    board.message(("started", trial.key, None))
    for step, at in ((0, 0.0), (50, 100.0)):
        now[0] = at
        board.message(("progress", trial.key, {"step": step, "steps": 100, "epoch": 1, "epochs": 1, "loss": 1.0}))
    assert board.seconds_left() == pytest.approx(400.0 if chained else 200.0)  # 50 and 150 are ahead, 2 s each
    monkeypatch.setattr(board, "workers", 1)
    assert board.seconds_left() == pytest.approx(400.0)


def test_it_is_said_that_a_training_goes_on_from_a_checkpoint(trial: Trial, tmp_path: Path) -> None:
    def said(first_step: int) -> str:
        console = Console(file=io.StringIO(), width=200)
        display = ProgressDisplay(console, tmp_path)
        display.begins(begun(Step({"kind": "dense", "seed": 0}, lambda done: trial)))
        display.asked(trial, False)
        display.message(("started", trial.key, None))
        for step in (first_step, first_step + 1):
            display.message(("progress", trial.key, {"step": step, "steps": 9, "epoch": 1, "epochs": 1, "loss": 1.0}))
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert said(5) == "dense seed 0: resumes from step 4 of 9\n"
    assert said(1) == ""  # control: it begins


def test_live_state_is_written_while_it_runs_and_all_weights_may_stay(study: dict[str, Any], tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    run = Workbench.run

    def looking(self: Workbench, job: Job, report: Any) -> Any:
        seen.append(status(tmp_path / "out"))
        return run(self, job, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "run", looking)
        supertickets.find(study, out=tmp_path / "out", keep="all")
    assert seen[0]["state"] == "running"
    assert seen[0]["holder"]["pid"] == os.getpid()
    assert [line["name"] for line in seen[0]["running"]] == ["dense seed 0"]
    assert seen[-1]["done"] == 3
    assert status(tmp_path / "out")["state"] == "finished"
    check_kept(tmp_path / "out", 4, True)


def test_the_first_worker_too_starts_with_ctrl_c_blocked() -> None:
    """What multiprocessing starts beside the first process would let it in again."""
    script = """
import signal
from supertickets.lab.workers import SPAWN, _deaf_to_ctrl_c
with _deaf_to_ctrl_c():
    SPAWN.Process(target=print).start()
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr


def test_a_worker_has_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the process which it is a copy of, which may have begun earlier."""

    class Closed:
        def recv(self) -> None:
            raise EOFError

        def close(self) -> None:
            pass

    class Context:
        def Pipe(self) -> tuple[Closed, Closed]:
            return Closed(), Closed()

        def Process(self, target: Any, args: Any, daemon: bool) -> Any:
            def start() -> None:
                monkeypatch.setattr(os, "environ", {"BEFORE": "1"})
                target(*args)

            return SimpleNamespace(start=start)

    for name in ("_end_with_parent", "keep_freed_memory"):
        monkeypatch.setattr(workers, name, lambda: None)
    monkeypatch.setattr(workers, "_context", lambda device: Context())
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    monkeypatch.setenv("AFTERWARDS", "1")
    expected = dict(os.environ)
    workers._Worker({"device": "cpu"})
    assert os.environ == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; elsewhere each worker starts anew")
def test_workers_share_the_memory_of_what_they_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control imports torch by itself."""
    own = {}
    for how, context in (("shared", workers._context), ("control", lambda device: workers.SPAWN)):
        monkeypatch.setattr(workers, "_context", context)
        worker = workers._Worker({"device": "cpu"})
        try:
            place, sizes = Path(f"/proc/{worker.process.pid}/smaps_rollup"), [{"Rss": 0}]
            while sizes[-1]["Rss"] < 200_000 or sizes[-1] != sizes[max(0, len(sizes) - 4)]:  # kB; it imports still
                assert len(sizes) < 200
                time.sleep(0.3)
                found = re.findall(r"^(Rss|Private_Dirty): +(\d+) kB$", place.read_text(), re.M)
                sizes.append({name: int(size) for name, size in found})
            own[how] = sizes[-1]["Private_Dirty"] / 1024
        finally:
            worker.stop()
    assert own["shared"] < 50 < 150 < own["control"]  # MiB


@pytest.mark.slow
def test_ctrl_c_ends_within_seconds_and_says_how_to_go_on(study: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**study, "workers": 2, "epochs": 500, "patience": 0, "out": tmp_path / "out"}
    typed = [part for name, value in arguments.items() for part in (f"--{name.replace('_', '-')}", _typed(value))]
    command = [sys.executable, "-m", "supertickets", "find", *typed]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    pressed = time.monotonic()
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - pressed < 5
    _, said = process.communicate(timeout=60)  # workers' server has the pipe too, until its imports are done
    assert "Run the same command again to resume" in said
    assert "Traceback" not in said
    assert status(tmp_path / "out")["state"] == "stopped"


def test_tensorboard(study: dict[str, Any], tmp_path: Path) -> None:
    optional_import("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    supertickets.find(study, out=tmp_path / "out", track=("tensorboard",), kinds=("winning",))
    runs = sorted((tmp_path / "out" / "tracking").iterdir())
    assert [run.name.rsplit("-", 1)[0] for run in runs] == ["dense-seed-0", "winning-0.5-seed-0"]
    events = EventAccumulator(str(runs[0]))
    events.Reload()
    assert {"train/loss", "dev/accuracy"} <= set(events.Tags()["scalars"])
    with pytest.raises(TicketError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        supertickets.find(study, out=tmp_path / "other", track=("tensorbord",))


# --- machines ---------------------------------------------------------------------------------------------------------


def test_workers_auto_is_one_for_each_threads_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("supertickets.lab.machine.free_memory", lambda: 1 << 40)
    assert Machine(workers="auto", device="cpu").devices == ["cpu"] * 8
    assert Machine(workers="auto", device="cpu").describe() == "8 at a time on cpu"
    assert Machine(workers="auto", device="cpu", threads=3).devices == ["cpu"] * 2
    assert Machine(workers="auto", device="cpu", threads=16).devices == ["cpu"]
    assert Machine(workers=3, device="cpu").devices == ["cpu"] * 3


def test_workers_auto_is_no_more_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    found = {}
    for free in (None, 1 << 30, 14 << 30, 1 << 40):
        monkeypatch.setattr("supertickets.lab.machine.free_memory", lambda free=free: free)
        found[free] = len(Machine(workers="auto", device="cpu").devices)
        assert Machine(workers=5, device="cpu").devices == ["cpu"] * 5
    assert found == {None: 8, 1 << 30: 1, 14 << 30: 3, 1 << 40: 8}
    monkeypatch.setattr("supertickets.lab.machine.free_memory", lambda: 14 << 30)
    said = "3 at a time on cpu (free memory holds no more at 4.3 GB each; there are cores for 8)"
    assert Machine(workers="auto", device="cpu").describe() == said


def test_workers_on_gpus_follow_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    free = {0: 9 << 30, 1: 1 << 30, 2: 100 << 30}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (free[i], 100 << 30))
    auto = Machine(workers="auto", device="cuda").devices
    assert auto == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:2", "cuda:2", "cuda:2"]
    assert Machine(workers=2, device="cuda").devices == ["cuda:0", "cuda:1"]


def test_half_precision_in_a_file_is_trained_in_32_bits(tiny_model: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(tiny_model, tmp_path / "half"))
    tensors = load_file(half / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, half / "model.safetensors")
    assert (half / "model.safetensors").stat().st_size < (tiny_model / "model.safetensors").stat().st_size
    need = [Machine(models={"x": find_model(str(folder))})._memory_each() for folder in (tiny_model, half)]
    assert need == [Machine()._memory_each() + 24 * sum(tensor.numel() for tensor in tensors.values())] * 2


def test_progress_says_that_no_machine_is_large_enough(tmp_path: Path) -> None:
    for side_by_side in (1, 0):
        said = io.StringIO()
        with ProgressDisplay(Console(file=said, width=300), tmp_path) as display:
            display.begins(Execution([]))
            display.starts(Machine(backend="ray", gpus=1.0), side_by_side)
        assert ("No machine of the cluster has as many now" in said.getvalue()) == (not side_by_side)
        assert "on ray, 1 CPUs and 1 GPUs each" in said.getvalue()


@pytest.mark.slow
def test_a_script_need_not_be_guarded(done: Result, study: dict[str, Any], tmp_path: Path) -> None:
    """Worker processes do not run the user's script again, and give the same bytes as one process."""
    script = tmp_path / "script.py"
    asked = {**study, "workers": 2, "out": str(tmp_path / "out")}
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()}
    script.write_text(f"import supertickets\nprint(supertickets.find({asked!r}).verdict)\n")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Computed as in the paper, the gain is " in ran.stdout
    assert contents(tmp_path / "out") == contents(done.folder)
    assert json.loads((tmp_path / "out" / "machine.json").read_text())["devices"] == ["auto", "auto"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "--device gpu: this machine has no such device; it has cpu"),
        ({"device": "cuda:9"}, "--device cuda:9: this machine has no such device"),
        ({"device": "mps"}, "--device mps: Apple's MPS has no float64, .*; use cpu."),
        ({"out": "FILE"}, "that is a file"),
        ({"out": "FILE/below"}, "cannot be created"),
        ({"track": ("tensorbord",)}, "did you mean 'tensorboard'"),
    ],
)
def test_what_cannot_run_is_told_before_anything_is_written(
    study: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    changes = {
        name: str(value).replace("FILE", str(file)) if name == "out" else value for name, value in changes.items()
    }
    with pytest.raises(TicketError, match=message):
        supertickets.find({**study, "out": tmp_path / "out", **changes})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_patience_counts_from_the_best_score_whatever_is_kept(study: dict[str, Any], tmp_path: Path) -> None:
    result = supertickets.find(study, out=tmp_path / "out", epochs=40, patience=1, keep_epoch="last", kinds=("random",))
    assert (result.table["best_epoch"] < 40).all()


def test_a_damaged_super_ticket_is_shipped_again(done: Result, study: dict[str, Any], tmp_path: Path) -> None:
    for damage in ("ticket.json", "model"):
        copy = shutil.copytree(done.folder, tmp_path / damage)
        broken = copy / "super-ticket" / damage
        shutil.rmtree(broken) if broken.is_dir() else broken.write_text("{")
        supertickets.find(study, out=copy)
        assert contents(copy) == contents(done.folder)


def test_a_trial_that_never_started_may_fail(trial: Trial) -> None:
    """As on Ray, when a task dies on its way; a late word of it changes nothing."""
    board = Board(begun(step_of(trial)))
    board.asked(trial, False)
    board.message(("again", trial.key, "lost"))
    board.message(("refused", trial.key, "lost"))
    board.message(("started", trial.key, None))
    assert board.snapshot()["running"] == []
    assert board.failed == 1


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trials that are run."""
    keys: list[str] = []
    run = Workbench.run

    def counting(self: Workbench, job: Job, report: Any) -> Any:
        keys.append(job.trial.key)
        return run(self, job, report)

    monkeypatch.setattr(Workbench, "run", counting)
    return keys


def test_equal_trials_run_once(trial: Trial, tmp_path: Path, ran: list[str]) -> None:
    with Lab(tmp_path) as lab:
        lab.run(map(step_of, [trial, trial.model_copy(), Trial.model_validate_json(trial.model_dump_json())]))
        lab.run([step_of(trial)])
    assert ran == [trial.key]


def test_a_folder_goes_on_with_more_runs_and_reuses_all_it_has(
    done: Result, study: dict[str, Any], tmp_path: Path, ran: list[str]
) -> None:
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    seeds = supertickets.find(study, out=copy, seeds=2)
    first = seeds.table[seeds.table["seed"] == 0].reset_index(drop=True)
    assert first.equals(done.table)
    assert sorted(ran) == sorted(seeds.table[seeds.table["seed"] == 1]["trial"])
    ran.clear()
    levels = supertickets.find(study, out=copy, seeds=2, levels=(0.2, 0.5))
    assert sorted(ran) == sorted(levels.table[levels.table["level"] == 0.2]["trial"])
    before = contents(copy)
    for asked, said in (({}, "--seeds was 2 and is now 1"), ({"seeds": 2}, "--levels was 0.2,0.5 and is now 0.5")):
        with pytest.raises(TicketError, match=f"created with different settings: .*{said}.* Use a new --out"):
            supertickets.find(study, out=copy, **asked)
    assert contents(copy) == before
    assert status(copy)["total"] == 2 * (1 + 2 * 3)


def test_starting_a_study_that_is_done_is_quick(trial: Trial, tmp_path: Path) -> None:
    """500 remembered trials in under 2 seconds; what is looked up is whole and checked."""
    with Lab(tmp_path) as lab:
        lab.run([step_of(trial)])
        outcome = lab.remembered(trial)
        trials = [Trial.model_validate({**trial.model_dump(mode="json"), "seed": seed}) for seed in range(1, 500)]
        from dataclasses import replace

        from supertickets.lab.outcome import save_outcome

        for other in trials:
            folder = shutil.copytree(outcome.folder, tmp_path / "trials" / other.key)
            save_outcome(replace(outcome, key=other.key, trial=other, folder=folder))
        started = time.monotonic()
        runs = lab.run(map(step_of, [trial, *trials])).runs
        assert sum(run.finished for run in runs) == 500
        assert time.monotonic() - started < 2.0
