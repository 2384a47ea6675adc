"""What a trial left behind, on disk: one folder a trial, `outcome.json` written last."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from supertickets.lab.trial import Rewound, Start, Teacher, Trial
from supertickets.storage import digest, file_digest, is_left_over, write_atomically
from supertickets.tickets.kinds import STRUCTURES
from supertickets.tickets.scoring import Scores

OUTCOME, PREDICTIONS, SCORES, WEIGHTS, MASK, LOGITS = (
    "outcome.json",
    "predictions.safetensors",
    "scores.safetensors",
    "weights.safetensors",
    "mask.safetensors",
    "logits.safetensors",
)
CHECKPOINT, PARTIAL, FAILURE = "checkpoint.safetensors", "partial.json", "failure.json"
PARTIAL_PREDICTIONS = "partial.safetensors"
BORROWED = "weights.borrowed"
"""Marks trained weights that another trial alone needs: they go when it has ended, or later if that was interrupted."""
SCORED_ON = "examples"
"""In scores.safetensors: how many training examples were scored, and how many there are, if it may have been fewer."""
SCHEMA = 2
"""Of outcome.json; a trial whose file has another is run again."""


@dataclass(frozen=True)
class Outcome:
    """A finished (or diverged) trial. Arrays are read from `folder` when asked for.

    `epochs` has one entry an epoch: number, training loss, dev score, metrics by task and evaluation set.
    `cost` has seconds, tokens, parameters, flops and scoring_flops (a part of them, see `training.state.Cost`).
    `reason` says why a diverged trial ended.
    """

    key: str
    trial: Trial
    folder: Path
    status: str
    reason: str | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    cost: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    damaged: bool = False
    """Whether the weight file is not as it was written."""

    @property
    def finished(self) -> bool:
        """Whether it trained to its end."""
        return self.status == "finished"

    @property
    def best(self) -> dict[str, Any]:
        """The entry of the epoch whose weights the trial ended with."""
        return self.epochs[self.best_place]

    @property
    def best_place(self) -> int:
        """The place of that epoch among all, in `epochs` and in `predictions`."""
        return [entry["epoch"] for entry in self.epochs].index(self.best_epoch)

    @property
    def score(self) -> float:
        """The dev score of that epoch, in percent."""
        return float(self.best["score"])

    @property
    def rank(self) -> tuple[float, float, int]:
        """What finished outcomes are ordered by, best last: score, then the smaller model, then the earlier seed."""
        return self.score, -self.cost["parameters"], -self.trial.seed

    @property
    def by_task(self) -> list[dict[str, dict[str, float]]]:
        """That epoch's metrics in percent, task by task: by evaluation set, `dev` first."""
        return list(self.best["metrics"].values())

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of a trial of one task."""
        (metrics,) = self.by_task
        return metrics

    @property
    def has_weights(self) -> bool:
        """Whether the trained weights are kept."""
        return WEIGHTS in self.files and not self.damaged and (self.folder / WEIGHTS).is_file()

    def predictions(self, task: int = 0) -> dict[str, NDArray[np.float32]]:
        """Return a task's outputs on each evaluation set at every epoch, `[epochs, examples, outputs]`.

        Nothing where the training diverged before its first evaluation.
        """
        from safetensors.numpy import load_file

        if PREDICTIONS not in self.files:
            return {}
        return of_task(load_file(self.folder / PREDICTIONS), task)

    def best_outputs(self, task: int = 0) -> NDArray[np.float32]:
        """Return a task's outputs on its dev set at the epoch whose score it has, `[examples, outputs]`."""
        return self.predictions(task)["dev"][self.best_place]

    def scores(self) -> Scores:
        """Return the importance of structures by kind, as measured (not normalised)."""
        from safetensors.numpy import load_file

        found = load_file(self.folder / SCORES)
        return {kind: found[kind] for kind in STRUCTURES if kind in found}

    def scored_share(self) -> float | None:
        """Return the share of the training examples that importance was measured on; None: all, or not measured."""
        from safetensors.numpy import load_file

        found = load_file(self.folder / SCORES).get(SCORED_ON) if SCORES in self.files else None
        return None if found is None else float(found[0] / found[1])

    def start(self, output_layer: int | None = None, rewound: Rewound = "nothing") -> Start:
        """Return its trained weights as ones to start from, in its model as it was cut (see `lab.trial.Start`)."""
        return Start(
            trial=self.key,
            folder=self.folder.resolve(),
            weights=self.files[WEIGHTS],
            ticket=self.trial.ticket,
            output_layer=output_layer,
            rewound=rewound,
        )

    def teacher(self, weight: float, temperature: float) -> Teacher:
        """Return its outputs on its training set as ones that another training fits (see `lab.trial.Teacher`)."""
        return Teacher(
            trial=self.key,
            folder=self.folder.resolve(),
            logits=self.files[LOGITS],
            weight=weight,
            temperature=temperature,
        )

    def drop_weights(self) -> None:
        """Delete the trained weights; everything else stays."""
        for name in (WEIGHTS, BORROWED):
            (self.folder / name).unlink(missing_ok=True)


