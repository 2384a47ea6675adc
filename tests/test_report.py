"""Conclusions and reports of real (tiny) studies; the page in a real browser."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.browser import check_contrast, requests, set_screen
from helpers.find_records import EPOCHS, Made, ability, made, study
from helpers.models import save_tiny_model
from helpers.pages import without_names
from helpers.trials import write_words
from supertickets import Result, find, report
from supertickets.anatomy import Shape
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.choice_alone import choice_alone
from supertickets.evidence.examples import plain
from supertickets.evidence.find import FindFindings, agreement, analyse_find
from supertickets.evidence.gains import Gain
from supertickets.evidence.phases import Phases
from supertickets.evidence.published import published
from supertickets.evidence.resampling import bootstrap_weights, weighted_scores
from supertickets.evidence.runs import Runs, TaskInfo
from supertickets.evidence.sampling import Selection
from supertickets.evidence.selection import cross_fit, halved_scores
from supertickets.evidence.statistics import bootstrap_interval
from supertickets.evidence.tables import AnalysedStudy, gains, paper_tables, task_average
from supertickets.lab.steps import Run, Step
from supertickets.lab.trial import Trial
from supertickets.reports.find import find_sections, seeds_alike
from supertickets.studies.inputs import open_study
from supertickets.studies.pages import as_text, write_tables
from supertickets.studies.report import ReportResult
from supertickets.tasks import TaskSource
from supertickets.tasks.metrics import evaluate
from supertickets.tickets import Ticket

HOSTILE = "<img src=x onerror=alert(1)>"
SMALL: dict[str, Any] = {
    "levels": (0.2, 0.5, 0.7),
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
    "seeds": 3,
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Three studies on one base model: accuracy with a control, accuracy under a hostile name, correlations."""
    base = tmp_path_factory.mktemp("studies")
    model = str(save_tiny_model(base / "model"))
    files = {"train_file": write_words(base / "train.jsonl", 64, 0), "dev_file": write_words(base / "dev.jsonl", 60, 1)}
    other = {"train_file": write_words(base / "t.jsonl", 48, 2), "dev_file": write_words(base / "d.jsonl", 50, 3)}
    graded = {
        name: write_words(base / f"{name}.jsonl", 48, seed, lambda words: sum(i < 12 for i in words) / len(words))
        for seed, name in enumerate(("train_file", "dev_file"))
    }
    fewer: dict[str, Any] = {"levels": (0.2, 0.5), "kinds": ("winning",), "seeds": 2, "epochs": 2}
    return {
        "words": find(SMALL, task="words", model=model, out=base / "words", control="best-of-k", **files),
        "hostile": find(SMALL | fewer, task=HOSTILE, model=model, out=base / "hostile", **other),
        "graded": find(SMALL | fewer, task="graded", model=model, out=base / "graded", regression=True, **graded),
    }


def look(folder: Path) -> AnalysedStudy:
    opened = open_study(folder)
    runs = opened.replay()
    return AnalysedStudy(runs, opened.study.analyse(runs, opened.settings))


# --- conclusions ------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_again_without_model_and_data(studies: dict[str, Result], tmp_path: Path) -> None:
    """What `find` saw is what is recalled, elsewhere on disk and with model and files gone."""
    done = studies["words"]
    copy = shutil.copytree(done.folder, tmp_path / "copy")
    settings = (copy / "settings.yaml").read_text()
    (copy / "settings.yaml").write_text(settings.replace(str(done.folder.parent), "/nowhere"))
    one = look(copy)
    assert one.runs.complete
    pd.testing.assert_frame_equal(plain(one.runs.table), done.table)
    assert one.findings.verdict == done.verdict


