"""Settings of studies of tickets of weights: `imp`, `transfer`, `pretrain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Self, get_args

from pydantic import Field, create_model, field_serializer, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.storage import UserPath
from supertickets.studies.presets import Preset, task_dropout, task_name, weight_preset_values
from supertickets.studies.settings import SourceSettings, StudySettings, part, percentage
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Recipe

Control = Literal["one-shot", "random", "matched", "random-weights", "shuffled-layers", "shuffled-elements"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Rule = Literal["sub_std", "full_std", "strict"]


@dataclass(frozen=True)
class Arm:
    """One way to go on after each pruning: `rewind` is the share of the dense training that weights are put back to.

    None: they are not put back. `name` tells it from the first one (which has none).
    """

    name: str
    rewind: float | None


class WeightSettings(SourceSettings):
    """Settings of studies of one training set by the recipes for tickets of weights."""

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for tickets of weights on the task."""
        own = self.train_file is not None and task_name(self.task) != "mlm"
        named = {"task": Path(str(self.train_file)).stem} if own else {}
        return weight_preset_values(self.preset, shape, "" if own else task_name(self.task)) | named


class ImpSettings(WeightSettings, Pruning):
    """Settings of `supertickets imp`."""

    study = "imp"

    sparsities: tuple[float, ...] = Field(
        ("0.1..0.9",),
        validate_default=True,
        description="shares of the prunable weights to prune, a training round each: numbers, or a range such as "
        "0.1..0.7 in steps of --rate",
    )
    rate: float = Field(0.1, gt=0, lt=1, description="share of the weights pruned in a round, where a range is given")
    amount_of: Literal["original", "remaining"] = Field(
        "original", description="a round prunes that share of the original weights, or of the remaining ones"
    )
    rewind: tuple[str, ...] = Field(
        ("0",),
        description="what weights are put back to after each pruning: 0 (pre-trained), 5% (as they were after that "
        "share of the dense training), none (standard pruning); several are compared",
    )
    rewind_scope: Literal["backbone", "prunable"] = Field(
        "backbone", description="put back the whole encoder (backbone), or the prunable matrices alone"
    )
    head: Literal["rewind", "carry", "fresh"] = Field(
        "rewind", description="the output layer of a round: as at the start, carried over, or drawn anew"
    )
    first_prune: Literal["after", "before"] = Field(
        "after", description="prune the first time after the dense training, or before any"
    )
    lr_horizon: Literal["round", "all"] = Field(
        "round",
        description="the learning rate falls to 0 over a round; or (all) over ten rounds as in the released code, "
        "starting anew in each, so that a round ends at 0.9 of the peak",
    )
    controls: tuple[Control, ...] = Field(
        ("one-shot", "random"),
        description="what tickets are compared with: one-shot, random or matched masks; random-weights, "
        "shuffled-layers, shuffled-elements in place of the pre-trained weights; none",
    )
    control_at: tuple[float, ...] = Field((), description="sparsities at which controls are trained; default: all")
    rule: Rule = Field(
        "sub_std",
        description="when a ticket matches the full model: within one standard deviation of its own (sub_std) or of "
        "the full model's (full_std), or at least as good on average (strict)",
    )
    keep: Literal["none", "matching", "all"] = Field(
        "none", description="whose trained weights stay on disk: nobody's, the shipped ticket's, everybody's"
    )

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, values: Any) -> Any:
        """Write ranges of sparsities out."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        asked = values.get("sparsities", cls.model_fields["sparsities"].default)
        if isinstance(asked, tuple | list):
            rate = _share(values.get("rate", cls.model_fields["rate"].default))
            remaining = values.get("amount_of") == "remaining"
            values["sparsities"] = tuple(s for one in asked for s in _expand(one, rate, remaining))
        return values

    @field_validator("sparsities")
    @classmethod
    def _sorted_sparsities(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [s for s in sparsities if not 0 <= round(s, 6) < 1]
        if wrong:
            raise ValueError(f"a sparsity is a share in [0, 1), got {wrong[0]:g}")
        found = tuple(sorted({round(s, 6) for s in sparsities} - {0.0}))  # 0 is the dense model
        if not found:
            raise ValueError("expected at least one sparsity above 0")
        return found

    @field_validator("rewind", mode="before")
    @classmethod
    def _written_as_numbers(cls, rewind: Any) -> Any:
        """Take 0 and 0.05 for what they are in YAML."""
        if not isinstance(rewind, tuple | list):
            return rewind
        return tuple(f"{one:g}" if type(one) in (int, float) else one for one in rewind)

    @field_validator("control_at")
    @classmethod
    def _rounded(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(round(s, 6) for s in sparsities)  # as the sparsities are

    @field_validator("rewind")
    @classmethod
    def _known_arms(cls, rewind: tuple[str, ...]) -> tuple[str, ...]:
        arms = [_arm(text) for text in rewind]
        if not arms:
            raise ValueError("expected 0, none, or a share such as 5%")
        if len(set(arms)) < len(arms):
            raise ValueError("a way to rewind is named twice")
        return rewind

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        shares = [arm.rewind for arm in self.arms]
        if any(shares) and (self.head != "rewind" or self.rewind_scope != "backbone"):
            raise ValueError("--rewind: rewinding into a training puts back the whole encoder and the output layer; "
                             "leave out --head and --rewind-scope")  # fmt: skip
        wrong = [s for s in self.control_at if not any(abs(s - rung) < 1e-9 for rung in self.sparsities)]
        if wrong:
            raise ValueError(f"--control-at: no ticket is found at {wrong[0]:g}; expected some of "
                             f"{', '.join(f'{rung:g}' for rung in self.sparsities)}")  # fmt: skip
        return self

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no round, ticket or control is made by."""
        idle, written = super().without_effect(asked), asked.get("sparsities", "..")
        if ".." not in str(written):
            idle |= dict.fromkeys(("rate", "amount_of"), "--sparsities has no range, such as 0.1..0.7")
        if len(self.sparsities) < 2:
            idle |= dict.fromkeys(("head", "rewind_scope"), "with one sparsity, no round follows another one")
        if all(arm.rewind is None for arm in self.arms):
            idle |= dict.fromkeys(("head", "rewind_scope"), "nothing is put back with --rewind none")
        if not self.controls:
            idle["control_at"] = "there are no --controls"
        return idle

    @property
    def arms(self) -> list[Arm]:
        """The ways to go on after each pruning; the first is the study's own."""
        shares = [_arm(text) for text in self.rewind]
        return [Arm("" if i == 0 else _said(share), share) for i, share in enumerate(shares)]

    @property
    def pruning(self) -> Pruning:
        """Which weights may go."""
        return Pruning(**part(self, Pruning))


