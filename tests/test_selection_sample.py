"""Levels chosen on a random share of the dev set, as in section 5.2 of the paper: `--selection sample`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import supertickets
from helpers.models import save_tiny_model
from helpers.trials import write_words
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.resampling import sample_size, sample_weights
from supertickets.evidence.sampling import Selection, nearest_share, why_not_sampled
from supertickets.evidence.selection import select_super
from supertickets.evidence.tables import gains, paper_tables
from supertickets.studies.find import FindSettings
from supertickets.studies.inputs import open_study
from supertickets.studies.plan import plan_study
from supertickets.studies.presets import DEFAULT_SHAPE
from supertickets.studies.run import Result
from supertickets.tasks.metrics import evaluate
from test_report import look

ACCURACY = ("accuracy",)
SMALL: dict[str, Any] = {
    "task": "graded",
    "levels": (0.2, 0.4, 0.6, 0.8),
    "kinds": "winning",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
    "seeds": 3,
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A study on 120 dev examples, of which a tenth are just enough to choose on."""
    folder = tmp_path_factory.mktemp("sampled")
    files = {
        name: write_words(folder / f"{name}.jsonl", count, seed, lambda words: sum(i < 12 for i in words) / len(words))
        for seed, (name, count) in enumerate({"train_file": 64, "dev_file": 120}.items())
    }
    return {
        **SMALL,
        **files,
        "regression": True,
        "model": str(save_tiny_model(folder / "model")),
        "out": folder / "out",
    }


@pytest.fixture(scope="module")
def done(asked: dict[str, Any]) -> Result:
    return supertickets.find(asked)


# --- the sample -------------------------------------------------------------------------------------------------------


def test_samples_are_random_shares_that_everyone_draws_alike() -> None:
    weights = sample_weights(408, 0.1)
    assert weights.shape == (50, 408)
    assert (weights.sum(axis=1) == sample_size(408, 0.1)).all()
    assert sample_size(408, 0.1) == 41
    assert set(np.unique(weights)) == {0.0, 1.0}  # without replacement
    assert (sample_weights.__wrapped__(408, 0.1) == weights).all()
    assert len(np.unique(weights, axis=0)) == 50
    assert (sample_weights(408, 0.2) >= weights).all()  # a larger share holds a smaller one
    assert (sample_weights(408, 0.1, seed=1) != weights).any()
    drawn = sample_weights(60, 0.5, 2000).mean(axis=0)  # every example as often as the others
    assert abs(drawn - 0.5).max() < 5 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("metrics", "targets", "share", "said"),
    [
        (ACCURACY, np.arange(100) % 2, 0.1, ""),
        (ACCURACY, np.arange(94) % 2, 0.1, "10 % of the 94 dev examples are 9; at least 10 are needed"),
        (ACCURACY, np.arange(10) % 2, 0.1, "10 % of the 10 dev examples is 1; at least 10"),
        (ACCURACY, np.zeros(400, int), 0.1, ""),
        (("matthews",), np.arange(400) % 2, 0.1, ""),
        (("matthews",), np.zeros(400, int), 0.1, "metric matthews cannot tell models apart"),
        (("accuracy", "f1"), np.zeros(400, int), 0.125, "12.5 % of the 400 dev examples .* metric f1"),
        (("pearson", "spearman"), np.linspace(0, 5, 200), 0.1, ""),
        (("pearson", "spearman"), np.full(200, 2.5), 0.1, "metric pearson"),
        (("micro_f1",), np.eye(4, dtype=np.int8)[np.arange(200) % 4], 0.1, ""),
        (("micro_f1",), np.zeros((200, 4), np.int8), 0.1, "metric micro_f1"),
        (("answer_f1", "exact_match"), np.zeros(200), 0.1, ""),
        (("pearson", "rmse"), np.linspace(0, 1, 100), 0.1, ""),  # an error of 0 is no reason: it is in no score
    ],
)  # fmt: skip
def test_what_is_too_small_to_choose_on_is_told(metrics: Any, targets: Any, share: float, said: str) -> None:
    reason = why_not_sampled(metrics, targets, len(targets), share)
    assert bool(reason) == bool(said)
    if said:
        with pytest.raises(TicketError, match=said):
            raise TicketError(reason)