def test_gains_are_what_predictions_say(studies: dict[str, Result]) -> None:
    """Against a naive loop over outcomes: each seed's best ticket and epoch, chosen on the whole dev set."""
    one = look(studies["graded"].folder)
    runs, seen = one.runs, one.findings
    assert seen.paper is not None
    assert seen.cross_fitted is not None
    for seed, have_super, have_dense, have_cross_fitted in zip(
        seen.paper.seeds, seen.paper.scores, seen.paper.dense, seen.cross_fitted.scores, strict=True
    ):
        own = [run for run in runs.where() if run.step.labels["seed"] == seed]

        def best(kind: str, own: list[Run] = own) -> float:
            return max(
                evaluate(runs.task.metrics, runs.task.targets, epoch)["score"]
                for run in own
                if run.step.labels["kind"] == kind
                for epoch in run.outcome.predictions()["dev"]
            )

        assert have_super == pytest.approx(best("winning"))
        assert have_dense == pytest.approx(best("dense"))
        winning = [
            halved_scores(run.outcome.predictions()["dev"], runs.task.metrics, runs.task.targets)
            for run in sorted(own, key=lambda run: run.step.labels["level"])
            if run.step.labels["kind"] == "winning"
        ]
        assert have_cross_fitted == pytest.approx(cross_fit(winning).cross_fitted)
    assert seen.paper.mean == pytest.approx(np.mean(seen.paper.scores) - np.mean(seen.paper.dense))
    table = runs.table[runs.table["kind"] == "winning"]
    assert np.mean(seen.paper.scores) == pytest.approx(table.groupby("seed")["score"].max().mean())


def test_where_the_last_epoch_is_kept_no_epoch_is_chosen() -> None:
    def to_the_end(trial: Trial) -> Made:
        return replace(made(trial, ability(trial), EPOCHS), best_epoch=EPOCHS)

    runs = study(to_the_end, keep_epoch="last", control="none")
    last = {
        kind: [[run.result.epochs[-1]["score"] for run in runs.where(kind=kind, seed=seed)] for seed in range(3)]
        for kind in ("dense", "winning")
    }
    for run in (run for seed in range(3) for run in runs.where(kind="dense", seed=seed)):  # control
        assert max(epoch["score"] for epoch in run.result.epochs) > run.result.epochs[-1]["score"]
    seen = analyse_find(runs)
    assert seen.paper is not None
    assert seen.cross_fitted is not None
    dense = [score for (score,) in last["dense"]]
    assert list(seen.paper.dense) == pytest.approx(dense)
    assert list(seen.cross_fitted.dense) == pytest.approx(dense)
    assert list(seen.paper.scores) == pytest.approx([max(scores) for scores in last["winning"]])


def test_intervals_are_those_of_the_best_epochs_and_hold_the_means(studies: dict[str, Result]) -> None:
    one = look(studies["words"].folder)
    task, weights, means = one.runs.task, bootstrap_weights(60), one.findings.means
    for row in means.itertuples():
        scores = [
            weighted_scores(task.metrics, task.targets, run.result.best_outputs(), weights)
            for run in one.runs.where(kind=row.kind, level=row.level)
        ]
        assert (row.low, row.high) == bootstrap_interval(np.stack(scores))
    assert (means["low"] <= means["mean"]).all()
    assert (means["mean"] <= means["high"]).all()
    assert (means["high"] - means["low"] > 1).all()  # sixty examples leave much open


def test_the_control_is_dense_runs_with_other_seeds(studies: dict[str, Result]) -> None:
    done = studies["words"]
    control = done.table[done.table["kind"] == "control"]
    assert control["seed"].tolist() == [3, 4, 5]  # as many as levels, after the study's own
    assert (control["remaining"] == 1).all()
    seen = look(done.folder).findings
    pool = [*control["score"], *done.table[done.table["kind"] == "dense"]["score"]]
    assert seen.choice is not None
    assert (seen.choice.among, seen.choice.runs) == (3, 6)
    best = np.mean([max(three) for three in itertools.combinations(pool, 3)])
    assert seen.choice.gain == pytest.approx(best - np.mean(pool))
    assert f"own 6 dense runs, which score {np.mean(pool):.2f} on average, 3 at a time" in done.verdict
    assert f"Cross-fitted, it would give {seen.choice.cross_fitted:+.2f}" in done.verdict


def test_one_seed_gives_means_and_says_that_no_test_is_possible() -> None:
    runs = study(control="none", seeds=1)
    seen = analyse_find(runs)
    assert "With one seed, intervals and p are over dev examples alone" in seen.verdict
    assert "paired t-test" not in seen.verdict
    frame = gains([AnalysedStudy(runs, seen)])
    assert frame["paper_p"].isna().all()
    assert frame["dense"].notna().all()


