"""Conclusions from outcomes: against scipy and scikit-learn, hand-made cases, and simulated studies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sklearn_metrics

from supertickets.evidence.find import FindFindings
from supertickets.evidence.gains import Gain
from supertickets.evidence.phases import find_phases, light_levels
from supertickets.evidence.resampling import bootstrap_weights, half_weights, weighted_scores
from supertickets.evidence.sampling import Selection
from supertickets.evidence.selection import cross_fit, halved_scores, select_super
from supertickets.evidence.statistics import bootstrap_interval, holm, paired_t_test
from supertickets.tasks.metrics import CLASSIFICATION, ERRORS, REGRESSION, evaluate, resampled

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


# --- resampled metrics ------------------------------------------------------------------------------------------------


ORACLES: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda targets, said: sklearn_metrics.f1_score(targets, said, zero_division=0.0),
    "f1_first": lambda targets, said: sklearn_metrics.f1_score(targets, said, pos_label=0, zero_division=0.0),
    "macro_f1": lambda targets, said: sklearn_metrics.f1_score(targets, said, average="macro", zero_division=0.0),
    "matthews": sklearn_metrics.matthews_corrcoef,
    "pearson": lambda targets, said: np.nan_to_num(stats.pearsonr(targets, said).statistic),  # 0 where undefined
    "spearman": lambda targets, said: np.nan_to_num(stats.spearmanr(targets, said).statistic),
    "r2": sklearn_metrics.r2_score,
    "mae": sklearn_metrics.mean_absolute_error,
    "rmse": sklearn_metrics.root_mean_squared_error,
}


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
@pytest.mark.parametrize("metric", [*CLASSIFICATION, *REGRESSION])
@pytest.mark.parametrize("case", ["ordinary", "constant predictions", "few examples"])
def test_metrics_are_the_libraries_on_repeated_examples(metric: str, case: str) -> None:
    rng = np.random.default_rng(3)
    examples = 7 if case == "few examples" else 60
    if metric in REGRESSION:
        targets = rng.integers(0, 11, examples) / 2  # ties, as in STS-B
        outputs = (targets + rng.normal(0, 2, examples)).round(1)[:, None]
        predicted = outputs[:, 0]
    else:
        classes = 2 if metric in ("f1", "f1_first") else 3
        targets = rng.integers(0, classes, examples)
        outputs = (np.eye(classes)[targets] + rng.normal(0, 0.8, (examples, classes))).astype(np.float32)
    if case == "constant predictions":
        outputs[:] = outputs[0] if metric in CLASSIFICATION else 0.1  # whose mean is not 0.1
    if metric in CLASSIFICATION:
        predicted = outputs.argmax(axis=1)
    weights = np.vstack([np.ones(examples), bootstrap_weights(examples, 1, 30), half_weights(examples, 5)])
    found = resampled((metric,), targets, outputs, weights)[metric]
    times = [row.astype(int) for row in weights]
    expected = [ORACLES[metric](np.repeat(targets, row), np.repeat(predicted, row)) for row in times]
    assert case != "ordinary" or np.std(expected) > 0.01  # else anything would pass
    np.testing.assert_allclose(found, np.array(expected) * (1 if metric in ERRORS else 100), atol=1e-9, rtol=1e-9)
    if metric not in ERRORS:
        np.testing.assert_array_equal(weighted_scores((metric,), targets, outputs, weights), found)
        assert evaluate((metric,), targets, outputs)["score"] == found[0]


def test_many_classes_take_little_memory() -> None:
    """A table of every pair of classes would have 2,000 x 1,000,000 cells."""
    rng = np.random.default_rng(0)
    targets, outputs = rng.integers(0, 1000, 2000), rng.normal(size=(2000, 1000))
    found = evaluate(("macro_f1",), targets, outputs)["macro_f1"]
    assert found == pytest.approx(100 * ORACLES["macro_f1"](targets, outputs.argmax(axis=1)))


def test_score_is_the_mean_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    targets, outputs = rng.integers(0, 2, 50), rng.normal(size=(50, 2))
    both = weighted_scores(("accuracy", "f1"), targets, outputs, np.ones((1, 50)))
    assert both[0] == pytest.approx(evaluate(("accuracy", "f1"), targets, outputs)["score"])


def test_halves_are_halves() -> None:
    weights = half_weights(11, 4)
    assert weights.shape == (8, 11)
    np.testing.assert_array_equal(weights[0::2] + weights[1::2], 1)
    np.testing.assert_array_equal(weights[0::2].sum(axis=1), 5)
    assert len(np.unique(weights, axis=0)) == 8


# --- tests and intervals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_paired_t_test_is_scipys(alternative: str) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(1, 1, 6), rng.normal(0, 1, 6)
    found, expected = paired_t_test(first, second, alternative), stats.ttest_rel(first, second, alternative=alternative)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean, found.p) == (pytest.approx((first - second).mean()), pytest.approx(expected.pvalue))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 / (1 / sqrt 3)."""
    found = paired_t_test([2, 4, 6, np.nan], [1, 2, 3, 4])
    assert found.mean == 2
    assert found.p == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), 2))


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [0.0]), ([], []), ([2.0, 3.0], [1.0, 2.0]), ([1.0, 1.0], [1.0, np.nan])]
)
def test_no_test_is_possible(first: list[float], second: list[float]) -> None:
    found = paired_t_test(first, second)
    assert not found.tested
    assert np.isnan(found.p)


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, then never below the one before; missing ones do not count."""
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    found = holm([0.01, np.nan, 0.04])
    assert found[0] == pytest.approx(0.02)
    assert np.isnan(found[1])
    assert found[2] == 0.04
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50)
def test_holm_lies_between_nothing_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    for raw, value in zip(p, corrected, strict=True):
        assert raw <= value <= min(1.0, raw * len(p)) + 1e-12
    assert np.argsort(p, kind="stable").tolist() == np.lexsort((p, corrected)).tolist() or len(set(p)) < len(p)


def test_bootstrap_interval_is_scipys_where_only_examples_vary() -> None:
    rng = np.random.default_rng(2)
    right = rng.random(400) < 0.7
    outputs = np.eye(2)[right.astype(int)]
    scores = weighted_scores(("accuracy",), np.ones(400, int), outputs, bootstrap_weights(400, 0, 4000))
    low, high = bootstrap_interval(scores[None])
    expected = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=4000, rng=rng).confidence_interval
    assert low == pytest.approx(100 * expected.low, abs=0.4)
    assert high == pytest.approx(100 * expected.high, abs=0.4)


def test_bootstrap_interval_covers_seeds_too() -> None:
    """Seeds that differ widen the interval beyond what the examples alone give."""
    rng = np.random.default_rng(2)
    alike = 70 + rng.normal(0, 1, (1, 1000)).repeat(5, axis=0)
    differing = alike + np.array([-6, -3, 0, 3, 6])[:, None]
    narrow, wide = bootstrap_interval(alike), bootstrap_interval(differing)
    assert wide[1] - wide[0] > 1.8 * (narrow[1] - narrow[0])


# --- selection --------------------------------------------------------------------------------------------------------


def guesses(rng: np.random.Generator, targets: np.ndarray, right: float, epochs: int = 1) -> np.ndarray:
    """Outputs of a classifier that is right with a given probability."""
    hit = rng.random((epochs, len(targets))) < right
    return np.eye(2, dtype=np.float32)[np.where(hit, targets, 1 - targets)]


def test_pure_noise_gains_nothing_when_selection_is_paid_for() -> None:
    """200 studies of eight equal candidates of three epochs: the paper's way gains by luck, the cross-fitted does not.

    In each, the dense run is one more such candidate, and the gain is over it, its own choice of an epoch paid too.
    """
    rng = np.random.default_rng(0)
    paper, cross_fitted = [], []
    for _ in range(200):
        targets = rng.integers(0, 2, 200)
        runs = [
            halved_scores(guesses(rng, targets, 0.7, 3), ("accuracy",), targets, halvings=5)
            for _ in range(len(LEVELS) + 1)
        ]
        dense, winning = cross_fit(runs[:1]), cross_fit(runs[1:])
        paper.append(winning.paper - dense.paper)
        cross_fitted.append(winning.cross_fitted - dense.cross_fitted)
    error = np.std(cross_fitted, ddof=1) / np.sqrt(len(cross_fitted))
    assert abs(np.mean(cross_fitted)) < 3 * error
    assert np.mean(paper) > 10 * np.std(paper, ddof=1) / np.sqrt(len(paper))
    assert np.mean(paper) > 2  # points, of nothing


def test_a_better_candidate_is_found_and_keeps_its_gain() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 2000)
    worse, better = guesses(rng, targets, 0.6), guesses(rng, targets, 0.8)
    found = cross_fit([halved_scores(run, ("accuracy",), targets) for run in (worse, better)])
    own = evaluate(("accuracy",), targets, better[0])["score"]
    assert found.paper == pytest.approx(own)
    assert found.cross_fitted == pytest.approx(own, abs=0.2)


def test_cross_fitting_against_a_naive_loop() -> None:
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 2, 61)
    runs = [guesses(rng, targets, 0.6, epochs) for epochs in (2, 3)]
    weights = half_weights(61, 7, seed=5).astype(bool)
    cross_fitted = []
    for first, second in zip(weights[0::2], weights[1::2], strict=True):
        for here, there in ((first, second), (second, first)):
            epochs = [epoch for run in runs for epoch in run]
            scores = [evaluate(("matthews",), targets[here], epoch[here])["score"] for epoch in epochs]
            best = epochs[int(np.argmax(scores))]
            cross_fitted.append(evaluate(("matthews",), targets[there], best[there])["score"])
    found = cross_fit([halved_scores(run, ("matthews",), targets, halvings=7, seed=5) for run in runs])
    assert found.cross_fitted == pytest.approx(np.mean(cross_fitted))


def test_one_candidate_costs_nothing() -> None:
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 2, 100)
    found = cross_fit([halved_scores(guesses(rng, targets, 0.7), ("accuracy",), targets)])
    assert found.cross_fitted == pytest.approx(found.paper)  # the halves' mean is the whole


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="nothing to choose from"):
        cross_fit([])
    with pytest.raises(ValueError, match="got 1"):
        halved_scores(np.zeros((1, 1, 2), np.float32), ("accuracy",), np.zeros(1, int))


# --- phases -----------------------------------------------------------------------------------------------------------


def simulated(
    winning: Any, random: Any, dense: float = 70.0, seeds: int = 5, noise: float = 1.0, seed: int = 0, step: float = 0.0
) -> pd.DataFrame:
    """A table of results with given mean curves, a level of skill for each seed and noise; `step` rounds scores."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(seeds):
        skill = rng.normal(0, noise)
        curves = {"dense": ([0.0], [dense]), "winning": (LEVELS, winning), "random": (LEVELS, random)}
        for kind, (levels, means) in curves.items():
            for level, mean in zip(levels, means if means is not None else [], strict=means is not None):
                score = mean + skill + rng.normal(0, noise)
                score = round(score / step) * step if step else score
                rows.append({"kind": kind, "level": level, "seed": s, "status": "finished", "score": score})
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame, heads: float = 8, **more: Any) -> str:
    """What `find` says of a table of results."""
    table, gain = table.assign(parameters=9, remaining=0.9, heads=heads, ffns=3), Gain.of([0], [71.0], [70.0])
    chosen, none = select_super(table), pd.DataFrame()
    every = Selection(examples=100)
    return FindFindings(table, none, gain, gain, none, every, None, find_phases(table), none, chosen, **more).verdict


