"""The papers' own figures, and where they stand beside ours: same model, same task, whole training set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from supertickets.evidence.runs import TaskInfo
from supertickets.tasks.glue import GLUE

ORDER = ("rte", "mrpc", "cola", "sst2", "stsb", "qnli", "qqp", "mnli", "wnli")
"""The tasks' order in the paper's tables."""
_TITLES = {"sst2": "SST", "stsb": "STS-B", "cola": "CoLA"}
MISMATCHED = "dev_mismatched_accuracy"
_METRICS = {"accuracy": "Acc", "f1": "F1", "f1_first": "F1", "matthews": "Mcc", "pearson": "P", "spearman": "S"}


@cache
def _figures(file: str) -> dict[str, Any]:
    return dict(json.loads(resources.files("supertickets.evidence").joinpath(file).read_text(encoding="utf-8")))


def published() -> dict[str, Any]:
    """Return the figures that the paper printed (`published.json`)."""
    return _figures("published.json")


def published_weights() -> dict[str, Any]:
    """Return the figures that Chen et al. printed (`published_weights.json`), for BERT-base."""
    return _figures("published_weights.json")


def published_model(task: TaskInfo) -> str | None:
    """Return which of the paper's models (`base`, `large`) a study's has the architecture of, or None."""
    shape = task.shape
    for size, model in published()["models"].items():
        if (task.model_type, shape.layers, shape.heads, shape.hidden) == (
            model["model_type"], model["layers"], model["heads"], model["hidden"],
        ):  # fmt: skip
            return str(size)
    return None


def why_not_averaged(tasks: Sequence[TaskInfo], names: Sequence[str]) -> str:
    """Return why scores of tasks do not average; nothing if they do (see `task_average`)."""
    as_glue = [task.task in GLUE and task.metrics == GLUE[task.task].metrics for task in tasks]
    if all(as_glue) or len({task.metrics for task in tasks}) == 1:
        return ""
    said = "; ".join(f"{name}: {', '.join(s.metrics)}" for name, s in zip(names, tasks, strict=True))
    return f"No average over tasks: their metrics differ ({said}) and are not all GLUE's own."


def table_2(tasks: Sequence[TaskInfo]) -> pd.DataFrame:
    """Return what the paper printed of GLUE's test sets (Table 2) for GLUE tasks; no rows if the model is not theirs.

    Cells are text. Only GLUE's server can score a submission, so that there are no figures of our own.
    """
    columns = published()["table 2"]["columns"]
    of_task = {columns[task]: one for task in ORDER for one in tasks if task == one.task and task in columns}
    return pd.DataFrame.from_dict(published_rows("table 2", published_model(tasks[0]), of_task), orient="index")


def published_rows(table: str, size: str | None, columns: Mapping[str, TaskInfo]) -> dict[str, dict[str, str]]:
    """Return a published table's rows of one of the paper's models; `columns` are tasks by the titles they have here.

    Where it has them, the averages over GLUE's tasks follow.
    """
    rows = {}
    for name, row in published()[table].get(size, {}).items():
        cells = {title: published_cell(row, task, str(size)) for title, task in columns.items()}
        if "average" in row:
            cells |= {"Average Score": f"{row['average']:.1f} (8 tasks)"}
            cells |= {"Average Compression": f"{row['compression']:.1f}%"}
        rows[published_label(name, str(size))] = cells
    return rows


def published_label(name: str, size: str) -> str:
    """Return the name of a row of the paper's own figures for one of its models."""
    return f"{name} ({published()['models'][size]['name']}, published)"


def column_title(task: TaskInfo, name: str, mismatched: bool) -> str:
    """Return a task's title and metrics as the paper's tables have them; `name` distinguishes it from others."""
    title = name if name != task.task else _TITLES.get(name, name.upper() if name in GLUE else name)
    if task.task == name == "mnli":
        title = "MNLI-m/mm" if mismatched else "MNLI-m"
    return f"{title} {'/'.join(_METRICS.get(metric, metric) for metric in task.metrics)}"


def published_cell(row: Mapping[str, Any], task: TaskInfo, size: str) -> str:
    """Return what a published row says of a task, `-` if nothing or if the model or the training set is another."""
    found = row.get(task.task)
    if found is None or published_model(task) != size or task.source.fraction != 1.0:
        return "-"
    return "/".join(f"{value:.1f}" for value in found) if isinstance(found, list) else f"{found:.2f}"
