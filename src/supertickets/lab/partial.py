"""A trial that was trained to a part of its recipe: what it says until now. Its checkpoint lies beside.

How far a trial has been trained is not in its key: run again, to its end or a further part, it goes on from there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.lab.outcome import (
    PARTIAL,
    PARTIAL_PREDICTIONS,
    PREDICTIONS,
    Outcome,
    has_digest,
    load_record,
    of_task,
    outcome_of,
    save_record,
)
from supertickets.lab.trial import Trial

SCHEMA = 1
"""Of partial.json; one with another is not read."""


@dataclass(frozen=True)
class Partial:
    """A trial on its way. `fraction` is the share of its steps that are done, at least what was asked for.

    `epochs` has the epochs that were evaluated by then, as an outcome has them; `cost` what it took until now; `files`
    the checksums of the files beside it. `lost` says that the training diverged before it was that far.
    """

    key: str
    trial: Trial
    folder: Path
    fraction: float
    epochs: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    lost: bool = False

    def predictions(self, task: int = 0) -> dict[str, NDArray[np.float32]]:
        """Return a task's outputs on each evaluation set at its epochs, `[epochs, examples, outputs]`.

        They are there also if the trial has ended since. Nothing where no epoch was evaluated.
        """
        from safetensors.numpy import load_file

        if not self.epochs:
            return {}
        for name in (PARTIAL_PREDICTIONS, PREDICTIONS):
            if (self.folder / name).is_file():
                found = of_task(load_file(self.folder / name), task)
                return {split: outputs[: len(self.epochs)] for split, outputs in found.items()}
        return {}


def save_partial(partial: Partial) -> None:
    """Write `partial.json`; the checkpoint and the files that it names must be there."""
    save_record(partial.folder / PARTIAL, SCHEMA, partial)


def load_partial(folder: Path) -> Partial | None:
    """Return what a trial in a folder says until now.

    None if it was not trained to a part, has ended since, or its files are not as they were written.
    """
    partial = load_record(folder / PARTIAL, SCHEMA, Partial)
    whole = partial is not None and all(has_digest(folder / name, hashed) for name, hashed in partial.files.items())
    return partial if whole else None


def part_of(ended: Outcome | Partial, until: float) -> Partial:
    """Return what a trial that has gone further said when it was trained to the share `until` of its steps."""
    last = until * ended.trial.recipe.epochs + 1e-9  # epochs have equally many steps
    epochs = [epoch for epoch in ended.epochs if epoch["epoch"] <= last]
    lost = isinstance(ended, Outcome) and not ended.finished and len(epochs) < int(last)
    return Partial(ended.key, ended.trial, ended.folder, until, epochs, ended.cost, lost=lost)


def partial_of(trial: Trial, folder: Path, until: float) -> Partial | None:
    """Return what a trial below a folder of trials said at a share of its steps; None if it is not that far."""
    if (outcome := outcome_of(trial, folder)) is not None:
        return part_of(outcome, until)
    partial = load_partial(folder / trial.key)
    there = partial is not None and partial.trial.content() == trial.content() and partial.fraction >= until - 1e-9
    return part_of(partial, until) if partial is not None and there else None
