"""What a search for a level may spend, and what it is not worked out for: checked before anything is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import BACKWARD, forward_flops
from supertickets.errors import TicketError
from supertickets.tasks import task_name, text
from supertickets.tasks.tables import counted
from supertickets.tickets import Ticket

if TYPE_CHECKING:
    from supertickets.lab.outcome import Outcome

LEAST_EXAMPLES = 20
"""Of a dev set, half of which is searched on: fewer than ten tell no levels apart (as in `evidence.sampling`)."""
_BUDGET = re.compile(r"(?P<number>\d*\.?\d+(e[+-]?\d+)?) *(?P<unit>%|trainings?|flops|hours?|h)?", re.I)


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
        "expected a fraction of what all winning tickets cost (0.25 or 25%), a number of trainings (20trainings), of "
        "FLOPs (3e15flops) or of hours of training (1.5hours)"
    )
    if found is None:
        raise ValueError(f"{expected}, got {budget!r}")
    number, unit = float(found["number"]), found["unit"]
    if not number:
        raise ValueError(f"{expected}, above 0, got {budget!r}")
    if unit in ("%", None) and not number < (100 if unit else 1):
        raise ValueError(f"{expected}, with the fraction above 0 and below 1, got {budget!r}")
    return budget.strip()


@dataclass(frozen=True)
class Whole:
    """What all winning tickets cost: the number of their trainings, and in dense epochs.

    A dense epoch takes `flops`, and `seconds` in the dense runs; None: these have not ended.
    """

    trainings: int
    epochs: float
    flops: float
    seconds: float | None = None

    def share(self, budget: str) -> float | None:
        """Return the share of it that a budget pays for; None for hours, before the dense runs have ended.

        >>> whole = Whole(24, 72.0, 1e12, seconds=50.0)
        >>> [whole.share(budget) for budget in ("25%", "0.5", "6trainings", "3.6e13flops", "0.1hours")]
        [0.25, 0.5, 0.25, 0.5, 0.1]
        """
        number, unit = _read(budget)
        one = {"": 1.0, "%": 100.0, "t": self.trainings, "f": self.epochs * self.flops}
        if unit != "h":
            return number / one[unit]
        return None if self.seconds is None else number * 3600 / (self.epochs * self.seconds)

    def budget(self, share: float, like: str) -> str:
        """Return at least a share as a budget, in the unit that another one has."""
        _, unit = _read(like)
        if unit == "t":
            return f"{math.ceil(share * self.trainings - 1e-9)}trainings"
        if unit == "f":
            return f"{share * self.epochs * self.flops * 1.005:.2e}flops"
        if unit == "h":
            assert self.seconds is not None
            return f"{share * self.epochs * self.seconds / 3600 * 1.005:.2e}hours"
        return f"{math.ceil(share * 1000 - 1e-9) / 1000:g}"


def _read(budget: str) -> tuple[float, str]:
    """Return a budget's number, and the first letter of its unit."""
    found = _BUDGET.fullmatch(budget)
    assert found is not None
    return float(found["number"]), (found["unit"] or "")[:1].lower()


def whole_of(
    settings: Searching,
    shape: Shape,
    examples: int,
    prices: Mapping[float, float],
    dense: Sequence[Outcome] = (),
    tokens: int = 32,
) -> Whole:
    """Return what all winning tickets of a study cost, with so many training examples.

    FLOPs and pace of an epoch are the dense runs' means; before these have ended, FLOPs are those of training on texts
    of so many tokens.
    """
    epochs, trainings = sum(prices.values()) * settings.epochs * settings.seeds, settings.seeds * len(prices)
    if not dense:
        flops = forward_flops(shape, Ticket.full(*shape.of_tickets), examples, tokens) * (1 + BACKWARD)
        return Whole(trainings, epochs, float(flops))
    known = [_of_epoch(one) for one in dense]
    flops, seconds = (sum(values) / len(known) for values in zip(*known, strict=True))
    return Whole(trainings, epochs, flops, seconds)


def _of_epoch(outcome: Outcome) -> tuple[float, float]:
    """Return an epoch's FLOPs and seconds, without scoring: its time is its share of the FLOPs."""
    cost, epochs = outcome.cost, len(outcome.epochs)
    flops = cost["flops"] - cost.get("scoring_flops", 0)
    return flops / epochs, cost["seconds"] * flops / cost["flops"] / epochs


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


def check_budget(
    settings: Searching, prices: Mapping[float, float], whole: Whole, at_least: Whole | None = None
) -> None:
    """Raise TicketError for a budget that pays for no search, or for the whole grid.

    `whole` is the most that the grid may cost, `at_least` the least where that is not known yet, as with FLOPs before
    the dense runs have ended. Hours can be checked after that alone.
    """
    import numpy as np

    from supertickets.evidence.search.course import METHODS
    from supertickets.evidence.search.known import Known, least_budget

    if len(prices) < 2:
        raise TicketError(
            f"--search {settings.search}: fewer than two of --levels {', '.join(map(str, settings.levels))} prune "
            "anything of this model; add larger ones."
        )
    share, method = whole.share(settings.budget), METHODS[settings.search]
    if share is None:
        return
    every = counted(whole.trainings, "training")
    if share >= 1:
        raise TicketError(
            f"--budget {settings.budget}: it pays for every one of {every} of winning tickets, so nothing is left out; "
            "expected less, or --search none."
        )
    nothing = np.zeros((settings.seeds, settings.epochs, 1), np.float32)
    known = Known.nothing([*prices], nothing, np.array([*prices.values()]))
    least, cheapest = least_budget(known, max(1, round(method.first * settings.epochs))), at_least or whole
    if least >= 1:
        raise TicketError(
            f"--search {settings.search}: it saves nothing of {every} in all, since it looks at two levels and trains "
            "one of them to its end; expected more --levels, --seeds or --epochs, or --search none."
        )
    if (cheapest.share(settings.budget) or 0.0) < least:
        raise TicketError(
            f"--budget {settings.budget}: it does not pay for a first look at two levels and all {settings.seeds} "
            f"trainings of one; expected at least {cheapest.budget(least, settings.budget)}."
        )
