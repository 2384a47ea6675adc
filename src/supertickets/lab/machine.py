"""Where trials run: in this process, in worker processes, on Ray, on Slurm. The choice never changes a result."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from supertickets.errors import TicketError
from supertickets.lab.in_process import InProcess
from supertickets.lab.jobs import Runner
from supertickets.lab.memory import free_memory
from supertickets.models import BaseModel
from supertickets.registry import Registry
from supertickets.tasks import Task

_WORKERS_A_GPU = 4  # more on one GPU only take turns
_JOBS_OF_SLURM = 100  # that `auto` has submitted at the same time
_MEMORY_A_WORKER = 4 << 30  # bytes, besides what the model's parameters need: a batch's activations, and libraries
_BYTES_A_PARAMETER = 24  # float32 weights, gradients, two optimiser states, the best epoch's copy, bfloat16 casts


@dataclass(frozen=True)
class Machine:
    """How to run trials.

    `workers` is a number or `auto`: one for each `threads` cores, as a small model's steps are too short to spread over
    threads, but no more than free memory holds; on GPUs as many a device as its free memory holds, at most four. `cpus`
    and `gpus` are what one trial takes on a cluster (on Ray, fractions of a GPU share it). On Slurm, a job has also a
    `partition`, a `time_limit` in minutes, `memory` in GB and more options of sbatch (`slurm`, see
    `lab.slurm_options`). `models` and `tasks` are what trials name by hash; on Ray they travel with the study, so that
    no shared disk is needed.
    """

    backend: str = "local"
    workers: int | Literal["auto"] = 1
    device: str = "auto"
    threads: int = 1
    address: str | None = None
    cpus: float | None = None
    gpus: float = 0.0
    partition: str | None = None
    time_limit: float = 240.0
    memory: float | None = None
    slurm: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    checkpoint_every: float = 120.0
    models: Mapping[str, BaseModel] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def runner(self) -> Runner:
        """Return what runs jobs (see `RUNNERS`). Raises TicketError if what it needs is not installed."""
        return RUNNERS[self.backend](self)

    @property
    def options(self) -> dict[str, Any]:
        """What every workbench is made with, wherever it is."""
        return {"trackers": self.trackers, "checkpoint_every": self.checkpoint_every}

    def describe(self) -> str:
        """Return where trials run, in a few words."""
        if self.backend != "local":
            return f"on {self.backend}, {self.cpus_each:g} CPUs and {self.gpus:g} GPUs each"
        devices = self.devices
        named = sorted({device for device in devices if device != "auto"})
        where = f" on {', '.join(named)}" if named else ""
        return f"{len(devices)} at a time{where}{self._limit(len(devices))}"

    def as_dict(self) -> dict[str, Any]:
        """Return the choice made, to be recorded."""
        if self.backend == "slurm":
            more = {name: getattr(self, name) for name in ("partition", "time_limit", "memory", "slurm")}
            return {"backend": self.backend, "cpus": self.cpus_each, "gpus": self.gpus, **more}
        if self.backend != "local":
            return {"backend": self.backend, "address": self.address, "cpus": self.cpus_each, "gpus": self.gpus}
        return {"backend": "local", "devices": self.devices, "threads": self.threads}

    @property
    def side_by_side(self) -> int | None:
        """How many trials run at the same time at most; None where only the cluster knows."""
        if self.backend == "slurm":
            return _JOBS_OF_SLURM if self.workers == "auto" else self.workers
        return len(self.devices) if self.backend == "local" else None

    @property
    def cpus_each(self) -> float:
        """How many CPUs one trial takes on a cluster."""
        return self.threads if self.cpus is None else self.cpus

    @cached_property
    def devices(self) -> list[str]:
        """The device of each worker; found once, as what `auto` finds depends on how much memory is free then."""
        from supertickets.training.devices import find_device

        device = find_device(self.device)
        if device.type != "cuda":
            return [self.device] * self.cpu_workers()
        if device.index is not None and self.device != "auto":
            return [self.device] * (1 if self.workers == "auto" else self.workers)
        import torch

        slots = self._gpu_slots(torch.cuda.device_count())
        if self.workers == "auto":
            return slots
        return [slots[i % len(slots)] for i in range(self.workers)]

    def cpu_workers(self) -> int:
        """Return how many workers fit this machine's cores and memory."""
        if self.workers != "auto":
            return self.workers
        by_cores, free = max(1, _cores() // self.threads), free_memory()
        return by_cores if free is None else max(1, min(by_cores, free // self._memory_each()))

    def _limit(self, workers: int) -> str:
        """Say where memory and not the cores limits `auto`."""
        from supertickets.training.devices import find_device

        by_cores = _cores() // self.threads
        if self.workers != "auto" or find_device(self.device).type != "cpu" or workers >= by_cores:
            return ""
        return (
            f" (free memory holds no more at {self._memory_each() / 1e9:.1f} GB each; there are cores for {by_cores})"
        )

    def _memory_each(self) -> int:
        """Return about how many bytes a training takes, on a CPU or a GPU."""
        return _MEMORY_A_WORKER + _BYTES_A_PARAMETER * self._parameters

    @cached_property
    def _parameters(self) -> int:
        return max(map(_parameters, self.models.values()), default=0)

    def _gpu_slots(self, count: int) -> list[str]:
        """Return `auto`'s device of each worker, one round over the GPUs after the other."""
        import torch

        need = self._memory_each()
        fits = [max(1, min(_WORKERS_A_GPU, torch.cuda.mem_get_info(i)[0] // need)) for i in range(count)]
        return [f"cuda:{i}" for turn in range(_WORKERS_A_GPU) for i in range(count) if turn < fits[i]]


def local_runner(machine: Machine) -> Runner:
    """Return what runs jobs on this machine: here, or in processes of their own if there are several workers."""
    devices = machine.devices
    if len(devices) == 1:
        here = {"models": machine.models, "tasks": machine.tasks, "device": devices[0]}
        return InProcess({**machine.options, **here})
    from supertickets.lab.workers import WorkerPool

    return WorkerPool(devices, machine.options)


RUNNERS: Registry[Callable[[Machine], Runner]] = Registry(
    "backend",
    "runners",
    {
        "local": "supertickets.lab.machine:local_runner",
        "ray": "supertickets.lab.on_ray:RayRunner",
        "slurm": "supertickets.lab.on_slurm:SlurmRunner",
    },
)
"""What makes a runner (see `lab.jobs.Runner`) of a machine, by the name of its backend.

It may have a `check`, which is called with `--address` before anything is written and raises TicketError.
"""


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parameters(model: BaseModel) -> int:
    """Return how many numbers a base model's weight files hold; they are trained in 32 bits, whatever they have."""
    from supertickets.models.checkpoint import tensor_shapes

    return sum(map(math.prod, tensor_shapes(model).values()))


def check_training_device(name: str, backend: str = "local") -> None:
    """Raise TicketError unless trainings can run on the device named; what other machines have is not known here."""
    if name.partition(":")[0] == "mps":
        raise TicketError(
            f"--device {name}: Apple's MPS has no float64, in which importance and the targets of a regression are "
            "computed; use cpu."
        )
    if backend == "local":
        check_device(name)
    elif name != "auto":
        import torch

        try:
            torch.device(name)
        except RuntimeError as error:
            raise TicketError(
                f"--device {name}: torch knows no such device; expected auto, cpu, cuda or one by number, as cuda:1."
            ) from error


def check_device(name: str) -> None:
    """Raise TicketError unless this machine has the device named (`auto` and `cpu` always are)."""
    if name in ("auto", "cpu"):
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # what torch raises, by build and device
        have = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise TicketError(f"--device {name}: this machine has no such device; it has {', '.join(have)}.") from error
