"""Settings of `supertickets share`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from supertickets.anatomy import Shape
from supertickets.storage import UserPath
from supertickets.studies.presets import preset_values, task_dropout
from supertickets.studies.settings import Grows, NoEffect, Rates, RateSettings, TicketSettings, part
from supertickets.tasks import task_name
from supertickets.tickets.drawing import Drawing
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.recipe import Recipe, Sharing

DEFAULT_TASKS = ("entailment", "paraphrase", "similarity")
"""What `share` trains where neither tasks nor tickets are named."""


class ShareSettings(TicketSettings, RateSettings, Sharing):
    """Settings of `supertickets share`."""

    compared_apart = frozenset({"tickets"})  # as the tickets in them

    tasks: tuple[str, ...] = Field(
        (), description="tasks that share the encoder; default: the tasks of --tickets, or three built-in tasks"
    )
    tickets: tuple[UserPath, ...] = Field(
        (),
        description="finished studies of `find`, ticket folders, or repositories on the hub (org/name or "
        "org/name@revision), one per task; default: search for tickets first",
    )
    data: UserPath | None = Field(
        None, description="folder with the tasks' files; default: GLUE is downloaded from the hub"
    )
    max_train_examples: int | None = Field(
        None, ge=2, description="maximum number of training examples per task; larger training sets are subsampled"
    )
    fraction_seed: int = Field(0, ge=0, description="random seed for subsampling with --max-train-examples")
    seeds: Grows[int] = Field(2, ge=1, description="number of seeds of the shared training; all train the same tickets")
    epochs: int = Field(5, ge=1, description="maximum number of epochs of the shared training")
    find_epochs: int | None = Field(
        None, ge=1, description="maximum number of epochs of the ticket search; default: by preset and task"
    )
    dropout: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, description="dropout before every output layer; default: by preset and task"
    )
    fine_tune: NoEffect[bool] = Field(True, description="also fine-tune the shared models on each task")
    fine_tune_epochs: int = Field(6, ge=1, description="maximum number of epochs of the fine-tuning")
    fine_tune_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of the fine-tuning; default: --learning-rate"
    )
    learning_rates: NoEffect[Rates] = Field(
        (), description="more learning rates to fine-tune the first seed's shared models with, as in Tables 5 and 8"
    )
    keep: NoEffect[Literal["none", "shared", "all"]] = Field(
        "shared", description="trained weights to keep on disk: those of the shared models (shared), all or none"
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        names = [task_name(task) for task in tasks]
        twice = [task for task, name in zip(tasks, names, strict=True) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice; expected each task once")
        return tasks

    @property
    def title(self) -> str:
        """The study and its tasks."""
        return "-".join(["share", *self.tasks])

    @property
    def recipe(self) -> Recipe:
        """How the shared models are trained; output layers may have a dropout of their own."""
        return part(self.model_copy(update={"dropout": self.dropout_of("")}), Recipe)

    def dropout_of(self, task: str) -> float:
        """Return the dropout before a task's output layer."""
        return task_dropout(self.preset, task) if self.dropout is None else self.dropout

    def fine_tuning(self, task: str) -> Recipe:
        """Return how a shared model is fine-tuned on one of its tasks."""
        rate = self.fine_tune_learning_rate or self.learning_rate
        change = {"epochs": self.fine_tune_epochs, "dropout": self.dropout_of(task), "learning_rate": rate}
        return self.recipe.model_copy(update=change)

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for training several tasks."""
        return preset_values(self.preset, shape, *map(task_name, self.tasks or DEFAULT_TASKS))

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what only the search for tickets reads, where there is none, and what only fine-tuning reads."""
        idle = super().without_effect(asked)
        if self.tickets:
            searched = ("levels", "find_epochs", *Drawing.model_fields, *ScoringSettings.model_fields)
            idle |= dict.fromkeys(searched, "--tickets names the tickets, so there is no search")
        else:
            idle |= self.unread([self.importance], randomly=False)
        if not self.fine_tune and not self.learning_rates:
            idle |= dict.fromkeys(
                ("fine_tune_epochs", "fine_tune_learning_rate"), "nothing is fine-tuned (--no-fine-tune)"
            )
        if self.max_train_examples is None:
            idle["fraction_seed"] = "--max-train-examples is not set"
        return idle
