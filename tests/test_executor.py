"""Steps run in their order, equal trials once, and weights stay as long as somebody starts from them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from helpers.study_files import contents
from helpers.trials import make_trial
from supertickets.errors import StudyError
from supertickets.lab.jobs import Job, NextJob, Send
from supertickets.lab.lab import Lab, replay
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import PREDICTIONS, WEIGHTS, Outcome, save_outcome
from supertickets.lab.partial import Partial, save_partial
from supertickets.lab.steps import Done, Execution, Order, Step
from supertickets.lab.trial import Mean, Trial
from supertickets.storage import write_atomically
from supertickets.tickets import Ticket

Score = Callable[[Trial], float | str | None]


class FakeMachine(Machine):
    """Runs nothing: a trial's outcome has the score that a function gives; None: it diverges, a text: it fails."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "ran", [])

    def runner(self) -> Any:
        return self

    side_by_side = 1

    def close(self) -> None:
        pass

    def run(self, next_job: NextJob, send: Send) -> None:
        while (job := next_job()) is not None:
            key = job.trial.key
            self.ran.append(job.trial.seed)  # type: ignore[attr-defined]
            if job.until is not None:
                epochs = [{"epoch": e, "score": float(e)} for e in range(1, job.trial.recipe.epochs + 1)]
                done = [epoch for epoch in epochs if epoch["epoch"] <= job.until * len(epochs)]
                save_partial(Partial(key, job.trial, job.folder, job.until, done))
                send(("partial", key, job.until))
                continue
            score = self.score(job.trial)  # type: ignore[attr-defined]
            if isinstance(score, str):
                send(("refused", key, score))
                continue
            _write(job, score)
            send(("done", key, None))


def _write(job: Job, score: float | None) -> None:
    files = {PREDICTIONS: save({"scores": np.array([score or 0.0])})} | (
        {WEIGHTS: save({})} if job.keep_weights and score is not None else {}
    )
    epoch = {"epoch": 1, "loss": 0.0, "score": score, "metrics": {"task": {"dev": {"score": score}}}}
    save_outcome(
        Outcome(
            key=job.trial.key,
            trial=job.trial,
            folder=job.folder,
            status="diverged" if score is None else "finished",
            epochs=[epoch],
            best_epoch=1,
            cost={"parameters": 1, "flops": 0, "tokens": 0, "seconds": 0},
            files={name: write_atomically(job.folder / name, data) for name, data in files.items()},
        )
    )


@pytest.fixture(scope="module")
def trial_of(tiny_model: Path, words: dict[str, Path]) -> Callable[[int], Trial]:
    base = make_trial(tiny_model, words)
    return lambda seed: base.model_copy(update={"seed": seed})


def _step(trial: Trial | None, *needs: Step, **more: Any) -> Step:
    seed = trial.seed if trial is not None else -1
    return Step({"kind": "x", "seed": seed}, lambda done: trial, needs=needs, **more)


def test_equal_trials_run_once_and_all_their_steps_have_the_outcome(
    tmp_path: Path, trial_of: Callable[[int], Trial]
) -> None:
    machine = FakeMachine(lambda trial: 50.0)
    one, other = _step(trial_of(0)), _step(trial_of(0))
    late = _step(trial_of(0), one, other)
    with Lab(tmp_path, machine) as lab:
        execution = lab.run([one, other, late, _step(trial_of(1))])
    assert machine.ran == [0, 1]  # type: ignore[attr-defined]
    assert [run.status for run in execution.runs] == ["finished"] * 4
    assert execution.total == 2


