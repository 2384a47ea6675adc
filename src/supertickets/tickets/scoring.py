"""How importance is measured, in settings. A package adds a measure in its pyproject.toml:

[project.entry-points."supertickets.measures"]
depth = "my_package.depth:DEPTH"
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from supertickets.registry import Registry
from supertickets.tickets.kinds import Structure, Structured

Scores = dict[Structure, NDArray[np.float64]]
"""Importance by kind of structure: heads `[layers, heads]`, FFNs `[layers]`, and where they are pruned neurons
`[layers, neurons]`; 0 for what the model has not got."""


@dataclass(frozen=True)
class Measure:
    """A measure of importance: `function` returns the scores of a trained model (an `importance.Measured`).

    `reads` names the other settings that it reads; `score_examples` is for means over examples, which may stop early
    (`importance.sensitivity.mean_over_examples`). `gradients` says by what a backward pass takes derivatives: by gates
    alone, or by all weights, which costs twice as much. `order` says from the settings which order of examples the
    measure depends on: examples of like length together, or as they come in the file.
    """

    function: Callable[[Any], Scores]
    reads: tuple[str, ...] = ()
    gradients: Literal["gates", "weights"] = "gates"
    order: Callable[["ScoringSettings"], Literal["length", "file"]] = lambda settings: "length"


MEASURES: Registry[Measure] = Registry(
    "measure of importance",
    "measures",
    {
        name: f"supertickets.tickets.importance.{name}:{name.upper()}"
        for name in ("sensitivity", "magnitude", "taylor", "fisher", "movement", "random")
    },
)


class ScoringSettings(Structured):
    """How importance is measured; the defaults are the paper's text."""

    importance: Annotated[str, AfterValidator(MEASURES.checked)] = Field(
        "sensitivity",
        description=f"measure of importance that ranks structures; sensitivity is the paper's ({' | '.join(MEASURES)})",
    )
    absolute: Literal["example", "token"] = Field(
        "example",
        description="absolute value of the derivative of each example (example), or at each token position, as in the "
        "released code (token)",
    )
    accumulation: Literal["mean", "decaying"] = Field(
        "mean",
        description="mean over examples (mean), or over batches without ever zeroing the gradients, as in the "
        "released code (decaying)",
    )
    score_epoch: int | None = Field(
        None,
        ge=1,
        description="measure importance on the weights after this epoch; default: on the final weights, also if a "
        "training ends earlier",
    )

    score_examples: Literal["all", "settled"] = Field(
        "all",
        description="training examples that importance is measured on: all of them, or random ones until more would "
        "hardly change the tickets (settled)",
    )
    score_attention: Literal["fused", "plain"] = Field(
        "fused",
        description="attention while importance is measured: torch's kernel (fused), or products and a softmax of "
        "their own (plain), which in bfloat16 on CPUs take half to four fifths of the time and change the scores by "
        "some 0.1 %",
    )

    @model_validator(mode="after")
    def _only_means_settle(self) -> Self:
        if self.never_settles:
            raise ValueError(
                "--score-examples settled: sums with decay (--accumulation decaying) weight examples by their place in "
                "the file, so they cannot stop early; use --accumulation mean or --score-examples all"
            )
        return self

    @property
    def is_mean(self) -> bool:
        """Whether importance is a mean over examples."""
        reads = MEASURES[self.importance].reads
        return "score_examples" in reads and not ("accumulation" in reads and self.accumulation == "decaying")

    @property
    def never_settles(self) -> bool:
        """Whether examples may be left out, but their sum is one with decay."""
        return (
            self.score_examples == "settled"
            and "score_examples" in MEASURES[self.importance].reads
            and not self.is_mean
        )

    def read(self) -> "ScoringSettings":
        """Return these settings with what their measure does not read put at its default.

        Heads and FFNs are always scored, so that studies which prune one or both share trainings.
        """
        read: dict[str, Any] = {name: getattr(self, name) for name in MEASURES[self.importance].reads}
        if self.of_neurons:
            read["structures"] = ("heads", "neurons")
        return ScoringSettings(importance=self.importance, **read)

    @property
    def of_neurons(self) -> bool:
        """Whether neurons are scored too."""
        return "neurons" in self.structures
