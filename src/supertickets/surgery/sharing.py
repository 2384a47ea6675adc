"""One encoder, a ticket for each task: heads and FFNs as parameters of their own, so that one ticket acts at a time.

Heads of a layer that the same tickets keep always act and learn together: they make a group, and each group's rows and
columns are parameters of their own. While a task's ticket is active, groups outside it are not computed and get no
gradient, hence no update: optimisers pass over what has none, its momentum too (paper, section 4, Algorithm 1). Nothing
has to be masked or put back, and a step costs what its ticket costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, blocks_of, shape_of
from supertickets.surgery.cut import NoFFNIn, NoFFNOut
from supertickets.tickets import Ticket

_HEAD_ROLES = {"query": 0, "key": 0, "value": 0, "attention_output": 1}
"""The linears that heads are parts of, with the dimension that counts them."""


class GroupedLinear(nn.Module):
    """A linear whose outputs (dim 0) or inputs (dim 1) are in groups; only the active ones act."""

    def __init__(self, linear: nn.Module, groups: Sequence[Tensor], dim: int) -> None:
        super().__init__()
        assert isinstance(linear, nn.Linear)
        self.dim, self.groups, self.active = dim, groups, list(range(len(groups)))
        weight, bias = linear.weight.detach(), linear.bias
        self.weights = nn.ParameterList(weight.index_select(dim, group.to(weight.device)) for group in groups)
        by_group = bias is not None and dim == 0
        self.biases = nn.ParameterList(
            bias.detach().index_select(0, group.to(bias.device)) for group in groups if by_group
        )
        self.bias = None if bias is None or by_group else bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the linear map of `inputs` `[..., active inputs]`, `[..., active outputs]`."""
        bias = self._joined(self.biases, 0) if len(self.biases) else self.bias
        return nn.functional.linear(inputs, self._joined(self.weights, self.dim), bias)

    def _joined(self, parts: nn.ParameterList, dim: int) -> Tensor:
        found = [parts[i] for i in self.active]
        if not found:
            return parts[0].detach().narrow(dim, 0, 0)
        return found[0] if len(found) == 1 else torch.cat(found, dim)

    def plain(self) -> nn.Linear:
        """Return the linear with all its groups, outputs and inputs in their first order."""
        order = torch.cat(list(self.groups)).argsort()
        weight = torch.cat(list(self.weights), self.dim).detach()
        weight = weight.index_select(self.dim, order.to(weight.device)).contiguous()
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta", bias=False)
        linear.weight = nn.Parameter(weight)
        if len(self.biases):
            bias = torch.cat(list(self.biases)).detach()
            linear.bias = nn.Parameter(bias.index_select(0, order.to(bias.device)))
        elif self.bias is not None:
            linear.bias = self.bias
        return linear.train(self.training)


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
class _Layer:
    """One layer's groups of heads and its FFN, with which tickets keep each; `heads`, `ffn` are empty if all do."""

    block: Block
    members: list[tuple[bool, ...]]
    sizes: list[int]
    heads: list[GroupedLinear]
    ffn: list[OptionalPart]
    ffn_members: tuple[bool, ...]


class SharedStructures:
    """The heads and FFNs of an encoder that several tickets share; `model` must be cut to the tickets' union.

    Parts that all tickets keep stay as they are. One ticket is active at a time; `merge` ends the sharing.
    """

    def __init__(self, model: PreTrainedModel, tickets: Sequence[Ticket]) -> None:
        self._tickets = list(dict.fromkeys(tickets))
        self._head_size = shape_of(model).head_size
        union = reduce(or_, tickets)
        self._layers = [
            self._shared(block, layer, union.heads[layer], bool(union.ffns[layer]))
            for layer, block in enumerate(blocks_of(model))
        ]
        self._active: Ticket | None = None

    def _shared(self, block: Block, layer: int, heads: NDArray[np.bool_], ffn: bool) -> _Layer:
        kept = np.flatnonzero(heads)
        groups: dict[tuple[bool, ...], list[int]] = {}
        for place, head in enumerate(kept):
            groups.setdefault(tuple(bool(t.heads[layer, head]) for t in self._tickets), []).append(place)
        made = _Layer(block, list(groups), [len(group) for group in groups.values()], [], [], ())
        if any(not all(members) for members in groups):
            size = self._head_size
            units = [(torch.tensor(group)[:, None] * size + torch.arange(size)).flatten() for group in groups.values()]
            for role, dim in _HEAD_ROLES.items():
                made.heads.append(GroupedLinear(block.part(role), units, dim))
                block.replace(role, made.heads[-1])
        made.ffn_members = tuple(bool(t.ffns[layer]) for t in self._tickets)
        if ffn and not all(made.ffn_members):
            out = block.part("ffn_out")
            for role, stand_in in (("ffn_in", NoFFNIn()), ("ffn_out", NoFFNOut(_outputs(out)))):
                made.ffn.append(OptionalPart(block.part(role), stand_in))
                block.replace(role, made.ffn[-1])
        return made

    def activate(self, ticket: Ticket) -> None:
        """Let only a ticket's heads and FFNs act; raises ValueError for one that is not among the shared."""
        if ticket == self._active:
            return
        which = self._tickets.index(ticket)
        for layer in self._layers:
            if layer.heads:
                active = [group for group, members in enumerate(layer.members) if members[which]]
                for linear in layer.heads:
                    linear.active = active
                layer.block.set_heads(sum(layer.sizes[group] for group in active), self._head_size)
            for part in layer.ffn:
                part.active = layer.ffn_members[which]
        self._active = ticket

    def outside(self, ticket: Ticket) -> list[nn.Parameter]:
        """Return the parameters that a ticket does not reach."""
        which = self._tickets.index(ticket)
        found: list[nn.Parameter] = []
        for layer in self._layers:
            for group, members in enumerate(layer.members):
                if not members[which]:
                    found += [part[group] for linear in layer.heads for part in (linear.weights, linear.biases) if part]
            if layer.ffn and not layer.ffn_members[which]:
                found += [parameter for part in layer.ffn for parameter in part.parameters()]
        return found

    def heads(self) -> list[nn.Parameter]:
        """Return the parameters of heads that not every ticket keeps."""
        grouped = [linear for layer in self._layers for linear in layer.heads]
        return [parameter for linear in grouped for part in (linear.weights, linear.biases) for parameter in part]

    def merge(self) -> None:
        """Give the model its plain layers back: that of the union, trained."""
        for layer in self._layers:
            for role, linear in zip(_HEAD_ROLES, layer.heads, strict=False):
                layer.block.replace(role, linear.plain())
            if layer.heads:
                layer.block.set_heads(sum(layer.sizes), self._head_size)
            for role, part in zip(("ffn_in", "ffn_out"), layer.ffn, strict=False):
                layer.block.replace(role, part.linear)
        self._layers = []


def _outputs(linear: nn.Module) -> int:
    assert isinstance(linear, nn.Linear)
    return linear.out_features
