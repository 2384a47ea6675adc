"""One encoder, a ticket for each task: structures as parameters of their own, so that one ticket acts at a time.

Heads (or neurons) of a layer that the same tickets keep always act and learn together: they make a group, and each
group's rows and columns are parameters of their own. While a task's ticket is active, groups outside it are not
computed and get no gradient, hence no update: optimisers pass over what has none, its momentum too (paper, section 4,
Algorithm 1). Nothing has to be masked or put back, and a step costs what its ticket costs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, Kept, Slice, blocks_of, set_width
from supertickets.anatomy.parts import index
from supertickets.surgery.cut import stand_ins
from supertickets.surgery.heads import set_heads
from supertickets.tickets import Ticket

Group = dict[str, list[int]]
"""Structures of a layer that the same tickets keep, by axis and place: `h` and `g` of heads, `n` of neurons."""


def _together(groups: Iterable[Group], axes: Iterable[str]) -> Group:
    """Return groups as one, one behind the other."""
    found: Group = {axis: [] for axis in axes}
    for group in groups:
        for axis, places in found.items():
            places += group[axis]
    return found


class _Joined(nn.Module):
    """A parameter that is joined from groups, which are parameters of their own; only active ones act."""

    def __init__(self, slice: Slice, sizes: dict[str, int], groups: Sequence[Group]) -> None:
        super().__init__()
        self.dim, self.axes, self.sizes, self.groups = slice.dim, slice.axes, sizes, groups
        self.places = [torch.from_numpy(index(self.axes, sizes, group)) for group in groups]
        self.active = list(range(len(groups)))
        self._order: Tensor | None = None
        self._laid_out = cache(self._lay_out)  # a step may activate another ticket, of which there are few

    def right_inverse(self, whole: Tensor) -> list[Tensor]:
        """Return the groups of a whole parameter."""
        return [whole.index_select(self.dim, places.to(whole.device)) for places in self.places]

    def forward(self, *groups: Tensor) -> Tensor:
        """Return the active groups as one parameter."""
        found = [groups[i] for i in self.active]
        if not found:
            return groups[0].detach().narrow(self.dim, 0, 0)
        joined = found[0] if len(found) == 1 else torch.cat(found, self.dim)
        return joined if self._order is None else joined.index_select(self.dim, self._order.to(joined.device))

    def activate(self, active: Sequence[int], whole: bool = False) -> int:
        """Choose the groups that act, one behind the other; `whole`: all in the order that they had at first.

        Returns how long the dimension is.
        """
        self.active = list(active)
        self._order, length = self._laid_out(tuple(active), whole)
        return length

    def _lay_out(self, active: tuple[int, ...], whole: bool) -> tuple[Tensor | None, int]:
        """Return where each place of the dimension is in groups that stand one behind the other, and how many it has.

        The first is None where they are in their order already.
        """
        kept = {} if whole else _together((self.groups[i] for i in active), self.groups[0])
        order = index(self.axes, self.sizes, kept)
        at = np.concatenate([self.places[i].numpy() for i in active]) if active else np.zeros(0, int)
        # Groups are laid out each by itself: of a fused projection the parts have to come together.
        ranks = np.argsort(np.argsort(order))
        return None if np.array_equal(order, at) else torch.from_numpy(np.argsort(at)[ranks]), len(order)


class OptionalPart(nn.Module):
    """One of an FFN's linears, or while it is not active what stands where there is no FFN."""

    def __init__(self, linear: nn.Module, stand_in: nn.Module) -> None:
        super().__init__()
        self.linear, self.stand_in, self.active = linear, stand_in, True

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the linear, or its stand-in, gives."""
        found: Tensor = self._now(inputs)
        return found

    @property
    def weight(self) -> Tensor:
        """The weight of what is active; some models look at its precision."""
        now: Any = self._now
        found: Tensor = now.weight
        return found

    @property
    def _now(self) -> nn.Module:
        return self.linear if self.active else self.stand_in


@dataclass
class _Part:
    """An attention module's or FFN's groups of structures (the dense model's places), and which tickets keep each.

    `joined` is empty if all tickets keep all. `optional` are the linears of an FFN that some ticket is without, by
    their paths, with whether each ticket has it.
    """

    block: Block
    members: list[tuple[bool, ...]]
    groups: list[Group]
    joined: list[tuple[Slice, nn.Module, _Joined]]
    optional: dict[str, OptionalPart]
    has_it: tuple[bool, ...]

    def activate(self, which: int) -> None:
        """Let what a ticket keeps act."""
        for part in self.optional.values():
            part.active = self.has_it[which]
        if self.joined:
            self.join([group for group, members in enumerate(self.members) if members[which]])

    def join(self, active: Sequence[int], whole: bool = False) -> None:
        for slice, module, joined in self.joined:
            set_width(module, slice, joined.activate(active, whole))
        if "h" in self.groups[0]:
            kept = _together((self.groups[group] for group in active), self.groups[0])
            set_heads(self.block, *(sorted(places) if whole else places for places in kept.values()))

    def of_group(self, group: int) -> list[nn.Parameter]:
        """Return the parameters of a group."""
        of_slice = [(module, f"parametrizations.{slice.name}.original{group}") for slice, module, _ in self.joined]
        return [module.get_parameter(name) for module, name in of_slice]

    def outside(self, which: int) -> list[nn.Parameter]:
        """Return the parameters that a ticket does not reach."""
        if not self.has_it[which]:
            return [parameter for part in self.optional.values() for parameter in part.linear.parameters()]
        if not self.joined:
            return []
        gone = [group for group, members in enumerate(self.members) if not members[which]]
        return [parameter for group in gone for parameter in self.of_group(group)]

    def merge(self) -> None:
        """Give the layer its plain modules back."""
        if self.joined:
            self.join(range(len(self.members)), whole=True)
        for slice, module, _ in self.joined:
            remove_parametrizations(module, slice.name, leave_parametrized=True)
            for name in ("weight", "bias"):  # in their usual order again
                if name in module._parameters:
                    module._parameters[name] = module._parameters.pop(name)
        for path, part in self.optional.items():
            self.block.layer.set_submodule(path, part.linear)


class SharedStructures:
    """The heads, FFNs and neurons of an encoder that several tickets share; `model` must be cut to the tickets' union.

    Parts that all tickets keep stay as they are. One ticket is active at a time; `merge` ends the sharing.
    """

    def __init__(self, model: PreTrainedModel, tickets: Sequence[Ticket]) -> None:
        self._tickets = list(dict.fromkeys(tickets))
        every = zip(*(blocks_of(model, ticket) for ticket in self._tickets), strict=True)
        self._parts = [_shared([kept for _, kept in of_tickets], of_tickets[0][0]) for of_tickets in every]
        self._active: Ticket | None = None

    def activate(self, ticket: Ticket) -> None:
        """Let only a ticket's structures act; raises ValueError for one that is not among the shared."""
        if ticket == self._active:
            return
        which = self._tickets.index(ticket)
        for part in self._parts:
            part.activate(which)
        self._active = ticket

    def outside(self, ticket: Ticket) -> list[nn.Parameter]:
        """Return the parameters that a ticket does not reach."""
        which = self._tickets.index(ticket)
        return [parameter for part in self._parts for parameter in part.outside(which)]

    def grouped(self) -> list[nn.Parameter]:
        """Return the parameters of heads and neurons that not every ticket keeps."""
        groups = [(part, group) for part in self._parts if part.joined for group in range(len(part.members))]
        return [parameter for part, group in groups for parameter in part.of_group(group)]

    def merge(self) -> None:
        """Give the model its plain layers back: that of the union, trained."""
        for part in self._parts:
            part.merge()
        self._parts = []


def _shared(kept: Sequence[Kept | None], block: Block) -> _Part:
    """Return an attention module or FFN with a parameter for each group; `kept` is what tickets keep of its axes."""
    there = [one for one in kept if one is not None]
    made = _Part(block, [], [], [], {}, tuple(one is not None for one in kept))
    if not there:
        return made
    union = {axis: np.flatnonzero(reduce(or_, [one[axis] for one in there])) for axis in there[0]}
    groups: dict[tuple[bool, ...], Group] = {}
    for axis, places in union.items():
        for place in places.tolist():
            members = tuple(one is not None and bool(one[axis][place]) for one in kept)
            groups.setdefault(members, {other: [] for other in union})[axis].append(place)
    made.members, made.groups = list(groups), list(groups.values())
    if any(members != made.has_it for members in groups):  # otherwise those that have it keep all of it
        sizes = block.shape.sizes | {axis: len(places) for axis, places in union.items()}
        here = [{axis: np.searchsorted(union[axis], one[axis]).tolist() for axis in one} for one in made.groups]
        for slice in list(block.slices()):
            module = block.module(slice.module)
            made.joined.append((slice, module, _Joined(slice, sizes, here)))
            register_parametrization(module, slice.name, made.joined[-1][2], unsafe=True)
    if not all(made.has_it):
        made.optional = {path: OptionalPart(block.module(path), one) for path, one in stand_ins(block).items()}
        for path, part in made.optional.items():
            block.layer.set_submodule(path, part)
    return made
