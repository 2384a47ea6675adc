"""A trial that was trained to a part of its recipe: what it says until now. Its checkpoint lies beside.

How far a trial has been trained is not in its key: run again, to its end or a further part, it goes on from there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supertickets.lab.outcome import PARTIAL, Outcome, load_record, outcome_of, save_record
from supertickets.lab.trial import Trial

SCHEMA = 1
"""Of partial.json; one with another is not read."""


@dataclass(frozen=True)
class Partial:
    """A trial on its way. `fraction` is the share of its steps that are done, at least what was asked for.

    `epochs` has the epochs that were evaluated by then, as an outcome has them; `cost` what it took until now.
    """

    key: str
    trial: Trial
    folder: Path
    fraction: float
    epochs: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)


def save_partial(partial: Partial) -> None:
    """Write `partial.json`; the checkpoint must be there."""
    save_record(partial.folder / PARTIAL, SCHEMA, partial)


def load_partial(folder: Path) -> Partial | None:
    """Return what a trial in a folder says until now, or None if it was not trained to a part, or has ended since."""
    return load_record(folder / PARTIAL, SCHEMA, Partial)


def part_of(ended: Outcome | Partial, until: float) -> Partial:
    """Return what a trial that has gone further said when it was trained to the share `until` of its steps."""
    last = until * ended.trial.recipe.epochs + 1e-9  # epochs have equally many steps
    epochs = [epoch for epoch in ended.epochs if epoch["epoch"] <= last]
    return Partial(ended.key, ended.trial, ended.folder, until, epochs, ended.cost)


def partial_of(trial: Trial, folder: Path, until: float) -> Partial | None:
    """Return what a trial below a folder of trials said at a share of its steps; None if it is not that far."""
    outcome = outcome_of(trial, folder)
    if outcome is not None:
        return part_of(outcome, until)
    partial = load_partial(folder / trial.key)
    there = partial is not None and partial.trial.content() == trial.content() and partial.fraction >= until - 1e-9
    return part_of(partial, until) if partial is not None and there else None
