"""Trials as Slurm jobs: what a job's end means, who runs on after a crash, and the same bits after a signal."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import supertickets
from helpers.fake_slurm import FakeSlurm
from helpers.optional import optional_import
from helpers.study_files import contents
from helpers.trials import make_trial, step_of
from supertickets.errors import NoSpaceError, StudyError, TicketError
from supertickets.lab import on_slurm, slurm_job
from supertickets.lab.jobs import Job, Message
from supertickets.lab.lab import Lab
from supertickets.lab.machine import Machine
from supertickets.lab.on_slurm import SlurmRunner, check_no_jobs, explain
from supertickets.lab.outcome import CHECKPOINT
from supertickets.lab.slurm_job import ENDED, JOB, PROGRESS, load_job, place_of, record_of
from supertickets.lab.slurm_options import sbatch_options
from supertickets.lab.trial import Trial
from supertickets.lab.workbench import Workbench
from supertickets.storage import _TEMPORARY, write_atomically
from supertickets.studies.folder import clean, status


@pytest.fixture(scope="module")
def trial_of(tiny_model: Path, words: dict[str, Path]) -> Callable[..., Trial]:
    base = make_trial(tiny_model, words, patience=None, precision="float32")

    def make(seed: int = 0, epochs: int = 1) -> Trial:
        return base.but(seed=seed, recipe=base.recipe.model_copy(update={"epochs": epochs}))

    return make


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_slurm, "_POLL", 0.05)
    monkeypatch.setattr(on_slurm, "_ASK", 0.0)
    monkeypatch.setattr(on_slurm, "_TO_ARRIVE", 0.0)


# --- the runner, without a cluster ------------------------------------------------------------------------------------


class Cluster:
    """Stands for submitit and for what it asks Slurm; `plan` says how each submission ends.

    A message: the job tells it. A text: Slurm's state of a job that tells nothing. An error: sbatch refuses.
    """

    def __init__(self, folder: Path, *plan: Any) -> None:
        self.plan, self.folder, self.jobs = list(plan), folder, dict[str, Any]()
        self.cancelled: list[str] = []
        self.helpers = SimpleNamespace(clean_env=nullcontext)

    def submit(self, function: Any, place: str, token: str) -> Any:
        assert function is slurm_job.run
        how = self.plan.pop(0)
        if isinstance(how, Exception):
            raise how
        id = str(101 + len(self.jobs))
        state = how if isinstance(how, str) else "RUNNING"
        log = self.folder / f"{id}.log"
        log.write_text("".join(f"line {number}\n" for number in range(30)))
        self.jobs[id] = SimpleNamespace(
            job_id=id,
            place=Path(place),
            get_info=lambda mode: {"State": state},
            paths=SimpleNamespace(stdout=log),
            cancel=lambda check: self.cancelled.append(id),
        )
        if not isinstance(how, str):
            self.tell(id, ENDED, what=how[0], detail=how[1])
        return self.jobs[id]

    def tell(self, id: str, name: str, **said: Any) -> None:
        place = self.jobs[id].place
        write_atomically(place / name, json.dumps({"token": load_job(place)["token"], **said}))

    def SlurmJob(self, folder: Path, job_id: str) -> Any:
        return self.jobs[job_id]

    @property
    def handles(self) -> list[str]:
        return [*self.jobs]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> Callable[..., Cluster]:
    def make(*plan: Any, queue: dict[str, str] | None = None) -> Cluster:
        made = Cluster(tmp_path, *plan)
        monkeypatch.setattr(on_slurm, "require_submitit", lambda: made)
        monkeypatch.setattr(SlurmRunner, "_executor", lambda self, folder, name: made)
        monkeypatch.setattr(on_slurm, "queued", lambda name: (queue or {}).get(name))
        return made

    return make


def run(runner: SlurmRunner, jobs: list[Job]) -> list[Message]:
    said = list[Message]()
    runner.run(lambda: jobs.pop(0) if jobs else None, said.append)
    return said


def job_of(trial: Trial, folder: Path) -> Job:
    return Job(trial, folder / "trials" / trial.key, False, "x")


def test_what_a_job_tells_is_passed_on(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    trials = [trial_of(seed) for seed in range(4)]
    cluster(("done", None), ("failed", "why"), ("stopped", "SIGUSR1"), ("partial", 0.5))
    said = run(SlurmRunner(Machine(backend="slurm")), [job_of(trial, tmp_path) for trial in trials])
    keys = [trial.key for trial in trials]
    assert said == [
        ("done", keys[0], None), ("failed", keys[1], "why"), ("stopped", keys[2], "SIGUSR1"), ("partial", keys[3], 0.5)
    ]  # fmt: skip


LOG = ["Traceback", "TypeError: no"]


@pytest.mark.parametrize(
    ("state", "what", "words"),
    [
        ("OUT_OF_MEMORY", "failed", "killed job 7 for memory (OUT_OF_MEMORY); it had 3 GB: give --memory more."),
        ("TIMEOUT", "failed", "its time limit (TIMEOUT) of 30 minutes"),
        ("NODE_FAIL", "failed", "lost its node"),
        (
            "FAILED",
            "failed",
            "job 7 ended (FAILED) without a result; its log ends with:\nTraceback\nTypeError: no",
        ),
        ("PREEMPTED", "stopped", "PREEMPTED"),
        ("CANCELLED", "refused", "job 7 was cancelled"),
    ],
)
def test_why_slurm_ended_a_job_is_said(state: str, what: str, words: str) -> None:
    found = explain(state, "7", Machine(backend="slurm", memory=3.0, time_limit=30.0), LOG)
    assert found[0] == what
    assert words in found[1]
    if what == "failed":
        assert set(LOG) <= set(found[1].splitlines())
        first = state in ("FAILED",)
        assert found[1].splitlines()[-1] == LOG[-1] or not first  # the last line is what progress shows


def test_a_job_that_dies_is_tried_three_times(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    """A pre-emption takes no try; the last lines of the log are in the failure."""
    made = cluster("FAILED", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY")
    with Lab(tmp_path, Machine(backend="slurm")) as lab:
        (found,) = lab.run([step_of(trial_of())]).runs
    assert len(made.jobs) == 4
    assert found.status == "failed"
    assert "line 29\nSlurm killed job 104 for memory" in str(found.failure)
    assert "line 9" not in str(found.failure).splitlines()


@pytest.mark.parametrize("state", ["", "SUSPENDED"])
def test_a_job_that_slurm_keeps_no_account_of_is_looked_for_in_the_queue(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path, state: str
) -> None:
    """Where sacct answers nothing, and of a job that submitit asks no more about; control: it waits there."""
    queue = {"x": "1"}  # not empty, or else the cluster has one of its own
    made = cluster("RUNNING", queue=queue)
    runner, waiting, said = SlurmRunner(Machine(backend="slurm")), [job_of(trial_of(), tmp_path)], list[Message]()
    runner._fill(lambda: waiting.pop() if waiting else None, said.append)
    made.jobs["101"].get_info = lambda mode: {"State": state}
    name = load_job(place_of(job_of(trial_of(), tmp_path).folder))["name"]
    queue[name] = "101"
    for _ in range(5):
        runner._look(said.append)
    assert said == []
    del queue[name]
    runner._look(said.append)
    runner._look(said.append)
    assert [message[0] for message in said] == ["failed"]
    assert "job 101 ended (GONE) without a result" in said[0][2]


def test_a_full_disk_keeps_no_job_from_being_cancelled(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cluster("RUNNING", "RUNNING")
    runner, waiting = SlurmRunner(Machine(backend="slurm", workers=2)), [job_of(trial_of(n), tmp_path) for n in (0, 1)]
    runner._fill(lambda: waiting.pop() if waiting else None, lambda message: None)

    def full(path: Path, content: bytes) -> None:
        raise NoSpaceError("no space")

    monkeypatch.setattr(on_slurm, "write_atomically", full)
    runner.close()
    assert made.cancelled == ["101", "102"]


def test_no_more_jobs_at_a_time_than_workers(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    most, ended = 0, 0
    made = cluster(*[("done", None)] * 5)
    runner = SlurmRunner(Machine(backend="slurm", workers=2))
    jobs = [job_of(trial_of(seed), tmp_path) for seed in range(5)]

    def send(message: Message) -> None:
        nonlocal most, ended
        most = max(most, len(made.jobs) - ended)
        ended += 1

    runner.run(lambda: jobs.pop(0) if jobs else None, send)
    assert (most, ended, runner.side_by_side) == (2, 5, 2)


def test_jobs_that_outlived_their_study_are_found_again(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    """Control: one that Slurm does not list any more is submitted again."""
    queue: dict[str, str] = {}
    made = cluster("RUNNING", "RUNNING", ("done", None), queue=queue)
    jobs = [job_of(trial_of(seed), tmp_path) for seed in range(2)]
    first, waiting = SlurmRunner(Machine(backend="slurm", workers="auto")), list(jobs)
    first._fill(lambda: waiting.pop(0) if waiting else None, lambda message: None)
    assert made.handles == ["101", "102"]  # and then its process is killed
    record = load_job(place_of(jobs[0].folder))
    assert record["id"] == "101"
    write_atomically(place_of(jobs[0].folder) / JOB, json.dumps(record | {"id": None}))  # before it knew the id
    queue[record["name"]] = "101"
    made.tell("101", PROGRESS, event={"step": 3})

    again, waiting, said = SlurmRunner(Machine(backend="slurm", workers="auto")), list(jobs), list[Message]()

    def send(message: Message) -> None:
        said.append(message)
        if message[0] == "progress":
            made.tell("101", ENDED, what="done", detail=None)

    again.run(lambda: waiting.pop(0) if waiting else None, send)
    assert made.handles == ["101", "102", "103"]
    keys = [job.trial.key for job in jobs]
    assert [m for m in said if m[1] == keys[0]] == [
        ("started", keys[0], None), ("progress", keys[0], {"step": 3}), ("done", keys[0], None)
    ]  # fmt: skip
    assert [m for m in said if m[1] == keys[1]] == [("done", keys[1], None)]


def test_a_job_of_a_part_is_gone_on_from_where_more_is_asked_for(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    """A search's job runs on, and its study is asked for all levels meanwhile. Control: asked for that part again."""
    for until, told in ((None, "stopped"), (0.5, "partial")):
        queue: dict[str, str] = {}
        made = cluster("RUNNING", queue=queue)
        job = job_of(trial_of(), tmp_path / told)
        waiting = [replace(job, until=0.5)]
        runner = SlurmRunner(Machine(backend="slurm"))
        runner._fill(lambda waiting=waiting: waiting.pop() if waiting else None, lambda message: None)
        queue[load_job(place_of(job.folder))["name"]] = "101"
        made.tell("101", ENDED, what="partial", detail=0.5)
        (place_of(job.folder) / ENDED).rename(tmp_path / "later")

        def queued(name: str, queue: dict[str, str] = queue, job: Job = job) -> str | None:
            (tmp_path / "later").rename(place_of(job.folder) / ENDED)
            return queue.get(name)

        on_slurm.queued = queued
        said = run(SlurmRunner(Machine(backend="slurm")), [replace(job, until=until)])
        assert [message[0] for message in said] == [told]


