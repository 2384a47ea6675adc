"""Derivatives of each example's loss by the mask variables of heads and FFNs (paper, section 3).

At xi = 1 the derivative of one example's loss is the sum over positions and head dimensions of context times its
gradient. A gate of its own for each example and position makes autograd compute exactly that: one backward pass of the
*summed* loss gives the derivative for every example of a batch, whatever the batch size, and no parameter gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supertickets.tickets.importance.measured import Loss, Measured, Scores

if TYPE_CHECKING:
    from torch import Tensor, nn


def mask_derivatives(measured: Measured) -> Iterator[Scores]:
    """Return |dL/dxi| of each example, batch by batch: heads `[batch, layers, heads]`, FFNs `[batch, layers]`.

    With `absolute: token` the absolute value is taken at each position and summed over them. The model is in eval mode
    (no dropout) and its parameters need no gradient meanwhile; both are put back.
    """
    with frozen(measured.model):
        for loss in measured.losses():
            yield _of_batch(measured, loss)


@contextmanager
def frozen(model: nn.Module, parameters: bool = True) -> Iterator[None]:
    """Within the context the model is in eval mode; its parameters need no gradient unless `parameters` is False."""
    was_training = model.training
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad] if parameters else []
    model.eval()
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        model.train(was_training)


def _of_batch(measured: Measured, loss: Loss) -> Scores:
    import torch

    head_gates: dict[int, Tensor] = {}
    ffn_gates: dict[int, Tensor] = {}

    def gate(gates: dict[int, Tensor], layer: int, values: Tensor) -> Tensor:
        # At least float32: under autocast the products are then summed in float32 as well.
        dtype = torch.promote_types(values.dtype, torch.float32)
        # A layer that is applied several times (ALBERT) has one gate: its derivative is the sum over them.
        if layer not in gates:
            gates[layer] = torch.ones(*values.shape[:-1], 1, dtype=dtype, device=values.device, requires_grad=True)
        return gates[layer]

    with measured.gate(partial(gate, head_gates), partial(gate, ffn_gates)):
        total = loss().sum()
    layers = range(len(measured.ticket.ffns))
    gates = [head_gates[i] for i in layers] + [ffn_gates[i] for i in layers]
    gradients = [gradient.squeeze(-1) for gradient in torch.autograd.grad(total, gates)]
    per_token = measured.settings.absolute == "token"
    by_head, by_ffn = gradients[: len(layers)], gradients[len(layers) :]  # [batch, tokens, kept heads], [batch, tokens]
    ffns = torch.stack([_over_tokens(gradient, per_token) for gradient in by_ffn], dim=1)
    return _in_place(measured, [_over_tokens(gradient, per_token) for gradient in by_head]), _numpy(ffns)


def _over_tokens(gradient: Tensor, per_token: bool) -> Tensor:
    return gradient.abs().sum(dim=1) if per_token else gradient.sum(dim=1).abs()


def _in_place(measured: Measured, by_layer: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return `[batch, layers, heads]` from each layer's `[batch, kept heads]`, zeros for heads that are gone."""
    kept = measured.ticket.heads
    scores = np.zeros((len(by_layer[0]), *kept.shape))
    for layer, found in enumerate(by_layer):
        scores[:, layer, kept[layer]] = _numpy(found)
    return scores


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
