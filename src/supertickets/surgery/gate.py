"""Gates: multiply each head's context and each FFN's output by a factor, through hooks; nothing enters the state dict.

A gate of 1 changes nothing and of 0 removes, which is how the paper defines its mask variables xi and nu (section 3).
Hooks on the attention output projection work in every family and under every attention implementation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import attentions_of, ffns_of
from supertickets.tickets import Ticket

HeadGate = Callable[[int, Tensor], Tensor]
"""(layer, context `[batch, tokens, heads, head_size]`) -> factor that broadcasts against it."""
FFNGate = Callable[[int, Tensor], Tensor]
"""(layer, output `[batch, tokens, hidden]`) -> factor that broadcasts against it."""


@contextmanager
def gated(model: PreTrainedModel, head_gate: HeadGate, ffn_gate: FFNGate) -> Iterator[None]:
    """Within the context, every head's context and every FFN's output are multiplied by what the gates return.

    In a cut model a head gate gets the heads that are left, and the output of an FFN that is gone is zero.
    """
    attentions, handles, batch = attentions_of(model), [], list[int]()
    head_size = attentions[0].shape.head_size
    for index, (attention, ffn) in enumerate(zip(attentions, ffns_of(model), strict=True)):

        def before_output(module: nn.Module, args: tuple[Tensor, ...], layer: int = index) -> tuple[Tensor, ...]:
            batch[:] = args[0].shape[:-1]
            context = args[0].unflatten(-1, (args[0].shape[-1] // head_size, head_size))
            return ((context * head_gate(layer, context)).flatten(-2), *args[1:])

        def after_ffn(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, layer: int = index) -> Tensor:
            by_text = output.view(*batch, output.shape[-1])  # some hand all tokens of a batch to the FFN in one line
            return (by_text * ffn_gate(layer, by_text)).view_as(output)

        handles.append(attention.module(attention.part.gated).register_forward_pre_hook(before_output))
        handles.append(ffn.module(ffn.part.gated).register_forward_hook(after_ffn))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def ticket_gated(model: PreTrainedModel, ticket: Ticket) -> Iterator[None]:
    """Within the context, only the ticket's heads and FFNs act; the model stays as large as it was."""
    heads, ffns = torch.tensor(ticket.heads), torch.tensor(ticket.ffns)
    with gated(
        model,
        lambda layer, context: heads[layer].to(context)[:, None],
        lambda layer, output: ffns[layer].to(output),
    ):
        yield
