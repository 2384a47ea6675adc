"""`find --search`: it does what its method does on the whole grid, keeps to its budget, and says what it knows."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from helpers.find_records import EPOCHS, EXAMPLES, TASK, Made, made, study
from supertickets.anatomy.cost import forward_flops
from supertickets.errors import TicketError
from supertickets.evidence.find import FindFindings
from supertickets.evidence.labels import EPOCH, LOOK, TURN
from supertickets.evidence.recorded import record_runs
from supertickets.evidence.runs import Runs
from supertickets.evidence.search.course import METHODS, half_for_gain, half_for_search, seen
from supertickets.evidence.search.grid import Grid, grid_of
from supertickets.evidence.search.known import Ask
from supertickets.evidence.search.replay import replay
from supertickets.evidence.searched import Searched
from supertickets.lab.trial import Trial
from supertickets.reports.find import find_sections
from supertickets.studies.draws import ByLevel
from supertickets.studies.find import Find
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.search_budget import Whole, check_budget, prices_of, readable, whole_of

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GRID: dict[str, Any] = {"levels": LEVELS, "control": "none", "seeds": 3}


def clear(trial: Trial) -> Made:
    """Tickets are best at 40 %, by far."""
    kept = forward_flops(TASK.shape, trial.ticket, 1, 32) / 1e5
    of_levels = {forward_flops(TASK.shape, one, 1, 32) / 1e5: level for level, one in tickets().items()}
    level = of_levels.get(kept, 0.0)
    return made(trial, 0.7 if not level else 0.85 - 0.5 * abs(level - 0.4), EPOCHS)


def equal(trial: Trial) -> Made:
    """No ticket is better than the dense model."""
    return made(trial, 0.7, EPOCHS)


@cache
def tickets() -> dict[float, Any]:
    return dict(ByLevel(settings(search="none"), TASK.shape).about)


def settings(**more: Any) -> FindSettings:
    return FindSettings(**{"task": "words", "model": "m", "kinds": ("winning",), "epochs": EPOCHS, "patience": 0,
                           "precision": "float32", **GRID, **more})  # fmt: skip


@cache
def searching(method: str, outcome: Any = clear, **more: Any) -> Runs:
    return study(outcome, **{**GRID, "search": method, **more})


def findings(runs: Runs) -> FindFindings:
    return Find().analyse(runs, FindSettings(**{name: of for name, of in runs.settings.items() if name != "study"}))


def search_of(runs: Runs) -> Searched:
    found = findings(runs).search
    assert found is not None
    return found


@cache
def searched_grid(outcome: Any = clear, **more: Any) -> Grid:
    """The whole grid of the same study, on the half of its dev set that a search sees, with the search's prices."""
    grid = grid_of(record_runs(study(outcome, **{**GRID, **more})), "words")
    prices = prices_of(tickets(), TASK.shape)
    assert grid.levels == tuple(prices)
    return replace(grid.of_examples(half_for_search(EXAMPLES)), prices=np.array([*prices.values()]))


def asks(runs: Runs) -> list[set[Ask]]:
    """What each turn trained."""
    turns: dict[int, set[Ask]] = defaultdict(set)
    for run in runs.every(stage=LOOK, kind="winning"):
        if run.trial is not None:
            labels = run.step.labels
            turns[labels[TURN]].add(Ask(LEVELS.index(labels["level"]), labels["seed"], labels[EPOCH]))
    return [turns[turn] for turn in sorted(turns)]


