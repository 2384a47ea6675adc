"""Choices, measures, schedules, fractions: each does what it says, and what it changes is shown."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.drawing import randomly, ranked
from supertickets.anatomy import Shape
from supertickets.cli import main
from supertickets.evidence.rates import SPREAD
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import load_outcome
from supertickets.lab.workbench import Workbench
from supertickets.models import find_model
from supertickets.studies.adapt_settings import AdaptSettings
from supertickets.studies.compare import CHOICES, CompareSettings
from supertickets.studies.config import resolve_settings
from supertickets.studies.find import RATES, FindSettings
from supertickets.studies.report import report
from supertickets.studies.run import Result, run_study
from supertickets.tasks import TaskSource, count_of, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, normalise_by_layer

SMALL: dict[str, Any] = {
    "task": "words",
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 16,
    "precision": "float32",
    "workers": 1,
}


def outcome(result: Result, key: str) -> Any:
    return load_outcome(result.folder / "trials" / key)


# --- iterative pruning ------------------------------------------------------------------------------------------------


def test_drawing_within_a_ticket_only_takes_more_away() -> None:
    rng = np.random.default_rng(0)
    heads, ffns = rng.random((3, 4)), rng.random(3)
    first = ranked(heads, ffns, 0.34, "winning")
    other_heads, other_ffns = rng.random((3, 4)) * first.heads, rng.random(3) * first.ffns
    for kind in ("winning", "losing"):
        second = ranked(other_heads, other_ffns, 0.67, kind, within=first)
        assert second <= first
        assert (second.kept_heads, second.kept_ffns) == (4, 1)
        assert second.heads.any(axis=1).all()  # a head a layer stays
    free = ranked(other_heads, other_ffns, 0.67, "losing")
    assert not free <= first  # a losing ticket keeps low scores: without `within`, what is gone would come back


def test_iterative_pruning_scores_every_rewound_ticket_again(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    levels = (0.2, 0.5, 0.7)
    kinds = ("winning", "losing")
    asked = {**SMALL, "model": str(tiny_model), "seeds": 1, "levels": levels, "kinds": kinds, **words}
    result = run_study("find", asked, out=tmp_path / "out", schedule="iterative")
    assert (result.table["status"] == "finished").all()
    (dense,) = result.table[result.table["kind"] == "dense"]["trial"]
    of_dense_heads, of_dense_ffns = outcome(result, dense).scores().values()
    differ = []
    for kind in kinds:
        rows = result.table[result.table["kind"] == kind].sort_values("level")
        before, ticket = dense, Ticket.full(3, 4)
        for level, key in zip(rows["level"], rows["trial"], strict=True):
            heads, ffns = outcome(result, before).scores().values()
            expected = ranked(normalise_by_layer(heads), ffns, level, kind, within=ticket)
            ticket, before = outcome(result, key).trial.ticket, key
            assert ticket == expected
            differ.append(ticket != ranked(normalise_by_layer(of_dense_heads), of_dense_ffns, level, kind))
        assert "scores.safetensors" not in outcome(result, before).files  # nothing is drawn from the last
    assert any(differ)  # control: the dense scores alone would draw others
    report([result.folder])  # recalled, chain and all
    again = run_study("find", result.folder / "settings.yaml")
    assert again.table.equals(result.table)


@pytest.mark.parametrize(
    ("schedule", "kinds"), [("iterative", ("winning", "random", "losing")), ("one-shot", ("winning",))]
)
def test_levels_that_draw_the_same_ticket_do_not_end_a_study(
    schedule: str, kinds: tuple[str, ...], tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    """0.01 of 12 heads prunes nothing, 0.3 and 0.31 the same: equal tickets share a trial, and all go on."""
    levels = (0.01, 0.3, 0.31, 0.6)
    asked = {**SMALL, "epochs": 1, "model": str(tiny_model), "seeds": 1, "levels": levels, "kinds": kinds, **words}
    result = run_study("find", asked, schedule=schedule, control="best-of-k", out=tmp_path / "out")
    assert (result.table["status"] == "finished").all()
    winning = result.table[result.table["kind"] == "winning"].set_index("level")
    assert winning.loc[0.01, "trial"] == result.table.set_index("kind").loc["dense", "trial"]
    assert winning.loc[0.3, "trial"] == winning.loc[0.31, "trial"]
    assert (winning.loc[0.6, "heads"], winning.loc[0.6, "ffns"]) == (5, 1)
    assert (result.table["kind"] == "control").sum() == result.findings.choice.among == 2  # different tickets
    assert result.findings.phases.light == (0.3, 0.31)
    assert "choosing the best of 2 different tickets" in result.verdict
    report([result.folder])
    assert "This study is not finished" not in result.report.read_text()


def test_what_a_measure_does_not_read_changes_no_trial(capsys: pytest.CaptureFixture[str]) -> None:
    def scoring(**settings: str) -> Any:
        return FindSettings(**settings).scoring  # type: ignore[arg-type]

    assert scoring(importance="magnitude", absolute="token", accumulation="decaying") == scoring(importance="magnitude")
    assert scoring(importance="fisher", accumulation="decaying") == scoring(importance="fisher")
    assert scoring(importance="fisher", absolute="token") != scoring(importance="fisher")
    assert scoring(absolute="token") != scoring()
    settings = CompareSettings(importance="magnitude")
    assert [name for name, _ in settings.variants] == ["counts", "random", "lr_schedule"]
    assert settings.idle == ["absolute", "accumulation"]
    assert CompareSettings().idle == []


# --- presets ----------------------------------------------------------------------------------------------------------

BASE, LARGE, MINI = Shape(12, 12, 768, 3072), Shape(24, 16, 1024, 4096), Shape(6, 12, 384, 1536)


@pytest.mark.parametrize(
    ("shape", "task", "epochs", "scored"),
    [(BASE, "rte", 6, 4), (LARGE, "RTE", 6, 5), (BASE, "mrpc", 6, None), (BASE, "mnli", 3, None),
     (BASE, "qnli", 3, None),
     (BASE, "qqp", 6, None), (LARGE, "qqp", 5, None), (LARGE, "sst-2", 4, None), (BASE, "snli", 5, None),
     (LARGE, "scitail", 5, None)],
)  # fmt: skip
def test_epochs_of_the_released_scripts(shape: Shape, task: str, epochs: int, scored: int | None) -> None:
    """Spec section 4: epochs trained, and the epoch whose weights are scored where it is not the last."""
    released = FindSettings.model_validate({"task": task, "preset": "released"}).preset_settings(shape)
    assert (released["epochs"], released["score_epoch"]) == (epochs, scored)
    paper = FindSettings.model_validate({"task": task}).preset_settings(shape)
    assert {"epochs", "score_epoch"}.isdisjoint(paper)  # 6 with early stopping, scored where that ends
    adapted = AdaptSettings.model_validate({"task": task, "preset": "released"}).preset_settings(shape)
    assert adapted["epochs"] == epochs


def test_the_epoch_that_is_scored(
    words: dict[str, Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = find_model(str(tiny_model))
    asked = {"task": "rte", "preset": "released", "model": str(tiny_model)}
    assert resolve_settings(FindSettings, asked, base).scoring.score_epoch == 4
    fewer = resolve_settings(FindSettings, asked | {"epochs": 3}, base)  # the preset's is one of its own six
    assert fewer.scoring.score_epoch is None
    assert resolve_settings(FindSettings, asked | {"epochs": 3, "score_epoch": 2}, base).scoring.score_epoch == 2
    magnitude = resolve_settings(FindSettings, asked | {"importance": "magnitude"}, base)
    assert magnitude.scoring.score_epoch == 4
    flags = ["find", "--model", str(tiny_model), "--train-file", str(words["train_file"])]
    assert main([*flags, "--out", str(tmp_path / "out"), "--epochs", "3", "--score-epoch", "4"]) == 2
    assert "--score-epoch 4: expected at most 3 (--epochs)." in capsys.readouterr().err
    assert main([*flags, "--out", str(tmp_path / "out"), "--score-epoch", "9"]) == 2
    assert "--score-epoch 9: expected at most 4 (--epochs)." in capsys.readouterr().err  # the preset's
    assert not (tmp_path / "out").exists()
    small = {**SMALL, "keep_epoch": "last", "seeds": 1, "levels": (0.5,), "kinds": ("winning",)}
    small |= {"epochs": 2, "model": str(tiny_model)}
    found = run_study("find", small | words, out=tmp_path / "out", score_epoch=1)
    dense = outcome(found, found.table["trial"].iloc[0])
    assert dense.trial.scoring.score_epoch == 1
    assert dense.best_epoch == 2
    heads = [dense.scores()["heads"]]
    for epoch in (2, None):
        trial = dense.trial.but(scoring=dense.trial.scoring.model_copy(update={"score_epoch": epoch}))
        again = Workbench("cpu").run(Job(trial, tmp_path / str(epoch), False, "dense"), lambda event: None)
        heads.append(again.scores()["heads"])
    assert np.array_equal(heads[1], heads[2])
    assert not np.array_equal(heads[0], heads[2])


# --- fractions of the training set ------------------------------------------------------------------------------------


def test_fractions_are_nested_and_recorded(words: dict[str, Path]) -> None:
    def texts(fraction: float, seed: int = 0) -> list[str]:
        return load_task(TaskSource(task="words", fraction=fraction, fraction_seed=seed, **words)).train.text

    whole, half, eighth = texts(1.0), texts(0.5), texts(0.125)
    assert (len(whole), len(half), len(eighth)) == (64, 32, 8)
    assert set(eighth) < set(half) < set(whole)
    assert texts(0.5) == half
    assert texts(0.5, seed=1) != half
    task = load_task(TaskSource(task="words", fraction=0.5, **words))
    assert len(task.dev) == 40  # the dev set stays whole
    assert task.fingerprint() != load_task(TaskSource(task="words", **words)).fingerprint()
    kept = [row for row in whole if row in set(half)]
    assert [text for text in kept if text in half] == half  # in the file's order


@pytest.mark.parametrize(
    ("fraction", "size", "count"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.0058, 50_000, 290), (1 / 3, 300, 100), (2 / 3, 300, 200),
     (7 / 549_367, 549_367, 7), (0.999, 1000, 999), (0.9999, 100, 99), (1e-05, 100_000, 1)],
)  # fmt: skip
def test_fractions_round_down(fraction: float, size: int, count: int) -> None:
    assert count_of(fraction, size) == count


def test_floats_would_round_down_too_far() -> None:
    """Control of the test above: what floats make of numbers that are whole on paper."""
    assert [int(0.29 * 100), int(0.57 * 100), int(0.0058 * 50_000)] == [28, 56, 290]
    size = 64  # of every count the share that is a float's nearest gives the count back
    assert [count_of(count / size / 3, 3 * size) for count in range(1, size)] == list(range(1, size))


def test_too_small_a_fraction(
    words: dict[str, Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [part for name, path in words.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    arguments = ["find", "--model", str(tiny_model), *files, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--fraction", "0.01"]) == 2
    said = capsys.readouterr().err
    assert "--fraction 0.01: it leaves 0 of 64 training examples of task 'train'" in said
    assert "expected at least 2, a fraction of 0.0313 or more" in said
    assert (count_of(0.0312, 64), count_of(0.0313, 64)) == (1, 2)
    assert main([*arguments, "--fraction", "0"]) == 2
    assert main([*arguments, "--fraction", "1.5"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_study_of_a_fraction(found: Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    asked = {**SMALL, "seeds": 1, "levels": (0.5,), "kinds": ("winning",), "model": str(tiny_model), **words}
    part = run_study("find", asked, out=tmp_path / "part", fraction=0.25)
    assert not set(part.table["trial"]) & set(found.table["trial"])
    both = report([part.folder, found.folder], tmp_path / "both")
    assert "words (0.25 of its training set)" in both.page.read_text()
    assert "more than once" in both.average.reason  # one task twice is no average over tasks


# --- comparing choices ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    choices = ("absolute", "counts", "random", "lr-schedule", "importance=magnitude", "schedule")
    out = tmp_path_factory.mktemp("compare") / "out"
    asked = {**SMALL, "model": str(tiny_model), "choices": choices, "levels": (0.3, 0.6)}
    return run_study("compare", asked, out=out, **words)


def test_each_choice_is_tried_alone(compared: Result) -> None:
    assert set(compared.findings.comparison["choice"]) == {
        "absolute=token", "counts=ladder", "random=with-replacement", "lr_schedule=released", "importance=magnitude",
        "schedule=iterative",
    }  # fmt: skip
    runs = compared.table
    assert list(runs.columns[:5]) == ["choice", "kind", "level", "seed", "task"]
    usual = runs[runs["choice"] == ""].set_index(["kind", "level", "seed"])
    for row in runs[runs["choice"] != ""].itertuples():
        trial = outcome(compared, row.trial).trial
        own = outcome(compared, usual.loc[(row.kind, row.level, row.seed), "trial"]).trial
        name, value = row.choice.split("=")
        if name == "lr_schedule":
            assert trial.recipe.lr_schedule == value
        else:
            assert trial.recipe == own.recipe
        if row.kind == "dense" and name in ("absolute", "importance"):
            assert getattr(trial.scoring, name) == value
        if name == "counts" and row.level:
            by_share, by_ladder = {0.3: ((8, 2), (9, 3)), 0.6: ((5, 1), (5, 2))}[row.level]
            assert (own.ticket.kept_heads, own.ticket.kept_ffns) == by_share
            assert (trial.ticket.kept_heads, trial.ticket.kept_ffns) == by_ladder
        if name == "random" and row.level:
            how = Drawing.model_validate({"random": value})
            assert trial.ticket == randomly(3, 4, row.level, row.seed, how) != own.ticket
        if name == "schedule" and row.level == 0.6:
            (before,) = runs[(runs["choice"] == row.choice) & (runs["level"] == 0.3) & (runs["seed"] == row.seed)][
                "trial"
            ]
            heads, ffns = outcome(compared, before).scores().values()
            within = outcome(compared, before).trial.ticket
            assert trial.ticket == ranked(normalise_by_layer(heads), ffns, 0.6, "winning", within=within)
    assert set(runs[runs["kind"] == "random"]["choice"]) == {"", "random=with-replacement"}


def test_what_a_choice_changes_is_measured(compared: Result) -> None:
    """Overlap and differences against a naive count over the trials' tickets and scores."""
    runs, comparison = compared.table, compared.findings.comparison
    for row in comparison.itertuples():
        of = runs[(runs["kind"] == row.kind) & (runs["level"] == row.level)].set_index(["choice", "seed"])
        shares, differences = [], []
        for seed in (0, 1):
            pair = [outcome(compared, of.loc[(choice, seed), "trial"]) for choice in (row.choice, "")]
            gone = [
                {("head", *map(int, at)) for at in np.argwhere(~one.trial.ticket.heads)}
                | {("ffn", int(layer)) for layer in np.flatnonzero(~one.trial.ticket.ffns)}
                for one in pair
            ]
            if row.level:
                shares.append(2 * len(gone[0] & gone[1]) / (len(gone[0]) + len(gone[1])))
            differences.append(pair[0].score - pair[1].score)
        assert row.difference == pytest.approx(np.mean(differences))
        assert row.overlap == pytest.approx(np.mean(shares)) if row.level else np.isnan(row.overlap)
    dense = comparison[comparison["level"] == 0]
    assert set(dense["choice"]) == {"lr_schedule=released"}  # only it trains the dense model otherwise
    assert comparison.set_index(["choice", "level"]).loc[("schedule=iterative", 0.3), "overlap"] == 1.0
    overlap = comparison[comparison["choice"] == "importance=magnitude"]["overlap"]
    assert (overlap < 1).any()


