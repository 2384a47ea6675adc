"""Settings of `supertickets transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Optional

from pydantic import Field, create_model, field_serializer, field_validator

from supertickets.anatomy import Shape
from supertickets.storage import UserPath
from supertickets.studies.presets import Preset, task_dropout, weight_preset_values
from supertickets.studies.settings import Grows, NoEffect, StudySettings
from supertickets.tasks import task_name
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Recipe

RECIPE = tuple(name for name in Recipe.model_fields if name not in ("precision", "threads"))
"""The fields of a recipe that each target has of its own unless they are asked for."""


def _of_target(name: str) -> Any:
    """Return a recipe's field, None unless it is asked for."""
    field = Recipe.model_fields[name]
    said = f"{field.description}; default: as in the study of the target task, or by preset"
    return Annotated[Optional[field.annotation], *field.metadata, Field(description=said)], None  # noqa: UP045


_TargetSettings: Any = create_model(
    "_TargetSettings", __base__=StudySettings, **{name: _of_target(name) for name in RECIPE}
)


class TransferSettings(_TargetSettings, Pruning):
    """Settings of `supertickets transfer`."""

    compared_apart = frozenset({"tickets", "sparsity", "preset", *RECIPE})  # as a plan: masks and recipes

    tickets: tuple[UserPath, ...] = Field(
        (),
        description="finished studies of `imp` or `find`, ticket folders, or repositories on the hub (org/name or "
        "org/name@revision), whose tickets to train on other tasks",
    )
    tasks: tuple[str, ...] = Field((), description="tasks to train on; default: the tasks that tickets were found on")
    data: UserPath | None = Field(None, description="folder with the files of tasks that no study of --tickets has")
    preset: Preset | None = Field(
        None, description="recipe of every task: paper or released; default: as in the study of the task, or paper"
    )
    sparsity: float | None = Field(
        None, gt=0, lt=1, description="sparsity of the weight tickets; default: the highest that all --tickets have"
    )
    baselines: tuple[Literal["one-shot", "random"], ...] = Field(
        ("one-shot",), description="tickets that belong to no task: one-shot magnitude pruning, random; or none"
    )
    seeds: Grows[int] = Field(3, ge=1, description="number of seeds; all train the tickets of the first seed")
    keep: NoEffect[Literal["none", "all"]] = Field("none", description="trained weights to keep on disk")

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
        return idle if self.baselines else idle | {"scope": "--baselines is none"}

    def asked_recipe(self) -> dict[str, Any]:
        """Return what every target's recipe is to have."""
        return {name: value for name in RECIPE if (value := getattr(self, name)) is not None}