PLANTED = [71, 73, 76, 74, 72, 66, 60, 52]
FALLING = [70, 69, 67, 65, 64, 62, 59, 53]


def test_a_planted_transition_is_found_where_it_was_planted() -> None:
    tables = [simulated(PLANTED, FALLING, noise=0.7, seed=seed) for seed in range(40)]
    found = [find_phases(table) for table in tables]
    assert np.mean([phases.seen for phases in found]) > 0.9
    assert np.mean([phases.first_end == 0.3 for phases in found]) > 0.9
    assert np.mean([phases.second_end == 0.8 for phases in found]) > 0.8
    inside = [phases.first_interval[0] <= 0.3 <= phases.first_interval[1] for phases in found if phases.first_interval]
    assert np.mean(inside) > 0.9
    assert "A phase transition was seen: winning tickets beat the dense model at" in verdict(tables[0])
    assert "The best winning level is 30%" in verdict(tables[0])


@pytest.mark.parametrize(
    ("seeds", "step"),
    [(2, 100 / 277), pytest.param(3, 0.0, marks=pytest.mark.slow), pytest.param(5, 100 / 277, marks=pytest.mark.slow)],
)  # RTE's 277 examples: scores are multiples of that
def test_pure_noise_shows_no_transition(seeds: int, step: float) -> None:
    """No ticket beats the dense model; beyond level 0.5 all fall. At 5 % at most 17 of 200 (99 % of the time)."""
    means = [70, 70, 70, 70, 70, 66, 60, 52]
    found = [find_phases(simulated(means, means, seeds=seeds, seed=s, step=step)) for s in range(200)]
    assert sum(phases.seen for phases in found) <= stats.binom.ppf(0.99, 200, 0.05)


