"""Gains for new seeds and new examples: what examples contribute, and the test on seeds crossed with examples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from supertickets.evidence.examples import BY_EXAMPLE, ByExample, contributions, joined
from supertickets.evidence.gains import gain, paired_gains
from supertickets.evidence.selection import chosen_contributions, cross_fit, halved_scores
from supertickets.evidence.statistics import _largest_below, dunnett, paired_t_test, two_way_test
from supertickets.lab import Outcome
from supertickets.tasks.metrics import evaluate

RNG = np.random.default_rng(0)
TWO, NUMBERS = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 1))
CASES: dict[str, tuple[tuple[str, ...], np.ndarray, np.ndarray]] = {
    "accuracy": (("accuracy",), RNG.integers(0, 2, 40), TWO),
    "f1 and accuracy": (("accuracy", "f1"), RNG.integers(0, 2, 40), TWO),
    "matthews": (("matthews",), RNG.integers(0, 2, 40), TWO),
    "macro_f1": (("macro_f1",), RNG.integers(0, 3, 40), RNG.normal(size=(40, 3))),
    "correlations": (("pearson", "spearman"), NUMBERS[:, 0] + RNG.normal(size=40), NUMBERS),
    "answers": (("answer_f1", "exact_match"), np.zeros(40), RNG.random((40, 4))),
    "tokens": (("token_accuracy", "perplexity"), np.zeros(40), np.column_stack([RNG.integers(5, 9, 40), TWO])),
    "several labels": (("micro_f1",), RNG.integers(0, 2, (40, 3)), RNG.normal(size=(40, 3))),
}


@pytest.mark.parametrize("case", CASES)
def test_contributions_are_pseudo_values(case: str) -> None:
    """n times the score, less n - 1 times the score of the set without the example."""
    metrics, targets, outputs = CASES[case]
    whole = evaluate(metrics, targets, outputs)["score"]
    without = [
        evaluate(metrics, np.delete(targets, row, axis=0), np.delete(outputs, row, axis=0))["score"]
        for row in range(40)
    ]
    found = contributions(metrics, targets, outputs)
    np.testing.assert_allclose(found, 40 * whole - 39 * np.array(without), rtol=1e-9, atol=1e-9)
    if case in ("accuracy", "answers"):
        assert found.mean() == pytest.approx(whole)
    assert np.ptp(found) > 1  # control: examples differ


def studies(seeds: int, examples: int, share: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Differences by example of studies without any effect, `[count, seeds, examples]`.

    Runs spread by 1 point over seeds; `share` of an example's variance is the ticket's effect on it, the same for every
    seed.
    """
    of_seed = rng.normal(0, 0.5, (count, seeds, 1))
    of_example = rng.normal(0, np.sqrt(share * examples), (count, 1, examples))
    return of_seed + of_example + rng.normal(0, np.sqrt((1 - share) * examples), (count, seeds, examples))


@pytest.mark.parametrize(("seeds", "examples"), [(2, 277), (3, 277), (5, 277), (10, 277), (3, 1043), (10, 1043)])
def test_intervals_cover_what_is_true_for_new_seeds_and_examples(seeds: int, examples: int) -> None:
    """Nominally 95 %; controls, intervals half as wide and ones over seeds alone of many seeds, do not."""
    count, covered, half, alone = 300, 0, 0, 0
    for one in studies(seeds, examples, 0.3, count, np.random.default_rng([seeds, examples])):
        test, by_seed = two_way_test(one, float(one.mean())), paired_t_test(one.mean(axis=1).tolist(), [0.0] * seeds)
        covered += test.low <= 0 <= test.high
        half += abs(test.mean) <= (test.high - test.low) / 4
        alone += by_seed.low <= 0 <= by_seed.high
    assert stats.binom.ppf(0.001, count, 0.94) <= covered
    assert half < 0.8 * count  # the intervals are no wider than they need be
    if seeds == 10:
        assert alone < 0.8 * count