def _share(rate: Any) -> float:
    """Return the share that a round prunes; raises ValueError if it is none."""
    try:
        share = float(rate)
    except (TypeError, ValueError):
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"--rate: expected a share between 0 and 1, got {rate}")
    return share


def _expand(sparsity: Any, rate: float, remaining: bool) -> list[Any]:
    """Return the sparsities of a range such as `0.1..0.7`: a rate apart, or a rate of the remaining weights apart."""
    if not isinstance(sparsity, str) or ".." not in sparsity:
        return [sparsity]
    try:
        low, high = (float(percentage(end)) for end in sparsity.split(".."))
    except ValueError:
        raise ValueError(f"--sparsities: expected a range such as 0.1..0.7, got {sparsity!r}") from None
    if not 0 <= low <= high < 1:
        raise ValueError(f"--sparsities: expected a range of shares in [0, 1) such as 0.1..0.7, got {sparsity!r}")
    found, reached = [], low
    if remaining:
        reached = rate
        while reached < low - 1e-9:
            reached += rate * (1 - reached)
    while reached <= high + 1e-9:
        found.append(round(reached, 6))
        reached += rate * (1 - reached if remaining else 1)
    return found


def _arm(text: str) -> float | None:
    """Return the share of the dense training that weights are put back to; None: they are not."""
    if text == "none":
        return None
    try:
        share = float(percentage(text))
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(f"expected 0, none, or a share in [0, 1) such as 5%, got {text!r}")
    return share


