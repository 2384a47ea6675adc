"""What a study would run and what that costs, before it runs: `--dry-run`. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from supertickets.evidence.runs import TaskInfo
from supertickets.lab.lab import replay
from supertickets.lab.progress import duration, size
from supertickets.lab.steps import Execution, Run
from supertickets.models import BaseModel
from supertickets.studies import STUDIES
from supertickets.studies.config import merge_overrides
from supertickets.studies.run import check_request, machine_of, settled_settings

if TYPE_CHECKING:
    from supertickets.lab.machine import Machine

_PAGE = 6_000_000
"""Bytes of a report, nearly all of it the library that draws its figures."""


@dataclass(frozen=True)
class Plan:
    """What a study would run: `steps` counts trainings, those already done and FLOPs by labels (all seeds together).

    `flops` and `seconds` are of what is not done, on this machine with `side_by_side` trainings at a time; `disk` is
    about how many bytes the folder takes up in the end.
    """

    steps: pd.DataFrame
    trainings: int
    done: int
    flops: float
    seconds: float
    side_by_side: int
    disk: int

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        return {name: value for name, value in vars(self).items() if name != "steps"}

    def sentence(self) -> str:
        """Return the numbers in words."""
        left = self.trainings - self.done
        return (
            f"{self.trainings} trainings, {self.done} of them done; the other {left} take about {self.flops:.2g} FLOPs "
            f"and {duration(self.seconds)} on this machine, {self.side_by_side} at a time. The folder will take about "
            f"{size(self.disk)}. Nothing was run or written."
        )


def plan_study(
    name: str, config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any
) -> Plan:
    """Return what `run_study` would run with these settings, and what that costs; runs a few steps of one training.

    Raises TicketError for misuse, as `run_study` does.

    >>> plan_study("find", task="cola", data="glue", seeds=1).trainings  # doctest: +SKIP
    25
    """
    kind = STUDIES[name]
    request = kind.prepare(merge_overrides(kind.settings, config, settings), quiet, dry=True)
    infos = check_request(kind, request)
    settled = settled_settings(request.settings, infos)
    study = kind(request.inputs)
    machine = machine_of(settled, request.base, {**request.more_tasks, **request.tasks})
    execution = replay(study.steps(settled, infos), settled.folder)
    distinct = _distinct(execution)
    ahead = sum(run.step.cost for run in distinct if not run.ended)
    seconds, flops = _measure(distinct, machine) if ahead else (0.0, 0.0)
    side_by_side = len(machine.devices())
    return Plan(
        steps=_table(execution, distinct),
        trainings=execution.total,
        done=sum(run.outcome is not None for run in distinct),
        flops=ahead * flops,
        seconds=ahead * seconds / min(side_by_side, max(1, len(distinct))),
        side_by_side=side_by_side,
        disk=_disk(execution, request.base, infos),
    )


def _distinct(execution: Execution) -> list[Run]:
    """Return a run for each trial, as far as trials are known."""
    seen: dict[Any, Run] = {}
    for run in execution.runs:
        if not run.unwanted:
            seen.setdefault(run.order.id if run.trial is not None else run, run)
    return list(seen.values())


def _measure(distinct: Sequence[Run], machine: Machine) -> tuple[float, float]:
    """Return seconds and FLOPs for a unit of a step's cost, from a few steps of a training that can begin now.

    That is one whose cost the plan counts, if there is one; else its own FLOPs are the unit.
    """
    from supertickets.lab.timing import time_training

    known = [run for run in distinct if run.trial is not None]
    run = next((run for run in known if run.step.cost), known[0])
    assert run.trial is not None
    seconds, flops = time_training(run.trial, machine)
    unit = run.step.cost or flops
    return seconds / unit, flops / unit


def _table(execution: Execution, distinct: Sequence[Run]) -> pd.DataFrame:
    """Return how many trainings there are by labels."""
    first = set(map(id, distinct))
    rows: list[dict[str, Any]] = [
        {name: value for name, value in run.step.labels.items() if name != "seed"}
        | {"trainings": int(id(run) in first), "done": int(id(run) in first and run.outcome is not None)}
        for run in execution.runs
        if not run.unwanted
    ]
    frame = pd.DataFrame(rows)
    labels = [name for name in frame.columns if name not in ("trainings", "done")]
    return frame.groupby(labels, sort=False, dropna=False)[["trainings", "done"]].sum().reset_index()


def _disk(execution: Execution, base: BaseModel, infos: Sequence[TaskInfo]) -> int:
    """Return about how many bytes a study's folder has in the end: kept weights, outputs of every epoch, the page."""
    weights = sum((base.folder / name).stat().st_size for name in base.weights)
    kept = [run.step.keep for run in execution.runs]
    epochs = max((run.trial.recipe.epochs for run in execution.runs if run.trial is not None), default=1)
    outputs = max(len(info.targets) * max(1, len(info.labels)) for info in infos) * 4 * epochs
    copies = kept.count("yes") + ("best" in kept)
    return int(copies * weights + execution.total * outputs + _PAGE)
