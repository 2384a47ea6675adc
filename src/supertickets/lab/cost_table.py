"""What a forward pass takes on this machine by what layers keep, measured once for a model's shape and remembered.

An attention module that keeps k heads costs `heads[k]`, an FFN that keeps n neurons `neurons[n]`, and all else `fixed`.
For each k (each n of a grid, others are interpolated) a model whose modules all keep so many takes turns with the dense
one; a module's price is its share of the time that is saved. What is compared is the ratio of each pair, so that a
machine that is slower for a while changes nothing.

Two guesses are in it. Layers do not slow each other down, so that prices add up (`benchmarks/latency.py` measures how
wrong that is). Where query heads share key/value heads, a ticket's heads are spread over the groups evenly, so that as
many key/value heads stay as can.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel as Content
from pydantic import ConfigDict
from transformers import AutoModel, PreTrainedModel

from supertickets.anatomy import Shape
from supertickets.errors import NoSpaceError, TicketError
from supertickets.lab.environment import versions
from supertickets.lab.forward import prepared
from supertickets.lab.latency import WARM_UP, check_lengths, seconds_of
from supertickets.lab.machine import check_device
from supertickets.lab.measured import Batch, Conditions, Quartiles
from supertickets.models import BaseModel, quiet_transformers
from supertickets.models.checkpoint import read_config
from supertickets.storage import cache_folder, digest, write_atomically
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import Structure
from supertickets.tickets.prices import Prices
from supertickets.training.devices import device_name, find_device, undisturbed
from supertickets.training.recipe import Precision

REPEATS = 15
_FORMAT = 1
_MOST_POINTS = 16
"""Up to so many heads, each number of them is measured; of more, a grid of `_GRID`."""
_GRID = 9
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The seconds of a dense model and of a cut one that took turns, `[repeats]` each."""


class Group(Content):
    """Attention modules (`of` heads) or FFNs that are alike, by their rows in a ticket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Literal["heads", "ffns"]
    rows: tuple[int, ...]


class Point(Content):
    """What a model takes in which each module of a group keeps so many structures, as a share of the dense one's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    group: Group
    kept: int
    ratio: Quartiles


class CostTable(Content):
    """Measured times. `seconds` are the dense model's of a pass; `kinds` are those that have prices."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    kinds: tuple[Structure, ...]
    seconds: Quartiles
    points: tuple[Point, ...]
    date: str
    about: dict[str, object]

    def prices(self, shape: Shape) -> Prices:
        """Return the price list in seconds: the dense model's are its median.

        What noise has put below the price of nothing, which is 0, is 0 too; `fixed` is what remains, of whatever sign.
        """
        by: dict[Structure, NDArray[np.float64]] = {}
        if "heads" in self.kinds:
            by["heads"] = np.zeros((shape.attentions, shape.heads + 1))
        ffns: Structure | None = next((kind for kind in self.kinds if kind != "heads"), None)
        if ffns is not None:
            by[ffns] = np.zeros((shape.layers, (shape.ffn if ffns == "neurons" else 1) + 1))
        fixed = self.seconds.median
        for group in dict.fromkeys(point.group for point in self.points):
            rows = by["heads"] if group.of == "heads" or ffns is None else by[ffns]
            places = np.arange(rows.shape[1])
            mine = sorted((point.kept, point.ratio.median) for point in self.points if point.group == group)
            kept, ratios = zip(*mine, (places[-1], 1.0), strict=True)
            each = np.maximum(0.0, self.seconds.median * (np.array(ratios) - ratios[0]) / len(group.rows))
            rows[list(group.rows)] = np.interp(places, kept, each)
            fixed -= len(group.rows) * float(each[-1])
        return Prices("seconds", fixed, by)


def latency_prices(
    base: BaseModel,
    structures: Sequence[Structure],
    batch_size: int,
    length: int,
    threads: int = 1,
    precision: Precision = "float32",
    device: str = "auto",
    repeats: int = REPEATS,
) -> Prices:
    """Return what a forward pass of a base model's encoder takes here by what layers keep, in seconds.

    `structures` are the kinds that have prices: heads, and FFNs or neurons; others are kept whole and are in `fixed`.
    The first call measures (minutes for a large model) and remembers the table in `supertickets/costs/` in the user's
    cache folder, under a hash of all that it depends on; weights are none of that. Raises TicketError for a device that
    is not there, a length that the model cannot read, and a model whose shared layers are not applied equally often.
    """
    batch, conditions = (
        Batch(batch_size=batch_size, length=length),
        Conditions(threads=threads, precision=precision, device=_named(device)),
    )
    check_lengths(base, [length], "--latency-of")
    about = _about(base, structures, batch, conditions, repeats)
    found = _remembered(about)
    if found is None:
        found = measure_table(base, structures, batch, conditions, repeats)
        with suppress(OSError, RuntimeError, NoSpaceError):
            write_atomically(cache_folder() / "costs" / f"{digest(about)}.json", found.model_dump_json(indent=1) + "\n")
    return found.prices(base.shape)


def measure_table(
    base: BaseModel, structures: Sequence[Structure], batch: Batch, conditions: Conditions, repeats: int
) -> CostTable:
    """Return the table of a base model's shape, measured with random weights; reads and writes no cache."""
    groups = alike(base)
    dense = prepared(random_model(base), conditions.device)

    def pair(ticket: Ticket) -> Pair:
        models = {"dense": dense, "cut": cut(copy.deepcopy(dense), ticket)}
        seconds = seconds_of(models, batch, conditions, repeats)
        return seconds["dense"], seconds["cut"]

    about = _about(base, structures, batch, conditions, repeats)
    return table_of(base.shape, groups, structures, pair, about)


