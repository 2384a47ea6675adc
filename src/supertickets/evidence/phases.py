"""Phases of the winning tickets' curve (paper, section 5.4), with their uncertainty over seeds.

Phase I ends at the best winning level, Phase II where the winning tickets meet the random ones. A phase transition is
there only if winning tickets beat the dense model at some level and are below it at the last: both are tested, and
tests on simulated studies hold the error rate at 5 %.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.runs import DENSE
from supertickets.evidence.statistics import LEVEL, holm, paired_t_test

_RESAMPLES = 2000


@dataclass(frozen=True)
class Phases:
    """Where phases end, and whether a transition was seen at an error rate of 5 %.

    `rise_p` is the smallest Holm-corrected p of "winning beats dense at this level", `rises_at` the levels where it is
    below 5 %; `fall_p` is the p of "winning is below dense at the last level", one test that nothing was chosen for. An
    end is a level, or None where there is none; its interval holds 95 % of the ends found in resamples of the seeds
    (infinity: not within the levels tried).
    """

    seeds: int
    seen: bool
    rise_p: float
    rises_at: tuple[float, ...]
    fall_p: float
    first_end: float | None
    first_interval: tuple[float, float] | None
    second_end: float | None
    second_interval: tuple[float, float] | None
    has_random: bool
    missing: bool


def find_phases(table: pd.DataFrame) -> Phases:
    """Find the phases in a table of results (see `results_table`); runs that did not finish are left out."""
    winning, random = by_seed(table, "winning").dropna(how="all"), by_seed(table, "random")
    dense = by_seed(table, DENSE)
    winning = winning.drop(columns=[level for level in winning.columns if level == 0.0])  # level 0 is the dense run
    if winning.empty or dense.empty or winning.isna().all(axis=None):
        return Phases(len(dense), False, np.nan, (), np.nan, None, None, None, None, not random.empty, False)
    levels = winning.columns.to_numpy(float)
    # Over each seed's own dense run: where runs are missing, levels are not compared over better and worse seeds.
    own_dense = dense[0.0].reindex(winning.index)
    random = random.reindex(index=winning.index, columns=winning.columns).sub(own_dense, axis=0)
    winning = winning.sub(own_dense, axis=0)
    w, r = winning.to_numpy(float), random.to_numpy(float)
    no_gain = [0.0] * len(w)
    rises = np.array(holm([paired_t_test(column, no_gain, "greater").p for column in w.T.tolist()]))
    fall_p = paired_t_test(w[:, -1].tolist(), no_gain, "less").p
    ends = _ends(w, r)
    has_random = bool(np.isfinite(r).any())
    intervals = _intervals(w, r)

    def level(column: float) -> float:
        return float(levels[int(column)]) if np.isfinite(column) else np.inf

    def between(end: int) -> tuple[float, float] | None:
        return None if intervals is None else (level(intervals[0, end]), level(intervals[1, end]))

    up = rises < LEVEL
    return Phases(
        seeds=len(winning),
        seen=bool(up.any() and fall_p < LEVEL),
        rise_p=float(np.nanmin(rises)) if np.isfinite(rises).any() else np.nan,
        rises_at=tuple(float(level) for level in levels[up]),
        fall_p=fall_p,
        first_end=level(ends[0]),
        first_interval=between(0),
        second_end=level(ends[1]) if np.isfinite(ends[1]) else None,
        second_interval=between(1) if has_random else None,
        has_random=has_random,
        missing=bool(np.isnan(w).any() or (has_random and np.isnan(r).any())),
    )


def by_seed(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a kind's scores with a row a seed and a column a level; runs that did not finish are missing (NaN)."""
    of_kind = table[table["kind"] == kind]
    return of_kind.pivot(index="seed", columns="level", values="score").astype(float)


def _ends(winning: NDArray[np.float64], random: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the columns where Phase I and Phase II end, `[..., 2]`, for scores `[..., seeds, levels]`.

    NaN for no Phase I (no run there), infinity for curves that do not meet after it.
    """
    mean, other = _means(winning), _means(random)
    filled = np.where(np.isnan(mean), -np.inf, mean)
    first = filled.argmax(axis=-1)
    with np.errstate(invalid="ignore"):
        met = (mean <= other) & (np.arange(mean.shape[-1]) >= first[..., None])
    second = np.where(met.any(axis=-1), met.argmax(axis=-1), np.inf)
    none = np.isinf(filled.max(axis=-1))
    return np.stack([np.where(none, np.nan, first), np.where(none, np.nan, second)], axis=-1)


def _means(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over seeds of the runs that are there, NaN where there is none."""
    runs = np.isfinite(scores).sum(axis=-2)
    return np.where(runs > 0, np.nansum(scores, axis=-2) / np.maximum(runs, 1), np.nan)


def _intervals(winning: NDArray[np.float64], random: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the columns between which 95 % of the ends lie over resampled seeds, `[low or high, first or second]`."""
    seeds = len(winning)
    if seeds < 2:
        return None
    rows = np.random.default_rng(0).integers(seeds, size=(_RESAMPLES, seeds))
    ends = _ends(winning[rows], random[rows])
    ends = ends[np.isfinite(ends[:, 0])]
    return np.quantile(ends, [LEVEL / 2, 1 - LEVEL / 2], axis=0, method="nearest")
