"""What a measure of importance may ask of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from supertickets.tickets.scoring import Measure, Scores, ScoringSettings
from supertickets.tickets.ticket import Ticket

if TYPE_CHECKING:  # settings ask a measure what it reads, and a study starts without torch
    from torch import Tensor, nn

__all__ = ["Gate", "Loss", "Measure", "Measured", "Scores"]

Loss = Callable[[], "Tensor"]
"""Runs the model on one batch and returns each example's loss `[batch]`."""


class Gate(Protocol):
    """A context that multiplies head contexts and FFN outputs by factors."""

    def __call__(  # noqa: D102  (the class says it)
        self, head_gate: Callable[[int, Tensor], Tensor], ffn_gate: Callable[[int, Tensor], Tensor]
    ) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Measured:
    """A trained model under measurement; nothing here knows which library the model comes from.

    `ticket` is what the model was cut to: iterative pruning scores rewound tickets, not the dense model alone. `losses`
    gives the training set's batches. `by_structure` takes a function of a parameter that returns a tensor of its shape,
    and sums that over each head's and each FFN's weights. `start` gives a parameter's value before training.
    """

    model: nn.Module
    ticket: Ticket
    gate: Gate
    losses: Callable[[], Iterable[Loss]]
    by_structure: Callable[[Callable[[nn.Parameter], Tensor]], Scores]
    start: Callable[[nn.Parameter], Tensor]
    settings: ScoringSettings
    seed: int
