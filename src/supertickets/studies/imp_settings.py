"""Settings of `supertickets imp`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.studies.presets import weight_preset_values
from supertickets.studies.settings import Grows, NoEffect, SourceSettings, rising
from supertickets.tasks import task_name, text
from supertickets.tickets.levels import percentage
from supertickets.tickets.weights import Pruning

Control = Literal["one-shot", "random", "matched", "random-weights", "shuffled-layers", "shuffled-elements"]
CONTROLS: tuple[Control, ...] = get_args(Control)

Sparsity = Annotated[float, AfterValidator(lambda share: round(share, 6))]
Sparsities = Annotated[tuple[Sparsity, ...], rising("expected fractions in [0, 1)", lambda share: 0 <= share < 1)]


@dataclass(frozen=True)
class RewindPoint:
    """Where weights are put back to after each pruning: after a `share` of the dense training; None: they are not.

    `label` distinguishes it from the study's first one, which has none.
    """

    label: str
    share: float | None


class ImpSettings(SourceSettings, Pruning):
    """Settings of `supertickets imp`."""

    rate: NoEffect[float] = Field(
        0.1, gt=0, lt=1, description="fraction of the weights to prune in each round, if --sparsities is a range"
    )
    rate_of: NoEffect[Literal["original", "remaining"]] = Field(
        "original", description="whether --rate is a fraction of the original weights or of the remaining ones"
    )
    sparsities: Grows[Sparsities] = Field(
        ("0.1..0.9",),
        validate_default=True,
        description="fractions of the prunable weights to prune, with one training round each: numbers, or a range "
        "such as 0.1..0.7 in steps of --rate",
    )
    rewind: tuple[str, ...] = Field(
        ("0",),
        description="weights to rewind to after each pruning: 0 (pre-trained), 5% (after that fraction of the dense "
        "training), none (do not rewind: standard pruning); several values are compared",
    )
    rewind_scope: Literal["backbone", "prunable"] = Field(
        "backbone", description="rewind the whole encoder (backbone) or only the prunable matrices (prunable)"
    )
    output_layer: Literal["rewind", "carry", "fresh"] = Field(
        "rewind",
        description="output layer at the start of a round: the initial one (rewind), the one trained in the previous "
        "round (carry), or a new one (fresh)",
    )
    prune_at_init: bool = Field(False, description="prune the pre-trained weights first, before any training")
    lr_schedule_over: Literal["round", "all"] = Field(
        "round",
        description="round: the learning rate decays to 0 within each round; all: over ten rounds, restarting in "
        "each, so that every round ends at 0.9 of the peak, as in the released code",
    )
    controls: Grows[tuple[Control, ...]] = Field(
        ("one-shot", "random"),
        description="baselines: one-shot, random or matched masks; or the tickets' masks on other weights "
        "(random-weights, shuffled-layers, shuffled-elements); or none",
    )
    control_sparsities: NoEffect[tuple[Sparsity, ...]] = Field(
        (), description="sparsities at which --controls are trained; default: all"
    )
    rule: Literal["sub_std", "full_std", "strict"] = Field(
        "sub_std",
        description="a ticket matches if its mean score is at most one standard deviation below the dense model's: of "
        "the ticket's runs (sub_std) or of the dense model's (full_std); strict: if it is not below",
    )
    pretrain: NoEffect[bool] = Field(
        True,
        description="with --task mlm or clm: if the checkpoint has no language modelling head, first train the dense "
        "model with one",
    )
    keep: NoEffect[Literal["none", "matching", "all"]] = Field(
        "none", description="trained weights to keep on disk: those of the shipped ticket (matching), all or none"
    )

    @field_validator("sparsities", mode="before")
    @classmethod
    def _expanded(cls, asked: Any, info: ValidationInfo) -> Any:
        """Write ranges out; `rate` and `rate_of` are declared first, so that they are known here."""
        if not isinstance(asked, tuple | list) or "rate" not in info.data:  # the wrong rate is reported instead
            return asked
        remaining = info.data.get("rate_of") == "remaining"
        return tuple(sparsity for one in asked for sparsity in _expand(one, info.data["rate"], remaining))

    @field_validator("sparsities")
    @classmethod
    def _above_zero(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        if not any(sparsities):
            raise ValueError("expected at least one sparsity above 0")
        return tuple(s for s in sparsities if s)  # 0 is the dense model

    @field_validator("rewind")
    @classmethod
    def _rewind_points_once(cls, rewind: tuple[str, ...]) -> tuple[str, ...]:
        shares = [_rewind_share(text) for text in rewind]
        if not shares:
            raise ValueError("expected 0, none, or a fraction such as 5%")
        if len(set(shares)) < len(shares):
            raise ValueError("a rewind point is given twice")
        return rewind

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        rewound_late = any(point.share for point in self.rewind_points)
        if rewound_late and (self.output_layer != "rewind" or self.rewind_scope != "backbone"):
            raise ValueError(
                "--rewind: rewinding to a point later than 0 resets the whole encoder and the output layer; leave out "
                "--output-layer and --rewind-scope"
            )
        if wrong := [s for s in self.control_sparsities if s not in self.sparsities]:
            known = ", ".join(f"{sparsity:g}" for sparsity in self.sparsities)
            raise ValueError(f"--control-sparsities: {wrong[0]:g} is not one of --sparsities; expected some of {known}")
        return self

    def preset_of(self, shape: Shape, task: str) -> dict[str, Any]:
        """Return the preset's values for tickets of weights on a task."""
        return weight_preset_values(self.preset, shape, task)

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no round, ticket or control is made by."""
        idle = super().without_effect(asked)
        if ".." not in str(asked.get("sparsities", "..")):
            idle |= dict.fromkeys(("rate", "rate_of"), "--sparsities is not a range such as 0.1..0.7")
        if len(self.sparsities) < 2:
            idle |= dict.fromkeys(("output_layer", "rewind_scope"), "with one sparsity there is only one round")
        if all(point.share is None for point in self.rewind_points):
            idle |= dict.fromkeys(("output_layer", "rewind_scope"), "--rewind none rewinds nothing")
        if not self.controls:
            idle["control_sparsities"] = "--controls is none"
        if task_name(self.task) not in text.NAMES:
            idle["pretrain"] = "only --task mlm and clm need a language modelling head"
        return idle

    @property
    def rewind_points(self) -> list[RewindPoint]:
        """Where weights are put back to; the first is the study's own way, the others are compared with it."""
        shares = [_rewind_share(text) for text in self.rewind]
        return [RewindPoint(rewind_label(share) if i else "", share) for i, share in enumerate(shares)]