def test_no_transition_is_said_plainly() -> None:
    table = simulated(FALLING, [m - 3 for m in FALLING])
    assert not find_phases(table).seen
    said = "winning tickets do not significantly beat the dense model at any light level (10% to 40%; smallest p = "
    assert f" No phase transition was seen: {said}" in verdict(table)
    assert "There and at all heavier levels tried, winning tickets score higher than random ones" in verdict(table)


def test_a_curve_that_only_rises_is_no_transition() -> None:
    table = simulated([71, 72, 73, 74, 75, 76, 77, 78], FALLING, noise=0.3)
    phases = find_phases(table)
    assert phases.rises_at
    assert not phases.seen
    assert "but are not significantly below it at the last level" in verdict(table)


@pytest.mark.slow
def test_a_real_gain_that_does_not_fall_is_no_transition() -> None:
    """Winning tickets gain at all levels but the last, which is the dense model's: at most 5 % may show a fall."""
    means = [76] * (len(LEVELS) - 1) + [70]
    found = [find_phases(simulated(means, FALLING, seeds=3, seed=s)) for s in range(200)]
    assert np.mean([bool(phases.rises_at) for phases in found]) > 0.5
    assert sum(phases.seen for phases in found) <= stats.binom.ppf(0.99, 200, 0.05)


