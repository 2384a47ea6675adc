"""What an attention module is told about the heads that it has left, so that its stock forward pass is exact.

Most families need an attribute or nothing. Four small pieces serve the rest: a view of the config, an attention
function that picks key/value heads, hooks on what is indexed by head outside the module, a stand-in for a module
without heads.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from supertickets.anatomy.blocks import Block
from supertickets.anatomy.parts import Attention, size_of

PICKED = "supertickets"
"""The name of our attention function."""


class ConfigView:
    """A model's config as one attention module sees it: some values are its own, all others are the model's, live."""

    def __init__(self, config: Any, own: Mapping[str, Any]) -> None:
        vars(self).update(_config=config, _own=dict(own))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_own" not in vars(self):  # while it is copied
            raise AttributeError(name)
        return self._own[name] if name in self._own else getattr(self._config, name)


def picked_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any
) -> Any:
    """Run a module's own attention function with a key/value head for each query head, and a bias for those alone.

    It comes after the cache, which holds each key/value head once.
    """
    view: Any = module.config
    if view.kv_places is not None:
        places = torch.tensor(view.kv_places, device=key.device)
        key, value = key.index_select(1, places), value.index_select(1, places)
    if view.table is not None:
        (name, dim), kept = view.table
        more[name] = more[name].index_select(dim, torch.tensor(kept, device=query.device, dtype=torch.long))
    eager = sys.modules[type(module).__module__].eager_attention_forward
    name = view._config._attn_implementation
    run = AttentionInterface().get_interface(name, eager)
    view._own["_attn_implementation"] = name  # flash attention asks the config which one it is
    try:
        return run(module, query, key, value, mask, **more)
    finally:
        view._own["_attn_implementation"] = PICKED


AttentionInterface.register(PICKED, picked_attention)


class _KeptOfArgument:
    """A hook before an attention's forward pass: of an argument for all heads, what is for those that it has."""

    def __init__(self, module: nn.Module, name: str, dim: int, kept: Sequence[int]) -> None:
        self.takes, self.name, self.dim, self.kept = signature(module.forward), name, dim, list(kept)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self.takes.bind(*args, **kwargs)
        whole = bound.arguments.get(self.name)
        if whole is not None:
            places = torch.tensor(self.kept, device=whole.device, dtype=torch.long)
            bound.arguments[self.name] = whole.index_select(self.dim, places)
        return bound.args, bound.kwargs


def _bias_alone(bias: Tensor | None, width: int, context: Tensor) -> Tensor:
    """Return a bias (zeros if there is none) `[..., width]` for a context `[..., 0]`."""
    shape = (*context.shape[:-1], width)
    return context.new_zeros(shape) if bias is None else bias.to(context.dtype).expand(shape)


class BiasAlone(nn.Linear):
    """The output projection of a layer without heads: its bias is all that is left.

    It does not read its input, so that exporters leave the empty attention before it out of their graphs (ONNX Runtime
    refuses matrices without columns).
    """

    def forward(self, context: Tensor) -> Tensor:
        """Return the bias (zeros if there is none) `[..., hidden]` for a context `[..., 0]`."""
        return _bias_alone(self.bias, self.out_features, context)

    @classmethod
    def of(cls, linear: nn.Module) -> "BiasAlone":
        """Return this in the place of a linear (or a Conv1D) that has no inputs any more."""
        bias: Any = getattr(linear, "bias", None)
        weight = linear.get_parameter("weight")
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is nothing to initialise
            alone = cls(0, max(weight.shape), bias=False)
        alone.weight, alone.bias = weight, bias
        return alone.train(linear.training)


