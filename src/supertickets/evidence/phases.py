"""Phases of the winning tickets' curve (paper, section 5.4), with their uncertainty over seeds.

Phase I ends at the best winning level, Phase II where the winning tickets meet the random ones. A phase transition is
there only if winning tickets beat the dense model at some level and are below it at the last: both are tested, and
tests on simulated studies hold the error rate at 5 %.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.examples import BY_EXAMPLE
from supertickets.evidence.gains import by_example, compared
from supertickets.evidence.runs import DENSE
from supertickets.evidence.statistics import LEVEL, Paired, dunnett, paired_t_test, two_way_test

_RESAMPLES = 2000
FEWEST_SEEDS = 5
"""Fewer seeds have too few different resamples for intervals of 95 %: three have 10, four 35, five 126."""

_Cells = dict[tuple[Hashable, Hashable], pd.DataFrame]
"""The runs with a score, by kind and level (the dense model's is 0), with a row a seed."""


@dataclass(frozen=True)
class Phases:
    """Where phases end, and whether a transition was seen at an error rate of 5 %.

    `rise_p` is the smallest p of "winning beats dense at this level" among the `light` levels, the lighter half, by
    Dunnett's test; `rises_at` are the levels where it is below 5 %. `fall_p` is the p of "winning is below dense at the
    last level", one test that nothing was chosen for. Both are for new seeds and new examples, where those are known.
    `over` compares winning tickets with those of other kinds, on average over the light levels. An end is a level, or
    None where there is none; its interval holds 95 % of the ends found in resamples of the seeds (infinity: not within
    the levels tried; None with fewer than `FEWEST_SEEDS`). `all_known` says whether winning and random tickets have
    finished at every level from the first end on.
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
    all_known: bool = True
    light: tuple[float, ...] = ()
    over: Mapping[str, Paired] = field(default_factory=dict)


def find_phases(table: pd.DataFrame) -> Phases:
    """Find the phases in a table of results (see `results_table`); runs that did not finish are left out."""
    table = _that_prune(table)
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
    light, cells = np.array(light_levels(table)), _cells(table)
    rises, fall_p = np.full(len(levels), np.nan), np.nan
    if len(w) > 1:
        rises[: len(light)] = dunnett(_differences(cells, light.tolist()))
        pairs = _pairs(cells, float(levels[-1]), DENSE)
        # Of one seed, a test is of its examples alone.
        fall_p = compared(*pairs, "less").p if len(pairs[0]) > 1 else np.nan
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
        all_known=bool(np.isfinite(_means(w) - _means(r))[int(ends[0]) :].all()),
        missing=bool(np.isnan(w).any() or (has_random and np.isnan(r).any())),
        light=tuple(light.tolist()),
        over={kind: test for kind in ("random", "losing") if (test := _over(cells, light.tolist(), kind)) is not None},
    )


def light_levels(table: pd.DataFrame) -> list[float]:
    """Return the lighter half of the levels of winning tickets that prune something; level 0 is the dense model."""
    table = _that_prune(table)
    winning = table[(table["kind"] == "winning") & (table["level"] > 0)]
    levels = sorted({float(level) for level in winning["level"]})
    return levels[: -(-len(levels) // 2)]


def _that_prune(table: pd.DataFrame) -> pd.DataFrame:
    """Return runs without levels too low to prune a structure: their tickets are the dense model itself."""
    if "remaining" not in table:
        return table
    least = table[table["kind"] == "winning"].groupby("level")["remaining"].min().astype(float)
    return table[(table["kind"] == DENSE) | ~table["level"].isin(least.index[least >= 1])]


def winning_over_dense(table: pd.DataFrame, level: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the winning tickets of a level and the dense runs, with a row a seed that has both."""
    return _pairs(_cells(table), level, DENSE)


def _cells(table: pd.DataFrame) -> _Cells:
    # Only what tests read: a row of a frame with many columns takes long to look up.
    needed = [name for name in ("kind", "level", "seed", "score", BY_EXAMPLE) if name in table]
    scored = table.loc[table["score"].notna(), needed]
    none = scored.iloc[:0].set_index("seed")
    by_cell = scored.groupby(["kind", "level"], sort=False)
    return defaultdict(lambda: none, {(kind, level): runs.set_index("seed") for (kind, level), runs in by_cell})


def _pairs(cells: _Cells, level: float, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the winning tickets of a level and the runs of another kind, with a row a seed that has both."""
    winning, others = cells["winning", level], cells[kind, 0.0 if kind == DENSE else level]
    if winning.index.equals(others.index):
        return winning, others
    seeds = winning.index.intersection(others.index)
    return winning.loc[list(seeds)], others.loc[list(seeds)]


def _differences(cells: _Cells, levels: Sequence[float]) -> list[NDArray[np.float64]]:
    """Return what winning tickets gain over dense, `[seeds, examples]` of each level, or `[seeds, 1]` of scores."""
    found = list[NDArray[np.float64]]()
    for level in levels:
        winning, others = _pairs(cells, level, DENSE)
        scores = np.asarray(winning["score"].astype(float) - others["score"].astype(float), np.float64)[:, None]
        known = by_example(winning, others)
        found.append(scores if known is None else known)
    return found


def _over(cells: _Cells, levels: Sequence[float], kind: str) -> Paired | None:
    """Compare winning tickets with those of a kind, averaged over levels in each seed that has all of them.

    None where no seed has, or one of several alone, whose examples say nothing about the others.
    """
    pairs = [_pairs(cells, level, kind) for level in levels]
    seeds = sorted(set.intersection(*(set(winning.index) for winning, _ in pairs)))
    asked = {seed for (name, _), of in cells.items() if name == "winning" for seed in of.index}
    if not seeds or len(seeds) == 1 < len(asked):
        return None
    sides = [[frame.loc[seeds, "score"].astype(float) for frame in of] for of in zip(*pairs, strict=True)]
    means = [np.mean(of, axis=0) for of in sides]
    found = [by_example(winning.loc[seeds], others.loc[seeds]) for winning, others in pairs]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return paired_t_test(means[0].tolist(), means[1].tolist())
    return two_way_test(np.mean(np.stack(known), axis=0), float(np.mean(means[0] - means[1])))


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
    if seeds < FEWEST_SEEDS:
        return None
    rows = np.random.default_rng(0).integers(seeds, size=(_RESAMPLES, seeds))
    ends = _ends(winning[rows], random[rows])
    ends = ends[np.isfinite(ends[:, 0])]
    return np.quantile(ends, [LEVEL / 2, 1 - LEVEL / 2], axis=0, method="nearest")
