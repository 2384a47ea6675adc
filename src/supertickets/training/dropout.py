"""Dropout masks by seed, step and place in the model: a ticket and the dense model of a seed drop the same.

torch draws masks one after another, so that every mask behind the first head that was cut differs from the dense
model's. Here a mask depends on the seed, the step, the module and the head alone: with the same seed, a ticket differs
from the dense model by what was pruned, and their scores differ less by chance (common random numbers). It is drawn
faster, too.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import attentions_of, shape_of
from supertickets.surgery.heads import attention_of, heads_of

_CHANCES = 1 << 16
"""Masks are drawn by 16 bits a number, so that the chance of being dropped is a multiple of 1 / 65,536."""
_IN_A_WORD = 4  # numbers of 16 bits in what the generator gives at a time
_NUMPY: dict[torch.dtype, Any] = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}

Key = tuple[int, ...]
"""What a mask depends on, beside its shape."""


class KeyedDropout:
    """The dropout of models in training, with masks that depend on seed, step and place.

    A place is a module, by its name in the model, which call of dropout in it, and the head in attention weights.
    Dropout inside an FFN that lost some neurons counts those that are left. Models that share modules share places.
    torch's fused attention cannot be told what to drop, so attention with dropout is made of single operations.
    """

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self._inside: list[nn.Module] = []
        self._names = dict[nn.Module, str]()
        self._hooks: list[RemovableHandle] = []
        for model in models:
            for name, module in model.named_modules():
                if module not in self._names and _may_drop(module):
                    self._names[module] = name
                    self._hooks.append(module.register_forward_pre_hook(self._enter))
                    self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
        self._heads = shape_of(models[0]).heads
        self._attention = {
            inner: attention
            for attention in map(attention_of, attentions_of(models[0]))
            for inner in attention.modules()
        }

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _heads_in(self, module: nn.Module) -> Sequence[int] | None:
        """Return which heads the attention has that a module is in; None: it is in none."""
        if (attention := self._attention.get(module)) is None:
            return None
        found = heads_of(attention)
        return range(self._heads) if found is None else found

    @contextmanager
    def drawn(self, seed: int, step: int) -> Iterator[None]:
        """Within the context the models drop what this seed and step say."""
        calls = Counter[tuple[str, bool]]()

        def mask(like: Tensor, p: float) -> Tensor:
            module = self._inside[-1] if self._inside else None
            name = "" if module is None else self._names[module]
            heads = None if module is None else self._heads_in(module)
            of_heads = heads is not None and like.ndim == 4 and len(heads) == like.shape[1]
            key = seed, step, crc32(name.encode()), int(of_heads), calls[name, of_heads]
            calls[name, of_heads] += 1  # counted apart: attention without heads has no weights to drop
            if heads is None or not of_heads:
                return keyed_mask(key, like, like.shape, p)[0]
            shape = like.shape[:1] + like.shape[2:]
            return keyed_mask(key, like, shape, p, heads, self._heads).movedim(0, 1)

        self._inside.clear()
        with _Dropping(mask):
            yield

    def remove(self) -> None:
        """Take everything off the models."""
        for hook in self._hooks:
            hook.remove()


def _may_drop(module: nn.Module) -> bool:
    """Return whether dropout may be called in a module itself: linears, norms and the like have none."""
    return isinstance(module, nn.Dropout) or not type(module).__module__.startswith("torch.nn.")


def keyed_mask(
    key: Key, like: Tensor, shape: Sequence[int], p: float, rows: Sequence[int] = range(1), of: int = 1
) -> Tensor:
    """Return a dropout mask `[rows, *shape]` for a tensor: 0 with chance `p`, and else what keeps the mean as it is.

    That is rounded to the tensor's precision: with bfloat16 the mean falls by 0.16 % at p = 0.1. Of the mask for `of`
    rows it has `rows`, in their order; those that are not asked for are not drawn on a CPU. A key gives the same mask
    whatever rows are asked for, on one kind of device.
    """
    dropped = round(p * _CHANCES)
    scale = _CHANCES / (_CHANCES - dropped) if dropped < _CHANCES else 0.0
    if _draws_itself(like.device):
        return _drawn_there(key, like, shape, dropped, scale, rows, of)
    bits = _bits(key, prod(shape), rows)
    shape = (len(rows), *shape)
    if dropped == _CHANCES:
        return like.new_zeros(shape)
    stays = bits >= dropped
    if like.dtype is torch.bfloat16:  # which numpy has not: by its bits
        kept = torch.tensor(scale, dtype=torch.bfloat16).view(torch.int16).item()
        return torch.from_numpy(stays.view(np.int8).astype(np.int16) * np.int16(kept)).view(torch.bfloat16).view(shape)
    kind = _NUMPY[like.dtype]
    return torch.from_numpy(stays * kind(scale)).view(shape)


def _draws_itself(device: torch.device) -> bool:
    return device.type != "cpu"


def _bits(key: Key, each: int, rows: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return random numbers of 16 bits, `[rows, each]`; a row has its place in the generator's numbers."""
    generator = np.random.PCG64DXSM(np.random.SeedSequence(key))
    words, at = -(-each // _IN_A_WORD), 0
    found = np.empty((len(rows), words), np.uint64)
    starts = [i for i in range(len(rows)) if not i or rows[i] != rows[i - 1] + 1]
    for start, end in pairwise([*starts, len(rows)]):  # rows that are neighbours are drawn together
        generator.advance(rows[start] * words - at)
        found[start:end] = generator.random_raw((end - start) * words).reshape(end - start, words)
        at = (rows[end - 1] + 1) * words
    return found.view(np.uint16)[:, :each]


def _drawn_there(
    key: Key, like: Tensor, shape: Sequence[int], dropped: int, scale: float, rows: Sequence[int], of: int
) -> Tensor:
    """Return `keyed_mask` of a device that draws for itself: of all rows, on whose number all depends."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator(like.device).manual_seed(seed)
    bits = torch.randint(_CHANCES, (of, *shape), generator=generator, device=like.device, dtype=torch.int32)
    if list(rows) != list(range(of)):
        bits = bits.index_select(0, torch.tensor(rows, device=like.device, dtype=torch.long))
    return (bits >= dropped).to(like.dtype) * scale


class _Dropping(TorchFunctionMode):
    """Within the context, dropout multiplies by what `mask` returns for a tensor and a chance."""

    def __init__(self, mask: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self._mask = mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return input
        return input.mul_(self._mask(input, p)) if inplace else input * self._mask(input, p)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not dropout_p:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            key, value = (of.repeat_interleave(query.shape[1] // of.shape[1], 1) for of in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-1, -2))
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            # Not infinite: a token that may see none, which nothing reads, would make the loss NaN.
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = torch.softmax(scores, -1).to(value.dtype)
        return torch.matmul(weights * self._mask(weights, dropout_p), value)
