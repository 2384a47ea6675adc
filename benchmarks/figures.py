"""A figure of a benchmark, with its spread and its goal; and what several of them measure on."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import units
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random
from supertickets.tickets.kinds import Structure
from supertickets.tickets.levels import counts_at
from supertickets.tickets.scoring import Scores

GLUE = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue"
ENCODER = os.environ.get("SUPERTICKETS_BENCH_MODEL", "default")
"""The encoder to measure; `bench.py --smallest` takes a tiny one with random weights, but for steps, whose
ratios are those of a real one."""
PRODUCT = 1024
"""The machine's peak is what it does in products of square matrices of this size."""


@dataclass(frozen=True)
class Figure:
    """A measured number: the median of `pairs` turns and their quartiles, where it was measured more than once.

    `at_most` and `at_least` are goals.
    """

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def as_dict(self) -> dict[str, Any]:
        """What JSON has of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def of_pairs(name: str, values: NDArray[np.float64], unit: str = "", **goal: float) -> Figure:
    """Return the figure of what was measured in turns: the median, and the quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Figure(name, float(middle), unit, float(low), float(high), len(values), **goal)


def random_ticket(
    shape: Shape, level: float, seed: int = 0, structures: tuple[Structure, ...] = ("heads", "ffns")
) -> Ticket:
    """Return a random ticket of a model at a level, drawn as `find` draws them."""
    of, drawing = units(shape, structures), Drawing(structures=structures)
    return draw_random(Ticket.full(*shape.of_tickets).shape, of, counts_at(level, of), level, seed, drawing)


def random_scores(shape: Shape, rng: np.random.Generator) -> Scores:
    """Return skewed scores, in layers of different weight."""
    of_layer = rng.gamma(2.0, size=(shape.layers, 1))
    heads = rng.gamma(0.5, size=(shape.attentions, shape.heads)) * of_layer
    neurons = rng.gamma(0.5, size=(shape.layers, shape.ffn)) * of_layer * 10 / shape.ffn
    return {"heads": heads, "neurons": neurons, "ffns": neurons.sum(axis=1)}


def product(precision: str) -> Callable[[], object]:
    """Return a product of square matrices in a precision, of `2 PRODUCT^3` operations."""
    left, right = (torch.ones(PRODUCT, PRODUCT, dtype=getattr(torch, precision)) for _ in range(2))
    return lambda: left @ right


def rte_or_built_in() -> dict[str, Any]:
    """Return the settings of RTE where its files are, else of the built-in entailment task."""
    return {"task": "rte", "data": GLUE} if GLUE.is_dir() else {"task": "entailment"}


def timed(arm: Callable[[], object]) -> float:
    """Return the seconds that something takes, once."""
    started = time.perf_counter()
    arm()
    return time.perf_counter() - started


def rounded(value: float) -> str:
    """Return a number with three digits that count.

    >>> [rounded(one) for one in (0.12345, 12.3456, 1234.5)]
    ['0.123', '12.3', '1,234']
    """
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
