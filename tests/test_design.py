"""Designs: what a study can detect, said before it is run; and a study of one level that is fixed beforehand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import supertickets
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.selection import cross_fit, halved_scores
from supertickets.evidence.statistics import two_way_test
from supertickets.studies.config import fill, parse
from supertickets.studies.find import FindSettings
from supertickets.studies.presets import DEFAULT_SHAPE
from supertickets.studies.run import Result
from supertickets.tasks import TaskSource, load_task

SMALL: dict[str, Any] = {
    "task": "words",
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
}


@pytest.fixture(scope="module")
def narrow(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("narrow") / "out"
    return supertickets.find(SMALL, design="narrow", levels=0.4, seeds=3, model=str(tiny_model), out=out, **words)


# --- supertickets design ----------------------------------------------------------------------------------------------


def test_the_command_says_what_a_study_sees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", "--dev-size", "277", "--seeds", "5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "A study of 5 seeds and 277 dev examples detects a gain of 2.5 points in 80 % of such studies." in shown
    assert "Its phase test detects a gain of 2.5 points at one light level as often." in shown
    assert "Assumed, for an accuracy of about 70 %" in shown
    assert "which may vary otherwise than assumed" not in shown
    assert main(["design", "--dev-size", "277", "--seeds", "7", "--design", "narrow", "--json", "--gain", "2"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["seeds"] for row in said["gains"]] == [2, 3, 5, 7, 10, 20, 50]
    assert {name for row in said["gains"] for name in row} == {"seeds", "gain"}  # no phases with one level
    for seeds, enough in ((said["seeds_needed"], True), (said["seeds_needed"] - 1, False)):
        table = supertickets.design(dev_size=277, seeds=seeds, design="narrow").table
        assert (table.set_index("seeds").loc[seeds, "gain"] <= 2) == enough
    assert f"A gain of 2 points needs {said['seeds_needed']} seeds." in said["sentences"]


def test_a_design_takes_its_dev_set_from_a_task(words: dict[str, Path]) -> None:
    found = supertickets.design(task="words", seeds=4, levels=(0, 0.1, 0.2, 0.3), **words)
    assert (found.examples, found.metrics, found.seeds, found.light) == (40, ("accuracy",), 4, 2)
    assert supertickets.design(dev_size=40).examples == 40
    assert supertickets.design(dev_size=40, design="narrow").seeds == 20
    assert supertickets.design(task="similarity").metrics == ("pearson", "spearman")
    assert "may vary otherwise than assumed" in " ".join(supertickets.design(task="similarity").sentences())
    assert "cannot detect a gain for other seeds" in supertickets.design(dev_size=40, seeds=1).sentence()


def test_a_pilot_says_how_gains_vary(
    narrow: Result, words: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = supertickets.design(pilot=narrow.folder, seeds=5)
    assert found.examples == 40
    assert found.variance.of_study
    assert f"in {narrow.folder} (3 seeds, 40 dev examples, 1 light level)" in " ".join(found.sentences())
    assumed = supertickets.design(task="words", seeds=5, **words)
    assert found.sentence() != assumed.sentence()
    larger = supertickets.design(pilot=narrow.folder, seeds=5, dev_size=4000)
    assert larger.table["gain"].max() < found.table["gain"].max()
    assert main(["design", "--pilot", str(narrow.folder), "--dev-size", "90", "--metric", "matthews"]) == 2
    said = capsys.readouterr().err
    assert "its score is accuracy, and that of the study is matthews; expected a pilot with the same metrics." in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--dev-size", "277", "--gain", "1"],
            "no number of seeds detects it in 80 % of studies; expected more than 1.2",
        ),
        (["--dev-size", "277", "--gain", "1.2372"], "it needs more than 10,000 seeds"),
        (["--dev-size", "277", "--gain", "0"], "--gain: expected more than 0 points, got 0."),
        (["--dev-size", "1"], "--dev-size: expected at least 2, got 1."),
        (
            ["--dev-size", "277", "--task", "rte"],
            "--dev-size and --task both say which dev set; leave one",
        ),
        (["--metric", "f1"], "--metric is used only with --dev-size"),
        (["--dev-size", "277", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["--data", "."], "--data: it would change nothing, since task 'entailment' is built in and has no files"),
        (["--pilot", "nowhere"], "--pilot nowhere: no such folder."),
        (["--dev-size", "277", "--seeds", "0"], "--seeds: expected at least 1, got 0."),
    ],
)
def test_misuse_of_design(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_says_what_its_own_study_sees(tiny_model: Path, words: dict[str, Path]) -> None:
    asked = {**SMALL, "model": str(tiny_model), "levels": (0.2,), "kinds": ("winning",), "seeds": 6, **words}
    said = supertickets.plan_study("find", asked).sentence()
    assert supertickets.design(dev_size=40, seeds=6).sentence() in said
    dense = {name: value for name, value in asked.items() if name not in ("levels", "kinds")}
    assert "such studies" not in supertickets.plan_study("find", {**dense, "kinds": ()}).sentence()


# --- find --design narrow ---------------------------------------------------------------------------------------------


def test_a_narrow_design_has_defaults_of_its_own() -> None:
    wide, narrow = (fill(FindSettings, {"design": design}, DEFAULT_SHAPE) for design in ("wide", "narrow"))
    assert (wide.seeds, len(wide.levels), len(wide.kinds)) == (2, 8, 3)
    assert (narrow.seeds, narrow.levels, narrow.kinds) == (20, (0.1,), ("winning", "random"))
    other = fill(FindSettings, {"design": "narrow", "levels": "0.3", "seeds": 8, "kinds": "winning"}, DEFAULT_SHAPE)
    assert (other.seeds, other.levels, other.kinds) == (8, (0.3,), ("winning",))
    assert parse(FindSettings, narrow.model_dump()) == narrow  # as it is read from its folder


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"levels": (0.1, 0.2)}, "one level above 0 is fixed beforehand .--levels., got 0.1, 0.2"),
        ({"levels": (0.0,)}, "one level above 0 is fixed beforehand .--levels., got 0"),
        ({"kinds": ("random",)}, "expected winning among --kinds, got random"),
        ({"kinds": ()}, "expected winning among --kinds, got none"),
    ],
)
def test_what_a_narrow_design_cannot_be_asked_for(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(TicketError, match=f"--design narrow: {said}"):
        parse(FindSettings, {"design": "narrow", **asked})
    assert parse(FindSettings, asked).design == "wide"  # control


def score_by_half(result: Result, kind: str, targets: np.ndarray) -> np.ndarray:
    """The cross-fitted score of each seed's run of a kind, from its stored outputs."""
    rows = result.table[result.table["kind"] == kind].sort_values("seed")
    outputs = [load_outputs(result.folder / "trials" / trial) for trial in rows["trial"]]
    return np.array([cross_fit([halved_scores(one, ("accuracy",), targets)]).cross_fitted for one in outputs])


