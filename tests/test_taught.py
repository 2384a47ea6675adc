"""Taught tickets in studies of `find`: what is trained, what is compared, what is said and what is refused."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import supertickets
from helpers.find_records import EXAMPLES, TARGETS, Made, ability, made, study
from helpers.study_files import contents
from supertickets.errors import TicketError
from supertickets.evidence.examples import BY_EXAMPLE
from supertickets.evidence.find import FindFindings, analyse_find
from supertickets.evidence.gains import gain
from supertickets.evidence.narrow import narrow_gains
from supertickets.evidence.resampling import half_weights
from supertickets.evidence.runs import Runs
from supertickets.evidence.statistics import two_way_test
from supertickets.evidence.tables import AnalysedStudy, names_of, task_average
from supertickets.evidence.trend import trends
from supertickets.lab.outcome import LOGITS, WEIGHTS, load_outcome
from supertickets.lab.trial import Trial
from supertickets.reports.find import find_sections
from supertickets.studies.plan import plan_study
from supertickets.studies.report import report
from supertickets.studies.run import Result

KINDS = ("winning", "random", "losing")


def taught_study(dense: float = 0.74, tickets: float = 0.78, **more: Any) -> Runs:
    """A made-up study whose taught dense model and taught tickets are as able as told; the dense model is at 0.7."""

    def outcome(trial: Trial) -> Made:
        able = ability(trial) if trial.teacher is None else dense if trial.ticket.is_full else tickets
        return made(trial, able, trial.recipe.epochs)

    return study(outcome, **{"control": "none", "teacher": "dense", "kinds": KINDS, **more})


@cache
def usual() -> tuple[Runs, FindFindings]:
    runs = taught_study()
    return runs, analyse_find(runs)


@cache
def untaught() -> tuple[Runs, FindFindings]:
    runs = study(control="none", kinds=KINDS)
    return runs, analyse_find(runs)


# --- what is trained --------------------------------------------------------------------------------------------------


def teachers(runs: Runs, **labels: Any) -> dict[int, str | None]:
    found = {}
    for run in runs.every(**labels):
        teacher = run.result.trial.teacher
        found[int(run.step.labels["seed"])] = None if teacher is None else teacher.trial
    return found


@pytest.mark.parametrize("schedule", ["one-shot", "iterative"])
def test_all_tickets_and_the_control_learn_from_the_dense_run_of_their_seed(schedule: str) -> None:
    runs = taught_study(schedule=schedule, teacher_weight=0.25, teacher_temperature=3)
    dense = {run.step.labels["seed"]: run.result for run in runs.where(kind="dense")}
    keys = {seed: outcome.key for seed, outcome in dense.items()}
    assert all(outcome.trial.logits and outcome.trial.teacher is None for outcome in dense.values())
    for kind, levels in (*((kind, (0.1, 0.3, 0.4)) for kind in KINDS), ("taught", (0.0,))):
        for level in levels:
            assert teachers(runs, kind=kind, level=level) == keys
    for run in runs.where(kind="winning"):
        trial = run.result.trial
        assert (trial.teacher.weight, trial.teacher.temperature) == (0.25, 3)
        assert trial.teacher.logits == dense[trial.seed].files[LOGITS]
        assert not trial.logits
    plain = study(control="none", kinds=KINDS, schedule=schedule)
    drawn = {(run.step.labels["seed"], str(run.step)): run.result.trial for run in plain.runs}
    if schedule == "one-shot":  # what is drawn is what the untaught dense run says
        for run in runs.where(kind="winning"):
            assert run.result.trial.ticket == drawn[run.step.labels["seed"], str(run.step)].ticket
    assert not any("teacher" in trial.content() or "logits" in trial.content() for trial in drawn.values())
    assert runs.complete


def test_a_ticket_that_keeps_everything_is_the_dense_run() -> None:
    runs = taught_study(levels=(0.0, 0.3), kinds=("winning",))
    keys = [{run.result.key for run in runs.where(kind=kind, level=0.0)} for kind in ("dense", "winning", "taught")]
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]
    gains = analyse_find(runs).taught.gains
    assert gains[["kind", "level"]].drop_duplicates().to_numpy().tolist() == [["winning", 0.3], ["taught", 0.0]]


def test_other_learning_rates_have_teachers_of_their_own() -> None:
    runs = taught_study(learning_rates=(5e-5, 1e-4), kinds=("winning",), rate_seeds=4)
    of_rates = [run for run in runs.runs if run.step.labels.get("stage") is not None]
    dense = {run.result.key: run.result.trial for run in of_rates if run.step.labels["kind"] == "dense"}
    supers = [run.result.trial for run in of_rates if run.step.labels["kind"] == "super"]
    assert len(supers) == 8
    for trial in supers:
        teacher = dense[trial.teacher.trial]
        assert (teacher.seed, teacher.recipe) == (trial.seed, trial.recipe)
        assert teacher.ticket.is_full
    own = {run.result.key for run in runs.where(kind="dense", stage=None)}  # type: ignore[arg-type]
    assert own <= dense.keys()  # the study's own rate: trained once


def test_an_equally_tuned_dense_model_has_no_teacher() -> None:
    runs = taught_study(control="equal-budget", kinds=("winning",))
    tuned = [run.result.trial for run in runs.where(kind="tuned")]
    assert len(tuned) >= 3
    assert not any(trial.teacher or trial.logits for trial in tuned)
    findings = analyse_find(runs)
    assert findings.tuned.cross_fitted is not None
    assert findings.taught.over_taught is not None


def test_a_diverged_dense_run_teaches_nobody() -> None:
    def outcome(trial: Trial) -> Made:
        lost = trial.seed == 1 and trial.ticket.is_full
        return made(trial, 0.7, trial.recipe.epochs, "diverged" if lost else "finished")

    runs = study(outcome, control="none", teacher="dense", kinds=KINDS, levels=(0.3,))
    assert {run.status for run in runs.runs if run.step.labels["seed"] == 1} == {"diverged", "missing"}
    assert analyse_find(runs).taught.over_taught.seeds == (0, 2)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_gains_are_what_predictions_say() -> None:
    """Against a naive loop: chosen on one half of the examples, counted on the other, with the two-way test."""
    runs, findings = usual()
    seen = findings.taught
    halves = half_weights(EXAMPLES, 50, 0).astype(bool)

    def counted(outcomes: list[Any]) -> np.ndarray:
        right = np.concatenate([one.said.argmax(axis=2) == TARGETS for one in outcomes])
        found = np.zeros(EXAMPLES)
        for half in range(100):
            best, other = int(np.argmax([one[halves[half]].mean() for one in right])), halves[half ^ 1]
            found[other] += 100 * right[best][other] / 50
        return found

    def of(kind: str) -> np.ndarray:
        return np.stack([counted([run.result for run in runs.where(kind=kind, seed=seed)]) for seed in range(3)])

    for found, differences in (
        (seen.over_taught, of("winning") - of("taught")),
        (seen.teaching, of("taught") - of("dense")),
        (findings.cross_fitted, of("winning") - of("dense")),
    ):
        np.testing.assert_allclose(found.differences, differences, atol=1e-9)
        test = two_way_test(differences, found.mean)
        assert (found.test.low, found.test.high, found.test.p) == pytest.approx((test.low, test.high, test.p))
        assert found.mean == pytest.approx(differences.mean(), abs=0.5)
    assert seen.over_taught.mean + seen.teaching.mean == pytest.approx(findings.cross_fitted.mean)
    table = runs.table
    for row in seen.gains.itertuples():
        one, other = (
            table[(table["kind"] == kind) & (table["level"] == level)]
            for kind, level in ((row.kind, row.level), (row.over, 0.0))
        )
        assert isinstance(one[BY_EXAMPLE].iloc[0].values, np.ndarray)
        naive = gain(one, other)
        assert (row.difference, row.low, row.high, row.p) == pytest.approx(
            tuple(naive[name] for name in ("difference", "low", "high", "p"))
        )
        assert row.p_holm >= row.p
    assert len(seen.gains) == 3 * 3 * 2 + 1
    assert "taught" in findings.tables()


def test_the_verdict_tells_the_ticket_from_its_teacher() -> None:
    all_teaching, ticket_too, harm = (
        analyse_find(taught_study(*able, kinds=("winning",))) for able in ((0.8, 0.8), (0.7, 0.8), (0.8, 0.72))
    )
    first = "Taught super tickets score higher than the dense model: the gain is "
    how = "50 % of their loss fits the outputs of their seed's dense run on the training set, at temperature 2 (--t"
    over = "Over the dense model that was taught in the same way, super tickets "
    for one, said, alone in (
        (all_teaching, "may score higher or lower: the gain is ", "makes the dense model better: "),
        (ticket_too, "score higher: the gain is ", "may make the dense model better or worse: "),
        (harm, "score lower: the gain is ", "makes the dense model better: "),
    ):
        assert f"{over}{said}{one.taught.over_taught.mean:+.2f} (" in one.verdict
        assert f"Teaching alone {alone}the gain is {one.taught.teaching.mean:+.2f} (" in one.verdict
        assert how in one.verdict
    assert all_teaching.verdict.startswith(first)
    _, plain = untaught()
    assert plain.taught is None
    assert "taught" not in plain.verdict.lower()
    assert plain.tables()["taught"].empty


def test_the_control_is_nowhere_else() -> None:
    """Means, phases, agreement, choice and the super ticket are those of the study without it."""
    runs, one = usual()
    without = replace(runs, runs=[run for run in runs.runs if run.step.labels["kind"] != "taught"])
    other = analyse_find(without)
    assert len(without.runs) == len(runs.runs) - 3
    pd.testing.assert_frame_equal(one.means[one.means["kind"] != "taught"], other.means)
    for name in ("phases", "choice", "selection", "learned", "chosen"):
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name
    for name in ("agreement", "supers"):  # whose repr leaves out columns
        tables = [getattr(findings, name) for findings in (one, other)]
        pd.testing.assert_frame_equal(*(table.drop(columns=BY_EXAMPLE, errors="ignore") for table in tables))
    assert (one.dense.tolist(), one.cross_fitted.mean) == (other.dense.tolist(), other.cross_fitted.mean)
    assert one.paper.test == other.paper.test
    assert len(one.dense) == 3
    said = other.verdict
    assert "no seed has finished both super tickets and the dense model that was taught in the same way" in said
    assert "Teaching alone" not in said


def test_a_narrow_study_says_it_of_winning_tickets() -> None:
    runs = taught_study(design="narrow", levels=(0.3,), kinds=("winning", "random"))
    findings = replace(analyse_find(runs), narrow=narrow_gains(runs, 0.3))
    assert findings.sentences[0].startswith("At level 30%, which was fixed beforehand, taught winning tickets score")
    assert "taught in the same way, winning tickets score higher" in findings.verdict


def page_of(findings: FindFindings, runs: Runs) -> str:
    return "".join(str(block.__html__()) for part in find_sections(findings, runs) for block in part.blocks)


def test_soups_of_taught_tickets_are_not_set_against_untaught_ones_without_a_word() -> None:
    def outcome(trial: Trial) -> Made:
        found = made(trial, 0.7 if trial.ticket.is_full else 0.76, 1 if trial.mean else trial.recipe.epochs)
        return replace(found, files={**found.files, WEIGHTS: trial.key}, folder=Path("/nowhere"))

    asked: dict[str, Any] = {"control": "none", "soup": 2, "levels": (0.1,)}
    said = "The dense model and its soup were not taught"
    verdict = analyse_find(study(outcome, **asked, teacher="dense")).verdict
    assert "the soup of a taught winning ticket" in verdict
    assert said in verdict
    assert said not in analyse_find(study(outcome, **asked)).verdict


def test_the_page_has_both_gains() -> None:
    runs, findings = usual()
    page = page_of(findings, runs)
    for text in ("taught super ticket over taught dense model", "taught dense model over dense model"):
        assert text in page
    assert f"{findings.taught.over_taught.mean:+.2f}" in page
    runs, findings = untaught()
    assert "taught" not in page_of(findings, runs)


def test_taught_and_other_studies_are_not_mixed() -> None:
    def renamed(one: tuple[Runs, FindFindings], task: str, settings: dict[str, Any] | None = None, **more: Any) -> Any:
        runs, findings = one
        tasks = tuple(replace(one, task=task, **more) for one in runs.tasks)
        return AnalysedStudy(replace(runs, tasks=tasks, settings={**runs.settings, **(settings or {})}), findings)

    assert names_of([AnalysedStudy(*usual()), AnalysedStudy(*untaught())]) == ["words, taught", "words"]
    assert task_average([renamed(usual(), "rte"), renamed(untaught(), "mrpc")]).reason == (
        "No average over tasks: tickets are taught (--teacher) in some of the studies only."
    )
    assert "taught" not in task_average([renamed(usual(), "rte"), renamed(usual(), "mrpc")]).reason
    (trend,) = trends([renamed(usual(), "rte", train=10), renamed(untaught(), "rte")])
    assert trend.reason == "only one of rte and rte, taught has taught tickets (--teacher)"
    (other,) = trends([renamed(usual(), "rte", train=10), renamed(usual(), "rte", {"teacher_weight": 1.0})])
    assert "--teacher-weight (0.5, 1.0)" in other.sentence()
    (other,) = trends([renamed(usual(), "rte", train=10), renamed(usual(), "rte", {"target": ["flops=0.6"]})])
    assert "also differ in --target (none, flops=0.6)" in other.sentence()


# --- end to end -------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "task": "entailment", "fraction": 0.03, "levels": (0.5,), "kinds": "winning,random", "epochs": 1, "batch_size": 8,
    "learning_rate": 1e-2, "max_length": 16, "precision": "float32", "workers": 1, "seeds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("taught") / "out"
    return supertickets.find(SMALL, model=str(tiny_model), teacher="dense", out=out)


def test_a_built_in_task_end_to_end(done: Result) -> None:
    rows = done.table.set_index("kind")
    assert rows.index.tolist() == ["dense", "winning", "random", "taught"]
    assert (rows["status"] == "finished").all()
    written = pd.read_csv(done.folder / "results.csv")
    assert written["kind"].tolist() == rows.index.tolist()
    outcomes = {kind: load_outcome(done.folder / "trials" / key) for kind, key in rows["trial"].items()}
    assert [LOGITS in one.files for one in outcomes.values()] == [True, False, False, False]
    assert {one.trial.teacher.logits for kind, one in outcomes.items() if kind != "dense"} == {
        outcomes["dense"].files[LOGITS]
    }
    assert "All tickets were taught" in done.verdict
    assert "Taught tickets" in done.report.read_text()
    assert (done.folder / "tables" / "taught.csv").is_file()
    ticket = json.loads((done.folder / "super-ticket" / "ticket.json").read_text())
    assert ticket["origin"]["teacher"]["trial"] == outcomes["dense"].key
    card = (done.folder / "super-ticket" / "README.md").read_text()
    assert "fine-tuned on the targets and on the outputs of its seed's dense run, it scores" in card


def ended(folder: Path) -> dict[str, int]:
    """When each training wrote its outcome, by its key: one that is repeated computes the same bytes."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/outcome.json")}