def test_missing_runs_do_not_move_the_curve() -> None:
    """A good seed that alone has run at a level does not make that level good."""
    table = simulated([71, 70, 69, 68, 67, 66, 65, 64], FALLING, seeds=2, noise=0.0)
    table.loc[table["seed"] == 1, "score"] += 20.0
    table.loc[table["kind"].eq("winning") & table["seed"].eq(0) & table["level"].eq(0.6), ["status", "score"]] = [
        "missing",
        None,
    ]
    assert find_phases(table).first_end == 0.1
    assert "Some runs are missing." in verdict(table)


def test_what_is_missing_is_said_as_such() -> None:
    """Where runs are missing, counts are real numbers in the table; random tickets that were asked for may come yet."""
    table = simulated(PLANTED, FALLING)
    assert verdict(table, 8.0) == verdict(table)
    assert "8 heads and 3 FFNs are left" in verdict(table)
    none = table[table["kind"] != "random"]
    assert "No random tickets were trained to compare with." in verdict(none)
    random = table["kind"].eq("random")
    table.loc[random, "score"] = None
    table.loc[random, "status"] = "missing"
    assert "No random tickets have finished to compare with." in verdict(table)


def test_what_has_not_been_compared_is_not_said() -> None:
    """Where random tickets have run at light levels only, or no ticket at the last level, nothing is said of those."""
    table = simulated(PLANTED, FALLING, noise=0.7)
    assert "no longer score higher than random ones" in verdict(table)  # control
    light_only = table.copy()
    light_only.loc[table["kind"].eq("random") & table["level"].gt(0.4), "score"] = None
    assert find_phases(light_only).second_end is None
    assert "Whether winning tickets score higher than random ones there and at all heavier levels is not known yet" in (
        said := verdict(light_only)
    )
    assert "There and at all heavier levels tried" not in said
    no_last = table.copy()
    no_last.loc[table["kind"].eq("winning") & table["level"].eq(0.8), "score"] = None
    assert find_phases(no_last).rises_at
    said = verdict(no_last)
    assert "and whether they are below it at the last level could not be tested" in said
    assert "not significantly below" not in said


