"""Settings of every study: one declaration gives flag, YAML key, type, default and help."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, Field, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.errors import unknown_name
from supertickets.models import DEFAULT_MODEL
from supertickets.storage import UserPath
from supertickets.studies.presets import SEVERAL, Preset, preset_values, task_dropout, task_name
from supertickets.tasks import TaskFiles, TaskSource
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets.drawing import KINDS, Drawing, Kind
from supertickets.tickets.scoring import READ, ScoringSettings
from supertickets.training.recipe import Recipe, Sharing


class StudySettings(Recipe):
    """Settings of every study: how models are trained, where and how often."""

    model: str = Field(
        DEFAULT_MODEL, description="hub id, local folder, or `default`: a small real encoder, no network"
    )
    seeds: int = Field(2, ge=1, description="how many seeds, each with its own dense training and tickets")
    first_seed: int = Field(0, ge=0, description="the first seed; the others follow it")
    preset: Preset = Field(
        "paper", description="paper: as the paper describes it; released: as its authors' code does it, bugs included"
    )
    # A recipe's precision is settled; only settings may leave it to the machine.
    precision: Literal["auto", "float32", "bfloat16"] = Field(  # type: ignore[assignment]
        "auto", description="arithmetic of the forward pass; auto: bfloat16 where it is native"
    )
    workers: int | Literal["auto"] = Field("auto", description="trainings side by side: a number, or one for each core")
    device: str = Field("auto", description="auto (a GPU if there is one), cpu, cuda, ...")
    on: Literal["local", "ray"] = Field("local", description="where trainings run: this machine, or a Ray cluster")
    address: str | None = Field(None, description="Ray cluster; default: the one of this machine, or a new local one")
    cpus: float | None = Field(None, ge=0, description="CPUs a training takes on Ray; default: its threads")
    gpus: float = Field(0.0, ge=0, description="GPUs a training takes on Ray; a fraction shares one")
    track: tuple[str, ...] = Field((), description="experiment trackers: tensorboard, mlflow, wandb, trackio, ...")
    checkpoint_minutes: float = Field(2.0, ge=0, description="minutes between two checkpoints of a training")
    out: UserPath | None = Field(None, description="output folder; default: in runs/, named after study and task")

    study: ClassVar[str]
    """The study's name: its command, and what its settings file says it is."""
    compared_apart: ClassVar[frozenset[str]] = frozenset()
    """Fields whose effect, not value, is compared with that of the folder's study."""

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"expected `auto` or at least 1 worker, got {workers}")
        return workers

    @property
    def recipe(self) -> Recipe:
        """How every trial is trained; `precision` must be settled by then."""
        return Recipe(**part(self, Recipe))

    @property
    def title(self) -> str:
        """What the study is about, in a few words; its folder is named after it."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.out if self.out is not None else Path("runs") / slug(self.title)

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return what the preset sets for this study on a model of that shape."""
        raise NotImplementedError

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that change nothing beside the others, and why.

        `asked` are the values that were asked for, as they were written.
        """
        if self.on == "ray":
            return {"workers": "Ray runs as many trainings as --cpus and --gpus leave room for"}
        return dict.fromkeys(("address", "cpus", "gpus"), "only --on ray reads it")


def slug(name: str) -> str:
    """Return a name as one that a folder may have."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80] or "task"


def percentage(value: Any) -> Any:
    """Return a number that is written as a percentage, such as `5%`, as a share; anything else as it is."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    try:
        return float(Decimal(value.strip().removesuffix("%").strip()) / 100)  # 0.1% is 0.001, not the float beside it
    except InvalidOperation:
        return value


def part(settings: BaseModel, of: type[BaseModel]) -> dict[str, Any]:
    """Return those of some settings that are fields of another model."""
    return {name: getattr(settings, name) for name in of.model_fields}


class TaskSettings(StudySettings, TaskFiles):
    """Settings of studies of one task."""

    task: str = Field(
        "entailment", description="built-in or GLUE task, snli, scitail, squad, mlm, or a name for your own files"
    )

    @property
    def files(self) -> TaskFiles:
        """Where the task's examples are."""
        return TaskFiles(**part(self, TaskFiles))

    @property
    def title(self) -> str:
        """The task, and the study if it is not the main one."""
        return self.task if self.study == FindSettings.study else f"{self.task}-{self.study}"

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for the task; a user's own task is named after its file."""
        own = self.train_file is not None
        name = "" if own else task_name(self.task)  # a user's own task may have any name
        named = {"task": Path(str(self.train_file)).stem} if own else {}
        return preset_values(self.preset, shape, name, name in BUILTIN) | named

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what the task's files make no use of."""
        idle, own, name = super().without_effect(asked), self.train_file is not None, task_name(self.task)
        if own:
            idle["data"] = "the examples are in --train-file"
        elif name in BUILTIN:
            idle["data"] = f"task {self.task!r} is built in and has no files"
        if not own or self.dev_file is not None:
            idle["dev_share"] = "only a --train-file without --dev-file is split"
        if name == "mlm":
            idle["dropout"] = "masked language modelling has no dropout before its output layer"
        return idle


