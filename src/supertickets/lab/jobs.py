"""A trial to run, where to leave it, and what is told meanwhile. Runners (here, in processes, on Ray) speak this."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from supertickets.errors import NoSpaceError, TicketError
from supertickets.lab.trial import Trial


@dataclass(frozen=True)
class Job:
    """A trial, its folder, whether its trained weights are kept, and its name for people.

    `start` and `mask` have the weights and the ticket of weights that it starts from, where the places that the trial
    names cannot be reached.
    """

    trial: Trial
    folder: Path
    keep_weights: bool
    label: str
    start: bytes | None = None
    mask: bytes | None = None


Message = tuple[str, str, Any]
"""(what, trial key, detail). What: `started`, `progress` with a report, `done`, `failed` with a traceback (worth
another try), `refused` with a sentence (another try would end the same), `halt` with a sentence (nothing can go on)."""
Send = Callable[[Message], None]
NextJob = Callable[[], Job | None]

REPORT_EVERY = 0.3  # seconds between two progress messages of one trial


class Runner(Protocol):
    """Runs jobs until there is none left."""

    @property
    def side_by_side(self) -> int:
        """How many trials run at the same time."""

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs; `next_job` is asked whenever there is room for one more."""

    def close(self) -> None:
        """End what still runs."""


def run_job(bench: Any, job: Job, send: Send) -> None:
    """Run a job on a workbench and send what there is to tell; a failure is sent, not raised."""
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY:
            last = time.monotonic()
            send(("progress", job.trial.key, event))

    try:
        bench.run(job, report)
    except NoSpaceError as error:
        send(("halt", job.trial.key, str(error)))
    except TicketError as error:
        send(("refused", job.trial.key, str(error)))
    except Exception:
        send(("failed", job.trial.key, traceback.format_exc()))
    else:
        send(("done", job.trial.key, None))


class InProcess:
    """Runs jobs here, one after the other."""

    side_by_side = 1

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._bench: Any = None

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left."""
        while (job := next_job()) is not None:
            if self._bench is None:
                from supertickets.lab.workbench import Workbench

                self._bench = Workbench(**self._options)
            send(("started", job.trial.key, None))
            run_job(self._bench, job, send)

    def close(self) -> None:
        """Nothing to end."""
