"""What a ticket costs, from sizes alone: parameters, and a forward pass."""

from supertickets.anatomy.family import Shape
from supertickets.tickets import Ticket

BACKWARD = 2  # a backward pass costs about twice its forward pass


def forward_flops(shape: Shape, ticket: Ticket, examples: int, length: int) -> int:
    """Return the floating-point operations of the layers for a padded batch; a multiply-add counts two.

    Matrix products only (projections, attention, FFNs); embeddings, norms and the output layer are left out.
    """
    weights = ticket.kept_heads * shape.head_weights + kv_heads(shape, ticket) * shape.kv_weights
    weights += ticket.kept_ffns * shape.ffn_weights
    attention = ticket.kept_heads * shape.head_size * 2 * length
    return examples * length * shape.repeats * 2 * (weights + attention)


def parameters(shape: Shape, ticket: Ticket) -> int:
    """Return how many parameters a ticket's heads and FFNs have, biases too (an output projection's is no head's)."""
    heads = ticket.kept_heads * (shape.head_weights + shape.head_biases)
    shared = kv_heads(shape, ticket) * (shape.kv_weights + shape.kv_biases)
    return heads + shared + ticket.kept_ffns * (shape.ffn_weights + shape.ffn_biases)


def removed_parameters(shape: Shape, ticket: Ticket) -> int:
    """Return how many parameters of heads and FFNs a model loses when it is cut to a ticket."""
    return parameters(shape, Ticket.full(*ticket.shape)) - parameters(shape, ticket)


def kv_heads(shape: Shape, ticket: Ticket) -> int:
    """Return how many key/value heads stay: those that a query head of their group is left of."""
    if shape.kv_heads == shape.heads:
        return ticket.kept_heads
    return int(ticket.heads.reshape(len(ticket.heads), shape.kv_heads, -1).any(axis=2).sum())
