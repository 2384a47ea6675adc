"""The share of the dev set that levels are chosen on, as in the paper's section 5.2, and what choice sees of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.resampling import Floats, sample_size, sample_weights, weighted_scores
from supertickets.evidence.runs import Runs
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Run
from supertickets.tasks.metrics import JUDGED, REGRESSION, scored

LEAST = 10
"""Fewer examples than this tell no levels apart."""


@dataclass(frozen=True)
class Selection:
    """Which dev examples each seed's level is chosen on: a random `share` of all `examples`, or (1.0) all of them.

    `reason` says why all, where a sample was asked for.
    """

    examples: int
    share: float = 1.0
    reason: str = ""

    @property
    def sampled(self) -> bool:
        """Whether it is a sample."""
        return self.share < 1

    @property
    def size(self) -> int:
        """How many examples there are to choose on."""
        return sample_size(self.examples, self.share)


def selection_of(runs: Runs) -> Selection:
    """Return how a study's settings choose levels; all examples where they cannot be sampled."""
    examples = _examples(runs)
    if runs.settings.get("selection", "whole") == "whole":
        return Selection(examples)
    share, task = float(runs.settings["selection_share"]), runs.task
    reason = why_not_sampled(task.metrics, task.targets, examples, share)
    return Selection(examples, 1.0, reason) if reason else Selection(examples, share)


def _examples(runs: Runs) -> int:
    """Return how many examples the dev set has: of a corpus, its blocks, which outputs alone know."""
    finished = runs.where()
    judged = bool(finished) and all(name in JUDGED for name in runs.task.metrics)
    return finished[0].result.predictions()["dev"].shape[1] if judged else len(runs.task.targets)


def why_not_sampled(metrics: Sequence[str], targets: NDArray[Any], examples: int, share: float) -> str:
    """Return why levels cannot be chosen on the sample that is a share of a dev set; nothing if they can.

    It must have `LEAST` examples, among which no scored metric is 0 whatever a model says (as Matthews' correlation is
    where all have one class).
    """
    size = sample_size(examples, share)
    of = f"{100 * share:.3g} % of the {examples} dev examples"
    if size < LEAST:
        return f"{of} {'is' if size == 1 else 'are'} {size}; at least {LEAST} are needed to choose a level"
    if all(name in JUDGED for name in metrics):
        return ""
    weights, right = sample_weights(examples, share)[:1], _right(metrics, targets)
    for name in scored(metrics):
        if weighted_scores([name], targets, right, weights)[0] <= 0:
            return f"{of} happen to be examples among which metric {name} cannot tell models apart"
    return ""


def _right(metrics: Sequence[str], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Return outputs `[examples, outputs]` that are right everywhere."""
    if all(name in REGRESSION for name in metrics):
        return np.asarray(targets, np.float64)[:, None]
    if targets.ndim == 2:
        return 2.0 * targets - 1
    return np.asarray(targets[:, None] == np.arange(max(2, int(targets.max()) + 1)), np.float64)


def nearest_share(metrics: Sequence[str], targets: NDArray[Any], share: float) -> float | None:
    """Return the smallest share in whole percent above this one that can be sampled; None if none can."""
    larger = (percent / 100 for percent in range(1, 100) if percent / 100 > share)
    return next((one for one in larger if not why_not_sampled(metrics, targets, len(targets), one)), None)


def seen_by_choice(runs: Sequence[Run], of: Runs, selection: Selection) -> dict[str, Floats]:
    """Return what choice sees of finished runs, by their trials' keys: scores at the epoch whose score a run has.

    On all examples that is the score `[1]`. Of samples, the first is the study's own, the others are such as it might
    have drawn `[samples]`.
    """
    return {run.result.key: _seen(run.result, of, selection) for run in runs}


def _seen(outcome: Outcome, of: Runs, selection: Selection) -> Floats:
    if not selection.sampled:
        return np.array([outcome.score])
    outputs = outcome.best_outputs()
    weights = sample_weights(selection.examples, selection.share)
    return weighted_scores(of.task.metrics, of.task.targets, outputs, weights)
