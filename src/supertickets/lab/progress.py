"""How far a study is: kept as a value, shown in the terminal, written for `supertickets status`."""

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from supertickets.lab.jobs import Message
from supertickets.lab.lab import Watcher
from supertickets.lab.machine import Machine
from supertickets.lab.steps import Execution, Run
from supertickets.lab.trial import Trial
from supertickets.storage import write_atomically
from supertickets.tasks.tables import counted

PROGRESS = "progress.json"
MACHINE = "machine.json"
_WRITE_EVERY = 2.0  # seconds
_STATES = {
    "done": "done",
    "partial": "partly trained",
    "again": "failed, will be retried",
    "stopped": "stopped at a checkpoint",
}
"""What is said of a trial that has ended; of any other message that it failed."""


def duration(seconds: float) -> str:
    """Return a time for people."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def size(count: float) -> str:
    """Return a number of bytes for people."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    step = min(int(math.log(max(count, 1), 1000)), len(units) - 1)
    return f"{count / 1000**step:.{0 if step < 2 else 1}f} {units[step]}"


class Board:
    """Counts trials and estimates the time left from what they cost: pruned models train faster than dense ones."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.done, self.failed, self.workers = 0, 0, 1
        self.running: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._cost_seen, self._seconds_seen = 0.0, 0.0  # of trials that ran here and ended
        self._cost_gone = 0.0  # of all that need not run any more

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Note a trial that the study asks for."""
        if remembered:
            self.done += not self.execution.evaluates(trial.key)
            self._cost_gone += self.execution.cost(trial.key)

    def message(self, message: Message) -> None:
        """Count a runner's message."""
        what, key, detail = message
        if what == "started" and key not in self._ended:
            self.running[key] = {"since": time.monotonic(), "share": 0.0, "share_at_start": None}
        elif what == "progress" and key in self.running:
            share = detail["step"] / detail["steps"]
            line = self.running[key]
            if line["share_at_start"] is None:
                line["share_at_start"] = share  # a trial that goes on from a checkpoint did not do that much just now
            line.update(detail, share=share)
        elif what in ("done", "partial", "failed", "refused", "again", "stopped"):
            ended = self.running.pop(key, None)  # None: a trial lost on its way to a machine never started
            if what in ("again", "stopped"):
                return
            if what != "partial":  # which goes on, where a search asks for more of it
                self._ended.add(key)
            self._cost_gone += self.execution.cost(key)
            if what in ("failed", "refused"):
                self.failed += 1
                return
            self.done += not self.execution.evaluates(key)
            if ended is not None:
                self._cost_seen += self.execution.cost(key) * (1 - (ended["share_at_start"] or 0.0))
                self._seconds_seen += time.monotonic() - ended["since"]

    def seconds_left(self) -> float | None:
        """Return about how long the study will go on, or None while there is nothing to tell it from."""
        now = time.monotonic()
        cost, seconds, ahead = self._cost_seen, self._seconds_seen, self.execution.total_cost - self._cost_gone
        for key, line in list(self.running.items()):  # the display reads this from a thread of its own
            ahead -= line["share"] * self.execution.cost(key)
            if line["share_at_start"] is not None:
                cost += (line["share"] - line["share_at_start"]) * self.execution.cost(key)
                seconds += now - line["since"]
        if cost <= 0 or seconds < 1:
            return None
        # Workers have nothing to do while what is left waits for what runs.
        return max(ahead / max(1, self.workers), self.execution.longest(self._ahead)) / cost * seconds

    def _ahead(self, run: Run) -> float:
        """Return what is left of a run's cost."""
        key = None if run.trial is None else run.trial.key
        if run.ended or not run.counts or key in self._ended:
            return 0.0
        line = self.running.get(key) if key is not None else None
        return run.step.cost * (1 - (line["share"] if line is not None else 0.0))

    def snapshot(self) -> dict[str, Any]:
        """Return all this as a JSON-able value."""
        left = self.seconds_left()
        return {
            "total": self.execution.total,
            "done": self.done,
            "failed": self.failed,
            "seconds_left": None if left is None else round(left),
            "running": [
                {
                    "trial": key,
                    "name": self.execution.name(key),
                    "share": round(line["share"], 4),
                    "seconds": round(time.monotonic() - line["since"]),
                    **{name: line[name] for name in ("epoch", "epochs", "step", "steps", "loss") if name in line},
                    "steps_per_second": self._speed(line),
                }
                for key, line in list(self.running.items())
            ],
        }

    @staticmethod
    def _speed(line: dict[str, Any]) -> float | None:
        elapsed = time.monotonic() - line["since"]
        if line["share_at_start"] is None or elapsed <= 0:
            return None
        return round((line["share"] - line["share_at_start"]) * line["steps"] / elapsed, 2)


