"""The way back from a cut model: its trained weights, in their places in the dense one.

A ticket is always cut out of a dense model, so that any part of a trained model can be trained further.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import blocks_of
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket


def expand(model: PreTrainedModel, ticket: Ticket, weights: Mapping[str, Tensor]) -> None:
    """Put the weights of a model that was cut to `ticket` into the dense `model`, in place.

    What the ticket lacks, and the output layer if `weights` have none, keep the values they have in `model`. So does a
    pooler that `weights` lack: under some output layers an encoder has none, and then one in `weights` is passed over.
    Raises RuntimeError if weights of the encoder are missing or of other shapes.
    """
    small = cut(copy.deepcopy(model), ticket)
    encoder = f"{model.base_model_prefix}."
    found = small.load_state_dict(dict(weights), strict=False)
    pooler, of_small = f"{encoder}pooler.", dict(small.named_parameters())  # a tied one has one name here
    lacking = [name for name in found.missing_keys if name in of_small]
    missing = [name for name in lacking if name.startswith(encoder) and not name.startswith(pooler)]
    unexpected = [name for name in found.unexpected_keys if not name.startswith(pooler)]
    if missing or unexpected:
        raise RuntimeError(f"the weights are not those of this model cut to this ticket: {missing or unexpected}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in of_small and of_small[name].shape == parameter.shape:
                parameter.copy_(of_small[name])
        for (dense, kept), (narrow, _) in zip(blocks_of(model, ticket), blocks_of(small, ticket), strict=True):
            if kept is None:
                continue
            for slice in dense.slices():
                places = torch.from_numpy(dense.index(slice.axes, kept))
                dense.parameter(slice).index_copy_(slice.dim, places, narrow.parameter(slice))
