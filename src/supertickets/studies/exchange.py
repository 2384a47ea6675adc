"""What studies hand to others: tickets, trained models, and what is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.export.evidence_file import Training
from supertickets.lab.lab import TRIALS, Lab, Watcher
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Label, Run
from supertickets.lab.trial import Trial
from supertickets.models import BaseModel
from supertickets.tasks import Task, TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, load_any_ticket
from supertickets.tickets.weights import WeightTicket
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:  # pandas takes a second to import, which no `--help` should
    from supertickets.evidence.runs import Runs, TaskInfo


@dataclass(frozen=True)
class FoundTicket:
    """A ticket to take: its name, the task it was found on, where it came from, and of how many first layers it is.

    `source` and `recipe` are those of the study that found it, None for a ticket folder.
    """

    name: str
    task: str
    ticket: Ticket | WeightTicket
    weight_hash: str
    model: str
    where: Path
    source: TaskSource | None = None
    recipe: Recipe | None = None
    layers: int | None = None
    shared: SharedTicket[Any] | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A trained model to go on from: its name, the trial that trained it, and the tasks that it was trained on.

    `folder` is the trial's, whose weights may have been dropped.
    """

    name: str
    trial: Trial
    folder: Path
    tasks: tuple[TaskInfo, ...]


def ticket_in(path: Path, task: TaskInfo | None = None, recipe: Recipe | None = None) -> FoundTicket:
    """Return the ticket of a ticket folder."""
    shared = load_any_ticket(path)
    base = shared.base
    return FoundTicket(
        name=str(shared.origin.get("task") or path.name),
        task=str(shared.origin.get("task", "")),
        ticket=shared.ticket,
        weight_hash=str(base["weight_hash"]),
        model=str(base["name"]),
        where=path,
        source=task.source if task is not None else None,
        recipe=recipe,
        layers=base.get("layers"),
        shared=shared,
    )


def trained_model(runs: Runs, name: str, **labels: Label) -> TrainedModel:
    """Return the model of the run with these labels, called `name`; raises TicketError unless it has finished."""
    (run, *_) = runs.every(**labels)
    if not run.finished or run.trial is None:
        raise TicketError(
            f"{runs.folder}: {name} of seed {labels['seed']} has not finished its training ({run.status}); run its "
            "study to the end first."
        )
    return TrainedModel(name, run.trial, runs.folder / TRIALS / run.trial.key, runs.tasks)


def origin_of(runs: Runs, run: Run, settings: Any) -> dict[str, Any]:
    """Return what a ticket folder says of the run that its ticket comes from."""
    outcome, trial = run.result, run.result.trial
    task = next(one for one in runs.tasks if one.data_hash == trial.tasks[0].data_hash)
    return {
        "task": task.task,
        "data_hash": task.data_hash,
        "data": [*task.notices, *task.description],
        **{name: value for name, value in run.step.labels.items() if name in ("kind", "level", "sparsity", "seed")},
        "score": outcome.score,
        "metrics": list(task.metrics),
        "best_epoch": outcome.best_epoch,
        "trial": trial.key,
        "preset": settings.preset,
        "recipe": trial.recipe.model_dump(),
        **({"teacher": trial.teacher.model_dump(exclude={"folder"})} if trial.teacher is not None else {}),
    }


def trainings_like(runs: Runs, run: Run) -> list[Training]:
    """Return every seed's finished training of the same kind and size as a run's, seeds rising, for others to check."""
    labels = {name: value for name, value in run.step.labels.items() if name != "seed"}
    return sorted((Training.of(one.result) for one in runs.where(**labels)), key=lambda training: training.seed)


def is_shipped(folder: Path, trial: Trial, with_model: bool) -> bool:
    """Whether a ticket folder has the ticket of a trial, and its trained model if it is to have one."""
    with suppress(TicketError):  # none yet, or a damaged one
        shared = load_any_ticket(folder)
        return shared.origin.get("trial") == trial.key and (not with_model or (folder / MODEL_FOLDER).is_dir())
    return False


@dataclass(frozen=True)
class Shipping:
    """What a study may ship from: its runs and findings, the base model and the tasks with their examples."""

    runs: Runs
    findings: Any
    settings: Any
    base: BaseModel
    tasks: Mapping[TaskSource, Task]
    machine: Machine
    watcher: Watcher = field(default_factory=Watcher)

    def unshipped(self, folder: Path, run: Run) -> Outcome | None:
        """Return the outcome of a run to ship into a ticket folder, None if it is there already.

        It has its trained weights if the study keeps any, and none otherwise.
        """
        outcome, kept = run.result, self.settings.keep != "none"
        if is_shipped(folder, outcome.trial, kept):
            return None
        return self.with_weights(outcome.trial) if kept else replace(outcome, files={})

    def with_weights(self, trial: Trial) -> Outcome:
        """Return a trial's outcome with its trained weights, training it again if they were dropped, which is said."""
        with Lab(self.runs.folder, self.machine, self.watcher) as lab:
            if (known := lab.remembered(trial)) is not None and not known.has_weights:
                name = next((run.step for run in self.runs.runs if run.trial and run.trial.key == trial.key), trial.key)
                self.watcher.say(f"{name}: its trained weights were not kept, so it is trained again to ship them.")
            return lab.with_weights(trial)
