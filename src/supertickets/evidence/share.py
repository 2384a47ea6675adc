"""What sharing tickets between tasks shows: the paper's Table 3, gains with tests, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.anatomy.cost import removed_parameters
from supertickets.evidence.cells import joined_means, number
from supertickets.evidence.examples import BY_EXAMPLE, Averaged
from supertickets.evidence.findings import Findings
from supertickets.evidence.gains import GAIN, gain, paired_gains, selected
from supertickets.evidence.keepers import keepers, overlaps, task_shares
from supertickets.evidence.labels import MT_DNN, RATES, SHARED, TICKET_SHARE, TUNED
from supertickets.evidence.published import (
    MISMATCHED,
    ORDER,
    column_title,
    published,
    published_label,
    published_model,
    published_rows,
    why_not_averaged,
)
from supertickets.evidence.rates import SPREAD, SPREAD_SAID, spread_over
from supertickets.evidence.runs import Runs, TaskInfo
from supertickets.tickets import Ticket

MODELS = (MT_DNN, TICKET_SHARE)
ALL = "average"
"""Stands for a task's name in what is averaged over tasks."""


@dataclass(frozen=True)
class Sizes:
    """Shares of the shared dense model's parameters: each task's own ticket, their mean, and what is really kept.

    `mean` is what the paper calls compression; `union` counts every structure that some task keeps.
    """

    by_task: Mapping[str, float]
    mean: float
    union: float


@dataclass(frozen=True)
class ShareFindings(Findings):
    """What a study of `share` shows.

    `tasks` are its tasks, `tickets` their tickets. `table` is the paper's Table 3, `gains` compares Ticket-Share with
    MT-DNN, `keepers` counts who keeps what in each layer, `overlaps` compares tickets by pairs of tasks, `importance`
    has a row a structure (see `task_shares`; empty where a ticket has no scores). `reason` says why scores do not
    average over tasks, where they do not. `spread` has tables of fine-tuning's over seeds and learning rates (none: not
    run).
    """

    tasks: tuple[TaskInfo, ...]
    tickets: Mapping[str, Ticket]
    table: pd.DataFrame
    gains: pd.DataFrame
    sizes: Sizes
    keepers: pd.DataFrame
    overlaps: pd.DataFrame
    importance: pd.DataFrame
    reason: str
    spread: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    text = "share.txt.jinja"
    shown = {"table 3": "mean dev scores (Table 3)", **SPREAD_SAID}  # noqa: RUF012

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables."""
        found = {"table 3": self.table, "gains": self.gains, "who keeps what": self.keepers}
        return {**found, "overlaps": self.overlaps, "importance": self.importance, **self.spread}


def analyse_share(
    runs: Runs, tickets: Mapping[str, Ticket], scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> ShareFindings:
    """Look at all outcomes of a study of `share`; `scores` are what its tasks' `tickets` were drawn by."""
    tasks = [task.task for task in runs.tasks]
    size = sizes(runs, tickets)
    reason = why_not_averaged(runs.tasks, tasks)
    return ShareFindings(
        runs=runs.table,
        tasks=runs.tasks,
        tickets=tickets,
        table=table_3(runs, size, reason),
        gains=gains(runs.table, tasks, reason),
        sizes=size,
        keepers=keepers(tickets),
        overlaps=overlaps(tickets),
        importance=task_shares(tasks, [scores.get(task, {}) for task in tasks]),
        reason=reason,
        spread=_spread(runs),
    )


def sizes(runs: Runs, of_task: Mapping[str, Ticket]) -> Sizes:
    """Return what tickets keep of the shared dense model; NaN until a shared training is done."""
    shape, whole = runs.task.shape, np.nan
    for run in runs.where(stage=SHARED)[:1]:
        whole = run.result.cost["parameters"] + removed_parameters(shape, run.result.trial.ticket)

    def remaining(ticket: Ticket) -> float:
        return float(1 - removed_parameters(shape, ticket) / whole)

    by_task = {task: remaining(ticket) for task, ticket in of_task.items()}
    return Sizes(by_task, float(np.mean(list(by_task.values()))), remaining(reduce(or_, of_task.values())))


def name_of(kind: str, stage: str) -> str:
    """Return what a model is called in tables."""
    return f"{kind} + fine-tuning" if stage == TUNED else kind