def _said(share: float | None) -> str:
    return "not rewound" if share is None else f"rewound to {100 * share:.6g}%" if share else "rewound"


RECIPE = tuple(name for name in Recipe.model_fields if name not in ("precision", "processes", "threads"))
"""The fields of a recipe that each target of `transfer` has of its own unless they are asked for."""


def _of_target(name: str) -> Any:
    """Return a recipe's field, None unless it is asked for."""
    field = Recipe.model_fields[name]
    said = f"{field.description}; default: that of the target's own study, or by preset"
    return Annotated[Optional[field.annotation], *field.metadata, Field(description=said)], None  # noqa: UP045


_TargetSettings: Any = create_model(
    "_TargetSettings", __base__=StudySettings, **{name: _of_target(name) for name in RECIPE}
)


class TransferSettings(_TargetSettings, Pruning):
    """Settings of `supertickets transfer`."""

    study = "transfer"
    compared_apart = frozenset({"tickets", "sparsity", "preset", *RECIPE})  # as a plan: masks and recipes

    tickets: tuple[UserPath, ...] = Field(
        (), description="studies of `imp` or `find`, or ticket folders: one source each (and each way to rewind)"
    )
    tasks: tuple[str, ...] = Field((), description="tasks to train them on; default: those the tickets were found on")
    data: UserPath | None = Field(None, description="folder of the files of tasks that no study of --tickets is about")
    preset: Preset | None = Field(
        None, description="recipe of every target: paper or released; default: the target's own study's, or paper"
    )
    sparsity: float | None = Field(
        None, gt=0, lt=1, description="which of a study's tickets of weights to take; default: the highest all have"
    )
    baselines: tuple[Literal["one-shot", "random"], ...] = Field(
        ("one-shot",), description="tickets of no task beside them: one-shot magnitude pruning, random; or none"
    )
    seeds: int = Field(3, ge=1, description="how many seeds; tickets are those of their study's first one")
    keep: Literal["none", "all"] = Field("none", description="whose trained weights stay on disk")

    @field_validator("patience")
    @classmethod
    def _never(cls, patience: int | None) -> int | None:
        return patience  # 0 is never, None what the target's own study has

    @field_serializer("patience", when_used="json")
    def _never_as_typed(self, patience: int | None) -> int | None:
        return patience

    @property
    def title(self) -> str:
        """The study, and its targets where they are named."""
        return "-".join(["transfer", *self.tasks])

    @property
    def pruning(self) -> Pruning:
        """Which weights baselines may lack."""
        return Pruning(**part(self, Pruning))

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's first seed; what else it has is each target's (see `preset_recipe`)."""
        values = weight_preset_values(self.preset or "paper", shape, "")
        return {"first_seed": values["first_seed"]} if "first_seed" in values else {}

    def preset_recipe(self, shape: Shape, task: str) -> Recipe:
        """Return the preset's recipe for a target."""
        preset = self.preset or "paper"
        values = {"dropout": task_dropout(preset, task), **weight_preset_values(preset, shape, task_name(task))}
        return Recipe.model_validate({name: value for name, value in values.items() if name in Recipe.model_fields})

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also how baselines are pruned, where there are none."""
        idle: dict[str, str] = super().without_effect(asked)
        return idle if self.baselines else idle | {"scope": "there are no --baselines"}

    def asked_recipe(self) -> dict[str, Any]:
        """Return what every target's recipe is to have."""
        return {name: value for name in RECIPE if (value := getattr(self, name)) is not None}


class PretrainSettings(WeightSettings):
    """Settings of `supertickets pretrain`."""

    study = "pretrain"

    task: str = Field("mlm", description="what to train on: masked language modelling, or any other task")
    seeds: int = Field(1, ge=1, le=1, description="one model is trained")
