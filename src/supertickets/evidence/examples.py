"""What each example of a dev set contributes to a run's score: of several seeds, a matrix that gains are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.resampling import Floats, weighted_scores
from supertickets.lab.outcome import Outcome
from supertickets.tasks.metrics import told_apart

BY_EXAMPLE = "by_example"
"""The column of tables of runs that has each run's contributions."""
_AT_ONCE = 4_000_000  # weights of examples that are in memory together


def contributions(metrics: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> Floats:
    """Return each example's contribution to the score, `[examples]`, in percent.

    It is the pseudo-value of the delete-one jackknife (Tukey 1958): n times the score less n - 1 times the score
    without the example. Of a mean over examples (accuracy, SQuAD's F1) that is the example's own value, and the mean of
    all is the score; of others (F1, correlations) it is their linear part. `outputs` are `[examples, outputs]`.

    >>> contributions(("accuracy",), np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [100.0, 0.0]
    """
    examples = len(outputs)
    _, first, place = np.unique(told_apart(metrics, targets, outputs), axis=0, return_index=True, return_inverse=True)
    whole = weighted_scores(metrics, targets, outputs, np.ones((1, examples)))[0]
    without = np.empty(len(first))
    step = max(1, _AT_ONCE // examples)
    for begin in range(0, len(first), step):
        left_out = first[begin : begin + step]
        weights = np.ones((len(left_out), examples))
        weights[np.arange(len(left_out)), left_out] = 0
        without[begin : begin + step] = weighted_scores(metrics, targets, outputs, weights)
    return np.asarray((examples * whole - (examples - 1) * without)[place.ravel()])


@dataclass(frozen=True)
class ByExample:
    """A finished run's contributions by example of its dev set, computed when they are asked for.

    `place` is the task's among those of the run's trial.
    """

    outcome: Outcome
    place: int
    metrics: tuple[str, ...]
    targets: NDArray[Any]

    @cached_property
    def values(self) -> Floats:
        """The contributions `[examples]` at the epoch whose score the run has."""
        outputs = self.outcome.best_outputs(self.place)
        return contributions(self.metrics, self.targets, outputs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples there are, of one task."""
        return (len(self.values),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByExample) and (self.outcome.key, self.place) == (other.outcome.key, other.place)

    def __hash__(self) -> int:
        return hash((self.outcome.key, self.place))

    def __repr__(self) -> str:
        return f"<{len(self.targets)} examples>"


@dataclass(frozen=True)
class Averaged:
    """Contributions to a mean of several tasks' scores: each task's examples, with the weight that they have in it."""

    parts: tuple[ByExample, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples each task has."""
        return tuple(len(part.values) for part in self.parts)

    @property
    def values(self) -> Floats:
        """The contributions of all tasks' examples, one task's behind the other's; their mean is that of the scores."""
        return joined([part.values for part in self.parts])


@dataclass(frozen=True)
class MeanOf:
    """Contributions to a mean of several runs' scores on the same examples."""

    parts: tuple[ByExample | MeanOf, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples there are, as of each of them."""
        return self.parts[0].sizes

    @cached_property
    def values(self) -> Floats:
        """The contributions of each example, the mean of the runs'."""
        return np.mean([part.values for part in self.parts], axis=0)


def plain(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a table of runs without their contributions."""
    return runs.drop(columns=BY_EXAMPLE, errors="ignore")


def joined(contributions: Sequence[Floats]) -> Floats:
    """Return several tasks' contributions `[..., examples]`, scaled so that their mean is that of the tasks' means."""
    total = sum(one.shape[-1] for one in contributions)
    scaled = [one * (total / (len(contributions) * one.shape[-1])) for one in contributions]
    return np.concatenate(scaled, axis=-1)
