"""The equal-budget control: what each seed's search has cost is spent on the dense model; what is said of it."""

from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import supertickets
from helpers.find_records import EPOCHS, EXAMPLES, TARGETS, TASK, Made, ability, made, study
from helpers.study_files import contents
from supertickets.cli import main
from supertickets.evidence.budgets import Budget
from supertickets.evidence.find import FindFindings, analyse_find
from supertickets.evidence.resampling import half_weights
from supertickets.evidence.runs import Runs
from supertickets.evidence.statistics import two_way_test
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import load_outcome
from supertickets.lab.steps import Run
from supertickets.lab.trial import Trial
from supertickets.lab.workbench import Workbench
from supertickets.reports.find import find_sections
from supertickets.studies.budget import in_order, recipes
from supertickets.studies.plan import plan_study
from supertickets.studies.run import Result
from supertickets.studies.study import training_flops
from supertickets.training.recipe import Recipe


def tuned_of(runs: Runs, seed: int, wanted: bool = True) -> list[Run]:
    of_seed = [run for run in runs.every(kind="tuned") if run.step.labels["of_seed"] == seed]
    return [run for run in of_seed if run.unwanted is not wanted]


@cache
def usual() -> tuple[Runs, FindFindings]:
    """The made-up study as it is, and what is seen in it."""
    runs = study()
    return runs, analyse_find(runs)


def naive(runs: Runs, seed: int) -> tuple[list[tuple[int, Recipe]], float, float]:
    """What should be trained in a seed of a study without early stopping, its budget, and what it leaves."""
    (dense,) = runs.where(kind="dense", seed=seed)
    budget = dense.result.cost["flops"] + sum(run.result.cost["flops"] for run in runs.where(kind="winning", seed=seed))
    epoch = training_flops(TASK, dense.result.trial.ticket, 1)
    left, trained = budget - EPOCHS * epoch, []
    for own, recipe in islice(in_order(dense.result.trial.recipe, seed), 200):
        if recipe.epochs * epoch <= left:
            trained.append((own, recipe))
            left -= recipe.epochs * epoch
    return trained, budget, left


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(0.1, 0.3, 0.4), (0.4, 0.6), tuple(range(1, 9))])
def test_each_seed_spends_what_its_search_has_used_and_no_more(levels: tuple[float, ...]) -> None:
    runs = study(levels=tuple(level / 10 if level >= 1 else level for level in levels))
    counts = []
    for seed in range(3):
        expected, budget, left = naive(runs, seed)
        tuned = tuned_of(runs, seed)
        assert [(run.result.trial.seed, run.result.trial.recipe) for run in tuned] == expected
        spent = EPOCHS * training_flops(TASK, tuned[0].result.trial.ticket, 1)
        spent += sum(run.result.cost["flops"] for run in tuned)
        assert spent <= budget
        assert left < EPOCHS * training_flops(TASK, tuned[0].result.trial.ticket, 1)  # the next would not have fitted
        assert budget - spent == pytest.approx(left)
        counts.append(len(tuned))
        assert not any(run.result.trial.scoring for run in tuned)
    assert runs.complete
    assert min(counts) == {3: 1, 2: 1, 8: 3}[len(levels)]  # control: a larger budget pays for more


def test_what_is_tried_and_in_which_order() -> None:
    recipe = Recipe(learning_rate=4e-5, batch_size=16, epochs=3)
    tried = recipes(recipe)
    assert {one.learning_rate for one in tried} == {2e-5, 4e-5, 8e-5}
    assert {one.batch_size for one in tried} == {16, 32}
    assert {one.epochs for one in tried} == {3, 5}
    assert len(set(map(repr, tried))) == 12
    assert len(recipes(Recipe(epochs=1))) == 12  # 1.5 epochs are 2
    order = [*islice(in_order(recipe, 7), 11 + 12 + 12)]
    assert {seed for seed, _ in order[:11]} == {7}
    assert recipe not in [one for _, one in order[:11]]  # that is the dense run
    later = [{seed for seed, _ in part} for part in (order[11:23], order[23:])]
    assert [len(seeds) for seeds in later] == [1, 1]
    assert len({7}.union(*later)) == 3
    for part in (order[11:23], order[23:]):
        assert sorted(map(repr, (one for _, one in part))) == sorted(map(repr, tried))
    assert order == [*islice(in_order(recipe, 7), 35)]
    assert [one for _, one in order[:11]] != [one for _, one in islice(in_order(recipe, 8), 11)]
    other = Recipe(learning_rate=4e-5, batch_size=8, epochs=3)
    assert {seed for seed, _ in islice(in_order(other, 7), 12)} == {7}  # nothing of the grid is the dense run


