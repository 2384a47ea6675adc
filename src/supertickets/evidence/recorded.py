"""Recorded grids: what came out of a finished `find`, in one small file without texts, to try search methods on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.evidence.examples import contributions
from supertickets.evidence.resampling import Floats
from supertickets.evidence.runs import DENSE, Runs, TaskInfo
from supertickets.lab.outcome import Outcome
from supertickets.storage import write_atomically
from supertickets.tasks.metrics import CLASSIFICATION, REGRESSION
from supertickets.tickets.drawing import normalise
from supertickets.tickets.kinds import STRUCTURES
from supertickets.tickets.scoring import Scores

SCHEMA = 1


@dataclass(frozen=True)
class RecordedRun:
    """A finished training of a grid: `first` is the row of its first epoch in the grid's arrays.

    `scores` has the dev score of each epoch, in percent; what is kept, what it cost.
    """

    kind: str
    level: float
    seed: int
    first: int
    scores: tuple[float, ...]
    best_epoch: int
    heads: int
    ffns: int
    neurons: int | None
    flops: float
    scoring_flops: float
    parameters: float

    @property
    def rows(self) -> slice:
        """Its epochs' rows."""
        return slice(self.first, self.first + len(self.scores))


@dataclass(frozen=True)
class RecordedImportance:
    """Importance of a seed's dense run after an epoch, over a share of the training examples; not normalised."""

    seed: int
    epoch: int
    share: float
    scores: Scores

    @property
    def normalised(self) -> Scores:
        """The scores as tickets are drawn from them."""
        return normalise(self.scores)


