"""A model's layers as blocks with named parts, the same for every family."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from supertickets.anatomy.family import Family, Shape, family_of


@dataclass(frozen=True)
class Block:
    """One transformer layer: the linears that a ticket may narrow or remove, by the role they play."""

    family: Family
    layer: nn.Module

    def part(self, role: str) -> nn.Module:
        """Return the module that plays `role` (`query`, `key`, `value`, `attention_output`, `ffn_in`, `ffn_out`)."""
        return self.layer.get_submodule(getattr(self.family, role))

    def replace(self, role: str, module: nn.Module) -> None:
        """Put `module` in the place of the one that plays `role`."""
        self.layer.set_submodule(getattr(self.family, role), module)

    def set_heads(self, heads: int, head_size: int) -> None:
        """Tell the attention module how many heads it has; some families read it in their forward pass."""
        attention = self.layer.get_submodule(self.family.attention)
        setattr(attention, self.family.attention_heads, heads)
        if self.family.attention_width is not None:
            setattr(attention, self.family.attention_width, heads * head_size)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder inside a model with an output layer, or the model itself if it is a bare encoder."""
    encoder = model.base_model
    assert isinstance(encoder, PreTrainedModel)  # transformers promises no more than a module
    return encoder


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the sizes of the dense architecture that a model's config states (a cut model's too)."""
    return family_of(model.config.model_type).shape(model.config.to_dict())


def blocks_of(model: PreTrainedModel) -> list[Block]:
    """Return the layers of a model, first to last; raises UnknownNameError for a family that is not registered."""
    family = family_of(model.config.model_type)
    layers = encoder_of(model).get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    return [Block(family, layer) for layer in layers]
