"""What choosing alone gives: against enumeration, simulation of the paper's procedure, and its published figures."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from supertickets.evidence.choice_alone import (
    ChoiceAlone,
    choice_alone,
    choice_in_average,
    expected_best,
    share_significant,
)
from supertickets.evidence.published import published
from supertickets.evidence.resampling import sample_weights
from supertickets.evidence.selection import epochs_chosen, halved_scores

FIVE = np.array([69.1, 70.4, 68.8, 71.0, 70.2])


def studies(seeds: int, among: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the paper's procedure where no ticket is better: each seed's dense score, and its best of some."""
    rng = np.random.default_rng(seeds)
    return rng.normal(size=(count, seeds)), rng.normal(size=(count, seeds, among)).max(axis=2)


# --- the expected best of subsets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("among", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("step", [0.0, 5.0])  # coarse scores tie, as those of samples do
def test_expected_best_against_all_subsets(among: int, step: float) -> None:
    rng = np.random.default_rng(among)
    seen, scores = rng.normal(70, 5, (6, 4)), rng.normal(70, 5, (6, 4))
    seen = np.round(seen / step) * step if step else seen
    found = []
    for way, subset in itertools.product(range(4), itertools.combinations(range(6), among)):
        best = max(seen[run, way] for run in subset)
        tied = [scores[run, way] for run in subset if seen[run, way] == best]
        # Ties may be broken in any order of the runs; each of them is first as often as the others.
        found.append(np.mean(tied))
    assert expected_best(seen, scores, among) == pytest.approx(np.mean(found))
    if not step:
        assert expected_best(seen, seen, among) >= expected_best(seen, scores, among)


def test_the_order_of_runs_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    seen, scores = np.round(rng.normal(size=(2, 9, 3)))
    order = rng.permutation(9)
    assert expected_best(seen, scores, 4) == pytest.approx(expected_best(seen[order], scores[order], 4))


def test_more_runs_than_there_are_cannot_be_chosen_among() -> None:
    with pytest.raises(ValueError, match="expected to choose among 1 to 5 runs, got 6"):
        expected_best(FIVE[:, None], FIVE[:, None], 6)


# --- studies of nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "often"), [(3, 0.23), (5, 0.54), (10, 0.93)])
def test_eight_equal_runs_as_simulated(seeds: int, often: float) -> None:
    """Gain, spread, ratio and share of p < 0.05 of the paper's own procedure, run many times; in units of one run."""
    alone = choice_alone(8, seeds, np.array([-1.0, 0.0, 1.0]))  # whose standard deviation is 1
    dense, best = studies(seeds, 8)
    gains = (best - dense).mean(axis=1)
    p = stats.ttest_rel(best, dense, axis=1).pvalue
    assert alone is not None
    assert not alone.own
    assert alone.gain == pytest.approx(1.42, abs=0.005)
    assert alone.gain == pytest.approx(gains.mean(), abs=0.04)
    assert alone.spread == pytest.approx(gains.std(), rel=0.04)
    assert alone.ratio == pytest.approx(0.61, abs=0.005)
    assert alone.ratio == pytest.approx(best.std(), abs=0.01)
    assert alone.significant == pytest.approx(often, abs=0.01)
    assert alone.significant == pytest.approx((p < 0.05).mean(), abs=0.025)


