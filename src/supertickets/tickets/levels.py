"""Levels: how much of a model a ticket lacks, as a user writes it, and how many structures of each kind that is.

`0.1` is a tenth of each kind of structures, `heads=0.05+neurons=0.1` names each kind's fraction, `parameters:0.9` keeps
nine tenths of the parameters of the kinds of structures that are pruned.
"""

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from supertickets.errors import TicketError
from supertickets.tickets import released
from supertickets.tickets.kinds import STRUCTURES, Structure, Units

Level = float | str
"""A level as it is written: one fraction, or a text that names kinds or parameters."""
Counts = Mapping[Structure, int]
"""How many structures of each kind go."""
PARAMETERS = "parameters:"


def read_level(value: Level) -> Level:
    """Return a level as it is kept in settings; raises ValueError for a text that is none.

    >>> read_level("0.2"), read_level("neurons=0.10+heads=0.05"), read_level("parameters:0.90")
    (0.2, 'heads=0.05+neurons=0.1', 'parameters:0.9')
    """
    if not isinstance(value, str):
        return _fraction(value)
    text = value.replace(" ", "")
    if text.startswith(PARAMETERS):
        stays = _fraction(text.removeprefix(PARAMETERS), f" in {value!r}", stays=True)
        return f"{PARAMETERS}{stays:g}" if stays < 1 else 0.0
    if "=" not in text:
        return _fraction(text)
    found = dict[str, float]()
    for item in text.split("+"):
        kind, _, share = item.partition("=")
        if kind not in STRUCTURES or kind in found:
            what = "twice" if kind in found else "which is no kind of structure"
            raise ValueError(f"{value!r} names {kind!r}, {what}; expected {', '.join(STRUCTURES)}, each at most once")
        found[kind] = _fraction(share, f" in {value!r}")
    named = "+".join(f"{kind}={found[kind]:g}" for kind in STRUCTURES if kind in found)
    return named if any(found.values()) else 0.0


def _fraction(value: Level, within: str = "", stays: bool = False) -> float:
    """Return the fraction that goes, or that stays; raises ValueError for anything else."""
    text = str(value)
    try:
        number = float(percentage(value))
    except ValueError as error:
        examples = "such as 0.1, heads=0.1+neurons=0.2 or parameters:0.9"
        raise ValueError(f"expected fractions in [0, 1), {examples}, got {text!r}{within}") from error
    if not (0 < number <= 1 if stays else 0 <= number < 1):
        hint = f"; for {number:g} % write {number / 100:g} or {number:g}%" if number > 1 and not within else ""
        raise ValueError(f"expected fractions in {'(0, 1]' if stays else '[0, 1)'}, got {text}{within}{hint}")
    return number


def percentage(value: Any) -> Any:
    """Return a number that is written as a percentage, such as `5%`, as a share; anything else as it is."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    try:
        return float(Decimal(value.strip().removesuffix("%").strip()) / 100)  # 0.1% is 0.001, not the float beside it
    except InvalidOperation:
        return value


def counts_at(level: Level, units: Mapping[Structure, Units], how: str = "share") -> dict[Structure, int]:
    """Return how many structures of each kind go at `level`, of the kinds that `units` have.

    `share` rounds to the nearest count, halves up; at least one head (or neuron) a layer stays. `ladder` is what the
    released scripts ask for (spec section 3). Raises TicketError for a level of kinds that are not drawn, or of more
    parameters than can go.
    """
    if isinstance(level, str) and level.startswith(PARAMETERS):
        return _of_parameters(level, units)
    if how == "ladder":
        if not isinstance(level, float | int) or units.keys() != {"heads", "ffns"}:
            raise TicketError(
                "--counts ladder: the released table is of one fraction of heads and FFNs (--structures heads,ffns); "
                "use --counts share."
            )
        heads, ffns = released.ladder(level, units["heads"].total, units["ffns"].total)
        return {"heads": min(heads, units["heads"].most), "ffns": min(ffns, units["ffns"].most)}
    shares = _shares(level, units)
    return {kind: _nearest(shares[kind] * one.total, one) for kind, one in units.items()}


def number_of(level: Level, units: Mapping[Structure, Units]) -> float:
    """Return a level as one number: the share of the parameters of the drawn kinds of structures that goes.

    One fraction of all kinds is that number itself.
    """
    if not isinstance(level, str):
        return float(level)
    if level.startswith(PARAMETERS):
        return round(1 - float(level.removeprefix(PARAMETERS)), 6)
    shares = _shares(level, units)
    return round(sum(shares[kind] * _size(one) for kind, one in units.items()) / sum(map(_size, units.values())), 6)


def _size(one: Units) -> float:
    return one.total * one.parameters


def _nearest(count: float, of: Units) -> int:
    """Return the nearest number of structures that may go, halves up."""
    return min(math.floor(count / of.least + 0.5 + 1e-9) * of.least, of.most)


def _of_parameters(level: str, units: Mapping[Structure, Units]) -> dict[Structure, int]:
    """Return how many of each kind go so that a share of all parameters stays.

    Of the counts that come nearest to it, these are nearest to one fraction of all kinds.
    """
    whole = sum(map(_size, units.values()))
    goes, most = number_of(level, units) * whole, sum(one.most * one.parameters for one in units.values())
    if goes > most + 1e-6 * whole:
        raise TicketError(
            f"--levels {level}: {1 - most / whole:.3g} of the parameters stay at least, as each layer keeps a head or "
            "neuron; choose a larger share."
        )
    first, *others = sorted(units, key=lambda kind: -units[kind].parameters * units[kind].least)
    coarse, found = units[first], list[tuple[float, float, dict[Structure, int]]]()
    for count in range(0, coarse.most + 1, coarse.least):
        counts, left = {first: count}, goes - count * coarse.parameters
        for kind in others:
            counts[kind] = max(0, _nearest(left / units[kind].parameters, units[kind]))
            left -= counts[kind] * units[kind].parameters
        shares = [counts[kind] / units[kind].total for kind in counts]
        # What is left within half of the smallest unit is as near as can be.
        smallest = units[others[-1] if others else first]
        error = max(0.0, abs(left) - smallest.least * smallest.parameters / 2 * (1 + 1e-9))
        found.append((error, max(shares) - min(shares), counts))
    best = min(found, key=lambda one: one[:2])[2]
    return {kind: best[kind] for kind in units}


def _shares(level: Level, units: Mapping[Structure, Units]) -> dict[str, float]:
    if not isinstance(level, str):
        return dict.fromkeys(units, float(level))
    named = {kind: float(share) for kind, _, share in (item.partition("=") for item in level.split("+"))}
    if other := [kind for kind in named if kind not in units]:
        raise TicketError(
            f"--levels {level}: its {other[0]} are not pruned (--structures {','.join(units)}); leave them out, or "
            "add them to --structures."
        )
    return dict.fromkeys(units, 0.0) | named