def test_the_nearest_share_is_the_smallest_that_can_be_sampled() -> None:
    targets = np.arange(60) % 2
    assert nearest_share(ACCURACY, targets, 0.1) == 0.16  # 9.6 examples, which are 10
    assert why_not_sampled(ACCURACY, targets, 60, 0.15)
    assert not why_not_sampled(ACCURACY, targets, 60, 0.16)
    assert nearest_share(ACCURACY, targets[:9], 0.1) is None
    one = np.zeros(500, int)
    one[np.flatnonzero(sample_weights(500, 0.5)[0] > sample_weights(500, 0.4)[0])] = 1  # no positive in the first 200
    share = nearest_share(("f1",), one, 0.1)
    assert share == pytest.approx(0.41)


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_each_seeds_level_is_best_on_the_sample_and_scored_on_the_whole(done: Result) -> None:
    """Against a naive loop over outcomes."""
    one = look(done.folder)
    runs, seen, sample = one.runs, one.findings, sample_weights(120, 0.1)[0].astype(bool)
    assert seen.selection == Selection(120, 0.1)
    assert seen.paper is not None
    chosen, metrics, targets = [], runs.task.metrics, runs.task.targets
    for seed, score in zip(seen.paper.seeds, seen.paper.scores, strict=True):
        found = []
        for run in runs.where(kind="winning", seed=seed):
            outputs = run.result.predictions()["dev"]
            best = max(range(len(outputs)), key=lambda at: evaluate(metrics, targets, outputs[at])["score"])
            on_sample = evaluate(metrics, targets[sample], outputs[best][sample])["score"]
            found.append((on_sample, run.step.labels["level"], run.result.score))
        assert score == pytest.approx(max(found)[2])
        chosen.append(max(found)[1])
    assert seen.supers["level"].tolist() == chosen
    table = runs.table[runs.table["kind"] == "winning"]
    assert np.mean(seen.paper.scores) < table.groupby("seed")["score"].max().mean()  # else no choice was another one
    assert "each seed's level is chosen on a random 10 % of the dev set (12 of 120 examples)" in done.verdict
    assert "The winning ticket with the highest score on the whole dev set, which is partly luck, is" in done.verdict
    assert seen.remaining == tuple(seen.supers["remaining"])


def test_another_selection_trains_nothing_and_only_moves_the_papers_gain(done: Result, asked: dict[str, Any]) -> None:
    trials = sorted((done.folder / "trials").iterdir())
    before = [path.stat().st_mtime_ns for path in trials]
    ticket = (done.folder / "super-ticket" / "ticket.json").read_bytes()
    whole = supertickets.find({**asked, "selection": "whole"})
    assert [path.stat().st_mtime_ns for path in sorted((done.folder / "trials").iterdir())] == before
    assert (done.folder / "super-ticket" / "ticket.json").read_bytes() == ticket
    pd.testing.assert_frame_equal(whole.table, done.table)
    sampled, seen = done.findings, whole.findings
    assert seen.paper.mean > sampled.paper.mean
    best = whole.table[whole.table["kind"] == "winning"].groupby("seed")["score"].max()
    assert list(seen.paper.scores) == pytest.approx(best.tolist())
    assert seen.cross_fitted.scores == sampled.cross_fitted.scores
    assert seen.chosen["trial"] == sampled.chosen["trial"]
    assert seen.choice.gain > sampled.choice.gain > 0  # choosing on less knows less
    assert (
        "are chosen on the dev set that scores them (the paper chooses levels on a random sample of it" in whole.verdict
    )
    assert "level is chosen on a random" not in whole.verdict
    assert plan_study("find", {**asked, "selection_share": 0.3}).done == plan_study("find", asked).trainings
    supertickets.find(asked)  # as it was


def test_tables_and_page_say_what_was_chosen_and_what_choosing_gives(done: Result) -> None:
    one = look(done.folder)
    choice = one.findings.choice
    assert choice is not None
    row = gains([one]).iloc[0]
    assert row["chosen_on"] == 12
    expected = [choice.gain, choice.spread, choice.significant]
    assert row[["choice_gain", "choice_spread", "choice_significant"]].tolist() == expected
    tables = paper_tables([one])
    supers = one.findings.supers
    means = [f"{supers[name].mean():.1f}" for name in one.runs.task.metrics]
    assert tables["table 1"].loc["SuperT"].iloc[0] == "/".join(means)
    spread = tables["table 5"].iloc[:, 0]
    winning = done.table[done.table["kind"] == "winning"]
    by_level = [winning[winning["level"] == level]["score"].std(ddof=1) for level in SMALL["levels"]]
    dense = done.table[done.table["kind"] == "dense"]["score"].std(ddof=1)
    expected = [dense, supers["score"].std(ddof=1), np.mean(np.square(by_level)) ** 0.5, supers["score"].std() / dense]
    assert spread.tolist() == [f"{value:.2f}" for value in [*expected, choice.ratio]]
    page = done.report.read_text()
    assert "choosing alone: best of 4 dense runs" in page
    assert "best score on a random sample of the dev set, 12 examples (as in the paper)" in page
    assert f"still give {choice}" in done.verdict
    assert "found from runs that vary as the study's 3 dense runs do" in done.verdict


