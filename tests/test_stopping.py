"""A signal asks trainings to stop: they make a checkpoint, and end with the same bits as if nobody had asked."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.study_files import contents
from helpers.trials import make_trial, step_of
from supertickets.errors import StudyError
from supertickets.lab import on_ray
from supertickets.lab.in_process import InProcess
from supertickets.lab.jobs import Job, Message
from supertickets.lab.lab import Lab
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import CHECKPOINT
from supertickets.lab.stopping import SIGNALS, asked_to_stop, heeding
from supertickets.lab.trial import Trial
from supertickets.lab.workers import WorkerPool


@pytest.fixture(scope="module")
def trial_of(tiny_model: Path, words: dict[str, Path]) -> Callable[[int], Trial]:
    base = make_trial(tiny_model, words, epochs=3, patience=None, precision="float32")
    return lambda seed: base.but(seed=seed)


class _SignalAt:
    """Sends a signal to a process when a training reports its n-th step; remembers all messages."""

    def __init__(self, number: int, at: int, pid: Callable[[], int] = os.getpid) -> None:
        self.number, self.at, self.pid, self.seen = number, at, pid, list[Message]()

    def __call__(self, message: Message) -> None:
        self.seen.append(message)
        if message[0] == "progress" and self.at and message[2]["step"] >= self.at:
            self.at = 0
            os.kill(self.pid(), self.number)

    @property
    def ends(self) -> list[str]:
        return [what for what, _, _ in self.seen if what not in ("started", "progress")]


def run(trial: Trial, folder: Path, send: Callable[[Message], None], runner: Any) -> Path:
    waiting = [Job(trial, folder / "trials" / trial.key, True, "x")]
    try:
        runner.run(lambda: waiting.pop() if waiting else None, send)
    finally:
        runner.close()
    return folder / "trials" / trial.key


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supertickets.lab.in_process._REPORT_EVERY", 0.0)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_training_goes_on_to_the_same_bits(
    trial_of: Callable[[int], Trial], tmp_path: Path, number: signal.Signals
) -> None:
    whole = _SignalAt(number, 0)
    run(trial_of(0), tmp_path / "whole", whole, InProcess({"device": "cpu"}))
    assert whole.ends == ["done"]
    stopped = _SignalAt(number, 5)
    folder = run(trial_of(0), tmp_path / "stopped", stopped, InProcess({"device": "cpu"}))
    assert stopped.ends == ["stopped", "halt"]
    assert (folder / CHECKPOINT).is_file()  # that of this stop: the next one would be due in two minutes
    assert signal.getsignal(number) == signal.SIG_DFL
    resumed = _SignalAt(number, 0)
    run(trial_of(0), tmp_path / "stopped", resumed, InProcess({"device": "cpu"}))
    assert resumed.ends == ["done"]
    assert next(m[2]["step"] for m in resumed.seen if m[0] == "progress") == 6
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    other = _SignalAt(number, 0)
    run(trial_of(1), tmp_path / "other", other, InProcess({"device": "cpu"}))
    one, two = (
        (tmp_path / name / "trials" / trial_of(seed).key / "predictions.safetensors").read_bytes()
        for name, seed in (("whole", 0), ("other", 1))
    )
    assert one != two


def test_a_study_that_is_stopped_says_how_to_go_on(trial_of: Callable[[int], Trial], tmp_path: Path) -> None:
    class Asks(Machine):
        def runner(self) -> Any:
            return _Asked(super().runner())

    class _Asked:
        side_by_side = 1

        def __init__(self, runner: Any) -> None:
            self.runner = runner
            self.close = runner.close

        def run(self, next_job: Any, send: Any) -> None:
            at = _SignalAt(signal.SIGTERM, 5)
            self.runner.run(next_job, lambda message: (at(message), send(message)))

    steps = [step_of(trial_of(seed)) for seed in range(2)]
    with (
        Lab(tmp_path, Asks(device="cpu")) as lab,
        pytest.raises(StudyError, match=r"^SIGTERM stopped the study; .* the same command again to go on from there"),
    ):
        lab.run(steps)
    assert len(list(tmp_path.glob(f"trials/*/{CHECKPOINT}"))) == 1  # the second one did not begin


@pytest.mark.slow
def test_workers_are_told(trial_of: Callable[[int], Trial], tmp_path: Path) -> None:
    trial = trial_of(0).but(recipe=trial_of(0).recipe.model_copy(update={"epochs": 1000}))
    at = _SignalAt(signal.SIGTERM, 1)
    folder = run(trial, tmp_path, at, WorkerPool(["cpu"], {}))
    assert at.ends == ["stopped", "halt"]
    assert (folder / CHECKPOINT).is_file()


@pytest.mark.slow
def test_one_worker_that_is_told_to_stop_is_replaced(trial_of: Callable[[int], Trial], tmp_path: Path) -> None:
    """The study goes on: the training is run again, from its checkpoint, in a new process."""
    recipe = trial_of(0).recipe.model_copy(update={"epochs": 30})
    pool = WorkerPool(["cpu"], {})
    first = pool._workers[0].process.pid
    assert first is not None
    at = _SignalAt(signal.SIGTERM, 1, lambda: first)
    job = Job(trial_of(0).but(recipe=recipe), tmp_path / "trials" / "x", False, "x")
    jobs = [replace(job), job]
    try:
        pool.run(lambda: jobs.pop() if jobs else None, at)
    finally:
        pool.close()
    assert at.ends == ["stopped", "done"]
    assert pool._workers[0].process.pid != first


def test_a_worker_of_ray_sends_its_checkpoint_back(
    trial_of: Callable[[int], Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray: it gives back what it is given."""
    for name, value in (("_bench", None), ("_bench_for", None), ("_FOLDER", tmp_path / f"{on_ray._PREFIX}mine")):
        monkeypatch.setattr(on_ray, name, value)
    monkeypatch.setattr(on_ray, "require_ray", lambda: SimpleNamespace(get=lambda value: value))
    at = _SignalAt(signal.SIGTERM, 3)
    mailbox = SimpleNamespace(put=SimpleNamespace(remote=at))
    job = Job(trial_of(0), tmp_path, False, "x")
    message, files = on_ray._run_remotely(job, {}, None, frozenset(), [{}], [{}], {"device": "cpu"}, mailbox)
    assert message == ("stopped", job.trial.key, "SIGTERM")
    assert [Path(name).name for name in files] == [CHECKPOINT]


def test_what_is_stopped_takes_no_try(trial_of: Callable[[int], Trial], tmp_path: Path) -> None:
    """Ten times, and it still may fail twice."""
    answers = ["stopped"] * 10 + ["failed", "failed", "stopped", "failed"]
    asked: list[str] = []

    class Fake(Machine):
        side_by_side = 1

        def runner(self) -> Any:
            return self

        def close(self) -> None:
            pass

        def run(self, next_job: Any, send: Any) -> None:
            while (job := next_job()) is not None:
                asked.append(answers[len(asked)])
                send((asked[-1], job.trial.key, "why"))

    with Lab(tmp_path, Fake()) as lab:
        execution = lab.run([step_of(trial_of(0))])
    assert asked == answers
    assert [run.status for run in execution.runs] == ["failed"]


def test_signals_are_heeded_within_and_forgotten_after(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    with heeding(told.append):
        with heeding():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert asked_to_stop() == "SIGUSR1"
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked_to_stop() == "SIGUSR1"  # the first
    assert told == [signal.SIGTERM]
    assert asked_to_stop() is None
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}

    inside = []

    def in_a_thread() -> None:
        with heeding():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert inside == [signal.SIG_DFL]