def test_settings_are_in_trials_and_in_the_table() -> None:
    runs, _ = usual()
    table = runs.table[runs.table["kind"] == "tuned"]
    assert len(table) >= 3
    for row in table.itertuples():
        (trial,) = (run.trial for run in runs.every(kind="tuned") if run.trial and run.trial.key == row.trial)
        assert (row.learning_rate, row.batch_size, row.epochs) == (
            trial.recipe.learning_rate, trial.recipe.batch_size, trial.recipe.epochs,
        )  # fmt: skip
        assert row.seed == trial.seed
        assert row.of_seed == trial.seed % 1_000_000


def test_trainings_that_stop_early_leave_more_and_those_that_diverge_cost_what_they_used() -> None:
    def early(trial: Trial) -> Made:
        return made(trial, 0.7, 2 if trial.ticket.is_full and trial.scoring is None else trial.recipe.epochs)

    def diverged(trial: Trial) -> Made:
        first = trial.ticket.is_full and trial.scoring is None and trial.recipe.learning_rate > 5e-5
        return made(trial, 0.7, trial.recipe.epochs, "diverged" if first else "finished")

    levels = (0.1, 0.3, 0.4, 0.5)
    whole, short, broken = (study(outcome, levels=levels, patience=1) for outcome in (made_usual, early, diverged))
    for seed in range(3):
        assert len(tuned_of(short, seed)) > len(tuned_of(whole, seed))
        assert [run.trial for run in tuned_of(broken, seed)] == [run.trial for run in tuned_of(whole, seed)]
        for runs in (whole, short, broken):
            (dense,), winning = runs.where(kind="dense", seed=seed), runs.where(kind="winning", seed=seed)
            tuned = [run.result for run in tuned_of(runs, seed)]
            budget = Budget(dense.result, [run.result for run in winning], tuned)
            assert 0 <= budget.left < budget.expected(EPOCHS)
    seen = analyse_find(broken)
    assert "diverged" in seen.verdict
    assert seen.tuned.diverged


def made_usual(trial: Trial) -> Made:
    return made(trial, 0.7, trial.recipe.epochs)


def test_a_training_that_failed_is_not_replaced_and_its_seed_is_left_out() -> None:
    def failing(trial: Trial) -> Made | None:
        lost = trial.ticket.is_full and trial.scoring is None and trial.seed == 1
        return None if lost else made(trial, ability(trial), trial.recipe.epochs)

    runs = study(failing, levels=tuple(level / 10 for level in range(1, 9)))
    found = analyse_find(runs)
    seen = found.tuned
    assert seen.cross_fitted.seeds == (0, 2)
    assert seen.budgets["failed"].tolist() == [0, 1, 0]
    assert seen.budgets["missing"].tolist()[1] >= 1
    said = found.verdict
    assert "leaves out 1 seed, whose trainings have not all ended: seed 1 (1 tuned failed" in said
    of_its_seeds, of_all = (gain.mean - found.choice.cross_fitted for gain in (seen.search, found.cross_fitted))
    assert of_its_seeds != of_all
    assert f"dense runs with other seeds it is {of_its_seeds:+.2f}, and over the dense model" in said
    assert "leaves out" not in usual()[1].verdict


# --- what is said -----------------------------------------------------------------------------------------------------


@cache
def analysed(tuned: float, **more: Any) -> FindFindings:
    return analyse_find(study(lambda trial: made(trial, ability(trial, tuned), trial.recipe.epochs), **more))


EIGHT = tuple(level / 10 for level in range(1, 9))


