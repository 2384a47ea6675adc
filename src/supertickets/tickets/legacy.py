"""Masks in the files of released code: four layouts of pickled tensors, read without running anything in them.

`mask.pt` of BERT-Tickets (0/1 floats under `bert.NAME.weight_mask`), a pruned model's whole state dict (the same keys
among `weight_orig`), GraSP's masks (no `weight_mask` in the keys, no pooler), TAMT's (bool, word embeddings too). See
spec section 6.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.tickets.weights import Shapes, WeightTicket

_SUFFIX = ".weight_mask"


def read_legacy_masks(path: Path, shapes: Shapes) -> WeightTicket:
    """Return the ticket in a file of masks, of the tensors that an encoder's `shapes` name.

    Keys may begin with whatever wraps the encoder (`bert.`, `module.bert.`, nothing). Raises TicketError if the file is
    none of the four layouts, or if a mask is of a tensor that the encoder lacks, has in another shape, or is not 0/1.
    """
    import torch

    if not path.is_file():
        raise TicketError(f"{path}: no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise TicketError(
            f"{path}: not a dictionary of tensors that can be read safely ({type(error).__name__}); of a pickled whole "
            "model, save the masks alone where it was made."
        ) from error
    if not isinstance(content, Mapping):
        raise TicketError(f"{path}: expected a dictionary of masks, got {type(content).__name__}.")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    masks = {key: value for key, value in tensors.items() if key.endswith(_SUFFIX)} or tensors
    if not masks:
        raise TicketError(f"{path}: there are no masks in it.")
    found = {}
    for key, value in masks.items():
        name = _name(key, shapes)
        if name is None:
            raise TicketError(f"{path}: the mask {key!r} is of no prunable tensor of the model.")
        if tuple(value.shape) != tuple(shapes[name]):
            raise TicketError(
                f"{path}: the mask {key!r} has shape {list(value.shape)}, the model's tensor {list(shapes[name])}."
            )
        found[name] = _bools(path, key, value)
    return WeightTicket({name: found[name] for name in shapes if name in found})


def _name(key: str, shapes: Shapes) -> str | None:
    """Return the encoder's tensor that a key is about: what it ends with, without the words for masks."""
    parts = (key.removesuffix("_mask") if key.endswith(_SUFFIX) else key).removesuffix(".weight").split(".")
    for start in range(len(parts)):
        name = ".".join([*parts[start:], "weight"])
        if name in shapes:
            return name
    return None


def _bools(path: Path, key: str, value: Any) -> "np.ndarray":
    array = value.numpy()
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise TicketError(f"{path}: the mask {key!r} has other values than 0 and 1.")
    return array.astype(bool)
