"""Targets: what a smaller model may cost, as a user writes it.

`parameters=0.8` keeps at most four fifths of the whole model's parameters, `size=70MB` is a weight file of at most so
many bytes, `latency=0.5` takes at most half of the dense model's time on this machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from supertickets.tickets.levels import percentage

Quantity = Literal["parameters", "encoder-parameters", "size", "flops", "latency"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
UNITS: dict[Quantity, str] = {
    "parameters": "parameters",
    "encoder-parameters": "parameters of heads and FFNs",
    "size": "bytes",
    "flops": "FLOPs",
    "latency": "seconds",
}
"""What each quantity is counted in."""
_FACTORS: dict[Quantity, dict[str, float]] = {
    "parameters": {"": 1, "k": 1e3, "M": 1e6, "B": 1e9},
    "encoder-parameters": {"": 1, "k": 1e3, "M": 1e6, "B": 1e9},
    "size": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "flops": {},
    "latency": {"s": 1, "ms": 1e-3, "us": 1e-6},
}
"""What may be written behind a number, and what it multiplies; a number alone of at most 1 is a share."""


@dataclass(frozen=True)
class Target:
    """At most so much of a quantity: a share of what the dense model has, or an amount in the quantity's unit.

    >>> Target.read("size=70MB").most(dense=90e6), Target.read("parameters=80%").most(dense=20e6)
    (70000000.0, 16000000.0)
    """

    text: str
    quantity: Quantity
    value: float
    is_share: bool

    @classmethod
    def read(cls, text: str) -> Target:
        """Return the target that a text names; raises ValueError, with the units there are, for one that is none."""
        name, equals, written = (part.strip() for part in str(text).partition("="))
        if name not in QUANTITIES or not equals:
            raise ValueError(f"expected {', '.join(QUANTITIES)} and a value, such as parameters=0.8, got {text!r}")
        quantity: Quantity = name
        factors = _FACTORS[quantity]
        parts = re.fullmatch(r"([0-9.]+(?:e[+-]?\d+)?)\s*([A-Za-z%]*)", written)
        units = ", ".join(unit for unit in factors if unit)
        expected = "a share in (0, 1)" + (f" or a number with a unit ({units})" if units else "")
        try:
            number = float(percentage(written) if written.endswith("%") else parts[1] if parts else written)
        except ValueError as error:
            raise ValueError(f"{name}: expected {expected}, got {written!r}") from error
        unit = "" if parts is None or parts[2] == "%" else parts[2]
        share = not unit and number <= 1
        too_much = number >= 1 and (share or written.endswith("%"))  # 120 % are no amount of 1.2
        if not number > 0 or (not share and unit not in factors) or too_much:
            near = next((known for known in factors if known.lower() == unit.lower() and known != unit), None)
            hint = f"; write {near}" if near else ""
            raise ValueError(f"{name}: expected {expected}, got {written!r}{hint}")
        normal = f"{number:.12g}" if share else f"{number:.12g}{unit}"
        return cls(f"{quantity}={normal}", quantity, number * (1 if share else factors[unit]), share)

    def most(self, dense: float) -> float:
        """Return how much that is at most, in the quantity's unit, where the dense model has `dense`."""
        return self.value * dense if self.is_share else self.value


def _targets(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return targets as they are kept in settings, one a quantity."""
    read = [Target.read(text) for text in texts]
    twice = [one.quantity for one in read if sum(other.quantity == one.quantity for other in read) > 1]
    if twice:
        raise ValueError(f"expected each quantity once, got {twice[0]} {twice.count(twice[0])} times")
    return tuple(one.text for one in read)


def _example(text: str) -> str:
    parts = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text)
    if parts is None or "0" in parts.groups():
        raise ValueError(f"expected BATCHxTOKENS, such as 1x128, got {text!r}")
    return f"{int(parts[1])}x{int(parts[2])}"


class Targets(BaseModel):
    """Settings of what a ticket may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Annotated[tuple[str, ...], AfterValidator(_targets)] = Field(
        (),
        description="in place of --levels, what the smaller model may cost at most: parameters=0.8 or 17M (of the "
        "whole model), encoder-parameters=0.7 (of heads and FFNs), size=70MB (of the weight file), flops=0.6, "
        "latency=0.5 or 12ms (on this machine); of several, with commas, all hold. The winning ticket keeps the most "
        "importance within it",
    )
    latency_of: Annotated[str, AfterValidator(_example)] = Field(
        "1x128", description="BATCHxTOKENS that --target latency is measured with"
    )

    @property
    def targets(self) -> list[Target]:
        """The targets."""
        return [Target.read(text) for text in self.target]
