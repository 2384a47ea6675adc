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
    """A row an attention module, first on top; a cell a head, the FFN that comes next last (None: another module does).

    `rows` are what the rows are called, `label` names the map where the page does not.
    """

    name: str
    text: str
    layers: Sequence[Sequence[Cell | None]]
    rows: Sequence[str]
    label: str
    chosen: bool = False

    @classmethod
    def of(cls, name: str, ticket: Ticket, label: str = "", chosen: bool = False) -> StructureMap:
        """Return the drawing of a ticket."""
        layers = _layers({name: ticket}, lambda keep: "kept" if keep else "removed")
        return cls(name, in_words(ticket), layers, _rows(ticket), label or name, chosen)

    @classmethod
    def shared(cls, name: str, tickets: Mapping[str, Ticket]) -> StructureMap:
        """Return the drawing of how many tasks keep each head and FFN."""

        def who(keep: Sequence[str]) -> str:
            return f"kept by {'all tasks' if len(keep) == len(tickets) else ', '.join(keep) or 'no task'}"

        layers = _layers(tickets, who)
        shades = [cell[0] for cells in layers for cell in cells if cell is not None]
        of_all, of_none = shades.count(1.0), shades.count(0.0)
        text = (
            f"Of {len(shades)} heads and FFNs, all tasks keep {of_all}, "
            f"some but not all {len(shades) - of_all - of_none}, none {of_none}"
        )
        return cls(name, text, layers, _rows(next(iter(tickets.values()))), name)


def _rows(ticket: Ticket) -> list[str]:
    return [str(one.layer) if one.name != "cross-attention" else "+" for one in ticket.modules]


def _layers(tickets: Mapping[str, Ticket], say: Callable[[Sequence[str]], str]) -> list[list[Cell | None]]:
    """Return each row's heads and FFN; `say` says who keeps them. Of an FFN's neurons, a cell says how many stay."""
    first = next(iter(tickets.values()))
    neurons = None if len(tickets) > 1 else first.neurons

    def cell(name: str, stays: Mapping[str, np.bool_]) -> Cell:
        keep = [task for task, kept in stays.items() if kept]
        return _shade(len(keep), len(stays)), f"{name}: {say(keep)}", len(keep)

    def ffn(layer: int) -> Cell:
        name = structure(layer)
        if neurons is None or not neurons[layer].any():
            return cell(name, {task: ticket.ffns[layer] for task, ticket in tickets.items()})
        stay = int(neurons[layer].sum())
        return 0.2 + 0.8 * stay / neurons.shape[1], f"{name}: {stay} of {neurons.shape[1]} neurons kept", 1

    found = list[list[Cell | None]]()
    for row, (layer, name, before_ffn) in enumerate(first.modules):
        part, kept = f"{name} head".strip(), {task: ticket.heads[row] for task, ticket in tickets.items()}
        heads = [
            cell(structure(layer, part, head), {task: stays[head] for task, stays in kept.items()})
            for head in range(first.heads.shape[1])
        ]
        found.append([*heads, ffn(layer) if before_ffn else None])
    return found


def in_words(ticket: Ticket) -> str:
    """Say what a ticket keeps."""
    layers = len(ticket.ffns)
    gone = ", ".join(str(layer) for layer in range(layers) if not ticket.ffns[layer])
    neurons = ticket.neurons
    ffns = f"{ticket.kept_ffns} of {layers} FFNs" if neurons is None else f"{neurons.sum()} of {neurons.size} neurons"
    return f"{ticket.kept_heads} of {ticket.heads.size} heads and {ffns} are kept" + (
        f"; the FFNs of layers {gone} are removed" if gone else ""
    )


def structure(layer: int, part: str = "FFN", head: int = -1) -> str:
    """Return what a head, or a layer's FFN, is called."""
    return f"layer {layer}, {part}" if part == "FFN" else f"layer {layer}, {part} {head}"


def _shade(kept: int, tasks: int) -> float:
    # What some keep stays pale enough for dark numbers on it, and well apart from what all keep.
    return 1.0 if kept == tasks else 0.0 if kept == 0 else 0.2 + 0.4 * (kept - 1) / max(tasks - 2, 1)
