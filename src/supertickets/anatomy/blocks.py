"""A model's layers as attention modules and FFNs, the same for every family: parameters with dimensions that count."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from supertickets.anatomy.family import Family, Shape, Stack, family_of
from supertickets.anatomy.parts import FFN, Attention, Part, index
from supertickets.tickets import Ticket

_OUTPUTS: dict[type[nn.Module], dict[str, int]] = {
    nn.Linear: {"weight": 0, "bias": 0},
    Conv1D: {"weight": 1, "bias": 0},
    nn.Embedding: {"weight": 1},
}
"""Of modules, the parameters that have outputs, with the dimension that counts them."""
_INPUTS: dict[type[nn.Module], dict[str, int]] = {nn.Linear: {"weight": 1}, Conv1D: {"weight": 0}}
_WIDTHS = {
    nn.Linear: ("out_features", "in_features"),
    Conv1D: ("nf", "nx"),
    nn.Embedding: ("embedding_dim", "num_embeddings"),
}
"""What modules call their numbers of outputs and inputs."""


Kept = dict[str, NDArray[np.bool_]]
"""What stays of each axis (see `anatomy.parts`)."""


@dataclass(frozen=True)
class Slice:
    """A parameter of a layer, and the dimension of it that counts structures by `axes` (see `anatomy.parts`)."""

    module: str
    name: str
    dim: int
    axes: str


@dataclass(frozen=True)
class Block:
    """One attention module or one FFN of a layer."""

    layer: nn.Module
    part: Attention | FFN
    shape: Shape
    config: Mapping[str, Any]

    def module(self, path: str) -> nn.Module:
        """Return a module of the layer."""
        return self.layer.get_submodule(path)

    @property
    def modules(self) -> list[str]:
        """The paths of its modules that have weights."""
        return [*dict.fromkeys(slice.module for slice in self.slices())]

    def slices(self) -> Iterator[Slice]:
        """Yield the parameters that heads (or neurons) are slices of: rows of what comes in, columns of what goes out.

        A bias that is added to what goes out belongs to no head; to an FFN it does, but to none of its neurons.
        """
        for part in self.part.parts:
            if part.when(self.config):
                yield from self._outputs(part)
        for name, dim in _dimensions(_INPUTS, self.module(self.part.output)).items():
            yield Slice(self.part.output, name, dim, self.part.inputs)

    def _outputs(self, part: Part) -> Iterator[Slice]:
        path, _, last = part.path.rpartition(".")
        if last in self.module(path)._parameters:  # a raw parameter
            yield Slice(path, last, 0, part.axes)
            return
        module = self.module(part.path)
        for name, dim in _dimensions(_OUTPUTS, module).items():
            if getattr(module, name, None) is not None:
                yield Slice(part.path, name, dim, part.axes)

    def parameter(self, slice: Slice) -> nn.Parameter:
        """Return the parameter that a slice is of."""
        return self.module(slice.module).get_parameter(slice.name)

    def resize(self, slice: Slice, parameter: nn.Parameter) -> None:
        """Put a parameter of another size in the place of one, and let its module say its new size."""
        setattr(self.module(slice.module), slice.name, parameter)
        set_width(self.module(slice.module), slice, parameter.shape[slice.dim])

    def index(self, axes: str, kept: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
        """Return the places that stay of a dimension of the dense layer (see `anatomy.parts.index`)."""
        return index(axes, self.shape.sizes, kept)


def _dimensions(of: Mapping[type[nn.Module], dict[str, int]], module: nn.Module) -> dict[str, int]:
    return next(dims for kind, dims in of.items() if isinstance(module, kind))


def set_width(module: nn.Module, slice: Slice, width: int) -> None:
    """Let the module of a slice say how many outputs or inputs it has; some read it in their forward pass."""
    for kind, names in _WIDTHS.items():
        if isinstance(module, kind) and slice.name == "weight":
            setattr(module, names[_OUTPUTS[kind]["weight"] != slice.dim], width)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder inside a model with an output layer, or the model itself if it is a bare encoder."""
    encoder = model.base_model
    assert isinstance(encoder, PreTrainedModel)  # transformers promises no more than a module
    return encoder


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the sizes of the dense architecture that a model's config states (a cut model's too)."""
    return _family(model).shape(model.config.to_dict())


def _family(model: PreTrainedModel) -> Family:
    return family_of(model.config.model_type)


def attentions_of(model: PreTrainedModel) -> list[Block]:
    """Return a model's attention modules, first layer to last; a decoder has two a layer, its own and the cross one.

    Raises UnknownNameError for a family that is not registered.
    """
    return list(_blocks(model, lambda stack: stack.attentions))


def ffns_of(model: PreTrainedModel) -> list[Block]:
    """Return a model's FFNs, first layer to last; raises UnknownNameError for a family that is not registered."""
    return list(_blocks(model, lambda stack: (stack.ffn,)))


def blocks_of(model: PreTrainedModel, ticket: Ticket) -> Iterator[tuple[Block, Kept | None]]:
    """Yield a model's attention modules and FFNs, each with what a ticket keeps of its axes; None: the FFN is gone."""
    for block, heads in zip(attentions_of(model), ticket.heads, strict=True):
        yield block, block.shape.kept(heads)
    for block, neurons in zip(ffns_of(model), ticket.neurons_of(shape_of(model).ffn), strict=True):
        yield block, {"n": neurons} if neurons.any() else None


def _blocks(model: PreTrainedModel, parts: Callable[[Stack], Iterable[Attention | FFN]]) -> Iterator[Block]:
    family, config = _family(model), model.config.to_dict()
    shape = family.shape(config)
    for stack in family.stacks:
        for layer in _modules(encoder_of(model), stack.layers):
            yield from (Block(layer, part, shape, config) for part in parts(stack))


def _modules(root: nn.Module, path: str) -> list[nn.Module]:
    """Return the modules of a list, or of lists in a list where the path has a `*`."""
    first, _, rest = path.partition(".*.")
    found = list(root.get_submodule(first).children())
    return found if not rest else [module for one in found for module in _modules(one, rest)]