def test_a_comparison_goes_on_and_can_be_read_again(
    compared: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("supertickets.studies.run.write_findings", lambda *_: None)  # the page is written again below
        again = run_study("compare", compared.folder / "settings.yaml")
    pd.testing.assert_frame_equal(again.findings.comparison, compared.findings.comparison)
    assert main(["status", str(compared.folder)]) == 0
    assert ", finished;" in capsys.readouterr().out
    assert main(["compare", "--config", str(compared.folder / "settings.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["tables"]["comparison"]) == len(compared.findings.comparison)
    assert found["verdict"] == compared.verdict
    assert main(["find", "--config", str(compared.folder / "settings.yaml")]) == 2
    assert "the file has settings of `compare`; expected those of `find`" in capsys.readouterr().err
    assert main(["report", str(compared.folder)]) == 0
    assert compared.verdict in capsys.readouterr().out
    assert main(["report", str(compared.folder), str(tmp_path)]) == 2
    assert "there is no study in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("absolut", "unknown choice 'absolut': did you mean 'absolute'"),
        ("importance=magnitud", "unknown value of importance 'magnitud': did you mean 'magnitude'"),
        ("", "at least one choice"),
    ],
)
def test_wrong_choices(
    choices: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--choices", choices]) == 2
    assert message in capsys.readouterr().err


def test_choices_are_the_settings_with_named_values() -> None:
    assert CHOICES["absolute"] == ("example", "token")
    assert {"accumulation", "counts", "random", "lr_schedule", "order", "optimizer", "importance", "schedule"} <= set(
        CHOICES
    )
    assert "precision" not in CHOICES
    text = (Path(__file__).parents[1] / "docs" / "choices.md").read_text()
    for name in CHOICES:
        assert f"`{name}`" in text


# --- other learning rates and seeds -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("rates") / "out"
    return run_study("find", SMALL, model=str(tiny_model), out=out, levels=(0.5,), kinds=("winning",), **words)


@pytest.mark.slow
def test_the_spread_over_seeds_and_learning_rates(found: Result, tmp_path: Path) -> None:
    copy = shutil.copytree(found.folder, tmp_path / "copy")
    before = set((copy / "trials").iterdir())
    result = run_study("find", copy / "settings.yaml", out=copy, learning_rates=[1e-2, 3e-3], rate_seeds=3)
    runs, spread = result.table[result.table["stage"] == RATES], result.findings.spread
    assert len(runs) == 2 * 2 * 3
    assert (runs["status"] == "finished").all()
    new = set((copy / "trials").iterdir()) - before
    assert len(new) == 12 - 2 - 1  # two dense runs and the super ticket were there
    ticket = outcome(found, found.findings.chosen["trial"]).trial.ticket
    for row in runs.itertuples():
        trial = outcome(result, row.trial).trial
        assert (trial.recipe.learning_rate, trial.seed) == (row.learning_rate, row.seed)
        assert trial.ticket == (ticket if row.kind == "super" else Ticket.full(3, 4))
    scores = runs.set_index(["kind", "learning_rate", "seed"])["score"].sort_index()
    for kind, name in (("dense", "ST-DNN"), ("super", "SuperT")):
        own = [np.std(scores[kind, rate], ddof=1) for rate in (3e-3, 1e-2)]
        assert spread[SPREAD[0]].loc[name, "learning rate 0.003"] == pytest.approx(own[0])
        assert spread[SPREAD[0]].loc[name, "mean"] == pytest.approx(np.mean(own))
        means = [scores[kind, rate].mean() for rate in (3e-3, 1e-2)]
        assert spread[SPREAD[1]].loc[name, "standard deviation"] == pytest.approx(np.std(means, ddof=1))
    assert {"spread over seeds (Table 5)", "spread over learning rates (Table 8)"} < set(result.findings.printed())
    assert "over learning rates (Table 8)" in result.report.read_text()
    rest = result.table[result.table["stage"].isna()].drop(columns=["stage", "learning_rate"])
    pd.testing.assert_frame_equal(rest.reset_index(drop=True), found.table)
    asked = {name: table for name, table in found.findings.tables().items() if len(table)}
    assert asked
    for name, table in asked.items():
        pd.testing.assert_frame_equal(result.findings.tables()[name], table)
    again = run_study("find", found.folder / "settings.yaml", out=copy)  # the study itself is what it was
    assert again.table.equals(found.table)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rates", "much"], "--learning-rates"),
        (["--learning-rates", "0.1,-1"], "expected numbers above 0, got -1"),
        (["--learning-rates", "0.1", "--rate-seeds", "0"], "--rate-seeds"),
        (["--learning-rates", "0.1", "--rate-seeds", "1"], "--learning-rates: expected at least two learning rates"),
        (["--rate-seeds", "2"], "--rate-seeds: it would change nothing, since --learning-rates is not set"),
        (["--learning-rates", "0.1", "--kinds", "none"], "--learning-rates: it would change nothing"),
        (["--workers", "0"], "--workers: expected `auto` or at least 1 worker"),
        (["--workers", "many"], "--workers"),
        (["--device", "bogus"], "--device bogus: this machine has no such device"),
        (["--device", "cuda:9", "--workers", "auto"], "--device cuda:9: this machine has no such device"),
    ],
)
def test_wrong_learning_rates_and_seeds(
    flags: list[str], message: str, found: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (found.folder / "settings.yaml").read_bytes()
    assert main(["find", "--config", str(found.folder / "settings.yaml"), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert (found.folder / "settings.yaml").read_bytes() == before


def test_learning_rates_at_which_every_training_diverges(
    found: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(found.folder, tmp_path / "copy")
    flags = ["--config", str(copy / "settings.yaml"), "--out", str(copy), "--learning-rates", "1e30"]
    assert main(["find", *flags, "--rate-seeds", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    runs = [row for row in said["results"] if row["stage"] == RATES]
    assert {row["status"] for row in runs} == {"diverged"}
    assert said["verdict"] == found.verdict  # the study is what it was
    report([copy])


def test_a_super_ticket_that_there_is_not_has_no_spread(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    """A level that prunes nothing draws the dense model."""
    asked = {**SMALL, "model": str(tiny_model), "seeds": 1, "epochs": 1, "levels": (0.01,), "kinds": ("winning",)}
    result = run_study("find", asked, out=tmp_path / "out", learning_rates=1e-2, rate_seeds=2, **words)
    assert result.table[result.table["stage"] == RATES]["kind"].tolist() == ["dense", "dense"]
    assert list(result.findings.spread[SPREAD[0]].index) == ["ST-DNN"]
    assert not result.failures
