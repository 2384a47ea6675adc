"""Whether gains differ by the size of the training set or of the model: slopes over studies, tested as one contrast."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import supertickets
from supertickets.cli import main
from supertickets.evidence.find import Gain
from supertickets.evidence.learned import Learned
from supertickets.evidence.statistics import Paired, paired_t_test
from supertickets.evidence.tables import AnalysedStudy
from supertickets.evidence.trend import SUPER, Trend, slope_test, slope_weights, trends
from supertickets.studies.inputs import open_study
from supertickets.studies.run import Result

SIZES = (100, 300, 1000)
SMALL: dict[str, Any] = {
    "task": "words", "levels": (0.4, 0.6), "kinds": "winning", "epochs": 2, "batch_size": 8, "learning_rate": 1e-2,
    "max_length": 16, "precision": "float32", "workers": 1, "seeds": 3,
}  # fmt: skip


def gain_of(differences: np.ndarray) -> Gain:
    """Return a gain over dense runs that score 70, known by example."""
    seeds, means = range(len(differences)), differences.mean(axis=1)
    return Gain.of(seeds, list(70 + means), [70.0] * len(means), differences)


def test_slopes_are_those_of_a_regression_for_each_seed() -> None:
    """Without variance between examples, the test is Student's on each seed's slope."""
    by_seed = np.random.default_rng(0).normal([2.0, 1.0, 0.0], 1.0, (6, 3))
    gains = [gain_of(np.repeat(by_seed[:, [i]], 50, axis=1)) for i in range(3)]
    slopes = [stats.linregress(np.log10(SIZES), row).slope for row in by_seed]
    naive, found = stats.ttest_1samp(slopes, 0), slope_test(gains, SIZES)
    low, high = naive.confidence_interval()
    assert (found.mean, found.p) == (pytest.approx(np.mean(slopes)), pytest.approx(naive.pvalue))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    alone = slope_test([replace(gain, differences=None) for gain in gains], SIZES)  # not known by example
    assert (alone.mean, alone.p) == (pytest.approx(found.mean), pytest.approx(naive.pvalue))
    assert slope_test(gains[::-1], SIZES).mean != pytest.approx(found.mean)  # control: other studies at the sizes


def test_two_studies_give_their_difference() -> None:
    first, second = np.random.default_rng(1).normal(0, 10, (2, 4, 60))
    found = slope_test([gain_of(first), gain_of(second)], (100, 1000))
    assert found.mean == pytest.approx(second.mean() - first.mean())
    assert slope_weights((100, 10_000)).tolist() == [-0.5, 0.5]


def test_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    matrices = rng.normal(0, 10, (3, 4, 60))
    expected = slope_test([gain_of(one) for one in matrices], SIZES)
    seeds, examples, order = rng.permutation(4), rng.permutation(60), [2, 0, 1]
    moved = [gain_of(matrices[i][seeds][:, examples]) for i in order]
    found = slope_test(moved, [SIZES[i] for i in order])
    for name in ("mean", "p", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    apart = [gain_of(one[rng.permutation(4)]) for one in matrices]  # control: seeds that do not fit each other
    assert slope_test(apart, SIZES).p != pytest.approx(expected.p)


def simulated(rng: np.random.Generator, slope: float, seeds: int = 10, examples: int = 277) -> list[np.ndarray]:
    """Differences by example of three studies: a ticket's effect on each example is its own in each study."""
    sd = np.sqrt(examples)
    return [
        slope * np.log10(size / SIZES[0])
        + rng.normal(0, 0.5, (seeds, 1))
        + rng.normal(0, np.sqrt(0.3) * sd, examples)
        + rng.normal(0, np.sqrt(0.7) * sd, (seeds, examples))
        for size in SIZES
    ]


