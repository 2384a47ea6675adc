from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from supertickets.errors import StudyError
from supertickets.lab.jobs import Job, Message, Runner
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import (
    FAILURE,
    PREDICTIONS,
    WEIGHTS,
    Outcome,
    forget,
    forget_all,
    outcome_of,
    save_outcome,
)
from supertickets.lab.trial import Trial
from supertickets.storage import write_atomically

TRIES = 3
TRIALS, AGAIN = "trials", "again"
"""Below a study's folder: its trials; trainings again, for weights that were not kept."""

Then = Callable[[Trial, Outcome], Iterable[Trial]]
"""What a study does when a trial is done; it may ask for more trials."""


class Watcher(Protocol):
    """Is told what happens: progress displays implement this."""

    def asked(self, trial: Trial, remembered: bool) -> None:
        """A study asks for a trial; `remembered` if its outcome is there already."""

    def starts(self, machine: Machine, side_by_side: int) -> None:
        """There is something to run; this is where, and how many trials at a time."""

    def message(self, message: Message) -> None:
        """A runner tells something (see `lab.jobs.Message`)."""

    def label(self, trial: Trial) -> str:
        """Return a trial's name for people."""


class Silent:
    """A watcher that shows nothing."""

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Show nothing."""

    def starts(self, machine: Machine, side_by_side: int) -> None:
        """Show nothing."""

    def message(self, message: Message) -> None:
        """Show nothing."""

    def label(self, trial: Trial) -> str:
        """Return the trial's key."""
        return trial.key


def load_failure(folder: Path) -> str | None:
    """Return the traceback of a trial that failed for good, None if it did not (or its record is damaged)."""
    try:
        return str(json.loads((folder / FAILURE).read_text(encoding="utf-8"))["traceback"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Lab:
    """Runs trials and remembers their outcomes by key in `folder`/`room`: a trial that is done is not run again.

    `machine` says where trials run and how many side by side; that never changes a result. A trial that fails is tried
    three times. Use as a context manager; a study holds the folder meanwhile (`lab.lock`).
    """

    def __init__(
        self, folder: Path, machine: Machine | None = None, watcher: Watcher | None = None, room: str = TRIALS
    ) -> None:
        self.folder = folder / room
        self._machine = machine or Machine()
        self._watcher: Watcher = watcher or Silent()
        self._runner: Runner | None = None
        self.failures: dict[str, str] = {}

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def remembered(self, trial: Trial) -> Outcome | None:
        """Return a trial's outcome if it is done, and if it is that of the trial asked for."""
        return outcome_of(trial, self.folder)

    def run(
        self,
        trials: Iterable[Trial],
        then: Then = lambda trial, outcome: (),
        keep: Callable[[Trial], bool] = lambda trial: False,
    ) -> dict[str, Outcome]:
        """Return the outcomes of trials, and of those that `then` asks for when one is done, by key.

        Runs what is not remembered; `keep` says whose trained weights stay when it runs. Equal trials run once. A trial
        that fails three times is left out of the result, its traceback is put in `failures` and in its folder, and the
        others go on. Raises StudyError when nothing can.
        """
        waiting: deque[Trial] = deque()
        asked: dict[str, Trial] = {}
        outcomes: dict[str, Outcome] = {}
        tries: dict[str, int] = {}

        def ask(more: Iterable[Trial]) -> None:
            for trial in more:
                if trial.key in asked:
                    continue
                asked[trial.key] = trial
                outcome = self.remembered(trial)
                self._watcher.asked(trial, outcome is not None)
                if outcome is None:
                    waiting.append(trial)
                else:
                    finish(trial, outcome)

        def finish(trial: Trial, outcome: Outcome) -> None:
            outcomes[trial.key] = outcome
            ask(then(trial, outcome))

        def next_job() -> Job | None:
            if not waiting:
                return None
            trial = waiting.popleft()
            tries[trial.key] = tries.get(trial.key, 0) + 1
            forget(self.folder / trial.key)
            return Job(trial, self.folder / trial.key, keep(trial), self._watcher.label(trial))

        def receive(message: Message) -> None:
            what, key, detail = message
            if what == "halt":
                raise StudyError(detail)
            if what == "done" and (outcome := self.remembered(asked[key])) is None:
                what, detail = "failed", "its outcome was not written as it should be"
            if what == "failed" and tries[key] < TRIES:
                self._watcher.message(("again", key, detail))
                waiting.append(asked[key])
                return
            self._watcher.message((what, key, detail))
            if what in ("failed", "refused"):
                self._record_failure(asked[key], detail, tries[key])
            elif what == "done":
                assert outcome is not None
                finish(asked[key], outcome)

        ask(trials)
        if waiting:
            if self._runner is None:
                self._runner = self._machine.runner()
                self._watcher.starts(self._machine, self._runner.side_by_side)
            self._runner.run(next_job, receive)
        return outcomes

    def _record_failure(self, trial: Trial, detail: str, tries: int) -> None:
        self.failures[trial.key] = detail
        content = {"label": self._watcher.label(trial), "tries": tries, "traceback": detail}
        write_atomically(self.folder / trial.key / FAILURE, json.dumps(content, indent=1))

    def with_weights(self, trial: Trial) -> Outcome:
        """Return a trial's outcome with its trained weights, training again for them if they were dropped.

        What is remembered stays as it is: others were drawn from its scores. If the new training does not come out bit
        for bit the same (on another machine, say), its own outcome is returned, from a room of its own. Raises
        StudyError if it fails.
        """
        outcome = self.remembered(trial)
        if outcome is not None and outcome.has_weights:
            return outcome
        with Lab(self.folder.parent, self._machine, room=self.folder.name if outcome is None else AGAIN) as lab:
            made = lab.run([trial], keep=lambda _: True).get(trial.key)
        if made is None:
            raise StudyError(f"trial {trial.key} failed: {lab.failures[trial.key].strip().splitlines()[-1]}")
        if not made.has_weights:
            raise StudyError(f"trial {trial.key} has no weights to keep: {made.reason}.")
        if outcome is None or made.files[PREDICTIONS] != outcome.files[PREDICTIONS]:
            return made
        write_atomically(outcome.folder / WEIGHTS, (made.folder / WEIGHTS).read_bytes())
        whole = replace(outcome, files={**outcome.files, WEIGHTS: made.files[WEIGHTS]}, damaged=False)
        save_outcome(whole)
        forget_all(made.folder)
        with suppress(OSError):  # others may lie there
            made.folder.parent.rmdir()
        return whole
