"""Soups of tickets: members that share initial weights, means of their weights, and what is said of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import supertickets
from helpers.find_records import TASK, Made, made, study
from helpers.study_files import contents
from helpers.trials import make_trial, step_of
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.find import FindFindings, analyse_find
from supertickets.evidence.losses import mean_loss
from supertickets.evidence.runs import Runs
from supertickets.evidence.soup import Soups
from supertickets.lab import Lab, Trial
from supertickets.lab.jobs import Job
from supertickets.lab.on_ray import _files_of
from supertickets.lab.outcome import WEIGHTS, Outcome, load_outcome
from supertickets.lab.steps import Done, Step
from supertickets.lab.trial import Mean
from supertickets.lab.workbench import Workbench
from supertickets.reports.find import find_sections
from supertickets.studies.folder import status
from supertickets.studies.plan import plan_study
from supertickets.studies.run import Result
from supertickets.surgery.averaging import mean_weights
from supertickets.tickets import Ticket
from supertickets.training.loop import Trainer

CUT = Ticket(heads=np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool), ffns=np.array([1, 0, 1], bool))


# --- means ------------------------------------------------------------------------------------------------------------


def test_a_mean_is_that_of_numpy_in_float64() -> None:
    rng = np.random.default_rng(0)
    models = [{name: rng.normal(size=(3, 4)) for name in ("a", "b")} for _ in range(3)]
    shares = [0.5, 0.3, 0.2]
    tensors = [{name: torch.from_numpy(value) for name, value in model.items()} for model in models]
    found = mean_weights(iter(tensors), shares)
    for name in ("a", "b"):
        naive = np.average([model[name] for model in models], axis=0, weights=shares)
        np.testing.assert_allclose(found[name].numpy(), naive, rtol=1e-14)
        assert np.abs(found[name].numpy() - np.mean([model[name] for model in models], axis=0)).max() > 1e-3  # control


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_the_mean_of_copies_is_the_model_bit_for_bit(copies: int) -> None:
    model = {"weight": torch.randn(50, 50, generator=torch.Generator().manual_seed(1)), "place": torch.arange(4)}
    found = mean_weights([model] * copies, [1 / copies] * copies)
    assert found.keys() == model.keys()
    assert all(torch.equal(found[name], model[name]) and found[name].dtype == model[name].dtype for name in model)
    assert not torch.equal(mean_weights([model, model], [0.5, 0.4])["weight"], model["weight"])  # control


def test_what_has_no_mean_is_refused() -> None:
    one = {"weight": torch.zeros(2), "place": torch.arange(2)}
    for other in ({**one, "weight": torch.zeros(3)}, {"weight": torch.zeros(2)}, {**one, "place": torch.arange(2) + 1}):
        with pytest.raises(ValueError, match="mean"):
            mean_weights([one, other], [0.5, 0.5])


# --- trials -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["dense", "cut"])
def trial(request: pytest.FixtureRequest, tiny_model: Path, words: dict[str, Path]) -> Trial:
    found = make_trial(tiny_model, words, learning_rate=1e-2)
    if request.param == "dense":
        return found
    return found.but(tasks=(found.tasks[0].model_copy(update={"ticket": CUT}),))


def test_the_first_member_is_todays_trial(trial: Trial) -> None:
    assert trial.but(member=0).key == trial.key
    assert "member" not in trial.content()
    assert "mean" not in trial.content()
    assert trial.course_seed == trial.seed
    keys = {trial.but(member=member).key for member in range(4)}
    assert len(keys) == 4
    seeds = {trial.but(seed=seed, member=member).course_seed for seed in range(30) for member in range(1, 5)}
    assert len(seeds) == 120
    assert not seeds & set(range(100_000))  # no other seed's course


@pytest.mark.parametrize("masks", ["keyed", "sequential"])
def test_members_begin_alike_and_are_trained_otherwise(trial: Trial, masks: str) -> None:
    def begun(trial: Trial) -> Trainer:
        recipe = trial.recipe.model_copy(update={"dropout_masks": masks})
        return bench.trainer(Job(trial.but(recipe=recipe), Path(), False, ""))

    bench = Workbench("cpu")
    first, again, other = (begun(trial.but(member=member)) for member in (0, 0, 1))
    weights = [one.learners[0].model.state_dict() for one in (first, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    orders = [[rows.tolist() for _, rows in one._orders[0]] for one in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(row for rows in orders[0] for row in rows) == sorted(row for rows in orders[2] for row in rows)
    rows = first._orders[0][0]
    losses = [one._update(*rows)["loss"] for one in (first, again, other)]  # of the same examples
    assert losses[0] == losses[1] != losses[2]
    new = begun(trial.but(seed=1)).learners[0].model.state_dict()
    assert not torch.equal(new["classifier.weight"], weights[0]["classifier.weight"])  # control: another seed's


def trained(lab: Lab, *trials: Trial) -> list[Outcome]:
    return [run.result for run in lab.run([step_of(trial, keep="yes") for trial in trials]).runs]


def mean_of(outcomes: list[Outcome], shares: tuple[float, ...]) -> Trial:
    starts = tuple(outcome.start(0) for outcome in outcomes)
    return outcomes[0].trial.but(mean=Mean(starts=starts, shares=shares))


def weights_of(outcome: Outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.folder / WEIGHTS)


def test_a_soup_of_copies_is_the_training_itself(trial: Trial, tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        (one,) = trained(lab, trial)
        (soup,) = trained(lab, mean_of([one] * 3, (1 / 3,) * 3))
    assert np.array_equal(soup.predictions()["dev"][0], one.predictions()["dev"][one.best_place])
    assert soup.score == one.score
    assert [(entry["epoch"], entry["loss"]) for entry in soup.epochs] == [(0, None)]
    mine, theirs = weights_of(soup), weights_of(one)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert soup.cost["parameters"] == one.cost["parameters"]
    assert 0 < soup.cost["flops"] < one.cost["flops"]


def test_a_soup_has_the_mean_of_its_members_weights(trial: Trial, tmp_path: Path) -> None:
    """And it is no member: members with other output layers give another one (control)."""
    with Lab(tmp_path) as lab:
        members = trained(lab, trial, trial.but(member=1), trial.but(seed=5))
        soup, aside, strange = trained(
            lab, *(mean_of(members[:2], shares) for shares in ((0.5, 0.5), (0.75, 0.25))),
            mean_of([members[0], members[2]], (0.5, 0.5)),
        )  # fmt: skip
    assert len({one.key for one in (soup, aside, strange)}) == 3
    for found, of, shares in ((soup, members[:2], (0.5, 0.5)), (aside, members[:2], (0.75, 0.25))):
        every = [weights_of(member) for member in of]
        for name, value in weights_of(found).items():
            naive = sum(share * one[name].double() for share, one in zip(shares, every, strict=True))
            torch.testing.assert_close(value.double(), naive, rtol=1e-6, atol=1e-9)
    layer = "classifier.weight"
    assert not torch.equal(weights_of(soup)[layer], weights_of(members[0])[layer])
    assert not torch.equal(weights_of(soup)[layer], weights_of(strange)[layer])
    outputs = [one.predictions()["dev"][one.best_place] for one in (soup, *members, strange)]
    assert all(np.abs(outputs[0] - other).max() > 1e-3 for other in outputs[1:])


def test_what_is_no_mean(trial: Trial, tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        (one,) = trained(lab, trial)
    start = one.start(0)
    for starts, shares in (((start,), (1.0,)), ((start, start), (0.5, 0.6)), ((start, start), (1.0,))):
        with pytest.raises(ValidationError):
            Mean(starts=starts, shares=shares)
    mean = Mean(starts=(start, start), shares=(0.5, 0.5))
    for wrong in ({"member": 1}, {"start": start}, {"initial": "random"}):
        with pytest.raises(ValidationError, match="nothing else is done with it"):
            trial.but(mean=mean, **wrong)
    other = Ticket.full(3, 4) if not trial.ticket.is_full else CUT
    with pytest.raises(ValidationError, match="the trial's own ticket"):
        trial.but(mean=mean, tasks=(trial.tasks[0].model_copy(update={"ticket": other}),))


def test_weights_come_by_their_hash_where_folders_cannot_be_reached(trial: Trial, tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        members = trained(lab, trial, trial.but(member=1))
        (here,) = trained(lab, mean_of(members, (0.5, 0.5)))
    asked = mean_of(members, (0.5, 0.5))
    sent = {digest: path.read_bytes() for digest, path in _files_of(asked).items()}
    assert sent.keys() == {member.files[WEIGHTS] for member in members}
    shutil.move(tmp_path / "trials", tmp_path / "gone")
    there = Workbench("cpu").run(Job(asked, tmp_path / "there" / asked.key, False, "", sent=sent), lambda event: None)
    assert np.array_equal(
        there.predictions()["dev"], replace(here, folder=tmp_path / "gone" / here.key).predictions()["dev"]
    )
    del sent[members[1].files[WEIGHTS]]
    with pytest.raises(TicketError, match="were deleted"):
        Workbench("cpu").run(Job(asked, tmp_path / "again" / asked.key, False, "", sent=sent), lambda event: None)


def test_damaged_weights_are_made_again(trial: Trial, tmp_path: Path) -> None:
    members = [step_of(trial.but(member=member)) for member in range(2)]

    def steps() -> list[Step]:
        def make(done: Any) -> Trial:
            return mean_of([done[member] for member in members], (0.5, 0.5))

        return [*members, Step({"kind": "soup"}, make, starts_from=tuple(members), evaluates=True)]

    with Lab(tmp_path) as lab:
        execution = lab.run(steps())
    assert (execution.total, execution.evaluations) == (2, 1)
    soup = execution.runs[2].result
    kept = [
        (tmp_path / "trials" / member.make.key / WEIGHTS).exists()
        for member in members
        if isinstance(member.make, Trial)
    ]
    assert not any(kept)
    before = soup.predictions()["dev"]
    (soup.folder / "outcome.json").unlink()  # its members' weights are gone by now
    with Lab(tmp_path) as lab:
        again = lab.run(steps()).runs[2].result
    assert np.array_equal(again.predictions()["dev"], before)
    assert not list(tmp_path.glob(f"*/*/{WEIGHTS}"))


# --- losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_torchs() -> None:
    rng, functional = np.random.default_rng(2), torch.nn.functional
    logits, classes = rng.normal(size=(20, 3)) * 4, rng.integers(0, 3, 20)
    expected = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(classes))
    assert mean_loss(("accuracy",), classes, logits) == pytest.approx(float(expected), rel=1e-12)
    labels = rng.integers(0, 2, (20, 3))
    expected = functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels).double())
    assert mean_loss(("micro_f1",), labels, logits) == pytest.approx(float(expected), rel=1e-12)
    numbers = rng.normal(size=20)
    expected = functional.mse_loss(torch.from_numpy(logits[:, 0]), torch.from_numpy(numbers))
    assert mean_loss(("pearson", "spearman"), numbers, logits[:, :1]) == pytest.approx(float(expected), rel=1e-12)
    blocks = np.array([[4, 1, 8.0], [6, 1, 3.0]])
    assert mean_loss(("token_accuracy", "perplexity"), np.zeros(2), blocks) == 1.1
    assert np.isnan(mean_loss(("exact_match", "answer_f1"), np.zeros(2), blocks))


# --- what is said -----------------------------------------------------------------------------------------------------

LEVELS = (0.1, 0.3, 0.5)


def invented(trial: Trial, lost: Callable[[Trial], bool] = lambda trial: False) -> Made | None:
    """Tickets' soups gain 4 points over their members, dense ones 1; on the line it gets worse in tickets alone."""
    ability, better = (0.70, 0.01) if trial.ticket.is_full else (0.76, 0.04)
    if trial.mean is not None and trial.mean.shares[0] == 1 / 3:
        ability += better
    elif trial.mean is not None and not trial.ticket.is_full:
        ability -= 0.2
    found = made(trial, ability, 1 if trial.mean is not None else trial.recipe.epochs)
    found = replace(found, files={WEIGHTS: trial.key}, folder=Path("/nowhere"))
    return replace(found, status="diverged", best_epoch=None) if lost(trial) else found


