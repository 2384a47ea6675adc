"""Trials that were trained to a part: what they say of every dev example, then and after they have gone on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.trials import make_trial
from helpers.weight_records import task_info
from supertickets.errors import DivergedError
from supertickets.evidence.search.course import seen
from supertickets.export.evidence_file import differences
from supertickets.lab import Lab, Trial
from supertickets.lab.environment import environment
from supertickets.lab.outcome import PARTIAL, PARTIAL_PREDICTIONS, load_outcome
from supertickets.lab.partial import Partial, load_partial, partial_of, save_partial
from supertickets.lab.steps import Step
from supertickets.storage import digest
from supertickets.training.evaluation import Passes


@pytest.fixture
def trial(tiny_model: Path, words: dict[str, Path]) -> Trial:
    return make_trial(tiny_model, words, learning_rate=1e-2, epochs=4)


def run(folder: Path, trial: Trial, until: float | None = None) -> Partial | None:
    with Lab(folder) as lab:
        (one,) = lab.run([Step({"kind": "x"}, trial, until=until)]).runs
    return one.partial


def said(partial: Partial | None) -> np.ndarray:
    assert partial is not None
    return partial.predictions()["dev"]


def test_a_part_has_the_outputs_of_the_whole_training(tmp_path: Path, trial: Trial) -> None:
    half = said(run(tmp_path / "parts", trial, until=0.5))
    run(tmp_path / "whole", trial)
    whole = load_outcome(tmp_path / "whole" / "trials" / trial.key)
    assert whole is not None
    outputs = whole.predictions()["dev"]
    assert half.shape == (2, *outputs.shape[1:])
    assert half.tobytes() == outputs[:2].tobytes() != outputs[2:].tobytes()
    folder = tmp_path / "parts" / "trials"
    assert said(run(tmp_path / "parts", trial, until=0.75)).tobytes() == outputs[:3].tobytes()
    assert said(partial_of(trial, folder, 0.5)).tobytes() == half.tobytes()  # cut, as it has gone on
    run(tmp_path / "parts", trial)
    assert not (folder / trial.key / PARTIAL_PREDICTIONS).exists()
    assert said(partial_of(trial, folder, 0.5)).tobytes() == half.tobytes()


def test_an_outcome_names_all_environments_that_its_training_was_in(
    tmp_path: Path, tiny_model: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun with another version may have other bits than here, which its record has to say."""

    trial = make_trial(tiny_model, words)

    def recorded(folder: Path) -> dict[str, Any]:
        run(folder, trial)
        outcome = load_outcome(folder / "trials" / trial.key)
        assert outcome is not None
        return outcome.environment

    here = environment(torch.device("cpu"), trial.recipe)
    run(tmp_path / "here", trial, until=0.5)
    assert list(recorded(tmp_path / "here").items()) == list(here.items())  # control
    monkeypatch.setattr("supertickets.lab.workbench.environment", lambda device, recipe: {**here, "torch": "1.0"})
    run(tmp_path / "moved", trial, until=0.5)
    monkeypatch.undo()
    moved = recorded(tmp_path / "moved")
    assert differences(moved, here) == {"torch": (f"1.0, then {here['torch']}", here["torch"])}


def test_a_part_whose_outputs_are_not_as_written_is_made_again(tmp_path: Path, trial: Trial) -> None:
    first = said(run(tmp_path, trial, until=0.5))
    folder = tmp_path / "trials" / trial.key
    (folder / PARTIAL_PREDICTIONS).write_bytes(b"half written")
    assert load_partial(folder) is None
    assert partial_of(trial, folder.parent, 0.5) is None
    assert said(run(tmp_path, trial, until=0.5)).tobytes() == first.tobytes()


def test_parts_written_before_there_were_outputs_are_read(tmp_path: Path, trial: Trial) -> None:
    save_partial(Partial(trial.key, trial, tmp_path / trial.key, 0.5))
    path = tmp_path / trial.key / PARTIAL
    content = json.loads(path.read_text())
    del content["files"], content["digest"]
    path.write_text(json.dumps({**content, "digest": digest(content)}))
    found = partial_of(trial, tmp_path, 0.25)
    assert found is not None
    assert found.predictions() == {}


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_training_said_before_it_diverged_stays(
    tmp_path: Path, trial: Trial, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was trained to a part before it diverges in its third epoch, or at once."""
    half = said(run(tmp_path / "good", trial, until=0.5))
    if begun:
        run(tmp_path / "bad", trial, until=0.25)
    evaluate = Passes.evaluate

    def breaks(self: Passes, learners: Any, epoch: int) -> Any:
        if epoch == 3:
            raise DivergedError("the outputs became NaN")
        return evaluate(self, learners, epoch)

    monkeypatch.setattr(Passes, "evaluate", breaks)
    run(tmp_path / "bad", trial)
    folder = tmp_path / "bad" / "trials"
    outcome = load_outcome(folder / trial.key)
    assert outcome is not None
    assert not outcome.finished
    assert outcome.predictions()["dev"].tobytes() == half.tobytes()
    assert not (folder / trial.key / PARTIAL).exists()
    parts = {until: partial_of(trial, folder, until) for until in (0.25, 0.5, 0.75, 1.0)}
    assert {until: part is not None and part.lost for until, part in parts.items()} == {
        0.25: False, 0.5: False, 0.75: True, 1.0: True
    }  # fmt: skip
    assert said(parts[0.25]).tobytes() == half[:1].tobytes()
    assert parts[0.75] is not None
    task = replace(task_info("words"), metrics=("accuracy",), targets=np.zeros(len(half[0]), int))
    seen_of = seen(task, parts[0.75], 3)
    assert np.isfinite(seen_of).all(axis=1).tolist() == [True, True, False]
