"""Selection without bias: choose on one half of the dev set, score on the other.

Choosing the best of several levels, and of several epochs, on the very dev set whose score is then reported, makes any
method look better. Cross-fitting corrects for that choice: run and epoch are chosen on one half and scored on the
other, the halves change places, and this is averaged over many random halvings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.resampling import Floats, half_weights, weighted_scores

HALVINGS = 50


@dataclass(frozen=True)
class Selected:
    """The score of the best candidate: `paper` on the data it was chosen on, `cross_fitted` on data it was not.

    `chosen` is the candidate that each half of each halving chose, counting runs' epochs.
    """

    paper: float
    cross_fitted: float
    chosen: tuple[int, ...] = ()


def halved_scores(
    outputs: NDArray[np.float32], metrics: Sequence[str], targets: NDArray[Any], halvings: int = HALVINGS, seed: int = 0
) -> Floats:
    """Return a run's scores `[epochs, 1 + 2 * halvings]`: on all examples, then on each half of each halving.

    `outputs` are `[epochs, examples, outputs]`. Runs on the same examples get the same halves. Raises ValueError for
    fewer than two examples.
    """
    examples = outputs.shape[1]  # a corpus has blocks as examples, and targets for its lines
    if examples < 2:
        raise ValueError(f"cross-fitting halves a dev set: it needs two examples or more, got {examples}")
    weights = np.vstack([np.ones(examples), half_weights(examples, halvings, seed)])
    return np.stack([weighted_scores(metrics, targets, epoch, weights) for epoch in outputs])


def cross_fit(candidates: Sequence[Floats]) -> Selected:
    """Return the score of the best (run, epoch), chosen on all examples and cross-fitted.

    `candidates` are runs as `halved_scores` gives them. Ties go to the run that comes first, and to the earlier epoch.
    Raises ValueError if there is none.
    """
    if not candidates:
        raise ValueError("there is nothing to choose from: expected one run or more")
    scores = np.concatenate(candidates)
    halves = scores[:, 1:]
    chosen = halves.argmax(axis=0)
    found = float(halves[chosen, np.arange(halves.shape[1]) ^ 1].mean())
    return Selected(float(scores[:, 0].max()), found, tuple(chosen.tolist()))


def epochs_chosen(scores: Floats) -> tuple[Floats, Floats]:
    """Return a run's score on each half at the epoch that is best there, and that epoch's on the other half `[halves]`.

    `scores` are as `halved_scores` gives them.
    """
    halves = scores[:, 1:]
    best, half = halves.argmax(axis=0), np.arange(halves.shape[1])
    return halves[best, half], halves[best, half ^ 1]


def chosen_contributions(selected: Selected, contributions: Callable[[int], Floats]) -> Floats:
    """Return what each example contributes to a cross-fitted score, `[examples]`.

    An example counts in the run that the half without it chose; this is averaged over halvings. `contributions` gives
    those of a candidate, counted as in `selected.chosen`.
    """
    values = {candidate: contributions(candidate) for candidate in set(selected.chosen)}
    examples = len(next(iter(values.values())))
    halves = half_weights(examples, len(selected.chosen) // 2)
    total = np.zeros(examples)
    for half, candidate in enumerate(selected.chosen):
        total += halves[half ^ 1] * values[candidate]
    return total / (len(selected.chosen) // 2)


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished winning tickets that prune something: at level 0, or a level too low, it is the dense run."""
    winning = table[(table["kind"] == "winning") & (table["status"] == "finished") & (table["level"] > 0)]
    return winning[~(winning["remaining"].astype(float) >= 1)]


def select_super(table: pd.DataFrame, seen: Mapping[str, float] | None = None) -> pd.Series | None:
    """Return the row of the super ticket: the winning ticket with the best score; ties go to the smaller one.

    `seen` has the scores to choose by, by the trial's key, if those on the whole dev set are not meant. None if no
    winning ticket that prunes something finished (paper, section 3).
    """
    found = candidates(table)
    if found.empty:
        return None
    by = found["score"] if seen is None else found["trial"].map(seen)
    ordered = found.assign(by=by).sort_values(["by", "parameters", "seed"], ascending=[False, True, True])
    return ordered.drop(columns="by").iloc[0]
