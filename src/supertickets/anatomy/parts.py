"""Parts of a layer as data: which dimensions of which parameters count heads, key/value heads and neurons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _always(config: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Part:
    """A module (or a raw parameter) of a layer whose outputs count structures.

    `path` is relative to the layer. `axes` says how the outputs count: `h` query heads, `g` key/value heads, `d` the
    numbers of a head, `n` neurons (intermediate units of an FFN), a number for as many blocks, the last axis fastest.
    So `h d` is a projection of its own, `3 h d` query, key and value in one, part by part, `h 3 d` the same head by
    head, `h d + g d + g d` blocks of unequal size, `2 n` a fused gate pair, `h` a number a head. `bias` says whether it
    has one, or names the config's field that does (`use_bias|True`: it has one where config.json lacks the field). What
    is no `matrix` is not multiplied with hidden states: a bias that is a parameter of its own, say. `when` says of
    which configs a model has the part.
    """

    path: str
    axes: str = "h d"
    bias: bool | str = True
    matrix: bool = True
    when: Callable[[Mapping[str, Any]], bool] = _always


@dataclass(frozen=True)
class Attention:
    """An attention module of a layer: its `parts` have rows for heads, and `output` has columns, its `inputs`.

    `attributes` of the module say how many heads it has now, as axes do; what the module has not is not set. `argument`
    names one of its forward pass that has a dimension for all heads of the dense model, and that dimension. Without
    heads, what is left of the module works (`empty` is `narrow`), or a context of no width is handed to `output` in its
    place (`context`), or the bias of `output`, which is in the module, is all it gives (`output`). `config` are fields
    of the config that it reads in its forward pass. `table` is the same as `argument` for the attention function that
    the module calls: a bias for all heads, which other layers may read too. `joint_norms` are over all heads together:
    what comes before them stays whole. `dropout` names the module, or the chance, of dropout behind `output`, where
    that is in the module too.
    """

    module: str
    parts: tuple[Part, ...]
    output: str
    attributes: Mapping[str, str] = field(
        default_factory=lambda: {
            **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads"), "h"),
            **dict.fromkeys(("all_head_size", "split_size"), "h d"),
            "num_key_value_heads": "g",
        }
    )
    argument: tuple[str, int] | None = None
    table: tuple[str, int] | None = None
    empty: Literal["narrow", "context", "output"] = "narrow"
    config: Mapping[str, str] = field(default_factory=dict)
    joint_norms: Mapping[str, str] = field(default_factory=dict)
    dropout: str | None = None
    inputs: ClassVar[str] = "h d"

    @property
    def gated(self) -> str:
        """The module whose input the gates of heads multiply."""
        return self.output


@dataclass(frozen=True)
class FFN:
    """A layer's feed-forward module: the rows of its `parts` and the columns of `output` count its neurons.

    `bias` says whether `output` has one (see `Part`). `gate` is the module whose output a gate multiplies, where a norm
    after `output` would undo that.
    """

    parts: tuple[Part, ...]
    output: str
    bias: bool | str = True
    gate: str | None = None
    inputs: ClassVar[str] = "n"

    @property
    def gated(self) -> str:
        """The module whose output the gate of the FFN multiplies."""
        return self.gate or self.output


def rows(module: str, *names: str, axes: str = "h d", bias: bool | str = True) -> tuple[Part, ...]:
    """Return the parts of a module that have names of their own, all with the same axes."""
    return tuple(Part(f"{module}.{name}", axes, bias) for name in names)


def index(axes: str, sizes: Mapping[str, int], kept: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
    """Return the places of a dimension that stay, in their order, when some of an axis do.

    `sizes` has the whole size of each axis; `kept` the places of an axis that stay, or a mask of them; axes that are
    not named stay whole. This is the one place that knows how dimensions are laid out.

    >>> index("2 h d", {"h": 3, "d": 2}, {"h": [0, 2]}).tolist()
    [0, 1, 4, 5, 6, 7, 10, 11]
    >>> index("h 2 d", {"h": 3, "d": 2}, {"h": [0, 2]}).tolist()
    [0, 1, 2, 3, 8, 9, 10, 11]
    >>> index("h d + g d", {"h": 2, "g": 1, "d": 2}, {"h": [True, False]}).tolist()
    [0, 1, 4, 5]
    """
    start, found = 0, []
    for block in axes.split(" + "):
        names = block.split()
        shape = [size_of(name, sizes) for name in names]
        places = np.arange(prod(shape)).reshape(shape)
        for axis, name in enumerate(names):
            if name in kept:
                chosen = np.asarray(kept[name])
                chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
                places = places.take(chosen, axis)
        found.append(start + places.ravel())
        start += prod(shape)
    return np.concatenate(found)


def size_of(axes: str, sizes: Mapping[str, int]) -> int:
    """Return how long a dimension with these axes is.

    >>> size_of("h d + g d", {"h": 4, "g": 2, "d": 8})
    48
    """
    blocks = axes.split(" + ")
    return sum(prod(int(name) if name.isdigit() else sizes[name] for name in block.split()) for block in blocks)


def width(axes: str, axis: str, sizes: Mapping[str, int]) -> int:
    """Return how many places of a dimension belong to one structure of an axis.

    >>> width("3 h d", "h", {"h": 4, "d": 8}), width("h d", "g", {"h": 4, "d": 8})
    (24, 0)
    """
    blocks = [block for block in axes.split(" + ") if axis in block.split()]
    return sum(size_of(block, {**sizes, axis: 1}) for block in blocks)