def _expand(sparsity: Any, rate: float, remaining: bool) -> list[Any]:
    """Return the sparsities of a range such as `0.1..0.7`: a rate apart, or a rate of the remaining weights apart."""
    if not isinstance(sparsity, str) or ".." not in sparsity:
        return [sparsity]
    try:
        low, high = (float(percentage(end)) for end in sparsity.split(".."))
    except ValueError:
        raise ValueError(f"expected a range such as 0.1..0.7, got {sparsity!r}") from None
    if not 0 <= low <= high < 1:
        raise ValueError(f"expected a range of fractions in [0, 1) such as 0.1..0.7, got {sparsity!r}")
    found, reached = [], rate if remaining else low
    while reached <= high + 1e-9:
        if reached >= low - 1e-9:
            found.append(round(reached, 6))
        reached += rate * (1 - reached if remaining else 1)
    return found


def _rewind_share(text: str) -> float | None:
    """Return the share of the dense training that weights are put back to; None: they are not."""
    if text == "none":
        return None
    try:
        share = float(percentage(text))
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(f"expected 0, none, or a fraction in [0, 1) such as 5%, got {text!r}")
    return share


def rewind_label(share: float | None) -> str:
    """Return a way to rewind in words."""
    return "not rewound" if share is None else f"rewound to {100 * share:.6g}%" if share else "rewound"
