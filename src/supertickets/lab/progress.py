"""How far a study is: kept as a value, shown in the terminal, written for `supertickets status`."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from supertickets.lab.jobs import Message
from supertickets.lab.machine import Machine
from supertickets.lab.trial import Trial
from supertickets.storage import write_atomically

PROGRESS = "progress.json"
MACHINE = "machine.json"
_WRITE_EVERY = 2.0  # seconds


def duration(seconds: float) -> str:
    """Return a time for people."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Board:
    """Counts trials and estimates the time left from what trials cost.

    `cost` gives a trial's expected cost in any unit, `expected` the sum over all trials there will be: pruned models
    train faster, so trials done are no measure of time gone. `names` gives trials' names by key.
    """

    def __init__(self, total: int, expected: float, cost: Callable[[Trial], float]) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self.workers = 1
        self.names: dict[str, str] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self._cost = cost
        self._expected = expected
        self._costs: dict[str, float] = {}
        self._ended: set[str] = set()
        self._cost_seen, self._seconds_seen = 0.0, 0.0  # of trials that ran here and ended
        self._cost_gone = 0.0  # of all that need not run any more

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Note a trial that the study asks for."""
        self._costs[trial.key] = self._cost(trial)
        if remembered:
            self.done += 1
            self._cost_gone += self._costs[trial.key]

    def message(self, message: Message) -> None:
        """Note what a runner tells."""
        what, key, detail = message
        line: dict[str, Any] | None
        if what == "started" and key in self._costs and key not in self._ended:
            self.running[key] = {"since": time.monotonic(), "share": 0.0, "share_at_start": None}
        elif what == "progress" and key in self.running:
            share = detail["step"] / detail["steps"]
            line = self.running[key]
            if line["share_at_start"] is None:
                line["share_at_start"] = share  # a trial that goes on from a checkpoint did not do that much just now
            line.update(detail, share=share)
        elif what in ("done", "failed", "refused", "again"):
            line = self.running.pop(key, None)  # None: a trial lost on its way to a machine never started
            if what != "again":
                self._ended.add(key)
            if what == "done":
                self.done += 1
                self._cost_gone += self._costs[key]
                if line is not None:
                    self._cost_seen += self._costs[key] * (1 - (line["share_at_start"] or 0.0))
                    self._seconds_seen += time.monotonic() - line["since"]
            elif what != "again":
                self.failed += 1
                self._cost_gone += self._costs[key]

    def label(self, trial: Trial) -> str:
        """Return a trial's name."""
        return self.names.get(trial.key, trial.key)

    def seconds_left(self) -> float | None:
        """Return about how long the study will go on, or None while there is nothing to tell it from."""
        now = time.monotonic()
        cost, seconds, ahead = self._cost_seen, self._seconds_seen, self._expected - self._cost_gone
        for key, line in list(self.running.items()):  # the display reads this from a thread of its own
            ahead -= line["share"] * self._costs[key]
            if line["share_at_start"] is not None:
                cost += (line["share"] - line["share_at_start"]) * self._costs[key]
                seconds += now - line["since"]
        if cost <= 0 or seconds < 1:
            return None
        return max(ahead, 0.0) / cost * seconds / max(1, min(self.workers, self.total - self.done - self.failed))

    def snapshot(self) -> dict[str, Any]:
        """Return all this as a JSON-able value."""
        left = self.seconds_left()
        return {
            "total": self.total,
            "done": self.done,
            "failed": self.failed,
            "seconds_left": None if left is None else round(left),
            "running": [
                {
                    "trial": key,
                    "name": self.names.get(key, key),
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
    words = f"{snapshot['done']} of {snapshot['total']} trials done, {len(snapshot['running'])} running"
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


class ProgressDisplay:
    """A watcher that keeps a board, shows it live in a terminal (else: a line when a trial ends), and writes it."""

    def __init__(self, console: Console, board: Board, folder: Path) -> None:
        self.board = board
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

    def asked(self, trial: Trial, remembered: bool) -> None:
        """Note a trial that the study asks for."""
        self.board.asked(trial, remembered)

    def starts(self, machine: Machine, side_by_side: int) -> None:
        """Say where trials run."""
        self.board.workers = side_by_side
        self._console.print(f"Running {machine.describe()}.", highlight=False)
        write_atomically(self._file.with_name(MACHINE), json.dumps(machine.as_dict()))

    def label(self, trial: Trial) -> str:
        """Return a trial's name."""
        return self.board.label(trial)

    def message(self, message: Message) -> None:
        """Show and write what a runner tells."""
        what, key, detail = message
        took = time.monotonic() - self.board.running[key]["since"] if key in self.board.running else 0.0
        begins = key in self.board.running and self.board.running[key]["share_at_start"] is None
        self.board.message(message)
        if what == "progress" and begins and detail["step"] > 1:  # a training's first report is never left out
            line = f"{self.board.names.get(key, key)}: goes on from step {detail['step'] - 1} of {detail['steps']}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        if what in ("failed", "refused", "again") or (what == "done" and not self._console.is_terminal):
            state = {"done": "done", "again": "failed, tried again"}.get(what, "failed")
            reason = f": {detail.strip().splitlines()[-1]}" if detail else ""
            board = self.board
            count = f"[{board.done + board.failed}/{board.total}]"
            left = board.seconds_left()
            rest = f", about {duration(left)} left" if left else ""
            line = f"{count} {board.names.get(key, key)}: {state} ({duration(took)}{rest}){reason}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        if what != "progress" or time.monotonic() - self._written >= _WRITE_EVERY:
            self._written = time.monotonic()
            write_atomically(self._file, json.dumps(self.board.snapshot()))

    def _render(self) -> RenderableType:
        snapshot = self.board.snapshot()
        grid = Table.grid(padding=(0, 1))
        for line in snapshot["running"]:
            bar = ProgressBar(total=1.0, completed=line["share"], width=24)
            grid.add_row("  " + line["name"], bar, describe_running(line))
        return Group(Text(describe(snapshot)), grid)
