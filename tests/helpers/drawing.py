"""Drawing at a level of heads and FFNs, as studies do."""

import numpy as np

from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, Kind, draw_random, draw_ranked
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.levels import counts_at


def sizes(layers: int, heads: int, neurons: int | None = None) -> dict[Structure, Units]:
    """Return the structures of an encoder: heads, and FFNs or neurons."""
    if neurons is not None:
        return {"heads": Units(layers, heads), "neurons": Units(layers, neurons)}
    return {"heads": Units(layers, heads), "ffns": Units(layers, 1, one_stays=False)}


def ranked(
    heads: np.ndarray, ffns: np.ndarray, level: float, kind: Kind, how: str = "share", within: Ticket | None = None
) -> Ticket:
    """Return a ticket drawn by scores of heads and FFNs, as they are."""
    counts = counts_at(level, sizes(*np.shape(heads)), how) if np.ndim(heads) == 2 else {"heads": 1}  # type: ignore[misc]
    return draw_ranked({"heads": heads, "ffns": ffns}, counts, kind, within)


def randomly(layers: int, heads: int, level: float, seed: int, how: Drawing | None = None) -> Ticket:
    """Return a random ticket of heads and FFNs."""
    how, of = how or Drawing(), sizes(layers, heads)
    return draw_random((layers, heads), of, counts_at(level, of, how.counts), level, seed, how)
