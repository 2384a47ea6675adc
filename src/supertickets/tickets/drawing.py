"""Drawing tickets: scores and a level in, a ticket out. Pure functions (Super Tickets paper, section 3).

A level is the share of heads, and the same share of FFNs, that goes. Every ticket keeps at least one head a layer.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from supertickets.tickets import released
from supertickets.tickets.ticket import Ticket, check_scores

Kind = Literal["winning", "random", "losing"]
KINDS: tuple[Kind, ...] = ("winning", "random", "losing")


class Drawing(BaseModel):
    """How tickets are drawn from scores; the defaults are the paper's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: Literal["share", "ladder"] = Field(
        "share",
        description="how many heads and FFNs a level prunes: that fraction (share), or the released scripts' table "
        "(ladder)",
    )
    random: Literal["without-replacement", "with-replacement"] = Field(
        "without-replacement",
        description="how random tickets are sampled: without-replacement, or with-replacement, which prunes fewer "
        "than the level says",
    )
    schedule: Literal["one-shot", "iterative"] = Field(
        "one-shot",
        description="draw all levels from the dense model's importance scores (one-shot), or each level from the "
        "scores of the previous level's ticket, rewound and trained (iterative)",
    )


def normalise_by_layer(head_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each layer's head scores `[layers, heads]` by their l2 norm (paper, section 3; 1e-20 as in the code)."""
    return head_scores / (np.linalg.norm(head_scores, axis=1, keepdims=True) + 1e-20)


def counts_at(level: float, layers: int, heads: int, how: str = "share") -> tuple[int, int]:
    """Return how many heads and FFNs go at `level`; heads are capped so that one a layer can stay.

    `share` rounds to the nearest count, halves up. `ladder` is what the released scripts ask for (spec section 3).
    """
    if how == "ladder":
        pruned_heads, pruned_ffns = released.ladder(level, layers, heads)
    else:
        pruned_heads = math.floor(level * layers * heads + 0.5 + 1e-9)
        pruned_ffns = math.floor(level * layers + 0.5 + 1e-9)
    return min(pruned_heads, layers * (heads - 1)), pruned_ffns


def _drop_lowest(heads: NDArray[np.float64], ffns: NDArray[np.float64], n_heads: int, n_ffns: int) -> Ticket:
    """Keep all but the lowest heads, ranked over all layers, and FFNs; each layer's best head is never dropped.

    Ties go in layer-major order.
    """
    layers, per_layer = heads.shape
    protected = np.zeros(heads.shape, bool)
    protected[np.arange(layers), heads.argmax(axis=1)] = True
    order = np.argsort(heads, axis=None, kind="stable")
    order = order[~protected.ravel()[order]]
    kept_heads = np.ones(layers * per_layer, bool)
    kept_heads[order[:n_heads]] = False
    kept_ffns = np.ones(layers, bool)
    kept_ffns[np.argsort(ffns, kind="stable")[:n_ffns]] = False
    return Ticket(kept_heads.reshape(heads.shape), kept_ffns)


def draw_ranked(
    head_scores: NDArray[np.float64],
    ffn_scores: NDArray[np.float64],
    level: float,
    kind: Kind,
    how: Drawing,
    within: Ticket | None = None,
) -> Ticket:
    """Return the winning (lowest scores go) or losing (highest go) ticket at `level`.

    `head_scores` `[layers, heads]` are ranked as given: normalise them first. `within` is the ticket that the scores
    were measured on, if it was not the dense model: what it has not got stays gone and counts (iterative pruning).
    Raises TicketError on other shapes.
    """
    heads, ffns = check_scores(head_scores, ffn_scores)
    n_heads, n_ffns = counts_at(level, heads.shape[0], heads.shape[1], how.counts)
    sign = 1.0 if kind == "winning" else -1.0
    heads, ffns = sign * heads, sign * ffns
    if within is not None:
        heads, ffns = np.where(within.heads, heads, -np.inf), np.where(within.ffns, ffns, -np.inf)
    return _drop_lowest(heads, ffns, n_heads, n_ffns)


def draw_random(layers: int, heads: int, level: float, seed: int, how: Drawing) -> Ticket:
    """Return a random ticket at `level`: by default uniform among those of its size that keep a head a layer."""
    n_heads, n_ffns = counts_at(level, layers, heads, how=how.counts)
    rng = np.random.default_rng([seed, round(level * 1_000_000)])
    sample: Callable[..., Ticket] = released.random_ticket if how.random == "with-replacement" else _random_ticket
    return sample(layers, heads, n_heads, n_ffns, rng)


def _random_ticket(layers: int, heads: int, n_heads: int, n_ffns: int, rng: np.random.Generator) -> Ticket:
    kept_heads = np.ones((layers, heads), bool)
    for layer, pruned in enumerate(_random_split(layers, heads, n_heads, rng)):
        kept_heads[layer, rng.choice(heads, size=pruned, replace=False)] = False
    kept_ffns = np.ones(layers, bool)
    kept_ffns[rng.choice(layers, size=n_ffns, replace=False)] = False
    return Ticket(kept_heads, kept_ffns)


def _random_split(layers: int, heads: int, total: int, rng: np.random.Generator) -> list[int]:
    """Split `total` pruned heads over layers, at most `heads - 1` each, as a uniform choice of sets would.

    ways[l][t] counts the sets that prune t heads in the last l layers; layer by layer, a number is drawn by its share.
    """
    ways = [[1] + [0] * total]
    for _ in range(layers):
        last = ways[-1]
        ways.append(
            [sum(math.comb(heads, k) * last[t - k] for k in range(min(heads - 1, t) + 1)) for t in range(total + 1)]
        )
    split, left = [], total
    for below in range(layers - 1, -1, -1):
        numbers = range(min(heads - 1, left) + 1)
        weights = [math.comb(heads, k) * ways[below][left - k] for k in numbers]
        shares = np.array([weight / sum(weights) for weight in weights])
        split.append(int(rng.choice(len(shares), p=shares / shares.sum())))
        left -= split[-1]
    return split
