from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supertickets.errors import TicketError
from supertickets.tickets.kinds import NAMES, Structure


class Module(NamedTuple):
    """An attention module: its layer, which of two it is there (or nothing), whether the layer's FFN comes next."""

    layer: int
    name: str
    before_ffn: bool


@dataclass(frozen=True, eq=False)
class Ticket:
    """A structured ticket: which attention heads and FFNs (or which of their neurons) of an encoder stay.

    Immutable. `heads` is bool `[layers, heads]`, `ffns` is bool `[layers]`; True stays. A decoder beside an encoder has
    two attention modules a layer, each with a row of `heads`. `neurons`, bool `[layers, neurons]`, is there where an
    FFN keeps some of its neurons (intermediate units) only; one that keeps none is gone. Tickets of one shape are sets
    of structures: `|` union, `&` intersection, `-` difference, `~` complement, `<=` subset, `==`.

    >>> a = Ticket.from_pruned(layers=2, heads=4, pruned_heads=[(0, 1)], pruned_ffns=[1])
    >>> a.kept_heads, a.kept_ffns
    (7, 1)
    >>> (a | Ticket.full(2, 4)) == Ticket.full(2, 4)
    True
    >>> b = Ticket.of_neurons(a.heads, np.array([[True, False, True], [False, False, False]]))
    >>> b.kept_neurons, b <= a
    (2, True)
    """

    heads: NDArray[np.bool_]
    ffns: NDArray[np.bool_]
    neurons: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "ffns") if self.neurons is None else ("heads", "ffns", "neurons"):
            array = np.array(getattr(self, name))
            if array.dtype != np.bool_:
                raise TicketError(f"a ticket's {name} must be an array of bool, got {array.dtype}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.heads.ndim != 2 or self.ffns.ndim != 1 or not _rows_fit(len(self.heads), len(self.ffns)):
            raise TicketError(
                "a ticket needs heads of shape [layers, heads] and ffns of shape [layers], "
                f"got {list(self.heads.shape)} and {list(self.ffns.shape)}."
            )
        if self.neurons is not None:
            if self.neurons.ndim != 2 or not np.array_equal(self.ffns, self.neurons.any(axis=1)):
                raise TicketError(
                    "a ticket's neurons need the shape [layers, neurons], with some in each FFN that stays and none in "
                    f"any other, got the shape {list(self.neurons.shape)} with {self.neurons.sum(axis=1).tolist()}."
                )
            if np.array_equal(self.neurons, np.broadcast_to(self.ffns[:, None], self.neurons.shape)):
                object.__setattr__(self, "neurons", None)  # whole FFNs: equal tickets are equal however they came about

    @classmethod
    def of_neurons(cls, heads: NDArray[np.bool_], neurons: NDArray[np.bool_]) -> Ticket:
        """Return the ticket that keeps these heads `[layers, heads]` and neurons `[layers, neurons]`."""
        return cls(heads, np.asarray(neurons.any(axis=-1)), neurons)

    @classmethod
    def of_kinds(cls, kept: Mapping[Structure, NDArray[np.bool_]], shape: tuple[int, ...]) -> Ticket:
        """Return the ticket that keeps these, the way back from `alike`, and all of a kind that is not there."""
        every = cls.full(*shape)
        heads, ffns = kept.get("heads", every.heads), kept.get("ffns", every.ffns)
        return cls.of_neurons(heads, kept["neurons"]) if "neurons" in kept else cls(heads, ffns)

    @classmethod
    def full(cls, layers: int, heads: int, attentions: int | None = None) -> Ticket:
        """Return the ticket that keeps everything: the dense model. There are as many `attentions` as `layers`, or more
        where a decoder has two in each of its layers."""
        return cls(np.ones((attentions or layers, heads), bool), np.ones(layers, bool))

    @classmethod
    def all_of(cls, heads: ArrayLike, ffns: ArrayLike) -> Ticket:
        """Return the ticket that keeps all heads and FFNs that arrays such as scores have numbers of."""
        return cls(np.ones(np.shape(heads), bool), np.ones(np.shape(ffns), bool))

    @classmethod
    def from_pruned(
        cls,
        layers: int,
        heads: int,
        pruned_heads: Sequence[tuple[int, int]] = (),
        pruned_ffns: Sequence[int] = (),
        attentions: int | None = None,
    ) -> Ticket:
        """Return the ticket that keeps everything but the `(layer, head)` pairs and the FFNs named.

        Where there are more `attentions` than layers, a head is named by its attention module. Raises TicketError for
        one that the encoder does not have.
        """
        modules = attentions or layers
        kept_heads, kept_ffns = np.ones((modules, heads), bool), np.ones(layers, bool)
        try:
            for layer, head in pruned_heads:
                kept_heads[_place(layer, modules, "a layer"), _place(head, heads, f"a head of layer {layer}")] = False
            for layer in pruned_ffns:
                kept_ffns[_place(layer, layers, "an FFN")] = False
        except (TypeError, ValueError) as error:
            raise TicketError(f"a ticket cannot prune what the encoder does not have: {error}.") from error
        return cls(kept_heads, kept_ffns)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(layers, heads)` of the encoder it is for; `(layers, heads, attentions)` with a decoder beside it."""
        attentions, heads = self.heads.shape
        return (len(self.ffns), heads) if attentions == len(self.ffns) else (len(self.ffns), heads, attentions)

    @property
    def modules(self) -> list[Module]:
        """The attention modules, a row of `heads` each."""
        twice = len(self.heads) - len(self.ffns)  # layers of a decoder, which come last
        once = len(self.ffns) - twice
        of_decoder = [(once + layer, name) for layer in range(twice) for name in ("self-attention", "cross-attention")]
        found = [(layer, "") for layer in range(once)] + of_decoder
        return [Module(layer, name, name != "self-attention") for layer, name in found]

    @property
    def kept_heads(self) -> int:
        """How many heads stay."""
        return int(self.heads.sum())

    @property
    def kept_ffns(self) -> int:
        """How many FFNs stay."""
        return int(self.ffns.sum())

    @property
    def kept_neurons(self) -> int | None:
        """How many neurons stay; None if those of all FFNs that stay do."""
        return None if self.neurons is None else int(self.neurons.sum())

    @property
    def is_full(self) -> bool:
        """Whether everything stays."""
        return bool(self.heads.all() and self.ffns.all() and self.neurons is None)

    def neurons_of(self, width: int) -> NDArray[np.bool_]:
        """Return which neurons stay, `[layers, width]`, in FFNs that have `width` of them."""
        return self.neurons if self.neurons is not None else np.repeat(self.ffns[:, None], width, axis=1)

    def overlap(self, other: Ticket) -> float:
        """Return the Jaccard index of the structures that stay: shared / in either (1.0 for two empty tickets)."""
        self._same_shape(other)
        one, two = (flat(kept) for kept in alike(self, other))
        either = int((one | two).sum())
        return int((one & two).sum()) / either if either else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: shape, the heads that stay in each layer (each of `attentions` modules, where those are
        more), the layers whose FFN stays.

        Of neurons, it has how many an FFN has and each layer's as a hexadecimal number: a bit each, the first first.
        """
        form: dict[str, Any] = {
            "shape": list(self.shape[:2]),
            "heads": [np.flatnonzero(row).tolist() for row in self.heads],
            "ffns": np.flatnonzero(self.ffns).tolist(),
        }
        if len(self.heads) != len(self.ffns):
            form["attentions"] = len(self.heads)
        if self.neurons is not None:
            form["shape"].append(self.neurons.shape[1])
            form["neurons"] = [np.packbits(row).tobytes().hex() for row in self.neurons]
        return form

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ticket:
        """Read the form that `as_dict` gives; raises TicketError where it is not one."""
        try:
            layers, heads, *width = (_whole(size, "a size in `shape`") for size in value["shape"])
            attentions = _whole(value.get("attentions", layers), "`attentions`")
            if len(value["heads"]) != attentions:
                raise ValueError(f"{len(value['heads'])} layers of heads for {attentions} layers")
            rows = [_mask(kept, heads, f"a head of layer {layer}") for layer, kept in enumerate(value["heads"])]
            kept_ffns = _mask(value["ffns"], layers, "an FFN")
            neurons = _neurons(value["neurons"], layers, *width) if width else None
            return cls(np.array(rows, bool).reshape(attentions, heads), kept_ffns, neurons)
        except KeyError as error:
            raise TicketError(f"not the JSON form of a ticket: there is no {error}.") from error
        except (TypeError, ValueError) as error:
            raise TicketError(f"not the JSON form of a ticket: {error}.") from error

    def _same_shape(self, other: Ticket) -> None:
        if not isinstance(other, Ticket):
            raise TicketError(f"tickets combine with tickets, got {type(other).__name__}.")
        if self.shape != other.shape:
            raise TicketError(
                f"tickets of different shapes do not combine: {in_words(self.shape)} and {in_words(other.shape)}."
            )

        widths = [ticket.neurons.shape[1] for ticket in (self, other) if ticket.neurons is not None]
        if len(set(widths)) > 1:
            raise TicketError(f"tickets of FFNs with {widths[0]} and with {widths[1]} neurons do not combine.")

    def _combined(self, other: Ticket, how: Callable[..., NDArray[np.bool_]]) -> Ticket:
        self._same_shape(other)
        one, two = alike(self, other)
        return Ticket.of_kinds({kind: how(kept, two[kind]) for kind, kept in one.items()}, self.shape)

    def __or__(self, other: Ticket) -> Ticket:
        return self._combined(other, np.logical_or)

    def __and__(self, other: Ticket) -> Ticket:
        return self._combined(other, np.logical_and)

    def __sub__(self, other: Ticket) -> Ticket:
        return self & ~other

    def __invert__(self) -> Ticket:
        return Ticket.of_kinds({kind: ~kept for kind, kept in alike(self)[0].items()}, self.shape)

    def __le__(self, other: Ticket) -> bool:
        return (self & other) == self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ticket):
            return NotImplemented
        one, two = alike(self)[0], alike(other)[0]
        return one.keys() == two.keys() and all(np.array_equal(kept, two[kind]) for kind, kept in one.items())

    def __reduce__(self) -> tuple[type[Ticket], tuple[Any, ...]]:
        arrays = (self.heads, self.ffns, self.neurons)
        return Ticket, arrays  # made anew in another process, so that it never changes there too

    def __hash__(self) -> int:
        return hash((self.shape, *(kept.tobytes() for kept in alike(self)[0].values())))

    def __repr__(self) -> str:
        of = [f"{kept.sum()} of {kept.size} {NAMES[kind]}" for kind, kept in alike(self)[0].items()]
        return f"Ticket({', '.join(of)})"


def alike(*tickets: Ticket) -> list[dict[Structure, NDArray[np.bool_]]]:
    """Return what tickets keep by kind of structure: heads, and neurons where one of them has some, or else FFNs."""
    width = next((ticket.neurons.shape[1] for ticket in tickets if ticket.neurons is not None), None)
    if width is None:
        return [{"heads": ticket.heads, "ffns": ticket.ffns} for ticket in tickets]
    return [{"heads": ticket.heads, "neurons": ticket.neurons_of(width)} for ticket in tickets]


def flat(kept: Mapping[Structure, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return all kinds of structures as one array, one behind the other."""
    return np.concatenate([one.ravel() for one in kept.values()])


def in_words(shape: Sequence[int]) -> str:
    """Return a ticket's shape, or a model's, in words.

    >>> in_words((6, 12)), in_words((12, 8, 18))
    ('6 layers x 12 heads', '12 layers with 18 attention modules x 8 heads')
    """
    layers, heads, *attentions = shape
    return f"{layers} layers{f' with {attentions[0]} attention modules' if attentions else ''} x {heads} heads"


def _rows_fit(attentions: int, layers: int) -> bool:
    """Return whether there is one attention module a layer, or two in some: those of a decoder beside an encoder."""
    return attentions == layers or layers < attentions < 2 * layers


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


def _neurons(rows: Sequence[str], layers: int, width: int) -> NDArray[np.bool_]:
    """Return what stays as bool `[layers, width]` from each layer's hexadecimal number."""
    packed = [np.frombuffer(bytes.fromhex(row), np.uint8) for row in rows]
    if len(packed) != layers or any(len(row) != -(-width // 8) for row in packed):
        raise ValueError(f"its neurons are not {layers} numbers of {width} bits")
    bits = np.array([np.unpackbits(row) for row in packed]).reshape(layers, -1)
    if bits[:, width:].any():
        raise ValueError(f"a neuron is beyond the {width} of its FFN")
    return bits[:, :width].astype(bool)


def check_scores(scores: Mapping[Structure, ArrayLike]) -> dict[Structure, NDArray[np.float64]]:
    """Return scores by kind as float arrays: heads `[layers, heads]`, FFNs `[layers]`, neurons `[layers, neurons]`.

    Raises TicketError for other shapes and NaN.
    """
    found = {kind: np.asarray(values, float) for kind, values in scores.items()}
    rows = {kind: len(values) if values.ndim == 1 + (kind != "ffns") else -1 for kind, values in found.items()}
    layers = {count for kind, count in rows.items() if kind != "heads"} or {rows["heads"]}
    if len(layers) > 1 or -1 in rows.values() or not _rows_fit(rows.get("heads", *layers), *layers):
        wanted = {"heads": "[layers, heads]", "ffns": "[layers]", "neurons": "[layers, neurons]"}
        raise TicketError(
            f"importance scores need shapes {' and '.join(wanted[kind] for kind in found)}, "
            f"got {' and '.join(str(list(values.shape)) for values in found.values())}."
        )
    if not all(np.isfinite(values).all() for values in found.values()):
        raise TicketError("importance scores have NaN or infinite values; the training they come from has diverged.")
    return found
