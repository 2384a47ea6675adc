"""Studies of several tasks, for the tests of `share` and `adapt`: two of `find`, and one that shares their tickets."""

from pathlib import Path
from typing import Any

import pytest

from helpers.trials import write_words
from supertickets.lab import Outcome
from supertickets.lab.outcome import load_outcome
from supertickets.studies.run import Result, run_study

SMALL: dict[str, Any] = {
    "seeds": 2,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "max_length": 16,
    "workers": 1,
    "precision": "float32",
}
SHARE = SMALL | {"fine_tune_epochs": 3}


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, words: dict[str, Path]) -> dict[str, Path]:
    """Studies of `find` of two tasks, `words` and `lengths`, without weights, and the folder that all lie in."""
    folder = tmp_path_factory.mktemp("several")
    lengths = {
        name: write_words(folder / f"lengths-{name}.jsonl", size, seed, lambda w: len(w) % 3)
        for seed, (name, size) in enumerate((("train_file", 40), ("dev_file", 30)), start=5)
    }
    for task, files in (("words", words), ("lengths", lengths)):
        asked = SMALL | {"levels": (0.4,), "kinds": ("winning",), "keep": "none"}
        run_study("find", asked, model=str(tiny_model), task=task, out=folder / task, **files)
    return {"folder": folder, "model": tiny_model, "words": folder / "words", "lengths": folder / "lengths"}


@pytest.fixture(scope="session")
def given(places: dict[str, Path]) -> dict[str, Any]:
    """What a study of `share` of the two tickets is asked for, all but its folder."""
    return SHARE | {"model": str(places["model"]), "tickets": (places["words"], places["lengths"])}


@pytest.fixture(scope="session")
def shared(places: dict[str, Path], given: dict[str, Any]) -> Result:
    """A study of `share`."""
    return run_study("share", given, out=places["folder"] / "share")


def outcomes(folder: Path) -> list[Outcome]:
    """All outcomes in a study's folder, by key; every trial has ended."""
    found = [load_outcome(path) for path in sorted((folder / "trials").iterdir())]
    assert None not in found
    return [outcome for outcome in found if outcome is not None]
