"""Starting, and opening a finished study again.

Whole processes in turns: Python alone, importing the package, torch and transformers' Auto classes, `--help`, and for a
finished study of 14 trainings `status`, `report`, and the command that made it, which finds all of them done.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from figures import ENCODER, Figure, of_pairs

from supertickets.cli import main
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
        # In this process, which has torch loaded: it is not measured.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            if main(["find", *asked, "--out", study]):
                raise SystemExit(said.getvalue())
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
        if smallest:  # the slowest to start, and none of ours
            del arms["from transformers import AutoModel"]
        seconds = take_turns(arms, 1 if smallest else 7, warm_up=0 if smallest else 1)
    for name, taken in seconds.items():
        yield of_pairs(name, taken, "s")
