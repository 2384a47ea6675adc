"""The one place where a gain is estimated and tested: runs paired with others of the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.examples import BY_EXAMPLE
from supertickets.evidence.resampling import Floats
from supertickets.evidence.statistics import Alternative, Paired, holm, paired_t_test, two_way_test

GAIN = ("seeds", "score", "over", "difference", "low", "high", "p")
"""The columns of a gain, after those that say which it is; `p_holm` follows them."""


@dataclass(frozen=True)
class Gain:
    """What choosing a super ticket in each seed gains over that seed's dense run (or a tuned one), judged one way.

    `scores` and `dense` have a value a seed, in percent; `test` compares them. `differences` are those by example
    `[seeds, examples]`, where they are known (see `evidence.examples`).
    """

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    dense: tuple[float, ...]
    test: Paired
    differences: Floats | None = None

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        scores: Sequence[float],
        dense: Sequence[float],
        differences: Floats | None = None,
        tasks: Sequence[int] = (),
    ) -> Gain:
        """Compare scores with those of the dense runs, seed by seed: by example where `differences` are known.

        For `tasks` see `statistics.two_way_test`.
        """
        if differences is None:
            test = paired_t_test(scores, dense)
        else:
            test = two_way_test(differences, float(np.mean(np.subtract(scores, dense))), tasks=tasks)
        return cls(tuple(seeds), tuple(scores), tuple(dense), test, differences)

    @property
    def mean(self) -> float:
        """The mean gain over seeds."""
        return self.test.mean

    @property
    def super_mean(self) -> float:
        """The super tickets' mean score."""
        return float(np.mean(self.scores))

    @property
    def dense_mean(self) -> float:
        """The dense runs' mean score."""
        return float(np.mean(self.dense))


def paired_gains(
    runs: pd.DataFrame, of: Mapping[str, Any], over: Mapping[str, Any], by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return what some runs gain over others, a row for each combination of the columns `by`, in their order.

    `of` and `over` say by columns of `runs` which runs are compared: a value, a collection of values, or `...` for any.
    Tests and intervals are for new seeds and new examples (`statistics.two_way_test`) where `runs` have the column
    `by_example`, as a study's tables have; elsewhere they are Student's over seeds. A row's runs are paired by `seed`;
    in a column of `by` that `over` does not name, both must agree (missing with missing). Each row has the number of
    `seeds`, the mean `score` of both sides' common seeds (`score`, `over`), their mean `difference` with its 95 %
    interval from `low` to `high`, the `p` of its test, and `p_holm`, corrected for all rows. What cannot be had is
    missing (NaN).

    >>> runs = pd.DataFrame({"kind": ["dense", "dense", "super", "super"], "seed": [0, 1, 0, 1],
    ...                      "score": [70.0, 71.0, 71.0, 73.0]})
    >>> float(paired_gains(runs, of={"kind": "super"}, over={"kind": "dense"})["difference"].iloc[0])
    1.5
    """
    chosen, others = selected(runs, of), selected(runs, over)
    shared = [name for name in by if name not in over]
    rows = []
    groups = chosen.groupby(list(by), sort=False, dropna=False) if by else [((), chosen)]
    for values, group in groups:
        labels = dict(zip(by, values, strict=True))
        rows.append({**labels, **gain(group, selected(others, {name: labels[name] for name in shared}))})
    frame = pd.DataFrame(rows, columns=[*by, *GAIN])
    return frame.assign(p_holm=holm(frame["p"].astype(float).tolist()))


def all_gains(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return several tables of gains as one, with `p_holm` corrected for all their rows."""
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*GAIN, "p_holm"])
    return frame.assign(p_holm=holm(frame["p"].astype(float).tolist()))


def gain(runs: pd.DataFrame, over: pd.DataFrame) -> dict[str, float]:
    """Return the columns `GAIN` of runs and others, paired by `seed`; both have one run a seed at most."""
    first, second = (frame.set_index("seed")["score"].astype(float).dropna() for frame in (runs, over))
    seeds = first.index.intersection(second.index)
    of, others = (frame.set_index("seed").loc[list(seeds)] for frame in (runs, over))
    test = compared(of, others)
    mean, other = (float(scores[seeds].mean()) if len(seeds) else np.nan for scores in (first, second))
    return dict(zip(GAIN, (len(seeds), mean, other, test.mean, test.low, test.high, test.p), strict=True))


def compared(runs: pd.DataFrame, over: pd.DataFrame, alternative: Alternative = "two-sided") -> Paired:
    """Compare runs with others, row by row: by example where contributions are there, or else by their scores."""
    first, second = (frame["score"].astype(float).to_numpy() for frame in (runs, over))
    if (found := by_example(runs, over)) is None:
        return paired_t_test(first.tolist(), second.tolist(), alternative)
    return two_way_test(found, float(np.mean(first - second)), alternative, runs[BY_EXAMPLE].iloc[0].sizes)


def by_example(runs: pd.DataFrame, over: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return the differences of runs and others, row by row, `[rows, examples]`; None where they are not known."""
    if not len(runs) or BY_EXAMPLE not in runs or BY_EXAMPLE not in over:
        return None
    pairs = list(zip(runs[BY_EXAMPLE], over[BY_EXAMPLE], strict=True))
    if not all(hasattr(one, "values") for pair in pairs for one in pair):
        return None
    return np.stack([one.values - other.values for one, other in pairs])


def selected(runs: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the runs whose columns have these values (see `paired_gains`)."""
    for name, value in where.items():
        if value is ...:
            continue
        several = isinstance(value, tuple | list | set | frozenset)
        runs = runs[runs[name].isin(list(value) if several else [value])]  # which finds what is missing too
    return runs


def means(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return mean, standard deviation (over seeds, n - 1) and number of finished runs by some columns."""
    grouped = runs[runs["status"] == "finished"].groupby(list(by), sort=False)["score"]
    return grouped.agg(mean="mean", std="std", runs="count").reset_index()
