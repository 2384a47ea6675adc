"""Training a dense model first, to be the base of studies: what an encoder without a masked-token head needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import TicketError
from supertickets.evidence.record import Record
from supertickets.evidence.table import DENSE, Role
from supertickets.lab import Trial
from supertickets.models import BaseModel, ModelSource, find_model
from supertickets.studies.config import S, recorded
from supertickets.studies.settings_weights import PretrainSettings, WeightSettings
from supertickets.studies.study import (
    Loaded,
    Study,
    check_folder,
    check_runner,
    check_some_finished,
    check_tasks,
    conduct,
    prepare,
    trained_again,
    write_results,
)
from supertickets.tasks import Task, load_task
from supertickets.tickets import Ticket
from supertickets.training.team import find_team

BASE, MODEL = "base", "model"
"""What the folder of the study that trains a study's base model ends with; the model's folder in it."""


class PretrainStudy(Study):
    """One dense training, whose weights stay."""

    def expected(self) -> list[Role]:
        """Return the one role."""
        return [Role(DENSE, 0.0, seed) for seed in self.seeds]

    def opening(self) -> list[Trial]:
        """Return the one trial."""
        full = Ticket.full(self.layers, self.heads)
        return [self.trial(role, full) for role in self.expected()]

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay."""
        return True

    def expected_cost(self) -> float:
        """Return the cost of the training."""
        full = Ticket.full(self.layers, self.heads)
        return self.settings.epochs * float(forward_flops(self.subject.shape, full, self.subject.train, 32))


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` leaves: the trained model's folder, and how well it does on the dev set."""

    folder: Path
    model: Path
    metrics: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """What came out, in words."""
        values = ", ".join(f"{name} {value:.2f}" for name, value in self.metrics.items() if name != "score")
        return f"The dense model reaches {values}; it is a base model for --model {self.model}."


def pretrain(
    config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any
) -> PretrainResult:
    """Train the dense model on a task and save it as a base model; the Python call behind `supertickets pretrain`.

    Takes the settings of `PretrainSettings` by name. Raises TicketError for misuse before anything is written, and
    StudyError if the training failed.
    """
    first, base = prepare(PretrainSettings, config, settings, quiet)
    return _pretrain(first, base, load_task(first.source), quiet)


def _pretrain(settings: PretrainSettings, base: BaseModel, task: Task, quiet: bool) -> PretrainResult:
    tasks = {settings.source: task}
    return conduct(
        PretrainStudy, settings, base, tasks, quiet, lambda study, record: _conclude(study, record, base, tasks)
    )


def _conclude(study: PretrainStudy, record: Record, base: BaseModel, tasks: Loaded) -> PretrainResult:
    from supertickets.export.ship import save_base

    check_some_finished(record)
    write_results(record.folder, record.table)
    (row,) = record.rows
    assert row.trial is not None
    assert row.outcome is not None
    folder = record.folder / MODEL
    if not folder.is_dir():
        save_base(trained_again(study, base, tasks, row.trial), base, tasks[record.subject.source], folder)
    return PretrainResult(record.folder, folder, row.outcome.metrics["dev"])


def with_output_layer(settings: S, base: BaseModel, task: Task, quiet: bool) -> tuple[S, BaseModel]:
    """Return a study's settings and base model, or those with a base model whose output layer has been trained first.

    Masked language modelling goes on with the checkpoint's own output layer. Where it has none, the dense model is
    trained on the task first, in a study of its own beside the study's folder, and takes the base model's place. Raises
    TicketError for misuse of the study itself before that training.
    """
    if task.form != "masked" or ModelSource(base).has_head("masked") or not isinstance(settings, WeightSettings):
        return settings, base
    if find_team().size > 1:
        raise TicketError(
            f"--model: {base.name!r} has no output layer for masked tokens; under `accelerate launch`, train one first "
            "with `supertickets pretrain`."
        )
    check_runner(settings)
    before = recorded(settings.folder)
    trained = before is not None and Path(before.model).match(f"*-{BASE}/{MODEL}")
    as_before = settings.model_copy(update={"model": before.model}) if before and trained else settings
    check_folder(as_before, check_tasks(settings, base, {settings.source: task}), weights=not trained)
    same = {
        name: getattr(settings, name) for name in PretrainSettings.model_fields if name in settings.model_fields_set
    }
    first = PretrainSettings(**same | {"seeds": 1, "out": settings.folder.with_name(f"{settings.folder.name}-{BASE}")})
    if not quiet:
        import typer

        typer.echo(f"{base.name} has no output layer for masked tokens: the dense model is trained first.", err=True)
    made = _pretrain(first, base, task, quiet)
    return settings.model_copy(update={"model": str(made.model)}), find_model(str(made.model))