@pytest.mark.parametrize("outcome", [clear, equal])
@pytest.mark.parametrize("budget", [0.25, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_a_search_is_the_replay_of_its_method_on_the_whole_grid(method: str, budget: float, outcome: Any) -> None:
    runs = searching(method, outcome, budget=str(budget))
    grid = searched_grid(outcome)
    played = replay(METHODS[method], grid, budget)
    assert asks(runs) == [set(turn) for turn in played.asks]
    found = search_of(runs)
    assert found.ended
    assert found.level == LEVELS[played.answer.level]
    assert found.rivals == tuple(sorted(LEVELS[place] for place in played.answer.rivals))
    assert (found.spent, found.with_level) == pytest.approx((played.cost, played.whole_cost))
    other = replay(METHODS[method], replace(grid, winning=np.roll(grid.winning, 3, axis=0)), budget)  # control
    assert outcome is equal or other.answer.level != played.answer.level


@pytest.mark.parametrize("method", METHODS)
def test_its_trials_are_the_grids_and_it_keeps_to_its_budget(method: str) -> None:
    kinds = ("winning", "random", "losing")
    runs, grid = searching(method, kinds=kinds, budget="25%"), study(clear, **{**GRID, "kinds": kinds})
    keys = {run.trial.key for run in runs.runs if run.trial is not None}
    of_grid = {run.trial.key for run in grid.runs if run.trial is not None}
    assert keys < of_grid
    found = search_of(runs)
    level = found.level
    for kind in kinds:
        assert {run.step.labels["level"] for run in runs.only(stage=None).where(kind=kind)} == {level}
        assert len(runs.only(stage=None).where(kind=kind)) == 3
    trained: dict[str, int] = {}
    for run in runs.every(kind="winning"):
        if run.trial is not None:
            epoch = int(run.step.labels.get(EPOCH, EPOCHS))
            trained[run.trial.key] = max(epoch, trained.get(run.trial.key, 0))
    price = {run.trial.key: forward_flops(TASK.shape, run.trial.ticket, 1, 32) for run in runs.runs if run.trial}
    whole = sum(forward_flops(TASK.shape, run.trial.ticket, 1, 32) for run in grid.where(kind="winning") if run.trial)
    spent = sum(price[key] * epochs for key, epochs in trained.items()) / (whole * EPOCHS)
    assert found.with_level == pytest.approx(spent, rel=0.05)  # tickets of a level differ a little by seed
    assert 0.1 < spent <= 0.25 * 1.05
    assert len(runs.where()) < len(grid.where()) / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_is_stopped_says_what_it_knows(method: str) -> None:
    before = searching(method, stop=2)
    assert not search_of(before).ended
    assert "no level is known" in Find().standing(before, settings(search=method))
    begun = searching(method, stop=8)  # the dense runs, the first turn, and a part of what follows
    so_far = findings(begun)
    found = so_far.search
    assert found is not None
    assert len(found.turns) >= 1
    assert found.level in LEVELS
    assert found.over == {}
    assert "the best level so far is" in so_far.verdict
    assert "goes on with it" in so_far.verdict
    whole = findings(searching(method))
    last = whole.search
    assert last is not None
    assert last.turns.iloc[: len(found.turns)].equals(found.turns)
    assert "so far" not in last.sentence
    assert last.why in whole.verdict


def test_the_gain_is_on_examples_that_the_search_did_not_see() -> None:
    half, rest = half_for_search(EXAMPLES), half_for_gain(EXAMPLES)
    assert sorted([*half, *rest]) == [*range(EXAMPLES)]
    found = search_of(searching("halving"))
    gain = found.over["dense"]
    assert gain.mean > 5
    assert gain.differences is not None
    assert gain.differences.shape == (3, len(rest))

    def without(trial: Trial, lost: Any) -> Made:
        came = clear(trial)
        if trial.ticket.is_full:
            return came
        said = came.said.copy()  # type: ignore[union-attr]
        said[:, lost] = said[:, lost, ::-1]
        return replace(came, said=said)

    lost = search_of(searching("halving", lambda trial: without(trial, rest)))
    assert lost.level == found.level
    assert lost.over["dense"].mean < -20
    assert search_of(searching("halving", lambda trial: without(trial, half))).over["dense"].mean > 0  # control


@pytest.mark.slow
def test_a_level_found_by_luck_gains_nothing() -> None:
    seen_gains, gains = [], []
    for first in range(0, 60, 3):
        runs = searching("halving", equal, first_seed=first, budget="0.6")
        found = search_of(runs)
        gains.append(found.over["dense"].mean)
        winning, dense = (
            np.mean([seen(TASK, run.result, EPOCHS).mean(axis=1).max() for run in runs.only(stage=None).where(**of)])
            for of in ({"kind": "winning", "level": found.level}, {"kind": "dense"})
        )
        seen_gains.append(winning - dense)
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert abs(np.mean(gains)) < 3 * error
    assert np.mean(seen_gains) > 3 * np.std(seen_gains, ddof=1) / np.sqrt(len(gains))  # control: where it was chosen


def test_seeds_that_no_look_has_seen_are_shown_apart() -> None:
    runs = searching("halving")
    found = findings(runs)
    assert found.search is not None
    assert found.search.new_seeds is not None
    looked = {ask.seed for turn in asks(runs) for ask in turn}
    assert {0} <= looked < {0, 1, 2}
    assert set(found.search.new_seeds.seeds) == {0, 1, 2} - looked
    assert "looked at no ticket" in found.verdict


@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_diverges_is_never_the_best(method: str) -> None:
    before = searching(method)
    best = search_of(before).level
    (run,) = before.only(stage=None).where(kind="winning", level=best or 0.0, seed=0)

    def breaks(trial: Trial) -> Made:
        return made(trial, 0.7, 0, status="diverged") if trial.key == run.result.key else clear(trial)

    found = search_of(searching(method, breaks))
    assert found.ended
    assert found.level is not None
    assert found.level != best


def test_a_training_that_fails_stops_the_search() -> None:
    runs = searching("halving", lambda trial: None if not trial.ticket.is_full and trial.seed == 0 else clear(trial))
    assert not search_of(runs).ended
    assert runs.failures
    assert not runs.only(stage=None).where(kind="winning")


def test_what_only_the_whole_grid_says_is_not_said() -> None:
    runs = searching("racing", kinds=("winning", "random"))
    found = findings(runs)
    assert found.paper is None
    assert found.main_test is not None
    assert "phase transition" not in found.verdict
    assert found.supers.empty  # nor are they in tables of several studies
    assert found.remaining == ()
    assert "are not computed from a part of them" in found.verdict
    assert "random ones score" in found.verdict
    assert {name for name, table in found.tables().items() if len(table)} == {"means", "search"}
    titles = {section.title: section for section in find_sections(found, runs)}
    assert "Phases" not in titles
    page = "".join(block.__html__() for block in titles["Search"].blocks)
    assert "to epoch" in page
    assert found.search is not None
    assert found.search.why in page
    grid = study(clear, **GRID)
    whole = Find().analyse(grid, settings())
    assert whole.search is None
    assert "Phases" in {section.title for section in find_sections(whole, grid)}  # control


def test_the_dry_run_says_how_much_is_trained_at_most() -> None:
    said = Find().outlook(settings(search="halving", kinds=("winning", "random")), (TASK,))
    assert "at most 0.25 of what all 24 trainings of them cost" in said
    assert "then follow 3 trainings of random tickets" in said
    assert "--search" not in Find().outlook(settings(), (TASK,))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "share"),
    [
        ("0.25", 0.25), ("25%", 0.25), ("6trainings", 0.25), ("1 training", 1 / 24), (".5", 0.5),
        ("1.8e14flops", 0.25), ("1.8e14 FLOPs", 0.25), ("2.5hours", 0.5), ("1hour", 0.2), ("1h", 0.2),
    ],
)  # fmt: skip
def test_budgets_are_read(budget: str, share: float) -> None:
    assert Whole(24, 72.0, 1e13, seconds=250.0).share(readable(budget)) == pytest.approx(share)
    before = Whole(24, 72.0, 1e13).share(readable(budget))
    assert before is None if "h" in budget else before == pytest.approx(share)


