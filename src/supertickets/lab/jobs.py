"""A trial to run, where to leave it, and the messages meanwhile.

All runners (in this process, in worker processes, on Ray) share this, so that lab, progress and tests know one
interface.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from supertickets.lab.trial import Trial


@dataclass(frozen=True)
class Job:
    """A trial, its folder, whether its trained weights are kept, and its name for people.

    With `until` the trial is trained to that share of its steps only, and leaves a `Partial` unless that ends it.
    `sent` has files of other trials that it needs (trained weights, tickets of weights, a teacher's outputs), by their
    SHA-256, where the places that the trial names cannot be reached.
    """

    trial: Trial
    folder: Path
    keep_weights: bool
    label: str
    until: float | None = None
    sent: Mapping[str, bytes] = field(default_factory=dict)


Message = tuple[str, str, Any]
"""(what, trial key, detail). What: `started`, `progress` with a report, `done`, `partial` with the share of its steps
that a trial was trained to, as its job asked, `stopped` with the signal that stopped it (it goes on from its
checkpoint, which takes no try), `failed` with a traceback (worth another try), `refused` with a sentence (another try
would end the same), `halt` with a sentence (nothing can go on)."""
Send = Callable[[Message], None]
NextJob = Callable[[], Job | None]


class Runner(Protocol):
    """Runs jobs until there is none left.

    A job has one process and one device: trials are many and independent, so that running them side by side needs no
    communication, and where they run never changes a result.
    """

    @property
    def side_by_side(self) -> int:
        """How many trials run at the same time; 0 if none can now."""

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs; `next_job` is asked whenever another job can run."""

    def close(self) -> None:
        """End what still runs."""
