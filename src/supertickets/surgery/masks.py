"""A ticket of weights applied to a model: what it lacks is zero, and stays exactly zero through training."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.tickets.weights import Pruning, WeightTicket


def prunable(encoder: PreTrainedModel, pruning: Pruning) -> dict[str, Tensor]:
    """Return the weights of a bare encoder that may be pruned, by name, in its own order.

    They are found by module type: the matrices of all linears, of the pooler and of embeddings if `pruning` says so.
    BERT-base has 72 and the pooler's, 85,524,480 weights (spec section 1).
    """
    found = {}
    for name, module in encoder.named_modules():
        embeds = isinstance(module, nn.Embedding) or name.startswith("embeddings")  # ELECTRA projects its embeddings
        if not isinstance(module, nn.Linear | nn.Embedding) or (embeds and not pruning.embeddings):
            continue
        if pruning.pooler or not name.startswith("pooler."):
            found[f"{name}.weight"] = module.weight
    return found


def zero(model: PreTrainedModel, ticket: WeightTicket) -> None:
    """Set the weights that a ticket lacks to zero, in place. Tensors that the model does without are passed over."""
    parameters = dict(model.base_model.named_parameters())
    with torch.no_grad():
        for name, mask in ticket.masks.items():
            if name in parameters:
                parameter = parameters[name]
                parameter.mul_(torch.tensor(mask, device=parameter.device))


class KeptZero:
    """Keeps a model's pruned weights at zero while it is trained: their gradients are set to zero in every step.

    With neither value nor gradient, momentum, decay and adaptive steps all leave them where they are, in every
    optimiser there is here. Call before gradients are clipped, so that pruned weights do not count there.
    """

    def __init__(
        self, encoder: PreTrainedModel, ticket: WeightTicket | None, rows: Mapping[str, NDArray[np.int64]]
    ) -> None:
        """`rows` names tensors of which the model has some rows only, and which. Without a ticket nothing is pruned."""
        parameters = dict(encoder.named_parameters())
        self._parameters: list[nn.Parameter] = []
        self._masks: list[Tensor] = []
        for name, mask in (ticket.masks if ticket is not None else {}).items():
            if name in parameters:
                parameter = parameters[name]
                kept = mask[rows[name]] if name in rows else mask
                self._parameters.append(parameter)
                self._masks.append(torch.tensor(kept, device=parameter.device, dtype=parameter.dtype))

    def step(self) -> None:
        """Set the gradients of pruned weights to zero."""
        pairs = [(p.grad, mask) for p, mask in zip(self._parameters, self._masks, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [mask for _, mask in pairs])


def weights_of(encoder: PreTrainedModel, names: Iterable[str]) -> dict[str, NDArray[np.floating]]:
    """Return those of an encoder's named weights that it has, as arrays."""
    parameters = dict(encoder.named_parameters())
    return {name: parameters[name].detach().cpu().numpy() for name in names if name in parameters}
