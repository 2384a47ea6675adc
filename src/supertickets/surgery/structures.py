"""Which numbers of a model belong to which head, FFN and neuron, also in a model that was cut."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, attentions_of, ffns_of
from supertickets.anatomy.parts import index
from supertickets.tickets.kinds import Structure


def sum_by_structure(
    model: PreTrainedModel, kept: Mapping[Structure, NDArray[np.bool_]], value: Callable[[nn.Parameter], Tensor]
) -> dict[Structure, NDArray[np.float64]]:
    """Return the sum of `value` over the weights of each head `[layers, heads]`, FFN `[layers]`, neuron, as in `kept`.

    `value` gives a tensor of its parameter's shape. A head has its rows of query, key and value, biases too, and its
    columns of the output projection (whose bias belongs to no head); a neuron likewise. `kept` is what the model was
    cut to; what is gone sums to 0.
    """
    found: dict[Structure, NDArray[np.float64]] = {kind: np.zeros(stays.shape) for kind, stays in kept.items()}
    for layer, block in enumerate(attentions_of(model)):
        stays = kept["heads"][layer]
        found["heads"][layer, stays] = _by_place(block, "h", int(stays.sum()), block.shape.head_size, value)
    for layer, block in enumerate(ffns_of(model)):
        if kept["ffns"][layer]:
            modules = [block.module(path) for path in block.modules]
            found["ffns"][layer] = sum(float(value(p).sum()) for module in modules for p in module.parameters())
            if "neurons" in kept:
                stays = kept["neurons"][layer]
                found["neurons"][layer, stays] = _by_place(block, "n", int(stays.sum()), 1, value)
    return found


def _by_place(block: Block, axis: str, kept: int, width: int, value: Callable[[Any], Tensor]) -> NDArray[np.float64]:
    """Return the sums of one layer's structures along an axis, `[kept]`; each is `width` places of a dimension."""
    sizes, found = {**block.shape.sizes, axis: kept}, list[Tensor]()
    of_axes = partial(_places, sizes=tuple(sizes.items()), axis=axis, kept=kept)
    for slice in block.slices():
        of_place = value(block.parameter(slice)).movedim(slice.dim, 0)
        of_place = of_place.reshape(len(of_place), -1).sum(dim=1)
        by_structure = of_place[torch.from_numpy(of_axes(slice.axes)).to(of_place.device)]
        found += by_structure.reshape(kept, -1, width).unbind(1)
    return torch.stack(found).double().sum(dim=0).sum(dim=1).cpu().numpy()


@cache
def _places(axes: str, sizes: tuple[tuple[str, int], ...], axis: str, kept: int) -> NDArray[np.int64]:
    """Return the places of each structure along an axis, `[kept, places]`; a batch's scores ask for them again."""
    return np.array([index(axes, dict(sizes), {axis: [one]}) for one in range(kept)], int).reshape(kept, -1)