def told(lost: Callable[[Trial], bool] = lambda trial: False, **more: Any) -> Soups:
    settings = {"control": "none", "levels": LEVELS, "soup": 3, **more}
    found = analyse_find(study(lambda trial: invented(trial, lost), **settings)).soups
    assert found is not None
    return found


@pytest.fixture(scope="module")
def souped() -> tuple[Runs, FindFindings]:
    """A study with soups, and what it shows."""
    runs = study(invented, control="none", levels=LEVELS, soup=3)
    return runs, analyse_find(runs)


def test_gains_are_those_of_the_table(souped: tuple[Runs, FindFindings]) -> None:
    runs, found = souped[0], souped[1].soups
    assert runs.complete
    table = runs.table
    assert found is not None
    of_soup = table[(table["stage"] == "soup") & table["member"].isna() & table["line"].isna()]
    assert len(of_soup) == 3 * (1 + 3)
    trainings = table[table["line"].isna()].drop(of_soup.index)
    for (kind, against), rows in found.gains.groupby(["kind", "against"]):
        for row in rows.itertuples():
            soup = of_soup[(of_soup["kind"] == kind) & (of_soup["level"] == row.level)].set_index("seed")["score"]
            if against == "mean of trainings":
                own = trainings[(trainings["kind"] == kind) & (trainings["level"] == row.level)]
                assert (own.groupby("seed").size() == 3).all()
                over = own.groupby("seed")["score"].mean()
            else:
                dense = of_soup if against == "dense soup" else trainings[trainings["stage"].isna()]
                over = dense[dense["kind"] == "dense"].set_index("seed")["score"]
            assert row.difference == pytest.approx((soup - over).mean())
            assert row.seeds == 3
            assert row.low < row.difference < row.high
    pooled = of_soup[(of_soup["kind"] == "winning") & of_soup["level"].isin([0.1, 0.3])].groupby("seed")["score"].mean()
    dense = of_soup[of_soup["kind"] == "dense"].set_index("seed")["score"]
    assert found.pooled["dense soup"].mean == pytest.approx((pooled - dense).mean())
    assert found.pooled["dense soup"].p < 0.05
    assert len(found.gains) == 3 * 3 + 2


