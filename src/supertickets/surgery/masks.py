"""A ticket of weights applied to a model: what it lacks is zero, and stays exactly zero through training."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from supertickets.anatomy import family_of
from supertickets.tickets.weights import Pruning, WeightTicket


def prunable(encoder: PreTrainedModel, pruning: Pruning) -> dict[str, Tensor]:
    """Return the weights of a bare encoder that may be pruned, by name, in its own order.

    They are found by module type, whatever output layer is put on the encoder, so that tickets of any two tasks
    compare: the matrices of all linears, of the pooler and of embeddings if `pruning` says so. BERT-base has 72 and the
    pooler's, 85,524,480 weights (spec section 1).
    """
    found, seen = dict[str, Tensor](), set[int]()
    family = family_of(encoder.config.model_type)
    aside, of_embeddings = tuple(f"{name}." for name in family.aside), ("embeddings", family.embedding_projection)
    for name, module in encoder.named_modules():
        embeds = isinstance(module, nn.Embedding) or name.startswith(of_embeddings)
        if not isinstance(module, nn.Linear | Conv1D | nn.Embedding) or (embeds and not pruning.embeddings):
            continue
        # ALBERT's pooler is a linear itself. Of tied weights (T5's embeddings) the first name is the parameter's.
        out = f"{name}.".startswith(aside if pruning.pooler else (*aside, "pooler."))
        if not out and id(module.weight) not in seen:
            seen.add(id(module.weight))
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


def not_zero(model: PreTrainedModel, ticket: WeightTicket) -> list[str]:
    """Return the tensors of a model that are not zero somewhere where a ticket has nothing, by their names."""
    parameters = dict(model.base_model.named_parameters())
    masks = {name: torch.tensor(mask) for name, mask in ticket.masks.items() if name in parameters}
    return [name for name, mask in masks.items() if bool(parameters[name].detach()[~mask].any())]


def keep_zero(encoder: PreTrainedModel, ticket: WeightTicket, rows: Mapping[str, NDArray[np.int64]]) -> None:
    """Keep the weights that a ticket lacks at zero while an encoder is trained: their gradients become zero.

    With neither value nor gradient, momentum, decay and adaptive steps all leave them where they are, in every
    optimiser there is here; nor do they count when gradients are clipped. There is no second copy of the weights and
    nothing in the state dict, so a saved model is a plain one. `rows` names tensors of which the encoder has
    some rows only, and which.
    """
    parameters = dict(encoder.named_parameters())
    for name, mask in ticket.masks.items():
        if name in parameters:
            kept = mask[rows[name]] if name in rows else mask
            # Two bytes a weight; the product has the gradient's precision.
            factor = torch.tensor(kept, device=parameters[name].device, dtype=torch.bfloat16)
            # As soon as a gradient is there, while it is in the processor's cache.
            parameters[name].register_post_accumulate_grad_hook(
                lambda parameter, factor=factor: mask_gradient(parameter, factor)
            )


def mask_gradient(parameter: Tensor, factor: Tensor) -> None:
    """Set a parameter's gradient to zero where `factor` is."""
    if parameter.grad is not None:
        parameter.grad.mul_(factor)


def weights_of(encoder: PreTrainedModel, names: Iterable[str]) -> dict[str, NDArray[np.floating]]:
    """Return those of an encoder's named weights that it has, as arrays."""
    parameters = dict(encoder.named_parameters())
    return {name: parameters[name].detach().cpu().numpy() for name in names if name in parameters}