@pytest.mark.parametrize("budget", ["2days", "0flops", "1.5", "0", "150%", "-1", "much", ""])
def test_other_budgets_are_refused(budget: str) -> None:
    with pytest.raises(ValidationError, match=r"expected a fraction .* or of hours of training"):
        settings(search="halving", budget=budget)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kinds": ("random",)}, "winning"),
        ({"levels": (0.0, 0.3)}, "at least two levels"),
        ({"schedule": "iterative"}, "--schedule iterative"),
        ({"target": ("parameters=0.8",)}, "--target"),
        ({"soup": 2}, "--soup"),
        ({"teacher": "dense"}, "--teacher dense"),
        ({"control": "equal-budget"}, "--control equal-budget"),
        ({"control": "best-of-k"}, "--control best-of-k"),
        ({"task": "mlm"}, "language modelling"),
        ({"design": "narrow", "levels": (0.1,)}, "--design narrow"),
    ],
)
def test_what_a_search_is_not_worked_out_for_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(search="halving", **more)


def checked(budget: str, dense: Sequence[Any] = ()) -> None:
    asked = settings(search="halving", budget=budget)
    prices = prices_of(tickets(), TASK.shape)
    check_budget(asked, prices, whole_of(asked, TASK.shape, TASK.train, prices, dense))