def test_gains_are_what_predictions_say() -> None:
    """Against a naive loop: chosen on one half of the examples, counted on the other, for super tickets and tuned."""
    runs = study(lambda trial: made(trial, ability(trial, 0.74), trial.recipe.epochs), levels=EIGHT)
    seen = analyse_find(runs).tuned
    halves = half_weights(EXAMPLES, 50, 0).astype(bool)
    differences = []
    for place, seed in enumerate(range(3)):
        winning = [run.result for run in runs.where(kind="winning", seed=seed)]
        tuned = [
            *(run.result for run in runs.where(kind="dense", seed=seed)),
            *(r.result for r in tuned_of(runs, seed)),
        ]
        by_side = []
        for outcomes, scores in ((winning, seen.cross_fitted.scores), (tuned, seen.cross_fitted.dense)):
            right = np.concatenate([one.said.argmax(axis=2) == TARGETS for one in outcomes])
            counted = np.zeros(EXAMPLES)
            found = []
            for half in range(100):
                best = int(np.argmax([one[halves[half]].mean() for one in right]))
                other = halves[half ^ 1]
                found.append(100 * right[best][other].mean())
                counted[other] += 100 * right[best][other] / 50
            assert scores[place] == pytest.approx(np.mean(found))
            by_side.append(counted)
            whole = 100 * right.mean(axis=1).max()
            assert whole == pytest.approx((seen.paper.scores if outcomes is winning else seen.paper.dense)[place])
        differences.append(by_side[0] - by_side[1])
    test = two_way_test(np.stack(differences), seen.cross_fitted.mean)
    got = seen.cross_fitted.test
    assert (got.low, got.high, got.p) == pytest.approx((test.low, test.high, test.p))
    assert got.high - got.low > 0.1
    alone = analyse_find(runs.only(stage=None))
    assert seen.search.mean == pytest.approx(alone.cross_fitted.mean)  # all seeds are compared
    assert seen.tuning.mean == pytest.approx(seen.search.mean - seen.cross_fitted.mean)


def test_tuning_that_closes_the_gain_is_said_and_tuning_that_does_not() -> None:
    closed, open_, beyond = (analysed(tuned, levels=EIGHT) for tuned in (0.76, 0.7, 0.84))
    for one in (closed, open_, beyond):
        assert one.cross_fitted.test.low > 0  # over the plain dense model there is a gain
    shows = "The study does not show that super tickets are better than tuning."
    above = "Super tickets score higher than a dense model that was tuned with equal compute: the gain is "
    below = "Super tickets score lower than a dense model that was tuned with equal compute: the gain is "
    for one, expected in ((closed, shows), (open_, above), (beyond, below)):
        assert [text in one.verdict for text in (shows, above, below)] == [
            text == expected for text in (shows, above, below)
        ]
    assert closed.tuned.cross_fitted.test.low < 0 < closed.tuned.cross_fitted.test.high
    assert closed.tuned.tuning.mean == pytest.approx(closed.tuned.search.mean, abs=2)
    assert open_.tuned.tuning.mean == pytest.approx(0, abs=2)
    gain, over = closed.tuned.search.mean, closed.tuned.cross_fitted.mean
    said = closed.verdict
    assert f"lower than a dense model that was tuned with equal compute: the gain is {over:+.2f} (" in said
    assert f"over the dense model as it is {gain:+.2f}. The study does not show" in said


def test_gain_for_each_flop() -> None:
    one = analysed(0.76, levels=EIGHT).tuned
    budgets = one.budgets
    dense = EPOCHS * training_flops(TASK, usual()[0].where(kind="dense")[0].result.trial.ticket, 1)
    assert budgets["search"].tolist() == pytest.approx((budgets["budget"] - dense).tolist())
    assert budgets["tuning"].tolist() == pytest.approx((budgets["spent"] - dense).tolist())
    assert one.points["search"] == pytest.approx(one.search.mean / (budgets["search"].mean() / 10**one.power))
    assert one.points["tuning"] == pytest.approx(one.tuning.mean / (budgets["tuning"].mean() / 10**one.power))
    assert 1 <= budgets["search"].mean() / 10**one.power < 10


def test_the_control_is_nowhere_else() -> None:
    """Means, phases, agreement and the super ticket are those of the study without it."""
    (runs, one), other = usual(), analyse_find(study(control="none"))
    assert other.tuned is None
    assert "equal" not in other.verdict.lower()
    pd.testing.assert_frame_equal(one.means, other.means)
    assert repr(one.phases) == repr(other.phases)
    assert one.chosen["trial"] == other.chosen["trial"]
    assert one.cross_fitted.mean == other.cross_fitted.mean
    assert one.paper.test == other.paper.test
    assert one.spread == {}
    page = "".join(str(block.__html__()) for section in find_sections(one, runs) for block in section.blocks)
    assert "tuned dense model over dense model" in page
    assert "not used" in page


def test_a_budget_that_paid_for_nothing_is_said_when_it_turns_out() -> None:
    """The tickets stopped so early that what they used pays for no training of all epochs."""
    runs = study(lambda trial: made(trial, ability(trial), trial.recipe.epochs if trial.ticket.is_full else 1))
    said = analyse_find(runs).verdict
    assert "The equal-budget control has no runs: the FLOPs of the ticket search paid for no further dense" in said
    assert "same compute" not in said
    assert not [run for run in runs.every(kind="tuned") if not run.unwanted]


