"""Every script runs at its smallest, and the one that kills studies fails where it tests nothing."""

import importlib
import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import supertickets
from helpers.browser import why_not
from helpers.find_records import study
from helpers.models import save_tiny_model
from helpers.trials import write_words
from supertickets.errors import TicketError
from supertickets.evidence.find import analyse_find
from supertickets.evidence.gains import paired_gains
from supertickets.evidence.recorded import RecordedGrid, RecordedRun, record_runs
from supertickets.lab.lab import Lab
from supertickets.lab.outcome import Outcome, load_outcome, save_outcome
from supertickets.lab.steps import Execution
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import Units
from supertickets.tickets.knapsack import Cap, draw_under
from supertickets.tickets.prices import Prices

ROOT = Path(__file__).resolve().parents[1]
KILLS = ROOT / "scripts" / "survive_kills.py"


def numbers(pattern: str, text: str) -> list[float]:
    """Return what the groups of a pattern, which must be there once, are as numbers."""
    (found,) = re.findall(pattern, text, re.M)
    return [float(one) for one in (found if isinstance(found, tuple) else (found,))]


def check_bench(said: str) -> None:
    found: dict[str, dict[str, float]] = {}
    for arm, name, value in re.findall(r"^(\w+): (.+): ([\d.,]+)(?: |$)", said, re.M):
        found.setdefault(arm, {})[name] = float(value.replace(",", ""))
    assert set(found) == {"fine_tuning", "importance", "runtimes", "starting", "step", "whole_study"}
    for arm in ("auto", "one worker", "transformers Trainer"):
        assert found["fine_tuning"][f"{arm}: fine-tunings an hour"] > 0
        assert found["fine_tuning"][f"{arm}: memory"] > 100
        assert -100 <= found["fine_tuning"][f"{arm}: mean score"] <= 100
    # The same trainings, wherever they run.
    assert found["fine_tuning"]["auto: mean score"] == found["fine_tuning"]["one worker: mean score"]
    # The same training as masks and as a cut model: the same losses.
    assert found["whole_study"]["largest difference of their losses, float32"] < 1e-4
    ours, masks, beside = (
        next(value for name, value in found["whole_study"].items() if name.startswith(begin))
        for begin in ("find: ", "as masks: ", "find beside masks")
    )
    assert beside == pytest.approx(ours / masks, rel=0.02)
    assert found["step"]["step at level 80% beside the dense one, 8 tokens (0.18 of the FLOPs)"] < 0.9
    assert found["starting"]["import supertickets"] < found["starting"]["import torch"]
    assert any(name.startswith("ours, ") for name in found["importance"])


def check_sharing(said: str) -> None:
    level, flops, shared, masks = numbers(r"^ *(\S+) +(\S+) +(\S+) +(\S+)$", said)
    assert level == 0.5
    assert 0.3 < flops < 0.7  # about half of the encoder is left
    assert shared > 0
    assert masks > 0


def check_masking(said: str) -> None:
    assert numbers(r"^dense +(\S+) +\S+ s$", said) == [1.0]
    for arm in ("kept at zero", "torch.nn.utils.prune"):
        assert min(numbers(rf"^{arm} +(\S+) +(\S+) s$", said)) > 0
    rounds, memory, disk, masks, weights = numbers(
        r"^(\d+) rounds: (\d+) MiB of memory at most, (\S+) MiB on disk, masks of \{(\d+)\} bytes, (\d+) files", said
    )
    assert (rounds, weights) == (1, 0)
    assert memory > 100
    assert disk > masks / 2**20 > 1  # a bit for each of 10 million weights


