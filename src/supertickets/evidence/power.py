"""What a study can detect: the gain that its test finds in 80 % of such studies, by numbers of seeds and examples.

The model is that of the test (`statistics.two_way_test`): seeds and dev examples are crossed. The variance of a mean
gain over S seeds and n examples is (seed + rest / n) / S + example / n, so that more seeds do not help against the last
part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.evidence.gains import by_example
from supertickets.evidence.phases import light_levels, winning_over_dense
from supertickets.evidence.statistics import LEVEL, dunnett_limit, pooled_free, pooled_squares
from supertickets.tasks.tables import counted

POWER = 0.8
"""In what share of studies a gain is to be seen."""
MOST_SEEDS = 10_000
_RUN, _SEED, _EXAMPLES, _SHARE = 1.0, 0.35, 277, 0.1  # of the example model that docs/coverage.md has
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GainVariance:
    """What a gain varies by, in squared points: `seed` is that of seeds' gains on endless examples, `example` that of
    examples' gains over endless seeds, and `rest` that of one example in one seed, beyond both.

    `source` says in a sentence where it is from, `of_study` whether that is a study.
    """

    seed: float
    rest: float
    example: float
    source: str
    of_study: bool = False

    def of_mean(self, seeds: float, examples: int) -> float:
        """Return the variance of a mean gain."""
        return (self.seed + self.rest / examples) / seeds + self.example / examples


def assumed_variance() -> GainVariance:
    """Return the variance that is assumed without a pilot.

    The dense model and a ticket both have runs that vary over seeds by 1 point with 277 examples, of which 0.35 points
    are a seed's own with any number of examples; of what an example varies by, 10 % is a ticket's effect on it.
    """
    rest = 2 * (_RUN**2 - _SEED**2) * _EXAMPLES  # of two models
    return GainVariance(
        2 * _SEED**2,
        rest,
        rest * _SHARE / (1 - _SHARE),
        f"Assumed, for an accuracy of about 70 %: scores vary over seeds by {_RUN:.1f} points with {_EXAMPLES} dev "
        f"examples ({_SEED:g} points with endlessly many), and {100 * _SHARE:.0f} % of what an example varies by is a "
        "ticket's effect on it; --pilot takes the variance from a study instead.",
    )


def pilot_variance(runs: pd.DataFrame, name: str) -> GainVariance:
    """Return the variance in a study of `find`: of winning tickets' gains over dense at its light levels.

    `runs` is its table, with what each example contributes; for scores that are no means over examples these are
    pseudo-values (`evidence.examples`). `name` is what the study is called. Raises TicketError if no level has two
    seeds.
    """
    pairs = [winning_over_dense(runs, level) for level in light_levels(runs)]
    differences = [found for pair in pairs if (found := by_example(*pair)) is not None and len(found) > 1]
    if not differences:
        raise TicketError(
            f"--pilot {name}: expected a study with two seeds or more whose dense run and winning ticket at one light "
            "level have finished."
        )
    squares = pooled_squares(differences)
    if max(squares.rest, squares.seeds) <= 1e-18:
        raise TicketError(
            f"--pilot {name}: its winning tickets and dense runs differ by the same on every example; expected a study "
            "whose gains vary."
        )
    seeds, examples = max(len(one) for one in differences), differences[0].shape[1]
    return GainVariance(
        max(squares.seeds - squares.rest, 0.0) / examples,
        squares.rest,
        squares.examples - squares.rest,
        f"The variance is that of winning tickets' gains in {name} ({seeds} seeds, {examples} dev examples, "
        f"{counted(len(differences), 'light level')}).",
        of_study=True,
    )


def power(gain: float, variance: GainVariance, seeds: int, examples: int, levels: int = 0) -> float:
    """Return the share of studies that see a true gain (points) at an error rate of 5 %; two seeds or more.

    Without `levels` it is seen by the two-sided two-way test. With it, the gain is one light level's of so many, that
    Dunnett's one-sided test sees. The tests' own rules are integrated over the mean squares that studies may have.

    >>> power(0.0, assumed_variance(), 5, 277) < 0.05 < power(3.0, assumed_variance(), 5, 277)
    True
    """
    from scipy.special import ndtr

    error = np.sqrt(variance.of_mean(seeds, examples))
    return float(ndtr((gain - _limits(variance, seeds, examples, levels)) / error).mean())


def _limits(variance: GainVariance, seeds: int, examples: int, levels: int) -> Floats:
    """Return the gains from which on studies' tests are significant, over the mean squares that they may have."""
    from scipy.special import gammaincinv, stdtrit

    count = max(levels, 1)
    of_seeds, of_examples = (pooled_free(free, count) for free in (seeds - 1.0, examples - 1.0))
    seed_chances, example_chances = ((np.arange(one) + 0.5) / one for one in (400, 20))
    drawn = 2 * gammaincinv(of_seeds / 2, seed_chances)[:, None] / of_seeds
    by_seed = (examples * variance.seed + variance.rest) * drawn
    drawn = 2 * gammaincinv(of_examples / 2, example_chances) / of_examples
    by_example = np.maximum((seeds * variance.example + variance.rest) * drawn - variance.rest, 0.0)
    runs = np.maximum(by_seed, variance.rest)
    total = runs + by_example
    free = np.where(by_seed >= variance.rest, of_seeds, of_seeds * (examples - 1.0)) * (total / runs) ** 2
    ratios = _dunnett_limits(count, free) if levels else stdtrit(free, 1 - LEVEL / 2)
    return np.asarray(ratios * np.sqrt(total / (seeds * examples)))


