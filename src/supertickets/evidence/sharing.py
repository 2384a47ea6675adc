"""What sharing tickets between tasks shows: the paper's Table 3, gains with tests, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import pandas as pd

from supertickets.anatomy.cost import parameters
from supertickets.evidence.keepers import keepers, overlaps, task_shares
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.statistics import Paired, holm, paired_t_test
from supertickets.evidence.table import Role, Row, in_columns
from supertickets.evidence.tables import (
    MISMATCHED,
    ORDER,
    column_title,
    published,
    published_cell,
    published_label,
    published_model,
    why_not_averaged,
)
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket

MT_DNN, TICKET_SHARE = "MT-DNN", "Ticket-Share"
MODELS = (MT_DNN, TICKET_SHARE)
TUNED = " + fine-tuning"
"""After a model's name: fine-tuned on one task after the shared training."""
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
class Sharing:
    """What a study of `share` shows.

    `runs` has a row a model, seed and task (see `runs`), `table` is the paper's Table 3, `gains` compares Ticket-Share
    with MT-DNN, `keepers` counts who keeps what in each layer, `overlaps` compares tickets by pairs of tasks,
    `importance` has a row a structure (see `task_shares`; empty where a ticket has no scores).
    """

    runs: pd.DataFrame
    table: pd.DataFrame
    gains: pd.DataFrame
    sizes: Sizes
    keepers: pd.DataFrame
    overlaps: pd.DataFrame
    importance: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the study shows, in words."""
        return " ".join(self.sentences)


def conclude_sharing(record: Record, tickets: Sequence[SharedTicket]) -> Sharing:
    """Look at all outcomes of a study of `share`; `tickets` are its tasks' tickets in the order of its subjects."""
    found = runs(record)
    of_task = {one.task: given.ticket for one, given in zip(record.subjects, tickets, strict=True)}
    size = sizes(record, of_task)
    compared = gains(found, record.subjects)
    importance = task_shares(record.subjects, tickets)
    return Sharing(
        runs=found,
        table=table_3(record, found, size),
        gains=compared,
        sizes=size,
        keepers=keepers(of_task),
        overlaps=overlaps(of_task),
        importance=importance,
        sentences=_sentences(record, compared, size, importance),
    )


def runs(record: Record) -> pd.DataFrame:
    """Return one row a model, seed and task: status, dev score and metrics in percent, size of the task's ticket, cost.

    A shared training has a row for each of its tasks; what it cost stands in the first, so that costs add up, its
    `parameters` are the shared model's. What is not there is missing (NaN).
    """
    rows = []
    for role, row in record.roles.items():
        shared_training = not role.variant
        for place, subject in enumerate(record.subjects):
            if shared_training or role.variant == subject.task:
                rows.append(_run(role, row, subject, place if shared_training else 0))
    return in_columns(rows)


def _run(role: Role, row: Row, subject: Subject, place: int) -> dict[str, Any]:
    name = role.kind + (TUNED if role.variant else "")
    entry: dict[str, Any] = {"model": name, "seed": role.seed, "task": subject.task}
    entry |= {"status": row.status, "score": np.nan}
    if row.outcome is not None and row.finished:
        for split, metrics in row.outcome.by_task[place].items():
            prefix = "" if split == "dev" else f"{split}_"
            entry |= {prefix + metric: value for metric, value in metrics.items() if metric != "score"}
        entry |= {"score": row.outcome.by_task[place]["dev"]["score"], "best_epoch": row.outcome.best_epoch}
    if row.trial is not None:
        ticket = row.trial.tasks[place].ticket
        entry |= {"heads": ticket.kept_heads, "ffns": ticket.kept_ffns}
    if row.outcome is not None:
        cost = ("parameters", "tokens", "flops", "seconds") if place == 0 else ("parameters",)
        entry |= {name: row.outcome.cost[name] for name in cost}
    return entry | {"trial": row.trial.key if row.trial is not None else None}