def models_in(found: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the kind and stage of each model there are runs of, in the order of the paper's table."""
    there = set(zip(found["kind"], found["stage"], strict=True))
    return [(kind, stage) for kind in MODELS for stage in (SHARED, TUNED) if (kind, stage) in there]


def averages(found: pd.DataFrame, tasks: Sequence[str], kind: str, stage: str) -> pd.DataFrame:
    """Return a model's mean score over all tasks by seed (`seed`, `score`, `by_example`); missing where a task's run
    is.
    """
    of_model = selected(found, {"kind": kind, "stage": stage})
    scores = of_model.pivot(index="seed", columns="task", values="score").reindex(columns=list(tasks))
    averaged = scores.mean(axis=1, skipna=False).rename("score").reset_index()
    if BY_EXAMPLE not in of_model:
        return averaged
    parts = of_model.pivot(index="seed", columns="task", values=BY_EXAMPLE).reindex(columns=list(tasks))
    joined = pd.Series([Averaged(tuple(row)) for row in parts.itertuples(index=False)], dtype=object)
    return averaged.assign(**{BY_EXAMPLE: joined})


def table_3(runs: Runs, size: Sizes, reason: str) -> pd.DataFrame:
    """Return the paper's Table 3: means over seeds of each task's metrics, their average, and both sizes.

    Rows of the paper's own figures follow where the model has its architecture. Cells are text.
    """
    found, place = runs.table, {task: i for i, task in enumerate(ORDER)}
    infos = sorted(runs.tasks, key=lambda one: (place.get(one.task, len(ORDER)), one.task))
    rows: dict[str, dict[str, str]] = {}
    columns = {column_title(one, one.task, MISMATCHED in found): one for one in infos}
    for kind, stage in models_in(found):
        of_model = selected(found, {"kind": kind, "stage": stage, "status": "finished"})
        cells = {title: _metrics(selected(of_model, {"task": one.task}), one) for title, one in columns.items()}
        average = averages(found, [one.task for one in infos], kind, stage)["score"]
        mean, std = ("-", "-") if reason else (number(average.mean()), number(average.std()))
        kept = ["100%"] * 2 if kind == MT_DNN else [number(share, "{:.1%}") for share in (size.mean, size.union)]
        cells |= {"Average Score": mean, "Std Dev": std, "Mean size": kept[0], "Union size": kept[1]}
        rows[name_of(kind, stage)] = cells
    for name, cells in published_rows("table 3", published_model(runs.task), columns).items():
        compression = cells.pop("Average Compression")
        rows[name] = cells | {"Std Dev": "-", "Mean size": compression, "Union size": "-"}
    return pd.DataFrame.from_dict(rows, orient="index")


def _metrics(of_task: pd.DataFrame, task: TaskInfo) -> str:
    more = [MISMATCHED] if MISMATCHED in of_task and task.task == "mnli" else []
    return joined_means(of_task, [*task.metrics, *more])


def gains(found: pd.DataFrame, tasks: Sequence[str], reason: str = "") -> pd.DataFrame:
    """Return what Ticket-Share gains over MT-DNN, before and after fine-tuning: a row a task, then their average.

    `difference` is paired over seeds, with its 95 % interval and p; `p_holm` is corrected for the tasks of a stage.
    With a `reason` scores do not average over tasks.
    """
    stages = []
    for stage in dict.fromkeys(stage for _, stage in models_in(found)):
        of, over = ({"kind": kind, "stage": stage} for kind in (TICKET_SHARE, MT_DNN))
        of_stage = paired_gains(found, of, over, ("stage", "task"))
        place = {task: i for i, task in enumerate(tasks)}
        stages.append(of_stage.sort_values("task", key=lambda column: column.map(place), kind="stable"))
        if not reason:
            average = gain(*(averages(found, tasks, kind, stage) for kind in (TICKET_SHARE, MT_DNN)))
            stages.append(pd.DataFrame([{"stage": stage, "task": ALL, **average, "p_holm": np.nan}]))
    if not stages:
        return pd.DataFrame(columns=["stage", "task", *GAIN, "p_holm"])
    frame = pd.concat(stages, ignore_index=True).rename(columns={"score": TICKET_SHARE, "over": MT_DNN})
    return frame[["stage", "task", "seeds", MT_DNN, TICKET_SHARE, "difference", "low", "high", "p", "p_holm"]]


def _spread(runs: Runs) -> dict[str, pd.DataFrame]:
    """Return how fine-tuning varies over seeds and learning rates, a row a model and a column a task (Tables 5, 8)."""
    tuned = selected(runs.table, {"stage": RATES})
    if tuned.empty:
        return {}
    size = published_model(runs.task)
    found: dict[str, pd.DataFrame] = {}
    theirs = (("table 5, multi-task", "seed", "learning_rate"), ("table 8", "learning_rate", "seed"))
    for title, (name, over, mean) in zip(SPREAD, theirs, strict=True):
        table = spread_over(tuned, ["kind", "task"], over, mean).unstack("task")
        table = table.reindex(index=list(MODELS), columns=[task.task for task in runs.tasks])
        for model, row in published()[name].get(size, {}).items() if size is not None else ():
            table.loc[published_label(model, str(size))] = [row.get(task.task, np.nan) for task in runs.tasks]
        found[title] = table.rename_axis(index=None, columns=None)
    return found
