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
    columns of the output projection (whose bias belongs to no head); a neuron likewise. A key/value head that several
    heads share counts for each of them. `kept` is what the model was cut to; what is gone sums to 0.
    """
    found: dict[Structure, NDArray[np.float64]] = {kind: np.zeros(stays.shape) for kind, stays in kept.items()}
    for layer, block in enumerate(attentions_of(model)):
        stays = kept["heads"][layer]
        if not stays.any():
            continue
        groups = block.shape.kept(stays)["g"]
        # The place of each head among those that are left, and that of its key/value head.
        of_head = (np.cumsum(groups) - 1)[np.flatnonzero(stays) * block.shape.kv_heads // block.shape.heads]
        places = {"h": tuple(range(int(stays.sum()))), "g": tuple(of_head.tolist())}
        found["heads"][layer, stays] = _by_place(block, places, {"h": int(stays.sum()), "g": int(groups.sum())}, value)
    for layer, block in enumerate(ffns_of(model)):
        if kept["ffns"][layer]:
            modules = [block.module(path) for path in block.modules]
            found["ffns"][layer] = sum(float(value(p).sum()) for module in modules for p in module.parameters())
            if "neurons" in kept:
                stays = kept["neurons"][layer]
                count = int(stays.sum())
                found["neurons"][layer, stays] = _by_place(block, {"n": tuple(range(count))}, {"n": count}, value)
    return found


def _by_place(
    block: Block, places: Mapping[str, tuple[int, ...]], left: Mapping[str, int], value: Callable[[Any], Tensor]
) -> NDArray[np.float64]:
    """Return the sums of one layer's structures: `places` of each on axes, of which `left` says how many they have."""
    sizes, found = {**block.shape.sizes, **left}, list[Tensor]()
    of_axes = partial(_places, sizes=tuple(sizes.items()), places=tuple(places.items()))
    for slice in block.slices():
        of_place = value(block.parameter(slice)).movedim(slice.dim, 0)
        of_place = of_place.reshape(len(of_place), -1).sum(dim=1)
        found.append(of_place[torch.from_numpy(of_axes(slice.axes)).to(of_place.device)])
    return torch.cat(found, dim=1).cpu().double().sum(dim=1).numpy()


@cache
def _places(
    axes: str, sizes: tuple[tuple[str, int], ...], places: tuple[tuple[str, tuple[int, ...]], ...]
) -> NDArray[np.int64]:
    """Return the places of each structure in a dimension, `[structures, places]`; each batch's scores ask for them."""
    names, of_each = zip(*places, strict=True)
    every = [dict(zip(names, ([one] for one in at), strict=True)) for at in zip(*of_each, strict=True)]
    return np.stack([index(axes, dict(sizes), one) for one in every])
