"""Cutting a ticket out of a model: smaller linears, FFNs gone. What remains is what the gated model computes.

For a head: its rows of query, key and value and its columns of the output projection go; that projection's bias stays
(the gate acts before it). For an FFN: both linears go, biases too; the residual path and the LayerNorm stay. For a
neuron: its row (or rows) of the first linear and its column of the second.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, Kept, attentions_of, blocks_of, ffns_of, shape_of
from supertickets.anatomy.cost import unlike
from supertickets.anatomy.parts import size_of
from supertickets.errors import TicketError
from supertickets.surgery.heads import BiasAlone, set_heads
from supertickets.surgery.saving import mark_cut
from supertickets.tickets import Ticket


class _NoFFN(nn.Module):
    """What stands where a linear of a removed FFN was; some models look at a linear's weight and bias."""

    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(0), persistent=False)


class NoFFNIn(_NoFFN):
    """Stands where a removed FFN's first linear was: hands few columns on, so that the activation has little to do."""

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the first columns of `hidden` `[..., hidden]`; nothing reads their values."""
        return hidden[..., : self.columns]


class NoFFNOut(_NoFFN):
    """Stands where a removed FFN's second linear was: adds nothing to the residual path."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, inner: Tensor) -> Tensor:
        """Return zeros `[..., hidden]`."""
        return inner.new_zeros(*inner.shape[:-1], self.hidden)


def narrow(block: Block, kept: Kept) -> None:
    """Leave of a block's parameters what is kept of its axes, in place; works on the meta device too."""
    for slice in list(block.slices()):
        parameter = block.parameter(slice)
        places = block.index(slice.axes, kept)
        if len(places) < parameter.shape[slice.dim]:
            # from_numpy: transformers calls this with the meta device as torch's default, and these are real indices.
            chosen = torch.from_numpy(places).to(parameter.device)
            smaller = parameter.detach().index_select(slice.dim, chosen)
            block.resize(slice, nn.Parameter(smaller, requires_grad=parameter.requires_grad))


def _cut_heads(block: Block, heads: NDArray[np.bool_]) -> None:
    if not heads.any():
        block.layer.set_submodule(block.part.output, BiasAlone.of(block.module(block.part.output)))
    set_heads(block, np.flatnonzero(heads).tolist())


def stand_ins(block: Block) -> dict[str, nn.Module]:
    """Return what stands in the places of an FFN's modules when it is gone, by their paths."""
    into = {part.path: NoFFNIn(size_of(part.axes, {"n": 1})) for part in block.part.parts if part.when(block.config)}
    return {**into, block.part.output: NoFFNOut(block.shape.hidden)}


def cut(model: PreTrainedModel, ticket: Ticket) -> PreTrainedModel:
    """Cut everything outside `ticket` out of a dense `model`, in place, and return it.

    Parameters that stay keep their values, bit for bit. `save_pretrained` of the model writes a folder that reloads
    with `import supertickets`. Raises TicketError if the model is of another shape or was cut before.
    """
    check_fits(model, ticket)
    for block, kept in blocks_of(model, ticket):
        if kept is None:
            for path, stand_in in stand_ins(block).items():
                block.layer.set_submodule(path, stand_in)
        elif not all(stays.all() for stays in kept.values()):
            narrow(block, kept)
            if "h" in kept:
                _cut_heads(block, kept["h"])
    mark_cut(model, ticket)
    return model


def check_fits(model: PreTrainedModel, ticket: Ticket) -> None:
    """Raise TicketError unless `model` is dense and has the layers and heads that `ticket` is for."""
    if (differs := unlike(shape_of(model), ticket)) is not None:
        raise TicketError(
            f"the ticket is for {differs[0]}, the model has {differs[1]}: use the model the ticket was drawn from."
        )
    marked = getattr(model.config, "quantization_config", None) is not None
    for blocks in (attentions_of(model), ffns_of(model)):
        for place, block in enumerate(blocks):
            gone = isinstance(block.module(block.part.output), NoFFNOut)
            found = None if gone else _unlike_dense(block)
            if gone or (marked and found):
                raise TicketError(f"the model is already cut (layer {place}): a ticket is cut out of a dense model.")
            if found:
                family = model.config.model_type
                raise TicketError(f"layer {place}: {found} by the data of the model family {family!r}.")


def _unlike_dense(block: Block) -> str | None:
    """Return the first parameter whose size is not that of the dense layer, and what is expected."""
    for one in block.slices():
        shape, dense = block.parameter(one).shape, size_of(one.axes, block.shape.sizes)
        if (size := shape[one.dim]) != dense:
            numbers = "numbers" if len(shape) == 1 else ("rows", "columns")[one.dim]
            return f"{one.module}.{one.name} has {size} {numbers}, expected {dense} ({one.axes!r})"
    return None
