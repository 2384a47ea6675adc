"""A study of another package (`tests/outside`), installed by pip and used from the shell; packages that are wrong.

Two commands are processes of their own, as in a shell: one that ends and one that is killed. The others run here, where
torch is loaded.
"""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

import supertickets
from helpers.packages import packages_in
from helpers.study_files import contents
from supertickets.cli import main

PACKAGE = Path(__file__).parent / "outside"
TINY = shlex.split(
    "--epochs 1 --batch-size 8 --max-length 16 --learning-rate 0.003 --precision float32 --workers 1 "
    "--levels 0.1,0.2,0.3,0.4,0.5,0.6,0.7"
)
ANSWER = {  # every level that may be tried, by the levels that were tried before it and what they answered
    0.4: (), 0.2: ((0.4, False),), 0.6: ((0.4, True),), 0.1: ((0.4, False), (0.2, False)),
    0.3: ((0.4, False), (0.2, True)), 0.5: ((0.4, True), (0.6, False)), 0.7: ((0.4, True), (0.6, True)),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the package into, with nothing of this repository edited."""
    place = tmp_path_factory.mktemp("site")
    source = Path(shutil.copytree(PACKAGE, place / "source"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(place / "packages"), str(source)], check=True)
    return place / "packages"


@pytest.fixture
def study(tiny_model: Path, words: dict[str, Path]) -> list[str]:
    files = [part for name, path in words.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    return ["bisect", "--model", str(tiny_model), "--task", "words", *files, *TINY]


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    with packages_in(site):
        yield


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONPATH": str(site)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, as wide as in `environment`: its exit code, and what it says."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), error.getvalue())


def test_the_package_is_one_short_file() -> None:
    (module,) = PACKAGE.glob("*.py")
    assert len(module.read_text().splitlines()) < 120


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_a_study_of_another_package_has_everything(site: Path, study: list[str], tmp_path: Path) -> None:
    assert "Bisect the levels" in run("--help").stdout
    assert "bisect (supertickets-bisect)" in run("env").stdout
    said = run("bisect", "--help").stdout
    assert "--margin" in said
    assert "at most this many points below dense" in said

    out = tmp_path / "whole"
    margins = ["--margin", "100", "--seeds", "2", "--out", str(out)]  # each ticket passes
    plan = json.loads(run(*study, *margins, "--dry-run", "--json").stdout)
    assert plan["done"] == 0
    assert plan["flops"] > 0
    assert not out.exists()
    command = [sys.executable, "-m", "supertickets", *study, *margins, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(site))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "Seed 0: level 0.7 is the heaviest within 100 points of the dense model; 3 of 7" in found["verdict"]
    results = pd.read_csv(out / "results.csv")
    tried = results[results.status == "finished"]
    assert tried.groupby("seed")["level"].apply(sorted).tolist() == [[0.0, 0.4, 0.6, 0.7]] * 2
    assert len(results) == len(tried)  # what was not wanted is no run
    assert (out / "tables" / "found.csv").is_file()
    assert "heaviest within 100 points" in (out / "report.html").read_text()

    state = json.loads(run("status", str(out), "--json").stdout)
    assert state["state"] == "finished"
    assert run("report", str(out)).returncode == 0
    before = contents(out)
    assert json.loads(run(*study, *margins, "--json").stdout)["verdict"] == found["verdict"]
    assert contents(out) == before
    wrong = run(*study, "--margin", "-1", "--out", str(tmp_path / "wrong"))
    assert wrong.returncode == 2
    assert "--margin: expected at least 0, got" in wrong.stderr
    other = run(*study, *margins, "--margin", "3")
    assert other.returncode == 2
    assert "--margin was 100 and is now 3" in other.stderr
    assert contents(out) == before


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_it_bisects_and_python_calls_it_and_a_kill_changes_nothing(
    site: Path, study: list[str], tmp_path: Path
) -> None:
    """Margin 0: the answers differ; from Python and after SIGKILL the same comes out."""
    killed, called = tmp_path / "killed", tmp_path / "called"
    more = ["--margin", "0", "--seeds", "3"]
    command = [sys.executable, "-m", "supertickets", *study, *more, "--out", str(killed)]
    with subprocess.Popen(command, env=environment(site), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and len(list(killed.glob("trials/*/outcome.json"))) < 2:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "results.csv").exists()
    resumed = run(*study, *more, "--out", str(killed), "--json")
    assert resumed.returncode == 0, resumed.stderr

    settings = {study[at].lstrip("-").replace("-", "_"): study[at + 1] for at in range(1, len(study), 2)}
    python = supertickets.bisect(settings, margin=0, seeds=3, out=str(called))
    assert contents(killed) == contents(called)
    assert python.verdict == json.loads(resumed.stdout)["verdict"]

    results = pd.read_csv(called / "results.csv")
    for _, runs in results.groupby("seed"):
        score = runs[runs.status == "finished"].set_index("level").score
        passed = score >= score[0.0]
        wanted = [at for at, before in ANSWER.items() if all(passed.get(b) == answer for b, answer in before)]
        assert sorted(score.index) == [0.0, *sorted(wanted)]


def package(folder: Path, name: str, points: str, module: str = "") -> None:
    """Leave a package in a folder as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}_module.py").write_text(module)