class SourceSettings(TaskSettings, TaskSource):
    """Settings of studies of one training set."""

    @property
    def source(self) -> TaskSource:
        """Where the task's examples come from."""
        return TaskSource(**part(self, TaskSource))

    @property
    def title(self) -> str:
        """The task, the fraction that is trained on, and the study if it is not the main one."""
        fraction = f"-{self.fraction:g}" if self.fraction < 1 else ""
        return self.task + fraction + ("" if self.study == FindSettings.study else f"-{self.study}")

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also a seed of fractions that nothing is drawn with."""
        return super().without_effect(asked) | _idle_fraction_seed(self.task, self.fraction < 1, "--fraction")


def _idle_fraction_seed(task: str, drawn: bool, how: str) -> dict[str, str]:
    """Return why the seed of fractions is not read, by its name; nothing if it is."""
    if task_name(task) == "mlm":
        return {"fraction_seed": "of a text, a fraction is its first lines"}
    return {} if drawn else {"fraction_seed": f"no part of the training set is drawn ({how})"}


class TicketSettings(Drawing, ScoringSettings):
    """Settings of studies that draw tickets: at which levels, of which kinds, from what."""

    levels: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), description="shares of heads and FFNs to prune, in [0, 1)"
    )

    @field_validator("levels")
    @classmethod
    def _sorted_levels(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [level for level in levels if not 0 <= level < 1]
        if wrong:
            raise ValueError(f"a level is a share in [0, 1), got {wrong[0]}")
        if not levels:
            raise ValueError("expected at least one level")
        return tuple(sorted(set(levels)))

    @property
    def scoring(self) -> ScoringSettings:
        """How importance is measured; what the measure does not read is at its default."""
        return ScoringSettings(**part(self, ScoringSettings)).read()

    @property
    def drawing(self) -> Drawing:
        """How tickets are drawn."""
        return Drawing(**part(self, Drawing))

    def unread(self, measures: Sequence[str], randomly: bool, ranked: bool = True) -> dict[str, str]:
        """Return what changes no ticket, and why: with such measures, with random tickets or without, ranked or not."""
        idle = {}
        read = {name for measure in measures for name in READ[measure]}
        for name in {"absolute", "accumulation", "score_epoch"} - read:
            idle[name] = f"the measure of importance ({', '.join(measures)}) does not read it"
        if not randomly:
            idle["random"] = "no random tickets are drawn"
        if not ranked or sum(level > 0 for level in self.levels) < 2:
            idle["schedule"] = "no ticket is drawn after another one: there are fewer than two levels of a ranked kind"
        return idle


class _DrawnSettings(SourceSettings, TicketSettings):
    """Settings of studies that draw tickets from the dense runs of one task."""

    @model_validator(mode="after")
    def _scores_an_epoch_there_is(self) -> Self:
        if self.score_epoch is not None and self.score_epoch > self.epochs:
            raise ValueError(f"--score-epoch {self.score_epoch}: a training has {self.epochs} epochs (--epochs)")
        return self


class FindSettings(_DrawnSettings):
    """Settings of `supertickets find`."""

    study = "find"

    kinds: tuple[Kind, ...] = Field(KINDS, description="kinds of tickets: winning, random, losing")
    control: Literal["none", "best-of-k"] = Field(
        "none", description="best-of-k: also train as many dense models with other seeds as there are levels"
    )
    keep: Literal["none", "super", "all"] = Field("super", description="whose trained weights stay on disk")

    @field_validator("kinds")
    @classmethod
    def _kinds_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds:
            raise ValueError("expected at least one kind")
        return tuple(kind for kind in KINDS if kind in kinds)

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no ticket is drawn by."""
        ranked = self.kinds != ("random",)
        return super().without_effect(asked) | self.unread([self.importance], "random" in self.kinds, ranked)


