"""Importance of heads and FFNs: how much the loss reacts to their mask variables (paper, section 3).

    I(l, h) = E over examples of | dL(x) / d xi(l, h) |   at xi = 1, and the same for an FFN's nu.

At xi = 1 the derivative of one example's loss is the sum over positions and head dimensions of context times its
gradient. A gate of its own for each example and position makes autograd compute exactly that: one backward pass of the
*summed* loss gives the derivative for every example of a batch, whatever the batch size, and no parameter gradient.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supertickets.tickets import released
from supertickets.tickets.scoring import ScoringSettings


class Gate(Protocol):
    """What importance needs of a model: a context that multiplies head contexts and FFN outputs by factors."""

    def __call__(  # noqa: D102  (the class says it)
        self, head_gate: Callable[[int, Tensor], Tensor], ffn_gate: Callable[[int, Tensor], Tensor]
    ) -> AbstractContextManager[None]: ...


def importance(
    model: nn.Module,
    gate: Gate,
    losses: Iterable[Callable[[], Tensor]],
    layers: int,
    settings: ScoringSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return importance scores of heads `[layers, heads]` and FFNs `[layers]` of a dense model, not normalised.

    `losses` are functions, one a batch, that run the model and return each example's loss `[batch]`. The model is put
    into eval mode (no dropout) and its parameters need no gradient meanwhile; both are put back.
    """
    was_training = model.training
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in needed:
        parameter.requires_grad_(False)
    heads, ffns = _Accumulator(settings), _Accumulator(settings)
    try:
        for loss in losses:
            of_heads, of_ffns = _batch_scores(gate, loss, layers, settings.absolute == "token")
            heads.add(of_heads)
            ffns.add(of_ffns)
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        model.train(was_training)
    return heads.result(), ffns.result()


def _batch_scores(
    gate: Gate, loss: Callable[[], Tensor], layers: int, per_token: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return |dL/dxi| for each example of one batch: heads `[batch, layers, heads]`, FFNs `[batch, layers]`."""
    head_gates: dict[int, Tensor] = {}
    ffn_gates: dict[int, Tensor] = {}

    def head_gate(layer: int, context: Tensor) -> Tensor:
        # At least float32: under autocast the products are then summed in float32 as well.
        dtype = torch.promote_types(context.dtype, torch.float32)
        head_gates[layer] = torch.ones(*context.shape[:-1], 1, dtype=dtype, device=context.device, requires_grad=True)
        return head_gates[layer]

    def ffn_gate(layer: int, output: Tensor) -> Tensor:
        dtype = torch.promote_types(output.dtype, torch.float32)
        ffn_gates[layer] = torch.ones(*output.shape[:-1], 1, dtype=dtype, device=output.device, requires_grad=True)
        return ffn_gates[layer]

    with gate(head_gate, ffn_gate):
        total = loss().sum()
    order = range(layers)
    gradients = torch.autograd.grad(total, [head_gates[i] for i in order] + [ffn_gates[i] for i in order])
    heads = torch.stack(
        [gradient.squeeze(-1) for gradient in gradients[:layers]], dim=2
    )  # [batch, tokens, layers, heads]
    ffns = torch.stack([gradient.squeeze(-1) for gradient in gradients[layers:]], dim=2)  # [batch, tokens, layers]

    def reduce(gradient: Tensor) -> NDArray[np.float64]:
        summed = gradient.abs().sum(dim=1) if per_token else gradient.sum(dim=1).abs()
        return summed.double().cpu().numpy()

    return reduce(heads), reduce(ffns)


class _Accumulator:
    """Sums up examples' scores `[batch, ...]` as the settings say."""

    def __init__(self, settings: ScoringSettings) -> None:
        self._decaying = settings.accumulation == "decaying"
        self._batches: list[NDArray[np.float64]] = []
        self._sum: NDArray[np.float64] = np.zeros(())
        self._examples = 0

    def add(self, scores: NDArray[np.float64]) -> None:
        if self._decaying:
            # A batch's loss was its mean: each example's share is 1 / batch size of what the summed loss gives.
            self._batches.append(scores.mean(axis=0))
        else:
            self._sum = self._sum + scores.sum(axis=0)
            self._examples += len(scores)

    def result(self) -> NDArray[np.float64]:
        return released.decaying_mean(np.stack(self._batches)) if self._decaying else self._sum / self._examples
