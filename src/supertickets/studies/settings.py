"""Settings of every study: one declaration gives flag, YAML key, type, default and help."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, Field, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.errors import unknown_name
from supertickets.models import DEFAULT_MODEL
from supertickets.studies.presets import SEVERAL, Preset, preset_values, task_dropout, task_name, weight_preset_values
from supertickets.tasks import TaskFiles, TaskSource
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets.drawing import KINDS, Drawing, Kind
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Recipe, Sharing


class StudySettings(Recipe):
    """Settings of every study: how models are trained, where and how often."""

    model: str = Field(
        DEFAULT_MODEL, description="hub id, local folder, or `default`: a small real encoder, no network"
    )
    seeds: int = Field(2, ge=1, description="how many seeds, each with its own dense training and tickets")
    first_seed: int = Field(0, ge=0, description="the first seed; the others follow it")
    preset: Preset = Field("paper", description="paper: the text, done right; released: what the paper's code did")
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
    checkpoint_minutes: float = Field(2.0, ge=0, description="how often a training saves where it stands")
    out: Path | None = Field(None, description="output folder; default: in runs/, named after study and task")

    study: ClassVar[str]
    """The study's name: its command, and what its settings file says it is."""

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"expected `auto` or at least 1 worker, got {workers}")
        return workers

    @property
    def recipe(self) -> Recipe:
        """How every trial is trained; `precision` must be settled by then."""
        return Recipe(**_part(self, Recipe))

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


def slug(name: str) -> str:
    """Return a name as one that a folder may have."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80] or "task"


def _part(settings: BaseModel, of: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in of.model_fields}


class TaskSettings(StudySettings, TaskFiles):
    """Settings of studies of one task."""

    task: str = Field(
        "entailment", description="built-in or GLUE task, snli, scitail, squad, mlm, or a name for your own files"
    )

    @property
    def files(self) -> TaskFiles:
        """Where the task's examples are."""
        return TaskFiles(**_part(self, TaskFiles))

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


class SourceSettings(TaskSettings, TaskSource):
    """Settings of studies of one training set."""

    @property
    def source(self) -> TaskSource:
        """Where the task's examples come from."""
        return TaskSource(**_part(self, TaskSource))

    @property
    def title(self) -> str:
        """The task, the fraction that is trained on, and the study if it is not the main one."""
        fraction = f"-{self.fraction:g}" if self.fraction < 1 else ""
        return self.task + fraction + ("" if self.study == FindSettings.study else f"-{self.study}")


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
        return ScoringSettings(**_part(self, ScoringSettings)).read()

    @property
    def drawing(self) -> Drawing:
        """How tickets are drawn."""
        return Drawing(**_part(self, Drawing))


class FindSettings(SourceSettings, TicketSettings):
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


class CompareSettings(SourceSettings, TicketSettings):
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
        found: list[tuple[str, str]] = []
        for choice in self.choices:
            name, _, value = choice.partition("=")
            values = [value] if value else [other for other in CHOICES[name] if other != getattr(self, name)]
            found += [(name, other) for other in values]
        return [one for one in dict.fromkeys(found) if not self._changes_nothing(*one)]

    @property
    def idle(self) -> list[str]:
        """The choices that change nothing here: the measure of importance does not read them."""
        return [
            name
            for name in dict.fromkeys(choice.partition("=")[0] for choice in self.choices)
            if name in ScoringSettings.model_fields and self._changes_nothing(name, CHOICES[name][-1])
        ]

    def _changes_nothing(self, name: str, value: str) -> bool:
        if name not in ScoringSettings.model_fields or value == getattr(self, name):
            return value == getattr(self, name)
        return self.model_copy(update={name: value}).scoring == self.scoring


class ShareSettings(StudySettings, TicketSettings, Sharing):
    """Settings of `supertickets share`."""

    study = "share"

    tasks: tuple[str, ...] = Field(
        (), description="tasks that share the encoder; default: those of --tickets, or three built-in ones"
    )
    tickets: tuple[Path, ...] = Field(
        (), description="finished studies of `find`, or ticket folders, one a task; default: they are found first"
    )
    data: Path | None = Field(None, description="folder of the tasks' files (without it, GLUE comes from the hub)")
    at_most: int | None = Field(None, ge=2, description="training examples of a task at most; larger sets are cut")
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which larger sets are cut")
    epochs: int = Field(5, ge=1, description="training epochs at most")
    dropout: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, description="dropout before every output layer; default: each task's own, by preset"
    )
    fine_tune: bool = Field(True, description="also fine-tune the shared models on each task")
    fine_tune_epochs: int | None = Field(
        None, ge=1, description="epochs of the fine-tuning at most; default: as many as the shared training's"
    )
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
        values = _part(self, Recipe)
        return Recipe(**values | {"dropout": self.dropout_of("") if self.dropout is None else self.dropout})

    @property
    def sharing(self) -> Sharing:
        """How the tasks share the encoder."""
        return Sharing(**_part(self, Sharing))

    def dropout_of(self, task: str) -> float:
        """Return the dropout before a task's output layer."""
        return task_dropout(self.preset, task) if self.dropout is None else self.dropout

    def fine_tuning(self, task: str) -> Recipe:
        """Return how a shared model is fine-tuned on one of its tasks."""
        change = {"epochs": self.fine_tune_epochs, "learning_rate": self.fine_tune_learning_rate}
        change = {name: value for name, value in change.items() if value is not None}
        return self.recipe.model_copy(update={**change, "dropout": self.dropout_of(task)})

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for training several tasks."""
        names = [task_name(task) for task in self.tasks]
        return preset_values(self.preset, shape, SEVERAL, bool(names) and all(name in BUILTIN for name in names))


class AdaptSettings(TaskSettings):
    """Settings of `supertickets adapt`."""

    study = "adapt"

    runs: tuple[Path, ...] = Field((), description="finished studies of `find` or `share`, whose models are adapted")
    task: str = Field("", description="task to adapt to: of GLUE, built-in, snli, scitail, squad, mlm, or your own")
    fractions: tuple[float, ...] = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="shares of the training set (1: all of it), or numbers of examples; each is part of the next",
    )
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which fractions are taken")
    as_task: str | None = Field(None, description="whose ticket of a shared model to keep; default: the tasks' union")
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


class WeightSettings(SourceSettings, Pruning):
    """What studies that find tickets of weights share."""

    rule: Rule = Field(
        "sub_std",
        description="when a ticket matches the full model: within one standard deviation of its own (sub_std) or of "
        "the full model's (full_std), or at least as good on average (strict)",
    )

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for tickets of weights on the task."""
        own = self.train_file is not None and task_name(self.task) != "mlm"
        named = {"task": Path(str(self.train_file)).stem} if own else {}
        return weight_preset_values(self.preset, shape, "" if own else task_name(self.task)) | named


