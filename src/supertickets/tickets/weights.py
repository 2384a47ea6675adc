from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from supertickets.errors import TicketError

Bools = NDArray[np.bool_]
Shapes = Mapping[str, tuple[int, ...]]
METADATA = "masks"


class Pruning(BaseModel):
    """Which weights may go, and against which others each is ranked (Chen et al., 2020, section 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Literal["global", "tensor"] = Field(
        "global", description="rank weights by magnitude over the whole encoder (global) or within each matrix (tensor)"
    )
    pooler: bool = Field(True, description="also prune the pooler's matrix, if the encoder has one")
    embeddings: bool = Field(False, description="also prune the embeddings")


@dataclass(frozen=True, eq=False)
class WeightTicket:
    """A ticket of single weights: for each prunable tensor of an encoder, which of its entries stay.

    Immutable. `masks` are bool arrays by the tensors' names inside the encoder (`encoder.layer.0.output.dense.weight`),
    in the encoder's order; True stays. Tickets of the same tensors are sets of weights: `|` union, `&` intersection,
    `-` difference, `~` complement, `<=` subset, `==`.

    >>> a = WeightTicket({"w": np.array([[True, False], [True, True]])})
    >>> a.sparsity, (a & ~a).kept
    (0.25, 0)
    """

    masks: Mapping[str, Bools]

    def __post_init__(self) -> None:
        found = {}
        for name, mask in self.masks.items():
            array = np.array(mask)
            if array.dtype != np.bool_:
                raise TicketError(f"a ticket's mask of {name} must be an array of bool, got {array.dtype}.")
            array.setflags(write=False)
            found[name] = array
        if not sum(mask.size for mask in found.values()):
            raise TicketError("a ticket of weights needs at least one weight.")
        object.__setattr__(self, "masks", found)

    @classmethod
    def full(cls, shapes: Shapes) -> WeightTicket:
        """Return the ticket that keeps every weight of tensors of these shapes."""
        return cls({name: np.ones(shape, bool) for name, shape in shapes.items()})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: mask.shape for name, mask in self.masks.items()}

    @cached_property
    def total(self) -> int:
        """How many prunable weights there are."""
        return sum(mask.size for mask in self.masks.values())

    @cached_property
    def kept(self) -> int:
        """How many of them stay."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """The share of the prunable weights that go."""
        return 1 - self.kept / self.total

    def overlap(self, other: WeightTicket, average: Literal["weights", "tensors"] = "weights") -> float:
        """Return the Jaccard index of the weights that stay: shared / in either (1.0 for two empty tickets).

        Over all weights at once, or each tensor's, averaged.
        """
        self._same_tensors(other)
        pairs = [(mask, other.masks[name]) for name, mask in self.masks.items()]
        both = np.array([int((one & two).sum()) for one, two in pairs])
        either = np.array([int((one | two).sum()) for one, two in pairs])
        if average == "weights":
            both, either = both.sum(keepdims=True), either.sum(keepdims=True)
        return float(np.mean(np.divide(both, either, out=np.ones(len(both)), where=either > 0)))

    def chance(self, other: WeightTicket) -> float:
        """Return the `overlap` that two random tickets of these densities have: d/(2-d) for equal densities d."""
        d, e = self.kept / self.total, other.kept / other.total
        return d * e / (d + e - d * e) if d or e else 1.0

    def part(self, names: Sequence[str]) -> WeightTicket:
        """Return the ticket of some of its tensors."""
        return WeightTicket({name: self.masks[name] for name in names})

    def to_bytes(self) -> bytes:
        """Return the ticket as a safetensors file, a bit a weight; equal tickets in the same order give equal bytes."""
        from safetensors.numpy import save

        packed = {name: np.packbits(mask.ravel()) for name, mask in self.masks.items()}
        # One key: the order of several is not defined.
        return save(packed, metadata={METADATA: json.dumps([[n, list(s)] for n, s in self.shapes.items()])})

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> WeightTicket:
        """Read what `to_bytes` gives; raises TicketError, naming `where` it was found, if it is something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            shapes = json.loads(header["__metadata__"][METADATA])
            packed = load(content)
            if missing := [name for name, _ in shapes if name not in packed]:
                raise TicketError(f"{where}: the mask of {missing[0]} is missing; the file says that it has it.")
            masks = {}
            for name, shape in shapes:
                size = math.prod(shape)
                if packed[name].dtype != np.uint8 or packed[name].shape != ((size + 7) // 8,):
                    raise TicketError(
                        f"{where}: the mask of {name} does not have the {size} bits of its shape {shape}."
                    )
                masks[name] = np.unpackbits(packed[name], count=size).astype(bool).reshape(shape)
            return cls(masks)
        except TicketError:
            raise
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise TicketError(f"{where}: not a file of weight masks ({error}).") from error

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of its file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def _same_tensors(self, other: WeightTicket) -> None:
        if not isinstance(other, WeightTicket):
            raise TicketError(f"tickets of weights combine with tickets of weights, got {type(other).__name__}.")
        if self.shapes != other.shapes:
            raise TicketError(f"tickets of different tensors do not combine: {difference(self.shapes, other.shapes)}.")

    def __or__(self, other: WeightTicket) -> WeightTicket:
        self._same_tensors(other)
        return WeightTicket({name: mask | other.masks[name] for name, mask in self.masks.items()})

    def __and__(self, other: WeightTicket) -> WeightTicket:
        self._same_tensors(other)
        return WeightTicket({name: mask & other.masks[name] for name, mask in self.masks.items()})

    def __sub__(self, other: WeightTicket) -> WeightTicket:
        return self & ~other

    def __invert__(self) -> WeightTicket:
        return WeightTicket({name: ~mask for name, mask in self.masks.items()})

    def __le__(self, other: WeightTicket) -> bool:
        return (self & other) == self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightTicket):
            return NotImplemented
        return self.shapes == other.shapes and all(
            np.array_equal(mask, other.masks[name]) for name, mask in self.masks.items()
        )

    def __hash__(self) -> int:
        return hash((self.kept, frozenset(self.shapes.items())))

    def __repr__(self) -> str:
        return f"WeightTicket({self.kept} of {self.total} weights in {len(self.masks)} tensors)"


