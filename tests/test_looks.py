"""Looks: a study that grows after its verdict was seen is told so, and its p is corrected."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import supertickets
from helpers.study_files import contents
from supertickets.evidence.findings import Findings
from supertickets.evidence.looks import Look, of_looks
from supertickets.evidence.power import assumed_variance
from supertickets.evidence.statistics import Paired, two_way_test
from supertickets.lab import Lab
from supertickets.studies.looks import LOOKS
from supertickets.studies.run import Result

ASKED: dict[str, Any] = {
    "task": "words",
    "levels": (0.2,),
    "kinds": ("winning",),
    "keep": "none",
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
}

RULE = "Each look is another chance of a false gain, so p-values are to be multiplied"


@pytest.fixture(scope="module")
def asked(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {**ASKED, "model": str(tiny_model), **words}


@pytest.fixture(scope="module")
def grown(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A study of two seeds, then of three, then of two levels: the folder, and each verdict."""
    out = tmp_path_factory.mktemp("grown") / "out"
    verdicts = {
        "first": supertickets.find(asked, seeds=2, out=out).verdict,
        "again": supertickets.find(asked, seeds=2, out=out).verdict,
        "reported": next(iter(supertickets.report([out]).verdicts.values())),
        "seeds": supertickets.find(asked, seeds=3, out=out).verdict,
        "levels": supertickets.find(asked, seeds=3, levels=(0.2, 0.5), out=out).verdict,
    }
    return out, verdicts


def p_of(result: Result) -> float:
    return float(result.findings.main_test.p)


def test_looking_again_at_the_same_runs_is_no_new_look(grown: tuple[Path, dict[str, str]]) -> None:
    _, verdicts = grown
    assert verdicts["first"] == verdicts["again"] == verdicts["reported"]
    assert "looked at" not in verdicts["first"]


def test_a_study_that_grew_is_told_how_often_it_was_looked_at(
    grown: tuple[Path, dict[str, str]], asked: dict[str, Any], tmp_path: Path
) -> None:
    out, verdicts = grown
    assert f"This study was looked at once before, with 2 seeds. {RULE}" in verdicts["seeds"]
    assert "looked at 2 times before, with 2 seeds and 1 level, then 3 seeds and 1 level. " in verdicts["levels"]
    assert sorted(json.loads(path.read_text())["seeds"] for path in (out / LOOKS).iterdir()) == [2, 3, 3]
    # Control: with as many seeds from the beginning it is not, and the p that was corrected is that one's.
    at_once = supertickets.find(asked, seeds=3, out=tmp_path / "out")
    assert "looked at" not in at_once.verdict
    p = p_of(at_once)
    assert f"that of the gain over the dense model is {min(1.0, 2 * p):.2g} instead of {p:.2g}." in verdicts["seeds"]


def test_a_study_that_was_stopped_was_not_looked_at(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(Lab, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            supertickets.find(asked, seeds=1, out=out)
    assert not (out / LOOKS).exists()
    assert "looked at" not in supertickets.find(asked, seeds=2, out=out).verdict
    # Control: a report in between is a look.
    for outcome in sorted(out.glob("trials/*/outcome.json")):
        if json.loads(outcome.read_text())["trial"]["seed"] == 1:
            shutil.rmtree(outcome.parent)
    shutil.rmtree(out / LOOKS)
    supertickets.report([out], tmp_path / "elsewhere")
    assert "looked at once before, with 1 seed." in supertickets.find(asked, seeds=2, out=out).verdict


def test_dense_models_alone_are_no_look_at_tickets(asked: dict[str, Any], tmp_path: Path) -> None:
    dense = {name: value for name, value in asked.items() if name not in ("levels", "keep")}
    supertickets.find(dense, seeds=1, kinds=(), out=tmp_path / "out")
    assert not (tmp_path / "out" / LOOKS).exists()


def test_a_damaged_look_and_a_folder_without_looks(grown: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    out, verdicts = grown
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    for path in (copy / LOOKS).iterdir():
        path.write_text("[")
    (verdict,) = supertickets.report([copy]).verdicts.values()
    assert verdict in verdicts["levels"]
    assert "looked at" not in verdict
    before = contents(copy)
    supertickets.report([copy])
    assert contents(copy) == before


def test_the_sentence_about_looks() -> None:
    now, test = Look(5, 8, "now"), Paired(1.0, 0.3, -1, 3)
    before = [Look(2, 8, "a"), Look(3, 8, "b"), Look(4, 8, "c")]
    said = of_looks(before, now, test)
    assert said.startswith("This study was looked at 3 times before, with 2 seeds, then 3 seeds, then 4 seeds. ")
    assert said.endswith("the number of looks, 4: that of the gain over the dense model is 1 instead of 0.3.")
    assert of_looks(before[:1], now, None).endswith("multiplied by the number of looks, 2.")
    assert of_looks(before[:1], now, Paired(1.0)).endswith("multiplied by the number of looks, 2.")


def test_stopping_at_the_first_significant_look_errs_less_with_the_correction() -> None:
    """Studies without a gain that are looked at with 5, 10, 15 and 20 seeds."""
    rng, variance, plain, corrected = np.random.default_rng(2), assumed_variance(), 0, 0
    for _ in range(300):
        gains = rng.normal(0, variance.rest**0.5, (20, 277)) + rng.normal(0, variance.example**0.5, (1, 277))
        gains += rng.normal(0, variance.seed**0.5, (20, 1))
        p = [two_way_test(gains[:seeds], float(gains[:seeds].mean())).p for seeds in (5, 10, 15, 20)]
        plain += min(p) < 0.05
        corrected += min(one * looks for looks, one in enumerate(p, 1)) < 0.05
    assert plain > stats.binom.ppf(0.95, 300, 0.05)
    assert corrected <= stats.binom.ppf(0.999, 300, 0.05)


def test_any_study_is_told() -> None:
    """Also one that has no main test; runs that did not finish are not looked at."""
    runs = pd.DataFrame({"seed": [0, 1, 2], "status": ["finished", "finished", "failed"], "trial": ["a", "b", "c"]})
    findings = Findings(runs, looks=(Look(1, 0, "x"),))
    assert findings.verdict == (f"This study was looked at once before, with 1 seed. {RULE} by the number of looks, 2.")
    look = Look.at(findings.tested)
    assert look is not None
    assert (look.seeds, look.levels) == (2, 0)
    assert Look.at(runs[:1]) != Look.at(runs[:2])
    assert Look.at(runs.iloc[::-1]) == Look.at(runs)
    assert Look.at(runs.iloc[:0]) is None
    assert Findings(runs).verdict == ""