def sizes(record: Record, of_task: Mapping[str, Ticket]) -> Sizes:
    """Return what tickets keep of the shared dense model; NaN until a shared training is done."""
    shape = record.subject.shape
    shared = [row for model in MODELS for row in record.finished(model) if row.outcome and not row.role.variant]
    whole = np.nan
    for row in shared[:1]:
        assert row.outcome is not None
        assert row.ticket is not None
        whole = row.outcome.cost["parameters"] + parameters(shape, ~row.ticket)

    def remaining(ticket: Ticket) -> float:
        return float(1 - parameters(shape, ~ticket) / whole)

    by_task = {task: remaining(ticket) for task, ticket in of_task.items()}
    return Sizes(by_task, float(np.mean(list(by_task.values()))), remaining(reduce(or_, of_task.values())))


def names_in(found: pd.DataFrame) -> list[str]:
    """Return the models there are runs of, in the order of the paper's table."""
    return [name for model in MODELS for name in (model, model + TUNED) if name in set(found["model"])]


def averages(found: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the mean score over all tasks, a row a seed and a column a model; missing where a task's run is."""
    scores = found.pivot_table(index="seed", columns=["model", "task"], values="score", dropna=False)
    wanted = {name: [(name, task) for task in tasks] for name in names_in(found)}
    return pd.DataFrame(
        {name: scores.reindex(columns=columns).mean(axis=1, skipna=False) for name, columns in wanted.items()}
    )


def table_3(record: Record, found: pd.DataFrame, size: Sizes) -> pd.DataFrame:
    """Return the paper's Table 3: means over seeds of each task's metrics, their average, and both sizes.

    Rows of the paper's own figures follow where the model has its architecture. Cells are text.
    """
    place = {task: i for i, task in enumerate(ORDER)}
    subjects = sorted(record.subjects, key=lambda one: (place.get(one.task, len(ORDER)), one.task))
    averaged = not why_not_averaged(subjects, [one.task for one in subjects])
    average = averages(found, [one.task for one in subjects])
    rows: dict[str, dict[str, str]] = {}
    titles = {one.task: column_title(one, one.task, MISMATCHED in found) for one in subjects}
    for name in names_in(found):
        of_model = found[(found["model"] == name) & (found["status"] == "finished")]
        cells = {titles[one.task]: _metrics(of_model[of_model["task"] == one.task], one) for one in subjects}
        mean = average[name].mean() if averaged else np.nan
        full = name.startswith(MT_DNN)
        cells |= {"Average Score": _text(mean), "Std Dev": _text(average[name].std() if averaged else np.nan)}
        cells |= {"Mean size": "100%" if full else _percent(size.mean)}
        rows[name] = cells | {"Union size": "100%" if full else _percent(size.union)}
    if (model := published_model(record.subject)) is not None:
        for name, row in published()["table 3"][model].items():
            cells = {titles[one.task]: published_cell(row, one, model) for one in subjects}
            cells |= {"Average Score": f"{row['average']:.1f} (8 tasks)", "Std Dev": "-"}
            cells |= {"Mean size": f"{row['compression']:.1f}%", "Union size": "-"}
            rows[published_label(name, model)] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


def _metrics(of_task: pd.DataFrame, subject: Subject) -> str:
    if of_task.empty:
        return "-"
    names = [*subject.metrics, *([MISMATCHED] if MISMATCHED in of_task and subject.task == "mnli" else [])]
    return "/".join(f"{value:.1f}" for value in of_task[names].astype(float).mean())


def _text(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "-"


def gains(found: pd.DataFrame, subjects: Sequence[Subject]) -> pd.DataFrame:
    """Return what Ticket-Share gains over MT-DNN, before and after fine-tuning: a row a task, then their average.

    `difference` is paired over seeds, with its 95 % interval and p; `p_holm` is corrected for the tasks of a stage.
    """
    tasks = [subject.task for subject in subjects]
    average = averages(found, tasks)
    rows = []
    for stage, after in (("shared", ""), ("fine-tuned", TUNED)):
        if MT_DNN + after not in set(found["model"]):
            continue
        tests = []
        for task in tasks:
            scores = found[found["task"] == task].pivot(index="seed", columns="model", values="score").astype(float)
            tests.append(_compared(scores, after))
        corrected = holm([test["p"] for test in tests])
        rows += [
            {"stage": stage, "task": task, **test, "p_holm": p}
            for task, test, p in zip(tasks, tests, corrected, strict=True)
        ]
        if not why_not_averaged(subjects, tasks):
            rows.append({"stage": stage, "task": ALL, **_compared(average, after), "p_holm": np.nan})
    return pd.DataFrame(rows)


def _compared(scores: pd.DataFrame, after: str) -> dict[str, Any]:
    """Return means and the paired difference of Ticket-Share and MT-DNN; `scores` has a row a seed."""
    both = scores.reindex(columns=[TICKET_SHARE + after, MT_DNN + after]).dropna()
    test: Paired = paired_t_test(both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist())
    means = both.mean()
    return {
        "seeds": len(both), MT_DNN: means.iloc[1], TICKET_SHARE: means.iloc[0],
        "difference": test.mean, "low": test.low, "high": test.high, "p": test.p,
    }  # fmt: skip


def _sentences(record: Record, compared: pd.DataFrame, size: Sizes, importance: pd.DataFrame) -> tuple[str, ...]:
    tasks = [subject.task for subject in record.subjects]
    said = []
    reason = why_not_averaged(record.subjects, tasks)
    for stage, words in (("shared", "Trained together"), ("fine-tuned", "Fine-tuned on each task after that")):
        of_stage = compared[compared["stage"] == stage] if not compared.empty else compared
        average = of_stage[of_stage["task"] == ALL] if not of_stage.empty else of_stage
        if not average.empty and np.isfinite(average.iloc[0]["difference"]):
            row = average.iloc[0]
            tested = (
                f"95 %: {row['low']:+.2f} to {row['high']:+.2f}, p = {row['p']:.2g}; mean of {row['seeds']} seeds"
                if np.isfinite(row["p"])
                else "one seed, no test" if row["seeds"] == 1 else f"{row['seeds']} seeds that differ alike, no test"
            )  # fmt: skip
            said.append(
                f"{words}, tasks with tickets of their own score {row[TICKET_SHARE]:.2f} on average and the full model "
                f"{row[MT_DNN]:.2f}: {row['difference']:+.2f} ({tested})."
            )
    if not said:
        said += _counted(compared)
        said.append(reason or "No average over tasks: no seed has all its trainings finished.")
    said.append(
        "Each task's ticket was chosen on the dev set that scores it here; these numbers do not pay for that choice."
    )
    if np.isfinite(size.union):
        said.append(
            f"A task's ticket keeps {size.mean:.1%} of the parameters on average (what the paper calls compression); "
            f"what some task keeps, and is really there, is {size.union:.1%}."
        )
    if not importance.empty:
        counts = importance["pattern"].value_counts()
        said.append(
            f"Of {len(importance)} heads and FFNs, {counts.get('even', 0)} come nearest to mattering evenly to all "
            f"tasks, {counts.get('one task', 0)} to mattering to one alone and {counts.get('two tasks', 0)} to two."
        )
    return tuple(said)


def _counted(compared: pd.DataFrame) -> list[str]:
    """Say on how many tasks tickets are ahead, where there is no average."""
    if compared.empty or compared["difference"].isna().all():
        return []
    known = compared[compared["difference"].notna()]
    parts = [
        f"{(rows['difference'] > 0).sum()} of {len(rows)} tasks {words}"
        for stage, words in (("shared", "when trained together"), ("fine-tuned", "after fine-tuning"))
        if len(rows := known[known["stage"] == stage])
    ]
    return [f"Tasks with tickets of their own are ahead of the full model on {' and on '.join(parts)}."]