def check_latency(said: str, *errors: str) -> None:
    rows = re.findall(r"^ *(\S+) +(\S+) +(\S+) +(\S+)$", said, re.M)
    assert len(rows) == 2
    asked, measured, by_table, by_flops = np.array(rows, float).T
    assert min(*measured, *by_table, *by_flops) > 0
    if errors:
        assert (by_table <= asked + 0.005).all()  # as printed
    else:  # a level is what is gone: about as much of the FLOPs
        assert np.abs(by_flops - (1 - asked)).max() < 0.02
    # What is printed of the errors is theirs, as far as rounded shares tell.
    of = {"table": (by_table, measured, 5e-4), "FLOPs": (by_flops, measured, 5e-4), "target": (measured, asked, 5e-3)}
    for name in ("table", "FLOPs", *errors):
        share, beside, rounded = of[name]
        found = 100 * np.abs(share / beside - 1)
        near = 100 * rounded * (1 / beside + share / beside**2).max()
        median, worst = numbers(rf"^error by {name}: median (\S+) %, worst (\S+) %$", said)
        assert median == pytest.approx(np.median(found), abs=near + 0.05)
        assert worst == pytest.approx(found.max(), abs=near + 0.05)


def check_latency_targets(said: str) -> None:
    check_latency(said, "target")


def check_targets(said: str) -> None:
    rows = re.findall(r"^default +\S+ +\w+ +1 +(\S+) % +(\S+) % +(\S+) % +(\S+) %", said, re.MULTILINE)
    assert len(rows) == 4
    for unused, exceeded, kept, same_share in rows:
        assert float(unused) < 1
        assert float(exceeded) == 0
        assert float(kept) >= float(same_share)
    assert len(re.findall(r"saved files take -0\.\d\d to -0\.\d\d % more", said)) == 2


def check_kills(said: str) -> None:
    found = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert found["kills"] == 1
    assert found["trainings that went on from a checkpoint"] >= 1
    assert found["files compared"] > 10
    assert found["files that differ"] == []
    assert found["finished trials that ran again"] == 0


def check_bits(said: str) -> None:
    assert numbers(r"^(\d+) trials, (\d+) differ$", said) == [3.0, 0.0]


def check_coverage(said: str) -> None:
    cells = re.findall(r"(\d\.\d{3}) \((\d\.\d{3})\)", said)
    assert len(cells) == 6
    assert all(float(two_way) > 0.8 for two_way, _ in cells)


def check_phase_power(said: str) -> None:
    cells = re.findall(r"(\d\.\d{3}) / (\d\.\d\d) / (\d\.\d\d)", said)
    assert len(cells) == 4
    assert all(float(nothing) < 0.2 for nothing, *_ in cells)
    assert any(float(two) > float(nothing) for nothing, _, two in cells)


def check_recording(said: str) -> None:
    runs, measured, size = numbers(r"study.safetensors: (\d+) runs, (\d+) measurements of importance, (\S+) MB$", said)
    assert (runs, measured) == (7, 10)  # a dense run and two levels of three kinds; two epochs, five shares
    assert size < 0.1


def check_keeping(said: str) -> None:
    found = re.findall(r"(\S+): (\S+) MB", said)
    tables = ["gains.csv", "means.csv", *(f"table-{number}.csv" for number in (1, 5, 6, 7))]
    page = [] if why_not() else ["report.pdf"]
    kept = ["outcomes.safetensors", *page, "results.csv", "settings.yaml", "beside-study.csv", *tables, "verdict.txt"]
    assert [name for name, _ in found] == kept
    assert sum(float(size) for name, size in found if name not in page) < 0.1


def check_drawing(said: str) -> None:
    for theme in ("light", "dark"):
        lines, size = numbers(rf"^phases-{theme}\.svg: (\d+) lines with bars, (\d+) kB$", said)
        assert lines >= 3  # winning, random and losing tickets
        assert size > 10


def check_replay(said: str) -> None:
    cost, regret = numbers(r"^ *the whole grid +(\S+) +\S+ +(\S+)", said)
    assert (cost, regret) == (1.0, 0.0)
    for method in ("halving", "racing", "curve"):
        assert 0 < numbers(rf"^ *{method} +\S+ +(\S+)", said)[0] <= 0.25


def check_settled(said: str) -> None:
    names, *rows = (line.split() for line in said.splitlines())
    assert len(rows) == 8
    for row in rows:
        found = dict(zip(names[1:], map(float, row[1:]), strict=True))
        assert 1 / 16 <= found["used"] <= 1
        assert found["random"] < found["settled"] <= 1
        assert 0 < found["epoch_1"] <= 1


