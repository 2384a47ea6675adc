"""Which numbers of a model belong to which head and which FFN, also in a model that was cut."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, attentions_of, ffns_of
from supertickets.anatomy.parts import index
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
    for layer, block in enumerate(attentions_of(model)):
        kept = ticket.heads[layer]
        heads[layer, kept] = _heads(block, int(kept.sum()), value)
    for layer, block in enumerate(ffns_of(model)):
        if ticket.ffns[layer]:
            modules = [block.module(path) for path in block.modules]
            ffns[layer] = sum(float(value(p).sum()) for module in modules for p in module.parameters())
    return heads, ffns


def _heads(block: Block, kept: int, value: Callable[[nn.Parameter], Tensor]) -> NDArray[np.float64]:
    """Return the sums of one layer's heads, `[kept heads]`."""
    sizes, found = {**block.shape.sizes, "h": kept}, list[Tensor]()
    for slice in block.slices():
        of_place = value(block.parameter(slice)).movedim(slice.dim, 0)
        of_place = of_place.reshape(len(of_place), -1).sum(dim=1)
        places = [index(slice.axes, sizes, {"h": [head]}) for head in range(kept)]
        by_head = of_place[torch.from_numpy(np.array(places, int).reshape(kept, -1)).to(of_place.device)]
        found += by_head.reshape(kept, -1, block.shape.head_size).unbind(1)
    return torch.stack(found).double().sum(dim=0).sum(dim=1).cpu().numpy()
