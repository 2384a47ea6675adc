"""What a search for a level may spend, and what it is not worked out for: checked before anything is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import forward_flops
from supertickets.errors import TicketError
from supertickets.tasks import task_name, text
from supertickets.tickets import Ticket

LEAST_EXAMPLES = 20
"""Of a dev set, half of which is searched on: fewer than ten tell no levels apart (as in `evidence.sampling`)."""
_BUDGET = re.compile(r"(?P<number>\d*\.?\d+(e[+-]?\d+)?) *(?P<unit>%|trainings?)?")


class Searching(Protocol):
    """What is read of the settings of `find`."""

    task: str
    levels: tuple[float | str, ...]
    kinds: tuple[Any, ...]
    seeds: int
    epochs: int
    target: tuple[str, ...]
    design: Any
    schedule: Any
    soup: int
    control: Any
    search: Any
    budget: str

    @property
    def searches(self) -> bool:
        """Whether there is a search."""

    @property
    def teaches(self) -> bool:
        """Whether tickets are taught."""


def readable(budget: str) -> str:
    """Return a budget that can be read; raises ValueError for another.

    >>> readable("20trainings")
    '20trainings'
    """
    found = _BUDGET.fullmatch(budget.strip())
    expected = (
        "expected a fraction of what all winning tickets cost (0.25 or 25%) or a number of trainings (20trainings)"
    )
    if found is None:
        raise ValueError(f"{expected}; FLOPs and hours cannot be given, got {budget!r}")
    number, unit = float(found["number"]), found["unit"]
    if unit in ("%", None) and not 0 < number < (100 if unit else 1):
        raise ValueError(f"{expected}, with the fraction above 0 and below 1, got {budget!r}")
    return budget.strip()


def share_of(budget: str, trainings: int) -> float:
    """Return a budget as the share of what a grid of so many trainings costs.

    >>> share_of("25%", 24), share_of("0.5", 24), share_of("6trainings", 24)
    (0.25, 0.5, 0.25)
    """
    found = _BUDGET.fullmatch(budget)
    assert found is not None
    number, unit = float(found["number"]), found["unit"]
    return number if unit is None else number / 100 if unit == "%" else number / trainings


def prices_of(about: Mapping[float, Ticket], shape: Shape) -> dict[float, float]:
    """Return what a training costs at each level that is searched, in dense trainings; full tickets are dense runs."""
    whole = forward_flops(shape, Ticket.full(*shape.of_tickets), 1, 32)
    searched = {level: ticket for level, ticket in about.items() if level and not ticket.is_full}
    return {level: forward_flops(shape, ticket, 1, 32) / whole for level, ticket in searched.items()}


def check_search(settings: Searching) -> None:
    """Raise ValueError where a search makes no sense, or is not worked out."""
    if not settings.searches:
        return
    name, kinds = f"--search {settings.search}", ",".join(settings.kinds)
    if "winning" not in settings.kinds:
        raise ValueError(f"{name}: it looks for a level of winning tickets, and --kinds {kinds} has none; add winning")
    others = {
        "--target": bool(settings.target),
        "--design narrow": settings.design == "narrow",
        "--schedule iterative": settings.schedule == "iterative",
        "--teacher dense": settings.teaches,
        "--soup": bool(settings.soup),
        f"--control {settings.control}": settings.control != "none",
    }
    for other, used in others.items():
        if used:
            raise ValueError(f"{name}: it cannot be combined with {other}; leave out one of the two")
    if task_name(settings.task) in text.NAMES:
        raise ValueError(f"{name}: it is not there for language modelling; expected another --task or --search none")
    if sum(bool(level) for level in settings.levels) < 2:
        given = ", ".join(map(str, settings.levels))
        raise ValueError(f"{name}: expected at least two levels above 0 to search among (--levels), got {given}")


def check_budget(settings: Searching, prices: Mapping[float, float]) -> None:
    """Raise TicketError for a budget that pays for no search, or for the whole grid."""
    import numpy as np

    from supertickets.evidence.search.course import METHODS
    from supertickets.evidence.search.known import Known, least_budget

    if len(prices) < 2:
        raise TicketError(
            f"--search {settings.search}: fewer than two of --levels {', '.join(map(str, settings.levels))} prune "
            "anything of this model; add larger ones."
        )
    trainings = settings.seeds * len(prices)
    share, method = share_of(settings.budget, trainings), METHODS[settings.search]
    if share >= 1:
        raise TicketError(
            f"--budget {settings.budget}: all winning tickets are {trainings} trainings, so nothing is left out; "
            "expected fewer, or --search none."
        )
    nothing = np.zeros((settings.seeds, settings.epochs, 1), np.float32)
    known = Known.nothing([*prices], nothing, np.array([*prices.values()]))
    least = least_budget(known, max(1, round(method.first * settings.epochs)))
    if share < least:
        in_unit = f"{math.ceil(least * trainings)}trainings" if "training" in settings.budget else f"{_up(least):g}"
        raise TicketError(
            f"--budget {settings.budget}: it does not pay for a first look at two levels and all {settings.seeds} "
            f"trainings of one; expected at least {in_unit}."
        )


def _up(share: float) -> float:
    """Return a share rounded up to three decimals."""
    return math.ceil(share * 1000 - 1e-9) / 1000
