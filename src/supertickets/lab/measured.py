"""What models cost on a machine: the content of `measured.json`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

from supertickets.errors import TicketError
from supertickets.training.recipe import Precision

MEASURED = "measured.json"
Which = Literal["dense", "ticket"]
"""The models that are measured side by side."""


class _Value(BaseModel):
    """What is kept as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quartiles(_Value):
    """The median of measurements, with the quartiles below and above it (`low`, `high`).

    >>> Quartiles.of([4.0, 1.0, 2.0, 3.0, 100.0])
    Quartiles(median=3.0, low=2.0, high=4.0)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Return those of some values."""
        low, median, high = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75]).tolist()
        return cls(median=median, low=low, high=high)


class Conditions(_Value):
    """Where and how forward passes run. `device` is torch's name of one, not `auto`.

    `precision` is that of the recipe: with bfloat16, matrices are multiplied in it and weights are stored in float32.
    """

    threads: int = Field(1, ge=1)
    precision: Precision = "float32"
    device: str = "cpu"


class Batch(_Value):
    """A batch without padding: so many examples of so many tokens each."""

    batch_size: int = Field(ge=1)
    length: int = Field(ge=1)


class Timed(_Value):
    """One model's forward passes of a batch; `flops` are those of its layers (see `anatomy.cost.forward_flops`)."""

    seconds: Quartiles
    examples_per_second: float
    tokens_per_second: float
    flops: int


class Passes(_Value):
    """The forward passes of a batch; `ratio` is the ticket's time as a share of the dense model's, pair by pair."""

    batch: Batch
    models: dict[Which, Timed]
    ratio: Quartiles | None = None


class Sizes(_Value):
    """One model's sizes. `parameters` are all, `structures` those of heads and FFNs; `file` is its safetensors file.

    `peak` is the most memory, in bytes, that a fresh process takes to load it and compute the largest batch: resident
    memory without what imports take, or on a GPU what torch allocates there. None: the system does not tell.
    """

    parameters: int
    structures: int
    file: int
    peak: int | None = None


class Measured(_Value):
    """The cost of a dense encoder and, beside it, of what a ticket leaves of it, without an output layer.

    `trial` is the key of the training that the ticket comes from, `load` the machine's average number of running
    processes when measuring began (None: the system does not tell), `warm_up` how many turns were not counted.
    """

    format: Literal[1] = 1
    path: str
    model: str
    layers: int | None
    weight_hash: str
    ticket: dict[str, Any] | None
    trial: str | None
    conditions: Conditions
    device_name: str
    cores: int | None
    load: float | None
    date: str
    versions: dict[str, str]
    repeats: int
    warm_up: int
    sizes: dict[Which, Sizes]
    peak_of: Batch
    passes: tuple[Passes, ...]

    def as_json(self) -> str:
        """Return the content of a file."""
        return self.model_dump_json(indent=1) + "\n"

    def machine(self) -> str:
        """Return where, when and how it was measured, in words."""
        about, versions = self.conditions, self.versions
        threads = f"{about.threads} thread{'s' if about.threads > 1 else ''}"
        load = "" if self.load is None else f"; load average when it began: {self.load:.2f}"
        return (
            f"{self.device_name} ({about.device}), {threads}, {about.precision}, torch {versions.get('torch')}, "
            f"transformers {versions.get('transformers')}, {self.date}; {self.repeats} pairs after {self.warm_up} to "
            f"warm up{load}."
        )


def timed(seconds: ArrayLike, batch: Batch, flops: int) -> Timed:
    """Return what the times of a model's forward passes of a batch say."""
    found = Quartiles.of(seconds)
    each = batch.batch_size / found.median
    return Timed(seconds=found, examples_per_second=each, tokens_per_second=each * batch.length, flops=flops)


def passes_of(batch: Batch, seconds: Mapping[Which, ArrayLike], flops: Mapping[Which, int]) -> Passes:
    """Return what the times of one model, or of two that took turns, say."""
    models = {which: timed(values, batch, flops[which]) for which, values in seconds.items()}
    if "ticket" not in seconds:
        return Passes(batch=batch, models=models)
    pairs = np.asarray(seconds["ticket"], float) / np.asarray(seconds["dense"], float)
    return Passes(batch=batch, models=models, ratio=Quartiles.of(pairs))


def load_measured(folder: Path) -> Measured | None:
    """Return what was measured of a study's ticket, None if nothing was; raises TicketError for a damaged file."""
    path = folder / MEASURED
    try:
        return Measured.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TicketError(f"{path}: the file is damaged ({reason}); measure the study again.") from error
