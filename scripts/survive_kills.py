"""Kill a study and its workers with SIGKILL until it is done; compare the result with an uninterrupted run.

    python scripts/survive_kills.py --kills 20
    python scripts/survive_kills.py --kills 20 --study share

Every second kill comes as soon as a training has a new checkpoint, the others at random times. A tiny random model and
a task of random words are used, so a training takes a second or two. Prints what was compared, and exits with 1 if
anything differs (except times), if a finished trial ran again, if the study was never killed, or if no training resumed
from a checkpoint: then nothing was tested.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.models import save_tiny_model
from helpers.study_files import contents
from helpers.trials import write_words
from supertickets.lab.progress import PROGRESS

POLL = 0.02  # seconds
WENT_ON = ": resumes from step "
"""What a study prints when a training resumes from a checkpoint."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--study", choices=("find", "share", "imp"), default="find")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--epochs", default="20")
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--examples", type=int, default=96, help="of the training and of the dev set")
    parser.add_argument("--moments", type=int, default=0, help="seed of the random times of the kills")
    parser.add_argument("--smallest", action="store_true", help="one kill, seed and worker, if no more are asked for")
    options = parser.parse_args()
    if options.smallest:
        parser.set_defaults(kills=1, epochs="2", seeds="1", workers="1", examples=48)
        options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        size = ("--epochs", options.epochs, "--seeds", options.seeds, "--workers", options.workers)
        command = command_of(options.study, root, size, options.examples)
        return survive(
            root, command, options.kills, random.Random(options.moments), run_here if options.smallest else run_apart
        )


def command_of(study: str, root: Path, size: tuple[str, ...], examples: int) -> list[str]:
    """Return the command of a study on a tiny model, all but its folder."""
    model = save_tiny_model(root / "model")
    searches = {
        "find": ["--levels", "0.2,0.5"],
        "imp": ["--sparsities", "0.3,0.6", "--rewind", "0,none", "--controls", "random"],
        "share": ["--tickets", f"{root / 'words'},{root / 'lengths'}"],
    }
    command = [
        *(sys.executable, "-m", "supertickets", study, "--model", str(model), "--max-length", "16"),
        *("--batch-size", "4", "--patience", "0", "--learning-rate", "0.01", "--checkpoint-every", "0.002", *size),
    ]
    if study == "share":  # the tickets of two tasks are found first
        from supertickets import find

        for task in ("words", "lengths"):
            _, _, _, train, _, dev = of_task(root, task, examples)
            small = {"epochs": 1, "seeds": 1, "levels": (0.4,), "kinds": ("winning",), "workers": 1, "max_length": 16}
            find(small, model=str(model), task=task, train_file=train, dev_file=dev, out=root / task)
    else:
        command += of_task(root, "words", examples)
    return [*command, *searches[study]]


def of_task(root: Path, task: str, examples: int) -> list[str]:
    """Return a task's arguments, its files written: which words are many (`words`), or how many there are."""
    label = {"label": lambda words: len(words) % 3} if task == "lengths" else {}
    files = [
        str(write_words(root / f"{task}-{name}.jsonl", examples, seed, **label)) for seed, name in enumerate(("t", "d"))
    ]
    return ["--task", task, "--train-file", files[0], "--dev-file", files[1]]


def outcomes(folder: Path) -> dict[str, int]:
    """Return when each finished trial's outcome was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/outcome.json")}


def checkpoints(folder: Path) -> dict[Path, int]:
    """Return when each checkpoint was written."""
    found = {}
    for path in folder.glob("trials/*/checkpoint.safetensors"):
        try:
            found[path] = path.stat().st_mtime_ns
        except OSError:  # its training just ended
            continue
    return found


def at_work(folder: Path) -> bool:
    """Whether a trial has begun to train."""
    try:
        return any("step" in line for line in json.loads((folder / PROGRESS).read_text())["running"])
    except (OSError, ValueError):
        return False


def wait_until(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Return when it is so, or when the process has ended."""
    while process.poll() is None and not ready():
        time.sleep(POLL)


def start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a process group of its own: the kill takes the workers with it
    )


def run_apart(command: list[str], out: Path) -> tuple[int, str]:
    """Run a command; return its exit code, and what it said."""
    process = start(command, out)
    said = process.communicate()[1].decode()
    return process.returncode, said


def run_here(command: list[str], out: Path) -> tuple[int, str]:
    """Do so in this process, without workers: it has loaded torch."""
    from supertickets.cli import main

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = main([*command[3:], "--workers", "1", "--out", str(out)])  # without python -m supertickets
    return code, said.getvalue()


def survive(
    root: Path,
    command: list[str],
    kills: int,
    moments: random.Random,
    run: Callable[[list[str], Path], tuple[int, str]] = run_apart,
) -> int:
    """Run a command twice, the second time with kills; return 0 if it came to the same and something was tested.

    `run` is how it runs without kills.
    """
    broken = root / "broken"
    started = time.monotonic()
    code, said = run(command, root / "whole")
    took = time.monotonic() - started
    if code:
        print(said)
        return 1
    print(f"unbroken run: {took:.0f} s")
    finished: dict[str, int] = {}
    killed = again = went_on = 0
    for kill in range(kills + 1):
        (broken / PROGRESS).unlink(missing_ok=True)  # a killed study leaves it, and `at_work` would believe it
        process = start(command, broken)
        if kill < kills:
            before = checkpoints(broken)
            if kill % 2 == 0:
                wait_until(process, lambda before=before: bool(checkpoints(broken).items() - before.items()))
            else:
                wait_until(process, lambda: at_work(broken))
                until = time.monotonic() + moments.uniform(0.0, 0.07) * took
                wait_until(process, lambda until=until: time.monotonic() > until)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1].decode()
        now = outcomes(broken)
        again += sum(finished[key] != now.get(key) for key in finished)
        finished = now
        went_on += said.count(WENT_ON)
        if process.returncode != -signal.SIGKILL:
            break
        killed += 1
        print(f"kill {killed:2}: {len(finished):2} trials done, {len(checkpoints(broken))} with a checkpoint")
    if process.returncode:
        print(said)
        return 1
    one, other = contents(root / "whole"), contents(broken)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    found = {
        "kills": killed,
        "trainings that went on from a checkpoint": went_on,
        "files compared": len(one),
        "files that differ": differ,
        "finished trials that ran again": again,
    }
    print(json.dumps(found, indent=1))
    faults = {
        "the study was done before it could be killed": not killed,
        "no training went on from a checkpoint": not went_on,
        "the broken run came to another end": bool(differ),
        "finished trials ran again": bool(again),
    }
    for fault in (fault for fault, so in faults.items() if so):
        print(f"failed: {fault}")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