class ImpSettings(WeightSettings):
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
        "round", description="the learning rate falls to 0 over a round, or over all rounds (so never within one)"
    )
    controls: tuple[Control, ...] = Field(
        ("one-shot", "random"),
        description="what tickets are compared with: one-shot, random or matched masks; random-weights, "
        "shuffled-layers, shuffled-elements in place of the pre-trained weights; none",
    )
    control_at: tuple[float, ...] = Field((), description="sparsities at which controls are trained; default: all")
    keep: Literal["none", "matching", "all"] = Field(
        "none", description="whose trained weights stay on disk: nobody's, the shipped ticket's, everybody's"
    )

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, values: Any) -> Any:
        """Write ranges of sparsities out, and no controls as none."""
        values = _none_is_empty(values, "controls")
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

    @property
    def arms(self) -> list[Arm]:
        """The ways to go on after each pruning; the first is the study's own."""
        shares = [_arm(text) for text in self.rewind]
        return [Arm("" if i == 0 else _said(share), share) for i, share in enumerate(shares)]

    @property
    def pruning(self) -> Pruning:
        """Which weights may go."""
        return Pruning(**_part(self, Pruning))


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
        low, high = (float(end) for end in sparsity.split(".."))
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
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(f"expected 0, none, or a share in [0, 1) such as 5%, got {text!r}")
    return share


def _said(share: float | None) -> str:
    return "not rewound" if share is None else f"rewound to {100 * share:.6g}%" if share else "rewound"


class TransferSettings(StudySettings, Pruning):
    """Settings of `supertickets transfer`."""

    study = "transfer"

    tickets: tuple[Path, ...] = Field(
        (), description="studies of `imp` or `find`, or ticket folders: one source each (and each way to rewind)"
    )
    tasks: tuple[str, ...] = Field((), description="tasks to train them on; default: those the tickets were found on")
    data: Path | None = Field(None, description="folder of the files of tasks that no study of --tickets is about")
    sparsity: float = Field(0.7, gt=0, lt=1, description="which of a study's tickets of weights to take")
    baselines: tuple[Literal["one-shot", "random"], ...] = Field(
        ("one-shot",), description="tickets of no task beside them: one-shot magnitude pruning, random; or none"
    )
    seeds: int = Field(3, ge=1, description="how many seeds; tickets are those of their study's first one")
    epochs: int | None = Field(  # type: ignore[assignment]
        None, ge=1, description="training epochs; default: those of the target's own study, or by preset"
    )
    learning_rate: float | None = Field(  # type: ignore[assignment]
        None, gt=0, description="peak learning rate; default: that of the target's own study, or by preset"
    )
    batch_size: int | None = Field(  # type: ignore[assignment]
        None, ge=1, description="examples a step; default: that of the target's own study, or by preset"
    )
    max_length: int | None = Field(  # type: ignore[assignment]
        None, ge=4, description="longest input in tokens; default: that of the target's own study, or by preset"
    )
    keep: Literal["none", "all"] = Field("none", description="whose trained weights stay on disk")

    of_targets: ClassVar[tuple[str, ...]] = ("epochs", "learning_rate", "batch_size", "max_length")
    """What each target has of its own unless it is asked for."""

    @model_validator(mode="before")
    @classmethod
    def _no_baselines(cls, values: Any) -> Any:
        return _none_is_empty(values, "baselines")

    @property
    def title(self) -> str:
        """The study, and its targets where they are named."""
        return "-".join(["transfer", *self.tasks])

    @property
    def pruning(self) -> Pruning:
        """Which weights baselines may lack."""
        return Pruning(**_part(self, Pruning))

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values; each target has its own."""
        return {}


def _none_is_empty(values: Any, name: str) -> Any:
    """Read `none` in a list as nothing."""
    if isinstance(values, dict) and tuple(values.get(name) or ()) == ("none",):
        return {**values, name: ()}
    return values


class PretrainSettings(WeightSettings):
    """Settings of `supertickets pretrain`."""

    study = "pretrain"

    task: str = Field("mlm", description="what to train on: masked language modelling, or any other task")
    seeds: int = Field(1, ge=1, le=1, description="one model is trained")


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
_KINDS = (TransferSettings, FindSettings, CompareSettings, ShareSettings, AdaptSettings, ImpSettings, PretrainSettings)
STUDIES: dict[str, type[StudySettings]] = {kind.study: kind for kind in _KINDS}
"""The settings of each study, by its name."""
