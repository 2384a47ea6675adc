"""What the released code does otherwise than the paper says, kept for comparison (spec sections 2 and 3).

Nothing here is on the paper's path; `Drawing` and `ScoringSettings` choose these by name.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from supertickets.tickets.kinds import Units


def ladder(level: float, heads: int, ffns: int) -> tuple[int, int]:
    """Return how many of a model's heads and FFNs the scripts prune at `level`: floors, and FFNs as if 12 were 10.

    BERT-base (12 x 12): 0.1 ... 0.8 give (14, 1) (28, 2) (43, 3) (57, 4) (72, 5) (86, 6) (100, 7) (115, 8).
    """
    return int(level * heads + 1e-9), int(level * 10 * ffns / 12 + 1e-9)


def random_part(kind: str, of: Units, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Sample with replacement (duplicates vanish, so fewer go), layer = id // layers, none protected.

    With fewer layers than heads the scripts' `id // layers` points past the last layer and they crash; there,
    `id // heads` is used.
    """
    each = of.each // of.least
    kept = np.ones((of.layers, each), bool)
    ids = rng.choice(kept.size, size=count // of.least, replace=True)
    kept[ids // (of.layers if each > 1 and of.layers >= each else each), ids % each] = False
    return kept.repeat(of.least, axis=1)


def decaying_mean(per_batch: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return S = 1/T sum_t (T - t) g_t over T batches: gradients never set to zero between batches."""
    batches = len(per_batch)
    weights = np.arange(batches, 0, -1, dtype=np.float64) / batches
    return np.tensordot(weights, np.stack(per_batch), axes=1)