def test_agreement_by_hand() -> None:
    def run(seed: int, heads: list[tuple[int, int]], ffns: list[int]) -> Run:
        class Done:
            finished, status = True, "finished"

        class Played:
            ticket = Ticket.from_pruned(2, 4, heads, ffns)

        step = Step({"kind": "winning", "level": 0.5, "seed": seed}, lambda done: None)
        return Run(step, Played(), Done())  # type: ignore[arg-type]

    shape, source = Shape(2, 4, 8, 16), TaskSource(task="t")
    task = TaskInfo("m", "bert", "w", shape, "t", "d", ("0", "1"), ("accuracy",), 4, np.zeros(2, int), source)
    runs = [run(0, [(0, 0), (0, 1)], [0]), run(1, [(0, 0), (1, 3)], [0]), run(2, [(1, 2), (1, 3)], [1])]
    found = agreement(Runs((task,), Path("x"), {}, runs))
    assert found["pairs"].tolist() == [3]
    assert found["heads"].tolist() == pytest.approx([(1 / 2 + 0 + 1 / 2) / 3])
    assert found["ffns"].tolist() == pytest.approx([(1 + 0 + 0) / 3])
    assert found["heads_chance"].tolist() == [2 / 8]
    assert found["ffns_chance"].tolist() == [1 / 2]
    names = {trace.name: list(trace.y) for trace in seeds_alike(found).data}
    assert (names["chance, heads"], names["chance, FFNs"]) == ([2 / 8], [1 / 2])  # each kind has its own
    none = agreement(Runs((task,), Path("x"), {}, [run(seed, [(0, seed)], []) for seed in range(2)]))
    assert none["ffns"].isna().all()  # no FFN is pruned, so that none is the same
    assert {trace.name for trace in seeds_alike(none).data} == {"heads pruned by both seeds", "chance, heads"}


def test_tables_that_are_on_the_page_no_more_go(tmp_path: Path) -> None:
    there = pd.DataFrame({"a": [1.0]})
    (tmp_path / "notes.csv").write_text("mine")
    write_tables(tmp_path, {"means": there, "equal budget": there})
    assert len(list(tmp_path.iterdir())) == 7
    write_tables(tmp_path, {"means": there, "equal budget": there.iloc[:0]})
    assert {path.name for path in tmp_path.iterdir()} == {"means.csv", "means.md", "means.tex", "notes.csv"}


# --- tables -----------------------------------------------------------------------------------------------------------


def made_up(task: str, dense: list[float], best: list[float], among: int = 8, **changes: Any) -> AnalysedStudy:
    """A study of which only the gains are known, chosen among 8 levels, BERT-base unless said otherwise."""
    values: dict[str, Any] = {
        "model": "m", "model_type": "bert", "weight_hash": "w", "shape": Shape(12, 12, 768, 3072), "task": task,
        "data_hash": "d", "labels": ("0", "1"), "metrics": ("accuracy",), "train": 4, "targets": np.zeros(2, int),
        "source": TaskSource(task=task),
    }  # fmt: skip
    info = TaskInfo(**values | changes)
    seeds = range(len(dense))
    columns = {"kind": "dense", "level": 0.0, "seed": list(seeds), "status": "finished", "score": dense}
    columns |= dict.fromkeys(info.metrics, dense) | {"parameters": 10, "remaining": 1.0}
    more = {**columns, "kind": "winning", "level": 0.1, "score": best, "parameters": 9, "remaining": 0.9}
    more |= dict.fromkeys(info.metrics, best)
    supers, selection = pd.DataFrame(more), Selection(examples=100)
    table = pd.concat([pd.DataFrame(columns), supers])
    runs = Runs((info,), Path(task), {}, [])
    runs.__dict__["table"] = table
    gain = Gain.of(seeds, best, dense)
    phases = Phases(len(dense), False, np.nan, (), np.nan, 0.1, None, None, None, False, False)
    none, alone = pd.DataFrame(), choice_alone(among, len(dense), np.array(dense))
    seen = FindFindings(table, none, gain, gain, supers, selection, alone, phases, none, None)
    return AnalysedStudy(runs, seen)