def test_without_choice_five_percent_are_significant() -> None:
    """Negative control: one run among one is as good as the other."""
    assert choice_alone(1, 5, FIVE) is None
    assert share_significant(0.0, 1.0, 5) == pytest.approx(0.05)
    dense, best = studies(5, 1)
    assert (stats.ttest_rel(best, dense, axis=1).pvalue < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert np.isnan(share_significant(1.0, 1.0, 1))
    assert share_significant(1.0, 1e-9, 5) == pytest.approx(1.0)
    assert share_significant(-1.5, 1.0, 5) == share_significant(1.5, 1.0, 5)
    often = [share_significant(shift, 1.0, pairs) for pairs in range(2, 60) for shift in np.linspace(0, 40, 81)]
    assert np.isfinite(often).all()


def test_the_published_standard_deviations_are_what_choosing_gives() -> None:
    """Table 5: the super tickets' smaller standard deviations are those of the best of eight."""
    table = published()["table 5"]["large"]
    ratios = [table["SuperT"][task] / table["ST-DNN"][task] for task in table["ST-DNN"]]
    alone = choice_alone(8, 5, FIVE)
    assert alone is not None
    assert np.mean(ratios) == pytest.approx(alone.ratio, abs=0.01)
    two = choice_alone(2, 5, FIVE)
    assert two is not None
    assert abs(np.mean(ratios) - two.ratio) > 0.2  # of the best of two they are not


def test_gain_and_spread_are_in_the_scores_units() -> None:
    one, ten = (choice_alone(8, 5, scale * FIVE) for scale in (1.0, 10.0))
    assert one is not None
    assert ten is not None
    assert (ten.gain, ten.spread) == pytest.approx((10 * one.gain, 10 * one.spread))
    assert (ten.significant, ten.ratio) == pytest.approx((one.significant, one.ratio))
    more = choice_alone(8, 20, FIVE)
    assert more is not None
    assert more.spread == pytest.approx(one.spread / 2)  # four times the seeds
    assert more.significant > one.significant


def test_as_many_runs_as_levels_are_chosen_among_themselves() -> None:
    """The mean over subsets of the runs, whatever their distribution; with one run less, that of normal ones."""
    runs = np.array([50.0, 70.0, 70.2, 70.4, 70.6, 70.8])  # one collapsed
    own, normal = choice_alone(5, 3, runs), choice_alone(7, 3, runs)
    assert own is not None
    assert normal is not None
    assert (own.own, normal.own) == (True, False)
    best = np.mean([max(five) for five in itertools.combinations(runs, 5)])
    assert own.gain == pytest.approx(best - runs.mean())
    assert normal.gain == pytest.approx(1.3522 * runs.std(ddof=1), rel=1e-3)  # the expected largest of seven
    assert normal.gain > 2 * own.gain


def test_all_subsets_vary_less_than_one_maximum() -> None:
    """Five dense runs and eight of the control: the best of the control's has twice the standard deviation."""
    rng = np.random.default_rng(1)
    found, single = [], []
    for runs in rng.normal(size=(400, 13)):
        alone = choice_alone(8, 5, runs)
        assert alone is not None
        found.append(alone.gain)
        single.append(runs[5:].max() - runs[:5].mean())
    assert np.mean(found) == pytest.approx(1.42, abs=0.06)
    assert np.std(found) == pytest.approx(0.36, abs=0.04)
    assert np.std(single) == pytest.approx(0.76, abs=0.08)


@pytest.mark.parametrize(("runs", "said"), [([70.0], 1), ([70.0, 70.0], 2), ([], 0)])
def test_what_is_not_known_is_not_said(runs: list[float], said: int) -> None:
    alone = choice_alone(8, 5, np.array(runs))
    assert alone is not None
    assert not alone.known
    assert (alone.runs, alone.among) == (said, 8)
    assert np.isnan([alone.gain, alone.spread, alone.significant, alone.ratio]).all()


def test_one_seed_has_no_test() -> None:
    alone = choice_alone(8, 1, FIVE)
    assert alone is not None
    assert np.isnan(alone.significant)
    assert "p <" not in str(alone)
    assert ", and p < 0.05 in 54% of studies" in str(choice_alone(8, 5, FIVE))


def test_it_takes_no_time() -> None:
    rng, begin = np.random.default_rng(0), time.process_time()
    choice_alone(8, 20, rng.normal(size=28), rng.normal(size=(28, 50)), tuple(rng.normal(size=(2, 28, 100))))
    assert time.process_time() - begin < 0.3


# --- the average over tasks -------------------------------------------------------------------------------------------


def test_the_average_over_tasks_as_simulated() -> None:
    parts = [choice_alone(8, 5, FIVE), choice_alone(8, 5, 3 * FIVE)]
    alone = choice_in_average(parts, 5)
    rng, scale = np.random.default_rng(3), FIVE.std(ddof=1) * np.array([1, 3])
    dense, best = rng.normal(size=(4000, 5, 2)), rng.normal(size=(4000, 5, 2, 8)).max(axis=3)
    dense, best = ((one * scale).mean(axis=2) for one in (dense, best))
    assert alone is not None
    assert alone.gain == pytest.approx((best - dense).mean(), rel=0.02)
    assert alone.spread == pytest.approx((best - dense).mean(axis=1).std(), rel=0.04)
    often = (stats.ttest_rel(best, dense, axis=1).pvalue < 0.05).mean()
    assert alone.significant == pytest.approx(often, abs=0.025)


@pytest.mark.parametrize("part", [None, ChoiceAlone(5, among=8, runs=1)])
def test_an_average_with_an_unknown_part_is_not_known(part: ChoiceAlone | None) -> None:
    assert choice_in_average([choice_alone(8, 5, FIVE), part], 5) is None
    assert choice_in_average([], 5) is None


# --- chosen on something else than the score --------------------------------------------------------------------------


def churned(runs: int, examples: int, seed: int, skill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `[runs, examples, 2]` of equal runs that are right or wrong by chance, and the targets."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, examples)
    chance = 0.7 + skill * rng.normal(size=(runs, 1))
    said = np.where(rng.random((runs, examples)) < chance, targets, 1 - targets)
    return np.eye(2, dtype=np.float32)[said], targets


@pytest.mark.parametrize("runs", [5, 13])
@pytest.mark.parametrize("skill", [0.0, 0.03])
def test_choice_on_a_sample_as_simulated(runs: int, skill: float) -> None:
    """Eight runs chosen on a tenth of 300 examples, scored on all: against runs that are chosen so.

    Without skill, 10 % of the examples tell as much of the score as their share of its variance, 0.1 ** 0.5.
    """
    found, true, whole = [], [], []
    weights = sample_weights(300, 0.1)
    for seed in range(60):
        outputs, targets = churned(runs + 8, 300, seed, skill)
        right = 100.0 * (outputs.argmax(axis=2) == targets)
        scores, seen = right.mean(axis=1), right @ weights.T / 30
        alone, on_all = choice_alone(8, 5, scores[8:], seen[8:]), choice_alone(8, 5, scores[8:])
        assert alone is not None
        assert on_all is not None
        found.append(alone.gain)
        whole.append(on_all.gain)
        true.append(np.mean(scores[:8][seen[:8].argmax(axis=0)]) - scores[8:].mean())
    error = np.std(np.subtract(found, true), ddof=1) / np.sqrt(60)
    assert abs(np.mean(found) - np.mean(true)) < 3 * error
    assert np.mean(whole) > np.mean(found) + 5 * np.std(found, ddof=1) / np.sqrt(60)  # it knows more, and biases more
    if not skill:
        assert np.mean(found) / np.mean(whole) == pytest.approx(0.1**0.5, rel=0.25)


@pytest.mark.parametrize("runs", [5, 9])
@pytest.mark.parametrize("skill", [0.0, 0.05])
def test_what_cross_fitting_leaves_of_the_choice_as_simulated(runs: int, skill: float) -> None:
    """Nothing, where runs differ by chance in each example; what the best is better, where their training made it so.

    Five runs are fewer than the eight that are chosen among, so that their best is that of normal runs.
    """
    left, gained, true = [], [], []
    for seed in range(40):
        outputs, targets = churned(runs + 8, 200, seed, skill)
        halves = [epochs_chosen(halved_scores(one[None], ("accuracy",), targets, halvings=10)) for one in outputs]
        scores = 100.0 * (outputs.argmax(axis=2) == targets).mean(axis=1)
        seen, then = np.stack([one for one, _ in halves]), np.stack([other for _, other in halves])
        alone = choice_alone(8, 5, scores[8:], halves=(seen[8:], then[8:]))
        assert alone is not None
        left.append(alone.cross_fitted)
        gained.append(alone.gain)
        true.append(np.take_along_axis(then[:8], seen[None, :8].argmax(axis=1), 0).mean() - then[8:].mean())
    error = np.std(np.subtract(left, true), ddof=1) / np.sqrt(40)
    assert abs(np.mean(left) - np.mean(true)) < 3 * error
    if skill:
        assert np.mean(left) > 5 * np.std(left, ddof=1) / np.sqrt(40)  # control: it is not nothing
    else:
        assert np.mean(left) < np.mean(gained) / 3


def test_of_several_epochs_the_one_that_is_best_on_a_half_is_scored_on_the_other() -> None:
    outputs, targets = churned(3, 40, 0)
    scores = halved_scores(outputs, ("accuracy",), targets, halvings=6)
    here, there = epochs_chosen(scores)
    for half in range(12):
        column = [scores[epoch, 1 + half] for epoch in range(3)]
        best = column.index(max(column))
        assert here[half] == column[best]
        assert there[half] == scores[best, 1 + (half + 1 if half % 2 == 0 else half - 1)]