class _WithoutHeads:
    """The forward pass of an attention module without heads: what its output projection adds, or an empty context.

    A cache that counts tokens by what this layer hands to it gets one head of one number a token. A bias for all heads
    that the module computes goes on to the layers above.
    """

    def __init__(self, module: Any, output: nn.Module | None, dropout: str | None) -> None:
        self.takes, self.layer, self.output = signature(module.forward), getattr(module, "layer_idx", None), output
        self.module, self.dropout = module, dropout
        self.bias = module.compute_bias if getattr(module, "has_relative_attention_bias", False) else None

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        given = self.takes.bind(*args, **kwargs).arguments
        hidden: Tensor = next(value for value in given.values() if isinstance(value, Tensor))
        seen, length = 0, hidden.shape[1]
        cache = given.get("past_key_values", given.get("layer_past"))
        if cache is not None and given.get("key_value_states") is None:  # what it attends across to is not counted
            cache = getattr(cache, "self_attention_cache", cache)
            one = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
            seen = cache.get_seq_length(self.layer) + 0  # a tensor that the cache counts in changes with the update
            length = cache.update(one, one, self.layer)[0].shape[-2]
        found = self._dropped(self._found(hidden[..., :0], hidden.shape[-1]))
        if "position_bias" not in self.takes.parameters:
            return found, None
        bias = given.get("position_bias")
        if bias is None and self.bias is not None:
            bias = self.bias(hidden.shape[1], length, device=hidden.device, past_seen_tokens=seen)
        return found, bias, None

    def _found(self, context: Tensor, width: int) -> Tensor:
        if self.output is None:
            return context
        # Of tickets that share a model the projection is whole, with no active input.
        if not isinstance(self.output, BiasAlone):
            return _bias_alone(getattr(self.output, "bias", None), width, context)
        found: Tensor = self.output(context)
        return found

    def _dropped(self, found: Tensor) -> Tensor:
        if self.dropout is None:
            return found
        drop = getattr(self.module, self.dropout)
        dropped: Tensor = drop(found) if callable(drop) else functional.dropout(found, drop, self.module.training)
        return dropped


class _KeptOfNorm:
    """A hook on a norm over all heads together: its input stays whole, of its output goes on what the layer has."""

    def __init__(self, places: Sequence[int]) -> None:
        self.places = list(places)

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.index_select(-1, torch.tensor(self.places, device=output.device))


def _replace_hook(hooks: Any, register: Callable[..., Any], hook: Any, **how: Any) -> None:
    """Register a hook in the place of one of its kind."""
    for number in [number for number, old in hooks.items() if isinstance(old, type(hook))]:
        del hooks[number]
    register(hook, **how)


def attention_of(block: Block) -> Any:
    """Return the module in which a block's attention weights are."""
    assert isinstance(block.part, Attention)
    return block.module(block.part.module)


def heads_of(module: nn.Module) -> tuple[int, ...] | None:
    """Return which of the dense model's heads an attention module has, in its order; None: all, none was cut."""
    found: tuple[int, ...] | None = vars(module).get("dense_heads")
    return found


def set_heads(block: Block, kept: Sequence[int], kv_kept: Sequence[int] | None = None) -> None:
    """Tell an attention module which of the dense model's heads it has, and which key/value heads, in their order."""
    part, shape, module = block.part, block.shape, attention_of(block)
    assert isinstance(part, Attention)
    module.dense_heads = tuple(kept)
    of_heads = [head * shape.kv_heads // shape.heads for head in kept]
    kv_kept = sorted(set(of_heads)) if kv_kept is None else kv_kept
    sizes = {**shape.sizes, "h": len(kept), "g": len(kv_kept)}
    for name, axes in part.attributes.items():
        if hasattr(module, name):
            setattr(module, name, size_of(axes, sizes))
    own: dict[str, Any] = {name: size_of(axes, sizes) for name, axes in part.config.items()}
    if hasattr(module, "num_key_value_groups"):
        each = len(kept) // max(1, len(kv_kept))
        even = of_heads == [one for one in kv_kept for _ in range(each)]
        module.num_key_value_groups = each if even else 1
        if not even:
            places = [list(kv_kept).index(one) for one in of_heads]
            own |= {"_attn_implementation": PICKED, "kv_places": places, "table": None}
    if part.table is not None and list(kept) != list(range(shape.heads)):
        own |= {"_attn_implementation": PICKED, "kv_places": None, "table": (part.table, list(kept))}
    if own or isinstance(getattr(module, "config", None), ConfigView):
        whole = module.config._config if isinstance(module.config, ConfigView) else module.config
        module.config = ConfigView(whole, own) if own else whole
    if part.argument is not None:
        hook = _KeptOfArgument(module, *part.argument, kept)
        _replace_hook(module._forward_pre_hooks, module.register_forward_pre_hook, hook, with_kwargs=True)
    for path, axes in part.joint_norms.items():
        norm = block.module(path)
        places = block.index(axes, {"h": kept, "g": kv_kept}).tolist()
        _replace_hook(norm._forward_hooks, norm.register_forward_hook, _KeptOfNorm(places))
    if part.empty != "narrow":
        vars(module).pop("forward", None)
        if not kept:
            output = None if part.empty == "context" else block.module(part.output)
            vars(module)["forward"] = _WithoutHeads(module, output, part.dropout)
