"""Weights to start from in place of the pre-trained ones: what shows whether they matter (spec section 4)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from supertickets.anatomy import family_of
from supertickets.anatomy.blocks import attentions_of, ffns_of
from supertickets.errors import TicketError


def check_reinitialised(model: PreTrainedModel) -> None:
    """Raise TicketError for a parameter of a kind of module that is not drawn anew: it would stay pre-trained."""
    for name, module in model.named_modules():
        for part, _ in module.named_parameters(recurse=False):
            if part != "bias" and not isinstance(module, nn.Linear | Conv1D | nn.Embedding | nn.LayerNorm):
                raise TicketError(
                    f"random-weights: {name}.{part} belongs to a {type(module).__name__}, which cannot be "
                    "re-initialized; expected only linear layers, embeddings and LayerNorms."
                )


def check_shuffled(model: PreTrainedModel) -> None:
    """Raise TicketError for a model with nothing to shuffle: one layer, or one whose weights all layers share."""
    if all(len(layers) == 1 for layers in _alike(model)):
        raise TicketError(
            "shuffled-layers: the model has the weights of one layer, so that no layer can get another's; expected two "
            "or more."
        )


def reinitialise(model: PreTrainedModel, names: Iterable[str], generator: torch.Generator) -> None:
    """Draw the whole model anew as its config says: matrices N(0, initializer_range), biases 0, norms 1.

    Raises TicketError as `check_reinitialised` does.
    """
    check_reinitialised(model)
    spread = family_of(model.config.model_type).spread(model.config.to_dict())
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding):
            module.weight.data.normal_(0.0, spread, generator=generator)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight.data[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
        for part, parameter in module.named_parameters(recurse=False):
            if part == "bias":
                parameter.data.zero_()


def shuffle_layers(model: PreTrainedModel, names: Iterable[str], generator: torch.Generator) -> None:
    """Permute whole layers' matrices, all six together, as the released code does; nothing inside one moves.

    An encoder's layers change places with each other, and a decoder's. Some layer always gets another's: with few
    layers the order that there was would be drawn too often. Raises TicketError as `check_shuffled` does.
    """
    check_shuffled(model)
    for layers in _alike(model):
        if len(layers) > 1:
            _shuffle(layers, generator)


def _alike(model: PreTrainedModel) -> list[list[list[Tensor]]]:
    """Return the matrices of layers, those of layers with the same matrices together."""
    found: dict[tuple[torch.Size, ...], list[list[Tensor]]] = {}
    for layer in dict.fromkeys(block.layer for block in (*attentions_of(model), *ffns_of(model))):
        matrices = [module.weight for module in layer.modules() if isinstance(module, nn.Linear | Conv1D)]
        found.setdefault(tuple(matrix.shape for matrix in matrices), []).append(matrices)
    return list(found.values())


def _shuffle(layers: list[list[Tensor]], generator: torch.Generator) -> None:
    order = before_all = list(range(len(layers)))
    while order == before_all:
        order = torch.randperm(len(layers), generator=generator).tolist()
    before = [[weight.detach().clone() for weight in weights] for weights in layers]
    with torch.no_grad():
        for weights, source in zip(layers, order, strict=True):
            for weight, other in zip(weights, before[source], strict=True):
                weight.copy_(other)


def shuffle_elements(model: PreTrainedModel, names: Iterable[str], generator: torch.Generator) -> None:
    """Permute the entries of each prunable tensor within it."""
    parameters = dict(model.base_model.named_parameters())
    with torch.no_grad():
        for name in names:
            if name in parameters:
                flat = parameters[name].reshape(-1)
                parameters[name].copy_(flat[torch.randperm(len(flat), generator=generator)].view_as(parameters[name]))


INITIAL: dict[str, Callable[[PreTrainedModel, Iterable[str], torch.Generator], None]] = {
    "random": reinitialise,
    "shuffled-layers": shuffle_layers,
    "shuffled-elements": shuffle_elements,
}
"""Ways to start, by name; each changes a model in place. `names` are the prunable tensors'."""


_CHECKS = {"random": check_reinitialised, "shuffled-layers": check_shuffled}


def check_start(model: PreTrainedModel, how: str) -> None:
    """Raise TicketError where a model cannot start in a way (see `INITIAL`); its weights are not read."""
    if how in _CHECKS:
        _CHECKS[how](model)


def start_otherwise(model: PreTrainedModel, how: str, names: Iterable[str], seed: int) -> None:
    """Give a model other weights than the pre-trained ones, in place; the seed decides them."""
    INITIAL[how](model, names, torch.Generator().manual_seed(seed))
