"""The executor: runs steps and remembers what came of them, so that a trial that is done is not run again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from supertickets.errors import StudyError
from supertickets.lab.jobs import Job, Message, Runner
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import (
    BORROWED,
    FAILURE,
    PREDICTIONS,
    WEIGHTS,
    Outcome,
    copy_outcome,
    forget,
    forget_all,
    has_digest,
    load_outcome,
    outcome_of,
    save_outcome,
)
from supertickets.lab.partial import partial_of
from supertickets.lab.slurm_job import may_run
from supertickets.lab.steps import Execution, Order, Step
from supertickets.lab.trial import Start, Trial
from supertickets.storage import read_json, write_atomically

TRIES = 3
TRIALS, RETRAINED = "trials", "retrained"
"""Below a study's folder: its trials; trainings done again, for weights that were not kept."""


class Watcher:
    """Receives events, and shows nothing of them: progress displays do."""

    def begins(self, execution: Execution) -> None:
        """These steps are run."""

    def asked(self, trial: Trial, remembered: bool) -> None:
        """A trial is asked for; `remembered` if its outcome is there already."""

    def starts(self, machine: Machine, side_by_side: int) -> None:
        """There is something to run; this is where, and how many trials at a time."""

    def message(self, message: Message) -> None:
        """A runner sent a message (see `lab.jobs.Message`)."""

    def say(self, sentence: str) -> None:
        """Something that people should know."""


