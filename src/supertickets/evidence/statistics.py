"""Statistics over seeds: paired t-tests, Holm's correction, bootstrap intervals over seeds and examples."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Alternative = Literal["two-sided", "less", "greater"]

LEVEL = 0.05
"""Error rate of every test, and what intervals leave out."""


@dataclass(frozen=True)
class Paired:
    """Differences of pairs: their mean, the p of Student's t-test, and the ends of the 95 % interval of the mean.

    What cannot be had is NaN.
    """

    mean: float
    p: float = np.nan
    low: float = np.nan
    high: float = np.nan

    @property
    def tested(self) -> bool:
        """Whether a test was possible: two pairs, whose differences are not all equal."""
        return bool(np.isfinite(self.p))


def paired_t_test(first: Sequence[float], second: Sequence[float], alternative: Alternative = "two-sided") -> Paired:
    """Compare paired values by Student's t (paper, section 5.3); pairs with a missing value (NaN) are left out.

    With fewer than two pairs, or differences that are all equal (scores are counts of examples: two seeds may gain just
    as much by chance), there is no test: p and interval are NaN.
    """
    from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

    differences = np.asarray(first, float) - np.asarray(second, float)
    differences = differences[np.isfinite(differences)]
    mean = float(differences.mean()) if len(differences) else np.nan
    if len(differences) < 2 or (spread := float(differences.std(ddof=1))) <= 1e-9:
        return Paired(mean)
    free, error = len(differences) - 1, spread / np.sqrt(len(differences))
    below = float(stdtr(free, mean / error))
    above = float(stdtr(free, -mean / error))
    p = {"less": below, "greater": above, "two-sided": 2 * min(below, above)}[alternative]
    half = float(stdtrit(free, 1 - LEVEL / 2)) * error
    return Paired(mean, p, mean - half, mean + half)


def prediction_interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the interval that has one new score in it with probability 0.95, as independent as these.

    It is mean ± t * s * sqrt(1 + 1/n) of n scores with standard deviation s, t with n - 1 degrees of freedom (the
    prediction interval of normal scores, e.g. Hahn and Meeker, 1991, "Statistical Intervals", section 4.7). Of fewer
    than two scores, or equal ones, which say nothing about how scores spread, both ends are NaN.

    >>> [round(end, 2) for end in prediction_interval([60.0, 61.0, 62.0])]
    [56.03, 65.97]
    """
    from scipy.special import stdtrit

    if len(scores) < 2 or np.ptp(scores) <= 1e-9:
        return np.nan, np.nan
    n, mean, spread = len(scores), float(np.mean(scores)), float(np.std(scores, ddof=1))
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * spread * float(np.sqrt(1 + 1 / n))
    return mean - half, mean + half


def two_way_test(
    differences: NDArray[np.float64], mean: float, alternative: Alternative = "two-sided", tasks: Sequence[int] = ()
) -> Paired:
    """Compare pairs whose differences are known by example, `[seeds, examples]`: for new seeds *and* new examples.

    Seeds and examples are crossed: all seeds share one dev set. With mean squares MS of seeds, examples and what is
    left of both, the variance of the mean is (max(MS_seeds, MS_rest) + max(MS_examples - MS_rest, 0)) / (seeds x
    examples), with Satterthwaite's degrees of freedom of its first term. One seed leaves the examples alone to vary.
    `mean` is the difference of the scores. `tasks` says how many examples of each task there are, where the mean is one
    over tasks: examples then vary within their task. There is no test with fewer than two examples, or if all
    differences are equal.
    """
    from scipy.special import stdtr, stdtrit

    if differences.shape[1] < 2 or np.ptp(differences) <= 1e-9:
        return Paired(mean)
    variance = crossed_variance(differences, tasks)
    if variance.total <= 1e-18:
        return Paired(mean)
    free, error = variance.free, variance.error(*differences.shape)
    below, above = float(stdtr(free, mean / error)), float(stdtr(free, -mean / error))
    p = {"less": below, "greater": above, "two-sided": 2 * min(below, above)}[alternative]
    half = float(stdtrit(free, 1 - LEVEL / 2)) * error
    return Paired(mean, p, mean - half, mean + half)


@dataclass(frozen=True)
class CrossedVariance:
    """What a mean over seeds and examples varies by: `runs`, with `runs_free` degrees of freedom, and `examples`."""

    runs: float
    runs_free: float
    examples: float

    @property
    def total(self) -> float:
        """The variance of the mean, times the number of seeds and examples."""
        return self.runs + self.examples

    @property
    def free(self) -> float:
        """Satterthwaite's degrees of freedom of the first part, which the second is added to."""
        return self.runs_free * (self.total / self.runs) ** 2 if self.runs > 0 else self.runs_free

    def error(self, seeds: int, examples: int) -> float:
        """Return the standard error of the mean."""
        return float(np.sqrt(self.total / (seeds * examples)))