# --- real studies -----------------------------------------------------------------------------------------------------


SMALL: dict[str, Any] = {
    "task": "words", "levels": (0.2, 0.3, 0.5), "kinds": ("winning",), "epochs": 2, "batch_size": 16,
    "learning_rate": 1e-2, "max_length": 16, "precision": "float32", "workers": 1, "seeds": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {**SMALL, "model": str(tiny_model), **words}


@pytest.fixture(scope="module")
def done(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return supertickets.find(asked, control="equal-budget", out=tmp_path_factory.mktemp("budget") / "out")


def test_a_real_study_spends_its_budget(done: Result, asked: dict[str, Any], tmp_path: Path) -> None:
    table = pd.read_csv(done.folder / "results.csv")
    tuned = table[table["kind"] == "tuned"]
    assert set(tuned["of_seed"]) == {0, 1}
    assert (tuned["status"] == "finished").all()
    for row in done.findings.tuned.budgets.itertuples():
        search = table[(table["seed"] == row.seed) & table["stage"].isna()]["flops"].sum()
        spent = tuned[tuned["of_seed"] == row.seed]["flops"].sum()
        assert row.budget == search
        assert row.tuning == spent
        assert row.spent < row.budget
    plan = plan_study("find", asked, control="equal-budget", out=tmp_path / "none")
    planned = plan.steps[plan.steps["kind"] == "tuned"]["trainings"].sum()
    assert planned == len(tuned)
    assert plan.trainings == len(table)
    assert (done.folder / "tables" / "equal-budget.csv").is_file()
    assert "Equal compute" in done.report.read_text()


def test_the_scoring_is_not_charged_to_the_tuned_dense_model(done: Result, tmp_path: Path) -> None:
    """Without its scoring, the dense training takes what the same training takes that scores nothing."""
    (dense,) = done.table[(done.table["kind"] == "dense") & (done.table["seed"] == 0)].itertuples()
    outcome = load_outcome(done.folder / "trials" / dense.trial)
    assert outcome is not None
    alone = Job(outcome.trial.but(scoring=None), tmp_path / "x", False, "x")
    unscored = Workbench("cpu").run(alone, lambda event: None).cost["flops"]
    (budget,) = done.findings.tuned.budgets.query("seed == 0").itertuples()
    assert budget.spent - budget.tuning == unscored
    assert dense.flops > unscored  # control: scoring takes something


@pytest.mark.slow
def test_a_study_goes_on_with_the_control_and_after_an_interruption(
    done: Result, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supertickets.find(asked, out=tmp_path / "later")
    ran = list[str]()
    whole = Workbench.run

    def counted(self: Workbench, job: Job, report: Any) -> Any:
        if ran[:1] == ["stop"] and len(ran) == 10:  # in the midst of the control
            raise KeyboardInterrupt
        ran.append(job.trial.key)
        return whole(self, job, report)

    monkeypatch.setattr(Workbench, "run", counted)
    tuned = done.table[done.table["kind"] == "tuned"]["trial"]
    supertickets.find(asked, control="equal-budget", out=tmp_path / "later")
    assert sorted(ran) == sorted(tuned)  # nothing of the first study again
    ran[:] = ["stop"]
    with pytest.raises(KeyboardInterrupt):
        supertickets.find(asked, control="equal-budget", out=tmp_path / "stopped")
    ran.clear()
    supertickets.find(asked, control="equal-budget", out=tmp_path / "stopped")
    for name in ("later", "stopped"):
        assert contents(tmp_path / name) == contents(done.folder)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--levels", "0.8"), "take 28% of the FLOPs of a dense training, which pays for no further one; add 0.2 to"),
        (("--levels", "0"), "add 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8 to --levels"),
        (("--kinds", "random"), "--kinds random has none; use --kinds winning,random or --control none"),
        (("--kinds", "none"), "--control: it would change nothing, since no tickets are drawn"),
    ],
)
def test_a_control_that_cannot_be_is_refused(
    flags: tuple[str, ...],
    said: str,
    asked: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"task": "words", "model": asked["model"], "train-file": asked["train_file"], "dev-file": asked["dev_file"]}
    command = ["find", *(part for name, value in named.items() for part in (f"--{name}", str(value)))]
    more = ["--epochs", "4", "--out", str(tmp_path / "out"), "--control", "equal-budget"]
    assert main([*command, *more, *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
