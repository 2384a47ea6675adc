"""The command line as it is typed, right and wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
from click.shell_completion import ShellComplete
from rich.console import Console

from helpers.models import save_tiny_model
from supertickets.cli import main
from supertickets.cli.group import OWN, app
from supertickets.cli.printing import print_table
from supertickets.lab.progress import ProgressDisplay
from supertickets.models import find_model
from supertickets.studies import STUDIES, SUMMARIES
from supertickets.studies.config import resolve_settings, settings_in
from supertickets.studies.find import Find, FindSettings
from supertickets.studies.folder import disk_use

TINY = ["--epochs", "1", "--batch-size", "8", "--levels", "0.5", "--seeds", "1", "--workers", "1", "--max-length", "16"]


@pytest.fixture(scope="module")
def mine(tiny_model: Path, words: dict[str, Path]) -> list[str]:
    files = [part for name, path in words.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    return ["find", "--model", str(tiny_model), "--task", "words", *files, *TINY]


@pytest.fixture(scope="module")
def found(mine: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study that `mine` is, which tests leave as it is."""
    out = tmp_path_factory.mktemp("cli") / "out"
    assert main([*mine, "--out", str(out)]) == 0
    return out


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supertickets", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.mark.slow
def test_find_from_the_shell_and_as_json(mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(*mine, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["report"]).is_file()
    assert Path(said["shipped"]["ticket"], "ticket.json").is_file()
    assert len(said["results"]) == 4
    assert "[4/4]" in done.stderr  # progress goes where it does not disturb
    assert main([*mine, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "report: " in shown
    assert said["verdict"] in shown


def test_yaml_and_flags_are_the_same_settings(
    found: Path, mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flag is a key; what find writes can be read as --config; flags win."""

    class Asked(BaseException):
        pass

    def ask(name: str, overrides: Any, **more: Any) -> None:
        raise Asked(overrides)

    def settled(*arguments: str) -> dict[str, Any]:
        with pytest.raises(Asked) as caught:
            main([*arguments, "--out", str(tmp_path / "out")])
        return Find.prepare(caught.value.args[0]).settings.model_dump(mode="json", exclude={"out"})

    monkeypatch.setattr("supertickets.studies.run.run_study", ask)
    assert settled("find", "--config", str(found / "settings.yaml")) == settings_in(found).model_dump(
        mode="json", exclude={"out"}
    )
    config = tmp_path / "c.yaml"
    config.write_text("epochs: 1\nbatch-size: 4\nlevels: [0.5]\n")
    assert settled(*mine, "--config", str(config))["batch_size"] == 8


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and when it was written."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(
    found: Path,
    mine: list[str],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def plan(*flags: str) -> dict[str, Any]:
        before = files_of(tmp_path)
        assert main([*mine, "--dry-run", "--json", *flags]) == 0
        assert files_of(tmp_path) == before
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    new = plan()
    assert list(tmp_path.iterdir()) == []
    assert (new["trainings"], new["done"]) == (4, 0)
    assert new["flops"] > 0
    assert new["seconds"] > 0
    kept = plan("--keep", "all")["disk"] - plan("--keep", "none")["disk"]
    assert kept == 5 * (tiny_model / "model.safetensors").stat().st_size  # four as trained, one shipped
    kinds = ["dense", "winning", "random", "losing"]
    assert [(row["kind"], row["trainings"], row["done"]) for row in new["steps"]] == [(kind, 1, 0) for kind in kinds]
    shutil.copytree(found, tmp_path / "out")
    assert main([*mine, "--out", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {*said} == {"verdict", "folder", "report", "shipped", "failed", "tables", "results"}
    flops = sum(row["flops"] for row in said["results"])
    assert new["flops"] == pytest.approx(flops, rel=0.5)
    assert new["disk"] == pytest.approx(disk_use(tmp_path / "out"), rel=0.5)
    done = plan("--out", "out")
    assert (done["trainings"], done["done"], done["flops"], done["seconds"]) == (4, 4, 0, 0)
    assert (new["unmade"], done["unmade"]) == (2, 0)  # winning and losing; a random ticket is known
    more = plan("--out", "out", "--seeds", "2")
    assert (more["trainings"], more["done"]) == (8, 4)
    assert main([*mine, "--out", "out", "--seeds", "2", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "steps of `find`" in shown
    assert "8 trainings, 4 of them done; the other 4" in shown
    assert "Of those that depend on others, equal ones are run once." in shown
    assert "No folder was made or changed." in shown
    assert main([*mine, "--out", "out", "--dry-run"]) == 0
    assert "All 4 trainings are done. The folder will take about" in " ".join(capsys.readouterr().out.split())
    assert main([*mine, "--out", "out", "--epochs", "2", "--dry-run"]) == 2  # a folder that is another study's


def test_names_in_tables_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task is named as its user likes: `[/b]` would be an error after all trainings, `[en]` would vanish."""
    name = "reviews[en] [/b] :smile:"
    print_table(pd.DataFrame({f"{name} 1": [f"{name} 2"]}), f"{name} 3")
    shown = capsys.readouterr().out
    assert all(f"{name} {place}" in shown for place in (1, 2, 3))
    display = ProgressDisplay(Console(), tmp_path)
    display.board.snapshot = lambda: {  # type: ignore[method-assign]
        "total": 1, "done": 0, "failed": 0, "seconds_left": None, "running": [{"name": name, "share": 0.0}]
    }  # fmt: skip
    Console().print(display._render())
    assert name in capsys.readouterr().out


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in FindSettings.model_fields:
        assert re.search(rf"--{name.replace('_', '-')}(?![\w-])", shown), name  # not a longer flag's beginning
    panels = ["Main settings:", "Search:", "Training:", "Data:", "Running:", "Other:"]
    places = [shown.index(panel) for panel in panels]
    assert places == sorted(places)
    for name in ("--config", "--dry-run", "--json", "--help"):
        assert shown.index(name) > places[-1]
    assert shown.index("--levels") < places[1] < shown.index("--importance") < places[2] < shown.index("--epochs")


def test_commands_are_listed_in_panels_with_what_they_say_of_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(panel) for panel in ("Studies:", "Results:", "Tickets and models:", "Help:")]
    assert places == sorted(places)
    for name in (*STUDIES, *OWN):
        assert f"\n  {name} " in shown
    assert list(SUMMARIES) == list(STUDIES)
    for name, summary in SUMMARIES.items():
        assert STUDIES[name].__doc__.splitlines()[0] == summary
    for name, (summary, _) in OWN.items():
        command = app.get_command(click.Context(app), name)
        assert command is not None
        assert (command.help or "").splitlines()[0] == summary


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_SUPERTICKETS_COMPLETE" in capsys.readouterr().out
    complete = ShellComplete(app, {}, "supertickets", "_SUPERTICKETS_COMPLETE")
    assert [one.value for one in complete.get_completions([], "st")] == ["status"]
    assert "--learning-rates" in [one.value for one in complete.get_completions(["find"], "--learn")]


def test_what_is_installed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert version("supertickets") in capsys.readouterr().out
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    for word in ("python 3", "torch 2", "CPU core", "studies: find, share", "runners: local, ray, slurm"):
        assert word in said


WRONG = {
    "task": (["--task", "colla"], "unknown task 'colla': did you mean 'cola'"),
    "model": (["--model", "./nowhere"], "no such folder"),
    "kind": (
        ["--kinds", "winning,loosing"],
        "--kinds: unknown value 'loosing'; did you mean 'losing'? Expected one of",
    ),
    "kind and none": (["--kinds", "winning,none"], "--kinds: none cannot be combined with other values; expected some"),
    "preset": (
        ["--preset", "papper"],
        "--preset: unknown value 'papper'; did you mean 'paper'? Expected one of paper, ",
    ),
    "measure": (["--importance", "fishr"], "--importance: unknown value 'fishr'; did you mean 'fisher'? Expected one"),
    "precision": (["--precision", "fp8"], "--precision: unknown value 'fp8'; expected one of auto, float32, bfloat16."),
    "level above": (["--levels", "0.5,1.0"], "--levels: expected fractions in [0, 1), got 1."),
    "level in percent": (
        ["--levels", "30"],
        "--levels: expected fractions in [0, 1), got 30; for 30 % write 0.3 or 30%.",
    ),
    "level below": (["--levels", "-0.1"], "got -0.1"),
    "level of words": (
        ["--levels", "some"],
        "--levels: expected fractions in [0, 1), such as 0.1, heads=0.1+neurons=0.2 or parameters:0.9, got 'some'.",
    ),
    "no seeds": (["--seeds", "0"], "--seeds: expected at least 1, got 0."),
    "seeds in words": (["--seeds", "two"], "--seeds: expected a whole number, got 'two'."),
    "fraction": (["--fraction", "2"], "--fraction: expected at most 1, got 2."),
    "workers": (["--workers", "many"], "--workers: expected a whole number or auto, got 'many'."),
    "no workers": (["--workers", "0"], "at least 1 worker"),
    "epochs": (["--epochs", "0"], "--epochs"),
    "max length": (["--max-length", "41"], "--max-length: 41 is beyond the 40 positions"),
    "optimiser": (["--optimizer", "adam"], "--optimizer: unknown value 'adam'; did you mean 'adamw'?"),
    "learning rates": (["--learning-rates", "1e-3,x"], "--learning-rates"),
    "one learning rate": (["--learning-rates", "1e-3"], "expected at least two learning rates, or two seeds"),
    "missing file": (["--train-file", "nowhere.csv"], "nowhere.csv: no such file"),
    "column": (["--text", "txt"], "did you mean 'text'"),
    "config": (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file."),
    "config folder": (["--config", "."], "--config .: that is a folder; expected a file."),
}


@pytest.mark.parametrize("case", WRONG)
def test_misuse_is_one_sentence_and_exit_code_2(
    case: str, mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags, message = WRONG[case]
    if case == "task":
        mine = ["find", *TINY]  # without files of one's own
    for dry in ([], ["--dry-run"]):
        assert main([*mine, "--out", str(tmp_path / "out"), *flags, *dry]) == 2
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert message in said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()  # nothing half-written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3\n", "unknown key in {file} 'epoch': did you mean 'epochs'"),
        ("- 3\n", "expected `key: value` lines, got a list."),
        ("3\n", "expected `key: value` lines, got a text."),
        ("", "--config {file}: expected `key: value` lines, the file is empty."),
        ("rate-seeds: 2\nrate_seeds: 3\n", "--config {file}: key 'rate_seeds' is there twice; expected each key once."),
        ("seeds: many\n", "--config {file}: --seeds: expected a whole number, got 'many'."),
        ("epochs: yes\n", "--config {file}: --epochs: got the boolean True"),
        ("a: [\n", "not YAML"),
        ("levels: much\n", "--levels"),
        ("epochs: three\n", "--epochs"),
        ("levels: 1.5\n", "--config {file}: --levels: expected fractions in [0, 1), got 1.5"),
    ],
)
def test_a_wrong_yaml_file(
    content: str, message: str, mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    assert main([*mine[:5], "--config", str(file), "--out", str(tmp_path / "out")]) == 2
    assert message.format(file=file) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words_typed", "message"),
    [
        (["fnd"], "unknown command 'fnd': did you mean 'find'"),
        (["find", "--level", "0.1x", "--bogus"], "No such option"),
        (["apply"], "Missing argument"),
    ],
)
def test_words_that_are_no_command(words_typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_typed) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_unsorted_levels_are_fine_and_said(mine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*mine, "--levels", "0.5,0.2,0.5", "--kinds", "random,winning", "--out", str(tmp_path / "out")]
    assert main([*asked, "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    assert "was sorted, without duplicates: 0.2, 0.5" in said.err
    assert json.loads(said.out)["trainings"] == 1 + 2 * 2


def test_models_that_cannot_be_used(tmp_path: Path, mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    cases = [
        ({**config, "model_type": "robert"}, "(model_type 'robert') is not supported; supported are albert, bart"),
        ({**config, "quantization_config": {}}, "is quantized; expected full-precision weights"),
        ({}, "is not a model's config"),
    ]
    for content, message in cases:
        (folder / "config.json").write_text(json.dumps(content))
        assert main([*mine, "--model", str(folder), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    assert main([*mine, "--model", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "there are no weights in" in capsys.readouterr().err


def test_a_model_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*asked: object, **named: object) -> None:
        raise LocalEntryNotFoundError("no network\nand a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert main(["find", "--model", "bert-base-uncsed"]) == 2
    said = capsys.readouterr().err
    assert "'bert-base-uncsed' is not a folder and could not be downloaded from the hub" in said
    assert len(said.strip().splitlines()) == 1


def test_apply(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = str(found / "super-ticket")
    assert main(["apply", ticket, "--out", str(tmp_path / "small")]) == 0  # the model the ticket names
    assert "of the dense model's" in capsys.readouterr().out
    assert main(["apply", ticket, "--out", str(tmp_path / "small")]) == 2
    assert "the folder is not empty" in capsys.readouterr().err
    assert main(["apply", str(tmp_path), "--out", str(tmp_path / "s")]) == 2
    assert main(["apply", str(found), "--out", str(tmp_path / "s")]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_presets_follow_model_and_task(tiny_model: Path) -> None:
    base = find_model(str(tiny_model))
    sizes = {"small": 384, "base": 768, "large": 1024}

    def settings(size: str, **asked: object) -> FindSettings:
        config = {**base.config, "hidden_size": sizes[size], "max_position_embeddings": 512}
        return resolve_settings(FindSettings, asked, type(base)(base.name, base.folder, config, base.weight_hash))

    paper = settings("base", task="mnli")
    assert (paper.dropout, paper.epochs, paper.learning_rate, paper.max_length) == (0.3, 6, 5e-5, 128)
    assert settings("large", task="CoLA").dropout == 0.05
    released = settings("base", task="mnli", preset="released")
    assert (released.dropout, released.epochs, released.max_length, released.keep_epoch) == (0.2, 3, 512, "last")
    assert settings("large", task="qqp", preset="released").epochs == 5
    assert settings("base", task="qqp", preset="released").epochs == 6
    assert settings("base", task="mnli", preset="released", epochs=1).epochs == 1  # what is asked for wins
    assert settings("small", task="cola").learning_rate == 3e-4


def test_help_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from supertickets.cli import main; main(['--help'])"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert not imported & {"torch", "transformers", "pandas", "datasets", "sklearn", "plotly"}
