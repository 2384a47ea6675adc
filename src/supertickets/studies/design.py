"""`supertickets design`: what a study of `find` can detect before it is run, from seeds, dev examples and a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.errors import TicketError, unknown_value
from supertickets.evidence.design import Design
from supertickets.evidence.power import (
    MOST_SEEDS,
    GainVariance,
    assumed_variance,
    pilot_variance,
    seeds_needed,
    smallest_gain,
)
from supertickets.studies.config import check_effects, fill, flag, named_by
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.inputs import OpenStudy, open_study
from supertickets.studies.presets import DEFAULT_SHAPE
from supertickets.tasks import CORPORA, TaskFiles, load_task
from supertickets.tasks.metrics import CLASSIFICATION, JUDGED, MULTI_LABEL, REGRESSION, scored

ASKED = ("design", "seeds", "levels", *TaskFiles.model_fields)
"""The settings of `find` that say what a study can detect."""


def design(
    *,
    dev_size: int | None = None,
    metric: str | None = None,
    gain: float | None = None,
    pilot: Path | str | None = None,
    **settings: Any,
) -> Design:
    """Return what a study of `find` can detect; nothing is run.

    `settings` are those of `find` that matter: where the task is, `seeds`, `levels` and `design`. Instead of a task,
    `dev_size` (examples) and `metric` may be given. `pilot` is the folder of a study, finished or not, whose gains say
    how they vary; without one, this is assumed. `gain` (points) asks how many seeds see it in 80 % of studies. Raises
    TicketError for misuse, and for a gain that the dev set hides with any number of seeds.

    >>> design(dev_size=277, seeds=5).sentence()
    'A study of 5 seeds and 277 dev examples detects a gain of 2.5 points in 80 % of such studies.'
    """
    asked = fill(FindSettings, settings, DEFAULT_SHAPE)
    if gain is not None and not (np.isfinite(gain) and gain > 0):
        raise TicketError(f"--gain: expected more than 0 points, got {gain:g}.")
    with named_by("--pilot"):
        before = None if pilot is None else open_study(pilot)
    if before is not None and before.name != "find":
        raise TicketError(f"--pilot {before.folder}: it holds a study of `{before.name}`; expected one of `find`.")
    examples, metrics = _dev_set(asked, settings, dev_size, metric, before)
    variance = assumed_variance() if before is None else _of_pilot(before, metrics)
    needed = None if gain is None else seeds_needed(gain, variance, examples)
    if gain is not None and needed is None:
        least = smallest_gain(variance, examples)
        raise TicketError(
            f"--gain {gain:g}: with {examples:,} dev examples, "
            + (
                f"no number of seeds detects it in 80 % of studies; expected more than {least:.2f} points."
                if gain <= least
                else f"it needs more than {MOST_SEEDS:,} seeds, since {least:.2f} points are never detected so often."
            )
        )
    return Design(asked.seeds, examples, metrics, variance, asked.light, gain, needed)


def _dev_set(
    asked: FindSettings, named: dict[str, Any], size: int | None, metric: str | None, pilot: OpenStudy | None
) -> tuple[int, tuple[str, ...]]:
    """Return the number of dev examples and the metrics: as given, of the task, or of the pilot where none is named."""
    of_task = [name for name in named if name in TaskFiles.model_fields]
    if size is not None:
        if of_task:
            raise TicketError(f"--dev-size and {flag(of_task[0])} both say which dev set; leave one of them out.")
        if size < 2:
            raise TicketError(f"--dev-size: expected at least 2, got {size}.")
    elif metric is not None:
        raise TicketError("--metric is used only with --dev-size; leave it out, or give both.")
    if metric is not None and metric not in _scoring():
        raise unknown_value("--metric", metric, _scoring())
    if not of_task and pilot is not None:
        (task,) = pilot.tasks or _none(pilot)
        return size or len(task.targets), task.metrics if metric is None else (metric,)
    if size is not None:
        return size, (metric or "accuracy",)
    check_effects(asked, named, quiet=True)
    loaded = load_task(asked.source)
    if loaded.form in CORPORA:
        raise TicketError(
            f"--task {asked.task}: its dev examples are blocks of text, which are not counted before a study; give "
            "their number with --dev-size."
        )
    return len(loaded.dev), loaded.metrics


def _scoring() -> Sequence[str]:
    return scored(dict.fromkeys([*CLASSIFICATION, *MULTI_LABEL, *REGRESSION, *JUDGED]))


def _none(pilot: OpenStudy) -> Any:
    raise TicketError(f"--pilot {pilot.folder}: the study has not begun; see `supertickets status {pilot.folder}`.")


def _of_pilot(pilot: OpenStudy, metrics: Sequence[str]) -> GainVariance:
    """Return the variance of a study's gains; raises TicketError if it is of another metric."""
    runs = pilot.replay().only(stage=None)
    if scored(runs.task.metrics) != scored(metrics):
        own, other = (" and ".join(scored(names)) for names in (runs.task.metrics, metrics))
        raise TicketError(
            f"--pilot {pilot.folder}: its score is {own}, and that of the study is {other}; expected a pilot with the "
            "same metrics."
        )
    return pilot_variance(runs.table, str(pilot.folder))
