from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supertickets.errors import TicketError


@dataclass(frozen=True, eq=False)
class Ticket:
    """A structured ticket: the attention heads and the FFNs (whole feed-forward modules) of an encoder that stay.

    Immutable. `heads` is bool `[layers, heads]`, `ffns` is bool `[layers]`; True stays. Tickets of one shape are sets
    of structures: `|` union, `&` intersection, `-` difference, `~` complement, `<=` subset, `==`.

    >>> a = Ticket.from_pruned(layers=2, heads=4, pruned_heads=[(0, 1)], pruned_ffns=[1])
    >>> a.kept_heads, a.kept_ffns
    (7, 1)
    >>> (a | Ticket.full(2, 4)) == Ticket.full(2, 4)
    True
    """

    heads: NDArray[np.bool_]
    ffns: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in ("heads", "ffns"):
            array = np.array(getattr(self, name))
            if array.dtype != np.bool_:
                raise TicketError(f"a ticket's {name} must be an array of bool, got {array.dtype}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.heads.ndim != 2 or self.ffns.shape != self.heads.shape[:1]:
            raise TicketError(
                "a ticket needs heads of shape [layers, heads] and ffns of shape [layers], "
                f"got {list(self.heads.shape)} and {list(self.ffns.shape)}."
            )

    @classmethod
    def full(cls, layers: int, heads: int) -> Ticket:
        """Return the ticket that keeps everything: the dense model."""
        return cls(np.ones((layers, heads), bool), np.ones(layers, bool))

    @classmethod
    def from_pruned(
        cls, layers: int, heads: int, pruned_heads: Sequence[tuple[int, int]] = (), pruned_ffns: Sequence[int] = ()
    ) -> Ticket:
        """Return the ticket that keeps everything but the `(layer, head)` pairs and the FFNs named.

        Raises TicketError for one that the encoder does not have.
        """
        kept_heads, kept_ffns = np.ones((layers, heads), bool), np.ones(layers, bool)
        try:
            for layer, head in pruned_heads:
                kept_heads[_place(layer, layers, "a layer"), _place(head, heads, f"a head of layer {layer}")] = False
            for layer in pruned_ffns:
                kept_ffns[_place(layer, layers, "an FFN")] = False
        except (TypeError, ValueError) as error:
            raise TicketError(f"a ticket cannot prune what the encoder does not have: {error}.") from error
        return cls(kept_heads, kept_ffns)

    @property
    def shape(self) -> tuple[int, int]:
        """`(layers, heads)` of the encoder the ticket is for."""
        return self.heads.shape[0], self.heads.shape[1]

    @property
    def kept_heads(self) -> int:
        """How many heads stay."""
        return int(self.heads.sum())

    @property
    def kept_ffns(self) -> int:
        """How many FFNs stay."""
        return int(self.ffns.sum())

    @property
    def is_full(self) -> bool:
        """Whether everything stays."""
        return bool(self.heads.all() and self.ffns.all())

    def overlap(self, other: Ticket) -> float:
        """Return the Jaccard index of the structures that stay: shared / in either (1.0 for two empty tickets)."""
        either = (self | other)._size
        return (self & other)._size / either if either else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: shape, the heads that stay in each layer, the layers whose FFN stays."""
        return {
            "shape": list(self.shape),
            "heads": [np.flatnonzero(row).tolist() for row in self.heads],
            "ffns": np.flatnonzero(self.ffns).tolist(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ticket:
        """Read the form that `as_dict` gives; raises TicketError where it is not one."""
        try:
            layers, heads = (_whole(size, "a size in `shape`") for size in value["shape"])
            if len(value["heads"]) != layers:
                raise ValueError(f"{len(value['heads'])} layers of heads for {layers} layers")
            rows = [_mask(kept, heads, f"a head of layer {layer}") for layer, kept in enumerate(value["heads"])]
            kept_ffns = _mask(value["ffns"], layers, "an FFN")
            return cls(np.array(rows, bool).reshape(layers, heads), kept_ffns)
        except KeyError as error:
            raise TicketError(f"not the JSON form of a ticket: there is no {error}.") from error
        except (TypeError, ValueError) as error:
            raise TicketError(f"not the JSON form of a ticket: {error}.") from error

    @property
    def _size(self) -> int:
        return self.kept_heads + self.kept_ffns

    def _same_shape(self, other: Ticket) -> None:
        if not isinstance(other, Ticket):
            raise TicketError(f"tickets combine with tickets, got {type(other).__name__}.")
        if self.shape != other.shape:
            raise TicketError(
                f"tickets of different shapes do not combine: {self.shape[0]} layers x {self.shape[1]} heads "
                f"and {other.shape[0]} x {other.shape[1]}."
            )

    def __or__(self, other: Ticket) -> Ticket:
        self._same_shape(other)
        return Ticket(self.heads | other.heads, self.ffns | other.ffns)

    def __and__(self, other: Ticket) -> Ticket:
        self._same_shape(other)
        return Ticket(self.heads & other.heads, self.ffns & other.ffns)

    def __sub__(self, other: Ticket) -> Ticket:
        return self & ~other

    def __invert__(self) -> Ticket:
        return Ticket(~self.heads, ~self.ffns)

    def __le__(self, other: Ticket) -> bool:
        return (self & other) == self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ticket):
            return NotImplemented
        return bool(np.array_equal(self.heads, other.heads) and np.array_equal(self.ffns, other.ffns))

    def __reduce__(self) -> tuple[type[Ticket], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        return Ticket, (self.heads, self.ffns)  # made anew in another process, so that it never changes there too

    def __hash__(self) -> int:
        return hash((self.shape, self.heads.tobytes(), self.ffns.tobytes()))

    def __repr__(self) -> str:
        layers, heads = self.shape
        return f"Ticket({self.kept_heads} of {layers * heads} heads, {self.kept_ffns} of {layers} FFNs)"


def _whole(value: object, what: str) -> int:
    """Return a whole number; raises ValueError for anything else. Python counts True and False as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{what} is {value!r}, expected a whole number")
    return int(value)


def _place(value: object, size: int, what: str) -> int:
    """Return a place among `size`; raises ValueError for another. A negative one would count from the end."""
    place = _whole(value, what)
    if not 0 <= place < size:
        raise ValueError(f"{what} is {place}, expected 0 to {size - 1}")
    return place


def _mask(places: Sequence[object], size: int, what: str) -> NDArray[np.bool_]:
    """Return what stays as bool `[size]` from the list of its places; raises ValueError for one that is there twice."""
    mask = np.zeros(size, bool)
    for value in places:
        place = _place(value, size, what)
        if mask[place]:
            raise ValueError(f"{what} is {place} twice, expected each once")
        mask[place] = True
    return mask


def check_scores(heads: ArrayLike, ffns: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scores as float arrays `[layers, heads]` and `[layers]`; raises TicketError for other shapes and NaN."""
    head_scores, ffn_scores = np.asarray(heads, float), np.asarray(ffns, float)
    if head_scores.ndim != 2 or ffn_scores.shape != head_scores.shape[:1]:
        raise TicketError(
            "importance scores need shapes [layers, heads] and [layers], "
            f"got {list(head_scores.shape)} and {list(ffn_scores.shape)}."
        )
    if not (np.isfinite(head_scores).all() and np.isfinite(ffn_scores).all()):
        raise TicketError("importance scores have NaN or infinite values; the training they come from has diverged.")
    return head_scores, ffn_scores
