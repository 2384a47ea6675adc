"""What a study would run and what that costs, before it runs: `--dry-run`. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from supertickets.evidence.labels import LINE, MEMBER, OF_SEED
from supertickets.evidence.runs import TaskInfo
from supertickets.lab.lab import replay
from supertickets.lab.progress import duration, size
from supertickets.lab.steps import Execution, Run
from supertickets.models import BaseModel
from supertickets.studies import STUDIES
from supertickets.studies.checks import check_folder
from supertickets.studies.config import merge_overrides
from supertickets.studies.run import check_request, machine_of
from supertickets.studies.study import full_ticket, training_flops
from supertickets.tasks import task_name
from supertickets.tasks.tables import counted

if TYPE_CHECKING:
    from supertickets.lab.machine import Machine

_PAGE = 6_000_000
"""Bytes of a report, nearly all of it the library that draws its figures."""


@dataclass(frozen=True)
class Plan:
    """What a study would run: `steps` counts trainings and those already done by labels (all seeds together).

    `flops` and `seconds` are of what is not done, at this machine's speed, with at most `side_by_side` trainings at the
    same time (None: as many as the cluster has room for; `seconds` are then those of one after the other); trainings
    that need others come after them. `disk` is about how many bytes the folder takes up in the end. Of the trainings,
    `unmade` depend on others that are not done; equal ones among them will be one. `repeated` counts how often one is
    trained again for its weights, which are not kept, as others start from them or the study ships them.
    `evaluations` counts means of trained weights, which are no trainings, and `held` is about how many bytes more the
    weights take up until these have been evaluated. `note` says what else has to be trained, `outlook` what the study
    can detect.
    """

    steps: pd.DataFrame
    trainings: int
    done: int
    flops: float
    seconds: float
    side_by_side: int | None
    backend: str
    disk: int
    unmade: int
    repeated: int = 0
    evaluations: int = 0
    held: int = 0
    note: str = ""
    outlook: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        return {name: value for name, value in vars(self).items() if name != "steps"}

    def sentence(self) -> str:
        """Return the numbers in words."""
        left, count = self.trainings - self.done, counted(self.trainings, "training")
        cost = f"about {self.flops:.2g} FLOPs and {duration(self.seconds)} {self._where}"
        again = counted(self.repeated, "training")
        if not left:
            done = f"All {count} are done." if self.trainings > 1 else "The training is done."
            if self.repeated:
                done += f" To have weights that were not kept, {again} {_takes(self.repeated)} {cost}."
        elif self.done:
            done = (
                f"{count}, {self.done} of them done; the other{f' {left}' if left > 1 else ''} {_takes(left)} {cost}."
            )
        else:
            done = f"{count} {_takes(left)} {cost}."
        equal = " Of those that depend on others, equal ones are run once." if self.unmade else ""
        more = "".join(f" {said}" for said in (self.note, self.outlook) if said)
        if self.repeated and left:
            done += f" This counts {again} to repeat, for weights that are not kept."
        held = ""
        if self.evaluations:
            means = counted(self.evaluations, "mean")
            done += f" {means} of their weights {'is' if self.evaluations == 1 else 'are'} evaluated, without training."
            held = f", and up to {size(self.held)} more while it runs"
        return f"{done} The folder will take about {size(self.disk)}{held}.{equal}{more} No folder was made or changed."

    @property
    def _where(self) -> str:
        if self.side_by_side is None:
            return (
                f"with one after the other at this machine's speed; how many {self.backend.capitalize()} runs at the "
                "same time depends on its cluster"
            )
        if self.backend != "local":
            return f"at this machine's speed, with up to {self.side_by_side} jobs at the same time"
        return f"on this machine, {self.side_by_side} at a time"


def _takes(count: int) -> str:
    return "takes" if count == 1 else "take"


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
    settled = check_folder(request.settings, infos)
    study = kind(request.inputs)
    machine = machine_of(settled, request.base, {**request.more_tasks, **request.tasks})
    execution = replay(study.steps(settled, infos), settled.folder, failures=False)
    distinct = _distinct(execution)
    more = [TaskInfo.of(request.base, source, task) for source, task in request.more_tasks.items()]
    shipped = _shipped(study.to_ship(execution.runs, settled), study.has_shipped(settled.folder))
    again = execution.repeated(shipped)
    left = [run for run in distinct if not run.ended]
    costs = {run: _cost(run, [*infos, *more], settled.epochs) for run in {*left, *again}}
    ahead = [*left, *again]
    speed = _measure(ahead, costs, machine)
    side_by_side = machine.side_by_side
    return Plan(
        steps=_table(execution, distinct),
        trainings=execution.total,
        done=sum(run.came and not run.step.evaluates for run in distinct),
        flops=sum(costs[run] for run in ahead) * speed.flops,
        seconds=_units(execution, left, again, costs, side_by_side or 1) * speed.seconds,
        side_by_side=side_by_side,
        backend=machine.backend,
        disk=_disk(distinct, request.base, infos, bool(shipped)),
        unmade=sum(run.trial is None and not run.step.evaluates for run in left),
        repeated=len(again),
        evaluations=execution.evaluations,
        held=_held(execution, request.base, side_by_side or len(left)),
        note=request.note,
        outlook=study.outlook(settled, infos),
    )


def _shipped(candidates: Sequence[Run], there: bool) -> list[Run]:
    """Return the run among candidates that is shipped, if its weights will not be there then; else none.

    Where all have ended, a model may be `there` already. Of those that have yet to end it is the dearest.
    """
    waiting = [run for run in candidates if not run.ended]
    best = max((run for run in candidates if run.finished), key=lambda run: run.result.rank, default=None)
    if not waiting:
        return [best] if best is not None and best.lost() and not there else []
    unkept = [run for run in waiting if run.step.keep == "no"]
    return [max(reversed(unkept), key=lambda run: run.step.cost)] if unkept else []


def _distinct(execution: Execution) -> list[Run]:
    """Return a run for each trial, as far as trials are known."""
    seen: dict[Any, Run] = {}
    for run in execution.runs:
        if run.counts:
            seen.setdefault(run.order.id if run.trial is not None else run, run)
    return list(seen.values())


def _cost(run: Run, infos: Sequence[TaskInfo], epochs: int) -> float:
    """Return about how many FLOPs a run takes: as its step says, or its trial, or (not made yet) as the dense model."""
    if run.step.cost or run.trial is None:
        return run.step.cost or training_flops(infos[0], full_ticket(infos[0]), epochs)
    of = {info.data_hash: info for info in infos}
    known = [(of[part.data_hash], part.ticket) for part in run.trial.tasks if part.data_hash in of]
    return sum(training_flops(info, ticket, run.trial.recipe.epochs) for info, ticket in known)


@dataclass(frozen=True)
class _Speed:
    """What a unit of the steps' costs takes here."""

    seconds: float = 0.0
    flops: float = 0.0