def test_barriers_are_highest_losses_over_the_mean_of_both_ends(souped: tuple[Runs, FindFindings]) -> None:
    runs, found = souped[0], souped[1].soups
    assert found is not None

    def loss(**labels: Any) -> float:
        (run,) = runs.where(**labels)
        logits = torch.from_numpy(run.result.predictions()["dev"][run.result.best_place]).double()
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(TASK.targets)))

    values = []
    for seed in range(3):
        labels = {"kind": "winning", "level": 0.3, "seed": seed}
        ends = loss(**labels, stage=None), loss(**labels, stage="soup", member=1)
        between = [loss(**labels, stage="soup", line=share) for share in (0.25, 0.5, 0.75)]
        values.append(max(*ends, *between) - np.mean(ends))
    row = found.barriers[(found.barriers["kind"] == "winning") & (found.barriers["level"] == 0.3)].iloc[0]
    assert row["barrier"] == pytest.approx(np.mean(values))
    assert row["barrier_std"] == pytest.approx(np.std(values, ddof=1))
    assert row["error_barrier"] > 10
    assert row["middle"] > 0.05
    assert found.barrier("dense", 0.0) < 0.05 < found.barrier("winning")
    assert len(found.lines) == 5 * 3 * 4


def test_the_verdict_and_the_page_tell_of_soups(souped: tuple[Runs, FindFindings]) -> None:
    runs, findings = souped
    said = findings.verdict
    assert "On average over the light levels (10% to 30%), the soup of a winning ticket" in said
    costs = "A soup costs 3 trainings, of the ticket or of the dense model, and is one model to run"
    assert f"{costs} (--keep all keeps its weights)." in said
    assert "the loss barrier on the dev set" in said
    assert "missing" not in said
    (section,) = (one for one in find_sections(findings, runs) if one.title == "Soups")
    page = "".join(block.__html__() for block in section.blocks)
    assert "mean of trainings" in page
    assert "loss barrier" in page
    assert set(findings.tables()) >= {"soups", "barriers"}
    plain = analyse_find(study(invented, control="none", levels=LEVELS))
    assert plain.soups is None
    assert "soup" not in plain.verdict
    for name in ("paper", "cross_fitted", "phases"):  # soups are apart from the grid
        assert repr(getattr(plain, name)) == repr(getattr(findings, name))