class _Speaking(Watcher):
    """Passes on what people should know, and nothing else."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def say(self, sentence: str) -> None:
        """Something that people should know."""
        self._watcher.say(sentence)


def replay(steps: Iterable[Step], folder: Path, failures: bool = True) -> Execution:
    """Return what a study's folder remembers of its steps, running nothing and changing nothing.

    Neither the model nor the data are needed, so that a study can be reported on another machine, or while it runs.
    Without `failures`, trials that failed have not ended: they are what another run would try again.
    """
    execution = Execution(steps)
    waiting = deque(execution.begin())
    while waiting:
        order = waiting.popleft()
        rooms = [folder / TRIALS, *(path.parent for path in execution.elsewhere(order.id))]
        if (known := _remembered(order, rooms, execution, weights=False)) is not None:
            waiting.extend(execution.end(order.id, **known))
        elif failures and (failure := read_json(folder / TRIALS / order.trial.key / FAILURE).get("traceback")):
            waiting.extend(execution.end(order.id, failure=failure))
    return execution


def _remembered(
    order: Order, rooms: Iterable[Path], execution: Execution, weights: bool = True
) -> dict[str, Any] | None:
    """Return what came of an order, as `Execution.end` takes it, from the first folder of trials that knows.

    A study may have grown by steps that start from weights that a training did not keep then: it is not done for them,
    where `weights` matter.
    """
    for room in rooms:
        outcome = outcome_of(order.trial, room) if order.until is None else None
        starts = weights and execution.is_start(order.id)
        if outcome and (WEIGHTS in outcome.files or not outcome.finished or not starts):
            return {"outcome": outcome}
        if order.until is not None and (partial := partial_of(order.trial, room, order.until)) is not None:
            return {"partial": partial}
    return None


class Lab(AbstractContextManager["Lab"]):
    """Runs steps and remembers the outcomes of their trials by key in `folder`/`room`.

    `machine` says where trials run and how many side by side; that never changes a result. A trial that fails is tried
    three times. `asked` are trials that were asked for, by key: they say where model and data lie now. Use as a context
    manager; a study holds the folder meanwhile (`lab.lock`).
    """

    def __init__(
        self,
        folder: Path,
        machine: Machine | None = None,
        watcher: Watcher | None = None,
        room: str = TRIALS,
        asked: dict[str, Trial] | None = None,
    ) -> None:
        self.study_folder, self.folder = folder, folder / room
        self.machine = machine or Machine()
        self.watcher = watcher or Watcher()
        self.asked = {} if asked is None else asked
        self._runner: Runner | None = None

    def __exit__(self, *exception: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def remembered(self, trial: Trial) -> Outcome | None:
        """Return a trial's outcome if it is done, and if it is that of the trial asked for."""
        return outcome_of(trial, self.folder)

    def run(self, steps: Iterable[Step]) -> Execution:
        """Run what is not remembered of the steps, and return them with what came of each.

        Equal trials run once. A trial that fails three times ends with a `failure`, which is also written into its
        folder, and the others go on. Raises StudyError when nothing can.
        """
        execution = Execution(steps)
        self.watcher.begins(execution)
        queue = _Queue(self, execution)
        queue.ask(execution.begin())
        if queue.waiting:
            if self._runner is None:
                self._runner = self.machine.runner()
                self.watcher.starts(self.machine, self._runner.side_by_side)
            self._runner.run(queue.next_job, queue.receive)
        return execution

    def with_weights(self, trial: Trial) -> Outcome:
        """Return a trial's outcome with its trained weights, training again for them if they were dropped.

        What is remembered stays as it is: others were drawn from its scores. If the new training does not come out bit
        for bit the same (on another machine, say), its own outcome is returned, from `retrained/`. Weights that it
        starts from are trained again too where they were dropped, and dropped again. Raises StudyError if it fails.
        """
        outcome = self.remembered(trial)
        if outcome is not None and outcome.has_weights:
            return outcome
        room = self.folder.name if outcome is None else RETRAINED
        borrowed = list(filter(None, map(self._borrow, trial.starts)))
        with Lab(self.study_folder, self.machine, _Speaking(self.watcher), room, self.asked) as lab:
            (run,) = lab.run([Step({"kind": "retrained"}, trial, keep="yes")]).runs
        for before in borrowed:
            before.drop_weights()
        made = run.outcome
        if made is None:
            raise StudyError(f"trial {trial.key} failed: {str(run.failure).strip().splitlines()[-1]}")
        if not made.has_weights:
            raise StudyError(f"trial {trial.key} diverged, so it has no trained weights: {made.reason}.")
        return (outcome and self.with_weights_of(made, outcome)) or made

    def _borrow(self, start: Start) -> Outcome | None:
        """Return the trial of ours that ended with weights which only what starts from them needs, and mark them.

        None if the weights are there for good, or another study's.
        """
        mark, there = start.folder / BORROWED, has_digest(start.folder / WEIGHTS, start.weights)
        before = load_outcome(start.folder) if self._is_ours(start) else None
        if before is None or (there and not mark.exists()):
            return None
        mark.touch()
        return before

    def _is_ours(self, start: Start) -> bool:
        """Whether weights are those of a trial of this study."""
        return start.folder.parent.resolve() == (self.study_folder / TRIALS).resolve()

    def with_weights_of(self, made: Outcome, outcome: Outcome) -> Outcome | None:
        """Return an outcome of ours with the weights that a repeated training ended with, whose folder goes.

        None, and nothing is changed, if the repeated training has other outputs.
        """
        if not made.has_weights or made.files[PREDICTIONS] != outcome.files[PREDICTIONS]:
            return None
        write_atomically(outcome.folder / WEIGHTS, (made.folder / WEIGHTS).read_bytes())
        whole = replace(outcome, files={**outcome.files, WEIGHTS: made.files[WEIGHTS]}, damaged=False)
        save_outcome(whole)
        forget_all(made.folder)
        with suppress(OSError):  # others may lie there
            made.folder.parent.rmdir()
        return whole

    def restore(self, start: Start) -> None:
        """See that the weights are there which a trial starts from: train again the trial of ours that ended with them.

        Raises StudyError if the weights cannot be had again.
        """
        if has_digest(start.folder / WEIGHTS, start.weights):
            return
        before, ours = load_outcome(start.folder), self.study_folder / TRIALS
        made = None
        if before is not None and self._is_ours(start):
            self.watcher.say(f"{start.folder}: its trained weights were deleted, so it is trained again.")
            trial = self.asked.get(start.trial) or before.trial.found_in(ours)
            with Lab(self.study_folder, self.machine, self.watcher, asked=self.asked) as lab:  # ours may be `retrained`
                made = lab.with_weights(trial)
        if made is None or made.files[WEIGHTS] != start.weights:
            if made is not None and made.folder.parent.name == RETRAINED:
                forget_all(made.folder)  # of no use here, and where the first came from the same ones may come again
            raise StudyError(
                f"{start.folder}: trained weights that other trainings start from were deleted, and training again did "
                "not reproduce them (on another machine, or with other library versions); restore the file or use a "
                "new --out."
            )


