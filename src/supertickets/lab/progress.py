"""Live progress of a study in the terminal."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from supertickets.lab.trial import Trial
from supertickets.lab.workers import Message


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class ProgressDisplay:
    """One line for the study (trials done, time left), one for each running trial (epoch, loss, speed).

    `labels` gives a trial's name by key. Without a terminal, a line is printed when a trial ends.
    """

    def __init__(self, console: Console, total: int, workers: int) -> None:
        self.labels: dict[str, str] = {}
        self._console, self._workers = console, workers
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._study = self._progress.add_task("trials", total=total, note="")
        self._running: dict[str, tuple[TaskID, float]] = {}
        self._seconds: list[float] = []
        self._done = 0
        self._total = total

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Count a trial that need not run again."""
        if remembered:
            self._count()

    def message(self, message: Message) -> None:
        """Show what a worker tells."""
        what, key, detail = message
        if what == "started":
            line = self._progress.add_task(f"  {self._label(key)}", total=None, note="preparing")
            self._running[key] = (line, time.monotonic())
        elif what == "progress":
            self._show(key, detail)
        else:
            line, started = self._running.pop(key)
            self._progress.remove_task(line)
            self._seconds.append(time.monotonic() - started)
            self._count()
            state = "failed: " + detail.strip().splitlines()[-1] if what == "failed" else "done"
            if what == "failed" or not self._console.is_terminal:
                self._console.print(
                    f"[{self._done}/{self._total}] {self._label(key)}: {state} "
                    f"({_duration(self._seconds[-1])}{self._left()})",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )

    def _label(self, key: str) -> str:
        return self.labels.get(key, key)

    def _show(self, key: str, event: dict[str, Any]) -> None:
        line, started = self._running[key]
        speed = event["step"] / max(time.monotonic() - started, 1e-9)
        note = f"epoch {event['epoch']}/{event['epochs']}, loss {event['loss']:.3f}, {speed:.1f} steps/s"
        self._progress.update(line, total=event["steps"], completed=event["step"], note=note)

    def _count(self) -> None:
        self._done += 1
        self._progress.update(self._study, completed=self._done, note=self._left().removeprefix(", "))

    def _left(self) -> str:
        """Say how much longer: the mean time of the last trials, over the workers."""
        if not self._seconds or self._done >= self._total:
            return ""
        recent = self._seconds[-12:]
        left = sum(recent) / len(recent) * (self._total - self._done) / self._workers
        return f", about {_duration(left)} left"