def describe(snapshot: dict[str, Any]) -> str:
    """Return a snapshot's counts in a few words."""
    words = f"{snapshot['done']} of {counted(snapshot['total'], 'training')} done, {len(snapshot['running'])} running"
    if snapshot["failed"]:
        words += f", {snapshot['failed']} failed"
    if snapshot["seconds_left"] is not None and snapshot["done"] + snapshot["failed"] < snapshot["total"]:
        words += f", about {duration(snapshot['seconds_left'])} left"
    return words


def describe_running(line: dict[str, Any]) -> str:
    """Return what a running trial does in a few words."""
    if "step" not in line:
        return "preparing"
    words = f"epoch {line['epoch']}/{line['epochs']}, loss {line['loss']:.3f}"
    return words + (f", {line['steps_per_second']:.1f} steps/s" if line["steps_per_second"] else "")


class ProgressDisplay(Watcher):
    """A watcher that keeps a board, shows it live in a terminal (else: a line when a trial ends), and writes it."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.board = Board(Execution(()))
        self._console, self._file = console, folder / PROGRESS
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
        self._written = 0.0

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live.is_started:
            self._live.stop()
        self._file.unlink(missing_ok=True)

    def begins(self, execution: Execution) -> None:
        """Start a new board."""
        self.board = Board(execution)

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Note a trial that the study asks for."""
        self.board.asked(trial, remembered)

    def starts(self, machine: Machine, side_by_side: int) -> None:
        """Say where trials run."""
        self.board.workers = side_by_side
        self._console.print(f"Running {machine.describe()}.", markup=False, highlight=False)
        if not side_by_side:
            self.say(
                "No machine of the cluster has as many now: trainings wait until one joins. Stop with Ctrl-C to ask "
                "for less (--cpus or --threads, --gpus)."
            )
        write_atomically(self._file.with_name(MACHINE), json.dumps(machine.as_dict()))

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def message(self, message: Message) -> None:
        """Show and write a runner's message."""
        what, key, detail = message
        board, name, line = self.board, self.board.execution.name(key), self.board.running.get(key)
        took = time.monotonic() - line["since"] if line is not None else 0.0
        begins = line is not None and line["share_at_start"] is None
        board.message(message)
        if what == "progress" and begins and detail["step"] > 1:  # a training's first report is never left out
            self.say(f"{name}: resumes from step {detail['step'] - 1} of {detail['steps']}")
        ended = what in ("done", "partial") and not self._console.is_terminal
        if ended or what in ("failed", "refused", "again", "stopped"):
            state = _STATES.get(what, "failed")
            reason = f": {detail.strip().splitlines()[-1]}" if isinstance(detail, str) and detail else ""
            count, left = f"[{board.done + board.failed}/{board.execution.total}]", board.seconds_left()
            rest = f", about {duration(left)} left" if left else ""
            self.say(f"{count} {name}: {state} ({duration(took)}{rest}){reason}")
        if what != "progress" or time.monotonic() - self._written >= _WRITE_EVERY:
            self._written = time.monotonic()
            write_atomically(self._file, json.dumps(self.board.snapshot()))

    def _render(self) -> RenderableType:
        snapshot = self.board.snapshot()
        grid = Table.grid(padding=(0, 1))
        for line in snapshot["running"]:
            bar = ProgressBar(total=1.0, completed=line["share"], width=24)
            grid.add_row(Text("  " + line["name"]), bar, describe_running(line))
        return Group(Text(describe(snapshot)), grid)