class CompareSettings(_DrawnSettings):
    """Settings of `supertickets compare`."""

    study = "compare"

    levels: tuple[float, ...] = Field((0.3, 0.6), description="shares of heads and FFNs to prune, in [0, 1)")
    choices: tuple[str, ...] = Field(
        ("absolute", "accumulation", "counts", "random", "lr_schedule"),
        description="what to change, one at a time: `name=value`, or `name` for every other value",
    )

    @field_validator("choices")
    @classmethod
    def _known_choices(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        for choice in choices:
            name, _, value = choice.partition("=")
            name = name.replace("-", "_")
            if name not in CHOICES:
                raise unknown_name("choice", name, CHOICES)
            if value and value not in CHOICES[name]:
                raise unknown_name(f"value of {name}", value, CHOICES[name])
        if not choices:
            raise ValueError("expected at least one choice")
        return tuple(dict.fromkeys(choice.replace("-", "_", choice.partition("=")[0].count("-")) for choice in choices))

    @property
    def variants(self) -> list[tuple[str, str]]:
        """Every (setting, value) that is tried instead of the one the study has, but for those that change nothing."""
        return list(dict.fromkeys(variant for choice in self.choices for variant in self._variants(choice)))

    @property
    def idle(self) -> list[str]:
        """The choices that change nothing here: the study's own, or what the measure of importance does not read."""
        return [choice for choice in self.choices if not self._variants(choice)]

    def _variants(self, choice: str) -> list[tuple[str, str]]:
        name, _, value = choice.partition("=")
        return [
            (name, other) for other in ([value] if value else CHOICES[name]) if not self._changes_nothing(name, other)
        ]

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no ticket is drawn by, neither the usual ones nor those of a choice."""
        measures = [self.importance, *(value for name, value in self.variants if name == "importance")]
        idle = super().without_effect(asked)
        idle |= self.unread(measures, any(name == "random" for name, _ in self.variants))
        if any(name == "schedule" for name, _ in self.variants):
            idle.pop("schedule", None)
        if self.idle:
            named, measure = " and ".join(self.idle), self.importance
            idle["choices"] = f"{named} is the study's own value, or not read by its measure of importance ({measure})"
        return idle

    def _changes_nothing(self, name: str, value: str) -> bool:
        if name not in ScoringSettings.model_fields or value == getattr(self, name):
            return value == getattr(self, name)
        return self.model_copy(update={name: value}).scoring == self.scoring


DEFAULT_TASKS = ("entailment", "paraphrase", "similarity")
"""What `share` trains where neither tasks nor tickets are named."""


class ShareSettings(StudySettings, TicketSettings, Sharing):
    """Settings of `supertickets share`."""

    study = "share"
    compared_apart = frozenset({"tickets"})  # as the tickets in them

    tasks: tuple[str, ...] = Field(
        (), description="tasks that share the encoder; default: those of --tickets, or three built-in ones"
    )
    tickets: tuple[UserPath, ...] = Field(
        (), description="finished studies of `find`, or ticket folders, one a task; default: they are found first"
    )
    data: UserPath | None = Field(None, description="folder of the tasks' files (without it, GLUE comes from the hub)")
    at_most: int | None = Field(None, ge=2, description="training examples of a task at most; larger sets are cut")
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which larger sets are cut")
    epochs: int = Field(5, ge=1, description="epochs of the shared training at most")
    find_epochs: int | None = Field(
        None, ge=1, description="epochs at most of the trainings that find tickets first; default: by preset and task"
    )
    dropout: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, description="dropout before every output layer; default: each task's own, by preset"
    )
    fine_tune: bool = Field(True, description="also fine-tune the shared models on each task")
    fine_tune_epochs: int = Field(6, ge=1, description="epochs of the fine-tuning at most, as of a single task")
    fine_tune_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of the fine-tuning; default: the shared training's"
    )
    keep: Literal["none", "shared", "all"] = Field(
        "shared", description="whose trained weights stay on disk: nobody's, the shared models', everybody's"
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
        values = part(self, Recipe)
        return Recipe(**values | {"dropout": self.dropout_of("") if self.dropout is None else self.dropout})

    @property
    def sharing(self) -> Sharing:
        """How the tasks share the encoder."""
        return Sharing(**part(self, Sharing))

    def dropout_of(self, task: str) -> float:
        """Return the dropout before a task's output layer."""
        return task_dropout(self.preset, task) if self.dropout is None else self.dropout

    def fine_tuning(self, task: str) -> Recipe:
        """Return how a shared model is fine-tuned on one of its tasks."""
        change = {"epochs": self.fine_tune_epochs, "dropout": self.dropout_of(task)}
        rate = self.fine_tune_learning_rate
        return self.recipe.model_copy(update=change | ({} if rate is None else {"learning_rate": rate}))

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for training several tasks."""
        names = [task_name(task) for task in self.tasks or DEFAULT_TASKS]
        return preset_values(self.preset, shape, SEVERAL, all(name in BUILTIN for name in names))

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what only the search for tickets reads, where there is none, and what only fine-tuning reads."""
        idle = super().without_effect(asked)
        if self.tickets:
            searched = ("levels", "find_epochs", *Drawing.model_fields, *ScoringSettings.model_fields)
            idle |= dict.fromkeys(searched, "--tickets names the tickets, so that none are looked for")
        else:
            idle |= self.unread([self.importance], randomly=False)
        if not self.fine_tune:
            idle |= dict.fromkeys(
                ("fine_tune_epochs", "fine_tune_learning_rate"), "nothing is fine-tuned (--no-fine-tune)"
            )
        if self.at_most is None:
            idle["fraction_seed"] = "no training set is cut (--at-most)"
        return idle


class AdaptSettings(TaskSettings):
    """Settings of `supertickets adapt`."""

    study = "adapt"
    compared_apart = frozenset({"runs"})  # as the models that they have

    runs: tuple[UserPath, ...] = Field(
        (), description="finished studies of `find` or `share`, whose models are adapted"
    )
    task: str = Field("", description="task to adapt to: of GLUE, built-in, snli, scitail, squad, mlm, or your own")
    fractions: tuple[float, ...] = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="shares of the training set (1: all of it), rounded down, or numbers of examples; each is part of "
        "the next",
    )
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which fractions are taken")
    as_task: str | None = Field(None, description="whose ticket of a shared model to keep; default: the tasks' union")
    output_layer: Literal["new", "trained"] = Field(
        "new",
        description="start from a new output layer, or from the trained one of the adapted model, whose task must have "
        "the same labels (of a shared model that of --as-task)",
    )
    least_steps: int = Field(
        0,
        ge=0,
        description="update steps of a training at least: few examples get more epochs, and early stopping waits; 0: "
        "the epochs alone decide, as in the paper",
    )
    seeds: int = Field(3, ge=1, description="how many seeds")
    keep: Literal["none", "all"] = Field("none", description="whose trained weights stay on disk")

    @field_validator("fractions")
    @classmethod
    def _sorted_fractions(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [f for f in fractions if f <= 0 or (f > 1 and f != int(f))]
        if wrong:
            raise ValueError(f"expected shares in (0, 1] or whole numbers of examples, got {wrong[0]:g}")
        if not fractions:
            raise ValueError("expected at least one fraction")
        return tuple(sorted(set(fractions)))

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also a seed of fractions that nothing is drawn with."""
        return super().without_effect(asked) | _idle_fraction_seed(self.task, self.fractions != (1.0,), "--fractions")


def _named_choices() -> dict[str, tuple[str, ...]]:
    """Return the settings with a list of named values that change tickets or training, and their values."""
    named = {}
    for group in (ScoringSettings, Drawing, Recipe):
        for name, field in group.model_fields.items():
            if get_origin(field.annotation) is Literal and name != "precision":
                named[name] = get_args(field.annotation)
    return named


CHOICES = _named_choices()
"""Where text and code differ, and other named ways: each setting with its values (docs/choices.md)."""