def difference(here: Shapes, there: Shapes) -> str:
    """Say where two sets of tensors first differ; nothing if they do not."""
    for name in here:
        if name not in there:
            return f"{name} is missing in the other"
        if tuple(here[name]) != tuple(there[name]):
            return f"{name} has shape {list(here[name])} and {list(there[name])}"
    extra = [name for name in there if name not in here]
    return f"{extra[0]} is missing in the one" if extra else ""


def check_tensors(ticket: WeightTicket, shapes: Shapes, model: str) -> None:
    """Raise TicketError if a ticket of weights has a tensor that a model lacks, or has in another shape."""
    for name, shape in ticket.shapes.items():
        if name not in shapes:
            raise TicketError(f"the ticket has a mask of {name}, which model {model!r} does not have.")
        if tuple(shapes[name]) != tuple(shape):
            said = difference({name: shape}, {name: shapes[name]})
            raise TicketError(f"the ticket does not fit model {model!r}: {said}; use the model it was drawn from.")


def check_all_tensors(ticket: WeightTicket, shapes: Shapes, model: str) -> None:
    """Raise TicketError unless a ticket of weights has a mask for each of these tensors of a model, and fits them."""
    check_tensors(ticket, shapes, model)
    missing = [name for name in shapes if name not in ticket.masks]
    if missing:
        raise TicketError(
            f"the ticket has no mask of {missing[0]} ({len(missing)} of {len(shapes)} prunable tensors of model "
            f"{model!r} are missing); leave them out with --no-pooler, or use a ticket that has them."
        )


