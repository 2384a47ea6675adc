"""Search methods: they see what they asked for, keep to the budget, go on after a stop, and find what is clear."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from helpers.find_records import study
from supertickets.errors import TicketError
from supertickets.evidence.recorded import record_runs
from supertickets.evidence.search.baselines import AlwaysLevel, RandomLevel, WholeGrid
from supertickets.evidence.search.course import METHODS, half_for_gain, half_for_search
from supertickets.evidence.search.curve import Curve
from supertickets.evidence.search.grid import Grid, MadeUp, grid_of
from supertickets.evidence.search.halving import Halving
from supertickets.evidence.search.known import Ask, Known, Method, first_levels
from supertickets.evidence.search.racing import Racing, _worse
from supertickets.evidence.search.replay import FAMILIES, Played, Trials, compare, replay

SEARCHES = (Halving(), Halving(eta=4.0, first=0.5), Racing(), Racing(error=0.5, neighbours=0.0), Curve(), Curve(step=2))
CLEAR = MadeUp(examples=300, rise=12.0, best=0.4, knee=0.5, noise=0.2)


def asked(played: Played) -> list[Ask]:
    return [ask for turn in played.asks for ask in turn]


@pytest.mark.parametrize("method", SEARCHES, ids=str)
def test_a_search_sees_only_what_it_asked_for(method: Method) -> None:
    grid = MadeUp(rise=3.0).grid(0)
    played = replay(method, grid)
    assert len(asked(played)) > 3
    seen = np.zeros(grid.winning.shape, bool)
    for ask in asked(played):
        seen[ask.level, ask.seed, : ask.epoch] = True
    assert np.isnan(played.known.winning[~seen]).all()
    other = replay(method, replace(grid, winning=np.where(seen, grid.winning, 100.0 - grid.winning)))
    assert (other.asks, other.answer) == (played.asks, played.answer)
    worse = grid.winning.copy()
    worse[played.answer.level] = 0.0
    assert replay(method, replace(grid, winning=worse)).answer.level != played.answer.level  # control


@pytest.mark.parametrize("method", SEARCHES, ids=str)
@pytest.mark.parametrize("budget", [0.2, 0.25, 0.5])
def test_a_search_keeps_to_its_budget_and_goes_on_after_a_stop(method: Method, budget: float) -> None:
    grid = MadeUp(rise=1.5).grid(1)
    played = replay(method, grid, budget)
    assert played.whole_cost <= budget + 1e-9
    known = Known.nothing(grid.levels, grid.dense, grid.prices, budget)
    for turn in played.asks:
        assert 0 <= method.answer(known).level < len(grid.levels)  # at any time
        assert tuple(method.asks(known)) == turn  # nothing but what is known says what comes next
        known = known.with_done({ask: grid.winning[ask.level, ask.seed, : ask.epoch] for ask in turn})
    assert method.asks(known) == []
    assert method.answer(known) == played.answer
    assert played.answer.level not in played.answer.rivals


def test_a_larger_budget_is_spent() -> None:
    grid = MadeUp(rise=1.5, knee=0.9).grid(2)
    for method in (Halving(), Racing(), Curve()):
        costs = [replay(method, grid, budget).cost for budget in (0.15, 0.25, 0.6)]
        assert costs[0] <= costs[1] < costs[2]


@pytest.mark.parametrize("method", SEARCHES, ids=str)
def test_a_clear_level_is_found(method: Method) -> None:
    for seed in range(5):
        grid = CLEAR.grid(seed)
        played = replay(method, grid)
        assert grid.scores[grid.best] - grid.scores[played.answer.level] < 3.0
        assert grid.scores[grid.best] - grid.scores[0] > 5.0  # control: another level would not do


def diverged(grid: Grid, level: int, seed: int = 0, epoch: int = 1) -> Grid:
    """The grid with a training that has diverged before the end of an epoch."""
    winning = grid.winning.copy()
    winning[level, seed, epoch - 1 :] = np.nan
    return replace(grid, winning=winning)


@pytest.mark.parametrize("method", SEARCHES, ids=str)
def test_a_training_that_diverges_costs_its_own_level_alone(method: Method) -> None:
    for seed in range(5):
        grid = CLEAR.grid(seed)
        for lost in (grid.best - 1, grid.best + 1, grid.best):
            played = replay(method, diverged(grid, lost))
            assert lost not in (played.answer.level, *played.answer.rivals)
            assert grid.scores[played.answer.level] > grid.scores[0] + 2.0  # control: as all levels beside a 0 look bad


@pytest.mark.parametrize("method", SEARCHES, ids=str)
@pytest.mark.parametrize(("epoch", "budget"), [(2, 0.25), (4, 0.4)])  # which pays for the last epoch
def test_a_late_divergence_breaks_no_budget_and_calls_nothing_back(method: Method, epoch: int, budget: float) -> None:
    """What a search names diverges when its first training goes on: `replay` says if what is named then is unpaid."""
    seen = 0
    for seed in range(6):
        grid = MadeUp(rise=2.0).grid(seed)
        before = replay(method, grid, budget)
        named = before.answer.level
        turns = [turn for turn, asks in enumerate(before.asks) if Ask(named, 0, epoch) in asks]
        seen += bool(turns)
        played = replay(method, diverged(grid, named, 0, epoch), budget)
        until = turns[0] + 1 if turns else len(before.asks)
        assert played.asks[:until] == before.asks[:until]
        assert played.answer.level != named or not turns
    assert seen >= 3  # searches that train it so far
    everywhere = grid
    for level in range(8):
        everywhere = diverged(everywhere, level)
    played = replay(method, everywhere, budget)
    assert played.known.done[played.answer.level].sum() == 0 or not played.known.open


def test_halving_goes_beyond_its_first_look_at_the_defaults() -> None:
    for seeds in (2, 3):
        played = replay(Halving(), MadeUp(seeds=seeds, rise=2.0).grid(0), 0.25)
        assert len(played.asks) > 1


def test_what_searches_are_compared_with() -> None:
    grid = CLEAR.grid(0)
    whole = replay(WholeGrid(), grid)
    assert (whole.cost, whole.whole_cost) == pytest.approx((1.0, 1.0))
    assert whole.answer.level == grid.best
    assert replay(AlwaysLevel(0.32), grid).answer.level == 2
    drawn = {replay(RandomLevel(seed), grid).answer.level for seed in range(40)}
    assert drawn == {*range(8)}
    fixed = replay(AlwaysLevel(0.1), grid)
    assert fixed.cost == 0
    assert fixed.whole_cost == pytest.approx(grid.prices[0] / grid.prices.sum())


class _Cheat(Method):
    """Spends more than the budget, or asks again for what is known."""

    def __init__(self, asks: Sequence[Sequence[Ask]]) -> None:
        object.__setattr__(self, "turns", list(asks))

    def asks(self, known: Known) -> list[Ask]:
        return self.turns.pop(0) if self.turns else []

    def answer(self, known: Known) -> Any:
        return WholeGrid().answer(known)


def test_a_replay_tells_a_method_that_cheats() -> None:
    grid = MadeUp().grid(0)
    with pytest.raises(ValueError, match="of the grid's cost, more than"):
        replay(_Cheat([[Ask(level, 0, 4) for level in range(8)]]), grid)
    with pytest.raises(ValueError, match="asks for what it knows"):
        replay(_Cheat([[Ask(0, 0, 1)], [Ask(0, 0, 1)]]), grid)


def test_a_first_look_has_as_many_levels_as_can_be_paid_for() -> None:
    grid = MadeUp().grid(0)
    for budget, epoch, count in ((1.0, 4, 8), (0.25, 1, 8), (0.25, 2, 4), (0.15, 2, 0), (0.05, 1, 0)):
        known = Known.nothing(grid.levels, grid.dense, grid.prices, budget)
        assert len(first_levels(known, epoch)) == count
    later = known.with_done({Ask(0, 0, 1): grid.winning[0, 0, :1]})
    assert first_levels(later, 1) == first_levels(known, 1)


def test_a_race_rarely_drops_what_is_no_worse() -> None:
    """The p of "worse" is below 5 % in about 5 % of pairs of equal levels; control: and nearly always of others."""
    below = {True: 0, False: 0}
    pairs = 200
    for seed in range(pairs):
        for equal in below:
            made = MadeUp(levels=(0.1, 0.2), rise=0.0, knee=0.9 if equal else 0.0, fall=300.0, noise=0.6, seeds=3)
            grid = made.grid(seed)
            known = Known.nothing(grid.levels, grid.dense, grid.prices)
            known = known.with_done({Ask(level, s, 4): grid.winning[level, s] for level in (0, 1) for s in range(3)})
            below[equal] += _worse(known, 1, 0, 3, 4) < 0.05
    assert below[True] <= stats.binom.ppf(0.999, pairs, 0.05)
    assert below[False] > 0.8 * pairs


def test_a_recorded_grid_is_replayed_as_the_study_was() -> None:
    runs = study(control="none")
    recorded = record_runs(runs)
    grid = grid_of(recorded, "words")
    assert (grid.levels, grid.group, grid.left_out) == ((0.1, 0.3, 0.4), "words", ())
    table = runs.table[runs.table["kind"] == "winning"]
    means = table.groupby("level")["score"].mean()
    np.testing.assert_allclose(grid.scores, means, rtol=1e-6)
    assert grid.levels[grid.best] == means.idxmax()
    assert (np.diff(grid.prices) < 0).all()  # heavier tickets cost less
    missing = tuple(run for run in recorded.runs if (run.level, run.seed) != (0.3, 1))
    left = grid_of(replace(recorded, runs=missing), "words")
    assert left.left_out == (1,)
    assert np.array_equal(left.winning, grid.winning[:, [0, 2]])
    none = tuple(run for run in recorded.runs if run.level != 0.3 or run.seed == 9)
    with pytest.raises(TicketError, match="expected two levels or more"):
        grid_of(replace(recorded, runs=tuple(run for run in none if run.level != 0.4)), "words")


def test_resamples_keep_pairs_together() -> None:
    grid = MadeUp().grid(0)
    whole = np.concatenate([grid.dense[None], grid.winning])
    place = np.arange(whole.size, dtype=np.float64).reshape(whole.shape)
    named = replace(grid, dense=place[0], winning=place[1:])
    drawn = named.resampled(np.random.default_rng(0))
    apart = drawn.winning - drawn.dense  # from the dense run of the same seed, epoch and example
    assert all(len(np.unique(of_level)) == 1 for of_level in apart)
    assert len(np.unique(drawn.dense[0, 0])) < grid.dense.shape[-1]  # with replacement


def test_methods_are_tuned_on_other_tasks_than_they_are_judged_on() -> None:
    grids = [CLEAR.grid(0, "one"), CLEAR.grid(1, "one"), MadeUp(rise=0.0, knee=0.0).grid(2, "other")]
    trials = Trials(grids, resamples=3)
    variants = (AlwaysLevel(0.1), AlwaysLevel(0.4))  # the first is best on the third grid, the second on the others
    assert trials.tuned(variants, [2]) == variants[0]
    assert trials.tuned(variants, [0, 1]) == variants[1]
    assert trials.judged(variants) == {0: variants[0], 1: variants[0], 2: variants[1]}
    assert Trials(grids[:2], resamples=3).judged(variants) == {0: variants[0], 1: variants[0]}  # none other to tune on


def test_the_table_is_the_same_every_time() -> None:
    grids = [MadeUp(examples=100, rise=2.0).grid(i, f"task {i}") for i in range(2)]
    families = {name: FAMILIES[name][:2] for name in ("the whole grid", "always 0.1", "halving")}
    first, again = (compare(Trials(grids, resamples=4), families) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(compare(Trials(grids, resamples=4, seed=1), families))
    whole = first.set_index("method").loc["the whole grid"]
    assert [*whole[["cost", "regret", "same", "halves"]]] == pytest.approx([1.0, 0.0, 1.0, 0.0])
    assert whole["resampled"] > 0  # the noise of its own choice
    rest = first.set_index("method").drop("the whole grid")
    assert (rest["with level"] <= 0.25).all()
    assert (rest["regret"] >= 0).all()


def test_made_up_studies_have_the_noise_that_is_asked_for() -> None:
    quiet, loud = (MadeUp(noise=noise, examples=4000, seeds=8, rise=0.0).grid(0) for noise in (0.1, 3.0))

    def spread(grid: Grid) -> float:
        return float(grid.winning[..., -1, :].mean(axis=-1).std(axis=1).mean())

    assert spread(quiet) < 0.8 < 2.0 < spread(loud) < 4.0
    curve = MadeUp(rise=4.0, examples=4000, seeds=8).grid(0)
    assert curve.best in (0, 1, 2)
    assert curve.scores[-1] < curve.dense[:, -1].mean() - 5.0
    by_epoch = curve.dense.mean(axis=(0, 2))
    assert (np.diff(by_epoch) > 0).all()


def test_the_half_that_a_search_does_not_see_pays_for_its_choice() -> None:
    """Levels that are all alike: what the search names looks better where it looked, and is not elsewhere.

    With 1,000 studies, these are the numbers of docs/evidence.md.
    """
    studies, examples = 150, 400
    made = MadeUp(rise=0.0, knee=0.9, pace=4.0, examples=examples)
    here, there = half_for_search(examples), half_for_gain(examples)

    def scores(contributions: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Scores on a half at the epoch that is best on the half searched on."""
        best = contributions[..., here].mean(axis=-1, dtype=np.float64).argmax(axis=-1)
        means = contributions[..., half].mean(axis=-1, dtype=np.float64)
        return np.take_along_axis(means, best[..., None], axis=-1)

    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in range(studies):
        grid = made.grid(seed)
        for name, method in METHODS.items():
            level = replay(method, grid.of_examples(here)).answer.level
            found[name].append([float((scores(grid.winning[level], half) - scores(grid.dense, half)).mean())
                                for half in (here, there)])  # fmt: skip
    for gains in map(np.array, found.values()):
        error = gains.std(axis=0, ddof=1) / np.sqrt(studies)
        assert abs(gains[:, 1].mean()) < 3 * error[1]
        assert gains[:, 0].mean() > 3 * error[0]  # control
