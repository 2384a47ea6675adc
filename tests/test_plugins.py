"""Another package adds a task, a measure of importance and a model family: one file and three entry points."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import supertickets
from helpers.models import LAYERS, save_tiny_model
from helpers.study_files import super_ticket
from supertickets.anatomy import FAMILIES, family_of
from supertickets.errors import TicketError, UnknownNameError
from supertickets.lab.jobs import Runner
from supertickets.lab.machine import RUNNERS, Machine
from supertickets.models import find_model
from supertickets.studies.checks import check_runner
from supertickets.studies.find import FindSettings
from supertickets.tasks import TASKS, TaskSource, load_task
from supertickets.tickets.scoring import MEASURES, ScoringSettings

MODULE = '''
import numpy as np

from supertickets.anatomy import FFN, Attention, Family, Part, rows
from supertickets.tasks import Split, Task, TaskLoader
from supertickets.tickets.importance import Measure


class Parity(TaskLoader):
    """Whether there is a w1 in a text; a user's own .parity file has one text a line."""

    built_in = True

    def reads(self, source):
        return source.train_file.suffix == ".parity"

    def load(self, source):
        texts = [f"w{i % 2} w{2 + i // 2}" for i in range(60)]
        if source.train_file is not None:
            texts = source.train_file.read_text().splitlines()
        targets = np.array([int("w1" in text) for text in texts])
        train, dev = (Split(texts[part], None, targets[part]) for part in (slice(40), slice(40, None)))
        return Task("parity", ("even", "odd"), ("accuracy",), train, dev if len(dev) else train, {})


def by_place(measured):
    layers, heads = measured.ticket.shape
    by_head = np.tile(np.arange(1.0, heads + 1), (layers, 1))
    return {"heads": by_head, "ffns": np.arange(1.0, layers + 1)}


PARITY = Parity()
PLACE = Measure(by_place, reads=("score_epoch",))
LAYOUTLM = Family(
    layers="encoder.layer",
    attention=Attention("attention.self", rows("attention.self", "query", "key", "value"), "attention.output.dense"),
    ffn=FFN((Part("intermediate.dense", "n"),), "output.dense"),
)
'''
POINTS = """
[supertickets.tasks]
odd-parity = parity_package:PARITY
broken = no_such_module:TASK

[supertickets.measures]
place = parity_package:PLACE

[supertickets.families]
layoutlm = parity_package:LAYOUTLM
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, as pip leaves it: a module, and a folder that says what it adds."""
    site = tmp_path / "site-packages"
    info = site / "parity_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "parity_package.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parity-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)
    for registry in (TASKS, MEASURES, FAMILIES):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
        vars(registry).pop("_plugins", None)
    yield
    for registry in (TASKS, MEASURES, FAMILIES):
        vars(registry).pop("_plugins", None)
    sys.modules.pop("parity_package", None)


def test_a_backend_says_itself_whether_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __call__(self, machine: Machine) -> Runner:
            raise AssertionError

        def check(self, address: str | None) -> None:
            raise TicketError(f"--address {address}: nobody is there.")

    monkeypatch.setattr(RUNNERS, "_registered", {**RUNNERS._registered, "nowhere": Nowhere()})
    with pytest.raises(TicketError, match="--address here: nobody is there"):
        check_runner(FindSettings(backend="nowhere", address="here"))
    check_runner(FindSettings(backend="local", address="here"))  # control: others have nothing to say


def test_without_the_package_none_of_them_is_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'odd-parity'"):
        load_task(TaskSource(task="odd-parity"))
    with pytest.raises(ValidationError, match="'sensitivity' or"):
        ScoringSettings(importance="place")
    with pytest.raises(UnknownNameError, match="unknown model family 'layoutlm'"):
        family_of("layoutlm")


@pytest.mark.usefixtures("installed")
def test_a_task_of_another_package(tmp_path: Path) -> None:
    task = load_task(TaskSource(task="Odd-Parity"))  # case and hyphens do not matter
    assert (task.name, task.labels, len(task.train), len(task.dev)) == ("parity", ("even", "odd"), 40, 20)
    half = load_task(TaskSource(task="oddparity", fraction=0.5))
    assert {*half.train.text} < {*task.train.text}
    assert TASKS["odd-parity"].built_in
    assert TASKS.package_of("odd-parity") == "parity-package"
    with pytest.raises(TicketError, match="--label describes your own files: name them with --train-file"):
        load_task(TaskSource(task="odd-parity", label="x"))
    with pytest.raises(UnknownNameError, match="unknown task 'odd-parties': did you mean 'odd-parity'"):
        load_task(TaskSource(task="odd-parties"))
    with pytest.raises(TicketError, match="'broken': package parity-package registers it and cannot be imported"):
        load_task(TaskSource(task="broken"))

    own = tmp_path / "own.parity"
    own.write_text("w1 w2\nw3\nw1\n")
    assert load_task(TaskSource(task="odd-parity", train_file=own)).train.targets.tolist() == [1, 0, 1]
    with pytest.raises(TicketError, match="--label describes columns of a table, but the files of task 'odd-parity'"):
        load_task(TaskSource(task="odd-parity", train_file=own, label="x"))
    table = tmp_path / "own.csv"  # any task's name may be that of a table
    table.write_text("text,label\na,x\nb,y\n")
    assert load_task(TaskSource(task="odd-parity", train_file=table, dev_file=table)).labels == ("x", "y")


@pytest.mark.usefixtures("installed")
def test_a_measure_of_another_package() -> None:
    settings = ScoringSettings(importance="place", absolute="token", score_epoch=2)
    assert settings.read() == ScoringSettings(importance="place", score_epoch=2)
    with pytest.raises(ValidationError, match="or 'random' or 'place'"):
        ScoringSettings(importance="plaice")


@pytest.mark.usefixtures("installed")
def test_a_study_of_the_package_s_task_measure_and_family(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "layoutlm")
    assert find_model(str(model)).shape.layers == LAYERS
    settings: dict[str, Any] = {
        "levels": (0.4,), "kinds": ("winning",), "seeds": 1, "epochs": 2, "batch_size": 8, "max_length": 16,
        "precision": "float32", "workers": 1,
    }  # fmt: skip
    done = supertickets.find(settings, task="odd-parity", importance="place", model=str(model), out=tmp_path / "study")
    assert not done.failures
    ticket = super_ticket(done)
    assert ticket.ffns.tolist() == [False, True, True]  # the lowest scores go
    assert not ticket.heads[:, 0].any()
    assert np.all(ticket.heads[:, 2:])
    with pytest.raises(TicketError, match=r"--absolute: .* since the measure of importance \(place\) does not"):
        supertickets.find(
            settings, absolute="token", task="odd-parity", importance="place", model=str(model), out=tmp_path / "new"
        )