def test_tables_stand_beside_the_papers_figures() -> None:
    rte = made_up("rte", [69.0, 70.0, 71.0], [71.0, 73.0, 75.0])
    cola = made_up("cola", [57.0, 58.0, 59.0], [58.0, 58.5, 60.0], metrics=("matthews",))
    tables = paper_tables([cola, rte])
    one = tables["table 1"]
    assert list(one.columns) == ["RTE Acc", "CoLA Mcc", "Average Score", "Average Compression"]
    assert one.loc["ST-DNN"].tolist() == ["70.0", "58.0", "64.00", "100%"]
    assert one.loc["SuperT"].tolist() == ["73.0", "58.8", "65.92", "90.0%"]
    assert one.loc["SuperT (cross-fitted)"].tolist() == ["73.0", "58.8", "65.92", "90.0%"]
    assert one.loc["SuperT (BERT-base, published)"].tolist() == ["72.5", "58.8", "83.7 (8 tasks)", "86.8%"]
    assert tables["table 6"].loc["SuperT"].tolist() == ["2.00", "1.04"]
    assert tables["table 6"].loc["SuperT (BERT-base, published)"].tolist() == ["0.91", "1.51"]
    assert tables["table 7"].loc["SuperT (Mean)"].tolist() == ["0.90", "0.90"]
    assert tables["table 7"].loc["SuperT (Std Dev) (BERT-base, published)"].tolist() == ["0.07", "0.04"]
    rows = rte.findings.runs
    rows = pd.concat([rows.assign(stage=None), rows.assign(stage="rates", score=9.0, accuracy=9.0)], ignore_index=True)
    with_more = replace(rte, findings=replace(rte.findings, runs=rows))  # of other learning rates, which no table is of
    pd.testing.assert_frame_equal(paper_tables([with_more])["table 5"], paper_tables([rte])["table 5"])
    pd.testing.assert_frame_equal(paper_tables([with_more])["table 1"], paper_tables([rte])["table 1"])
    small = made_up("rte", [1.0, 2.0], [2.0, 4.0], shape=Shape(6, 12, 384, 1536))
    assert not any("published" in name for name in paper_tables([small])["table 1"].index)


def test_published_averages_are_those_of_their_rows() -> None:
    """The data file against itself: the paper's averages are means over tasks of means over metrics (Table 1)."""
    for rows in (published()["table 1"][size] for size in ("base", "large")):
        for row in rows.values():
            tasks = [np.mean(values) for values in row.values() if isinstance(values, list)]
            assert len(tasks) == 8
            assert np.mean(tasks) == pytest.approx(row["average"], abs=0.16)  # theirs are means of unrounded figures


def test_holm_over_studies_and_the_average_over_tasks() -> None:
    rte = made_up("rte", [69.0, 70.0, 71.0], [71.0, 73.0, 75.0])
    sst2 = made_up("sst2", [90.0, 91.0, 92.0], [90.5, 90.9, 93.0])
    frame = gains([sst2, rte])
    assert frame["task"].tolist() == ["rte", "sst2", "average"]
    assert frame["paper_gain"].tolist()[:2] == pytest.approx([3.0, 1.4 / 3])
    first, second, _ = frame["paper_p"]
    assert frame["paper_p_holm"].tolist()[:2] == pytest.approx([2 * first, second])
    average = task_average([rte, sst2])
    assert average.paper is not None
    assert average.paper.seeds == (0, 1, 2)
    assert average.paper.mean == pytest.approx((3.0 + 1.4 / 3) / 2)
    half = stats.t.ppf(0.975, 2) * np.std([1.25, 1.45, 2.5], ddof=1) / np.sqrt(3)
    assert average.paper.test.high - average.paper.test.mean == pytest.approx(half)
    assert frame["paper_gain"].iloc[-1] == average.paper.mean
    assert np.isnan(frame["paper_p_holm"].iloc[-1])
    assert "Average over tasks (3 seeds)" in average.sentence()


