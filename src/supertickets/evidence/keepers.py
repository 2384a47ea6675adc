"""Which heads and FFNs are kept by whom, and matter to whom: several tasks' tickets beside each other (section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.find import shared
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import normalise_by_layer
from supertickets.tickets.ticket import alike, flat


def keepers(of_task: Mapping[str, Ticket]) -> pd.DataFrame:
    """Return, layer by layer (from 0), how many heads all tasks keep, several, one, none; and who keeps the FFN.

    Where tickets are of neurons, also how many of them all tasks keep, and some but not all.
    """
    heads = np.sum([ticket.heads for ticket in of_task.values()], axis=0)
    modules = next(iter(of_task.values())).modules
    keep = [[task for task, ticket in of_task.items() if ticket.ffns[one.layer]] for one in modules]
    ffns = ["all" if len(tasks) == len(of_task) else ", ".join(tasks) or "none" for tasks in keep]
    columns = {
        "layer": [f"{one.layer}, {one.name}" if one.name else one.layer for one in modules],
        "heads of all": (heads == len(of_task)).sum(axis=1),
        "of several": ((heads > 1) & (heads < len(of_task))).sum(axis=1),
        "of one": (heads == 1).sum(axis=1),
        "of none": (heads == 0).sum(axis=1),
        "FFN of": [tasks if one.before_ffn else "" for one, tasks in zip(modules, ffns, strict=True)],
    }
    every = alike(*of_task.values())
    if "neurons" in every[0]:
        neurons = np.sum([kept["neurons"] for kept in every], axis=0)[[one.layer for one in modules]]
        columns["neurons of all"] = (neurons == len(of_task)).sum(axis=1)
        columns["neurons of some"] = ((neurons > 0) & (neurons < len(of_task))).sum(axis=1)
    return pd.DataFrame(columns)


def overlaps(of_task: Mapping[str, Ticket]) -> pd.DataFrame:
    """Return a row a pair of tasks: how far their super tickets agree.

    `kept` is the Jaccard index of what stays; `pruned` the share of what is pruned that both prune (twice the shared
    over both sizes), missing where neither prunes; `chance` what random tickets of those sizes would share of it.
    """
    rows = []
    for (a, one), (b, other) in combinations(of_task.items(), 2):
        here, there = alike(one, other)
        gone = [~flat(kept) for kept in (here, there)]
        total = sum(int(pruned.sum()) for pruned in gone)
        expected = sum(2 * float((~kept).sum() * (~there[kind]).sum()) / kept.size for kind, kept in here.items())
        pruned, chance = (shared(*gone), expected / total) if total else (np.nan, np.nan)
        rows.append((a, b, one.overlap(other), pruned, chance))
    return pd.DataFrame(rows, columns=["task", "other", "kept", "pruned", "chance"])


def task_shares(tasks: Sequence[str], scores: Sequence[Mapping[str, NDArray[np.float64]]]) -> pd.DataFrame:
    """Return the importance of each head and FFN averaged over tasks, and each task's share of it (paper, section 8).

    One row a structure: `part` (head, of a decoder self- or cross-attention head, or FFN), `layer`, `head` (-1 for an
    FFN), `importance`, a column a task with its share (see `share_of`; they add up to 1), `pattern` (see `pattern_of`)
    with its `distance`. Scores are normalised in each task as tickets are drawn: heads by their layer's l2 norm, FFNs
    by that of all FFNs. Empty if a ticket came without scores.
    """
    if not all({"heads", "ffns"} <= set(one) for one in scores):
        return pd.DataFrame()
    heads = np.stack([normalise_by_layer(one["heads"]) for one in scores])
    ffns = np.stack([one["ffns"] / (np.linalg.norm(one["ffns"]) + 1e-20) for one in scores])
    rows = []
    for row, (layer, name, before_ffn) in enumerate(Ticket.all_of(heads[0], ffns[0]).modules):
        parts = [(f"{name} head".strip(), head, heads[:, row, head]) for head in range(heads.shape[2])]
        for part, head, values in [*parts, *([("FFN", -1, ffns[:, layer])] if before_ffn else [])]:
            total = values.sum()
            share = values / total if total > 0 else np.full(len(values), 1 / len(values))
            pattern, distance = pattern_of(share)
            entry = {"part": part, "layer": layer, "head": head, "importance": float(values.mean())}
            entry |= {share_of(task): float(one) for task, one in zip(tasks, share, strict=True)}
            rows.append(entry | {"pattern": pattern, "distance": distance})
    return pd.DataFrame(rows)


def share_of(task: str) -> str:
    """Return the name of the column that has a task's share."""
    return f"share of {task}"


def pattern_of(share: NDArray[np.float64]) -> tuple[str, float]:
    """Return which pattern the shares of tasks are nearest to, and the l1 distance to it (paper, Figure 6).

    `even`: all tasks alike; `one task`: all of it one task's; `two tasks`: half each of two. With two tasks, even and
    two tasks are the same, and called even.
    """
    n = len(share)
    ordered = np.sort(share)[::-1]
    patterns = {"even": np.full(n, 1 / n), "one task": np.eye(n)[0]}
    if n > 2:
        patterns["two tasks"] = np.where(np.arange(n) < 2, 0.5, 0.0)
    distances = {name: float(np.abs(ordered - wanted).sum()) for name, wanted in patterns.items()}
    nearest = min(distances, key=lambda name: distances[name])
    return nearest, distances[nearest]


def panel(importance: pd.DataFrame, pattern: str, most: int = 12) -> pd.DataFrame:
    """Return the structures nearest to a pattern, nearest first: a panel of the paper's Figure 6."""
    found = importance[importance["pattern"] == pattern]
    return found.sort_values(["distance", "layer", "head"]).head(most)
