"""Settings of `supertickets adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from supertickets.models import DEFAULT_MODEL
from supertickets.storage import UserPath
from supertickets.studies.settings import Grows, NoEffect, TaskSettings, idle_fraction_seed, rising

Fractions = Annotated[
    tuple[float, ...],
    rising(
        "expected fractions in (0, 1] or whole numbers of examples",
        lambda fraction: 0 < fraction <= 1 or (fraction > 1 and fraction.is_integer()),
        "fraction",
    ),
]


class AdaptSettings(TaskSettings):
    """Settings of `supertickets adapt`."""

    compared_apart = frozenset({"sources"})  # as the models that they have

    sources: tuple[UserPath, ...] = Field(
        (),
        description="finished studies of `find` or `share`, ticket folders with their trained model, or repositories "
        "on the hub (org/name or org/name@revision), whose models are adapted",
    )
    model: str = Field(
        DEFAULT_MODEL,
        description="hub id or local folder of the pre-trained encoder; default: the base model of --sources",
    )
    task: str = Field(
        "",
        description="built-in or GLUE task to adapt to, or snli, scitail, squad, ner, mlm, clm; with --train-file, "
        "a name for your task",
    )
    fractions: Fractions = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="fractions of the training set (1: all of it), rounded down, or numbers of examples; smaller "
        "training sets are subsets of larger ones",
    )
    fraction_seed: int = Field(0, ge=0, description="random seed that decides which examples are in a fraction")
    ticket_of: str | None = Field(
        None,
        description="task whose ticket of a shared model is kept; default: the union of all tasks' tickets",
    )
    output_layer: Literal["new", "trained"] = Field(
        "new",
        description="start from a new output layer, or from the trained one of the source model, whose task must have "
        "the same labels (in a study of `share`: the one of --ticket-of)",
    )
    least_steps: int = Field(
        0,
        ge=0,
        description="minimum number of update steps: with few examples, train for more epochs and delay early "
        "stopping; 0: no minimum, as in the paper",
    )
    seeds: Grows[int] = Field(3, ge=1, description="number of seeds")
    keep: NoEffect[Literal["none", "all"]] = Field("none", description="trained weights to keep on disk")

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also a seed of fractions that nothing is drawn with."""
        return super().without_effect(asked) | idle_fraction_seed(self.task, self.fractions != (1.0,), "--fractions")