def test_what_does_not_average_is_refused_with_a_reason() -> None:
    rte, cola = made_up("rte", [1, 2], [2, 4]), made_up("cola", [1, 2], [2, 4], metrics=("matthews",))
    assert task_average([rte, cola]).reason == ""  # GLUE averages its own metrics
    mine = made_up("mine", [1, 2], [2, 4], metrics=("macro_f1",))
    assert "their metrics differ (rte: accuracy; mine: macro_f1)" in task_average([rte, mine]).reason
    odd = made_up("cola", [1, 2], [2, 4], metrics=("accuracy",))
    assert task_average([rte, odd]).reason == ""  # the same metric for all
    assert "not all GLUE's own" in task_average([rte, odd, mine]).reason
    assert "rte is there more than once" in task_average([rte, rte]).reason
    assert "different base models" in task_average([rte, made_up("sst2", [1, 2], [2, 4], weight_hash="v")]).reason
    assert task_average([rte]).reason == "One task has no average."
    part = made_up("sst2", [1, 2], [2, 4])
    part.runs.settings["fraction"] = 0.1  # type: ignore[index]
    assert "different fractions" in task_average([rte, part]).reason
    other = made_up("sst2", [1, 2], [2, 4])
    other.runs.settings["target"] = ["parameters=0.9"]  # type: ignore[index]
    assert "different targets" in task_average([rte, other]).reason
    table = paper_tables([rte, mine])["table 1"]
    assert table["Average Score"].tolist()[:3] == ["-", "-", "-"]


def test_tables_are_written_three_ways(tmp_path: Path) -> None:
    names = made_up("a_task|100%", [1.0, 2.0], [2.0, 4.5])
    tables = {"gains": gains([names]), **paper_tables([names])}
    write_tables(tmp_path, tables)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{kind}"
        for stem in ("gains", "table-1", "table-5", "table-6", "table-7")
        for kind in ("csv", "md", "tex")
    }
    read = pd.read_csv(tmp_path / "gains.csv")
    assert read["paper_gain"].tolist() == [1.75]
    assert read["task"].tolist() == ["a_task|100%"]
    assert r"a\_task|100\%" in (tmp_path / "gains.tex").read_text()
    assert r"a_task\|100%" in (tmp_path / "gains.md").read_text()


def test_cells_say_what_was_asked_for_in_full_and_what_is_not_as_such() -> None:
    examples, matches = [10.0, np.nan], pd.Series([True, None], dtype=object)
    table = pd.DataFrame({"level": [0.125, 0.5], "examples": examples, "strict": matches, "score": [70.125, 0.0125]})
    assert as_text(table).to_numpy().tolist() == [["0.125", "10", "yes", "70.12"], ["0.5", "-", "-", "0.0125"]]


# --- the command ------------------------------------------------------------------------------------------------------


