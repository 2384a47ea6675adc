"""Which numbers of a model belong to which head and which FFN, also in a model that was cut."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, blocks_of, shape_of
from supertickets.tickets import Ticket


def sum_by_structure(
    model: PreTrainedModel, ticket: Ticket, value: Callable[[nn.Parameter], Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of `value` over the weights of each head `[layers, heads]` and each FFN `[layers]`.

    `value` gives a tensor of its parameter's shape. A head has its rows of query, key and value, biases too, and its
    columns of the output projection (whose bias belongs to no head). `ticket` is what the model was cut to; what is
    gone sums to 0.
    """
    heads, ffns = np.zeros(ticket.heads.shape), np.zeros(ticket.ffns.shape)
    head_size = shape_of(model).head_size
    for layer, block in enumerate(blocks_of(model)):
        heads[layer, ticket.heads[layer]] = _heads(block, head_size, value)
        if ticket.ffns[layer]:
            linears = (block.part("ffn_in"), block.part("ffn_out"))
            ffns[layer] = sum(float(value(p).sum()) for linear in linears for p in linear.parameters())
    return heads, ffns


def _heads(block: Block, head_size: int, value: Callable[[nn.Parameter], Tensor]) -> NDArray[np.float64]:
    """Return the sums of one layer's heads, `[kept heads]`."""
    rows = [
        value(parameter).reshape(len(parameter), -1).sum(dim=1)
        for role in ("query", "key", "value")
        for parameter in block.part(role).parameters()
    ]
    weight = block.part("attention_output").get_parameter("weight")
    by_unit = torch.stack([*rows, value(weight).sum(dim=0)]).double().sum(dim=0)
    return by_unit.reshape(-1, head_size).sum(dim=1).cpu().numpy()
