"""Trials on Ray: each is a Ray task, its files come back through Ray. No disk needs to be shared between machines."""

import hashlib
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from supertickets.errors import TicketError, needs
from supertickets.lab.in_process import run_job
from supertickets.lab.jobs import Job, Message, NextJob, Send
from supertickets.lab.machine import Machine
from supertickets.lab.memory import keep_freed_memory
from supertickets.lab.outcome import CHECKPOINT, LOGITS, OUTCOME, PARTIAL, WEIGHTS, drop_checkpoint
from supertickets.lab.stopping import heeding
from supertickets.lab.trial import Trial
from supertickets.models import BaseModel
from supertickets.storage import write_atomically

_POLL = 0.3  # seconds between two looks at what runs
_bench: Any = None  # Ray keeps its worker processes: base weights and token ids stay in memory between trials
_bench_for: Any = None  # the models and tasks in it, by hash, and its options: a driver may run several studies
_PREFIX = "supertickets-trial-"
_FOLDER = Path(tempfile.gettempdir()) / f"{_PREFIX}{uuid.uuid4().hex}"  # one name, as a bench knows its models' place
_TO_ANSWER = 5.0  # seconds that a cluster has to accept a connection
_TO_STOP = 5.0  # seconds that a training has to stop by itself

Files = dict[str, bytes]


def require_ray() -> Any:
    """Return the ray module; raises TicketError, saying what to install, if there is none."""
    needs("ray", "--backend ray")
    import ray

    return ray


def _run_remotely(
    job: Job,
    sent: Mapping[str, Any],
    checkpoint: bytes | None,
    hashes: frozenset[str],
    models: list[Any],
    tasks: list[Any],
    options: Any,
    mailbox: Any,
) -> tuple[Message, Files]:
    """Run one trial on whatever machine Ray chose; return the last message and the files it left.

    `sent` are files of other trials that the job needs, by SHA-256, as they were put into Ray; `checkpoint` is where it
    stands if it has begun before.
    """
    global _bench, _bench_for
    keep_freed_memory()
    from supertickets.lab.workbench import Workbench

    ray = require_ray()
    last: list[Message] = []

    def send(message: Message) -> None:
        if message[0] == "progress":
            mailbox.put.remote(message)
        else:
            last.append(message)

    mailbox.put.remote(("started", job.trial.key, None))
    with heeding(), _work_folder() as here:
        unpacked = {key: _unpack(model, here / key) for key, model in ray.get(models[0]).items()}
        if _bench_for != (hashes, options):
            _bench = Workbench(models=unpacked, tasks=ray.get(tasks[0]), **options)
            _bench_for = (hashes, options)
        study, room = here / "study", job.folder.parent.name  # trials, or trainings that are repeated
        files_sent = dict(zip(sent, ray.get([*sent.values()]), strict=True))
        job = replace(job, folder=study / room / job.trial.key, sent=files_sent)
        if checkpoint is not None:
            write_atomically(job.folder / CHECKPOINT, checkpoint)
        run_job(_bench, job, send)
        files = {str(path.relative_to(study)): path.read_bytes() for path in study.rglob("*") if path.is_file()}
    return last[-1], files


@contextmanager
def _work_folder() -> Iterator[Path]:
    """Give a trial an empty folder of this machine's, the same for all trials of a worker, gone when the trial ends.

    What trials left whose process was killed goes as well: the system has let go of their locks.
    """
    for left in _FOLDER.parent.glob(f"{_PREFIX}*"):
        with suppress(Timeout, OSError), FileLock(left / ".lock", timeout=0):
            shutil.rmtree(left, ignore_errors=True)
    begun = _FOLDER.with_name(f".{_FOLDER.name}")  # which other workers pass over until it is locked
    begun.mkdir(mode=0o700)
    with FileLock(begun / ".lock"):
        begun.rename(_FOLDER)
        try:
            yield _FOLDER
        finally:
            shutil.rmtree(_FOLDER, ignore_errors=True)


def _pack(model: BaseModel) -> tuple[BaseModel, Files]:
    """Return a base model with its files, to travel."""
    return model, {path.name: path.read_bytes() for path in model.files}


def _unpack(packed: tuple[BaseModel, Files], folder: Path) -> BaseModel:
    """Write a base model's files into a new folder of this machine."""
    model, files = packed
    folder.mkdir()
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    return replace(model, folder=folder)


class _Mailbox:
    """Carries progress from running trials to the study."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def put(self, message: Message) -> None:
        self._messages.append(message)

    def take(self) -> list[Message]:
        taken, self._messages = self._messages, []
        return taken


def join(address: str | None) -> None:
    """Join the Ray cluster at an address, or else this machine's, or start one; raises TicketError if none answers."""
    host, _, port = (address or "").rpartition(":")
    try:
        if host and port.isdigit() and "://" not in host:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TO_ANSWER).close()
        require_ray().init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:  # of a port above 65535
        first = str(error).strip().splitlines()[0]
        raise TicketError(f"--address {address}: no Ray cluster answers at this address ({first}).") from error


