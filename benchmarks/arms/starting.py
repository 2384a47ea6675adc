"""Starting, and opening a finished study again.

Whole processes in turns: Python alone, importing the package, torch and transformers' Auto classes, `--help`, and for a
finished study of 14 trainings `status`, `report`, and the command that made it, which finds all of them done.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from figures import ENCODER, Figure, of_pairs

from supertickets.lab.latency import take_turns

PROGRAM = Path(sys.executable).with_name("supertickets")
STUDY = ["--task", "entailment", "--fraction", "0.02", "--epochs", "1", "--seeds", "2", "--levels", "0.3,0.6"]
LESS = ["--seeds", "1", "--levels", "0.5", "--kinds", "winning", "--workers", "1"]
SMALLEST = [*STUDY, *LESS]  # of a flag given twice, the last counts


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def figures(smallest: bool) -> Iterator[Figure]:
    python, program = partial(run, sys.executable, "-c"), partial(run, str(PROGRAM))
    with tempfile.TemporaryDirectory() as folder:
        study, asked = str(Path(folder) / "study"), [*(SMALLEST if smallest else STUDY), "--model", ENCODER]
        program("find", *asked, "--out", study)
        arms: dict[str, Callable[[], object]] = {
            "python -c pass": partial(python, "pass"),
            "import supertickets": partial(python, "import supertickets"),
            "import torch": partial(python, "import torch"),
            "from transformers import AutoModel": partial(python, "from transformers import AutoModel"),
            "supertickets --help": partial(program, "--help"),
            "supertickets status": partial(program, "status", study),
            "supertickets report": partial(program, "report", study),
            "the same find again": partial(program, "find", *asked, "--out", study),
        }
        seconds = take_turns(arms, 1 if smallest else 7, warm_up=0 if smallest else 1)
    for name, taken in seconds.items():
        yield of_pairs(name, taken, "s")
