"""The last matrix of an output layer: what a text's numbers come from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def output_linear(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Return the last linear outside a model's encoder, and its name: the one that gives its logits."""
    inside = set(model.base_model.modules())
    found = [(name, module) for name, module in model.named_modules() if module not in inside]
    return [(name, module) for name, module in found if isinstance(module, nn.Linear)][-1]


def rescaled(weight: Tensor, bias: Tensor, mean: float, deviation: float) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a linear that gives `deviation` times what the given one gives, plus `mean`."""
    return (weight.double() * deviation).to(weight), (bias.double() * deviation + mean).to(bias)


def rescale(model: PreTrainedModel, mean: float, deviation: float) -> None:
    """Let a model that predicts standardised targets predict them in their own units, in place."""
    _, linear = output_linear(model)
    with torch.no_grad():
        weight, bias = rescaled(linear.weight, linear.bias, mean, deviation)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


@contextmanager
def rescaled_outputs(model: PreTrainedModel, mean: float, deviation: float) -> Iterator[None]:
    """Within the context a model predicts in its targets' own units; afterwards its weights are what they were."""
    _, linear = output_linear(model)
    before = linear.weight.detach().clone(), linear.bias.detach().clone()
    rescale(model, mean, deviation)
    try:
        yield
    finally:
        with torch.no_grad():
            linear.weight.copy_(before[0])
            linear.bias.copy_(before[1])


def full_precision_logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return a model's logits with the last product in the weights' own precision, whatever autocast says.

    A bfloat16 has 8 bits: years, or prices in thousands, would be rounded to steps of 8 or 1,024.
    """
    _, linear = output_linear(model)

    def exactly(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            return nn.functional.linear(args[0].to(linear.weight.dtype), linear.weight, linear.bias)

    hook = linear.register_forward_hook(exactly)  # some models have a number for each token, and choose among them then
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits
