"""Trials that are trained to a part of their recipe, and go on later: they end as the unbroken ones, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.study_files import contents
from helpers.trials import make_trial, write_words
from supertickets.lab import Trial
from supertickets.lab.in_process import run_job
from supertickets.lab.jobs import Job, Message
from supertickets.lab.outcome import CHECKPOINT, PARTIAL, forget, forget_all, load_outcome
from supertickets.lab.partial import Partial, load_partial, save_partial
from supertickets.lab.trial import Prune, TaskTicket, WeightMask
from supertickets.lab.workbench import Workbench
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Sharing, Span


@pytest.fixture
def trial(tiny_model: Path, words: dict[str, Path]) -> Trial:
    """Of three epochs, each of eight steps."""
    return make_trial(tiny_model, words, epochs=3, learning_rate=1e-2, patience=None)


def several(trial: Trial, folder: Path) -> Trial:
    """Return the trial with a second task, and a ticket for each."""
    files = {
        f"{part}_file": write_words(folder / f"{part}.jsonl", 24, seed, lambda found: len(found) % 3)
        for seed, part in enumerate(("train", "dev"))
    }
    source = TaskSource(task="lengths", **files)
    ticket = Ticket.from_pruned(3, 4, [(0, 0)], [1])
    other = TaskTicket(source=source, data_hash=load_task(source).fingerprint(), ticket=ticket)
    return trial.model_copy(update={"tasks": (*trial.tasks, other), "sharing": Sharing.model_validate({})})


PRUNING = Pruning.model_validate({})
KINDS: dict[str, Callable[[Trial, Path], Trial]] = {
    "scored": lambda trial, folder: trial.model_copy(update={"scoring": ScoringSettings(score_epoch=1)}),
    "several tasks": several,
    "weights at zero": lambda trial, folder: trial.model_copy(
        update={
            "mask": WeightMask(how="magnitude", sparsity=0.5, pruning=PRUNING),
            "prune": Prune(sparsity=0.6, pruning=PRUNING),
        }
    ),
    "the last part": lambda trial, folder: trial.model_copy(update={"span": Span(skip=0.3, stop=1.0, lr_horizon=2)}),
}


def run(trial: Trial, root: Path, until: float | None = None, **options: Any) -> tuple[Any, list[int]]:
    """Run a trial on a new workbench; return what comes out, and the steps that it did."""
    steps: list[int] = []
    torch.manual_seed(len(str(until)))  # whatever the process draws must not matter
    job = Job(trial, root / trial.key, True, "x", until=until)
    made = Workbench("cpu", **options).run(job, lambda event: steps.append(event["step"]))
    return made, sorted(set(steps))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_end_as_the_unbroken_trial(trial: Trial, tmp_path: Path, kind: str) -> None:
    trial = KINDS[kind](trial, tmp_path)
    unbroken, every = run(trial, tmp_path / "whole")
    total, at = len(every), tmp_path / "parts"
    done: list[int] = []
    for share in (1 / 3, 2 / 3):
        part, steps = run(trial, at, share)
        assert isinstance(part, Partial)
        assert part == load_partial(at / trial.key)
        assert (part.key, part.trial, part.fraction) == (trial.key, trial, round(share * total) / total)
        assert part.epochs == [entry for entry in unbroken.epochs if entry["epoch"] <= len(part.epochs)]
        assert len(part.epochs) == round(3 * share)  # each kind trains three epochs
        assert 0 < part.cost["tokens"] < unbroken.cost["tokens"]
        assert load_outcome(at / trial.key) is None
        assert sorted(path.name for path in (at / trial.key).iterdir()) == [CHECKPOINT, PARTIAL, "partial.safetensors"]
        done += steps
    outcome, steps = run(trial, at)
    assert done + steps == every
    assert outcome.key == unbroken.key
    assert contents(at) == contents(tmp_path / "whole")
    assert load_partial(at / trial.key) is None


def test_control_of_another_seed_it_does_not(trial: Trial, tmp_path: Path) -> None:
    other = trial.model_copy(update={"seed": 1})
    assert other.key != trial.key
    for one, name in ((trial, "whole"), (other, "parts")):
        run(one, tmp_path / name, 1 / 3)
        run(one, tmp_path / name)
    ours, theirs = (load_outcome(tmp_path / name / one.key) for one, name in ((trial, "whole"), (other, "parts")))
    assert ours is not None
    assert theirs is not None
    assert ours.files.keys() == theirs.files.keys()
    assert all(ours.files[name] != theirs.files[name] for name in ours.files)


class StoppedError(Exception):
    pass


def test_a_part_that_is_stopped_goes_on_from_its_checkpoint(trial: Trial, tmp_path: Path) -> None:
    run(trial, tmp_path / "whole")

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == 11:
            raise StoppedError

    run(trial, tmp_path / "parts", 1 / 3)
    bench = Workbench("cpu", checkpoint_every=0.0)
    with pytest.raises(StoppedError):
        bench.run(Job(trial, tmp_path / "parts" / trial.key, True, "x", until=2 / 3), stop)
    part = load_partial(tmp_path / "parts" / trial.key)
    assert part is not None
    assert part.fraction == 1 / 3  # what it said before still holds
    part, steps = run(trial, tmp_path / "parts", 2 / 3)
    assert (part.fraction, steps) == (2 / 3, list(range(11, 17)))
    assert run(trial, tmp_path / "parts")[1] == list(range(17, 25))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_part_that_is_done_is_not_done_again(trial: Trial, tmp_path: Path) -> None:
    further, _ = run(trial, tmp_path, 0.5)
    again, steps = run(trial, tmp_path, 0.25)
    assert steps == []
    assert (again.fraction, again.epochs) == (0.5, further.epochs)
    assert len(further.epochs) == 1


def test_a_part_may_be_the_end(trial: Trial, tmp_path: Path) -> None:
    """All of it; or patience runs out, or the loss is no number any more: then there is an outcome."""
    outcome, steps = run(trial, tmp_path, 1.0)
    assert outcome.finished
    assert steps == list(range(1, 25))
    impatient = trial.model_copy(update={"recipe": trial.recipe.model_copy(update={"epochs": 60, "patience": 1})})
    outcome, _ = run(impatient, tmp_path, 0.99)
    assert outcome.finished
    assert len(outcome.epochs) < 59
    recipe = trial.recipe.model_copy(update={"learning_rate": 1e30})
    outcome, _ = run(trial.model_copy(update={"recipe": recipe}), tmp_path, 0.9)
    assert outcome.status == "diverged"
    assert not list(tmp_path.glob(f"*/{PARTIAL}"))


def test_a_runner_tells_of_parts(trial: Trial, tmp_path: Path) -> None:
    said: list[Message] = []
    bench, job = Workbench("cpu"), Job(trial, tmp_path / trial.key, False, "x", until=0.25)
    run_job(bench, job, said.append)
    assert said[-1] == ("partial", trial.key, 0.25)
    run_job(bench, Job(trial, tmp_path / trial.key, False, "x"), said.append)
    assert said[-1] == ("done", trial.key, None)


@pytest.mark.parametrize("damage", ["missing", "truncated", "a figure", "older schema", "another key"])
def test_a_damaged_part_is_not_read(trial: Trial, tmp_path: Path, damage: str) -> None:
    partial = Partial(trial.key, trial, tmp_path / trial.key, 0.25, [{"epoch": 1, "score": 1.0}], {"seconds": 2.0})
    save_partial(partial)
    assert load_partial(partial.folder) == partial
    file = partial.folder / PARTIAL
    text = file.read_text()
    if damage == "missing":
        file.unlink()
    elif damage == "another key":
        file.parent.rename(tmp_path / "other")
        partial = Partial(trial.key, trial, tmp_path / "other", 0.25)
    else:
        changed = {"truncated": text[:-9], "a figure": text.replace("0.25", "0.35")}
        file.write_text(changed.get(damage, text.replace('"schema": 1', '"schema": 0')))
        assert file.read_text() != text
    assert load_partial(partial.folder) is None


def test_only_forgetting_all_forgets_a_part(trial: Trial, tmp_path: Path) -> None:
    run(trial, tmp_path, 0.25)
    forget(tmp_path / trial.key)
    assert load_partial(tmp_path / trial.key) is not None
    (tmp_path / trial.key / CHECKPOINT).unlink()  # it begins again, and comes to the same
    assert json.loads((tmp_path / trial.key / PARTIAL).read_text())["fraction"] == 0.25
    assert run(trial, tmp_path, 0.25)[1] == list(range(1, 7))
    forget_all(tmp_path / trial.key)
    assert not (tmp_path / trial.key).exists()