def test_it_is_remembered_and_reported(done: Result) -> None:
    before, when = contents(done.folder / "trials"), ended(done.folder)
    again = supertickets.find(done.folder / "settings.yaml")
    assert contents(done.folder / "trials") == before
    assert ended(done.folder) == when
    assert again.verdict == done.verdict
    assert report([done.folder]).verdicts[str(done.folder)] == done.verdict
    plan = plan_study("find", done.folder / "settings.yaml")
    assert (plan.trainings, plan.done) == (4, 4)


def test_outputs_that_are_gone_come_again(done: Result) -> None:
    """The dense run counts as not done, and is trained again; the same outputs keep the taught trainings."""
    (dense,) = done.table[done.table["kind"] == "dense"]["trial"]
    before, when = contents(done.folder / "trials"), ended(done.folder)
    (done.folder / "trials" / dense / LOGITS).unlink()
    supertickets.find(done.folder / "settings.yaml")
    assert contents(done.folder / "trials") == before
    after = ended(done.folder)
    assert after.keys() == when.keys()
    assert {key for key in when if after[key] != when[key]} == {dense}


def test_a_study_that_was_moved_trains_its_tickets_again(done: Result, tmp_path: Path) -> None:
    """What a trial says of its teacher's place was true when it ran; shipping needs the weights, which are gone."""
    moved = tmp_path / "moved"
    shutil.move(done.folder, moved)
    try:
        shutil.rmtree(moved / "super-ticket")
        for path in moved.glob("trials/*/weights.safetensors"):
            path.unlink()
        again = supertickets.find(moved / "settings.yaml", out=moved)
        assert again.shipped["ticket"].is_dir()
        assert again.verdict == done.verdict
    finally:
        shutil.move(moved, done.folder)