def test_what_a_running_job_writes_is_not_cleared_away(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    made = cluster("RUNNING", ("failed", "x"), ("failed", "x"), ("failed", "x"))
    job = job_of(trial_of(), tmp_path)
    waiting = [job]
    SlurmRunner(Machine(backend="slurm"))._fill(lambda: waiting.pop() if waiting else None, lambda message: None)
    half = job.folder / f".supertickets-{'0' * 32}.tmp"
    write_atomically(half, b"half a checkpoint")
    queue = {load_job(place_of(job.folder))["name"]: "101"}
    there = []

    def attach(name: str) -> str | None:
        there.append(half.exists())
        return queue.pop(name, None)

    on_slurm.queued = attach
    made.tell("101", PROGRESS, event=None)
    runs = Machine(backend="slurm")
    with Lab(tmp_path, runs) as lab:
        made.jobs["101"].get_info = lambda mode: {"State": "FAILED"}
        lab.run([step_of(job.trial)])
    assert there == [True]


def test_what_sbatch_refuses_ends_the_study_or_waits(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    refusal = RuntimeError("sbatch: error: x\nsbatch: error: invalid partition specified: gpuu")
    cluster(refusal)
    with (
        Lab(tmp_path, Machine(backend="slurm")) as lab,
        pytest.raises(StudyError, match=r"did not take a job: .*gpuu$"),
    ):
        lab.run([step_of(trial_of())])
    assert not (place_of(tmp_path / "trials" / trial_of().key) / JOB).exists()
    made = cluster(("done", None), RuntimeError("QOSMaxSubmitJobPerUserLimit"), ("done", None))
    said = run(
        SlurmRunner(Machine(backend="slurm", workers="auto")), [job_of(trial_of(seed), tmp_path) for seed in range(2)]
    )
    assert [message[0] for message in said] == ["done", "done"]
    assert len(made.jobs) == 2


def test_ctrl_c_cancels_jobs_and_the_next_run_waits_for_them(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    queue: dict[str, str] = {}
    made = cluster("CANCELLED by 1000", ("done", None), queue=queue)
    job = job_of(trial_of(), tmp_path)
    runner, waiting = SlurmRunner(Machine(backend="slurm")), [job]
    runner._fill(lambda: waiting.pop() if waiting else None, lambda message: None)
    runner.close()
    assert made.cancelled == ["101"]
    queue[load_job(place_of(job.folder))["name"]] = "101"  # Slurm still lists it
    assert run(SlurmRunner(Machine(backend="slurm")), [job]) == [("stopped", job.trial.key, "SIGTERM")]
    queue.clear()
    assert run(SlurmRunner(Machine(backend="slurm")), [job]) == [("done", job.trial.key, None)]


def test_a_job_that_scancel_stopped_is_not_run_again(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    """It left a checkpoint, as one that was pre-empted does: Slurm tells them apart."""
    for state, expected in (("CANCELLED by 1000", "refused"), ("PREEMPTED", "stopped"), ("COMPLETED", "stopped")):
        made = cluster(("stopped", "SIGTERM"))
        runner, waiting = SlurmRunner(Machine(backend="slurm")), [job_of(trial_of(), tmp_path)]
        runner._fill(lambda waiting=waiting: waiting.pop() if waiting else None, lambda message: None)
        made.jobs["101"].get_info = lambda mode, state=state: {"State": state}
        assert [message[0] for message in run(runner, [])] == [expected]


def test_a_job_whose_place_another_has_taken_does_nothing(
    trial_of: Callable[..., Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(trial_of(), tmp_path)
    place = place_of(job.folder)
    write_atomically(place / JOB, json.dumps(record_of(job, {"device": "cpu"}, "new")))
    slurm_job.run(str(place), "old")
    assert "it does nothing" in capsys.readouterr().out
    assert not job.folder.exists()
    slurm_job.run(str(place), "new")  # control
    assert json.loads((place / ENDED).read_text()) == {"token": "new", "what": "done", "detail": None}
    Workbench("cpu").run(job_of(trial_of(), tmp_path / "here"), lambda event: None)
    assert contents(tmp_path / "trials") == contents(tmp_path / "here" / "trials")


def test_clean_leaves_alone_what_a_job_may_be_writing(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that submitted it may have died."""
    monkeypatch.setattr(
        "supertickets.studies.folder.open_study", lambda folder: SimpleNamespace(folder=folder, begun=False)
    )
    jobs = [job_of(trial_of(seed), tmp_path) for seed in range(2)]
    made = cluster("RUNNING", "RUNNING")
    waiting = [*jobs]
    SlurmRunner(Machine(backend="slurm", workers=2))._fill(
        lambda: waiting.pop(0) if waiting else None, lambda message: None
    )
    made.tell("102", ENDED, what="failed", detail="killed")
    left = []
    for job in jobs:
        job.folder.mkdir(parents=True)
        left.append(job.folder / f"{_TEMPORARY}{'0' * 32}.tmp")
        left[-1].touch()
    assert clean(tmp_path)["files"] == [str(left[1])]
    assert left[0].exists()


def test_another_backend_is_refused_while_jobs_run(
    cluster: Callable[..., Cluster], trial_of: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue: dict[str, str] = {}
    cluster("RUNNING", queue=queue)
    job = job_of(trial_of(), tmp_path)
    waiting = [job]
    SlurmRunner(Machine(backend="slurm"))._fill(lambda: waiting.pop() if waiting else None, lambda message: None)
    monkeypatch.setattr(on_slurm.shutil, "which", lambda name: f"/bin/{name}")
    check_no_jobs(tmp_path, "local")  # Slurm lists it no more
    queue[load_job(place_of(job.folder))["name"]] = "101"
    with pytest.raises(TicketError, match=r"--backend local: jobs of this study are on Slurm \(101\); .*`scancel 101`"):
        check_no_jobs(tmp_path, "local")
    monkeypatch.setattr(on_slurm.shutil, "which", lambda name: None)
    check_no_jobs(tmp_path, "local")


def test_what_is_missing_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(on_slurm, "require_submitit", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TicketError, match=r"^--backend slurm: `sbatch` is not in PATH; .* or use --backend local\.$"):
        SlurmRunner.check(None)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(TicketError, match=r"^--backend slurm needs the package submitit, .*\[slurm\]"):
        SlurmRunner.check(None)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("qos=high,exclude=node1,node2,exclusive", {"qos": "high", "exclude": "node1,node2", "exclusive": True}),
        ("mem_per_gpu=8G", {"mem-per-gpu": "8G"}),
        ("--gres=gpu:a100:1", {"gres": "gpu:a100:1"}),
        ("clusters=b", "clusters cannot be passed on: this cluster alone is asked about jobs"),
        ("time=3", "time cannot be passed on: use --time-limit"),
        ("requeue", "requeue cannot be passed on"),
        ("acount=x", "did you mean 'account'"),
        ("qos", "expected qos=VALUE, got 'qos'"),
        ("qos=", "expected qos=VALUE"),
        ("qos=a\nrm -r x", "expected qos=VALUE"),
        ("qos=a,qos=b", "qos is there twice"),
    ],
)
def test_options_of_sbatch_are_checked(typed: str, expected: dict[str, Any] | str) -> None:
    if isinstance(expected, dict):
        assert sbatch_options(typed.split(",")) == expected
        return
    with pytest.raises(ValueError, match=expected):
        sbatch_options(typed.split(","))


# --- submitit, and a cluster of shell scripts -------------------------------------------------------------------------


class _DiedError(Exception):
    """Stands for the death of the process that submits."""


def run_until_it_trains(runner: SlurmRunner, job: Job, then: Callable[[Message], None]) -> list[Message]:
    """Run a job, and call `then` once, with the first report of a step."""
    waiting, said = [job], list[Message]()

    def send(message: Message) -> None:
        said.append(message)
        if [what for what, _, _ in said].count("progress") == 1 and message[0] == "progress":
            then(message)

    runner.run(lambda: waiting.pop() if waiting else None, send)
    return said


def predictions(folder: Path, trial: Trial) -> bytes:
    return (folder / "trials" / trial.key / "predictions.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_terminated_job_goes_on_to_the_same_bits(
    trial_of: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With submitit's own executor of local processes."""
    optional_import("submitit")
    monkeypatch.setattr(SlurmRunner, "cluster", "local")
    trial = trial_of(epochs=20)
    job = job_of(trial, tmp_path / "cluster")
    machine = Machine(backend="slurm", device="cpu")
    runner = machine.runner()
    assert isinstance(runner, SlurmRunner)

    def terminate(message: Message) -> None:
        os.kill(int(load_job(place_of(job.folder))["id"]), signal.SIGTERM)

    said = run_until_it_trains(runner, job, terminate)
    assert said[-1] == ("stopped", trial.key, "SIGTERM")
    assert (job.folder / CHECKPOINT).is_file()
    resumed = run_until_it_trains(runner, job, lambda message: None)
    assert [message[0] for message in resumed if message[0] != "progress"] == ["started", "done"]
    assert next(detail["step"] for what, _, detail in resumed if what == "progress") > 1
    for seed in (0, 1):
        Workbench("cpu").run(job_of(trial_of(seed, 20), tmp_path / "here"), lambda event: None)
    assert predictions(tmp_path / "cluster", trial) == predictions(tmp_path / "here", trial)
    assert predictions(tmp_path / "cluster", trial) != predictions(tmp_path / "here", trial_of(1, 20))
    assert not list((tmp_path / "cluster" / "trials").rglob("*.pkl"))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> Iterator[FakeSlurm]:
    optional_import("submitit")
    monkeypatch.setattr(on_slurm, "_ASK", 1.0)  # each question is a process
    made = FakeSlurm(tmp_path / "slurm", monkeypatch)
    yield made
    made.end()


@pytest.mark.slow
def test_a_job_outlives_its_study_and_a_time_limit(
    slurm: FakeSlurm, trial_of: Callable[..., Trial], tmp_path: Path
) -> None:
    """The process that submits dies; the next one attaches to the job, whose limit comes, and submits the rest."""
    SlurmRunner.check(None)
    trial = trial_of(epochs=20)
    job = job_of(trial, tmp_path / "cluster")
    machine = Machine(
        backend="slurm", device="cpu", partition="gpu", time_limit=30.0, memory=4.0, cpus=2, slurm=("qos=high",)
    )

    def die(message: Message) -> None:
        raise _DiedError

    with pytest.raises(_DiedError):
        run_until_it_trains(SlurmRunner(machine), job, die)
    script = slurm.script(1)
    for line in ("partition=gpu", "time=30", "mem=4GB", "cpus-per-task=2", "qos=high", "signal=USR1@90", "no-requeue"):
        assert f"#SBATCH --{line}\n" in script
    said = run_until_it_trains(SlurmRunner(machine), job, lambda message: slurm.send(1, signal.SIGUSR1))
    assert slurm.count == 1  # not submitted twice
    assert said[-1] == ("stopped", trial.key, "SIGUSR1")
    slurm.wait(1, "COMPLETED")
    said = run_until_it_trains(SlurmRunner(machine), job, lambda message: None)
    assert said[-1] == ("done", trial.key, None)
    assert slurm.count == 2
    Workbench("cpu").run(job_of(trial, tmp_path / "here"), lambda event: None)
    assert predictions(tmp_path / "cluster", trial) == predictions(tmp_path / "here", trial)


@pytest.mark.slow
def test_a_study_on_slurm_is_the_local_one(
    slurm: FakeSlurm, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    study = {
        "model": str(tiny_model), "task": "words", **words, "levels": (0.5,), "kinds": ("winning",), "seeds": 1,
        "epochs": 1, "patience": 0, "batch_size": 8, "max_length": 16, "precision": "float32", "device": "cpu",
    }  # fmt: skip
    local = supertickets.find(study, out=tmp_path / "local", workers=1)
    spread = supertickets.find(study, out=tmp_path / "cluster", backend="slurm", workers=1)
    assert slurm.count == len(list((tmp_path / "local" / "trials").iterdir()))
    assert contents(spread.folder / "trials") == contents(local.folder / "trials")
    found = status(spread.folder)
    assert (found["state"], found["jobs"]) == ("finished", [])