def ran(seconds: float) -> Any:
    """A dense run whose epochs took so long, and half as long again the scoring."""
    cost = {"seconds": EPOCHS * seconds * 1.5, "flops": 3e9, "scoring_flops": 1e9}
    return SimpleNamespace(cost=cost, epochs=[{}] * EPOCHS)


@pytest.mark.parametrize(("unit", "less"), [("", 0.99), ("trainings", 0.8), ("flops", 0.98), ("hours", 0.98)])
def test_a_budget_that_pays_for_no_search_names_the_smallest(unit: str, less: float) -> None:
    dense = [ran(40), ran(60)]
    with pytest.raises(TicketError, match="does not pay for a first look at two levels") as error:
        checked(f"1e-3{unit}", dense)
    said = str(error.value).rsplit("expected at least ", 1)[1].removesuffix(".")
    assert said.endswith(unit)
    checked(said, dense)
    with pytest.raises(TicketError, match="does not pay"):
        checked(f"{float(said.removesuffix(unit)) * less:g}{unit}", dense)  # control
    if unit:
        with pytest.raises(TicketError, match="nothing is left out"):
            checked(f"1e20{unit}", dense)


def test_hours_are_those_of_the_dense_runs_pace() -> None:
    checked("1e-9hours")  # not known before they have ended
    asked, prices = settings(search="halving"), prices_of(tickets(), TASK.shape)
    whole = whole_of(asked, TASK.shape, TASK.train, prices, [ran(40), ran(60)])
    assert whole.seconds == pytest.approx(50)
    hours = 0.3 * sum(prices.values()) * asked.seeds * asked.epochs * 50 / 3600
    assert whole.share(f"{hours}hours") == pytest.approx(0.3)


def test_flops_are_those_that_the_dense_runs_took() -> None:
    asked, prices = settings(search="halving"), prices_of(tickets(), TASK.shape)
    whole = whole_of(asked, TASK.shape, TASK.train, prices, [ran(40), ran(60)])
    assert whole.flops == pytest.approx(2e9 / EPOCHS)
    # Before they have ended, only what is wrong for texts of any length is refused.
    short, long = (whole_of(asked, TASK.shape, TASK.train, prices, tokens=tokens) for tokens in (3, 128))
    for share, said in ((0.01, "does not pay"), (0.3, None), (0.99, None)):
        for whole in (short, long):
            budget = settings(search="halving", budget=f"{share * whole.epochs * whole.flops}flops")
            if said and whole is short:
                with pytest.raises(TicketError, match=said):
                    check_budget(budget, prices, long, short)
            else:
                check_budget(budget, prices, long, short)
    with pytest.raises(TicketError, match="nothing is left out"):
        check_budget(settings(search="halving", budget=f"{long.epochs * long.flops}flops"), prices, long, short)