def test_a_ticket_whose_training_diverged_has_no_soup() -> None:
    found = told(lambda trial: trial.member == 2 and trial.seed == 1 and not trial.ticket.is_full)
    assert (found.asked, found.missing) == (12, 3)
    assert found.seeds == 2
    rows = found.gains[found.gains["kind"] == "winning"]
    assert (rows["seeds"] == 2).all()
    assert (found.barriers["seeds"] == 3).all()  # between the first two trainings
    said = analyse_find(study(lambda trial: invented(trial, lambda one: one.member == 1), control="none", soup=3))
    assert "The soups say nothing yet" in said.verdict
    assert "are missing, since trainings have diverged" in said.verdict


def test_one_level_and_two_trainings() -> None:
    found = told(levels=(0.1,), soup=2, seeds=1)
    assert found.light == (0.1,)
    assert found.pooled
    assert found.barriers["barrier_std"].isna().all()
    runs = study(invented, control="none", levels=(0.1,), soup=2, seeds=1)
    assert "At level 10%, the soup" in analyse_find(runs).verdict


def test_a_mean_names_the_places_of_its_study_and_not_those_where_its_members_ran() -> None:
    runs = study(invented, control="none", levels=(0.1,), soup=2, seeds=1)
    moved = {
        run.step: replace(run, outcome=replace(run.result, trial=run.result.trial.but(model="gone")))
        for run in runs.runs
    }
    for run in runs.every(stage="soup", member=None):
        assert not isinstance(run.step.make, Trial)
        found = run.step.make(Done(moved.__getitem__))
        assert found is not None
        assert (found.key, found.model) == (run.result.key, "m")


