"""The same study on a real Ray cluster of two nodes on this machine, one of which is killed in the middle."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock, Timeout

import supertickets
from helpers.models import save_tiny_model
from helpers.optional import optional_import
from helpers.study_files import contents
from helpers.trials import make_trial, write_words
from supertickets.errors import TicketError
from supertickets.lab import Trial, on_ray
from supertickets.lab.jobs import Job, Message
from supertickets.lab.machine import Machine
from supertickets.lab.on_ray import RayRunner
from supertickets.lab.outcome import WEIGHTS
from supertickets.lab.partial import load_partial
from supertickets.lab.trial import Start
from supertickets.lab.workbench import Workbench
from supertickets.models import find_model
from supertickets.storage import write_atomically
from supertickets.tasks import load_task


@pytest.fixture(scope="module")
def ray() -> Any:
    """Imported for slow tests only: it takes seconds."""
    return optional_import("ray")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary folder of workers, but not of Ray itself, whose sockets need a short path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        yield Path(os.environ["TMPDIR"])


@pytest.fixture(scope="module")
def cluster(ray: Any, temporary: Path) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def joined(ray: Any, cluster: Any) -> Any:
    """The cluster, which this process stays with: a study that leaves it ends its workers, which then load torch anew.

    That a study joins and leaves it by itself, test_two_nodes_one_killed_in_the_middle has.
    """
    if not ray.is_initialized():
        on_ray.join(cluster.address)
    return cluster


@pytest.fixture
def at_work(temporary: Path) -> Callable[[], list[Path]]:
    """The folders of trials that are there."""
    return lambda: list(temporary.glob(f"{on_ray._PREFIX}*"))


@pytest.fixture
def study(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "task": "words",
        **words,
        "levels": (0.5,),
        "seeds": 1,
        "epochs": 40,
        "patience": None,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "max_length": 16,
        "precision": "float32",
    }


@pytest.mark.slow
def test_two_nodes_one_killed_in_the_middle(
    ray: Any,
    cluster: Any,
    at_work: Callable[[], list[Path]],
    study: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray.shutdown()  # other tests stay with the cluster; this study joins it, and leaves it
    study |= {"kinds": ("winning", "random"), "epochs": 30}
    monkeypatch.setattr("supertickets.lab.progress._WRITE_EVERY", 0.2)  # seconds, to see soon that both work
    second = cluster.add_node(num_cpus=1)
    local = supertickets.find(study, out=tmp_path / "local", workers=1)
    killed: list[int] = []

    def kill_when_both_work() -> None:
        """Each node has one CPU: two trials that have begun to train are on two nodes."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not killed:
            with contextlib.suppress(OSError, ValueError):
                running = json.loads((tmp_path / "ray" / "progress.json").read_text())["running"]
                if sum("step" in line for line in running) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                    killed.append(len(at_work()))
            time.sleep(0.1)

    killer = threading.Thread(target=kill_when_both_work, daemon=True)
    killer.start()
    spread = supertickets.find(study, out=tmp_path / "ray", backend="ray", address=cluster.address)
    killer.join(1)
    assert not ray.is_initialized()
    assert killed, "the two nodes never worked side by side"
    assert killed[0] >= 1  # and each has a folder while it works
    assert at_work() == []  # what the killed one left is swept by the next trial
    assert contents(spread.folder) == contents(local.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_on_a_laptop_a_local_ray_starts_by_itself(study: dict[str, Any], tmp_path: Path) -> None:
    typed = [
        part
        for name, value in {**study, "epochs": 1, "patience": 0, "backend": "ray", "out": tmp_path / "out"}.items()
        for part in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value),
        )
    ]
    # Ray writes there which clusters this machine has: those of other tests are none of this one's. Sockets' names are
    # short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as apart:
        done = subprocess.run(
            [sys.executable, "-m", "supertickets", "find", *typed],
            capture_output=True,
            text=True,
            env={**os.environ, "RAY_TMPDIR": apart},
        )
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    assert (tmp_path / "out" / "super-ticket" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_trainings_that_start_from_others_find_their_weights(
    joined: Any, study: dict[str, Any], tmp_path: Path
) -> None:
    """Weights to start from come through Ray, as everything does; the outcome is the local one, bit for bit."""
    small = {**study, "epochs": 2, "levels": (0.4,), "kinds": ("winning",), "keep": "none", "workers": 1}
    folders = [supertickets.find(small, out=tmp_path / "words").folder]
    other = {"task": "lengths", "train_file": write_words(tmp_path / "lengths.jsonl", 40, 5, lambda w: len(w) % 3)}
    folders.append(supertickets.find({**small, **other, "dev_file": None}, out=tmp_path / "lengths").folder)
    settings = {name: small[name] for name in ("model", "seeds", "epochs", "batch_size", "learning_rate", "max_length")}
    settings |= {"tickets": tuple(folders), "precision": "float32", "fine_tune_epochs": settings["epochs"]}
    local = supertickets.share(settings, out=tmp_path / "local", workers=1)
    spread = supertickets.share(settings, out=tmp_path / "ray", backend="ray", address=joined.address)
    assert spread.table.drop(columns="seconds").equals(local.table.drop(columns="seconds"))
    tuned = local.table[local.table["stage"] == "fine-tuned"]["trial"]
    assert len(tuned) == 4
    for key in tuned:
        one, other = (made.folder / "trials" / key / "predictions.safetensors" for made in (local, spread))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_masks_and_the_weights_of_a_round_before_travel(joined: Any, study: dict[str, Any], tmp_path: Path) -> None:
    """Rounds of pruning on Ray find the local tickets, bit for bit: masks travel, and weights to go on from."""
    names = ("model", "task", "train_file", "dev_file", "batch_size", "learning_rate", "max_length")
    settings = {name: study[name] for name in names} | {"precision": "float32", "epochs": 2, "seeds": 1}
    settings |= {"sparsities": (0.3, 0.6), "rewind": ("0", "none"), "controls": ("matched", "random")}
    local = supertickets.imp(settings, out=tmp_path / "local", workers=1)
    spread = supertickets.imp(settings, out=tmp_path / "ray", backend="ray", address=joined.address)
    assert len(local.table) == 9
    assert spread.table.drop(columns="seconds").equals(local.table.drop(columns="seconds"))
    masks = {path.parent.name: path.read_bytes() for path in tmp_path.glob("local/trials/*/mask.safetensors")}
    assert len(set(masks.values())) == 3  # the dense run's, and each way's next one
    for key, mask in masks.items():
        assert (tmp_path / "ray" / "trials" / key / "mask.safetensors").read_bytes() == mask


@pytest.mark.slow
def test_a_trial_in_parts_travels_with_its_checkpoint(
    joined: Any, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    trial = make_trial(tiny_model, words, epochs=3, patience=None)
    base, task = find_model(str(tiny_model)), load_task(trial.tasks[0].source)
    where = {"models": {base.weight_hash: base}, "tasks": {task.fingerprint(): task}}
    folder, said = tmp_path / "parts" / "trials" / trial.key, list[Message]()
    runner = Machine(backend="ray", address=joined.address, device="cpu", **where).runner()
    try:
        for until in (1 / 3, 2 / 3, None):
            jobs = [Job(trial, folder, True, "x", until=until)]
            runner.run(lambda jobs=jobs: jobs.pop() if jobs else None, said.append)
            assert (load_partial(folder) is None) == (until is None)
    finally:
        runner.close()
    Workbench("cpu").run(Job(trial, tmp_path / "whole" / "trials" / trial.key, True, "x"), lambda event: None)
    ended = [message[0] for message in said if message[0] not in ("started", "progress")]
    assert ended == ["partial", "partial", "done"]
    seen = [(what, detail) for what, _, detail in said if what in ("started", "progress")]
    assert [after[1]["step"] for before, after in pairwise(seen) if before[0] == "started"] == [1, 9, 17]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_weights_of_several_trainings_come_through_ray(joined: Any, study: dict[str, Any], tmp_path: Path) -> None:
    small = {**study, "epochs": 1, "kinds": ("winning",), "patience": 0, "soup": 2}
    local = supertickets.find(small, out=tmp_path / "local", workers=1)
    spread = supertickets.find(small, out=tmp_path / "ray", backend="ray", address=joined.address)
    assert (spread.table["stage"] == "soup").sum() == 2 * 5
    assert contents(spread.folder) == contents(local.folder)


@pytest.mark.slow
def test_a_training_repeated_for_its_weights_leaves_the_first_alone(
    joined: Any, study: dict[str, Any], tmp_path: Path
) -> None:
    names = ("model", "task", "train_file", "dev_file", "batch_size", "learning_rate", "max_length")
    settings = {name: study[name] for name in names} | {"precision": "float32", "epochs": 1, "seeds": 1}
    settings |= {"sparsities": (0.3,), "rewind": "none", "controls": "none", "keep": "matching"}
    local = supertickets.imp(settings, out=tmp_path / "local", workers=1)
    spread = supertickets.imp(settings, out=tmp_path / "ray", backend="ray", address=joined.address)
    assert (spread.shipped["ticket"] / "model").is_dir()
    assert contents(spread.folder) == contents(local.folder)


@pytest.mark.slow
def test_a_study_that_is_stopped_leaves_nothing_on_the_workers(
    joined: Any, at_work: Callable[[], list[Path]], tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    trial = make_trial(tiny_model, words, epochs=10_000, patience=None)  # it cannot end before it is stopped
    job = Job(trial, tmp_path / "trials" / trial.key, False, "x")
    waiting, seen = [job], []

    def interrupt(message: Message) -> None:
        if message[0] == "progress":
            seen.extend(at_work())
            raise KeyboardInterrupt

    base = find_model(str(tiny_model))
    runner = Machine(backend="ray", address=joined.address, models={base.weight_hash: base}).runner()
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(lambda: waiting.pop() if waiting else None, interrupt)
    finally:
        runner.close()
    assert len(seen) == 1
    assert at_work() == []


@pytest.mark.slow
@pytest.mark.parametrize("releases", [True, False])
def test_files_stay_in_ray_no_longer_than_trials_need_them(
    ray: Any, joined: Any, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: bool
) -> None:
    """A trial each that starts from files A and B, and from B again; control: nothing is released."""

    def starting_from(content: bytes, seed: int) -> Job:
        write_atomically(tmp_path / content.decode() / WEIGHTS, content)
        digest = hashlib.sha256(content).hexdigest()
        start = {"trial": "x", "folder": tmp_path / content.decode(), "weights": digest, "ticket": trial.ticket}
        changed = trial.model_copy(update={"start": Start.model_validate(start), "seed": seed})
        return Job(changed, tmp_path / "trials" / str(seed), False, "x")

    if not releases:
        monkeypatch.setattr(RayRunner, "_release", lambda self: None)
    runner = Machine(backend="ray", address=joined.address, cpus=0).runner()
    assert isinstance(runner, RayRunner)

    def answer(job: Job, sent: dict[str, Any], *rest: Any) -> tuple[Message, dict[str, bytes]]:
        return ("done", ray.get(*sent.values()).decode(), None), {}

    runner._submit = ray.remote(num_cpus=0)(answer)
    put: dict[str, list[str]] = {"A": [], "B": []}
    there, done = [], []

    def in_ray() -> str:
        counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
        known = {key.decode() for key in counts}
        return "".join(name for name, references in put.items() if known & set(references))

    original = ray.put

    def putting(value: Any) -> Any:
        reference = original(value)
        if isinstance(value, bytes):
            put[value.decode()].append(reference.hex())
        return reference

    monkeypatch.setattr(ray, "put", putting)
    jobs = [starting_from(content, seed) for seed, content in enumerate((b"A", b"B", b"B"))]
    handed: list[Job] = []

    def next_job() -> Job | None:
        """One at a time: the next when the last one is done."""
        there.append(in_ray())
        if len(handed) > len(done) or len(handed) == len(jobs):
            return None
        handed.append(jobs[len(handed)])
        return handed[-1]

    try:
        runner.run(next_job, lambda message: done.append(message[1]))
        there.append(in_ray())
    finally:
        runner.close()
    assert done == ["A", "B", "B"]
    assert there[-1] == ("" if releases else "AB")
    assert ("B" in there) == releases  # A went while B was at work


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(2.0, 0.0, 5), (5.0, 0.0, 1), (1.0, 0.5, 2), (9.0, 0.0, 0), (1.0, 2.0, 0)]
)
def test_a_trial_takes_one_machine(cpus: float, gpus: float, expected: int) -> None:
    """Two machines that live, of 8 CPUs and of 2 with a GPU, and one that is lost."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    runner = object.__new__(RayRunner)
    runner._ray, runner._cpus, runner._gpus = SimpleNamespace(nodes=lambda: nodes), cpus, gpus
    assert runner.side_by_side == expected


@pytest.fixture
def trial(tiny_model: Path, words: dict[str, Path]) -> Trial:
    return make_trial(tiny_model, words)


def test_a_closed_port_is_told_before_ray_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "require_ray", lambda: pytest.fail("Ray was asked"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TicketError, match=rf"^--address {address}: no Ray cluster answers at this .*refused\)\.$"):
            on_ray.join(address)
    with pytest.raises(TicketError, match="--address no:99999: no Ray cluster answers at this address"):
        on_ray.join("no:99999")


def test_how_to_install_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TicketError, match=r'^--backend ray needs .* `pip install "supertickets\[ray\]"`\.$'):
        on_ray.require_ray()


# --- a worker, without Ray --------------------------------------------------------------------------------------------


class FakeRay:
    """What a worker asks Ray for: things it has put there."""

    def get(self, value: Any) -> Any:
        return value


class FakeMailbox:
    """Looks, whenever the trial tells something, at the folder that it works in."""

    def __init__(self) -> None:
        self.put, self.seen = self, []

    def remote(self, message: Message) -> None:
        self.seen.append(sorted(path.name for path in on_ray._FOLDER.iterdir()) if on_ray._FOLDER.exists() else [])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Run a trial as a Ray worker does; return what was in its folder meanwhile."""
    monkeypatch.setattr(on_ray, "require_ray", FakeRay)
    monkeypatch.setattr(on_ray, "_bench", None)
    monkeypatch.setattr(on_ray, "_bench_for", None)
    monkeypatch.setattr(on_ray, "_FOLDER", tmp_path / f"{on_ray._PREFIX}mine")

    def run(trial: Trial, **options: Any) -> list[list[str]]:
        base = find_model(trial.model)
        packed = {base.weight_hash: on_ray._pack(base)}
        hashes, mailbox = frozenset(packed), FakeMailbox()
        elsewhere = Job(trial.model_copy(update={"model": "not to be found here"}), Path(), False, "x")
        message, files = on_ray._run_remotely(
            elsewhere, {}, None, hashes, [packed], [{}], {"device": "cpu", **options}, mailbox
        )
        assert message[0] == "done", message
        assert sorted(Path(name).name for name in files) == ["outcome.json", "predictions.safetensors"]
        assert not any(path.name.startswith(on_ray._PREFIX) and path != held for path in tmp_path.iterdir())
        return mailbox.seen

    held = tmp_path / f"{on_ray._PREFIX}of-another-worker"
    return run


def test_a_worker_goes_on_with_its_bench_and_takes_another_for_another_study(
    work: Callable[..., list[list[str]]], tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    first = work(make_trial(tiny_model, words))
    assert first[0] == []
    weights = find_model(str(tiny_model)).weight_hash
    assert any(weights in names for names in first)  # control: a model was there
    bench = on_ray._bench
    work(make_trial(tiny_model, words, seed=1))
    assert on_ray._bench is bench
    other = save_tiny_model(tmp_path / "other", seed=5)
    seen = work(make_trial(other, words))
    assert on_ray._bench is not bench
    assert not any(weights in names for names in seen)
    bench = on_ray._bench
    work(make_trial(other, words), checkpoint_every=7.0)  # another study of the same model, with other options
    assert on_ray._bench is not bench


def test_a_worker_that_starts_meanwhile_leaves_a_new_folder_alone(
    work: Callable[..., list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sweeps when this one's folder is there and is not yet locked."""
    mine, others = on_ray._FOLDER, tmp_path / f"{on_ray._PREFIX}of-another-worker"

    def late(path: Path, *more: Any, **named: Any) -> FileLock:
        if mine == on_ray._FOLDER:
            on_ray._FOLDER = others
            with on_ray._work_folder():
                pass
            on_ray._FOLDER = mine
        return FileLock(path, *more, **named)

    monkeypatch.setattr(on_ray, "FileLock", late)
    with on_ray._work_folder() as here:
        assert here == mine
        assert here.stat().st_mode & 0o777 == 0o700  # it is the one that was made, not one that its lock has made anew
        with pytest.raises(Timeout):
            FileLock(here / ".lock", timeout=0, is_singleton=False).acquire()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_trials_left_is_swept_but_not_what_others_work_in(
    work: Callable[..., list[list[str]]], trial: Trial, tmp_path: Path
) -> None:
    for name in ("killed", "of-another-worker"):
        (tmp_path / f"{on_ray._PREFIX}{name}" / "model").mkdir(parents=True)
    with FileLock(tmp_path / f"{on_ray._PREFIX}of-another-worker" / ".lock"):
        work(trial)
        assert (tmp_path / f"{on_ray._PREFIX}of-another-worker" / "model").is_dir()
    assert not (tmp_path / f"{on_ray._PREFIX}killed").exists()
