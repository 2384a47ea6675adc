"""What a study's targets cost in numbers: measured or counted once, kept in its folder, read again when it goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import (
    flops_prices,
    forward_flops,
    kv_flops,
    kv_parameters,
    parameter_prices,
    removed_parameters,
)
from supertickets.errors import TicketError
from supertickets.models import dense_size
from supertickets.studies.study import Inputs, Kept, Request
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import Structure
from supertickets.tickets.knapsack import Cap
from supertickets.tickets.prices import Prices, amount
from supertickets.tickets.targets import UNITS, Target, Targets

if TYPE_CHECKING:
    from supertickets.models import BaseModel
    from supertickets.tasks import Task

FLOPS_OF = 32
"""The length in tokens that FLOPs are counted for, as in results.csv."""
OF_WHOLE = ("parameters", "size")
"""What is counted with embeddings and output layer, which the task decides."""


class MeasuredPrices(Kept):
    """Measured prices as JSON (see `tickets.prices.Prices`)."""

    unit: str
    fixed: float
    by: dict[Structure, list[list[float]]]

    @classmethod
    def of(cls, prices: Prices) -> Self:
        """Return prices as a file keeps them."""
        return cls(unit=prices.unit, fixed=prices.fixed, by={kind: rows.tolist() for kind, rows in prices.by.items()})

    @property
    def prices(self) -> Prices:
        """The prices."""
        return Prices(self.unit, self.fixed, {kind: np.array(rows) for kind, rows in self.by.items()})


class TargetInputs(Inputs):
    """What targets are about: the dense model's parameters, bytes of its weight file, and measured times if asked for.

    Kept in the study's folder, so that a study which goes on, on another machine too, draws the same tickets.
    """

    parameters: int
    size: int
    latency: MeasuredPrices | None = None

    def difference(self, before: Self) -> str:
        """Return whether the folder's study is of a model of another size; times differ whenever they are measured."""
        return "" if (self.parameters, self.size) == (before.parameters, before.size) else "a dense model"


def with_targets(request: Request, quiet: bool = True, prices_of: Any = None) -> Request:
    """Return a request with what its targets need to know of the model; one without targets as it is.

    `prices_of` measures latency (`lab.cost_table.latency_prices`), which is said unless `quiet`. Raises TicketError for
    a target that no ticket reaches, or that the dense model reaches already, and for the folder of another study, whose
    numbers are not these.
    """
    if not request.settings.target:
        return request
    from supertickets.evidence.runs import TaskInfo
    from supertickets.studies.checks import check_folder
    from supertickets.studies.draws import ForTarget

    ((source, task),) = request.tasks.items()
    settings = check_folder(request.settings, [TaskInfo.of(request.base, source, task)])  # times are of one precision
    inputs = TargetInputs.load(settings.folder)
    if inputs is None:
        if not quiet and any(target.quantity == "latency" for target in settings.targets):
            said = "--target latency: cut models are timed on this machine, which takes minutes the first time."
            print(said, file=sys.stderr)
        inputs = measured(settings, request.base, task, prices_of)
    caps = caps_of(settings, request.base.shape, inputs)
    ForTarget(settings, request.base.shape, caps)  # raises where it cannot be reached
    return replace(request, inputs=inputs)


def measured(settings: Any, base: BaseModel, task: Task | None, prices_of: Any = None) -> TargetInputs:
    """Return what targets are about, from the base model's config and, for latency, from timing cut models.

    `task` may be None where no target is one of `OF_WHOLE`.
    """
    parameters, size = (0, 0) if task is None else dense_size(base, task.form, task.outputs)
    found = TargetInputs(parameters=parameters, size=size)
    if not any(target.quantity == "latency" for target in settings.targets):
        return found
    if prices_of is None:
        from supertickets.lab.cost_table import latency_prices

        prices_of = latency_prices
    batch, length = map(int, settings.latency_of.split("x"))
    prices = prices_of(base, settings.structures, batch, length, settings.threads, settings.precision, settings.device)
    return found.model_copy(update={"latency": MeasuredPrices.of(prices)})


def caps_of(settings: Targets, shape: Shape, inputs: TargetInputs) -> list[Cap]:
    """Return what tickets may cost at most; raises TicketError for a target that the dense model reaches already."""
    return [_cap(target, settings, shape, inputs) for target in settings.targets]


def _cap(target: Target, settings: Any, shape: Shape, inputs: TargetInputs) -> Cap:
    kinds: Sequence[Structure] = settings.structures
    full, exactly, together = Ticket.full(*shape.of_tickets), None, 0.0
    if target.quantity == "latency":
        assert inputs.latency is not None
        prices = inputs.latency.prices
    elif target.quantity == "flops":
        prices = flops_prices(shape, kinds, FLOPS_OF)
        exactly = lambda ticket: float(forward_flops(shape, ticket, 1, FLOPS_OF))  # noqa: E731
        together = float(kv_flops(shape, FLOPS_OF))
    else:
        each = 4.0 if target.quantity == "size" else 1.0
        inside = float(removed_parameters(shape, _nothing(full)))
        whole = {"size": float(inputs.size), "parameters": float(inputs.parameters)}.get(target.quantity, inside)
        prices = _times(parameter_prices(shape, kinds, whole / each), each)
        exactly = lambda ticket: whole - each * removed_parameters(shape, ticket)  # noqa: E731
        together = each * kv_parameters(shape)
    prices = replace(prices, unit=UNITS[target.quantity])
    dense, most = prices.of(full), target.most(prices.of(full))
    if dense <= most:
        raise TicketError(
            f"--target {target.text}: the dense model takes {amount(dense, prices.unit)} and holds it already; choose "
            "a smaller target."
        )
    return Cap(target.text, prices, most, exactly, together)


def _nothing(full: Ticket) -> Ticket:
    return Ticket(np.zeros_like(full.heads), np.zeros_like(full.ffns))


def _times(prices: Prices, factor: float) -> Prices:
    by = {kind: rows * factor for kind, rows in prices.by.items()}
    return Prices(prices.unit, prices.fixed * factor, by)
