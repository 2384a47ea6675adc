"""What a model costs, by what its layers keep: the price list that a ticket is drawn under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supertickets.tickets.kinds import Structure
from supertickets.tickets.ticket import Ticket


@dataclass(frozen=True)
class Prices:
    """A cost that adds up over layers: `fixed`, which every ticket pays, and what each layer keeps of each kind.

    `by` says for a kind what a layer costs that keeps 0, 1, 2, ... of its structures, `[layers, most + 1]`: heads in a
    row for each attention module, FFNs `[layers, 2]`, neurons `[layers, neurons + 1]` (then there are no FFNs in it).
    Layers need not cost the same, nor structures the same each: a measured time has steps. `unit` is what numbers
    are of: parameters, bytes, FLOPs, seconds.

    >>> prices = Prices("parameters", 100.0, {"heads": np.array([[0.0, 3, 6]]), "ffns": np.array([[0.0, 50]])})
    >>> prices.of(Ticket.full(1, 2)), prices.of(Ticket.from_pruned(1, 2, [(0, 1)], [0]))
    (156.0, 103.0)
    """

    unit: str
    fixed: float
    by: Mapping[Structure, NDArray[np.float64]]

    def of(self, ticket: Ticket) -> float:
        """Return what a ticket costs; a kind without prices costs nothing."""
        return self.fixed + sum(
            float(rows[np.arange(len(rows)), _kept(ticket, kind, rows.shape[1] - 1)].sum())
            for kind, rows in self.by.items()
        )


def _kept(ticket: Ticket, kind: Structure, most: int) -> NDArray[np.int64]:
    """Return how many structures of a kind each layer keeps."""
    kept = {"heads": ticket.heads, "ffns": ticket.ffns[:, None]}
    return np.asarray((ticket.neurons_of(most) if kind == "neurons" else kept[kind]).sum(axis=1))


def amount(value: float, unit: str) -> str:
    """Return a cost with its unit as people write it.

    >>> amount(79_840_900, "bytes"), amount(0.01234, "seconds"), amount(22_713_986, "parameters")
    ('79.84 MB', '12.34 ms', '22,713,986 parameters')
    """
    if unit == "bytes":
        return f"{value / 1e6:.2f} MB"
    return f"{1e3 * value:.2f} ms" if unit == "seconds" else f"{value:,.0f} {unit}"