def table_of(
    shape: Shape,
    groups: Sequence[Group],
    structures: Sequence[Structure],
    pair: Callable[[Ticket], Pair],
    about: dict[str, object],
) -> CostTable:
    """Return the table that pairs of times give; `pair` measures a ticket's against the dense model's."""
    points, dense = [], []
    for group in groups:
        for kept in _grid(shape, group, structures):
            times, of_cut = pair(_ticket(shape, group, kept))
            dense.append(times)
            points.append(Point(group=group, kept=kept, ratio=Quartiles.of(of_cut / times)))
    return CostTable(
        kinds=tuple(structures),
        seconds=Quartiles.of(np.concatenate(dense)),
        points=tuple(points),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        about=about,
    )


def _grid(shape: Shape, group: Group, structures: Sequence[Structure]) -> list[int]:
    """Return the numbers of structures that are measured, without the dense model's; none of kinds without prices."""
    if group.of == "heads":
        most, points = shape.heads, shape.heads + 1 if shape.heads <= _MOST_POINTS else _GRID
    else:
        most, points = (shape.ffn, _GRID) if "neurons" in structures else (1, 2)
    if group.of not in structures and not (group.of == "ffns" and "neurons" in structures):
        return []
    return np.unique(np.linspace(0, most, points).round().astype(int)).tolist()[:-1]


def _ticket(shape: Shape, group: Group, kept: int) -> Ticket:
    """Return the ticket of which each module of a group keeps so many heads or neurons, and others all.

    Of FFNs that are pruned whole, `kept` is 0.
    """
    full = Ticket.full(*shape.of_tickets)
    heads, neurons = full.heads.copy(), full.neurons_of(shape.ffn).copy()
    rows = list(group.rows)
    if group.of == "heads":
        in_turn = np.arange(shape.heads).reshape(shape.kv_heads, -1).T.ravel()  # one of each group, then the next
        heads[np.array(rows)[:, None], in_turn[kept:]] = False
    else:
        neurons[rows, kept:] = False
    return Ticket.of_neurons(heads, neurons)


def alike(base: BaseModel) -> list[Group]:
    """Return which modules of a model are alike: in the same place of a layer, in layers of the same stack and type.

    Raises TicketError for shared layers of which some are applied more often than others.
    """
    shape = base.shape
    if len(set(shape.applied)) > 1:
        raise TicketError(
            f"model {base.called}: its {shape.layers} layers of weights are applied {sum(shape.applied)} times in all, "
            "some more often than others, so that a layer has no one price; expected a multiple, or use `supertickets "
            "unshare`."
        )
    types = getattr(read_config(base.name, base.folder), "layer_types", None) or []
    full, first = Ticket.full(*shape.of_tickets), base.family.layers_of(base.config)[0]

    def kind(layer: int) -> tuple[bool, str]:
        return layer >= first, types[layer] if layer < len(types) else ""

    attentions = [(kind(module.layer), module.name) for module in full.modules]
    return _grouped("heads", attentions) + _grouped("ffns", [kind(layer) for layer in range(shape.layers)])


T = TypeVar("T")


def _grouped(of: Literal["heads", "ffns"], marks: Sequence[T]) -> list[Group]:
    return [
        Group(of=of, rows=tuple(row for row, mine in enumerate(marks) if mine == mark)) for mark in dict.fromkeys(marks)
    ]


def random_model(base: BaseModel) -> PreTrainedModel:
    """Return an encoder of a base model's shape in float32 with random weights."""
    config = read_config(base.name, base.folder)
    if base.layers is not None:
        for name, value in base.family.first_layers(config.to_dict(), base.layers).items():
            setattr(config, name, value)
    config.chunk_size_feed_forward = 0  # as in `models.load_model`
    with undisturbed(), quiet_transformers():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    return model


def _named(device: str) -> str:
    """Return torch's name of a device; raises TicketError if it is not there."""
    check_device(device)
    return str(find_device(device))


def _about(
    base: BaseModel, structures: Sequence[Structure], batch: Batch, conditions: Conditions, repeats: int
) -> dict[str, object]:
    """Return all that a table depends on: its hash is the name of its file."""
    return {
        "format": _FORMAT,
        "architecture": base.architecture,
        "layers": base.layers,
        "structures": list(structures),
        "batch": batch.model_dump(),
        "conditions": conditions.model_dump(),
        "device_name": device_name(torch.device(conditions.device)),
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
        "repeats": repeats,
        "warm_up": WARM_UP,
    }


def _remembered(about: dict[str, object]) -> CostTable | None:
    """Return the table that is remembered, None where there is none or its file is damaged."""
    with suppress(OSError, RuntimeError, ValueError):
        found = CostTable.model_validate_json((cache_folder() / "costs" / f"{digest(about)}.json").read_bytes())
        return found if digest(found.about) == digest(about) else None
    return None