def test_one_seed_is_tested_over_its_examples() -> None:
    one = np.random.default_rng(1).normal(0.5, 3, (1, 200))
    test, expected = two_way_test(one, float(one.mean())), stats.ttest_1samp(one[0], 0)
    interval = expected.confidence_interval(0.95)
    assert (test.p, test.low, test.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_seeds_that_all_differ_alike_are_tested_over_their_examples() -> None:
    """As one of them; that of seeds alone would have one degree of freedom, and an interval six times as wide."""
    one = np.zeros((1, 50))
    one[0, 7] = -2.0
    found, alone = (two_way_test(np.repeat(one, seeds, axis=0), -0.04) for seeds in (2, 1))
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=1e-9)
    nearly = np.repeat(one, 2, axis=0) + np.random.default_rng(0).normal(0, 1e-14, (2, 50))  # rounding
    assert two_way_test(nearly, -0.04).high == pytest.approx(found.high, rel=1e-6)


def test_the_order_of_seeds_and_examples_is_no_matter() -> None:
    rng = np.random.default_rng(2)
    (one,) = studies(4, 90, 0.3, 1, rng)
    turned = one[rng.permutation(4)][:, rng.permutation(90)]
    found, same = (two_way_test(each, 1.5) for each in (one, turned))
    assert (same.p, same.low, same.high) == pytest.approx((found.p, found.low, found.high), rel=1e-9)
    one[0, 0] += 50  # control
    assert two_way_test(one, 1.5).p != pytest.approx(found.p, rel=1e-6)


def test_alternatives_and_what_cannot_be_tested() -> None:
    (one,) = studies(4, 90, 0.3, 1, np.random.default_rng(3))
    less, greater = two_way_test(one, 1.5, "less").p, two_way_test(one, 1.5, "greater").p
    both = two_way_test(one, 1.5).p
    assert less + greater == pytest.approx(1)
    assert both == pytest.approx(2 * min(less, greater))
    for equal in (np.zeros((3, 20)), np.full((3, 20), 2.0), np.zeros((3, 1))):
        assert not two_way_test(equal, 2.0).tested


def test_an_average_over_tasks_varies_with_the_examples_of_each() -> None:
    """The variance of a mean of two tasks' means, of one seed, is a quarter of the sum of both's."""
    rng = np.random.default_rng(4)
    parts = [rng.normal(0, 5, (1, 50)), rng.normal(80, 20, (1, 400))]
    together = joined(parts)
    assert together.mean() == pytest.approx((parts[0].mean() + parts[1].mean()) / 2)
    test = two_way_test(together, float(together.mean()), tasks=[50, 400])
    half = (test.high - test.low) / 2 / stats.t.ppf(0.975, 448)
    expected = np.sqrt(sum(part.var(ddof=1) / part.shape[1] for part in parts) / 4)
    assert half == pytest.approx(expected, rel=0.02)
    unaware = two_way_test(
        together, float(together.mean())
    )  # control: the difference of the tasks is no sampling error
    assert (unaware.high - unaware.low) > 1.02 * (test.high - test.low)


def frame(kind: str, correct: np.ndarray) -> pd.DataFrame:
    values = [SimpleNamespace(values=100.0 * row, sizes=(len(row),)) for row in correct]
    scores = 100.0 * correct.mean(axis=1)
    return pd.DataFrame({"kind": kind, "seed": range(len(correct)), "score": scores, BY_EXAMPLE: values})


def test_gains_are_tested_by_example_where_that_is_known() -> None:
    rng = np.random.default_rng(5)
    dense, winning = (rng.random((4, 120)) < chance for chance in (0.7, 0.75))
    runs = pd.concat([frame("dense", dense), frame("winning", winning)], ignore_index=True)
    (row,) = paired_gains(runs, {"kind": "winning"}, {"kind": "dense"}).to_dict("records")
    expected = two_way_test(100.0 * winning - 100.0 * dense, float(100 * (winning.mean() - dense.mean())))
    assert (row["difference"], row["low"], row["p"]) == pytest.approx((expected.mean, expected.low, expected.p))
    (alone,) = paired_gains(runs.drop(columns=BY_EXAMPLE), {"kind": "winning"}, {"kind": "dense"}).to_dict("records")
    assert alone["p"] == pytest.approx(stats.ttest_rel(winning.mean(axis=1), dense.mean(axis=1)).pvalue)  # control
    assert alone["p"] != pytest.approx(row["p"])
    missing = runs.assign(score=runs["score"].where(runs["seed"] != 1))
    of, over = (missing[missing["kind"] == kind] for kind in ("winning", "dense"))
    assert gain(of, over)["seeds"] == 3


