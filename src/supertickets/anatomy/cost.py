"""What a forward pass costs, from sizes alone."""

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