def _files_of(trial: Trial) -> dict[str, Path]:
    """Return where what a trial needs of others is, by hash: weights, a ticket of weights, a teacher's outputs."""
    files = {start.weights: start.folder / WEIGHTS for start in trial.starts}
    mask, teacher = trial.mask, trial.teacher
    files |= {teacher.logits: teacher.folder / LOGITS} if teacher is not None else {}
    return files | ({mask.digest: mask.path} if mask is not None and mask.path and mask.digest else {})


def _read(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes()
    return None


class RayRunner:
    """Runs jobs on a Ray cluster: the one at the machine's `address`, the one it belongs to, or a new local one.

    A trial takes the machine's `cpus_each` and `gpus`; its `models` and `tasks` travel with it. Raises TicketError if
    Ray is not installed.
    """

    def __init__(self, machine: Machine) -> None:
        ray = self._ray = require_ray()
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._error = RayError
        self._mine = not ray.is_initialized()
        if self._mine:
            join(machine.address)
        models, tasks = machine.models, machine.tasks
        hashes = frozenset([*models, *(model.files_hash for model in models.values()), *tasks])
        packed = {key: _pack(model) for key, model in models.items()}
        options = {**machine.options, "device": machine.device}
        # In lists, so that they are fetched where they are used: tasks once for a bench.
        self._bench = (hashes, [ray.put(packed)], [ray.put(dict(tasks))], options)
        # Beside this process, so that losing another machine does not lose it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        self._cpus, self._gpus = machine.cpus_each, machine.gpus
        # max_retries: a machine that is lost takes a try that the lab counts, not one that Ray repeats unseen.
        self._submit = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(_run_remotely)
        self._running: dict[Any, Job] = {}
        self._files: dict[str, Any] = {}

    @staticmethod
    def check(address: str | None) -> None:
        """Raise TicketError unless there is Ray and, where an address is named, a cluster answers there."""
        ray = require_ray()
        if address is not None and not ray.is_initialized():
            join(address)
            ray.shutdown()

    @property
    def side_by_side(self) -> int:
        """How many trials the cluster's machines can run now, 0 if none is large enough."""
        needs_each = {name: need for name, need in (("CPU", self._cpus), ("GPU", self._gpus)) if need}
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not needs_each:
            return max(1, len(machines))
        return sum(int(min(have.get(name, 0.0) / need for name, need in needs_each.items())) for have in machines)

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left; Ray decides how many at a time, by the resources of the cluster."""
        while True:
            while (job := next_job()) is not None:
                sent, checkpoint = self._sent(_files_of(job.trial)), _read(job.folder / CHECKPOINT)
                self._running[self._submit.remote(job, sent, checkpoint, *self._bench, self._mailbox)] = job
            self._release()
            if not self._running:
                return
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL)
            for message in self._ray.get(self._mailbox.take.remote()):
                send(message)
            for reference in ready:
                self._collect(reference, send)

    def _sent(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """Return files put into Ray, each once, without those that are gone or others: the trial will say so."""
        for digest in files.keys() - self._files.keys():
            with suppress(OSError):
                content = files[digest].read_bytes()
                if hashlib.sha256(content).hexdigest() == digest:
                    self._files[digest] = self._ray.put(content)
        return {digest: self._files[digest] for digest in files if digest in self._files}

    def _release(self) -> None:
        """Let go of files that no trial needs, when all that wait are with Ray; later ones are put there again."""
        needed = {digest for job in self._running.values() for digest in _files_of(job.trial)}
        self._files = {digest: reference for digest, reference in self._files.items() if digest in needed}

    def _collect(self, reference: Any, send: Send) -> None:
        job = self._running.pop(reference)
        try:
            message, files = self._ray.get(reference)
        except self._error as error:
            send(("failed", job.trial.key, f"Ray lost the trial: {error}"))
            return
        for name in sorted(files, key=lambda name: Path(name).name in (PARTIAL, OUTCOME)):  # what makes it count last
            write_atomically(job.folder.parent.parent / name, files[name])
        if any(Path(name).name == OUTCOME for name in files):
            drop_checkpoint(job.folder)  # which came back before, with a part
        send(message)

    def close(self) -> None:
        """Stop what still runs, at first so that it removes its files, and leave the cluster."""
        running = list(self._running)
        with suppress(self._error):
            for reference in running:
                self._ray.cancel(reference)
            if running:
                self._ray.wait(running, num_returns=len(running), timeout=_TO_STOP)
            for reference in running:
                self._ray.cancel(reference, force=True)
        if self._mine:
            self._ray.shutdown()
