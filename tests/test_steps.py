"""Trainings that are held in the middle: others train meanwhile, the process stays as it was, and they go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.models import HEADS, LAYERS
from helpers.process import process
from helpers.trials import make_trial
from supertickets.errors import DivergedError
from supertickets.lab.jobs import Job
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.checkpoint import load_checkpoint, save_checkpoint
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Event, Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe, Span
from supertickets.training.scoring import score
from supertickets.training.state import RandomState, TrainState

CPU = torch.device("cpu")
FULL = Ticket.full(LAYERS, HEADS)
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=1e-2, max_length=16, patience=None, dropout=0.1)
TOTAL = 24
"""Updates of a training by that recipe."""


@pytest.fixture
def task(words: dict[str, Path]) -> Task:
    return load_task(TaskSource(task="words", **words))


@pytest.fixture
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(find_model(str(tiny_model)))


@pytest.fixture
def make(source: ModelSource, task: Task) -> Callable[..., Trainer]:
    def make(seed: int = 0, recipe: Recipe = RECIPE, plan: dict[str, Any] | None = None, **more: Any) -> Trainer:
        model = source.build(task.outputs, recipe.dropout, seed)
        learner = Learner(encode(task, source.tokenizer, recipe.max_length), model, FULL)
        return Trainer([learner], Plan(recipe, seed, **plan or {}), CPU, **more)

    return make


def same(one: Trainer, other: Trainer) -> bool:
    """Whether two trainings came to the same, bit for bit, times apart."""
    outputs = [trainer.result.predictions["words"]["dev"] for trainer in (one, other)]
    return (
        one.result.epochs == other.result.epochs
        and one.result.best_epoch == other.result.best_epoch
        and (one.result.cost.tokens, one.result.cost.flops) == (other.result.cost.tokens, other.result.cost.flops)
        and all(map(torch.equal, one.state.weights, other.state.weights))
        and all(map(np.array_equal, *outputs))
    )


def in_turn(trainers: list[Trainer]) -> None:
    """Train all of them, a step each at a time."""
    going: list[Iterator[Event]] = [trainer.steps() for trainer in trainers]
    while going:
        going = [steps for steps in going if next(steps, None) is not None]


# --- side by side in one process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamax", "adamw"])
def test_interleaved_trainings_give_what_separate_ones_give(make: Callable[..., Trainer], optimizer: str) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "precision": "bfloat16"})
    shorter = recipe.model_copy(update={"epochs": 2})
    wanted = [(0, recipe), (1, recipe), (2, shorter)]
    apart = [make(seed, of) for seed, of in wanted]
    for trainer in apart:
        trainer.train()
    beside = [make(seed, of) for seed, of in wanted]
    in_turn(beside)
    assert all(map(same, apart, beside))
    assert not same(apart[0], apart[1])


def test_control_without_random_numbers_of_their_own_they_would_not(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def shared(self: RandomState, device: torch.device) -> Iterator[None]:
        yield

    drawing = RECIPE.model_copy(update={"dropout_masks": "sequential"})  # keyed masks are drawn from nothing shared
    apart = make(recipe=drawing)
    apart.train()
    beside = [make(recipe=drawing), make(1, drawing)]
    with monkeypatch.context() as patch:
        patch.setattr(RandomState, "drawn_from", shared)
        torch.manual_seed(0)
        in_turn(beside)
        alone = make(recipe=drawing)
        torch.manual_seed(0)
        alone.train()
    assert same(alone, apart)  # random numbers of the process are as good, as long as one training alone draws them
    assert not same(beside[0], apart)


def test_a_training_that_is_held_goes_on_when_it_is_asked_again(make: Callable[..., Trainer]) -> None:
    whole, held = make(), make()
    whole.train()
    for stop in (1, 7, 8, 9):
        for event in held.steps():
            if event["step"] == stop:
                break
        assert held.state.step == stop
        torch.randn(100)
    held.train()
    assert same(held, whole)


# --- nothing of the process changes -----------------------------------------------------------------------------------


@pytest.fixture
def other_threads() -> Iterator[None]:
    """The caller has another number of threads than a recipe's default."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("other_threads")
