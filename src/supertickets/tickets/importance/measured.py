"""What a measure of importance may ask of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from supertickets.tickets.kinds import Structure
from supertickets.tickets.scoring import Measure, Scores, ScoringSettings
from supertickets.tickets.ticket import Ticket

if TYPE_CHECKING:  # settings ask a measure what it reads, and a study starts without torch
    from torch import Tensor, nn

__all__ = ["Gate", "Loss", "Measure", "Measured", "Scores"]

Loss = Callable[[], "Tensor"]
"""Runs the model on one batch and returns each example's loss `[batch]`."""


class Gate(Protocol):
    """A context that multiplies head contexts, FFN outputs and neurons by factors (see `surgery.gate.gated`)."""

    def __call__(self, **gates: Callable[[int, Tensor], Tensor]) -> AbstractContextManager[None]: ...  # noqa: D102


@dataclass(frozen=True)
class Measured:
    """A trained model under measurement; nothing here knows which library the model comes from.

    `ticket` is what the model was cut to: iterative pruning scores rewound tickets, not the dense model alone; `kept`
    says it by kind, of the kinds that are scored. `losses` gives the training set's batches. `by_structure` takes a
    function of a parameter that returns a tensor of its shape, and sums that over each structure's weights. `start`
    gives a parameter's value before training. Where examples may be left out, `parts` are the numbers of examples at
    which a measure may stop, all of them last; batches come in a random order then.
    """

    model: nn.Module
    ticket: Ticket
    kept: Mapping[Structure, NDArray[np.bool_]]
    gate: Gate
    losses: Callable[[], Iterable[Loss]]
    by_structure: Callable[[Callable[[nn.Parameter], Tensor]], Scores]
    start: Callable[[nn.Parameter], Tensor]
    settings: ScoringSettings
    seed: int
    parts: tuple[int, ...] = ()
