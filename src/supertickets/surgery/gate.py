"""Gates: multiply heads' contexts, FFNs' outputs and neurons by a factor, through hooks, not in the state dict.

A gate of 1 changes nothing and of 0 removes, which is how the paper defines its mask variables xi and nu (section 3).
Hooks on the attention output projection work in every family and under every attention implementation.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import attentions_of, ffns_of
from supertickets.tickets import Ticket

Gate = Callable[[int, Tensor], Tensor]
"""(layer, values) -> factor that broadcasts against them; heads are asked for by attention module.

Values are contexts `[batch, tokens, heads, head_size]`, FFN outputs `[batch, tokens, hidden]`, or neurons
`[batch, tokens, neurons]`.
"""


@contextmanager
def gated(
    model: PreTrainedModel, heads: Gate | None = None, ffns: Gate | None = None, neurons: Gate | None = None
) -> Iterator[None]:
    """Within the context, contexts of heads, outputs of FFNs, and neurons are multiplied by what the gates return.

    In a cut model gates get what is left; the output of an FFN that is gone is zero, and it has one neuron that nothing
    reads.
    """
    batch = list[int]()

    def before_output(head_size: int, layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        batch[:] = args[0].shape[:-1]
        if heads is None:
            return args
        context = args[0].unflatten(-1, (args[0].shape[-1] // head_size, head_size))
        return ((context * heads(layer, context)).flatten(-2), *args[1:])

    def by_text(gate: Gate, layer: int, values: Tensor) -> Tensor:
        # Some models hand all tokens of a batch to an FFN in one line.
        whole = values.view(*batch, values.shape[-1])
        return (whole * gate(layer, whole)).view_as(values)

    with ExitStack() as hooks:
        for place, attention in enumerate(attentions_of(model)):
            before = partial(before_output, attention.shape.head_size, place)
            output = attention.module(attention.part.gated)
            hooks.callback(output.register_forward_pre_hook(before).remove)
        for layer, ffn in enumerate(ffns_of(model)):
            if ffns is not None:
                scale = partial(by_text, ffns, layer)
                after = ffn.module(ffn.part.gated).register_forward_hook(lambda m, a, out, scale=scale: scale(out))
                hooks.callback(after.remove)
            if neurons is not None:
                scale = partial(by_text, neurons, layer)
                inner = ffn.module(ffn.part.output).register_forward_pre_hook(lambda m, a, s=scale: (s(a[0]), *a[1:]))
                hooks.callback(inner.remove)
        yield


@contextmanager
def ticket_gated(model: PreTrainedModel, ticket: Ticket) -> Iterator[None]:
    """Within the context, only the ticket's heads, FFNs and neurons act; the model stays as large as it was."""
    heads, ffns = torch.tensor(ticket.heads), torch.tensor(ticket.ffns)
    neurons = None if ticket.neurons is None else torch.tensor(ticket.neurons)
    with gated(
        model,
        heads=lambda layer, context: heads[layer].to(context)[:, None],
        ffns=lambda layer, output: ffns[layer].to(output),
        neurons=None if neurons is None else lambda layer, values: neurons[layer].to(values),
    ):
        yield