KINDS = ("studies", "tasks", "measures", "runners", "families", "exporters")


@pytest.fixture
def wrong_packages(tmp_path: Path) -> Iterator[None]:
    """Two packages of all kinds of things: one cannot be imported, and one name is in both."""
    site = tmp_path / "site"
    every = "".join(f"[supertickets.{kind}]\nlost = no_such_module:X\ntwice = one_module:X\n" for kind in KINDS)
    package(site, "one", every, "X = None\n")
    package(site, "two", "".join(f"[supertickets.{kind}]\ntwice = two_module:X\n" for kind in KINDS), "X = None\n")
    with packages_in(site):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("wrong_packages")
def test_what_another_package_has_wrong_is_named_and_the_rest_works(study: list[str], tmp_path: Path) -> None:
    """It cannot be imported, or two packages have one name: a sentence, exit code 2, nothing written."""
    out = tmp_path / "out"
    listed = run("--help")
    assert listed.returncode == 0
    assert "find" in listed.stdout
    asked = ["find", *study[1:], "--out", str(out)]
    at = asked.index("--workers")
    elsewhere = [*asked[:at], *asked[at + 2 :], "--backend"]
    sentences = {
        "lost": "package one registers it and cannot be imported (ModuleNotFoundError: No module named",
        "twice": "is registered by one and by two; uninstall all but one of them.",
    }
    unusable = (
        ([], "study", "lost"),
        ([], "study", "twice"),
        (["find", "--out", str(out), "--task"], "task", "twice"),
        ([*asked, "--importance"], "measure", "lost"),
        ([*elsewhere], "backend", "lost"),
        (["export", str(tmp_path), "--out", str(out), "--to"], "format", "twice"),
    )
    misspelt = (
        (["fnd"], "find"),
        ([*asked, "--importance", "sensitivty"], "sensitivity"),
        (["find", "--task", "entailmnt", "--out", str(out)], "entailment"),
        ([*elsewhere, "rai"], "ray"),
        (["export", str(tmp_path), "--to", "transformer", "--out", str(out)], "transformers"),
    )
    commands = [*([*command, name] for command, _, name in unusable), *(wrong for wrong, _ in misspelt)]
    found = []
    for command in commands:
        done = run(*command)
        assert done.returncode == 2, (command, done)
        assert "Traceback" not in done.stderr
        assert not out.exists(), command
        found.append(done.stderr)
    for (command, word, name), said in zip(unusable, found, strict=False):
        assert sentences[name] in " ".join(said.split()), (command, said)
        assert word in said
    for (wrong, near), said in zip(misspelt, found[len(unusable) :], strict=True):
        assert f"did you mean '{near}'" in said, (wrong, said)
    assert run(*asked, "--levels", "0.5", "--kinds", "winning", "--seeds", "1").returncode == 0
