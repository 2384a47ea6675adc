"""Times forward passes of models that take turns, and what else a model and its cut one cost on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedModel

from supertickets.anatomy.cost import forward_flops, parameters
from supertickets.errors import TicketError
from supertickets.lab.forward import Forward, forward_of, prepared
from supertickets.lab.measured import Batch, Conditions, Passes, Sizes, Which, passes_of
from supertickets.lab.peak import peak_memory
from supertickets.models import BaseModel, load_model, quiet_transformers
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.training.devices import arithmetic, undisturbed

WARM_UP = 2
"""Turns that are not counted: the first passes load kernels and fill caches."""
K = TypeVar("K", bound=str)


def take_turns(
    passes: Mapping[K, Forward],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], object] = lambda: None,
    warm_up: int = WARM_UP,
) -> dict[K, NDArray[np.float64]]:
    """Return the seconds of each of several passes, `[repeats]`, that take turns: other load slows all of them equally.

    `settle` waits until a device has done what it was asked for; `warm_up` turns come first and do not count. Of every
    turn, the times are pairs.

    >>> now = iter(range(100))
    >>> take_turns({"a": lambda: 0, "b": lambda: 0}, 2, lambda: next(now))
    {'a': array([1., 1.]), 'b': array([1., 1.])}
    """
    seconds: dict[K, list[float]] = {name: [] for name in passes}
    for turn in range(warm_up + repeats):
        for name, forward in passes.items():
            settle()
            started = clock()
            forward()
            settle()
            ended = clock()
            if turn >= warm_up:
                seconds[name].append(ended - started)
    return {name: np.array(values, float) for name, values in seconds.items()}


def seconds_of(
    models: Mapping[K, PreTrainedModel],
    batch: Batch,
    conditions: Conditions,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, NDArray[np.float64]]:
    """Return the seconds of models' forward passes that take turns, `[repeats]` each (see `take_turns`)."""
    device = torch.device(conditions.device)

    def settle() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    passes = {name: forward_of(model, batch) for name, model in models.items()}
    # The context is entered once: in bfloat16 weights are converted while warming up, as if they were stored so.
    with undisturbed(conditions.threads), arithmetic(conditions.precision, device), torch.inference_mode():
        return take_turns(passes, repeats, clock, settle)


def dense_and_cut(base: BaseModel, ticket: Ticket | None) -> dict[Which, PreTrainedModel]:
    """Return a base model's encoder in float32 without an output layer, and what a ticket leaves of it."""
    dense: PreTrainedModel = load_model(base, AutoModel, torch.float32).model
    return {"dense": dense} if ticket is None else {"dense": dense, "ticket": cut(copy.deepcopy(dense), ticket)}


def check_lengths(base: BaseModel, lengths: Iterable[int], asked: str = "--lengths") -> None:
    """Raise TicketError for a length that a base model cannot read."""
    for length in lengths:
        if not 1 <= length <= base.max_length:
            raise TicketError(
                f"{asked} {length}: model {base.called} reads 1 to {base.max_length:,} tokens; the nearest is "
                f"{min(max(length, 1), base.max_length):,}."
            )


def measure_sizes(
    base: BaseModel,
    models: Mapping[Which, PreTrainedModel],
    ticket: Ticket | None,
    batch: Batch,
    conditions: Conditions,
) -> dict[Which, Sizes]:
    """Return the sizes of models (see `dense_and_cut`), each as saved and loaded by a fresh process."""
    tickets = _tickets(base, ticket)
    found: dict[Which, Sizes] = {}
    for which, model in models.items():
        with TemporaryDirectory() as place, quiet_transformers():
            model.save_pretrained(place)
            found[which] = Sizes(
                parameters=model.num_parameters(),
                structures=parameters(base.shape, tickets[which]),
                file=sum(path.stat().st_size for path in Path(place).glob("*.safetensors")),
                peak=peak_memory(Path(place), batch, conditions),
            )
    return found


def measure_passes(
    base: BaseModel,
    models: Mapping[Which, PreTrainedModel],
    ticket: Ticket | None,
    batches: Iterable[Batch],
    conditions: Conditions,
    repeats: int,
) -> tuple[Passes, ...]:
    """Return the times of models (see `dense_and_cut`) that take turns, batch by batch."""
    tickets = _tickets(base, ticket)
    ready = {which: prepared(model, conditions.device) for which, model in models.items()}
    found = []
    for batch in batches:
        flops: dict[Which, Any] = {
            which: forward_flops(base.shape, tickets[which], batch.batch_size, batch.length) for which in ready
        }
        found.append(passes_of(batch, seconds_of(ready, batch, conditions, repeats), flops))
    return tuple(found)


def _tickets(base: BaseModel, ticket: Ticket | None) -> dict[Which, Ticket]:
    full = Ticket.full(*base.shape.of_tickets)
    return {"dense": full, "ticket": full if ticket is None else ticket}