def test_the_error_without_a_trend_is_that_of_the_test() -> None:
    rng, count, wrong, alone, seen = np.random.default_rng(3), 400, 0, 0, 0
    weights = slope_weights(SIZES)
    for _ in range(count):
        studies = simulated(rng, 0.0)
        wrong += slope_test([gain_of(one) for one in studies], SIZES).p < 0.05
        slopes = sum(w * one.mean(axis=1) for w, one in zip(weights, studies, strict=True))
        alone += paired_t_test(list(slopes), [0.0] * len(slopes)).p < 0.05
        seen += slope_test([gain_of(one) for one in simulated(rng, 3.5)], SIZES).p < 0.05
    low, high = stats.binom.ppf([0.001, 0.999], count, 0.05)
    assert low <= wrong <= high
    assert alone > 0.2 * count  # control: over seeds alone, the dev set seems to have no sampling error
    assert seen > 0.7 * count  # control: a trend


@pytest.fixture(scope="module")
def done(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Studies of half and all of a training set, and of two of three layers."""
    base = tmp_path_factory.mktemp("trend")
    of = {"half": {"fraction": 0.5}, "whole": {}, "two": {"layers": 2}}
    return {
        name: supertickets.find(SMALL | more, model=str(tiny_model), out=base / name, **words)
        for name, more in of.items()
    }


def analysed(done: dict[str, Result], *names: str) -> list[AnalysedStudy]:
    found = []
    for name in names:
        study = open_study(done[name].folder)
        runs = study.replay()
        found.append(AnalysedStudy(runs, study.study.analyse(runs, study.settings)))
    return found


def the_trend(studies: Sequence[AnalysedStudy]) -> Trend:
    (found,) = trends(studies)
    return found


@pytest.mark.parametrize(("other", "size"), [("half", "training examples"), ("two", "encoder parameters")])
def test_a_trend_over_real_studies(other: str, size: str, done: dict[str, Result]) -> None:
    """The slope is the naive one of each seed's gain at the lightest level, and of the cross-fitted gain."""
    studies = analysed(done, "whole", other)
    found = the_trend(studies)
    assert found.size is not None
    assert list(found.slopes["gain"]) == ["winning tickets at 40%", SUPER]
    scores = {name: done[name].table.set_index(["kind", "level", "seed"])["score"] for name in (other, "whole")}
    gains = {name: (score["winning"][0.4] - score["dense"][0.0]).mean() for name, score in scores.items()}
    points = found.points[found.points["gain"] == "winning tickets at 40%"]
    assert points["difference"].tolist() == pytest.approx([gains[other], gains["whole"]])
    assert points["dense"].tolist() == pytest.approx([scores[name]["dense"].mean() for name in (other, "whole")])
    sizes = points[size].tolist()
    assert sizes[0] < sizes[1]
    assert sizes == ([32, 64] if other == "half" else [sizes[0], sizes[0] * 3 // 2])
    step = np.log10(sizes[1] / sizes[0])
    assert found.slopes["slope"][0] == pytest.approx((gains["whole"] - gains[other]) / step)
    crossed = [one.findings.cross_fitted for one in studies]
    assert found.slopes["slope"][1] == pytest.approx((crossed[0].mean - crossed[1].mean) / step)  # type: ignore[union-attr]
    again = the_trend(studies[::-1])
    pd.testing.assert_frame_equal(again.slopes, found.slopes)
    assert "Gains" in found.sentence()
    assert "(words)" in found.sentence()


def test_the_command_says_it(done: dict[str, Result], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folders = [str(done[name].folder) for name in ("half", "whole")]
    assert main(["report", *folders, "--out", str(tmp_path / "page")]) == 0
    said = the_trend(analysed(done, "half", "whole")).sentence()
    assert said in capsys.readouterr().out
    page = (tmp_path / "page" / "report.html").read_text()
    assert ">Trend<" in page
    assert "Gains by size" in page
    assert len(pd.read_csv(tmp_path / "page" / "tables" / "trend.csv")) == 4
    assert list(pd.read_csv(tmp_path / "page" / "tables" / "trend-slopes.csv")["size"]) == ["training examples"] * 2
    assert main(["report", *folders, "--out", str(tmp_path / "page"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trends"] == [said]


def other_task(study: AnalysedStudy, **changed: Any) -> AnalysedStudy:
    return replace(study, runs=replace(study.runs, tasks=(replace(study.runs.task, **changed),)))


def test_studies_that_cannot_be_compared(done: dict[str, Result]) -> None:
    half, whole, two = analysed(done, "half", "whole", "two")
    targets = 1 - half.runs.task.targets
    cases = {
        "different dev examples": [whole, other_task(half, targets=targets)],
        "different metrics": [whole, other_task(half, metrics=("matthews",))],
        "different base models": [whole, other_task(half, weight_hash="other")],
        "both their training sets and their models": [half, two],
        "have the same size of the training set": [half, whole, half],
        "neither in their training set nor in layers": [whole, whole],
    }
    for why, studies in cases.items():
        found = the_trend(studies)
        assert why in found.sentence()
        assert found.sentence().startswith("No test of a trend for words: ")
        assert found.slopes.empty
    assert trends([whole]) == []
    assert trends([whole, other_task(half, task="another")]) == []


def test_missing_runs_are_counted(done: dict[str, Result]) -> None:
    half, whole = analysed(done, "half", "whole")
    fewer = replace(half.runs, runs=[run for run in half.runs.runs if run.step.labels["seed"] != 1])
    study = open_study(done["half"].folder)
    found = the_trend([AnalysedStudy(fewer, study.study.analyse(fewer, study.settings)), whole])
    assert set(found.slopes["seeds"]) == {2}
    assert "Left out: the runs of 1 seed that not all studies have finished." in found.sentence()
    assert "Two seeds may agree by chance" in found.sentence()
    lost = [
        replace(
            one.runs,
            runs=[replace(run, outcome=None) if run.step.labels["seed"] == 1 else run for run in one.runs.runs],
        )
        for one in (half, whole)
    ]
    both = [AnalysedStudy(one, study.study.analyse(one, study.settings)) for one in lost]
    assert "the runs of 1 seed that" in the_trend(both).sentence()  # not of one in each study
    none = replace(half.runs, runs=[run for run in half.runs.runs if run.step.labels["seed"] == 1])
    rest = replace(whole.runs, runs=[run for run in whole.runs.runs if run.step.labels["seed"] != 1])
    apart = [AnalysedStudy(one, study.study.analyse(one, study.settings)) for one in (none, rest)]
    assert "no seed in common" in the_trend(apart).sentence()


def test_other_settings_that_differ_are_said(done: dict[str, Result]) -> None:
    half, whole = analysed(done, "half", "whole")
    longer = replace(half, runs=replace(half.runs, settings={**half.runs.settings, "epochs": 5}))
    assert "also differ in --epochs (5, 2)" in the_trend([longer, whole]).sentence()
    assert "also differ" not in the_trend([half, whole]).sentence()


def test_a_size_at_which_little_is_learned_is_said(done: dict[str, Result]) -> None:
    """Its gain says little of tickets, so that the slope is also given without it where two sizes are left."""
    half, whole = analysed(done, "half", "whole")
    over = Paired(0.1, p=0.4)
    little, enough = (Learned(50.0, replace(over, p=p)) for p in (0.4, 0.001))

    def taught(study: AnalysedStudy, how: Learned, **changed: Any) -> AnalysedStudy:
        return other_task(replace(study, findings=replace(study.findings, learned=how)), **changed)

    two = the_trend([taught(half, little), taught(whole, enough)])
    assert "At 32 training examples the dense model has learned little, so the gain there says little" in two.sentence()
    assert two.without is None
    three = [taught(half, little, train=8), taught(half, enough), taught(whole, enough)]
    found = the_trend(three)
    rest = the_trend(three[1:])
    assert found.little == (8,)
    assert f"without it the slope is {rest.slopes['slope'][0]:+.2f}" in found.sentence()
    assert (len(found.points), len(rest.points)) == (6, 4)
    assert "learned little" not in rest.sentence()
    assert found.without is not None
    other = found.without.slopes.assign(gain="of another level")  # the lightest that they share may be another one
    assert "without it" not in replace(found, without=replace(found.without, slopes=other)).sentence()
