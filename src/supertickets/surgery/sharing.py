"""One encoder, a ticket for each task: heads and FFNs as parameters of their own, so that one ticket acts at a time.

Heads of a layer that the same tickets keep always act and learn together: they make a group, and each group's rows and
columns are parameters of their own. While a task's ticket is active, groups outside it are not computed and get no
gradient, hence no update: optimisers pass over what has none, its momentum too (paper, section 4, Algorithm 1). Nothing
has to be masked or put back, and a step costs what its ticket costs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, Slice, attentions_of, ffns_of
from supertickets.anatomy.parts import index
from supertickets.surgery.cut import stand_ins
from supertickets.surgery.heads import set_heads
from supertickets.tickets import Ticket

Kept = dict[str, list[int]]
"""Query heads (`h`) and key/value heads (`g`), by their places."""


def _together(groups: Iterable[Kept]) -> Kept:
    """Return groups as one, one behind the other."""
    found: Kept = {"h": [], "g": []}
    for group in groups:
        for axis, places in found.items():
            places += group[axis]
    return found


class _Joined(nn.Module):
    """A parameter that is joined from groups of heads, which are parameters of their own; only active ones act."""

    def __init__(self, slice: Slice, sizes: dict[str, int], groups: Sequence[Kept]) -> None:
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
        """Choose the groups that act, one behind the other; `whole`: all heads in the order that they had at first.

        Returns how long the dimension is.
        """
        self.active = list(active)
        self._order, length = self._laid_out(tuple(active), whole)
        return length

    def _lay_out(self, active: tuple[int, ...], whole: bool) -> tuple[Tensor | None, int]:
        """Return where each place of the dimension is in groups that stand one behind the other, and how many it has.

        The first is None where they are in their order already.
        """
        kept = {} if whole else _together(self.groups[i] for i in active)
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
        found: Tensor = self.linear(inputs) if self.active else self.stand_in(inputs)
        return found


@dataclass
class _Heads:
    """A layer's groups of heads (the dense model's), and which tickets keep each; `joined` is empty if all keep all."""

    block: Block
    members: list[tuple[bool, ...]]
    groups: list[Kept]
    joined: list[tuple[Slice, _Joined]]

    def activate(self, active: Sequence[int], whole: bool = False) -> None:
        for slice, joined in self.joined:
            self.block.set_width(slice, joined.activate(active, whole))
        kept = _together(self.groups[group] for group in active)
        set_heads(self.block, *(sorted(places) if whole else places for places in kept.values()))


@dataclass
class _FFN:
    """A layer's FFN, with which tickets keep it; `parts` are empty if all do, or none."""

    block: Block
    members: tuple[bool, ...]
    parts: dict[str, OptionalPart]


class SharedStructures:
    """The heads and FFNs of an encoder that several tickets share; `model` must be cut to the tickets' union.

    Parts that all tickets keep stay as they are. One ticket is active at a time; `merge` ends the sharing.
    """

    def __init__(self, model: PreTrainedModel, tickets: Sequence[Ticket]) -> None:
        self._tickets = list(dict.fromkeys(tickets))
        self._heads = [self._shared_heads(block, layer) for layer, block in enumerate(attentions_of(model))]
        self._ffns = [self._shared_ffn(block, layer) for layer, block in enumerate(ffns_of(model))]
        self._active: Ticket | None = None

    def _shared_heads(self, block: Block, layer: int) -> _Heads:
        kept = [block.shape.kept(ticket.heads[layer]) for ticket in self._tickets]
        union = {axis: np.flatnonzero(reduce(or_, [one[axis] for one in kept])) for axis in ("h", "g")}
        groups: dict[tuple[bool, ...], Kept] = {}
        for axis, places in union.items():
            for place in places.tolist():
                members = tuple(bool(one[axis][place]) for one in kept)
                groups.setdefault(members, {"h": [], "g": []})[axis].append(place)
        made = _Heads(block, list(groups), list(groups.values()), [])
        if any(not all(members) for members in groups):
            sizes = block.shape.sizes | {axis: len(places) for axis, places in union.items()}
            here = [{axis: np.searchsorted(union[axis], one[axis]).tolist() for axis in one} for one in made.groups]
            for slice in list(block.slices()):
                made.joined.append((slice, _Joined(slice, sizes, here)))
                register_parametrization(block.module(slice.module), slice.name, made.joined[-1][1], unsafe=True)
        return made

    def _shared_ffn(self, block: Block, layer: int) -> _FFN:
        made = _FFN(block, tuple(bool(t.ffns[layer]) for t in self._tickets), {})
        if any(made.members) and not all(made.members):
            made.parts = {path: OptionalPart(block.module(path), one) for path, one in stand_ins(block).items()}
            for path, part in made.parts.items():
                block.layer.set_submodule(path, part)
        return made

    def activate(self, ticket: Ticket) -> None:
        """Let only a ticket's heads and FFNs act; raises ValueError for one that is not among the shared."""
        if ticket == self._active:
            return
        which = self._tickets.index(ticket)
        for heads in self._heads:
            if heads.joined:
                heads.activate([group for group, members in enumerate(heads.members) if members[which]])
        for ffn in self._ffns:
            for part in ffn.parts.values():
                part.active = ffn.members[which]
        self._active = ticket

    def outside(self, ticket: Ticket) -> list[nn.Parameter]:
        """Return the parameters that a ticket does not reach."""
        which = self._tickets.index(ticket)
        found = [
            parameter
            for heads in self._heads
            for group, members in enumerate(heads.members)
            if not members[which]
            for parameter in self._group(heads, group)
        ]
        gone = [ffn for ffn in self._ffns if not ffn.members[which]]
        return found + [p for ffn in gone for part in ffn.parts.values() for p in part.linear.parameters()]

    def heads(self) -> list[nn.Parameter]:
        """Return the parameters of heads that not every ticket keeps."""
        groups = [(heads, group) for heads in self._heads for group in range(len(heads.members))]
        return [parameter for heads, group in groups for parameter in self._group(heads, group)]

    @staticmethod
    def _group(heads: _Heads, group: int) -> list[nn.Parameter]:
        names = [f"{slice.module}.parametrizations.{slice.name}.original{group}" for slice, _ in heads.joined]
        return [heads.block.layer.get_parameter(name) for name in names]

    def merge(self) -> None:
        """Give the model its plain layers back: that of the union, trained."""
        for heads in self._heads:
            if heads.joined:
                heads.activate(range(len(heads.members)), whole=True)
            for slice, _ in heads.joined:
                module = heads.block.module(slice.module)
                remove_parametrizations(module, slice.name, leave_parametrized=True)
                for name in ("weight", "bias"):  # in their usual order again
                    if name in module._parameters:
                        module._parameters[name] = module._parameters.pop(name)
        for ffn in self._ffns:
            for path, part in ffn.parts.items():
                ffn.block.layer.set_submodule(path, part.linear)
        self._heads, self._ffns = [], []
