"""Taught tickets: a ticket's training also fits what the dense run of its seed gives on the training set.

Not in the paper. The dense run stores its outputs once (Hinton et al., 2015, distil a large model into a small one;
here the small one is a ticket of it). The control is the dense model taught in the same way: what teaching alone gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from supertickets.errors import TicketError
from supertickets.evidence.labels import TAUGHT
from supertickets.evidence.runs import TaskInfo
from supertickets.lab.steps import Done, Step
from supertickets.lab.trial import Trial
from supertickets.studies.config import Overrides
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.study import Request, full_ticket, training_flops, trial_of


def taught(settings: FindSettings, dense: Step, done: Done) -> dict[str, Any]:
    """Return what of a trial says that a dense run teaches it; nothing where there is no teacher."""
    if not settings.teaches:
        return {}
    return {"teacher": done[dense].teacher(settings.teacher_weight, settings.teacher_temperature)}


def taught_steps(settings: FindSettings, task: TaskInfo, dense: Iterable[Step]) -> Iterator[Step]:
    """Yield the dense model of each seed, taught by its own dense run."""
    full = full_ticket(task)

    def make(seed: int, teacher: Step, done: Done) -> Trial:
        return trial_of(settings, task, full, seed, **taught(settings, teacher, done))

    for step in dense:
        seed = int(step.labels["seed"])
        yield Step(
            {"kind": TAUGHT, "level": 0.0, "seed": seed},
            partial(make, seed, step),
            needs=(step,),
            keep="yes" if settings.keep == "all" else "no",
            cost=training_flops(task, full, settings.epochs),
        )


def settle_teacher(request: Request, asked: Overrides) -> Request:
    """Return a request whose teacher can teach its task; real numbers are not softened, so they have no temperature.

    Raises TicketError for tasks of other forms, and for a temperature that was asked for and would change nothing.
    """
    settings, (task,) = request.settings, request.tasks.values()
    if not settings.teaches:
        return request
    from supertickets.training.objectives import TEACHABLE

    if task.form not in TEACHABLE:
        raise TicketError(
            f"--teacher dense: task {task.name!r} has outputs for every token, which are too many to store for its "
            "whole training set; expected a task on whole texts or questions, or --teacher none."
        )
    usual = FindSettings.model_fields["teacher_temperature"].default
    if not task.is_regression or settings.teacher_temperature == usual:
        return request
    if "teacher_temperature" in asked.keys() - asked.inherited:
        raise TicketError(
            f"--teacher-temperature: it would change nothing, since task {task.name!r} has real numbers as targets, "
            "which are not softened; leave it out."
        )
    return replace(request, settings=settings.model_copy(update={"teacher_temperature": usual}))