V = TypeVar("V")


def named(values: Mapping[str, V], task: int) -> dict[str, V]:
    """Return values under the names they have in a trial's files: the first task's as they are, others' prefixed."""
    return {f"tasks.{task}.{name}" if task else name: value for name, value in values.items()}


def of_task(values: Mapping[str, V], task: int) -> dict[str, V]:
    """Return what `named` named after a task, under its own names again."""
    prefix = f"tasks.{task}." if task else ""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix or "tasks.") == bool(prefix)
    }


def task_weights(weights: Mapping[str, V], output_layer: int | None, encoder: str) -> dict[str, V]:
    """Return the encoder's weights out of a trial's, and the output layer of one of its tasks if one is asked for.

    `encoder` is what the names of the encoder's weights begin with, without the dot.
    """
    found = {name: value for name, value in weights.items() if name.startswith(f"{encoder}.")}
    if output_layer is not None:
        own = of_task(weights, output_layer)
        found |= {name: value for name, value in own.items() if not name.startswith(f"{encoder}.")}
    return found


def save_record(path: Path, schema: int, record: Any) -> None:
    """Write what a trial says (an `Outcome`, a `Partial`) into a file of its folder, with a schema and a checksum."""
    said = {name: value for name, value in vars(record).items() if name not in ("folder", "damaged")}
    content = {"schema": schema, **said, "trial": record.trial.model_dump(mode="json")}
    content["digest"] = digest(content)
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def load_record(path: Path, schema: int, kind: Callable[..., V]) -> V | None:
    """Return what `save_record` wrote; None if it is not there, not as written, or in another trial's folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("digest") != digest(content) or content.pop("schema") != schema:
            return None
        if content["key"] != path.parent.name:
            return None
        return kind(folder=path.parent, **{**content, "trial": Trial.model_validate(content["trial"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_outcome(outcome: Outcome) -> None:
    """Write `outcome.json`, which makes the trial count as done: its other files must be there."""
    save_record(outcome.folder / OUTCOME, SCHEMA, outcome)


def copy_outcome(outcome: Outcome, folder: Path) -> None:
    """Write a trial's outcome into another folder, all but its trained weights."""
    for name in outcome.files.keys() - {WEIGHTS}:
        write_atomically(folder / name, (outcome.folder / name).read_bytes())
    save_outcome(replace(outcome, folder=folder))


def load_outcome(folder: Path) -> Outcome | None:
    """Return the outcome in a trial's folder, or None if the trial is not done or its files are not as written."""
    outcome = load_record(folder / OUTCOME, SCHEMA, Outcome)
    if outcome is None:
        return None
    changed = {name for name, expected in outcome.files.items() if not has_digest(folder / name, expected)}
    if changed - {WEIGHTS}:
        return None
    # Weights may have been dropped; half-written ones must not pass for whole.
    return replace(outcome, damaged=True) if changed and outcome.has_weights else outcome


def has_digest(path: Path, expected: str) -> bool:
    """Return whether a file is there, with the content that has this SHA-256."""
    try:
        return file_digest(path) == expected
    except OSError:
        return False


def outcome_of(trial: Trial, folder: Path) -> Outcome | None:
    """Return a trial's outcome below a folder of trials, or None if it is not done, or is another trial's.

    Its `trial` is the one asked for, which says where model, data and other trials' files lie now.

    A key is short, and a folder may have been copied or written by hand: the trial that was run must be the one asked
    for.
    """
    outcome = load_outcome(folder / trial.key)
    if outcome is None or outcome.trial.content() != trial.content():
        return None
    return replace(outcome, trial=trial)


def forget(folder: Path) -> None:
    """Make a trial's folder one that was never finished: what a broken run left goes, a checkpoint stays.

    So does what the trial said when it was trained to a part.

    Only files that trials write are deleted, the outcome first: without it, nothing else counts.
    """
    for name in (OUTCOME, PREDICTIONS, SCORES, WEIGHTS, BORROWED, MASK, LOGITS, FAILURE):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob(".*"):
        if is_left_over(path):
            path.unlink()


def drop_checkpoint(folder: Path) -> None:
    """Delete what a trial that has ended needs no more: its checkpoint, and what it said before."""
    for name in (PARTIAL, PARTIAL_PREDICTIONS, CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def forget_all(folder: Path) -> None:
    """Delete a trial's folder with all that trials write; anything else in it stays, and the folder with it."""
    forget(folder)
    drop_checkpoint(folder)
    with suppress(OSError):  # something else is in it
        folder.rmdir()
