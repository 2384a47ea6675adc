from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Protocol

from supertickets.errors import StudyError
from supertickets.lab.outcome import Outcome, load_outcome
from supertickets.lab.trial import Trial
from supertickets.lab.workers import InProcess, Job, Message, WorkerPool

Then = Callable[[Trial, Outcome], Iterable[Trial]]
"""What a study does when a trial is done; it may ask for more trials."""


class Watcher(Protocol):
    """Is told what happens: progress displays implement this."""

    def asked(self, trial: Trial, remembered: bool) -> None:
        """A study asks for a trial; `remembered` if its outcome is there already."""

    def message(self, message: Message) -> None:
        """A worker tells something (see `lab.workers.Message`)."""


class Silent:
    """A watcher that shows nothing."""

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Show nothing."""

    def message(self, message: Message) -> None:
        """Show nothing."""


class Lab:
    """Runs trials and remembers their outcomes by key in `folder`/trials: a trial that is done is not run again.

    `workers` processes run trials side by side; with 1, trials run in this process. The number of workers never changes
    a result. Use as a context manager.
    """

    def __init__(self, folder: Path, workers: int = 1, device: str = "auto", watcher: Watcher | None = None) -> None:
        self.folder = folder / "trials"
        self._workers, self._device = workers, device
        self._watcher: Watcher = watcher or Silent()
        self._runner: InProcess | WorkerPool | None = None
        self.failures: dict[str, str] = {}

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def remembered(self, trial: Trial) -> Outcome | None:
        """Return a trial's outcome if it is done."""
        return load_outcome(self.folder / trial.key)

    def run(
        self,
        trials: Iterable[Trial],
        then: Then = lambda trial, outcome: (),
        keep: Callable[[Trial], bool] = lambda trial: False,
        again: Container[str] = (),
    ) -> dict[str, Outcome]:
        """Return the outcomes of trials, and of those that `then` asks for when one is done, by key.

        Runs what is not remembered; `keep` says whose trained weights stay when it runs, `again` names trials to run
        whatever is remembered. Equal trials run once. A trial that fails is left out of the result and its reason put
        in `failures`.
        """
        waiting: deque[Trial] = deque()
        asked: dict[str, Trial] = {}
        outcomes: dict[str, Outcome] = {}

        def ask(more: Iterable[Trial]) -> None:
            for trial in more:
                if trial.key in asked:
                    continue
                asked[trial.key] = trial
                outcome = None if trial.key in again else self.remembered(trial)
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
            shutil.rmtree(self.folder / trial.key, ignore_errors=True)  # what a broken run left
            return trial, self.folder / trial.key, keep(trial)

        def receive(message: Message) -> None:
            what, key, detail = message
            if what == "failed":
                self.failures[key] = detail
            if what == "done":
                outcome = self.remembered(asked[key])
                if outcome is None:
                    self.failures[key] = "its outcome was not written as it should be"
                else:
                    self._watcher.message(message)
                    finish(asked[key], outcome)
                    return
            self._watcher.message(message)

        ask(trials)
        if waiting:
            if self._runner is None:
                self._runner = (
                    InProcess(self._device) if self._workers == 1 else WorkerPool(self._workers, self._device)
                )
            self._runner.run(next_job, receive)
        return outcomes

    def with_weights(self, trial: Trial) -> Outcome:
        """Return a trial's outcome with its trained weights, running it again if they were dropped.

        Raises StudyError if it fails.
        """
        outcome = self.remembered(trial)
        if outcome is None or not outcome.has_weights:
            outcome = self.run([trial], keep=lambda _: True, again={trial.key}).get(trial.key)
        if outcome is None:
            raise StudyError(f"trial {trial.key} failed: {self.failures[trial.key]}")
        return outcome


def worker_count(asked: str | int, threads: int) -> int:
    """Return how many workers `asked` means: a number, or `auto`, one for each `threads` cores of this machine."""
    if asked != "auto":
        return int(asked)
    return max(1, len(os.sched_getaffinity(0)) // threads)
