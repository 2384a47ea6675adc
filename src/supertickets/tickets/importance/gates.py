"""Derivatives of each example's loss by the mask variables of heads, FFNs and neurons (paper, section 3).

At xi = 1 the derivative of one example's loss is the sum over positions and head dimensions of context times its
gradient. A gate of its own for each example and position makes autograd compute exactly that: one backward pass of the
*summed* loss gives the derivative for every example of a batch, whatever the batch size, and no parameter gradient.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from supertickets.tickets.importance.measured import Loss, Measured, Scores
from supertickets.tickets.kinds import Structure

if TYPE_CHECKING:
    from torch import Tensor, nn


def mask_derivatives(measured: Measured) -> Generator[Scores]:
    """Return |dL/dxi| of each example, batch by batch: heads `[batch, layers, heads]`, FFNs `[batch, layers]`, neurons.

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

    gates: dict[Structure, dict[int, Tensor]] = {kind: {} for kind in measured.kept}
    per_token = measured.settings.absolute == "token"

    def gate(kind: Structure, layer: int, values: Tensor) -> Tensor:
        # At least float32: under autocast the products are then summed in float32 as well.
        dtype = torch.promote_types(values.dtype, torch.float32)
        # A layer that is applied several times (ALBERT) has one gate: its derivative is the sum over them.
        if layer not in gates[kind]:
            # Thousands of neurons get one for each example, whose derivative autograd sums over tokens.
            tokens = values.shape[1] if per_token or kind != "neurons" else 1
            shape = (len(values), tokens, values.shape[-1]) if kind == "neurons" else (*values.shape[:-1], 1)
            gates[kind][layer] = torch.ones(shape, dtype=dtype, device=values.device, requires_grad=True)
        return gates[kind][layer]

    with measured.gate(**{kind: partial(gate, kind) for kind in gates}):
        total = loss().sum()
    # Nothing reads the neurons of an FFN that is gone.
    reached = [(kind, layer) for kind, kept in measured.kept.items() for layer, row in enumerate(kept) if row.any()]
    found = torch.autograd.grad(total, [gates[kind][layer] for kind, layer in reached])
    scores: Scores = {kind: np.zeros((len(found[0]), *kept.shape)) for kind, kept in measured.kept.items()}
    for (kind, layer), gradient in zip(reached, found, strict=True):
        over_tokens = gradient.abs().sum(dim=1) if per_token else gradient.sum(dim=1).abs()
        values = over_tokens.flatten(1).double().cpu().numpy()  # [batch, kept structures], one for an FFN
        if kind == "ffns":
            scores[kind][:, layer] = values[:, 0]
        else:
            scores[kind][:, layer, measured.kept[kind][layer]] = values
    return scores