# --- a study ----------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "task": "words", "levels": (0.3, 0.5), "kinds": ("winning", "random"), "epochs": 2, "batch_size": 16,
    "learning_rate": 1e-2, "max_length": 16, "precision": "float32", "workers": 1, "seeds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {**SMALL, "model": str(tiny_model), **words}


@pytest.fixture(scope="module")
def done(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return supertickets.find(asked, soup=3, out=tmp_path_factory.mktemp("soup") / "out")


def test_a_real_study(done: Result, asked: dict[str, Any], tmp_path: Path) -> None:
    table = done.table
    assert (table["status"] == "finished").all()
    own, more = table[table["stage"].isna()], table[table["stage"] == "soup"]
    assert len(own) == 1 + 2 * 2
    assert sorted(set(more["kind"])) == ["dense", "winning"]
    assert len(more) == 3 * (2 + 1 + 3)
    assert len(list((done.folder / "trials").glob(f"*/{WEIGHTS}"))) == 1  # the super ticket's
    plan = plan_study("find", asked, soup=3, out=tmp_path / "none")
    assert plan.trainings == 5 + 3 * 2
    assert plan.evaluations == 3 * 4
    assert plan.steps["trainings"].sum() == plan.trainings
    assert plan.steps["evaluations"].sum() == plan.evaluations
    assert plan.held > 0
    assert "11 trainings take about" in plan.sentence()
    assert "12 means of their weights are evaluated, without training" in plan.sentence()
    again = plan_study("find", asked, soup=3, out=done.folder)
    assert (again.trainings, again.done, again.repeated) == (11, 11, 0)
    found = status(done.folder)
    assert (found["total"], found["done"], found["state"]) == (11, 11, "finished")
    for row in more[more["member"].isna() & more["line"].isna()].itertuples():
        outcome = load_outcome(done.folder / "trials" / row.trial)
        assert outcome is not None
        assert outcome.trial.mean is not None
        (first,) = own[(own["kind"] == row.kind) & (own["level"] == row.level)]["trial"]
        assert outcome.trial.mean.starts[0].trial == first  # the study's own run is a member
        assert outcome.trial.mean.shares == (1 / 3,) * 3
        assert row.remaining == own[own["trial"] == first]["remaining"].iloc[0]
    assert (done.folder / "tables" / "barriers.csv").is_file()
    assert "Soups" in done.report.read_text()


def test_without_soups_a_study_is_what_it_was(done: Result, asked: dict[str, Any], tmp_path: Path) -> None:
    plain = supertickets.find(asked, out=tmp_path / "plain")
    assert "stage" not in plain.table
    own = done.table[done.table["stage"].isna()]
    assert plain.table["trial"].tolist() == own["trial"].tolist()
    pd.testing.assert_series_equal(plain.table["score"], own["score"].reset_index(drop=True))
    assert "evaluations" not in plan_study("find", asked, out=tmp_path / "none").steps
    again = plan_study("find", asked, soup=3, out=tmp_path / "plain")
    assert (again.trainings, again.done, again.repeated, again.evaluations) == (11, 5, 2, 12)  # one is the super ticket
    assert "This counts 2 trainings to repeat, for weights that are not kept." in again.sentence()
    grown = supertickets.find(asked, soup=3, out=tmp_path / "plain")
    assert grown.table.drop(columns="seconds").equals(done.table.drop(columns="seconds"))


def test_a_study_that_was_stopped_ends_with_the_same_bytes(
    done: Result, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, whole = [0], Workbench.run

    def stopping(self: Workbench, job: Job, report: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return whole(self, job, report)

    monkeypatch.setattr(Workbench, "run", stopping)
    for after in (3, 2, 7):  # before the first soup, in the midst of its line, later
        left[0] = after
        with pytest.raises(KeyboardInterrupt):
            supertickets.find(asked, soup=3, out=tmp_path / "stopped")
    left[0] = 0
    supertickets.find(asked, soup=3, out=tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(done.folder)


def test_on_a_built_in_task(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--task entailment --fraction 0.02 --levels 0.5 --kinds winning --seeds 1 --epochs 1 --max-length 16 --soup 2"
    )
    command = ["find", *flags.split(), "--model", str(tiny_model), "--workers", "1", "--precision", "float32"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "At level 50%, the soup of a winning ticket (the mean of the weights of 2 trainings of it)" in said.out
    assert "4 trainings in float32" in said.err
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(table) == 2 * (2 + 1 + 3)
    same = table[(table["line"] == 0.5) | (table["stage"].eq("soup") & table["member"].isna() & table["line"].isna())]
    assert (same.groupby("level")["trial"].nunique() == 1).all()  # the soup of two is the middle of the line


@pytest.mark.slow
def test_with_workers_the_same_bytes(done: Result, asked: dict[str, Any], tmp_path: Path) -> None:
    side_by_side = supertickets.find({**asked, "workers": 2}, soup=3, out=tmp_path / "two")
    assert contents(side_by_side.folder) == contents(done.folder)


def test_weights_of_few_trainings_are_there_at_a_time(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, most = Workbench.run, [0]

    def looking(self: Workbench, job: Job, report: Any) -> Any:
        most[0] = max(most[0], len(list(tmp_path.glob(f"out/trials/*/{WEIGHTS}"))))
        return whole(self, job, report)

    monkeypatch.setattr(Workbench, "run", looking)
    more = {"levels": (0.3, 0.5), "kinds": ("winning",), "epochs": 1}
    supertickets.find({**asked, **more}, soup=2, keep="none", out=tmp_path / "out")
    assert most[0] == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--soup", "1"), "--soup: expected 0 (no soup) or at least 2 trainings, got 1."),
        (("--soup", "-2"), "--soup: expected at least 0, got -2."),
        (("--soup", "x"), "--soup: expected a whole number, got 'x'."),
        (("--soup", "2", "--kinds", "none"), "--soup: it would change nothing, since no tickets are drawn"),
        (("--soup", "2", "--kinds", "random"), "--soup: it would change nothing, since there are no winning tickets"),
        (("--soup", "2", "--levels", "0"), "--soup: it would change nothing, since there are no winning tickets"),
    ],
)
def test_soups_that_cannot_be_are_refused(
    flags: tuple[str, ...], said: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"task": "words", "model": asked["model"], "train-file": asked["train_file"], "dev-file": asked["dev_file"]}
    command = ["find", *(part for name, value in named.items() for part in (f"--{name}", str(value)))]
    assert main([*command, *flags, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