def test_ties_on_the_sample_go_to_the_smaller_ticket() -> None:
    table = pd.DataFrame(
        {
            "kind": "winning",
            "level": [0.1, 0.2, 0.3],
            "status": "finished",
            "remaining": [0.9, 0.8, 0.7],
            "parameters": [9, 8, 7],
            "seed": 0,
            "score": [75.0, 74.0, 60.0],
            "trial": ["a", "b", "c"],
        }
    )
    for seen, level in (({"a": 80, "b": 80, "c": 70}, 0.2), ({"a": 80, "b": 79, "c": 81}, 0.3), (None, 0.1)):
        row = select_super(table, seen)
        assert row is not None
        assert row["level"] == level
        assert "by" not in row


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_presets_choose_as_text_and_code() -> None:
    for preset, selection in (("paper", "sample"), ("released", "whole")):
        assert FindSettings.model_validate({"preset": preset}).preset_settings(DEFAULT_SHAPE)["selection"] == selection
    assert FindSettings().selection == "whole"  # of folders from before there was a choice
    assert FindSettings().selection_share == 0.1


def test_where_a_tenth_is_too_small_the_default_is_the_whole_dev_set(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**SMALL, **words, "task": "words", "model": str(tiny_model), "levels": (0.2, 0.5), "seeds": 1, "epochs": 1}
    said = "Levels are chosen on the whole dev set, as with --selection whole, since 10 % of the 40 dev examples are 4"
    assert said in plan_study("find", small).sentence()
    done = supertickets.find(small, out=tmp_path / "out", quiet=False)
    assert said in " ".join(capsys.readouterr().err.split())
    assert yaml.safe_load((done.folder / "settings.yaml").read_text())["selection"] == "whole"
    assert "How much of this gain is choosing the best of 2 levels is not known: there is one dense run" in (
        done.verdict
    )
    again = supertickets.find(done.folder / "settings.yaml")
    assert again.verdict == done.verdict


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--selection", "sample"],
            "--selection: 10 % of the 40 dev examples are 4; at least 10 are needed to choose a level; expected "
            "--selection-share 0.24 or --selection whole.",
        ),
        (["--selection-share", "0.2"], "--selection-share: 20 % of the 40 dev examples are 8"),
        (["--selection-share", "1"], "--selection-share: expected less than 1, got 1."),
        (["--selection", "some"], "Expected one of whole, sample."),
        (["--selection", "whole", "--selection-share", "0.5"], "since levels are chosen on the whole dev set"),
        (["--levels", "0.5", "--selection", "sample"], "there are fewer than two levels of winning tickets"),
        (["--kinds", "random", "--selection", "sample"], "there are fewer than two levels of winning tickets"),
        (["--kinds", "none", "--selection", "sample"], "no tickets are drawn"),
    ],
)
def test_a_sample_that_cannot_be_chosen_on_is_refused(
    typed: list[str], said: str, tiny_model: Path, words: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = [part for name, path in words.items() for part in ("--" + name.replace("_", "-"), str(path))]
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main(["find", "--model", str(tiny_model), *files, "--out", str(tmp_path / "out"), *typed]))
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_share_that_is_enough_is_taken(tiny_model: Path, words: dict[str, Path]) -> None:
    small = {**SMALL, **words, "task": "words", "model": str(tiny_model)}
    assert "whole dev set" not in plan_study("find", {**small, "selection_share": 0.25}).sentence()
    with pytest.raises(TicketError, match="--selection: 10 % of the 40 dev examples"):
        plan_study("find", {**small, "selection": "sample"})


def test_a_folder_from_before_chose_on_the_whole(done: Result, tmp_path: Path) -> None:
    path = done.folder / "settings.yaml"
    settings = yaml.safe_load(path.read_text())
    try:
        path.write_text(yaml.safe_dump({name: value for name, value in settings.items() if "selection" not in name}))
        study = open_study(done.folder)
        assert study.settings.selection == "whole"  # type: ignore[attr-defined]
        assert not look(done.folder).findings.selection.sampled
    finally:
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert look(done.folder).findings.selection.sampled