def _dunnett_limits(count: int, free: Floats) -> Floats:
    known, limits = _known_limits(count)
    return np.interp(1 / np.clip(free, known[0], known[-1]), 1 / known[::-1], limits[::-1])


@cache
def _known_limits(count: int) -> tuple[Floats, Floats]:
    known = np.array([0.4, 0.57, 0.75, 1, 1.3, 1.7, 2.3, 3, 4, 6, 9, 15, 30, 100, 1e6])
    return known, np.array([dunnett_limit(count, free) for free in known])


def gain_seen(variance: GainVariance, seeds: int, examples: int, levels: int = 0) -> float:
    """Return the gain, in points, that a test sees in 80 % of studies (see `power`); infinity with one seed."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    if seeds < 2:
        return np.inf
    limits, error = _limits(variance, seeds, examples, levels), np.sqrt(variance.of_mean(seeds, examples))
    return float(
        brentq(lambda gain: float(ndtr((gain - limits) / error).mean()) - POWER, 0.0, limits.max() + 9 * error)
    )


def smallest_gain(variance: GainVariance, examples: int, levels: int = 0) -> float:
    """Return the gain that is seen in 80 % of studies with endless seeds: what the dev set alone hides."""
    from scipy.special import ndtri

    limit = dunnett_limit(levels, 1e6) if levels else ndtri(1 - LEVEL / 2)
    return float((limit + ndtri(POWER)) * np.sqrt(variance.example / examples))


def seeds_needed(gain: float, variance: GainVariance, examples: int, levels: int = 0) -> int | None:
    """Return how many seeds see a gain in 80 % of studies; None if more than 10,000, or no number of them, would do."""
    if gain <= smallest_gain(variance, examples, levels):
        return None
    tried = [1, *(2**power for power in range(1, 14)), MOST_SEEDS]
    for low, high in pairwise(sorted(tried)):
        if high <= MOST_SEEDS and gain_seen(variance, high, examples, levels) <= gain:
            while high - low > 1:
                middle = (low + high) // 2
                enough = gain_seen(variance, middle, examples, levels) <= gain
                low, high = (low, middle) if enough else (middle, high)
            return high
    return None