def test_what_a_step_needs_has_ended_before_it_is_made(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    seen = []
    scores: dict[int, Any] = {0: 50.0, 1: None, 2: "refused"}
    steps = [_step(trial_of(seed)) for seed in range(3)]

    def ask(step: Step, strict: bool) -> Callable[[Done], Trial]:
        def make(done: Done) -> Trial:
            seen.append(done[step].score if strict else done.get(step))
            return trial_of(10 + len(seen))

        return make

    children = [
        Step({"kind": "y", "seed": i}, ask(step, strict), (step,)) for i, step in enumerate(steps) for strict in (1, 0)
    ]
    with Lab(tmp_path, FakeMachine(lambda trial: scores.get(trial.seed, 1.0))) as lab:
        execution = lab.run([*steps, *children])
    statuses = [run.status for run in execution.runs]
    assert statuses == [
        "finished",
        "diverged",
        "failed",
        "finished",
        "finished",
        "missing",
        "finished",
        "missing",
        "missing",
    ]
    assert seen[0] == 50.0
    assert seen[2] is None  # the diverged one is asked for politely
    assert execution.complete
    assert replay([*steps], tmp_path).runs[2].failure == "refused"


def test_a_trial_that_is_not_wanted_is_not_run(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    first = _step(None)
    with Lab(tmp_path, machine := FakeMachine(lambda trial: 1.0)) as lab:
        execution = lab.run([first, _step(trial_of(1), first)])
    assert [run.status for run in execution.runs] == ["not wanted", "finished"]
    assert machine.ran == [1]  # type: ignore[attr-defined]
    assert execution.total == 1


def _has_weights(folder: Path, trial: Trial) -> bool:
    return (folder / "trials" / trial.key / WEIGHTS).is_file()


@pytest.mark.parametrize("keep", ["no", "yes"])
def test_weights_stay_until_the_last_child_has_ended(
    tmp_path: Path, trial_of: Callable[[int], Trial], keep: Any
) -> None:
    there: list[bool] = []

    def score(trial: Trial) -> float:
        there.append(_has_weights(tmp_path, trial_of(0)))
        return 1.0

    parent = _step(trial_of(0), keep=keep)
    children = [_step(trial_of(seed), starts_from=(parent,)) for seed in (1, 2, 3)]
    with Lab(tmp_path, FakeMachine(score)) as lab:
        lab.run([parent, *children])
    assert there == [False, True, True, True]
    assert _has_weights(tmp_path, trial_of(0)) == (keep == "yes")
    assert not _has_weights(tmp_path, trial_of(1))


@pytest.mark.parametrize("diverges", [False, True])
def test_weights_of_several_parents_stay_until_their_child_has_ended(
    tmp_path: Path, trial_of: Callable[[int], Trial], diverges: bool
) -> None:
    """Also if the child turns out not to be wanted, since the last parent diverged."""
    there: dict[int, list[bool]] = {}

    def score(trial: Trial) -> float | None:
        there[trial.seed] = [_has_weights(tmp_path, trial_of(seed)) for seed in range(3)]
        return None if diverges and trial.seed == 2 else 1.0

    parents = tuple(_step(trial_of(seed)) for seed in range(3))

    def make(done: Done) -> Trial | None:
        return trial_of(9) if all(done.get(parent) is not None for parent in parents) else None

    child = Step({"kind": "mean"}, make, starts_from=parents, evaluates=True)
    with Lab(tmp_path, FakeMachine(score)) as lab:
        execution = lab.run([*parents, child])
    assert there[2] == [True, True, False]
    assert there.get(9) == (None if diverges else [True, True, True])
    assert not any(_has_weights(tmp_path, trial_of(seed)) for seed in (0, 1, 2, 9))
    assert execution.runs[3].status == ("not wanted" if diverges else "finished")
    assert (execution.total, execution.evaluations) == (3, 0 if diverges else 1)
    assert replay([*parents, child], tmp_path).complete


def test_evaluations_are_run_first(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    parents = tuple(_step(trial_of(seed), keep="yes") for seed in (0, 1))
    with Lab(tmp_path, FakeMachine(lambda trial: 1.0)) as lab:
        starts = tuple(run.result.start(0) for run in lab.run(parents).runs)

    def steps(mean: Mean | None) -> list[Step]:
        late = Step({"kind": "late"}, lambda done: trial_of(7).but(mean=mean), starts_from=parents, evaluates=True)
        return [*parents, *(_step(trial_of(seed)) for seed in (3, 4)), late]

    for mean, expected in ((Mean(starts=starts, shares=(0.5, 0.5)), [7, 3, 4]), (None, [3, 4, 7])):
        folder = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{expected[0]}"))
        with Lab(folder, machine := FakeMachine(lambda trial: 1.0)) as lab:
            lab.run(steps(mean))
        assert machine.ran == expected  # type: ignore[attr-defined]


def test_the_best_keeps_its_weights(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    cut, scores = _cut(trial_of), {0: 1.0, 1: 3.0, 2: 2.0, 3: 9.0}
    steps = [_step(cut(seed), keep="best") for seed in range(3)] + [_step(trial_of(3), keep="best")]
    with Lab(tmp_path, FakeMachine(lambda trial: scores[trial.seed])) as lab:
        lab.run(steps)
    kept = [_has_weights(tmp_path, cut(seed)) for seed in range(3)]
    assert kept == [False, True, False]
    assert not _has_weights(tmp_path, trial_of(3))  # a full ticket is no candidate, whatever it scores


def _cut(trial_of: Callable[[int], Trial]) -> Callable[[int], Trial]:
    """Trials of a ticket that is not full."""

    def cut(seed: int) -> Trial:
        trial = trial_of(seed)
        ticket = Ticket(heads=np.eye(*trial.ticket.shape, dtype=bool), ffns=trial.ticket.ffns)
        return trial.model_copy(update={"tasks": (trial.tasks[0].model_copy(update={"ticket": ticket}),)})

    return cut


@pytest.mark.parametrize("found", [0, 1, 2])
def test_what_may_turn_out_to_be_the_best_keeps_its_weights_until_that_is_known(
    tmp_path: Path, trial_of: Callable[[int], Trial], found: int
) -> None:
    """As looks of a search, each better than the one before: the level that is found is not that of the best look."""
    cut, there = _cut(trial_of), []

    def score(trial: Trial) -> float:
        there.append([_has_weights(tmp_path, cut(seed)) for seed in range(3)])
        return 1.0 + trial.seed

    looks = [_step(cut(0), keep="until best")]
    for seed in (1, 2):
        looks.append(_step(cut(seed), looks[-1], keep="until best"))
    finals = [
        Step(
            {"kind": "final", "seed": seed},
            lambda done, s=seed: cut(s) if s == found else None,
            looks[-1:],
            keep="best",
        )
        for seed in range(3)
    ]
    with Lab(tmp_path, FakeMachine(score)) as lab:
        lab.run([*looks, *finals])
    assert there == [[False] * 3, [True, False, False], [True, True, False]]
    assert [_has_weights(tmp_path, cut(seed)) for seed in range(3)] == [seed == found for seed in range(3)]


# --- trainings repeated for their weights -----------------------------------------------------------------------------


@pytest.fixture
def grown(tmp_path: Path, trial_of: Callable[[int], Trial]) -> list[Step]:
    """Steps of a study that has grown: of two finished trainings without weights, the first is to be started from."""
    first, second = _step(trial_of(0)), _step(trial_of(1))
    with Lab(tmp_path, FakeMachine(lambda trial: 50.0)) as lab:
        lab.run([first, second])
    assert not _has_weights(tmp_path, trial_of(0))  # control
    return [first, second, _step(trial_of(2), starts_from=(first,), keep="yes")]


def test_it_is_repeated_and_what_is_remembered_stays(
    tmp_path: Path, trial_of: Callable[[int], Trial], grown: list[Step]
) -> None:
    before = (tmp_path / "trials" / trial_of(0).key / "outcome.json").read_bytes()
    with Lab(tmp_path, machine := FakeMachine(lambda trial: 50.0)) as lab:
        runs = lab.run(grown).runs
    assert machine.ran == [0, 2]  # type: ignore[attr-defined]
    assert [run.status for run in runs] == ["finished"] * 3
    assert not (tmp_path / "retrained").exists()
    assert not _has_weights(tmp_path, trial_of(0))  # dropped again
    kept = json.loads((tmp_path / "trials" / trial_of(0).key / "outcome.json").read_bytes())
    assert kept["epochs"] == json.loads(before)["epochs"]


@pytest.mark.parametrize("ends", [61.0, KeyboardInterrupt(), "refused"])
def test_a_repeat_that_comes_out_otherwise_or_not_at_all_changes_nothing(
    tmp_path: Path, trial_of: Callable[[int], Trial], grown: list[Step], ends: Any
) -> None:
    def score(trial: Trial) -> Any:
        if isinstance(ends, BaseException):
            raise ends
        return ends

    folder = tmp_path / "trials" / trial_of(0).key
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Lab(tmp_path, FakeMachine(score)) as lab:
        if isinstance(ends, float):
            with pytest.raises(StudyError, match=r"x seed 0 was trained again, .* did not come out as before"):
                lab.run(grown)
        elif isinstance(ends, BaseException):
            with pytest.raises(KeyboardInterrupt):
                lab.run(grown)
        else:
            assert [run.status for run in lab.run(grown).runs][:2] == ["failed", "finished"]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "failure.json"} == before
    with Lab(tmp_path, FakeMachine(lambda trial: 50.0)) as lab:
        assert [run.status for run in lab.run(grown).runs] == ["finished"] * 3


def test_what_is_trained_again_for_another_alone_goes_after_an_interruption_too(
    tmp_path: Path, trial_of: Callable[[int], Trial]
) -> None:
    parent = _step(trial_of(0))
    child = Step(
        {"kind": "y", "seed": 1}, lambda done: trial_of(1).but(start=done[parent].start()), (parent,), (parent,)
    )
    with Lab(tmp_path, FakeMachine(lambda trial: 50.0)) as lab:
        last = lab.run([parent, child]).runs[1].trial
    assert last is not None
    before = contents(tmp_path)

    def score(trial: Trial) -> float:
        if trial.seed == 1:
            raise KeyboardInterrupt
        return 50.0

    with Lab(tmp_path, FakeMachine(score)) as lab, pytest.raises(KeyboardInterrupt):
        lab.with_weights(last)
    assert _has_weights(tmp_path, trial_of(0))
    with Lab(tmp_path, machine := FakeMachine(lambda trial: 50.0)) as lab:
        assert lab.with_weights(last).has_weights
    assert machine.ran == [1]  # type: ignore[attr-defined]
    assert contents(tmp_path).keys() - before.keys() == {f"trials/{last.key}/{WEIGHTS}"}

    kept = _step(trial_of(0), keep="yes")  # control: weights that were there stay
    with Lab(tmp_path / "kept", FakeMachine(lambda trial: 50.0)) as lab:
        child = Step({"kind": "y", "seed": 1}, lambda done: trial_of(1).but(start=done[kept].start()), (kept,), (kept,))
        other = lab.run([kept, child]).runs[1].trial
        assert other is not None
        lab.with_weights(other)
    assert _has_weights(tmp_path / "kept", trial_of(0))


def test_another_studys_outcome_is_taken_and_left_alone(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    theirs = tmp_path / "theirs"
    with Lab(theirs, FakeMachine(lambda trial: 1.0)) as lab:
        lab.run([_step(trial_of(0), keep="yes")])
    parent = _step(trial_of(0), elsewhere=theirs / "trials" / trial_of(0).key)
    with Lab(tmp_path / "ours", machine := FakeMachine(lambda trial: 2.0)) as lab:
        execution = lab.run([parent, _step(trial_of(1), starts_from=(parent,))])
    assert machine.ran == [1]  # type: ignore[attr-defined]
    assert execution.runs[0].outcome is not None
    assert execution.runs[0].outcome.score == 1.0
    assert _has_weights(theirs, trial_of(0))


def test_a_replay_changes_nothing(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    parent = _step(trial_of(0), keep="yes")
    with Lab(tmp_path, FakeMachine(lambda trial: 1.0)) as lab:
        lab.run([parent])
    forgetful = _step(trial_of(0))  # a study that would drop them
    found = replay([forgetful, _step(trial_of(1), forgetful)], tmp_path)
    assert [run.status for run in found.runs] == ["finished", "missing"]
    assert not found.complete
    assert _has_weights(tmp_path, trial_of(0))


def test_a_trial_goes_on_from_a_part_and_a_decision_sees_no_more_than_that(
    tmp_path: Path, trial_of: Callable[[int], Trial]
) -> None:
    def trial(seed: int) -> Trial:
        one = trial_of(seed)
        return one.model_copy(update={"recipe": one.recipe.model_copy(update={"epochs": 4})})

    seen: list[list[int]] = []

    def steps(wanted: int) -> list[Step]:
        parts = [_step(trial(seed), until=0.5) for seed in range(2)]

        def go_on(seed: int, done: Done) -> Trial | None:
            seen.append([epoch["epoch"] for epoch in done.part(parts[seed]).epochs])
            return trial(seed) if seed == wanted else None

        wholes = [
            Step({"kind": "whole", "seed": seed}, lambda done, seed=seed: go_on(seed, done), tuple(parts))
            for seed in range(2)
        ]
        return [*parts, *wholes]

    with Lab(tmp_path, machine := FakeMachine(lambda trial: 1.0)) as lab:
        execution = lab.run(steps(1))
    assert machine.ran == [0, 1, 1]  # type: ignore[attr-defined]
    assert [run.status for run in execution.runs] == ["partial", "partial", "not wanted", "finished"]
    assert execution.runs[1].trial is not None
    assert execution.runs[3].trial is not None
    assert execution.runs[1].trial.key == execution.runs[3].trial.key
    with Lab(tmp_path, machine := FakeMachine(lambda trial: 1.0)) as lab:
        again = lab.run(steps(1))
    assert machine.ran == []  # type: ignore[attr-defined]
    assert [run.status for run in again.runs] == [run.status for run in execution.runs]
    assert seen[0] == [1, 2]
    assert seen[-1] == [1]  # of the one that has gone on, the fake outcome has one epoch, and that is what counts
    assert [run.status for run in replay(steps(0), tmp_path).runs] == ["partial", "partial", "missing", "not wanted"]


def test_a_trial_is_trained_in_one_place_at_a_time(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    class Eager(FakeMachine):
        def run(self, next_job: NextJob, send: Send) -> None:
            first = next_job()
            assert first is not None
            assert next_job() is None  # the same trial to its end, which waits
            save_partial(Partial(first.trial.key, first.trial, first.folder, 0.5))
            send(("partial", first.trial.key, 0.5))
            super().run(next_job, send)

    with Lab(tmp_path, Eager(lambda trial: 1.0)) as lab:
        execution = lab.run([_step(trial_of(0), until=0.5), _step(trial_of(0))])
    assert [run.status for run in execution.runs] == ["partial", "finished"]


def test_a_step_of_another_study_is_no_parent(trial_of: Callable[[int], Trial]) -> None:
    stranger = _step(trial_of(0))
    with pytest.raises(ValueError, match="it needs x seed 0, which is no step of the study"):
        Execution([_step(trial_of(1), stranger)])


def test_nothing_goes_on_when_the_disk_is_full(tmp_path: Path, trial_of: Callable[[int], Trial]) -> None:
    class Full(FakeMachine):
        def run(self, next_job: NextJob, send: Send) -> None:
            job = next_job()
            assert job is not None
            send(("halt", job.trial.key, "no space left"))

    with Lab(tmp_path, Full(lambda trial: 1.0)) as lab, pytest.raises(StudyError, match="no space left"):
        lab.run([_step(trial_of(0))])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_graph_of_steps_runs_in_order(trial_of: Callable[[int], Trial], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    ended: set[int] = set()
    steps: list[Step] = []
    for i in range(count):
        needs = data.draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        seed = data.draw(st.integers(0, 4))

        def make(done: Done, needs: set[int] = needs, seed: int = seed) -> Trial:
            assert needs <= ended
            return trial_of(seed)

        steps.append(Step({"seed": i}, make, tuple(steps[j] for j in sorted(needs))))
    execution = Execution(steps)
    waiting = execution.begin()
    keys = [order.id for order in waiting]
    while waiting:
        order = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        trial = order.trial
        # A step has ended as soon as its trial has, which others may have run: they are noted before any child is made.
        ended |= {i for i, run in enumerate(execution.runs) if run.trial is not None and run.trial.key == trial.key}
        again = _ending(execution, trial, ended)
        waiting += again
        keys += [one.id for one in again]
    assert execution.complete
    assert len(keys) == len(set(keys)) == execution.total


def _ending(execution: Execution, trial: Trial, ended: set[int]) -> list[Order]:
    """End a trial; steps that share it and are made meanwhile end at once."""

    outcome = Outcome(key=trial.key, trial=trial, folder=Path(), status="finished")
    before = execution._freed

    def freed(run: Any) -> list[Any]:
        ended.add(execution.runs.index(run))
        return before(run)

    execution._freed = freed  # type: ignore[method-assign]
    try:
        return execution.end(trial.key, outcome)
    finally:
        execution._freed = before  # type: ignore[method-assign]
