"""A tracker's run ends with its trial, however that ends: an open one would take the next trial's numbers."""

from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate import PartialState

from supertickets.lab import Trial
from supertickets.lab.jobs import Job
from supertickets.lab.tracking import Tracking
from supertickets.lab.trial import TaskTicket
from supertickets.lab.workbench import Workbench
from supertickets.models import find_model
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.loop import Trainer
from supertickets.training.recipe import Recipe


class FakeTracker:
    """Knows which runs are open; its subclasses fail somewhere."""

    name = "fake"
    requires_logging_directory = False
    opened: list[str] = []  # noqa: RUF012 (shared on purpose)
    ended: list[str] = []  # noqa: RUF012

    def __init__(self, run: str) -> None:
        self.run = f"{type(self).name} {run}"

    def start(self) -> None:
        self.opened.append(self.run)

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...

    def finish(self) -> None:
        self.ended.append(self.run)


class NoConfiguration(FakeTracker):
    name = "no configuration"

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        raise OSError("the server is gone")


class NoLog(FakeTracker):
    name = "no log"

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        raise OSError("the server is gone")


@pytest.fixture(autouse=True)
def trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"one": FakeTracker, "bad": NoConfiguration, "deaf": NoLog}
    monkeypatch.setattr(accelerate.tracking, "LOGGER_TYPE_TO_CLASS", kinds)
    FakeTracker.opened.clear(), FakeTracker.ended.clear()


@pytest.fixture
def job(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> Job:
    source = TaskSource(task="words", **words)
    trial = Trial(
        model=str(tiny_model),
        weight_hash=find_model(str(tiny_model)).weight_hash,
        tasks=(TaskTicket(source=source, data_hash=load_task(source).fingerprint(), ticket=Ticket.full(3, 4)),),
        recipe=Recipe(epochs=1, batch_size=32, max_length=16),
        seed=0,
    )
    return Job(trial, tmp_path / "trials" / trial.key, False, "dense seed 0")


def ignore(event: dict[str, Any]) -> None: ...


def test_a_trial_that_ends_well_ends_its_run(job: Job) -> None:
    Workbench("cpu", ["one"]).run(job, ignore)
    assert FakeTracker.opened == FakeTracker.ended != []


def burst(*_: Any, **__: Any) -> None:
    raise RuntimeError("burst")


@pytest.mark.parametrize("where", ["__init__", "run_to"])
def test_a_trial_that_raises_ends_its_run(job: Job, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(Trainer, where, burst)
    with pytest.raises(RuntimeError, match="burst"):
        Workbench("cpu", ["one"]).run(job, ignore)
    assert FakeTracker.opened == FakeTracker.ended != []


def test_a_trial_that_is_interrupted_ends_its_run(job: Job) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Workbench("cpu", ["one"]).run(job, interrupt)
    assert FakeTracker.opened == FakeTracker.ended != []


def test_trackers_that_began_before_one_that_cannot_are_ended(job: Job) -> None:
    with pytest.raises(OSError, match="the server is gone"):
        Tracking(["one", "bad", "one"], job, ignore)
    assert FakeTracker.opened == FakeTracker.ended
    assert [run.rsplit(" ", 1)[0] for run in FakeTracker.ended] == ["fake", "no configuration"]


def test_a_tracker_that_fails_meanwhile_is_ended_and_the_training_goes_on(job: Job) -> None:
    with pytest.warns(UserWarning, match="tracker no log stopped: the server is gone"):
        outcome = Workbench("cpu", ["deaf", "one"]).run(job, ignore)
    assert outcome.finished
    assert sorted(FakeTracker.opened) == sorted(FakeTracker.ended)
    assert len(FakeTracker.ended) == 2


def test_nothing_waits_for_processes_that_nobody_started(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate takes LOCAL_RANK alone, which scripts for clusters set, for a launch, and asks for the rest of it."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with Tracking(("one",), job, ignore):
        assert PartialState().num_processes == 1
    PartialState._shared_state.clear()
    with pytest.raises(ValueError, match="expected"):  # control
        PartialState()
