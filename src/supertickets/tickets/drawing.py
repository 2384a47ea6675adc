"""Drawing tickets: scores and counts in, a ticket out. Pure functions (Super Tickets paper, section 3).

Every ticket keeps at least one head a layer, and one neuron where neurons are drawn.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from supertickets.errors import TicketError
from supertickets.tickets import released
from supertickets.tickets.kinds import Structure, Structured, Units
from supertickets.tickets.levels import Counts
from supertickets.tickets.scoring import Scores
from supertickets.tickets.ticket import Ticket, check_scores

Kind = Literal["winning", "random", "losing"]
KINDS: tuple[Kind, ...] = ("winning", "random", "losing")


class Drawing(Structured):
    """How tickets are drawn from scores; the defaults are the paper's text."""

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
    neuron_block: int = Field(
        1, ge=1, description="number of neighbouring neurons that are kept or pruned together (--structures neurons)"
    )
    schedule: Literal["one-shot", "iterative"] = Field(
        "one-shot",
        description="draw all levels from the dense model's importance scores (one-shot), or each level from the "
        "scores of the previous level's ticket, rewound and trained (iterative)",
    )


def normalise_by_layer(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each layer's scores `[layers, heads]` by their l2 norm (paper, section 3; 1e-20 as in the code)."""
    return scores / (np.linalg.norm(scores, axis=1, keepdims=True) + 1e-20)


def normalise(scores: Scores) -> Scores:
    """Return scores as they are ranked over all layers: heads and neurons by their layer's l2 norm, FFNs as they are.

    The paper ranks heads and FFNs so (section 3); neurons are ours, and are taken like heads.
    """
    return {kind: values if kind == "ffns" else normalise_by_layer(values) for kind, values in scores.items()}


def _lowest_first(scores: NDArray[np.float64], one_stays: bool) -> NDArray[np.int64]:
    """Return the places in scores `[layers, each]` in the order in which they are dropped, ranked over all layers.

    A layer's best is never dropped if `one_stays`. Ties go in layer-major order.
    """
    order = np.argsort(scores, axis=None, kind="stable")
    if one_stays:
        protected = np.zeros(scores.shape, bool)
        protected[np.arange(len(scores)), scores.argmax(axis=1)] = True
        order = order[~protected.ravel()[order]]
    return order


def _drop_lowest(scores: NDArray[np.float64], count: int, one_stays: bool, block: int = 1) -> NDArray[np.bool_]:
    """Return what stays, `[layers, each]`, without the lowest scores (see `_lowest_first`).

    `block` neighbours go together.
    """
    scores = scores.reshape(len(scores), -1, block).sum(axis=2)
    kept = np.ones(scores.size, bool)
    kept[_lowest_first(scores, one_stays)[: count // block]] = False
    return kept.reshape(scores.shape).repeat(block, axis=1)


def _signed(scores: NDArray[np.float64], kind: Kind, there: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return scores as rows whose lowest go first: of a losing ticket the highest, and before all what is gone."""
    signed = scores if kind == "winning" else -scores
    signed = signed if there is None else np.where(there, signed, -np.inf)
    return signed.reshape(len(signed), -1)


def order_of_pruning(
    scores: NDArray[np.float64], what: Structure, kind: Kind, there: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return the places (flat) of one kind's structures in the order in which `draw_ranked` prunes them one by one.

    Those that always stay are not among them; those that are not `there` come first.

    >>> order_of_pruning(np.array([[3.0, 1.0], [2.0, 4.0]]), "heads", "winning").tolist()
    [1, 2]
    """
    return _lowest_first(_signed(scores, kind, there), what != "ffns")


def draw_ranked(
    scores: Scores,
    counts: Counts,
    kind: Kind,
    within: Ticket | None = None,
    block: int = 1,
) -> Ticket:
    """Return the winning (lowest scores go) or losing (highest go) ticket that lacks these counts of structures.

    `scores` (see `tickets.scoring.Scores`) are ranked as given: normalise them first; kinds without a count stay whole.
    Neurons go in blocks of `block` neighbours. `within` is the ticket that the scores were measured on, if it was not
    the dense model: what it has not got stays gone and counts (iterative pruning). Raises TicketError on other shapes,
    and for a count below what is gone already.
    """
    found = check_scores({"heads": scores["heads"], "ffns": scores["ffns"], **{k: scores[k] for k in counts}})
    there: dict[Structure, NDArray[np.bool_]] = {}
    if within is not None:
        there = {"heads": within.heads, "ffns": within.ffns}
        there |= {"neurons": within.neurons_of(found["neurons"].shape[1])} if "neurons" in found else {}
    kept: dict[Structure, NDArray[np.bool_]] = {}
    for what, count in counts.items():
        if what in there and (gone := int((~there[what]).sum())) > count:
            raise TicketError(
                f"{gone} {what} are gone already; expected a ticket that lacks at least as many, got {count}."
            )
        rows = _signed(found[what], kind, there.get(what))
        stays = _drop_lowest(rows, count, what != "ffns", block if what == "neurons" else 1)
        kept[what] = stays.reshape(found[what].shape)
    return Ticket.of_kinds(kept, Ticket.all_of(found["heads"], found["ffns"]).shape)


def draw_random(
    shape: tuple[int, ...], units: Mapping[Structure, Units], counts: Counts, level: float, seed: int, how: Drawing
) -> Ticket:
    """Return a random ticket: by default uniform among those of its size that keep a head (or neuron) a layer.

    `shape` is the ticket's, `level` a number that each of a study's levels has as its own.
    """
    rng = np.random.default_rng([seed, round(level * 1_000_000)])
    sample: Callable[..., NDArray[np.bool_]] = (
        released.random_part if how.random == "with-replacement" else _random_part
    )
    drawn = {kind: sample(kind, units[kind], count, rng) for kind, count in counts.items()}
    return Ticket.of_kinds({kind: kept.ravel() if kind == "ffns" else kept for kind, kept in drawn.items()}, shape)


def _random_part(kind: Structure, of: Units, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return what stays of one kind, `[layers, each]`."""
    blocks = of.each // of.least
    kept = np.ones((of.layers, blocks), bool)
    if not of.one_stays:
        kept[rng.choice(of.layers, size=count, replace=False)] = False
    elif kind == "heads":
        for layer, pruned in enumerate(_random_split(of.layers, of.each, count, rng)):
            kept[layer, rng.choice(of.each, size=pruned, replace=False)] = False
    else:
        # Of thousands, almost every choice leaves some in each layer; where few stay, the exact split is small.
        stay = kept.size - count // of.least
        while True:
            if stay < 20 * of.layers:
                least_one = _random_split(of.layers, blocks, stay, rng, least=1, most=blocks)
            else:
                least_one = rng.multivariate_hypergeometric([blocks] * of.layers, stay).tolist()
            if min(least_one) > 0:
                break
        kept[:] = False
        for layer, stays in enumerate(least_one):
            kept[layer, rng.choice(blocks, size=stays, replace=False)] = True
    return kept.repeat(of.least, axis=1)


def _random_split(
    layers: int, each: int, total: int, rng: np.random.Generator, least: int = 0, most: int | None = None
) -> list[int]:
    """Split `total` structures over layers, as a uniform choice of sets would; of heads that go, one a layer may not.

    ways[l][t] counts the sets of t in the last l layers; layer by layer, a number is drawn by its share.
    """
    most = each - 1 if most is None else most
    ways = [[1] + [0] * total]
    for _ in range(layers):
        last = ways[-1]
        ways.append(
            [sum(math.comb(each, k) * last[t - k] for k in range(least, min(most, t) + 1)) for t in range(total + 1)]
        )
    split, left = [], total
    for below in range(layers - 1, -1, -1):
        numbers = range(least, min(most, left) + 1)
        weights = [math.comb(each, k) * ways[below][left - k] for k in numbers]
        shares = np.array([weight / sum(weights) for weight in weights])
        split.append(int(rng.choice(numbers, p=shares / shares.sum())))
        left -= split[-1]
    return split
