"""Trials on Ray: each is a Ray task, its files come back through Ray. No disk needs to be shared between machines."""

import hashlib
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.lab.jobs import Job, Message, NextJob, Send, run_job
from supertickets.lab.machine import require_ray
from supertickets.lab.outcome import OUTCOME, WEIGHTS
from supertickets.lab.trial import Trial
from supertickets.models import BaseModel
from supertickets.storage import write_atomically

if TYPE_CHECKING:
    from supertickets.lab.machine import Machine

_POLL = 0.3  # seconds between two looks at what runs
_bench: Any = None  # Ray keeps its worker processes: base weights and token ids stay in memory between trials
_bench_for: frozenset[str] = frozenset()

Files = dict[str, bytes]


def _run_remotely(
    trial: str,
    keep_weights: bool,
    label: str,
    start: bytes | None,
    mask: bytes | None,
    hashes: frozenset[str],
    models: list[Any],
    tasks: list[Any],
    options: Any,
    mailbox: Any,
) -> tuple[Message, Files]:
    """Run one trial on whatever machine Ray chose; return the last message and the files it left."""
    global _bench, _bench_for
    from supertickets.lab.workbench import Workbench

    if _bench is None or _bench_for != hashes:
        ray = require_ray()
        packed = ray.get(models[0])
        _bench = Workbench(
            models={key: _unpack(model) for key, model in packed.items()}, tasks=ray.get(tasks[0]), **options
        )
        _bench_for = hashes
    last: list[Message] = []

    def send(message: Message) -> None:
        if message[0] == "progress":
            mailbox.put.remote(message)
        else:
            last.append(message)

    found = Trial.model_validate_json(trial)
    mailbox.put.remote(("started", found.key, None))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "trials" / found.key
        run_job(_bench, Job(found, folder, keep_weights, label, start, mask), send)
        files = {
            str(path.relative_to(temporary)): path.read_bytes() for path in Path(temporary).rglob("*") if path.is_file()
        }
    return last[-1], files


def _pack(model: BaseModel) -> tuple[BaseModel, Files]:
    """Return a base model with its files, to travel."""
    return model, {path.name: path.read_bytes() for path in model.files}


def _unpack(packed: tuple[BaseModel, Files]) -> BaseModel:
    """Write a base model's files on this machine."""
    model, files = packed
    folder = Path(tempfile.mkdtemp(prefix="supertickets-model-"))
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
    try:
        require_ray().init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise TicketError(f"--address {address}: no Ray cluster answers there ({first}).") from error


class RayRunner:
    """Runs jobs on a Ray cluster: the one at `address`, the one this machine belongs to, or a new local one."""

    def __init__(self, machine: "Machine", options: dict[str, Any]) -> None:
        ray = self._ray = require_ray()
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._error = RayError
        self._mine = not ray.is_initialized()
        if self._mine:
            join(machine.address)
        self._options = {**options, "device": machine.device}
        # In lists, so that a task that has a bench already need not fetch them.
        self._hashes = frozenset([*machine.models, *machine.tasks])
        self._models = [ray.put({key: _pack(model) for key, model in machine.models.items()})]
        self._tasks = [ray.put(dict(machine.tasks))]
        # Beside this process, so that losing another machine does not lose it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        # max_retries: a machine that is lost takes a try that the lab counts, not one that Ray repeats unseen.
        self._submit = ray.remote(
            num_cpus=machine.cpus if machine.cpus is not None else machine.threads, num_gpus=machine.gpus, max_retries=0
        )(_run_remotely)
        self._running: dict[Any, Job] = {}
        self._files: dict[str, Any] = {}
        self._cpus, self._gpus = machine.cpus if machine.cpus is not None else machine.threads, machine.gpus

    @property
    def side_by_side(self) -> int:
        """How many trials the cluster has room for now."""
        have = self._ray.cluster_resources()
        rooms = [have.get(name, 0.0) / need for name, need in (("CPU", self._cpus), ("GPU", self._gpus)) if need]
        return max(1, int(min(rooms, default=1.0)))

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left; Ray decides how many at a time, by the resources of the cluster."""
        while True:
            while (job := next_job()) is not None:
                reference = self._submit.remote(
                    job.trial.model_dump_json(),
                    job.keep_weights,
                    job.label,
                    *self._files_of(job.trial),
                    self._hashes,
                    self._models,
                    self._tasks,
                    self._options,
                    self._mailbox,
                )
                self._running[reference] = job
            if not self._running:
                return
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL)
            for message in self._ray.get(self._mailbox.take.remote()):
                send(message)
            for reference in ready:
                self._collect(reference, send)

    def _files_of(self, trial: Trial) -> tuple[Any, Any]:
        """Return the weights that a trial starts from and its ticket of weights; None for what is not in a file."""
        start, mask = trial.start, trial.mask
        return (
            self._sent(start.folder / WEIGHTS, start.weights) if start is not None else None,
            self._sent(mask.path, mask.digest) if mask is not None and mask.path and mask.digest else None,
        )

    def _sent(self, path: Path, digest: str) -> Any:
        """Return a file put into Ray, once; None if it is gone or another than it should be: the trial will say so."""
        if digest not in self._files:
            with suppress(OSError):
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == digest:
                    self._files[digest] = self._ray.put(content)
        return self._files.get(digest)

    def _collect(self, reference: Any, send: Send) -> None:
        job = self._running.pop(reference)
        try:
            message, files = self._ray.get(reference)
        except self._error as error:
            send(("failed", job.trial.key, f"Ray lost the trial: {error}"))
            return
        for name in sorted(files, key=lambda name: Path(name).name == OUTCOME):  # the outcome last
            write_atomically(job.folder.parent.parent / name, files[name])
        send(message)

    def close(self) -> None:
        """Cancel what still runs and leave the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._mine:
            self._ray.shutdown()