def crossed_variance(differences: NDArray[np.float64], tasks: Sequence[int] = ()) -> CrossedVariance:
    """Return the parts of the variance of `[seeds, examples]` (see `two_way_test`); one example: of seeds alone."""
    found = MeanSquares.of(differences, tasks)
    runs, free = found.runs(len(differences) - 1.0)
    if runs <= 1e-12 * found.examples:  # one seed, or several with the same differences: examples alone vary
        return CrossedVariance(found.examples, float(found.examples_free), 0.0)
    return CrossedVariance(runs, free, max(found.examples - found.rest, 0.0))


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of seeds, of examples, and of what is left of both; `examples_free` are those of examples."""

    seeds: float
    examples: float
    rest: float
    examples_free: int

    @classmethod
    def of(cls, differences: NDArray[np.float64], tasks: Sequence[int] = ()) -> MeanSquares:
        """Return those of `[seeds, examples]`; one seed has those of examples alone."""
        seeds, examples = differences.shape
        parts = np.split(differences, np.cumsum(tasks)[:-1], axis=1) if len(tasks) else [differences]
        free, by_example, left = examples - len(parts), 0.0, 0.0
        if free:
            by_example = seeds * sum(float(((part.mean(axis=0) - part.mean()) ** 2).sum()) for part in parts) / free
        if seeds == 1:
            return cls(0.0, by_example, 0.0, free)
        if free:
            rest = (part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean() for part in parts)
            left = sum(float((one**2).sum()) for one in rest) / ((seeds - 1) * free)
        return cls(examples * float(differences.mean(axis=1).var(ddof=1)), by_example, left, free)

    def runs(self, free: float) -> tuple[float, float]:
        """Return the larger of the mean squares of seeds, which has `free` degrees of freedom, and rest; with its."""
        return (self.seeds, free) if self.seeds >= self.rest else (self.rest, free * self.examples_free)


def pooled_squares(differences: Sequence[NDArray[np.float64]]) -> MeanSquares:
    """Return the mean squares of several treatments `[seeds, examples]` together; that of examples is of one seed.

    All have the same examples, and two seeds or more.
    """
    each, weights = [MeanSquares.of(one) for one in differences], [len(one) - 1 for one in differences]
    seeds, rest = (float(np.average([getattr(one, name) for one in each], weights=weights)) for name in _POOLED)
    by_example = [(one.examples - one.rest) / len(of) for one, of in zip(each, differences, strict=True)]
    return MeanSquares(seeds, max(float(np.mean(by_example)), 0.0) + rest, rest, each[0].examples_free)


_POOLED = ("seeds", "rest")


def pooled_free(free: float, treatments: int) -> float:
    """Return the degrees of freedom of a variance that is the mean of several treatments', of `free` each.

    All have the control's runs in them, so that their variances correlate by a quarter.
    """
    return treatments * free / (1 + (treatments - 1) / 4)


def dunnett(differences: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return, for each of some treatments, the p of "it is better than the one control", corrected for all of them.

    `differences` from the control are `[seeds, examples]` of each treatment. Dunnett's (1955) one-sided test with its
    correlation of one half, and with the two-way variance (see `two_way_test`) of mean squares pooled over treatments;
    NaN for one that fewer than two seeds have.
    """
    there = [place for place, one in enumerate(differences) if len(one) > 1]
    found = [np.nan] * len(differences)
    if not there:
        return found
    # Mean squares are pooled before the larger is taken: of each treatment, the larger of two that are alike is too
    # small by chance more often (docs/phase_power.md).
    squares = pooled_squares([differences[place] for place in there])
    runs, free = squares.runs(pooled_free(float(np.mean([len(differences[place]) - 1 for place in there])), len(there)))
    for place in there if runs > 1e-18 else ():
        one = differences[place]
        variance = CrossedVariance(runs, free, len(one) * (squares.examples - squares.rest))
        found[place] = 1.0 - _largest_below(float(one.mean()) / variance.error(*one.shape), len(there), variance.free)
    return found


def dunnett_limit(count: int, free: float) -> float:
    """Return the t ratio above which the largest of `count` treatments is better than the control (see `dunnett`)."""
    from scipy.optimize import brentq

    return float(brentq(lambda ratio: 1 - LEVEL - _largest_below(ratio, count, free), 0.0, 1e4))


def _largest_below(limit: float, count: int, free: float) -> float:
    """Return the chance that the largest of `count` t ratios, of correlation one half, is below a limit."""
    from scipy.special import ndtr

    nodes, weights = _normal_nodes()
    spread = _spread(free)
    below = ndtr((limit * spread[:, None] - np.sqrt(0.5) * nodes) / np.sqrt(0.5)) ** count
    return float((below @ weights).mean() / weights.sum())


@functools.cache
def _normal_nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.hermite_e.hermegauss(64)


@functools.lru_cache(16)
def _spread(free: float) -> NDArray[np.float64]:
    """Return 1,000 quantiles of an estimated standard deviation over the true one."""
    from scipy.special import gammaincinv

    chances = (np.arange(1000) + 0.5) / 1000
    return np.asarray(np.sqrt(2 * gammaincinv(free / 2, chances) / free))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm 1979); missing ones (NaN) stay so and do not count."""
    p = np.asarray(p_values, float)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(len(p), np.nan)
    stepped = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in corrected]


def bootstrap_interval(scores: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean over seeds, from resampled examples and resampled seeds.

    `scores` are `[seeds, resamples]`: each seed's score (or difference of scores) on each resample of the dev set. With
    one seed, the examples alone vary.
    """
    seeds, resamples = scores.shape
    drawn = np.random.default_rng(seed).integers(seeds, size=(seeds, resamples))  # with replacement, in each column
    low, high = np.quantile(scores[drawn, np.arange(resamples)].mean(axis=0), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
