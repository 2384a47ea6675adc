"""The ticket that keeps the most importance under a cost: a knapsack over layers and kinds of structures.

Structures of a kind in one layer cost the same, so of each layer the most important stay, and what is to be chosen is
how many: one number for each layer and kind (a multiple-choice knapsack). Where query heads share key/value heads, it
is how many of how many of these. Scores of different kinds are compared as they were measured: those by mask variables
are all derivatives of the loss (Super Tickets paper, section 3). Where some of a kind are negative, as those of
`movement` may be, a structure counts by how far it is above the lowest of its kind: a sum of negative scores would be
the larger the less is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.levels import Counts, counts_at
from supertickets.tickets.prices import Prices, amount
from supertickets.tickets.scoring import Scores
from supertickets.tickets.ticket import Ticket, check_scores

NODES = 200
"""Branches that are searched at most; a number, not a time, so that the same ticket is drawn on any machine."""
_NEAR, _FEW, _SMALL, _CLOSE = 8, 32, 1000, 1e-4
"""How many choices of a layer and kind are looked at first, and at last where there are many; up to how many in all the
best is proved; and else how much of its importance a ticket may lack of the bound before more are looked at."""


@dataclass(frozen=True)
class Cap:
    """A cost that a ticket may have at most: `name` as it was typed, `most` in the unit of `prices`.

    Of key/value heads, which stay while one of their query heads does, `prices` have an equal part in each query
    head's; `together` is what a whole one costs, and `exactly` what a ticket does.
    """

    name: str
    prices: Prices
    most: float
    exactly: Callable[[Ticket], float] | None = None
    together: float = 0.0

    def of(self, ticket: Ticket) -> float:
        """Return what a ticket costs."""
        return self.prices.of(ticket) if self.exactly is None else self.exactly(ticket)

    def holds(self, ticket: Ticket) -> bool:
        """Whether a ticket costs no more than that, but for rounding."""
        return self.of(ticket) <= self.most * (1 + 1e-9)


@dataclass(frozen=True)
class Drawn:
    """A ticket drawn under caps: the share of all importance that it keeps, and how much more another could keep.

    `gap` is 0 where the ticket is proved to be the best; else the share of its importance that the best one may have
    more, at most.
    """

    ticket: Ticket
    kept: float
    gap: float


@dataclass(frozen=True)
class _Group:
    """The choices of a layer for one kind: how many stay, the importance of the best so many, what they cost.

    `kept` says which, where it is not simply the best so many.
    """

    kind: Structure
    layer: int
    numbers: NDArray[np.int64]
    worth: NDArray[np.float64]
    costs: NDArray[np.float64]
    """`[caps, choices]`"""
    kept: NDArray[np.bool_] | None = None
    """`[choices, each]`"""


def worth_of(scores: Scores) -> Scores:
    """Return what structures count in a ticket's importance: scores as measured, from the lowest of a kind if negative.

    >>> worth_of({"ffns": np.array([-2.0, 1.0]), "heads": np.array([[1.0, 3.0]])})
    {'ffns': array([0., 3.]), 'heads': array([[1., 3.]])}
    """
    return {kind: values - min(0.0, float(values.min())) for kind, values in scores.items()}


def draw_under(scores: Scores, caps: Sequence[Cap], shape: tuple[int, ...], units: Mapping[Structure, Units]) -> Drawn:
    """Return the ticket that keeps the most importance and costs no more than every cap says.

    `scores` are taken as measured, not normalised (see `worth_of`); `units` say which kinds are pruned and in blocks of
    how many neighbours; other kinds stay whole. Each layer keeps a head (and a neuron), as in all draws. Solved as a
    mixed integer program (HiGHS): exactly for heads and FFNs, and with thousands of neurons up to a stated gap. Raises
    TicketError for a cap that no ticket holds, with the smallest cost that there is.
    """
    found = worth_of(check_scores({kind: scores[kind] for kind in {"heads": 0, "ffns": 0, **units}}))
    groups = [group for kind, of in units.items() for group in _groups(kind, found[kind], of, caps)]
    for place, cap in enumerate(caps):
        least = cap.prices.fixed + sum(group.costs[place].min() for group in groups)
        if least > cap.most * (1 + 1e-9):
            raise unreachable(cap, least)
    chosen, gap = _solve(groups, [cap.most - cap.prices.fixed for cap in caps], caps)
    every = sum(float(group.worth[-1]) for group in groups)
    worth = sum(float(group.worth[at]) for group, at in zip(groups, chosen, strict=True))
    return Drawn(_ticket(groups, chosen, found, units, shape), worth / every if every else 1.0, gap)


def unreachable(cap: Cap, least: float) -> TicketError:
    """Return the error that says of a cap that no ticket holds it, and what the smallest costs."""
    return TicketError(
        f"--target {cap.name}: the smallest ticket takes {amount(least, cap.prices.unit)}, more than "
        f"{amount(cap.most, cap.prices.unit)}, as each layer keeps a head (or neuron) and what is not pruned stays; "
        "choose a larger target or more --structures."
    )


def _groups(kind: Structure, scores: NDArray[np.float64], of: Units, caps: Sequence[Cap]) -> list[_Group]:
    rows = scores.reshape(len(scores), -1)
    blocks = _blocks(rows, of.least)
    numbers = np.arange(1 if of.one_stays else 0, blocks.shape[1] + 1)
    found = []
    for layer, row in enumerate(blocks):
        if of.shared > 1:
            found.append(_of_shared(kind, layer, row.reshape(-1, of.shared), caps))
            continue
        worth = np.concatenate([[0.0], np.cumsum(np.sort(row)[::-1])])[numbers]
        costs = [cap.prices.by[kind][layer][numbers * of.least] for cap in caps]
        found.append(_Group(kind, layer, numbers * of.least, worth, np.array(costs)))
    return found


def _of_shared(kind: Structure, layer: int, scores: NDArray[np.float64], caps: Sequence[Cap]) -> _Group:
    """Return the choices of a layer with shared key/value heads, from scores `[key/value heads, query heads of each]`.

    For every number of query heads and of key/value heads, these are the best ones; choices are left out where another
    one is worth as much or more and costs no more. Each keeps a head.
    """
    best = {(0, 0): (0.0, np.zeros((0, scores.shape[1]), bool))}
    for row in scores:
        order = np.argsort(-row, kind="stable")
        sums, masks = np.concatenate([[0.0], np.cumsum(row[order])]), order.argsort() < np.arange(len(row) + 1)[:, None]
        more: dict[tuple[int, int], tuple[float, NDArray[np.bool_]]] = {}
        for (heads, shared), (so_far, above) in best.items():
            for number, mask in enumerate(masks):
                key, value = (heads + number, shared + (number > 0)), so_far + float(sums[number])
                if key not in more or value > more[key][0]:
                    more[key] = (value, np.vstack([above, mask]))
        best = more
    del best[0, 0]
    keys = sorted(best)
    numbers, whole = np.array(keys).T
    worth = np.array([best[key][0] for key in keys])
    apart = whole - numbers / scores.shape[1]
    costs = np.array([cap.prices.by[kind][layer][numbers] + cap.together * apart for cap in caps])
    no_dearer = (costs[:, :, None] <= costs[:, None]).all(axis=0)
    better = no_dearer & (worth[:, None] >= worth) & ((worth[:, None] > worth) | ~no_dearer.T)
    whole_layer = numbers == scores.size  # against which worth is measured
    stays = ~better.any(axis=0) | whole_layer
    kept = np.array([best[key][1].ravel() for key in keys])
    return _Group(kind, layer, numbers[stays], worth[stays], costs[:, stays], kept[stays])


def _blocks(rows: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    return np.asarray(rows.reshape(len(rows), -1, least).sum(axis=2))


def _solve(groups: Sequence[_Group], most: Sequence[float], caps: Sequence[Cap]) -> tuple[list[int], float]:
    """Return the place of each group's choice, and the gap; `most` is what the choices may cost together.

    The relaxed problem, in which a layer may take parts of two choices, bounds the worth from above, and says of each
    choice what taking it would lose at least. Choices that would lose more than a ticket at hand lacks of the bound are
    in no better ticket, so the whole numbers are searched among the few others (reduced cost fixing).
    """
    problem = _Problem.of(groups, most)
    bound, loss = problem.relaxed(caps)
    near, small = _NEAR, problem.owner.size <= _SMALL
    while True:
        among = np.flatnonzero(problem.nearest(loss, near) | problem.cheapest())
        chosen, worth, proved = problem.whole(among, caps, 1e-9 if small else _CLOSE / 10)
        lacks = max(0.0, bound - worth)
        if small and proved and np.isin(np.flatnonzero(loss <= lacks + 1e-12), among).all():
            return chosen, 0.0
        if near >= (problem.owner.size if small else _FEW) or (not small and lacks <= _CLOSE * worth):
            return chosen, lacks / max(worth, 1e-300)
        near *= 4


@dataclass(frozen=True)
class _Problem:
    """All choices in a row: the group of each, its worth (scaled), its costs `[caps, choices]` and their limits."""

    owner: NDArray[np.int64]
    value: NDArray[np.float64]
    costs: NDArray[np.float64]
    most: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Sequence[_Group], most: Sequence[float]) -> _Problem:
        owner = np.repeat(np.arange(len(groups)), [len(group.numbers) for group in groups])
        costs = np.concatenate([group.costs for group in groups], axis=1)
        scale = np.abs(costs).max(axis=1, keepdims=True).clip(min=1e-300)  # bytes and seconds alike
        worth = np.concatenate([group.worth for group in groups])
        # Of equals the smaller: a structure without importance is not worth its cost.
        value = worth / max(worth.max(), 1e-300) - 1e-12 * (costs / scale).sum(axis=0)
        return cls(owner, value, costs / scale, np.array(most) * (1 + 1e-10) / scale[:, 0])

    def relaxed(self, caps: Sequence[Cap]) -> tuple[float, NDArray[np.float64]]:
        """Return the worth of the best choices if parts of them may be taken, and what each loses against them.

        Of thousands of choices few matter: those that would gain at the prices found so far are added until none would
        (column generation), which solves the problem of all of them.
        """
        groups = np.arange(self.owner[-1] + 1)
        starts, sizes = np.searchsorted(self.owner, groups), np.bincount(self.owner)
        among = np.unique(np.concatenate([starts, *(starts + (sizes - 1) * part // 16 for part in range(1, 17))]))
        while True:
            worth, price, group = self._relaxed(among, caps)
            gain = self.value - price @ self.costs
            best = np.maximum.reduceat(gain, starts)
            first = np.flatnonzero(gain >= best[self.owner] - 1e-12)
            new = np.setdiff1d(first[best[self.owner[first]] > group[self.owner[first]] + 1e-9], among)
            if not new.size:
                return worth, best[self.owner] - gain
            among = np.union1d(among, new)

    def _relaxed(
        self, among: NDArray[np.int64], caps: Sequence[Cap]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return the best worth with parts of these choices, the price of each cap, and the worth of each group."""
        from scipy.optimize import linprog

        owner = self.owner[among]
        one_each = (owner == np.arange(owner[-1] + 1)[:, None]).astype(float)
        solved = linprog(
            -self.value[among],
            A_ub=self.costs[:, among],
            b_ub=self.most,
            A_eq=one_each,
            b_eq=np.ones(len(one_each)),
            bounds=(0, None),  # at most 1, as each group has one: no price of its own
        )
        if solved.x is None:
            raise _none_holds(caps)
        return -float(solved.fun or 0), -solved.ineqlin.marginals, -solved.eqlin.marginals

    def nearest(self, loss: NDArray[np.float64], near: int) -> NDArray[np.bool_]:
        """Return which choices are among the `near` of their group that lose the least."""
        order = np.lexsort((loss, self.owner))
        starts = np.searchsorted(self.owner[order], np.arange(self.owner[-1] + 1))
        rank = np.empty(order.size, int)
        rank[order] = np.arange(order.size) - starts[self.owner[order]]
        return rank < near

    def cheapest(self) -> NDArray[np.bool_]:
        """Return which choices of a group cost the least, of each cap: with one cap, something is possible with them.

        They need not be the smallest: measured times do not always rise with what is kept.
        """
        starts = np.searchsorted(self.owner, np.arange(self.owner[-1] + 1))
        least = np.minimum.reduceat(self.costs, starts, axis=1)
        return np.asarray((self.costs <= least[:, self.owner]).any(axis=0))

    def whole(self, among: NDArray[np.int64], caps: Sequence[Cap], gap: float) -> tuple[list[int], float, bool]:
        """Return the place of each group's choice in its group, of the best ticket with choices `among` these.

        Also its worth, and whether it was proved to be the best up to `gap`: not where the `NODES` did not suffice.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix

        owner = self.owner[among]
        with _nothing_printed():
            solved = milp(
                -self.value[among],
                constraints=[
                    LinearConstraint(csr_matrix((np.ones(owner.size), (owner, np.arange(owner.size)))), 1, 1),
                    LinearConstraint(self.costs[:, among], -np.inf, self.most),
                ],
                integrality=np.ones(owner.size, int),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": gap, "node_limit": NODES},
            )
        if solved.x is None:
            raise _none_holds(caps)
        taken = among[solved.x > 0.5]
        starts = np.searchsorted(self.owner, np.arange(self.owner[-1] + 1))
        return (taken - starts).tolist(), float(self.value[taken].sum()), solved.status == 0


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep what HiGHS prints out of the output of commands: it says some things whatever its options are."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _none_holds(caps: Sequence[Cap]) -> TicketError:
    names = " and ".join(cap.name for cap in caps)
    return TicketError(f"--target {names}: no ticket was found that holds all of them at once; choose a larger one.")


def _ticket(
    groups: Sequence[_Group],
    chosen: Sequence[int],
    scores: Scores,
    units: Mapping[Structure, Units],
    shape: tuple[int, ...],
) -> Ticket:
    kept: dict[Structure, NDArray[np.bool_]] = {}
    for group, place in zip(groups, chosen, strict=True):
        values = scores[group.kind]
        rows, least = values.reshape(len(values), -1), units[group.kind].least
        mask = kept.setdefault(group.kind, np.zeros(rows.shape, bool))
        if group.kept is not None:
            mask[group.layer] = group.kept[place]
            continue
        best = np.argsort(-_blocks(rows, least)[group.layer], kind="stable")[: group.numbers[place] // least]
        blocks = np.zeros(rows.shape[1] // least, bool)
        blocks[best] = True
        mask[group.layer] = blocks.repeat(least)
    return Ticket.of_kinds({kind: mask.ravel() if kind == "ffns" else mask for kind, mask in kept.items()}, shape)


def lightest_level(
    draw: Callable[[float, Counts], Ticket], caps: Sequence[Cap], units: Mapping[Structure, Units]
) -> tuple[float, Ticket]:
    """Return the lightest level at which the same share of every kind goes and all caps hold, and its ticket.

    `draw` gives the ticket of a level and its counts. This is the paper's way to prune, held against `draw_under`.
    Raises TicketError if the heaviest level costs too much.
    """
    steps = max(one.total // one.least for one in units.values())

    def at(step: int) -> tuple[float, Ticket]:
        level = step / steps
        return level, draw(level, counts_at(level, units))

    low, high = 0, steps  # at the last one as much goes as can
    heaviest = at(high)[1]
    for cap in caps:
        if not cap.holds(heaviest):
            raise unreachable(cap, cap.of(heaviest))
    while low < high:
        middle = (low + high) // 2
        ticket = at(middle)[1]
        low, high = (low, middle) if all(cap.holds(ticket) for cap in caps) else (middle + 1, high)
    return at(high)
