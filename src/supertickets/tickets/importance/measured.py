"""What a measure of importance may ask of a trained model."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.ticket import Ticket

Loss = Callable[[], Tensor]
"""Runs the model on one batch and returns each example's loss `[batch]`."""
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Importance of heads `[layers, heads]` and FFNs `[layers]`; 0 for what the model has not got."""


class Gate(Protocol):
    """A context that multiplies head contexts and FFN outputs by factors."""

    def __call__(  # noqa: D102  (the class says it)
        self, head_gate: Callable[[int, Tensor], Tensor], ffn_gate: Callable[[int, Tensor], Tensor]
    ) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Measured:
    """A trained model under measurement; nothing here knows which library the model comes from.

    `ticket` is what the model was cut to. `losses` gives the training set's batches. `by_structure` takes a function of
    a parameter that returns a tensor of its shape, and sums that over each head's and each FFN's weights. `start` gives
    a parameter's value before training.
    """

    model: nn.Module
    ticket: Ticket
    gate: Gate
    losses: Callable[[], Iterable[Loss]]
    by_structure: Callable[[Callable[[nn.Parameter], Tensor]], Scores]
    start: Callable[[nn.Parameter], Tensor]
    settings: ScoringSettings
    seed: int


Measure = Callable[[Measured], Scores]
