"""Kinds of structures that tickets keep or prune."""

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Structure = Literal["heads", "ffns", "neurons"]
"""A kind of structure: attention heads, whole FFNs, or neurons (intermediate units) of FFNs."""
STRUCTURES: tuple[Structure, ...] = get_args(Structure)
NAMES: dict[Structure, str] = {"heads": "heads", "ffns": "FFNs", "neurons": "neurons"}
"""What they are called in sentences, tables and figures."""


class Units(NamedTuple):
    """The structures of one kind: `each` in every one of `layers`, of `parameters` numbers each.

    Where `one_stays`, a ticket keeps at least one in each layer. `least` neighbours are kept or pruned together;
    `shared` neighbours share a key/value head, which stays while one of them does.
    """

    layers: int
    each: int
    parameters: float = 1.0
    one_stays: bool = True
    least: int = 1
    shared: int = 1

    @property
    def total(self) -> int:
        """How many there are."""
        return self.layers * self.each

    @property
    def most(self) -> int:
        """How many may go at most."""
        return self.layers * (self.each - self.least) if self.one_stays else self.total


def _in_order(kinds: tuple[Structure, ...]) -> tuple[Structure, ...]:
    if not kinds or {"ffns", "neurons"} <= {*kinds}:
        raise ValueError(
            "expected at least one of heads, ffns and neurons, but not both ffns and neurons, which are parts of FFNs"
        )
    return tuple(kind for kind in STRUCTURES if kind in kinds)


class Structured(BaseModel):
    """Settings of what is about some kinds of structures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: Annotated[tuple[Structure, ...], AfterValidator(_in_order)] = Field(
        ("heads", "ffns"),
        description="kinds of structures to prune: heads, ffns (whole FFNs), neurons (intermediate units of FFNs); the "
        "paper's are heads,ffns",
    )