def pruned_count(total: int, sparsity: float) -> int:
    """Return how many of `total` weights go at a sparsity: the nearest count, halves up. Raises TicketError outside
    [0, 1)."""
    check_sparsity(sparsity)
    return math.floor(sparsity * total + 0.5 + 1e-9)


def check_sparsity(sparsity: float) -> None:
    """Raise TicketError unless a sparsity is a share in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise TicketError(f"a sparsity is a share in [0, 1), got {sparsity:g}.")


def prune_by_magnitude(
    weights: Mapping[str, NDArray[np.floating]],
    sparsity: float,
    within: WeightTicket | None = None,
    scope: Literal["global", "tensor"] = "global",
) -> WeightTicket:
    """Return the ticket that lacks the smallest weights, so many that its sparsity is the one asked for.

    What `within` lacks is gone already and counts; so tickets are nested. Ranked over all tensors, or within each. Of
    equal magnitudes the earlier go first: by tensor, then by row and column. Raises TicketError for weights that are
    not finite. (Chen et al., 2020, Algorithm 1; the counts are those of the released code, spec section 3.1.)
    """
    before = within or WeightTicket.full({name: values.shape for name, values in weights.items()})
    arrays = {name: np.abs(weights[name]) for name in before.masks}
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise TicketError(f"weights of {name} are NaN or infinite; the training they come from has diverged.")
    groups = [list(arrays)] if scope == "global" else [[name] for name in arrays]
    masks: dict[str, Bools] = {}
    for names in groups:
        stays = np.concatenate([before.masks[name].ravel() for name in names])
        alive = np.flatnonzero(stays)
        more = pruned_count(len(stays), sparsity) - (len(stays) - len(alive))
        if more > 0:
            values = np.concatenate([arrays[name].ravel() for name in names])[alive]
            last = np.partition(values, more - 1)[more - 1]
            smaller = np.flatnonzero(values < last)
            ties = np.flatnonzero(values == last)[: more - len(smaller)]
            stays[alive[smaller]] = stays[alive[ties]] = False
        masks |= _split(stays, names, before.shapes)
    return WeightTicket({name: masks[name] for name in before.masks})


def draw_random_weights(
    shapes: Shapes, sparsity: float, seed: int, scope: Literal["global", "tensor"] = "global"
) -> WeightTicket:
    """Return a uniformly random ticket that lacks exactly the share asked for, of all weights or of each tensor's."""
    if scope == "tensor":
        counts = {name: pruned_count(math.prod(shape), sparsity) for name, shape in shapes.items()}
        return _random(shapes, counts, seed)
    total = sum(math.prod(shape) for shape in shapes.values())
    stays = np.ones(total, bool)
    stays[np.random.default_rng(seed).choice(total, pruned_count(total, sparsity), replace=False)] = False
    return WeightTicket(_split(stays, list(shapes), shapes))


def draw_matched_weights(like: WeightTicket, seed: int) -> WeightTicket:
    """Return a random ticket with the density of `like` in every tensor (as in Frankle et al., 2021)."""
    return _random(like.shapes, {name: int((~mask).sum()) for name, mask in like.masks.items()}, seed)


def _random(shapes: Shapes, counts: Mapping[str, int], seed: int) -> WeightTicket:
    rng = np.random.default_rng(seed)
    masks = {}
    for name, shape in shapes.items():
        stays = np.ones(math.prod(shape), bool)
        stays[rng.choice(len(stays), counts[name], replace=False)] = False
        masks[name] = stays.reshape(shape)
    return WeightTicket(masks)


def _split(stays: Bools, names: Sequence[str], shapes: Shapes) -> dict[str, Bools]:
    """Return the parts of a flat array as masks of their shapes."""
    masks, start = {}, 0
    for name in names:
        size = math.prod(shapes[name])
        masks[name] = stays[start : start + size].reshape(shapes[name])
        start += size
    return masks