def test_a_training_leaves_the_process_as_it_was(make: Callable[..., Trainer]) -> None:
    torch.manual_seed(5)
    trainer = make()
    before, threads = process(), []
    step = trainer._step

    def looking(*which: Any) -> float:
        threads.append(torch.get_num_threads())
        return step(*which)

    trainer._step = looking  # type: ignore[method-assign]
    for _ in trainer.steps():
        assert process() == before
    score(trainer, ScoringSettings.model_validate({}), lambda: trainer.learners[0].model)
    trainer.predict(trainer.learners[0], trainer.learners[0].data.evaluations["dev"])
    assert process() == before
    assert set(threads) == {1}  # control: meanwhile it had its own


@pytest.mark.usefixtures("other_threads")
def test_a_training_that_raises_leaves_the_process_as_it_was(make: Callable[..., Trainer]) -> None:
    trainer, before = make(), process()
    step = trainer._step

    def burst(*which: Any) -> float:
        step(*which)
        raise RuntimeError("burst")

    trainer._step = burst  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="burst"):
        trainer.train()
    assert process() == before


@pytest.mark.usefixtures("other_threads")
def test_a_workbench_leaves_the_process_as_it_was(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, trial = process(), make_trial(tiny_model, words)
    Workbench("cpu").run(Job(trial, tmp_path / trial.key, True, "dense"), lambda event: None)
    assert process() == before
    torch.randn(1)  # control
    assert process()[0] != before[0]


# --- a training that another one goes on from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [
        ("adamax", (8,)), ("adamax", (3, 8, 17)), ("adamax", (23, 24)), ("adamw", (3, 8, 17)), ("released", (3, 8, 17)),
    ],
)  # fmt: skip
def test_parts_end_as_the_whole(make: Callable[..., Trainer], optimizer: str, stops: tuple[int, ...]) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    whole = make(recipe=recipe)
    whole.train()
    state: TrainState | None = None
    for stop in stops:
        part = make(recipe=recipe, resume_from=state)
        assert part.run_to(stop) == (stop == TOTAL)
        state = part.state.copy()
        assert (state.step, len(state.result.epochs)) == (stop, stop // 8)
        part.train()  # what is copied stays as it is
        assert state.step == stop
    last = make(recipe=recipe, resume_from=state)
    last.train()
    assert same(last, whole)
    other = make(seed=1, recipe=recipe, resume_from=state)  # control
    other.train()
    assert same(other, whole) == (stops[-1] == TOTAL)


def test_a_state_travels_in_a_file(make: Callable[..., Trainer], tmp_path: Path) -> None:
    whole, part = make(), make()
    whole.train()
    part.run_to(0.4)
    assert part.state.step == round(0.4 * TOTAL)
    part.state.save(tmp_path / "state", "a trial")
    assert TrainState.load(tmp_path / "state", "another") is None
    last = make(resume_from=TrainState.load(tmp_path / "state", "a trial"))
    last.train()
    assert same(last, whole)


def test_a_training_of_a_part_is_gone_on_from_until_it_ends(make: Callable[..., Trainer]) -> None:
    """At its end it evaluates, if need be in the middle of an epoch, and has the best epoch's weights again."""
    whole, first = make(), make(plan={"span": Span(skip=0.0, stop=2 / 3, lr_horizon=1)})
    whole.train()
    first.run_to(10)
    last = make(resume_from=first.state)
    last.train()
    assert same(last, whole)
    first.train()
    with pytest.raises(ValueError, match="a training that has ended"):
        make(resume_from=first.state)


def test_a_state_of_another_training_is_refused(make: Callable[..., Trainer], source: ModelSource, task: Task) -> None:
    part = make()
    part.run_to(8)
    with pytest.raises(ValueError, match="it has done other steps"):
        make(recipe=RECIPE.model_copy(update={"batch_size": 4}), resume_from=part.state)
    learner = Learner(encode(task, source.tokenizer, 16), source.build(3, 0.1, 0), FULL)
    with pytest.raises(ValueError, match="one of another model"):
        make(resume_from=Trainer([learner], Plan(RECIPE), CPU).state)


def test_a_checkpoint_of_another_model_is_as_good_as_none(
    make: Callable[..., Trainer], source: ModelSource, task: Task, tmp_path: Path
) -> None:
    """Another version of a library may build the same model of other parameters."""
    learner = Learner(encode(task, source.tokenizer, 16), source.build(3, 0.1, 0), FULL)
    checkpoints = Checkpoints(tmp_path / "state", "a trial")
    other = Trainer([learner], Plan(RECIPE), CPU, checkpoints)
    other.run_to(3)
    other.save()
    assert make(checkpoints=checkpoints).state.step == 0
    part = make()
    part.run_to(5)
    assert make(checkpoints=checkpoints, resume_from=part.state).state.step == 5
    part.state.save(tmp_path / "state", "a trial")
    assert make(checkpoints=checkpoints).state.step == 5  # control


def test_a_checkpoint_says_in_which_environments_the_training_was(make: Callable[..., Trainer], tmp_path: Path) -> None:
    path = tmp_path / "state"

    def where(version: str) -> list[str]:
        trainer = make(checkpoints=Checkpoints(path, environment={"torch": version}))
        trainer.run_to(trainer.state.step + 1)
        trainer.save()
        return [one["torch"] for one in trainer.environments]

    assert [where(version) for version in ("1", "1", "2", "1")] == [["1"], ["1"], ["1", "2"], ["1", "2"]]
    found = load_checkpoint(path)
    assert found is not None
    tensors, state = found
    save_checkpoint(path, tensors, {name: value for name, value in state.items() if name != "environments"})
    assert where("3") == ["3"]  # of a version that did not write them
    assert make(checkpoints=Checkpoints(path)).state.step == 5


def test_patience_runs_out_in_a_part(make: Callable[..., Trainer]) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 30, "patience": 1})
    whole = make(recipe=recipe)
    whole.train()
    assert len(whole.result.epochs) < 30
    part = make(recipe=recipe)
    assert not part.run_to(1)
    assert part.run_to(1.0)
    assert same(part, whole)
    again = make(recipe=recipe, resume_from=part.state.copy())
    assert again.finished
    assert list(again.steps()) == []
    assert same(again, whole)


# --- losses that are read once in a while -----------------------------------------------------------------------------


def _read_every(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr("supertickets.training.loop.losses_read_every", lambda device: steps)


@pytest.mark.parametrize("every", [3, 100])
def test_losses_read_once_in_a_while_change_nothing(
    make: Callable[..., Trainer], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    each = list(one.steps())
    _read_every(monkeypatch, every)
    other = make()
    some = list(other.steps())
    assert same(one, other)
    assert [event["step"] for event in each] == [event["step"] for event in some]
    assert [event for event in each if "metrics" in event] == [event for event in some if "metrics" in event]
    assert each != some  # control: between two readings the loss that is told is an earlier one
    part = make()
    for _ in range(6):
        next(events := part.steps())
        events.close()
    assert make(resume_from=part.state.copy()).state.losses == part.state.losses  # none is lost where it is held
    assert len(part.state.losses) == 6


def test_a_loss_that_is_read_later_names_its_own_step(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for every in (1, 4, 100):
        _read_every(monkeypatch, every)
        with pytest.raises(DivergedError) as raised:
            make(recipe=RECIPE.model_copy(update={"learning_rate": 1e30})).train()
        told.append(str(raised.value))
    assert len(set(told)) == 1