def test_a_budget_that_turns_out_not_to_pay_is_said_where_a_study_is_looked_at() -> None:
    runs = searching("halving", budget="1e-9hours")
    assert [run.status for run in runs.every(kind="dense")] == ["finished"] * 3
    assert "it does not pay for a first look" in Find().standing(runs, settings(search="halving", budget="1e-9hours"))
    with pytest.raises(TicketError, match="does not pay for a first look"):
        findings(runs)
    assert "does not pay" not in Find().standing(searching("halving"), settings(search="halving"))  # control


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_in_flops_or_hours_buys_the_same_search(method: str) -> None:
    asked, prices = settings(search=method), prices_of(tickets(), TASK.shape)
    by_share = searching(method, budget="0.4")
    dense = [run.result for run in by_share.only(stage=None).where(kind="dense")]
    whole = whole_of(asked, TASK.shape, TASK.train, prices, dense)
    assert whole.seconds is not None
    for one in (f"{0.4 * whole.epochs * whole.flops!r}flops", f"{0.4 * whole.epochs * whole.seconds / 3600!r}hours"):
        assert asks(searching(method, budget=one)) == asks(by_share)
    assert asks(searching(method, budget="0.25")) != asks(by_share)  # control


@pytest.mark.parametrize("method", METHODS)
def test_short_texts_leave_no_turn_unplanned(method: str) -> None:
    """A budget in FLOPs pays for more than it would if texts had 32 tokens, which is taken before they are read."""

    def short(trial: Trial) -> Made:
        one = equal(trial)
        return replace(
            one, cost={**one.cost, **{name: 0.2 * one.cost.get(name, 0.0) for name in ("flops", "scoring_flops")}}
        )

    by_share = searching(method, short, budget="0.6")
    dense = [run.result for run in by_share.only(stage=None).where(kind="dense")]
    whole = whole_of(settings(), TASK.shape, TASK.train, prices_of(tickets(), TASK.shape), dense)
    runs = searching(method, short, budget=f"{0.6 * whole.epochs * whole.flops!r}flops")
    assert search_of(runs).ended
    assert asks(runs) == asks(by_share)


def test_what_was_not_tested_is_not_told_apart() -> None:
    turns = pd.DataFrame([{"turn": 1}])
    tested, halved = (Searched(name, 0.2, LEVELS, turns, 0.1, ended=True) for name in ("racing", "halving"))
    assert "; all others are told apart from it; " in tested.sentence
    assert "; all others were dropped, without a test; " in halved.sentence
    more = replace(halved, untrained=(0.2,), lost=(0.3,)).sentence
    assert (
        "; all others that were trained were dropped, without a test; left out, as a training diverged: 30%; " in more
    )
    assert "never trained: 20%" in more


def test_a_search_of_as_much_as_there_is_saves_nothing() -> None:
    prices = {0.2: 0.8, 0.5: 0.5}
    asked = settings(levels=(0.2, 0.5), seeds=1, epochs=1, search="curve", budget="0.9")
    with pytest.raises(TicketError, match="it saves nothing of 2 trainings in all"):
        check_budget(asked, prices, whole_of(asked, TASK.shape, TASK.train, prices))


def test_a_search_without_a_dense_run_says_so() -> None:
    def lost(trial: Trial) -> Made:
        return clear(trial) if trial.seed != 1 else made(trial, 0.7, EPOCHS, "diverged")

    runs = searching("halving", lost)
    assert "cannot begin, since the dense training of seed 1 diverged" in search_of(runs).sentence