@pytest.mark.parametrize("levels", [1, 8])
def test_where_the_last_epoch_counts_none_is_said_to_be_chosen(levels: int) -> None:
    table = simulated(PLANTED, FALLING)
    table = table[table["level"] <= LEVELS[levels - 1]]
    best, last = (verdict(table, last_epoch=last) for last in (False, True))
    assert ("level and epoch are" in best) == (levels > 1)
    assert "epoch is chosen" in best or levels > 1
    assert "epoch is" not in last
    assert "epoch are" not in last
    assert ("the level is chosen on one half of the dev set" if levels > 1 else "scored at its last epoch") in last


def test_levels_that_prune_nothing_are_no_levels() -> None:
    """Tickets of a level too low are the dense model, whose gain of nothing has no variance."""
    table = simulated(PLANTED, FALLING, seeds=3).assign(remaining=0.9)
    dense = table[table["kind"] == "dense"]
    nothing = [dense.assign(kind=kind, level=0.05, remaining=1.0) for kind in ("winning", "random")]
    wrong = pd.concat([*nothing, table], ignore_index=True)
    assert find_phases(wrong) == find_phases(table)
    assert light_levels(wrong) == light_levels(table) == [0.1, 0.2, 0.3, 0.4]
    assert find_phases(wrong.drop(columns="remaining")).rise_p != find_phases(table).rise_p  # control


def test_one_seed_of_several_shows_no_fall() -> None:
    table = simulated(PLANTED, FALLING, noise=0.7)
    assert find_phases(table).seen  # control
    for kind, level in (("winning", 0.8), ("random", 0.2)):
        gone = table["kind"].eq(kind) & table["level"].eq(level) & table["seed"].gt(0)
        table.loc[gone, ["status", "score"]] = ["missing", None]
    phases = find_phases(table)
    assert phases.rises_at
    assert not phases.seen
    assert np.isnan(phases.fall_p)
    assert "random" not in phases.over
    assert "random" in find_phases(table[table["seed"] == 0]).over  # the only seed, which is said elsewhere


def test_one_seed_allows_no_test() -> None:
    table = simulated(PLANTED, FALLING, seeds=1, noise=0.1)
    phases = find_phases(table)
    assert not phases.seen
    assert phases.first_interval is None
    assert "allows no test of a phase transition" not in verdict(table)  # said once, of the gain
    assert "The best winning level is 30%" in verdict(table)


@pytest.mark.parametrize("seeds", [2, 4, 5])
def test_few_seeds_give_no_interval_of_phases(seeds: int) -> None:
    phases = find_phases(simulated(PLANTED, FALLING, seeds=seeds))
    assert (phases.first_interval is not None, phases.second_interval is not None) == (seeds == 5, seeds == 5)


def test_missing_runs_are_missing_not_zero() -> None:
    table = simulated(PLANTED, FALLING, noise=0.5)
    gone = (table["kind"] == "winning") & (table["level"] == 0.3) & (table["seed"] < 4)
    table.loc[gone, ["status", "score"]] = ["failed", None]
    phases = find_phases(table)
    assert phases.first_end == 0.3  # the mean of what is there; a zero would have moved it
    whole_level = table["kind"].eq("winning") & table["level"].eq(0.3)
    table.loc[whole_level, ["status", "score"]] = ["failed", None]
    assert find_phases(table).first_end == 0.4


def test_a_seed_that_has_not_run_is_no_seed() -> None:
    table = simulated(PLANTED, FALLING, seeds=3)
    table.loc[table["kind"].eq("winning") & table["seed"].gt(0), ["status", "score"]] = ["missing", None]
    assert find_phases(table).seeds == 1
    assert "allows no test of a phase transition" not in verdict(table)  # said once, of the gain


def test_without_random_tickets_or_without_any() -> None:
    assert "No random tickets" in verdict(simulated(PLANTED, None))
    table = simulated(PLANTED, FALLING)
    assert "No random tickets" not in verdict(table)
    none = table[table["kind"] != "winning"]
    assert find_phases(none).first_end is None
    assert verdict(none) == "No super ticket: no winning tickets above level 0 were asked for."
    table.loc[table["kind"] == "winning", ["status", "score"]] = ["diverged", None]
    assert find_phases(table).first_end is None
    assert verdict(table) == "No super ticket: no winning ticket that prunes anything finished its training."
