"""What a ticket costs, from sizes alone: parameters, and a forward pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supertickets.anatomy.family import Shape
from supertickets.errors import TicketError
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import STRUCTURES, Structure, Units
from supertickets.tickets.prices import Prices
from supertickets.tickets.ticket import in_words

BACKWARD = 2  # a backward pass costs about twice its forward pass


def forward_flops(shape: Shape, ticket: Ticket, examples: int, length: int) -> int:
    """Return the floating-point operations of the layers for a padded batch; a multiply-add counts two.

    Matrix products only (projections, attention, FFNs); embeddings, norms and the output layer are left out.
    """
    of_attentions = _applied(shape, len(ticket.heads))
    heads = int(of_attentions @ ticket.heads.sum(axis=1))
    neurons = ticket.ffns * shape.ffn if ticket.neurons is None else ticket.neurons.sum(axis=1)
    weights = heads * shape.head_weights + int(of_attentions @ _kv_heads(shape, ticket)) * shape.kv_weights
    weights += int(_applied(shape, len(ticket.ffns)) @ neurons) * shape.ffn_weights // max(1, shape.ffn)
    weights += int(of_attentions @ ticket.heads.any(axis=1)) * shape.whole_weights
    attention = heads * shape.head_size * 2 * length
    return examples * length * 2 * (weights + attention)


def _applied(shape: Shape, rows: int) -> NDArray[np.int64]:
    """Return how many times each row of a ticket is applied, `[rows]`."""
    return np.array(shape.applied or (1,) * rows)


def parameters(shape: Shape, ticket: Ticket) -> int:
    """Return how many parameters a ticket's heads and FFNs have, biases too (an output projection's is no head's)."""
    heads = ticket.kept_heads * (shape.head_weights + shape.head_biases)
    shared = kv_heads(shape, ticket) * kv_parameters(shape)
    neurons = kept_neurons(shape, ticket) * _of_neuron(shape)
    return heads + shared + neurons + ticket.kept_ffns * shape.output_biases


def kept_neurons(shape: Shape, ticket: Ticket) -> int:
    """Return how many neurons stay, those of FFNs that stay whole too."""
    return ticket.kept_ffns * shape.ffn if ticket.kept_neurons is None else ticket.kept_neurons


def _of_neuron(shape: Shape) -> int:
    return (shape.ffn_weights + shape.ffn_biases - shape.output_biases) // max(1, shape.ffn)


def units(shape: Shape, structures: Sequence[Structure], block: int = 1) -> dict[Structure, Units]:
    """Return how many structures of each kind a model has, and what one weighs: key/value heads in equal parts.

    Neurons are pruned in blocks of `block`; raises TicketError if those do not fill an FFN.
    """
    if "neurons" in structures and shape.ffn % block:
        near = min((n for n in range(1, shape.ffn + 1) if shape.ffn % n == 0), key=lambda n: (abs(n - block), n))
        raise TicketError(
            f"--neuron-block {block}: an FFN has {shape.ffn} neurons, which is no multiple of it; the nearest that "
            f"fits is {near}."
        )
    head: float = shape.head_weights + shape.head_biases
    head += kv_parameters(shape) * shape.kv_heads / max(1, shape.heads)
    every: dict[Structure, Units] = {
        "heads": Units(shape.attentions, shape.heads, head, shared=shape.heads // max(1, shape.kv_heads)),
        "ffns": Units(shape.layers, 1, shape.ffn_weights + shape.ffn_biases, one_stays=False),
        "neurons": Units(shape.layers, shape.ffn, _of_neuron(shape), least=block),
    }
    return {kind: every[kind] for kind in structures}


def unlike(shape: Shape, ticket: Ticket) -> tuple[str, str] | None:
    """Return what a ticket is for and what a model has, in words, if the ticket is not for a model of this shape."""
    neurons = shape.ffn if ticket.neurons is None else ticket.neurons.shape[1]
    if ticket.shape != shape.of_tickets:
        return in_words(ticket.shape), in_words(shape.of_tickets)
    return None if neurons == shape.ffn else (f"FFNs of {neurons} neurons", f"FFNs of {shape.ffn}")


def removed_parameters(shape: Shape, ticket: Ticket) -> int:
    """Return how many parameters of heads and FFNs a model loses when it is cut to a ticket."""
    return parameters(shape, Ticket.full(*ticket.shape)) - parameters(shape, ticket)


def kv_heads(shape: Shape, ticket: Ticket) -> int:
    """Return how many key/value heads stay: those that a query head of their group is left of."""
    return int(_kv_heads(shape, ticket).sum())


def _kv_heads(shape: Shape, ticket: Ticket) -> NDArray[np.int64]:
    """Return how many key/value heads stay in each attention module, `[attentions]`."""
    if shape.kv_heads == shape.heads:
        return ticket.heads.sum(axis=1)
    return ticket.heads.reshape(len(ticket.heads), shape.kv_heads, -1).any(axis=2).sum(axis=1)


def parameter_prices(shape: Shape, structures: Sequence[Structure], whole: float) -> Prices:
    """Return what layers cost in parameters, where the dense model has `whole` of them in all.

    Key/value heads are priced in equal parts of their query heads (a whole one: `kv_parameters`).
    """
    head = units(shape, ["heads"])["heads"].parameters
    ffn = [0.0, shape.ffn_weights + shape.ffn_biases]
    neurons = np.arange(shape.ffn + 1.0) * _of_neuron(shape)
    neurons[1:] += shape.output_biases
    return _prices("parameters", shape, structures, (head * np.arange(shape.heads + 1), ffn, neurons), whole)


def kv_parameters(shape: Shape) -> int:
    """Return how many parameters a key/value head has that query heads share."""
    return shape.kv_weights + shape.kv_biases


def kv_flops(shape: Shape, length: int) -> int:
    """Return the FLOPs of a shared key/value head for one input of `length` tokens, applied once."""
    return length * 2 * shape.kv_weights


def flops_prices(shape: Shape, structures: Sequence[Structure], length: int) -> Prices:
    """Return what layers cost in FLOPs of a forward pass of one input of `length` tokens.

    Key/value heads are priced in equal parts of their query heads (a whole one: `kv_flops`).
    """
    once = length * 2
    head = float(once * (shape.head_weights + shape.head_size * 2 * length))
    head += kv_flops(shape, length) * shape.kv_heads / max(1, shape.heads)
    ffn = [0.0, once * shape.ffn_weights]
    each = once * (shape.ffn_weights // max(1, shape.ffn)) * np.arange(shape.ffn + 1.0)
    whole = forward_flops(shape, Ticket.full(*shape.of_tickets), 1, length)
    rows = head * np.arange(shape.heads + 1), ffn, each
    return _prices("FLOPs", shape, structures, rows, whole, each_time=True)


def _prices(
    unit: str,
    shape: Shape,
    structures: Sequence[Structure],
    rows: Sequence[ArrayLike],
    whole: float,
    each_time: bool = False,
) -> Prices:
    """Return prices from a layer's rows of heads, FFNs and neurons; what is not drawn is in the fixed part.

    They are paid `each_time` that a layer is applied, or once.
    """
    by: dict[Structure, NDArray[np.float64]] = {}
    for kind, row in zip(STRUCTURES, rows, strict=True):
        if kind in structures:
            times = _applied(shape, shape.attentions if kind == "heads" else shape.layers)
            by[kind] = np.outer(times if each_time else np.ones(len(times)), np.asarray(row, float))
    return Prices(unit, whole - sum(float(one[:, -1].sum()) for one in by.values()), by)
