"""What a ticket costs, from sizes alone: parameters, and a forward pass."""

import numpy as np

from supertickets.anatomy.family import Shape
from supertickets.tickets import Ticket

BACKWARD = 2  # a backward pass costs about twice its forward pass


def forward_flops(shape: Shape, ticket: Ticket, examples: int, length: int) -> int:
    """Return the floating-point operations of the encoder layers for a padded batch; a multiply-add counts two.

    Matrix products only (projections, attention, FFNs); embeddings, norms and the output layer are left out.
    """
    width = ticket.heads.sum(axis=1).astype(np.int64) * shape.head_size  # of all heads that stay, per layer
    projections = int(width.sum()) * 4 * 2 * shape.hidden
    attention = int(width.sum()) * 2 * 2 * length
    ffns = ticket.kept_ffns * 2 * 2 * shape.hidden * shape.ffn
    return examples * length * (projections + attention + ffns)


def parameters(shape: Shape, ticket: Ticket) -> int:
    """Return how many parameters a ticket's heads and FFNs have, biases too (an output projection's is no head's)."""
    head = shape.head_size * (4 * shape.hidden + 3)
    ffn = 2 * shape.hidden * shape.ffn + shape.hidden + shape.ffn
    return ticket.kept_heads * head + ticket.kept_ffns * ffn