@dataclass(frozen=True)
class RecordedGrid:
    """What came out of a finished `find`: per run, epoch and dev example. No texts, no weights.

    `about` says which study it was: task, metrics, number of classes (0 of a task of numbers), recipe, base model.
    `losses` and `predicted` (classes, or numbers) are `[rows, examples]`, a row an epoch of a run; `targets`
    `[examples]`. `settled` is the share of the training examples with which `--score-examples settled` ends, of each
    seed whose importance was recorded with it.

    >>> run = RecordedRun("winning", 0.1, 0, 0, (50.0, 100.0), 2, 11, 3, None, 1e9, 0.0, 1e6)
    >>> grid = RecordedGrid(
    ...     {"metrics": ["accuracy"], "classes": 2}, (run,), np.array([0, 1]),
    ...     np.zeros((2, 2), np.float16), np.array([[0, 0], [0, 1]], np.uint8))
    >>> grid.right(run).tolist()
    [[True, False], [True, True]]
    >>> grid.contributions(run).tolist()
    [[100.0, 0.0], [100.0, 100.0]]
    """

    about: Mapping[str, Any]
    runs: tuple[RecordedRun, ...]
    targets: NDArray[Any]
    losses: NDArray[np.float16]
    predicted: NDArray[Any]
    importance: tuple[RecordedImportance, ...] = field(default=())
    settled: Mapping[int, float] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's metrics."""
        return tuple(self.about["metrics"])

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The levels of winning tickets, rising."""
        return tuple(sorted({run.level for run in self.runs if run.kind == "winning"}))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose dense run finished."""
        return tuple(run.seed for run in self.runs if run.kind == DENSE)

    def where(self, **labels: Any) -> list[RecordedRun]:
        """Return the runs with these labels."""
        return [run for run in self.runs if all(getattr(run, name) == value for name, value in labels.items())]

    def right(self, run: RecordedRun) -> NDArray[np.bool_]:
        """Return whether the class predicted at each epoch is the right one, `[epochs, examples]`."""
        return np.asarray(self.predicted[run.rows] == self.targets)

    def outputs(self, run: RecordedRun) -> NDArray[np.float32]:
        """Return outputs `[epochs, examples, outputs]` that all metrics of the task see as they saw the run's own."""
        predicted, classes = self.predicted[run.rows], self.about["classes"]
        if not classes:
            return predicted[..., None].astype(np.float32)
        return np.eye(classes, dtype=np.float32)[predicted]

    def contributions(self, run: RecordedRun) -> Floats:
        """Return what each example contributes to the score at each epoch (see `evidence.examples.contributions`)."""
        return np.stack([contributions(self.metrics, self.targets, outputs) for outputs in self.outputs(run)])

    def save(self, path: Path) -> None:
        """Write the grid into one file; raises TicketError if two epochs' importance has other structures."""
        from safetensors.numpy import save

        arrays = {"targets": self.targets, "losses": self.losses, "predicted": self.predicted}
        for kind in STRUCTURES:
            if all(kind in one.scores for one in self.importance) and self.importance:
                arrays[f"importance.{kind}"] = np.stack([one.scores[kind] for one in self.importance])
        said = {
            "schema": SCHEMA,
            "about": dict(self.about),
            "runs": [asdict(run) for run in self.runs],
            "importance": [[one.seed, one.epoch, one.share] for one in self.importance],
            "settled": {str(seed): share for seed, share in self.settled.items()},
        }
        whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        write_atomically(path, save(whole, metadata={"grid": json.dumps(said, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> RecordedGrid:
        """Read a grid that `save` wrote; raises TicketError if the file is none."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                said = json.loads(file.metadata()["grid"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            if said["schema"] != SCHEMA:
                raise TicketError(f"{path}: a grid of schema {said['schema']}, expected {SCHEMA}; record it again.")
            runs = tuple(RecordedRun(**{**run, "scores": tuple(run["scores"])}) for run in said["runs"])
            found = tuple(
                RecordedImportance(seed, epoch, share, _importance_at(arrays, place))
                for place, (seed, epoch, share) in enumerate(said["importance"])
            )
            targets, losses, predicted = (arrays[name] for name in ("targets", "losses", "predicted"))
            # Grids that were recorded before the share was have none.
            settled = {int(seed): share for seed, share in said.get("settled", {}).items()}
            grid = cls(said["about"], runs, targets, losses, predicted, found, settled)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else "no such content"
            raise TicketError(f"{path}: no recorded grid ({reason}); write one with scripts/record_grid.py.") from error
        if any(run.rows.stop > len(grid.predicted) for run in runs) or grid.predicted.shape != grid.losses.shape:
            raise TicketError(
                f"{path}: the recorded grid is damaged, as runs and arrays differ in length; record it again."
            )
        return grid


def _importance_at(arrays: Mapping[str, NDArray[Any]], place: int) -> Scores:
    return {kind: arrays[name][place] for kind in STRUCTURES if (name := f"importance.{kind}") in arrays}


def record_runs(
    runs: Runs, importance: Sequence[RecordedImportance] = (), settled: Mapping[int, float] = MappingProxyType({})
) -> RecordedGrid:
    """Return what a finished study of `find` has in its folder, as a grid: dense runs and tickets, not its controls.

    Raises TicketError for tasks without one class or number an example, and if no winning ticket finished.
    """
    task, kept = runs.task, list[RecordedRun]()
    classes = _classes(task, str(runs.folder))
    losses, predicted = list[NDArray[Any]](), list[NDArray[Any]]()
    rows = 0
    for run in runs.only(stage=None).where():
        kind, outcome = str(run.step.labels["kind"]), run.result
        if kind != DENSE and (outcome.trial.ticket.is_full or kind not in ("winning", "random", "losing")):
            continue  # a full one is the dense run, which is there
        outputs = outcome.predictions()["dev"]
        losses.append(_losses(outputs, task.targets, classes))
        predicted.append(outputs.argmax(axis=-1).astype(np.uint8) if classes else outputs[..., 0].astype(np.float16))
        kept.append(_recorded(outcome, kind, float(run.step.labels["level"]), rows))
        rows += len(outputs)
    if not any(run.kind == "winning" for run in kept):
        raise TicketError(
            f"{runs.folder}: there is no grid to record, as no winning ticket above level 0 has finished."
        )
    targets = task.targets.astype(np.uint8 if classes else np.float32)
    return RecordedGrid(
        _about(runs, classes),
        tuple(kept),
        targets,
        np.concatenate(losses),
        np.concatenate(predicted),
        tuple(importance),
        settled,
    )


def _classes(task: TaskInfo, where: str) -> int:
    """Return how many classes a task has, 0 of one of numbers; raises TicketError for others."""
    by_class = all(metric in CLASSIFICATION for metric in task.metrics) and task.targets.ndim == 1
    if by_class and len(task.labels) <= 256:
        return len(task.labels)
    if all(metric in REGRESSION for metric in task.metrics):
        return 0
    raise TicketError(
        f"{where}: grids are recorded of tasks with one of at most 256 classes, or a number, for each example; task "
        f"{task.task!r} has other outputs ({', '.join(task.metrics)})."
    )


def _losses(outputs: NDArray[np.float32], targets: NDArray[Any], classes: int) -> NDArray[np.float16]:
    """Return each example's loss `[epochs, examples]`: cross-entropy, or squared error."""
    if not classes:
        found = (outputs[..., 0].astype(np.float64) - targets) ** 2
    else:
        logits = outputs.astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        own = np.take_along_axis(logits, targets.astype(int)[None, :, None], axis=-1)[..., 0]
        found = np.log(np.exp(logits).sum(axis=-1)) - own
    return np.minimum(found, float(np.finfo(np.float16).max)).astype(np.float16)


def _recorded(outcome: Outcome, kind: str, level: float, first: int) -> RecordedRun:
    ticket, cost = outcome.trial.ticket, outcome.cost
    return RecordedRun(
        kind=kind,
        level=level,
        seed=outcome.trial.seed,
        first=first,
        scores=tuple(float(epoch["score"]) for epoch in outcome.epochs),
        best_epoch=int(outcome.best_epoch or 0),
        heads=ticket.kept_heads,
        ffns=ticket.kept_ffns,
        neurons=ticket.kept_neurons,
        flops=float(cost["flops"]),
        scoring_flops=float(cost.get("scoring_flops", 0.0)),
        parameters=float(cost["parameters"]),
    )


def _about(runs: Runs, classes: int) -> dict[str, Any]:
    """Return what the study was about; names of places are not in it."""
    task, trial = runs.task, next(run.trial for run in runs.runs if run.trial is not None)
    return {
        "task": task.task,
        "metrics": list(task.metrics),
        "classes": classes,
        "train": task.train,
        "data_hash": task.data_hash,
        "model_type": task.model_type,
        "weight_hash": task.weight_hash,
        "recipe": trial.recipe.model_dump(mode="json"),
        "scoring": None if trial.scoring is None else trial.scoring.model_dump(mode="json"),
        "structures": list(runs.settings["structures"]),
    }