def _measure(ahead: Sequence[Run], costs: Mapping[Run, float], machine: Machine) -> _Speed:
    """Return what a unit of cost takes, by a few steps of a training that can begin now."""
    from supertickets.lab.timing import time_training

    known = [run for run in ahead if run.trial is not None and not run.step.evaluates]
    if not known:  # a few evaluations
        return _Speed()
    run = known[0]
    seconds, flops = time_training(run.order.trial, machine)
    whole = costs[run] / (run.step.until or 1.0) or 1.0
    return _Speed(seconds / whole, flops / whole)


def _units(
    execution: Execution, left: Sequence[Run], again: Sequence[Run], costs: Mapping[Run, float], side_by_side: int
) -> float:
    """Return about how long what is ahead takes, in units of cost: trainings wait for those that they need.

    What is repeated follows each other.
    """
    waiting = set(left)
    longest = execution.longest(lambda run: costs[run] if run in waiting else 0.0)
    return max(longest, sum(costs[run] for run in left) / side_by_side) + sum(costs[run] for run in again)


def _table(execution: Execution, distinct: Sequence[Run]) -> pd.DataFrame:
    """Return how many trainings there are by labels."""
    first = set(map(id, distinct))
    rows: list[dict[str, Any]] = [
        {name: value for name, value in run.step.labels.items() if name not in ("seed", OF_SEED, MEMBER, LINE)}
        | _counted(run, id(run) in first)
        for run in execution.runs
        if run.counts
    ]
    frame = pd.DataFrame(rows)
    numbers = ["trainings", "done", *(["evaluations"] if execution.evaluations else [])]
    labels = [name for name in frame.columns if name not in (*numbers, "evaluations")]
    return frame.groupby(labels, sort=False, dropna=False)[numbers].sum().reset_index()


def _counted(run: Run, first: bool) -> dict[str, int]:
    """Return what a run counts as; one whose trial is another's too is counted there."""
    trains = first and not run.step.evaluates
    done = trains and run.came
    return {"trainings": int(trains), "done": int(done), "evaluations": int(first and run.step.evaluates)}


def _disk(runs: Sequence[Run], base: BaseModel, infos: Sequence[TaskInfo], repeats: bool) -> int:
    """Return about how many bytes a study's folder has in the end: weights, outputs of every epoch, the page.

    Dense runs that teach also have their outputs on the training set, in 16 bits (numbers in 32): of a text, or of each
    token of a question with its context.

    Of the weights that a study keeps, one model is there twice: as trained and as shipped. So it is if the study
    `repeats` a training to ship its weights.
    """
    weights = _weights(base)
    kept = [run.step.keep for run in runs]
    epochs = max((run.trial.recipe.epochs for run in runs if run.trial is not None), default=1)
    outputs = max(len(info.targets) * max(1, len(info.labels)) for info in infos) * 4 * epochs
    copies = kept.count("yes") + ("best" in kept) + any(keep != "no" for keep in kept) + 2 * repeats
    teachers = sum(run.trial is not None and run.trial.logits for run in runs)
    longest = max((run.trial.recipe.max_length for run in runs if run.trial is not None), default=1)
    taught = teachers * sum(_taught(info, longest) for info in infos)
    return int(copies * weights + len(runs) * outputs + taught + _PAGE)


def _taught(info: TaskInfo, longest: int) -> int:
    """Return about how many bytes a dense run's outputs on a task's training set have, which others learn from."""
    if task_name(info.source.task) == "squad":
        return info.train * longest * 2 * 2
    return info.train * (2 * len(info.labels) or 4)


def _held(execution: Execution, base: BaseModel, side_by_side: int) -> int:
    """Return about how many bytes of weights wait at the same time for the means that they are part of.

    A ticket's trainings follow each other: until the last of them has ended, others run beside it.
    """
    most = max((len(run.step.starts_from) for run in execution.runs if run.step.evaluates), default=0)
    return (most + side_by_side) * _weights(base) if most else 0


def _weights(base: BaseModel) -> int:
    return sum((base.folder / name).stat().st_size for name in base.weights)
