"""Cutting a ticket out of a model: smaller linears, FFNs gone. What remains is what the gated model computes.

For a head: its rows of query, key and value and its columns of the output projection go; that projection's bias stays
(the gate acts before it). For an FFN: both linears go, biases too; the residual path and the LayerNorm stay.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, blocks_of, shape_of
from supertickets.errors import TicketError
from supertickets.surgery.saving import mark_cut
from supertickets.tickets import Ticket


class NoFFNIn(nn.Module):
    """Stands where a removed FFN's first linear was: hands one column on, so that the activation has little to do."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the first column of `hidden` `[..., hidden]`; nothing reads its values."""
        return hidden[..., :1]


class NoFFNOut(nn.Module):
    """Stands where a removed FFN's second linear was: adds nothing to the residual path."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, inner: Tensor) -> Tensor:
        """Return zeros `[..., hidden]`."""
        return inner.new_zeros(*inner.shape[:-1], self.hidden)


class BiasAlone(nn.Linear):
    """The output projection of a layer without heads: its bias is all that is left.

    It does not read its input, so that exporters leave the empty attention before it out of their graphs (ONNX Runtime
    refuses matrices without columns).
    """

    def forward(self, context: Tensor) -> Tensor:
        """Return the bias (zeros if there is none) `[..., hidden]` for a context `[..., 0]`."""
        shape = (*context.shape[:-1], self.out_features)
        return context.new_zeros(shape) if self.bias is None else self.bias.to(context.dtype).expand(shape)


def _narrow(linear: nn.Module, kept: Tensor, dim: int) -> nn.Linear:
    """Return `linear` with only the `kept` outputs (dim 0) or inputs (dim 1); works on the meta device too."""
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().index_select(dim, kept.to(linear.weight.device))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a layer may lose all its heads; there is nothing to initialise then
        kind = nn.Linear if weight.shape[1] else BiasAlone
        smaller = kind(weight.shape[1], weight.shape[0], bias=linear.bias is not None)
    smaller.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        bias = linear.bias.detach()
        if dim == 0:
            bias = bias.index_select(0, kept.to(bias.device))
        smaller.bias = nn.Parameter(bias.clone(), requires_grad=linear.bias.requires_grad)
    return smaller.train(linear.training)


def _cut_heads(block: Block, kept: NDArray[np.bool_], head_size: int) -> None:
    # from_numpy: transformers calls this with the meta device as torch's default, and these are real indices.
    columns = torch.from_numpy(np.flatnonzero(np.repeat(kept, head_size)))
    for role in ("query", "key", "value"):
        block.replace(role, _narrow(block.part(role), columns, 0))
    block.replace("attention_output", _narrow(block.part("attention_output"), columns, 1))
    block.set_heads(int(kept.sum()), head_size)


def cut(model: PreTrainedModel, ticket: Ticket) -> PreTrainedModel:
    """Cut everything outside `ticket` out of a dense `model`, in place, and return it.

    Parameters that stay keep their values, bit for bit. `save_pretrained` of the model writes a folder that reloads
    with `import supertickets`. Raises TicketError if the model is of another shape or was cut before.
    """
    check_fits(model, ticket)
    shape = shape_of(model)
    for block, heads, ffn in zip(blocks_of(model), ticket.heads, ticket.ffns, strict=True):
        if not heads.all():
            _cut_heads(block, heads, shape.head_size)
        if not ffn:
            block.replace("ffn_in", NoFFNIn())
            block.replace("ffn_out", NoFFNOut(shape.hidden))
    mark_cut(model, ticket)
    return model


def check_fits(model: PreTrainedModel, ticket: Ticket) -> None:
    """Raise TicketError unless `model` is dense and has the layers and heads that `ticket` is for."""
    shape = shape_of(model)
    if ticket.shape != (shape.layers, shape.heads):
        raise TicketError(
            f"the ticket is for {ticket.shape[0]} layers x {ticket.shape[1]} heads, "
            f"the model has {shape.layers} x {shape.heads}: use the model the ticket was drawn from."
        )
    for index, block in enumerate(blocks_of(model)):
        query, ffn = block.part("query"), block.part("ffn_in")
        if isinstance(ffn, NoFFNIn) or getattr(query, "out_features", None) != shape.heads * shape.head_size:
            raise TicketError(f"the model is already cut (layer {index}): a ticket is cut out of a dense model.")
