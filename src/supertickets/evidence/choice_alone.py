"""What choosing alone gives: the best of several equal runs, from a study's own dense runs.

The paper compares the best of eight tickets with one dense run. Were all tickets as good as the dense model, the best
of them would still score higher: with eight normally distributed runs, by 1.42 standard deviations on average, with
0.61 of one run's standard deviation (order statistics; David and Nagaraja, Order Statistics, 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np

from supertickets.evidence.resampling import Floats
from supertickets.evidence.statistics import LEVEL


@dataclass(frozen=True)
class ChoiceAlone:
    """What studies of so many `seeds` show where no ticket is better than the dense model.

    `gain` is the expected score of the run that is chosen, less that of one run; `spread` the standard deviation of a
    study's mean of it over seeds; `significant` how often the paired t-test over seeds gives p < 0.05 (NaN with one
    seed); `ratio` the standard deviation of chosen runs over that of single ones. All are of choosing one run of
    `among`, judged by `runs` dense runs with mean score `mean` and standard deviation `deviation`. `cross_fitted` is
    the gain after cross-fitting: a run that its training made better is so on both halves. What is not known is NaN.
    """

    seeds: int
    gain: float = np.nan
    spread: float = np.nan
    significant: float = np.nan
    ratio: float = np.nan
    among: int = 0
    runs: int = 0
    mean: float = np.nan
    deviation: float = np.nan
    cross_fitted: float = np.nan

    @property
    def known(self) -> bool:
        """Whether the dense runs say anything: there are two or more, and not all score the same."""
        return bool(np.isfinite(self.gain))

    @property
    def own(self) -> bool:
        """Whether the gain is that of subsets of the runs themselves, and not of normally distributed ones."""
        return self.runs >= self.among

    def __str__(self) -> str:
        """Return the numbers in words."""
        often = f", and p < {LEVEL:g} in {self.significant:.0%} of studies" if self.seeds > 1 else ""
        return f"{self.gain:+.2f} on average (± {self.spread:.2f} from study to study){often}"


def choice_alone(
    among: int, seeds: int, scores: Floats, seen: Floats | None = None, halves: tuple[Floats, Floats] | None = None
) -> ChoiceAlone | None:
    """Return what choosing one of `among` equal runs gives in a study of some seeds; None if there is no choice.

    `scores` `[runs]` are the dense runs', in percent; `seen` `[runs, ways]` what runs are chosen by, in each of some
    ways that count alike (left out: by their scores). `halves` are scores that runs are chosen by and that they then
    have, `[runs, ways]` each. With `among` runs or more, the gain is the mean over all subsets of as many; else that of
    normally distributed runs. Spread, significance and ratio are those of normally distributed runs in any case, with
    that gain: subsets of few runs are nearly the same, so that their best would vary too little (a ratio of 0.36 for
    0.61 with 13 runs and subsets of 8).

    >>> normal = choice_alone(8, 5, np.array([69.0, 70.0, 71.0]))
    >>> [round(value, 2) for value in (normal.gain, normal.spread, normal.significant, normal.ratio)]
    [1.42, 0.52, 0.54, 0.61]
    """
    if among < 2:
        return None
    runs = len(scores)
    deviation = float(scores.std(ddof=1)) if runs > 1 else np.nan
    if not deviation > 1e-9:
        return ChoiceAlone(seeds, among=among, runs=runs)
    seen = scores[:, None] if seen is None else seen
    (highest, variance), alike = _best_of_normal(among), _correlation(scores, seen)
    gain = alike * highest * deviation
    cross_fitted = np.nan if halves is None else highest * _kept_by(*halves)
    if runs >= among:
        gain = expected_best(seen, np.broadcast_to(scores[:, None], seen.shape), among) - float(scores.mean())
        if halves is not None:
            cross_fitted = expected_best(*halves, among) - float(halves[1].mean())
    # What is chosen by is the score as far as they correlate; the rest of the score is not chosen.
    ratio = float(np.sqrt(alike**2 * variance + 1 - alike**2))
    spread = float(deviation * np.sqrt((ratio**2 + 1) / seeds))
    often = share_significant(gain, spread, seeds)
    return ChoiceAlone(seeds, gain, spread, often, ratio, among, runs, float(scores.mean()), deviation, cross_fitted)


def choice_in_average(choices: Sequence[ChoiceAlone | None], seeds: int) -> ChoiceAlone | None:
    """Return what choosing alone gives in the average over tasks; None if a task has no choice or its is not known."""
    known = [one for one in choices if one is not None and one.known]
    if not known or len(known) < len(choices):
        return None
    gain = float(np.mean([one.gain for one in known]))
    spread = float(np.sqrt(sum(one.spread**2 * one.seeds for one in known) / seeds)) / len(known)
    cross_fitted = float(np.mean([one.cross_fitted for one in known]))
    return ChoiceAlone(seeds, gain, spread, share_significant(gain, spread, seeds), cross_fitted=cross_fitted)


def expected_best(seen: Floats, scores: Floats, among: int) -> float:
    """Return the score of the run that is seen best, in the mean over all subsets of `among` runs and all ways.

    Both are `[runs, ways]`. Exact: the run at place i of n from below is seen best in C(i - 1, k - 1) of the C(n, k)
    subsets of k. Of runs that are seen alike, any may be taken. Raises ValueError if there are too few runs.

    >>> round(expected_best(np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [20.0], [30.0]]), 2), 2)  # 20, 30, 30
    26.67
    """
    runs = len(scores)
    if not 1 <= among <= runs:
        raise ValueError(f"expected to choose among 1 to {runs} runs, got {among}")
    chances = np.array([comb(place, among - 1) / comb(runs, among) for place in range(runs)])
    found = 0.0
    for of_way, own in zip(seen.T, scores.T, strict=True):
        order = np.argsort(of_way, kind="stable")
        _, group, size = np.unique(of_way[order], return_inverse=True, return_counts=True)
        shared = (np.bincount(group, chances) / size)[group]  # those that are seen alike share their chances
        found += float(shared @ own[order])
    return found / seen.shape[1]


def share_significant(gain: float, spread: float, pairs: int) -> float:
    """Return how often a paired t-test gives p < 0.05 if its mean difference has this mean and standard deviation.

    By the noncentral t distribution, for differences that are normally distributed; NaN for fewer than two pairs.
    """
    from scipy.special import nctdtr, stdtrit  # scipy.stats takes a second to import

    if pairs < 2:
        return np.nan
    limit, shift = float(stdtrit(pairs - 1, 1 - LEVEL / 2)), min(abs(gain) / spread, 30.0)
    below = float(np.nan_to_num(nctdtr(pairs - 1, shift, -limit)))  # scipy gives NaN for some chances below 1e-12
    return below + 1 - float(nctdtr(pairs - 1, shift, limit))


@cache
def _best_of_normal(among: int) -> tuple[float, float]:
    """Return mean and variance of the largest of some standard normal numbers."""
    from scipy.special import ndtr

    x = np.linspace(-12, 12, 24001)
    density = among * np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * ndtr(x) ** (among - 1)
    step = x[1] - x[0]
    mean = float((x * density).sum() * step)
    return mean, float((x * x * density).sum() * step) - mean**2


def _kept_by(seen: Floats, scores: Floats) -> float:
    """Return how much better on the other half a run is that is one standard deviation better on the half seen.

    Both are `[runs, ways]`; covariances are averaged over ways, as in `_correlation`. Never below 0.
    """
    one, other = seen - seen.mean(axis=0), scores - scores.mean(axis=0)
    together, alone = float((one * other).sum(axis=0).mean()), float((one**2).sum(axis=0).mean())
    return max(together, 0.0) / float(np.sqrt(alone * (len(seen) - 1))) if alone > 1e-18 else 0.0


def _correlation(scores: Floats, seen: Floats) -> float:
    """Return the correlation of scores `[runs]` with what is seen of them `[runs, ways]`, from 0 to 1.

    Variances and covariances are averaged over ways first: of a few runs, each way alone says little.
    """
    one, other = scores - scores.mean(), seen - seen.mean(axis=0)
    together, alone = float((one @ other).mean()), float((other**2).sum(axis=0).mean())
    return float(np.clip(together / np.sqrt(float(one @ one) * alone), 0, 1)) if alone > 1e-18 else 0.0