def exit_code(script: Path) -> object:
    """What a script ends with, in this process: it has torch and transformers loaded."""
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "check"),
    [
        ("benchmarks/bench.py", check_bench),
        ("benchmarks/sharing.py", check_sharing),
        ("benchmarks/latency.py", check_latency),
        ("benchmarks/latency.py --targets", check_latency_targets),
        ("benchmarks/latency.py --targets --structures heads", check_latency_targets),
        ("benchmarks/targets.py", check_targets),
        ("benchmarks/masking.py --memory", check_masking),
        ("benchmarks/replay_search.py", check_replay),
        ("benchmarks/settled.py", check_settled),
        ("scripts/keep_results.py", check_keeping),
        ("scripts/draw_results.py", check_drawing),
        ("scripts/record_grid.py", check_recording),
        ("scripts/same_bits.py", check_bits),
        ("scripts/coverage.py", check_coverage),
        ("scripts/phase_power.py", check_phase_power),
        ("scripts/survive_kills.py --workers 2", check_kills),
        ("scripts/survive_kills.py --study share", check_kills),
        ("scripts/survive_kills.py --study imp", check_kills),
    ],
)
def test_a_script_at_its_smallest(
    script: str,
    check: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, *arguments = script.split()
    monkeypatch.syspath_prepend((ROOT / path).parent)
    monkeypatch.setattr(sys, "argv", [path, "--smallest", *arguments])
    code = exit_code(ROOT / path)
    said = capfd.readouterr()  # what a script's processes say as well
    assert code == 0, said
    check(said.out)


def test_no_script_is_left_out() -> None:
    (marker,) = (mark for mark in test_a_script_at_its_smallest.pytestmark if mark.name == "parametrize")
    there = {str(path.relative_to(ROOT)) for room in ("benchmarks", "scripts") for path in (ROOT / room).glob("*.py")}
    there -= {"scripts/make_builtin_tasks.py", "scripts/new_decoder.py"}  # test_tasks and test_causal run them
    there -= {"benchmarks/figures.py"}  # the others use it
    there -= {"scripts/try_wheel.py", "scripts/site_hooks.py"}  # `make dist` and `make docs` run them
    assert {script.split()[0] for script, _ in marker.args[1]} == there


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a file of scripts/ or benchmarks/ as they import each other."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module


def test_the_page_of_speed_has_the_figures_that_are_kept(load: Callable[[str], ModuleType]) -> None:
    """Write it again with benchmarks/bench.py --page where this fails."""
    bench = load("bench")
    assert bench.page(json.loads(bench.KEPT.read_text(encoding="utf-8"))) == bench.PAGE.read_text(encoding="utf-8")


def test_an_arm_that_fails_loses_no_other(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("bench")

    def measured(names: list[str], smallest: bool) -> dict[str, list[dict[str, Any]]]:
        if names == ["importance"]:
            raise SystemExit("it fails")
        return {"starting": [{"name": "nothing", "value": 12.0}]}

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "about", lambda: dict.fromkeys(("date", "processor", "has", *bench.PACKAGES), "x"))
    monkeypatch.setattr(sys, "argv", ["bench.py", "starting", "importance", "--out", str(tmp_path / "kept.json")])
    with pytest.raises(SystemExit, match="it fails"):
        bench.main()
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert list(kept) == ["starting"]
    assert (tmp_path / "kept.md").read_text() == bench.page(kept)
    assert "| nothing | 12.0 |" in bench.page(kept)


def test_a_whole_study_is_measured_without_the_files_of_rte(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = load("arms.whole_study")
    monkeypatch.setattr(load("figures"), "GLUE", tmp_path / "none")
    assert arm.asked(1000, real=True)["fraction"] == 1.0  # it has 480
    assert arm.asked(120, real=True)["fraction"] == 0.25
    assert arm.asked(120, real=True)["task"] == "entailment"


def test_a_search_is_measured_beside_a_study_of_the_same_kinds(
    load: Callable[[str], ModuleType], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, asked = load("arms.whole_study"), dict[str, dict[str, Any]]()
    monkeypatch.setattr(arm, "ENCODER", str(tiny_model))
    monkeypatch.setattr(arm, "find", lambda **settings: asked.update({settings["out"].name: settings}))
    monkeypatch.setattr(arm, "by_masks", lambda *of: [])
    monkeypatch.setattr(arm, "difference", lambda *of: 0.0)
    assert {figure.name for figure in arm.figures(True)} >= {"find --search beside find --kinds winning"}
    both = asked["search"], asked["winning"]
    differ = {name for name in {*both[0], *both[1]} if both[0].get(name) != both[1].get(name)}
    assert differ == {"search", "budget", "out"}


def test_memory_is_that_of_workers_too(load: Callable[[str], ModuleType]) -> None:
    inner = "held = b'x' * (64 << 20); print(flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    memory_of = load("arms.fine_tuning").memory_of
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 64 < memory_of(process.pid) < 164
        process.communicate("\n")


@pytest.mark.slow
def test_both_sides_of_fine_tuning_tell_the_last_epoch(
    load: Callable[[str], ModuleType], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    arm, told, runs, evaluated = load("arms.fine_tuning"), list[list[float]](), list[Any](), list[float]()
    monkeypatch.setattr(arm, "ENCODER", str(tiny_model))
    monkeypatch.setattr(arm, "tell", told.append)
    of_trainer, of_lab = transformers.Trainer.evaluate, Lab.run

    def evaluate(self: Any, *how: Any, **more: Any) -> dict[str, float]:
        evaluated.append(len(evaluated))  # another score each time
        found: dict[str, float] = of_trainer(self, *how, **more)
        self.state.log_history[-1]["eval_score"] = evaluated[-1]
        return found | {"eval_score": evaluated[-1]}

    def run(self: Lab, *how: Any) -> Execution:
        done = of_lab(self, *how)
        for one in done.runs:
            runs.append(one.outcome)
            for place, entry in enumerate(one.outcome.epochs):
                entry["score"] = -float(place)
        monkeypatch.setattr(Outcome, "score", 1.0)  # of the best epoch
        return done

    monkeypatch.setattr(transformers.Trainer, "evaluate", evaluate)
    monkeypatch.setattr(Lab, "run", run)
    asked = {"task": arm.TASK, "model": str(tiny_model), "epochs": 2, "fraction": 0.02}
    arm.trainer_arm(asked, 1)
    arm.lab_arm(asked, 1, "1")
    assert evaluated == [0, 1]
    assert [len(outcome.epochs) for outcome in runs] == [2]
    assert told == [[1], [-1.0]]


def test_chance_is_that_of_neurons_where_these_are_kept(load: Callable[[str], ModuleType]) -> None:
    ticket = Ticket.of_neurons(np.array([[True]]), np.array([[True, True, False, False]]))
    # Of its 2 neurons, 2, 1 or none are among 2 of 4 in 1, 4 and 1 of 6 draws.
    expected = (1 * 3 / 3 + 4 * 2 / 4 + 1 * 1 / 5) / 6
    assert load("settled").by_chance(ticket, draws=500) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("one_stays", [True, False])
def test_no_ticket_costs_less_than_the_smallest(load: Callable[[str], ModuleType], one_stays: bool) -> None:
    prices = Prices("seconds", 0.5, {"heads": np.array([[0.0, 2, 1, 4, 5], [1, 3, 4, 5, 6]])})
    units = {"heads": Units(2, 4, one_stays=one_stays, least=2)}
    least = load("latency").smallest(prices, units)
    assert least == (0.5 + 1 + 4 if one_stays else 0.5 + 0 + 1)
    scores = {"heads": np.ones((2, 4)), "ffns": np.ones(2)}
    for most, holds in ((least, True), (0.999 * least, False)):
        cap = Cap("latency", prices, most)
        if holds:
            assert draw_under(scores, [cap], (2, 4), units).ticket.kept_heads == (4 if one_stays else 0)
        else:
            with pytest.raises(TicketError, match="the smallest ticket takes"):
                draw_under(scores, [cap], (2, 4), units)


def test_a_picture_names_what_was_pruned(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = load("draw_results")
    for names in (draw.TASKS, draw.MEASURED):
        monkeypatch.delitem(names, "cola" if names is draw.TASKS else "matthews")
    (axes,) = draw.figure([ROOT / "results" / "cola-1000-heads-neurons-20-seeds"], "light").axes
    assert axes.get_xlabel() == "heads and neurons pruned (%)"
    assert axes.get_ylabel() == "matthews on dev"
    assert axes.get_title().startswith("cola, ")


def test_same_bits_runs_what_was_named_or_says_what_there_is(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bits, asked = load("same_bits"), list[list[str]]()
    monkeypatch.setattr(bits, "run_with", lambda source, places, only: asked.append(only) or {})
    monkeypatch.setattr(sys, "argv", ["same_bits.py", "--only", "typo"])
    with pytest.raises(SystemExit) as refused:
        bits.main()
    assert refused.value.code == 2
    assert "--only typo: no such trial; expected one of dense, another seed, cut, " in capsys.readouterr().err
    assert not asked
    monkeypatch.setattr(sys, "argv", ["same_bits.py", "--only", "from another's"])
    assert bits.main() == 0
    assert asked == 2 * [["from another's", "kept weights"]]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = spec_from_file_location("survive_kills", KILLS)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A study of one trial that is done in a moment, or works until it is killed once or goes on from a checkpoint.
FAKE = """
import json, sys, time
from pathlib import Path
how, out = sys.argv[1], Path(sys.argv[3])
trial = out / "trials" / "a"
trial.mkdir(parents=True, exist_ok=True)
checkpoint, outcome = trial / "checkpoint.safetensors", trial / "outcome.json"
if out.name == "broken" and how != "done at once" and not outcome.exists():
    if checkpoint.exists():
        if how != "starts anew":
            print("dense seed 0: resumes from step 3 of 9", file=sys.stderr, flush=True)
    else:
        checkpoint.touch()
        time.sleep(60)
content = {"cost": {"seconds": time.time()}, "digest": "", "trial": {"start": None, "mask": None}, "score": 1}
content["score"] += how == "ends otherwise" and out.name == "broken"
outcome.write_text(json.dumps(content))
checkpoint.unlink(missing_ok=True)
sys.exit(how == "fails" and out.name == "broken")
"""


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ("survives", None),  # control
        ("done at once", "failed: the study was done before it could be killed"),
        ("starts anew", "failed: no training went on from a checkpoint"),
        ("ends otherwise", "failed: the broken run came to another end"),
        ("fails", ""),
    ],
)
def test_survive_kills_fails_where_it_should(
    kills: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, fault: str | None
) -> None:
    command = [sys.executable, "-c", FAKE, how]
    code = kills.survive(tmp_path, command, 1, random.Random(0))
    said = capsys.readouterr().out
    assert code == (fault is not None), said
    assert (fault or "") in said


def test_survive_kills_fails_without_a_kill(kills: ModuleType, tmp_path: Path) -> None:
    assert kills.survive(tmp_path, [sys.executable, "-c", FAKE, "done at once"], 0, random.Random(0)) == 1


def test_survive_kills_believes_no_progress_from_before_a_kill(
    kills: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, believed = kills.start, list[bool]()

    def started(command: list[str], out: Path) -> Any:
        if out.name == "broken":
            believed.append(kills.at_work(out))
            out.mkdir(exist_ok=True)
            (out / "progress.json").write_text(json.dumps({"running": [{"step": 3}]}))
            assert kills.at_work(out)
        return start(command, out)

    monkeypatch.setattr(kills, "start", started)
    kills.survive(tmp_path, [sys.executable, "-c", FAKE, "survives"], 1, random.Random(0))
    assert believed == [False, False]


def test_survive_kills_tells_trials_that_ran_again(
    kills: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([{"a": 1}, {"a": 2}])
    monkeypatch.setattr(kills, "outcomes", lambda folder: next(times))
    assert kills.survive(tmp_path, [sys.executable, "-c", FAKE, "survives"], 1, random.Random(0)) == 1
    assert "failed: finished trials ran again" in capsys.readouterr().out


def test_an_unfinished_study_goes_on_from_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    keep = importlib.import_module("keep_results").keep_unfinished
    monkeypatch.chdir(tmp_path)
    save_tiny_model(Path("model"))
    asked = {
        "model": "model",
        "kinds": "winning",
        "levels": 0.5,
        "seeds": 1,
        "epochs": 1,
        "device": "cpu",
        "keep": "dense",
    }
    for seed, name in enumerate(("train", "dev")):
        write_words(Path(f"{name}.jsonl"), 24, seed)
        asked[f"{name}_file"] = f"{name}.jsonl"
    whole = supertickets.find(**asked, workers=1, out="whole")
    dense = load_trial("whole", whole.table, "dense")
    shutil.rmtree(load_trial("whole", whole.table, "winning"))
    assert (dense / "weights.safetensors").is_file()  # control
    keep(Path("whole"), Path("kept"))
    kept = [path for path in Path("kept").rglob("*") if path.is_file()]
    assert len([path for path in kept if path.name == "outcome.json"]) == len(whole.table) - 1
    assert not [path for path in kept if path.name == "weights.safetensors"]
    assert not [path for path in kept if str(tmp_path).encode() in path.read_bytes()]
    again = supertickets.find(**asked, workers=1, out="kept")
    assert again.table.score.tolist() == whole.table.score.tolist()
    # What was kept is what it was, seconds and all; the other was trained again.
    same = again.table.seconds == whole.table.seconds
    assert same.tolist() == (again.table.kind != "winning").tolist()
    assert (Path("kept") / "trials" / dense.name).is_dir()
    shutil.copytree("whole", "absolute")
    outcome = load_outcome(Path("absolute") / "trials" / dense.name)
    assert outcome is not None
    (of_task,) = outcome.trial.tasks
    source = of_task.source.model_copy(update={"train_file": tmp_path / "train.jsonl"})
    save_outcome(replace(outcome, trial=outcome.trial.but(tasks=(of_task.model_copy(update={"source": source}),))))
    supertickets.find(**asked, workers=1, teacher="dense", out="taught")
    for made, said in (("absolute", "relative paths"), ("taught", "start from and learn from no others")):
        with pytest.raises(TicketError, match=said):
            keep(Path(made), Path("other"))
    assert not Path("other").exists()


def load_trial(study: str, table: pd.DataFrame, kind: str) -> Path:
    """The folder of the only training of a kind."""
    (key,) = table[table.kind == kind].trial
    return Path(study) / "trials" / key


def test_what_can_be_kept_is_kept_beside_what_cannot(
    load: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: dict[str, Any] = {"model": str(save_tiny_model(tmp_path / "tiny")), "epochs": 1, "seeds": 1, "workers": 1}
    for seed, name in enumerate(("train", "dev")):
        asked[f"{name}_file"] = write_words(tmp_path / f"{name}.jsonl", 24, seed)
    supertickets.find(asked, kinds="none", keep="none", out=tmp_path / "no-grid")
    studies = [str(tmp_path / name) for name in ("no-study", "no-grid")]
    monkeypatch.setattr(sys, "argv", ["keep_results.py", *studies, "--out", str(tmp_path / "kept")])
    capsys.readouterr()
    script, printed = load("keep_results"), list[str]()
    monkeypatch.setattr(script, "print_page", lambda page, out: printed.append(out.name))  # which takes seconds
    assert script.main() == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'no-study'}" in said
    assert "there is no grid to record, as no winning ticket above level 0 has finished. It is kept without" in said
    (kept,) = (tmp_path / "kept").iterdir()
    assert {path.name for path in kept.iterdir()} >= {"settings.yaml", "results.csv", "verdict.txt"}
    assert not (kept / "outcomes.safetensors").exists()
    assert yaml.safe_load((kept / "settings.yaml").read_text())["model"] == "tiny"
    assert str(tmp_path) not in (kept / "settings.yaml").read_text()
    assert printed == ["report.pdf"]


def test_a_study_of_another_kind_is_kept_too(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, printed = load("keep_results"), list[str]()
    monkeypatch.setattr(script, "print_page", lambda page, out: printed.append(page.read_text(encoding="utf-8")))
    asked: dict[str, Any] = {"model": str(save_tiny_model(tmp_path / "model")), "epochs": 1, "seeds": 1, "workers": 1}
    asked |= {"sparsities": 0.5, "controls": "none", "precision": "float32"}
    for seed, name in enumerate(("train", "dev")):
        asked[f"{name}_file"] = write_words(tmp_path / f"{name}.jsonl", 24, seed)
    done = supertickets.imp(asked, out=tmp_path / "done")
    files = script.keep(done.folder, tmp_path / "kept")
    assert {path.name for path in files} >= {"settings.yaml", "results.csv", "verdict.txt"}
    assert str(tmp_path) in done.report.read_text(encoding="utf-8")
    (page,) = printed
    assert "</html>" in page
    assert str(tmp_path) not in page
    assert not (tmp_path / "kept" / "outcomes.safetensors").exists()
    assert (tmp_path / "kept" / "results.csv").read_bytes() == (done.folder / "results.csv").read_bytes()
    del asked["train_file"], asked["dev_file"]
    with pytest.raises(TicketError, match="settings of `imp`; expected those of `find`"):
        supertickets.find(tmp_path / "kept" / "settings.yaml", out=tmp_path / "out")


def test_a_page_is_kept_as_a_pdf(
    load: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, page, out = load("keep_results"), tmp_path / "report.html", tmp_path / "kept.pdf"
    page.write_text("<h1>A page</h1>", encoding="utf-8")
    if not why_not():
        script.print_page(page, out)
        assert out.read_bytes().startswith(b"%PDF")
        out.unlink()
    failing = tmp_path / "chromium"
    failing.write_text("#!/bin/sh\necho no screen >&2\nexit 3\n", encoding="utf-8")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    page.with_suffix(".pdf").unlink(missing_ok=True)
    with pytest.raises(TicketError, match="ended with exit code 3: no screen"):
        script.print_page(page, out)
    monkeypatch.setenv("PATH", "")
    script.print_page(page, out)
    assert "kept.pdf is not written: this machine has none of chromium" in capsys.readouterr().err
    assert not out.exists()


def test_tickets_of_a_later_study_are_compared_as_if_they_were_of_the_kept_one(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("keep_results")
    both, kept, later, other = (
        study(control="none", kinds=kinds, **more)
        for kinds, more in ((("winning", "random"), {}), (("winning",), {}), (("random",), {}),
                            (("random",), {"learning_rate": 1e-3}))
    )  # fmt: skip
    record_runs(kept).save(tmp_path / script.OUTCOMES)
    monkeypatch.setattr(script, "finished", lambda folder: (None, other if folder.name == "other" else later))
    found = script.gains_of_kept(Path("later"), tmp_path).reset_index(drop=True)
    whole = analyse_find(both)
    expected = paired_gains(whole.grid, {"kind": "winning"}, {"kind": "random"}, ("level",))
    names = ["level", "seeds", "score", "over", "difference", "low", "high", "p", "p_holm"]
    pd.testing.assert_frame_equal(found.loc[: len(expected) - 1, names], expected[names], check_dtype=False)
    assert expected["difference"].abs().min() > 0
    light, over = found.iloc[len(expected)], whole.phases.over["random"]
    assert (light["difference"], light["low"], light["p"]) == pytest.approx((over.mean, over.low, over.p))
    with pytest.raises(TicketError, match="its dense run of seed 0 is another one than other's"):
        script.gains_of_kept(Path("other"), tmp_path)


def test_predictions_of_numbers_are_the_kept_ones_up_to_rounding(load: Callable[[str], ModuleType]) -> None:
    script, made = load("keep_results"), np.random.default_rng(0).normal(2.5, 1.5, (2, 50, 1))
    run = RecordedRun("dense", 0.0, 0, 0, (80.0, 81.0), 2, 12, 3, None, 1e9, 0.0, 1e6)
    kept = made[..., 0].astype(np.float16)
    grid = RecordedGrid({"classes": 0}, (run,), made[0, :, 0], np.zeros((2, 50), np.float16), kept)
    assert script.same_predictions(grid, run, made)
    assert script.same_predictions(grid, run, made + 5e-3)
    assert not script.same_predictions(grid, run, made + 0.05)
    assert not script.same_predictions(grid, run, made[:1])
    made[1, 7] += 0.05
    assert not script.same_predictions(grid, run, made)