def outcome_of(outputs: np.ndarray, best: int) -> Any:
    class Made(Outcome):
        def predictions(self, task: int = 0) -> dict[str, np.ndarray]:
            return {"dev": outputs}

    trial: Any = None
    return Made("k", trial, Path(), "finished", epochs=[{"epoch": 1}, {"epoch": 2}], best_epoch=best)


def test_a_runs_contributions_are_those_of_its_best_epoch() -> None:
    metrics, targets, _ = CASES["matthews"]
    outputs = np.random.default_rng(6).normal(size=(2, 40, 2))
    for best in (1, 2):
        found = ByExample(outcome_of(outputs, best), 0, metrics, targets).values
        assert np.array_equal(found, contributions(metrics, targets, outputs[best - 1]))


def test_contributions_to_a_cross_fitted_score() -> None:
    """Their mean is the score, where that is a mean over examples; each example counts where it chose nothing."""
    rng, metrics = np.random.default_rng(7), ("accuracy",)
    targets = rng.integers(0, 2, 60)
    runs = [rng.normal(size=(2, 60, 2)) for _ in range(3)]
    every = [epoch for run in runs for epoch in run]
    chosen = cross_fit([halved_scores(run, metrics, targets) for run in runs])
    found = chosen_contributions(chosen, lambda candidate: contributions(metrics, targets, every[candidate]))
    assert found.mean() == pytest.approx(chosen.cross_fitted)
    assert found.mean() != pytest.approx(chosen.paper)  # control: chosen on the examples that score it


@pytest.mark.parametrize(("count", "free"), [(1, 3), (1, 40), (4, 4), (4, 30)])
def test_dunnetts_p_is_that_of_the_multivariate_t(count: int, free: float) -> None:
    shape = np.full((count, count), 0.5) + 0.5 * np.eye(count)
    for limit in (-0.5, 0.7, 2.2, 3.5):
        below = stats.multivariate_t.cdf([limit] * count, shape=shape, df=free, random_state=0) if count > 1 else None
        expected = stats.t.cdf(limit, free) if below is None else below
        assert _largest_below(limit, count, free) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("seeds", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_dunnetts_test_holds_its_level_for_new_examples(seeds: int) -> None:
    """Four levels without an effect, on one dev set: at most 5 % show one. The control, over seeds alone, does not."""
    rng, count, wrong, alone = np.random.default_rng(seeds), 300, 0, 0
    for _ in range(count):
        dense = rng.normal(0, 0.7, (seeds, 1)) + rng.normal(0, np.sqrt(0.35 * 277), (seeds, 277))
        levels = [
            rng.normal(0, 0.7, (seeds, 1)) + rng.normal(0, np.sqrt(0.35 * 277), (seeds, 277))
            + rng.normal(0, np.sqrt(0.3 * 277), 277) - dense
            for _ in range(4)
        ]  # fmt: skip
        wrong += min(dunnett(levels)) < 0.05
        if seeds == 10:
            alone += min(dunnett([level.mean(axis=1, keepdims=True) for level in levels])) < 0.05
    assert wrong <= stats.binom.ppf(0.999, count, 0.05)
    if seeds == 10:
        assert alone > 0.1 * count


@pytest.mark.parametrize(("seeds", "gain"), [(5, 3.0), (3, 6.0)])
def test_dunnetts_test_sees_a_gain(seeds: int, gain: float) -> None:
    rng = np.random.default_rng(8)
    found = dunnett([rng.normal(mean, 20, (seeds, 300)) for mean in (0, gain)] + [np.zeros((1, 300))])
    assert found[1] < 0.01 < found[0]
    assert np.isnan(found[2])  # one seed