def test_several_studies_on_one_page(
    studies: dict[str, Result], every: ReportResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(studies[name].folder) for name in ("words", "hostile")]
    assert main(["report", *folders, "--out", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().out
    assert "Average over tasks (2 seeds)" in said
    assert (tmp_path / "all" / "report.html").is_file()
    assert (tmp_path / "all" / "tables" / "table-1.tex").is_file()
    assert "their metrics differ" in every.average.sentence()
    assert {"gains", "table 1", "table 6", "table 7"} <= set(every.tables)
    assert main(["report", str(studies["graded"].folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["average"], found["report"]) == ("One study has no average.", str(studies["graded"].report))
    assert {"gains", "table 1", "table 6", "table 7"} <= set(found["tables"])


def test_a_report_of_one_study_is_the_one_it_wrote(studies: dict[str, Result]) -> None:
    page = studies["graded"].report
    before = page.read_text()
    made = report([studies["graded"].folder])
    assert made.page == page
    assert without_names(page.read_text()) == without_names(before)


def test_a_report_of_an_unfinished_study(studies: dict[str, Result], tmp_path: Path) -> None:
    """Missing runs are missing, not zero; those whose tickets cannot be drawn are still told of."""
    copy = shutil.copytree(studies["words"].folder, tmp_path / "copy")
    table = studies["words"].table
    gone = table[(table["kind"] == "dense") & (table["seed"] == 2) | (table["kind"] == "random") & (table["seed"] == 1)]
    for key in gone["trial"]:
        (copy / "trials" / key / "outcome.json").unlink()
    one = look(copy)
    assert not one.runs.complete
    missing = one.runs.table[one.runs.table["status"] == "missing"]
    assert len(missing) == 1 + 3 + 6  # the dense run, three random ones, what was drawn from the dense run
    assert missing["score"].isna().all()
    assert missing[missing["kind"] == "winning"]["trial"].isna().all()
    assert one.findings.paper is not None
    assert one.findings.paper.seeds == (0, 1)
    page = report([copy]).page.read_text()
    assert "This study is not finished: 10 of" in page


def test_an_unfinished_study_is_not_finished_by_a_report(studies: dict[str, Result], tmp_path: Path) -> None:
    from supertickets.studies.folder import status

    copy = shutil.copytree(studies["graded"].folder, tmp_path / "copy")
    assert status(copy)["state"] == "finished"
    key = studies["graded"].table["trial"].iloc[-1]
    (copy / "trials" / key / "outcome.json").unlink()
    report([copy])
    found = status(copy)
    assert (found["state"], found["total"] - found["done"]) == ("stopped", 1)


def test_failures_are_remembered(studies: dict[str, Result], tmp_path: Path) -> None:
    """A trial that failed for good has ended; so have those that would have been drawn from it."""
    copy = shutil.copytree(studies["words"].folder, tmp_path / "copy")
    table = studies["words"].table
    (key,) = table[(table["kind"] == "dense") & (table["seed"] == 2)]["trial"]
    (copy / "trials" / key / "outcome.json").unlink()
    (copy / "trials" / key / "failure.json").write_text(json.dumps({"label": "x", "tries": 3, "traceback": "E\nbroke"}))
    one = look(copy)
    assert one.runs.complete
    assert one.runs.table["status"].value_counts().to_dict() == {"finished": 26, "missing": 6, "failed": 1}
    assert one.runs.failures == {"dense seed 2": "E\nbroke"}


def test_two_models_on_one_task_stand_side_by_side() -> None:
    one, other = (
        made_up("rte", [1.0, 2.0], [2.0, 4.0]),
        made_up("rte", [3.0, 5.0], [4.0, 9.0], model="n", weight_hash="v"),
    )
    tables = paper_tables([one, other])
    assert list(tables["table 1"].columns)[:2] == ["rte on m Acc", "rte on n Acc"]
    assert tables["table 1"].loc["ST-DNN"].tolist()[:2] == ["1.5", "4.0"]
    assert gains([one, other])["task"].tolist() == ["rte on m", "rte on n"]
    again = made_up("rte", [1.0, 2.0], [2.0, 4.0])
    again.runs.__dict__["folder"] = Path("elsewhere")
    assert gains([one, again])["task"].tolist() == ["rte on m in elsewhere", "rte on m in rte"]


def test_mnli_has_both_its_scores() -> None:
    mnli = made_up("mnli", [80.0, 82.0], [83.0, 85.0])
    for table in (mnli.runs.table, mnli.findings.supers):
        table["dev_mismatched_accuracy"] = table["accuracy"] - 1
    one = paper_tables([mnli])["table 1"]
    assert one.columns[0] == "MNLI-m/mm Acc"
    assert one["MNLI-m/mm Acc"].tolist()[:2] == ["81.0/80.0", "84.0/83.0"]
    assert paper_tables([made_up("mnli", [80.0], [83.0])])["table 1"].columns[0] == "MNLI-m Acc"


def test_without_winning_tickets_the_tables_have_the_dense_runs() -> None:
    for kinds, levels in ((("random",), (0.5,)), (("winning",), (0.0,))):
        runs = study(control="none", seeds=1, kinds=kinds, levels=levels)
        seen = analyse_find(runs)
        assert "no winning tickets above level 0 were asked for" in seen.verdict
        assert all(str(block.__html__()) for section in find_sections(seen, runs) for block in section.blocks)
        one = paper_tables([AnalysedStudy(runs, seen)])["table 1"]
        mean = runs.table[runs.table["kind"] == "dense"]["score"].mean()
        assert one.iloc[0, 0] == f"{mean:.1f}"
        assert one.loc["SuperT"].tolist() == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("own", "the folder of one of the studies"),
        ("nothing", "there is no study in it"),
        ("twice", "named twice"),
        ("other", "files that are not a report's (thesis.txt)"),
    ],
)
def test_wrong_reports(
    what: str, message: str, studies: dict[str, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = str(studies["words"].folder)
    (tmp_path / "thesis.txt").write_text("precious")
    arguments = {
        "own": [done, str(studies["graded"].folder), "--out", done],
        "nothing": [str(tmp_path)],
        "twice": [done, done],
        "other": [done, "--out", str(tmp_path)],
    }[what]
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_subject_is_told(studies: dict[str, Result], tmp_path: Path) -> None:
    copy = shutil.copytree(studies["graded"].folder, tmp_path / "copy")
    (copy / "study.safetensors").write_bytes(b"\x08")
    with pytest.raises(TicketError, match="is damaged"):
        report([copy])
    find(copy / "settings.yaml", out=copy)  # as the message says
    report([copy])


# --- the page in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every(studies: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    return report([one.folder for one in studies.values()], tmp_path_factory.mktemp("pages") / "all")


@pytest.fixture(scope="module")
def pages(studies: dict[str, Result], every: ReportResult) -> dict[str, Path]:
    return {"one study": studies["words"].report, "hostile": studies["hostile"].report, "several": every.page}


@pytest.mark.parametrize("page", ["one study", "hostile", "several"])
def test_the_page_works_with_no_network(page: str, pages: dict[str, Path], driver: Any) -> None:
    driver.get_log("browser"), requests(driver)
    url = pages[page].as_uri()
    driver.get(url)
    plots = driver.find_elements("css selector", ".js-plotly-plot")
    assert len(plots) == {"one study": 4, "hostile": 4, "several": 13}[page]
    for plot in plots:
        assert plot.find_elements("css selector", ".scatterlayer .trace path, .scatterlayer .trace .point")
        assert plot.size["height"] > 200
    assert driver.get_log("browser") == []
    assert requests(driver) == [url]


def test_a_hostile_name_stays_text(pages: dict[str, Path], driver: Any) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    for page in ("hostile", "several"):
        driver.get(pages[page].as_uri())
        with pytest.raises(NoAlertPresentException):
            _ = driver.switch_to.alert.text
        assert driver.find_elements("css selector", "img[src=x]") == []
        assert HOSTILE in driver.find_element("css selector", "body").text


def test_hover_shows_values(pages: dict[str, Path], driver: Any) -> None:
    driver.get(pages["one study"].as_uri())
    driver.execute_script(
        "const plot = document.querySelector('.js-plotly-plot');"
        "Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}])"
    )
    shown = driver.execute_script("return document.querySelector('.js-plotly-plot .hoverlayer').textContent")
    assert "winning 20%" in shown
    assert "95 %" in shown


def test_tables_sort(pages: dict[str, Path], driver: Any) -> None:
    driver.get(pages["one study"].as_uri())
    script = (
        "const table = [...document.querySelectorAll('table.sortable')].at(-1);"
        "const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent == 'score');"
        "const button = table.tHead.rows[0].cells[column].querySelector('button'); button.click();"
        "return [[...table.tBodies[0].rows].map(row => row.cells[column].textContent), "
        "table.tHead.rows[0].cells[column].getAttribute('aria-sort')]"
    )
    for order in ("ascending", "descending"):
        scores, said = driver.execute_script(script)
        numbers = [float(score) for score in scores]
        assert said == order
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert len(set(numbers)) > 2


@pytest.mark.parametrize(("width", "media"), [(1280, ""), (400, ""), (964, "print")])  # 964: Letter less its margins
@pytest.mark.parametrize("page", ["one study", "several"])
def test_nothing_runs_over_the_edge(width: int, media: str, page: str, pages: dict[str, Path], driver: Any) -> None:
    set_screen(driver, width, media=media)
    driver.get(pages[page].as_uri())
    assert driver.execute_script("return document.documentElement.clientWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    for plot in driver.find_elements("css selector", ".js-plotly-plot .main-svg"):
        assert plot.rect["x"] + plot.rect["width"] <= width


def test_text_is_readable_on_its_ground(pages: dict[str, Path], driver: Any) -> None:
    """In plots too."""
    driver.get(pages["one study"].as_uri())
    check_contrast(driver)
    assert driver.find_elements("css selector", ".xtitle")
    assert driver.find_elements("css selector", ".ytick text")


def test_every_picture_has_words(pages: dict[str, Path], driver: Any) -> None:
    driver.get(pages["several"].as_uri())
    pictures = driver.find_elements("css selector", "figure:not(.map), .map svg")
    assert len(pictures) > 20
    assert all((picture.get_attribute("aria-label") or "").count(" ") > 4 for picture in pictures)


def test_the_call_is_there_after_pages_were_written(studies: dict[str, Result]) -> None:
    """The package that writes pages has another name than the function, which an import would put into its place."""
    import supertickets

    result = supertickets.report([studies["graded"].folder])
    assert result.page.is_file()
    assert supertickets.report([result.page.parent]).verdicts == result.verdicts