class _Queue:
    """The orders of an execution that wait to be run, and what happens when one ends."""

    def __init__(self, lab: Lab, execution: Execution) -> None:
        self._lab, self._execution = lab, execution
        self.waiting: deque[Order] = deque()
        self._running: dict[str, Order] = {}  # by the key of the trial: a trial is trained in one place at a time
        self._tries: dict[str, int] = {}
        self._repeated: dict[str, Outcome] = {}  # by key: what is remembered of trials trained again for their weights

    def ask(self, orders: Iterable[Order]) -> None:
        """Take new orders: what is remembered has ended, the rest waits."""
        ahead = deque(orders)
        while ahead:
            order = ahead.popleft()
            self._lab.asked[order.trial.key] = order.trial
            known = self._known(order)
            self._lab.watcher.asked(order.trial, known is not None)
            if known is not None:
                ahead.extend(self._end(order.id, **known))
                continue
            for start in order.trial.starts:
                self._lab.restore(start)
            # An evaluation is soon done, and then the weights of several trainings may go.
            (self.waiting.append if order.trial.mean is None else self.waiting.appendleft)(order)

    def _known(self, order: Order) -> dict[str, Any] | None:
        """Return what came of an order, here or, with its weights, in another study.

        Another study's outcome is remembered here too, so that its weights may go when what starts from them is done.
        """
        known = _remembered(order, [self._lab.folder], self._execution)
        ours = self._lab.remembered(order.trial) if order.until is None else None
        if known is not None and (ours is None or ours.has_weights):
            return known
        for place in self._execution.elsewhere(order.id):
            theirs = outcome_of(order.trial, place.parent)
            if theirs is None or not theirs.has_weights:
                continue
            if ours is None:
                folder = self._lab.folder / order.trial.key
                forget(folder)
                copy_outcome(theirs, folder)
            what = WEIGHTS if ours is not None and WEIGHTS in ours.files else PREDICTIONS
            if ours is None or theirs.files[what] == ours.files[what]:
                return {"outcome": theirs}
        return known

    def _came(self, order: Order) -> dict[str, Any] | None:
        """Return what came of an order that was run; raises StudyError if it was to come out as before and did not."""
        before = self._repeated.pop(order.trial.key, None)
        if before is None:
            return _remembered(order, [self._lab.folder], self._execution)
        made = outcome_of(order.trial, self._lab.study_folder / RETRAINED)
        if made is None:
            return None
        if (whole := self._lab.with_weights_of(made, before)) is None:  # or it has diverged
            forget_all(made.folder)
            raise StudyError(
                f"{before.folder}: {self._execution.name(order.trial.key)} was trained again, as other trainings start "
                "from its weights, which were not kept, and did not come out as before (on another machine, on a GPU, "
                "or with other library versions); what came of it is still there. Use a new --out."
            )
        return {"outcome": whole}

    def _end(self, id: str, **came: Any) -> list[Order]:
        made = self._execution.end(id, **came)
        for outcome in self._execution.to_drop(id):
            if outcome.folder.parent == self._lab.folder:  # another study's weights are not ours to delete
                outcome.drop_weights()
        return made

    def next_job(self) -> Job | None:
        """Return the next trial to run, None if there is none now."""
        order = next((order for order in self.waiting if order.trial.key not in self._running), None)
        if order is None:
            return None
        self.waiting.remove(order)
        key = order.trial.key
        self._running[key] = order
        self._tries[order.id] = self._tries.get(order.id, 0) + 1
        folder, apart = self._lab.folder / key, self._lab.study_folder / RETRAINED
        before = self._lab.remembered(order.trial) if order.until is None and self._lab.folder != apart else None
        if before is not None:
            # It lacks the weights that others start from. What came of it stays: others were drawn from its scores.
            self._repeated[key], folder = before, apart / key
        if self._lab.machine.backend != "slurm" or not may_run(folder):  # a job that outlived its study writes here
            forget(folder)
        keep = self._execution.keeps(order.id)
        return Job(order.trial, folder, keep, self._execution.name(key), until=order.until)

    def receive(self, message: Message) -> None:
        """Handle a runner's message; raises StudyError when nothing can go on."""
        what, key, detail = message
        watcher, came = self._lab.watcher, None
        if what == "halt":
            raise StudyError(detail)
        if what in ("started", "progress"):
            watcher.message(message)
            return
        order = self._running.pop(key)
        if what == "stopped":  # each time at least a step further
            watcher.message(message)
            self._tries[order.id] -= 1
            self.waiting.appendleft(order)
            return
        if what in ("done", "partial") and (came := self._came(order)) is None:
            what, detail = "failed", "its outcome file is missing or damaged"
        if what == "failed" and self._tries[order.id] < TRIES:
            watcher.message(("again", key, detail))
            self.waiting.append(order)
            return
        watcher.message((what, key, detail))
        if came is not None:
            self.ask(self._end(order.id, **came))
            return
        content = {"label": self._execution.name(key), "tries": self._tries[order.id], "traceback": detail}
        write_atomically(self._lab.folder / key / FAILURE, json.dumps(content, indent=1))
        self.ask(self._end(order.id, failure=detail))
