"""Tickets as drawings: which heads and FFNs are kept, or how many tasks keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from supertickets.tickets import Ticket

Cell = tuple[float, str, int]
"""A head or an FFN: its shade from 0 (gone) to 1, what it says, how many tasks keep it."""


@dataclass(frozen=True)
class StructureMap:
    """A row a layer, first on top; a cell a head, the FFN last. `label` names it where the page does not."""

    name: str
    text: str
    layers: Sequence[Sequence[Cell]]
    label: str
    chosen: bool = False

    @classmethod
    def of(cls, name: str, ticket: Ticket, label: str = "", chosen: bool = False) -> StructureMap:
        """Return the drawing of a ticket."""
        layers = _layers({name: ticket}, lambda keep: "kept" if keep else "removed")
        return cls(name, in_words(ticket), layers, label or name, chosen)

    @classmethod
    def shared(cls, name: str, tickets: Mapping[str, Ticket]) -> StructureMap:
        """Return the drawing of how many tasks keep each head and FFN."""

        def who(keep: Sequence[str]) -> str:
            return f"kept by {'all tasks' if len(keep) == len(tickets) else ', '.join(keep) or 'no task'}"

        layers = _layers(tickets, who)
        shades = [shade for cells in layers for shade, *_ in cells]
        of_all, of_none = shades.count(1.0), shades.count(0.0)
        text = (
            f"Of {len(shades)} heads and FFNs, all tasks keep {of_all}, "
            f"some but not all {len(shades) - of_all - of_none}, none {of_none}"
        )
        return cls(name, text, layers, name)


def _layers(tickets: Mapping[str, Ticket], say: Callable[[Sequence[str]], str]) -> list[list[Cell]]:
    """Return each layer's heads and FFN; `say` says who keeps them. Of an FFN's neurons, a cell says how many stay."""
    kept = {task: np.column_stack([ticket.heads, ticket.ffns]) for task, ticket in tickets.items()}
    alone = next(iter(tickets.values()))
    neurons = None if len(tickets) > 1 else alone.neurons
    layers, width = next(iter(kept.values())).shape

    def cell(layer: int, place: int) -> Cell:
        keep = [task for task, stays in kept.items() if stays[layer, place]]
        name = structure(layer, place if place < width - 1 else None)
        if neurons is not None and keep and place == width - 1:
            stay = int(neurons[layer].sum())
            text = f"{name}: {stay} of {neurons.shape[1]} neurons kept"
            return 0.2 + 0.8 * stay / neurons.shape[1], text, len(keep)
        return _shade(len(keep), len(kept)), f"{name}: {say(keep)}", len(keep)

    return [[cell(layer, place) for place in range(width)] for layer in range(layers)]


def in_words(ticket: Ticket) -> str:
    """Say what a ticket keeps."""
    layers, heads = ticket.shape
    gone = ", ".join(str(layer) for layer in range(layers) if not ticket.ffns[layer])
    neurons = ticket.neurons
    ffns = f"{ticket.kept_ffns} of {layers} FFNs" if neurons is None else f"{neurons.sum()} of {neurons.size} neurons"
    return f"{ticket.kept_heads} of {layers * heads} heads and {ffns} are kept" + (
        f"; the FFNs of layers {gone} are removed" if gone else ""
    )


def structure(layer: int, head: int | None) -> str:
    """Return what a head, or a layer's FFN, is called."""
    return f"layer {layer}, FFN" if head is None else f"layer {layer}, head {head}"


def _shade(kept: int, tasks: int) -> float:
    # What some keep stays pale enough for dark numbers on it, and well apart from what all keep.
    return 1.0 if kept == tasks else 0.0 if kept == 0 else 0.2 + 0.4 * (kept - 1) / max(tasks - 2, 1)
