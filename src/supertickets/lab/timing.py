"""What a training takes on this machine, from a few of its steps."""

import time
from itertools import islice
from pathlib import Path

from supertickets.errors import TicketError
from supertickets.lab.jobs import Job
from supertickets.lab.machine import Machine, check_device
from supertickets.lab.trial import Trial
from supertickets.lab.workbench import Workbench
from supertickets.training.devices import undisturbed

_STEPS = 5
_WARM_UP = 2  # the first steps load kernels and fill caches


def time_training(trial: Trial, machine: Machine) -> tuple[float, float]:
    """Return about how many seconds and FLOPs a trial takes on one worker, evaluations included; writes nothing.

    Steps take as long from pre-trained weights as from those of another trial, which may not be there yet. Raises
    TicketError if its model or data are not what it names.
    """
    bench = Workbench(_device_here(machine), models=machine.models, tasks=machine.tasks)
    with undisturbed(trial.recipe.threads):
        trainer = bench.trainer(Job(trial.but(start=None), Path(), keep_weights=False, label=""))
        steps = trainer.steps()
        for _ in islice(steps, _WARM_UP):
            pass
        before, started = trainer.result.cost.flops, time.monotonic()
        done = sum(1 for _ in islice(steps, min(_STEPS, max(1, trainer.total - _WARM_UP))))
        seconds, flops = time.monotonic() - started, trainer.result.cost.flops - before
    data = trainer.learners[0].data.task
    # An evaluation has no backward pass, which takes two thirds of a step.
    whole = trainer.total / max(1, done) * (1 + len(data.dev) / (3 * len(data.train)))
    return seconds * whole, flops * whole


def _device_here(machine: Machine) -> str:
    """Return the device of a worker; `auto` where a cluster's machines have one that this machine lacks."""
    if machine.backend == "local":
        return machine.devices[0]
    try:
        check_device(machine.device)
    except TicketError:
        return "auto"
    return machine.device
