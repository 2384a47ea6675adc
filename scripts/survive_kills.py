"""Kill a study with SIGKILL at random moments, workers included, until it is done; compare with an unbroken run.

    python scripts/survive_kills.py --kills 20
    python scripts/survive_kills.py --kills 20 --study share

Uses a tiny random model and a task of random words, so a training takes a second or two. Prints what was compared and
exits with 1 if anything differs (times aside) or if a trial that had finished ran again.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.models import save_tiny_model
from helpers.study_files import contents
from helpers.trials import write_words


def outcomes(folder: Path) -> dict[str, int]:
    """Return when each finished trial's outcome was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/outcome.json")}


def at_work(folder: Path) -> bool:
    """Whether a trial has begun to train."""
    try:
        return any("step" in line for line in json.loads((folder / "progress.json").read_text())["running"])
    except (OSError, ValueError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--study", choices=("find", "share", "imp"), default="find")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--epochs", default="20")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which to kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        command = command_of(options.study, root, options.epochs, options.workers)
        return survive(root, command, options.kills, random.Random(options.seed))


def command_of(study: str, root: Path, epochs: str, workers: str) -> list[str]:
    """Return a study's command, all but its folder."""
    if study == "share":
        return sharing(root, epochs, workers)
    return pruning(root, epochs, workers) if study == "imp" else finding(root, "words", epochs, workers)


def training(command: str, root: Path, epochs: str, workers: str) -> list[str]:
    """Return a command on a tiny model, with checkpoints every third of a second."""
    model = root / "model"
    if not model.is_dir():
        save_tiny_model(model)
    return [
        *(sys.executable, "-m", "supertickets", command, "--model", str(model), "--max-length", "16"),
        *("--batch-size", "4", "--seeds", "2", "--epochs", epochs, "--patience", "0", "--workers", workers),
        *("--learning-rate", "0.01", "--checkpoint-minutes", "0.005"),
    ]


def finding(root: Path, task: str, epochs: str, workers: str) -> list[str]:
    """Return a command that finds a ticket: of which words there are many, or of how many there are."""
    return [*training("find", root, epochs, workers), *of_task(root, task), "--levels", "0.2,0.5"]


def pruning(root: Path, epochs: str, workers: str) -> list[str]:
    """Return a command that finds tickets of single weights, rewound and not."""
    search = ["--sparsities", "0.3,0.6", "--rewind", "0,none", "--controls", "random"]
    return [*training("imp", root, epochs, workers), *of_task(root, "words"), *search]


def of_task(root: Path, task: str) -> list[str]:
    """Return a task's arguments, its files written."""
    label = {"label": lambda words: len(words) % 3} if task == "lengths" else {}
    files = []
    for seed, name in enumerate(("train", "dev")):
        files.append(str(write_words(root / f"{task}-{name}.jsonl", 96, seed, **label)))
    return ["--task", task, "--train-file", files[0], "--dev-file", files[1]]


def sharing(root: Path, epochs: str, workers: str) -> list[str]:
    """Return a command that shares the tickets of two tasks, which are found here."""
    for task in ("words", "lengths"):
        subprocess.run([*finding(root, task, "2", workers), "--out", str(root / task)], check=True, capture_output=True)
    return [*training("share", root, epochs, workers), "--tickets", f"{root / 'words'},{root / 'lengths'}"]


def survive(root: Path, command: list[str], kills: int, moments: random.Random) -> int:

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "--out", str(root / out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a process group of its own: the kill takes the workers with it
        )

    started = time.monotonic()
    whole = start("whole")
    _, said = whole.communicate()
    took = time.monotonic() - started
    if whole.returncode:
        print(said.decode())
        return 1
    print(f"unbroken run: {took:.0f} s")
    finished: dict[str, int] = {}
    again, went_on = 0, 0
    for kill in range(kills):
        process = start("broken")
        while process.poll() is None and not at_work(root / "broken"):
            time.sleep(0.05)
        after = moments.uniform(0.0, 0.07) * took
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = outcomes(root / "broken")
        again += sum(finished[key] != now.get(key) for key in finished)
        finished = now
        checkpoints = len(list((root / "broken").glob("trials/*/checkpoint.safetensors")))
        went_on += checkpoints
        print(
            f"kill {kill + 1:2}: {after:4.1f} s into the work, {len(finished):2} trials done, "
            f"{checkpoints} with a checkpoint"
        )
        if process.returncode == 0:
            print("the study was done before it could be killed")
            break
    last = start("broken")
    _, said = last.communicate()
    if last.returncode:
        print(said.decode())
        return 1
    now = outcomes(root / "broken")
    again += sum(finished[key] != now.get(key) for key in finished)
    one, other = contents(root / "whole"), contents(root / "broken")
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(
        json.dumps(
            {
                "files compared": len(one),
                "files that differ": differ,
                "finished trials that ran again": again,
                "trainings found in the middle, by a checkpoint": went_on,
            },
            indent=1,
        )
    )
    return 1 if differ or again else 0


if __name__ == "__main__":
    sys.exit(main())
