"""Where trials run: in this process, in worker processes, on Ray. The choice never changes a result."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supertickets.errors import TicketError
from supertickets.lab.in_process import InProcess
from supertickets.lab.jobs import Runner
from supertickets.lab.together import TogetherRunner
from supertickets.models import BaseModel
from supertickets.tasks import Task
from supertickets.training.team import find_team

_WORKERS_A_GPU = 4  # more on one GPU only take turns
_MEMORY_A_WORKER = 4 << 30  # bytes of GPU memory, besides what the model's training needs
_BYTES_A_PARAMETER = 24  # float32 weights, gradients, two optimiser states, the best epoch's copy, bfloat16 casts


@dataclass(frozen=True)
class Machine:
    """How to run trials.

    `workers` is a number or `auto`: one for each `threads` cores; on GPUs as many a device as its free memory holds, at
    most four. `cpus` and `gpus` are what one trial takes on Ray (fractions of a GPU share it). `models` and `tasks` are
    what trials name by hash; on Ray they travel with the study, so that no shared disk is needed.
    """

    on: Literal["local", "ray"] = "local"
    workers: int | Literal["auto"] = 1
    device: str = "auto"
    threads: int = 1
    address: str | None = None
    cpus: float | None = None
    gpus: float = 0.0
    trackers: tuple[str, ...] = ()
    checkpoint_every: float = 120.0
    models: Mapping[str, BaseModel] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def runner(self) -> Runner:
        """Return what runs jobs. Raises TicketError if Ray is asked for and not installed."""
        options: dict[str, Any] = {"trackers": self.trackers, "checkpoint_every": self.checkpoint_every}
        if self.on == "ray":
            from supertickets.lab.on_ray import RayRunner

            return RayRunner(
                {**options, "device": self.device}, self.models, self.tasks, self.address, self._cpus, self.gpus
            )
        at_hand = {"models": self.models, "tasks": self.tasks}
        if (team := find_team()).size > 1:
            return TogetherRunner(team, {**options, **at_hand})
        devices = self.devices()
        if len(devices) == 1:
            return InProcess({**options, **at_hand, "device": devices[0]})
        from supertickets.lab.workers import WorkerPool

        return WorkerPool(devices, options)

    def describe(self) -> str:
        """Return where trials run, in a few words."""
        if self.on == "ray":
            return f"on Ray, {self._cpus:g} CPUs and {self.gpus:g} GPUs each"
        if (team := find_team()).size > 1:
            return f"each on {team.size} processes"
        devices = self.devices()
        named = sorted({device for device in devices if device != "auto"})
        return f"{len(devices)} at a time" + (f" on {', '.join(named)}" if named else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the choice made, to be recorded."""
        if self.on == "ray":
            return {"on": "ray", "address": self.address, "cpus": self._cpus, "gpus": self.gpus}
        return {"on": "local", "devices": self.devices(), "threads": self.threads, "processes": find_team().size}

    @property
    def _cpus(self) -> float:
        """How many CPUs one trial takes on Ray."""
        return self.threads if self.cpus is None else self.cpus

    def devices(self) -> list[str]:
        """Return the device of each worker; under `accelerate launch`, all processes are one worker."""
        if find_team().size > 1:
            return ["auto"]
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
        """Return how many workers fit this machine's cores."""
        if self.workers != "auto":
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.threads)

    def _gpu_slots(self, count: int) -> list[str]:
        """Return `auto`'s device of each worker, one round over the GPUs after the other."""
        import torch

        parameters = max((_parameters(model) for model in self.models.values()), default=0)
        need = _MEMORY_A_WORKER + _BYTES_A_PARAMETER * parameters
        fits = [max(1, min(_WORKERS_A_GPU, torch.cuda.mem_get_info(i)[0] // need)) for i in range(count)]
        return [f"cuda:{i}" for turn in range(_WORKERS_A_GPU) for i in range(count) if turn < fits[i]]


def _parameters(model: BaseModel) -> int:
    """Return about how many parameters a base model has, from the size of its weight files."""
    return sum((model.folder / name).stat().st_size for name in model.weights) // 4


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