def test_regression_end_to_end(tiny_model: Path, tmp_path: Path) -> None:
    asked = {**SMALL, "model": str(tiny_model), "task": "similarity", "kinds": "winning", "teacher": "dense"}
    result = supertickets.find(asked, out=tmp_path / "out")
    assert (result.table["status"] == "finished").all()
    assert "temperature" not in result.verdict
    with pytest.raises(TicketError, match="--teacher-temperature: it would change nothing, since task 'similarity'"):
        supertickets.find(asked, out=tmp_path / "other", teacher_temperature=4)
    assert not (tmp_path / "other").exists()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "dens"}, "--teacher: unknown value 'dens'; did you mean 'dense'"),
        ({"teacher_weight": 0}, "--teacher-weight: expected more than 0, got 0"),
        ({"teacher_weight": 1.01}, "--teacher-weight: expected at most 1, got 1.01"),
        ({"teacher_temperature": 0}, "--teacher-temperature: expected more than 0, got 0"),
        ({"teacher_temperature": -1}, "--teacher-temperature: expected more than 0, got -1"),
        ({"kinds": "none", "levels": None}, "--teacher: it would change nothing, since no tickets are drawn"),
    ],
)
def test_wrong_values(change: dict[str, Any], message: str, tiny_model: Path, tmp_path: Path) -> None:
    asked = {**SMALL, "model": str(tiny_model), "teacher": "dense", **change}
    asked = {name: value for name, value in asked.items() if value is not None}
    with pytest.raises(TicketError, match=message):
        supertickets.find(asked, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_language_models_are_not_taught(tmp_path: Path) -> None:
    from helpers.models import save_tiny_model

    model, lines = save_tiny_model(tmp_path / "model", mask=True), tmp_path / "lines.txt"
    lines.write_text("".join(f"w{i % 9} w{i % 7} w{i % 5}\n" for i in range(200)))
    asked = {"task": "mlm", "train_file": lines, "model": str(model), "epochs": 1, "max_length": 16, "workers": 1}
    with pytest.raises(
        TicketError, match=r"--teacher dense: task 'mlm' has outputs for every token, .* --teacher none"
    ):
        supertickets.find(asked, teacher="dense", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_of_taught_tickets_or_not(done: Result) -> None:
    before = contents(done.folder)
    with pytest.raises(TicketError, match=r"different settings: --teacher was dense and is now none\. Use a new --out"):
        supertickets.find(SMALL, model=done.settings.model, out=done.folder)
    with pytest.raises(TicketError, match=r"--teacher-weight was 0\.5 and is now 1"):
        supertickets.find(SMALL, model=done.settings.model, out=done.folder, teacher="dense", teacher_weight=1)
    assert contents(done.folder) == before
