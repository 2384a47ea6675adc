"""Cutting a ticket out of a model: smaller linears, FFNs gone. What remains is what the gated model computes.

For a head: its rows of query, key and value and its columns of the output projection go; that projection's bias stays
(the gate acts before it). For an FFN: both linears go, biases too; the residual path and the LayerNorm stay.
"""

import warnings
from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import Block, attentions_of, ffns_of, shape_of
from supertickets.anatomy.parts import Attention, size_of
from supertickets.errors import TicketError
from supertickets.surgery.saving import mark_cut
from supertickets.tickets import Ticket


class _NoFFN(nn.Module):
    """What stands where a linear of a removed FFN was; some models look at a linear's weight and bias."""

    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(0), persistent=False)


class NoFFNIn(_NoFFN):
    """Stands where a removed FFN's first linear was: hands few columns on, so that the activation has little to do."""

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the first columns of `hidden` `[..., hidden]`; nothing reads their values."""
        return hidden[..., : self.columns]


class NoFFNOut(_NoFFN):
    """Stands where a removed FFN's second linear was: adds nothing to the residual path."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, inner: Tensor) -> Tensor:
        """Return zeros `[..., hidden]`."""
        return inner.new_zeros(*inner.shape[:-1], self.hidden)


class BiasAlone(nn.Linear):
    """The output projection of a layer without heads: its bias is all that is left.

    It does not read its input, so that exporters leave the empty attention before it out of their graphs (ONNX Runtime
    refuses matrices without columns).
    """

    def forward(self, context: Tensor) -> Tensor:
        """Return the bias (zeros if there is none) `[..., hidden]` for a context `[..., 0]`."""
        shape = (*context.shape[:-1], self.out_features)
        return context.new_zeros(shape) if self.bias is None else self.bias.to(context.dtype).expand(shape)

    @classmethod
    def of(cls, linear: nn.Module) -> "BiasAlone":
        """Return this in the place of a linear that has no inputs any more."""
        assert isinstance(linear, nn.Linear)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is nothing to initialise
            alone = cls(0, linear.out_features, bias=False)
        alone.weight, alone.bias = linear.weight, linear.bias
        return alone.train(linear.training)


def narrow(block: Block, kept: dict[str, NDArray[np.bool_]]) -> None:
    """Leave of a block's parameters what is kept of its axes, in place; works on the meta device too."""
    for slice in list(block.slices()):
        parameter = block.parameter(slice)
        places = block.index(slice.axes, kept)
        if len(places) < parameter.shape[slice.dim]:
            # from_numpy: transformers calls this with the meta device as torch's default, and these are real indices.
            chosen = torch.from_numpy(places).to(parameter.device)
            smaller = parameter.detach().index_select(slice.dim, chosen)
            block.resize(slice, nn.Parameter(smaller, requires_grad=parameter.requires_grad))


class _KeptOfArgument:
    """A hook before an attention's forward pass: of an argument for all heads, what is for those that it has."""

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.dim, self.kept = name, dim, list[int]()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = signature(type(module).forward).bind(module, *args, **kwargs)
        whole = bound.arguments.get(self.name)
        if whole is not None:
            places = torch.tensor(self.kept, device=whole.device, dtype=torch.long)
            bound.arguments[self.name] = whole.index_select(self.dim, places)
        return bound.args[1:], bound.kwargs


def _no_context(hidden: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """Stand for the forward pass of an attention without heads: a context `[..., 0]`, and no attention weights."""
    return hidden[..., :0], None


def set_heads(block: Block, kept: Sequence[int]) -> None:
    """Tell an attention module which of the dense model's heads it has now; some read it in their forward pass."""
    part = block.part
    assert isinstance(part, Attention)
    module, per_group = block.module(part.module), block.shape.heads // block.shape.kv_heads
    sizes = {**block.shape.sizes, "h": len(kept), "g": len({head // per_group for head in kept})}
    for name, axes in part.attributes.items():
        if hasattr(module, name):
            setattr(module, name, size_of(axes, sizes))
    if part.argument is not None:
        hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _KeptOfArgument)]
        if not hooks:
            hooks = [_KeptOfArgument(*part.argument)]
            module.register_forward_pre_hook(hooks[0], with_kwargs=True)
        hooks[0].kept = list(kept)
    if part.empty == "context":
        vars(module).pop("forward", None)
        if not kept:
            vars(module)["forward"] = _no_context


def _cut_heads(block: Block, heads: NDArray[np.bool_]) -> None:
    narrow(block, block.shape.kept(heads))
    set_heads(block, np.flatnonzero(heads).tolist())
    if not heads.any():
        block.layer.set_submodule(block.part.output, BiasAlone.of(block.module(block.part.output)))


def stand_ins(block: Block) -> dict[str, nn.Module]:
    """Return what stands in the places of an FFN's modules when it is gone, by their paths."""
    into = {part.path: NoFFNIn(size_of(part.axes, {"n": 1})) for part in block.part.parts if part.when(block.config)}
    return {**into, block.part.output: NoFFNOut(block.shape.hidden)}


def cut(model: PreTrainedModel, ticket: Ticket) -> PreTrainedModel:
    """Cut everything outside `ticket` out of a dense `model`, in place, and return it.

    Parameters that stay keep their values, bit for bit. `save_pretrained` of the model writes a folder that reloads
    with `import supertickets`. Raises TicketError if the model is of another shape or was cut before.
    """
    check_fits(model, ticket)
    for block, heads in zip(attentions_of(model), ticket.heads, strict=True):
        if not heads.all():
            _cut_heads(block, heads)
    for block, stays in zip(ffns_of(model), ticket.ffns, strict=True):
        for path, stand_in in () if stays else stand_ins(block).items():
            block.layer.set_submodule(path, stand_in)
    mark_cut(model, ticket)
    return model


def check_fits(model: PreTrainedModel, ticket: Ticket) -> None:
    """Raise TicketError unless `model` is dense and has the layers and heads that `ticket` is for."""
    shape = shape_of(model)
    if ticket.shape != (shape.layers, shape.heads):
        raise TicketError(
            f"the ticket is for {ticket.shape[0]} layers x {ticket.shape[1]} heads, "
            f"the model has {shape.layers} x {shape.heads}: use the model the ticket was drawn from."
        )
    for index, (attention, ffn) in enumerate(zip(attentions_of(model), ffns_of(model), strict=True)):
        gone = isinstance(ffn.module(ffn.part.output), NoFFNOut)
        if gone or any(_is_cut(block) for block in (attention, ffn)):
            raise TicketError(f"the model is already cut (layer {index}): a ticket is cut out of a dense model.")


def _is_cut(block: Block) -> bool:
    whole = block.shape.sizes
    return any(block.parameter(one).shape[one.dim] != size_of(one.axes, whole) for one in block.slices())
