"""The same study on a real Ray cluster of two nodes on this machine, one of which is killed in the middle."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.study_files import contents
from helpers.trials import write_words
from supertickets.studies.find import find
from supertickets.studies.imp import imp
from supertickets.studies.share import share

ray = pytest.importorskip("ray", reason="Ray is an optional dependency")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def study(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "task": "words",
        **words,
        "levels": (0.5,),
        "seeds": 1,
        "epochs": 100,
        "patience": None,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "max_length": 16,
        "precision": "float32",
    }


def test_two_nodes_one_killed_in_the_middle(cluster: Any, study: dict[str, Any], tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1)
    local = find(study, out=tmp_path / "local", workers=1)
    killed: list[float] = []

    def kill_when_both_work() -> None:
        """Each node has one CPU: two trials that have begun to train are on two nodes."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not killed:
            with contextlib.suppress(OSError, ValueError):
                running = json.loads((tmp_path / "ray" / "progress.json").read_text())["running"]
                if sum("step" in line for line in running) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                    killed.append(time.monotonic())
            time.sleep(0.1)

    killer = threading.Thread(target=kill_when_both_work, daemon=True)
    killer.start()
    spread = find(study, out=tmp_path / "ray", on="ray", address=cluster.address)
    killer.join(1)
    assert killed, "the two nodes never worked side by side"
    assert contents(spread.folder) == contents(local.folder)


def test_on_a_laptop_a_local_ray_starts_by_itself(study: dict[str, Any], tmp_path: Path) -> None:
    typed = [
        part
        for name, value in {**study, "epochs": 1, "patience": 0, "on": "ray", "out": tmp_path / "out"}.items()
        for part in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value),
        )
    ]
    done = subprocess.run(
        [sys.executable, "-m", "supertickets", "find", *typed], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    assert (tmp_path / "out" / "super-ticket" / "model" / "model.safetensors").is_file()


def test_trainings_that_start_from_others_find_their_weights(
    cluster: Any, study: dict[str, Any], tmp_path: Path
) -> None:
    """Weights to start from come through Ray, as everything does; the outcome is the local one, bit for bit."""
    small = {**study, "epochs": 2, "levels": (0.4,), "kinds": ("winning",), "keep": "none", "workers": 1}
    folders = [find(small, out=tmp_path / "words").folder]
    other = {"task": "lengths", "train_file": write_words(tmp_path / "lengths.jsonl", 40, 5, lambda w: len(w) % 3)}
    folders.append(find({**small, **other, "dev_file": None}, out=tmp_path / "lengths").folder)
    settings = {name: small[name] for name in ("model", "seeds", "epochs", "batch_size", "learning_rate", "max_length")}
    settings |= {"tickets": tuple(folders), "precision": "float32", "fine_tune_epochs": settings["epochs"]}
    local = share(settings, out=tmp_path / "local", workers=1)
    spread = share(settings, out=tmp_path / "ray", on="ray", address=cluster.address)
    assert spread.sharing.runs.drop(columns="seconds").equals(local.sharing.runs.drop(columns="seconds"))
    tuned = local.sharing.runs[local.sharing.runs["model"].str.endswith("fine-tuning")]["trial"]
    assert len(tuned) == 4
    for key in tuned:
        one, other = (made.folder / "trials" / key / "predictions.safetensors" for made in (local, spread))
        assert one.read_bytes() == other.read_bytes()


def test_masks_and_the_weights_of_a_round_before_travel(cluster: Any, study: dict[str, Any], tmp_path: Path) -> None:
    """Rounds of pruning on Ray find the local tickets, bit for bit: masks travel, and weights to go on from."""
    names = ("model", "task", "train_file", "dev_file", "batch_size", "learning_rate", "max_length")
    settings = {name: study[name] for name in names} | {"precision": "float32", "epochs": 2, "seeds": 1}
    settings |= {"sparsities": (0.3, 0.6), "rewind": ("0", "none"), "controls": ("matched", "random")}
    local = imp(settings, out=tmp_path / "local", workers=1)
    spread = imp(settings, out=tmp_path / "ray", on="ray", address=cluster.address)
    assert len(local.table) == 9
    assert spread.table.drop(columns="seconds").equals(local.table.drop(columns="seconds"))
    masks = {path.parent.name: path.read_bytes() for path in tmp_path.glob("local/trials/*/mask.safetensors")}
    assert len(set(masks.values())) == 3  # the dense run's, and each way's next one
    for key, mask in masks.items():
        assert (tmp_path / "ray" / "trials" / key / "mask.safetensors").read_bytes() == mask