def load_outputs(folder: Path) -> np.ndarray:
    return load_file(folder / "predictions.safetensors")["dev"]


def test_a_narrow_study_tests_its_one_level(narrow: Result, words: dict[str, Path]) -> None:
    targets = load_task(TaskSource(task="words", **words)).dev.targets
    found = narrow.findings.narrow
    scores = {kind: score_by_half(narrow, kind, targets) for kind in ("winning", "dense", "random")}
    assert found.level == 0.4
    for kind in ("dense", "random"):
        gain = found.over[kind]
        assert gain.mean == pytest.approx(float((scores["winning"] - scores[kind]).mean()))
        test = two_way_test(gain.differences, gain.mean)
        assert (gain.test.p, gain.test.low, gain.test.high) == (test.p, test.low, test.high)
        assert f"{gain.mean:+.2f} (95 % interval: {test.low:+.2f} to {test.high:+.2f}, p = " in narrow.verdict
    assert "At level 40%, which was fixed beforehand, winning tickets " in narrow.verdict
    assert "phase" not in narrow.verdict
    assert "as in the paper" not in narrow.verdict
    assert narrow.findings.main_test == found.over["dense"].test
    assert "level 0.4, fixed beforehand, over random" in narrow.report.read_text(encoding="utf-8")


def test_a_narrow_study_stays_one(narrow: Result, tiny_model: Path, words: dict[str, Path]) -> None:
    """A level that is chosen after looking is no level that was fixed beforehand."""
    own = {**SMALL, "seeds": 3, "levels": 0.4, "model": str(tiny_model), "out": narrow.folder, **words}
    with pytest.raises(TicketError, match="--design was narrow and is now wide"):
        supertickets.find(own, kinds=("winning", "random"))
    with pytest.raises(TicketError, match=r"--levels was 0\.4 and is now 0.2"):
        supertickets.find(own, design="narrow", levels=0.2)
