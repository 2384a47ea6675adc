"""Tickets as drawings: which heads and FFNs stay, or how many tasks keep them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from supertickets.tickets import Ticket


@dataclass(frozen=True)
class Cell:
    """A head or an FFN at `x`, `y` (in cells): `shade` from 0 (gone) to 1, a mark on it, and what it says."""

    x: float
    y: int
    shade: float
    text: str
    mark: str = ""


@dataclass(frozen=True)
class StructureMap:
    """A row a layer, first on top; a cell a head, the FFN at the right. `width` and `height` are in cells."""

    name: str
    text: str
    width: int
    height: int
    cells: tuple[Cell, ...]
    chosen: bool = False

    @classmethod
    def of(cls, name: str, ticket: Ticket, chosen: bool = False) -> "StructureMap":
        """Return the drawing of a ticket."""
        layers, heads = ticket.shape
        cells = [
            Cell(x, layer, float(stays), f"{label}: {'stays' if stays else 'cut out'}")
            for x, layer, label, stays in _places(ticket)
        ]
        return cls(name, in_words(ticket), heads + 2, layers, tuple(cells), chosen)

    @classmethod
    def shared(cls, name: str, tickets: Mapping[str, Ticket]) -> "StructureMap":
        """Return the drawing of how many tasks keep each head and FFN, marked with their number."""
        of_task = list(tickets)
        kept = [[stays for *_, stays in _places(ticket)] for ticket in tickets.values()]
        first = next(iter(tickets.values()))
        layers, heads = first.shape
        cells = []
        for (x, layer, label, _), stays in zip(_places(first), zip(*kept, strict=True), strict=True):
            keep = [task for task, one in zip(of_task, stays, strict=True) if one]
            who = "all tasks" if len(keep) == len(of_task) else ", ".join(keep) or "no task"
            cells.append(Cell(x, layer, _shade(len(keep), len(of_task)), f"{label}: kept by {who}", str(len(keep))))
        counts = np.array([int(cell.mark) for cell in cells])
        text = (
            f"Of {len(counts)} heads and FFNs, all tasks keep {int((counts == len(of_task)).sum())}, "
            f"some but not all {int(((counts > 0) & (counts < len(of_task))).sum())}, none {int((counts == 0).sum())}"
        )
        return cls(name, text, heads + 2, layers, tuple(cells))


def in_words(ticket: Ticket) -> str:
    """Say what a ticket keeps."""
    layers, heads = ticket.shape
    gone = ", ".join(str(layer) for layer in range(layers) if not ticket.ffns[layer])
    return f"{ticket.kept_heads} of {layers * heads} heads and {ticket.kept_ffns} of {layers} FFNs stay" + (
        f"; the FFNs of layers {gone} are gone" if gone else ""
    )


def _places(ticket: Ticket) -> list[tuple[float, int, str, bool]]:
    """Return where each head, then each FFN is drawn, what it is called, and whether it stays."""
    layers, heads = ticket.shape
    places = [
        (float(head), layer, structure(layer, head), bool(ticket.heads[layer, head]))
        for layer in range(layers)
        for head in range(heads)
    ]
    return places + [(heads + 0.5, layer, structure(layer, None), bool(ticket.ffns[layer])) for layer in range(layers)]


def structure(layer: int, head: int | None) -> str:
    """Return what a head, or a layer's FFN, is called."""
    return f"layer {layer}, FFN" if head is None else f"layer {layer}, head {head}"


def _shade(kept: int, tasks: int) -> float:
    # What some keep stays pale enough for dark numbers on it, and well apart from what all keep.
    return 1.0 if kept == tasks else 0.0 if kept == 0 else 0.2 + 0.4 * (kept - 1) / max(tasks - 2, 1)
