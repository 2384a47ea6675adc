"""Settings of every study: one declaration gives flag, YAML key, type, default and help."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import units
from supertickets.errors import TicketError
from supertickets.lab.machine import RUNNERS
from supertickets.lab.slurm_options import checked_options
from supertickets.models import DEFAULT_MODEL, counted_layers
from supertickets.storage import UserPath
from supertickets.studies.presets import Preset, preset_values
from supertickets.tasks import TaskFiles, TaskSource, is_labelled, reads_file, task_name, text
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets.drawing import Drawing
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.levels import Counts, Level, counts_at, number_of, read_level
from supertickets.tickets.scoring import MEASURES, ScoringSettings
from supertickets.training.recipe import Recipe

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
NoEffect = Annotated[T, "no effect"]
"""Of a field that cannot change a result, so that a folder's study may go on with another value."""
Grows = Annotated[T, "grows"]
"""Of a field that says which runs there are: a folder's study may go on with more of them."""


def rising(expected: str, right: Callable[[float], bool], least: str = "") -> AfterValidator:
    """Return what sorts a list of numbers, without duplicates, and raises ValueError for a number that is not `right`.

    `expected` says in the message which are; `least` names what the list needs one of, if it may not be empty.
    """

    def sort(numbers: tuple[float, ...]) -> tuple[float, ...]:
        if wrong := [number for number in numbers if not right(number)]:
            percent = wrong[0] > 1 and expected.endswith("[0, 1)")
            hint = f"; for {wrong[0]:g} % write {wrong[0] / 100:g} or {wrong[0]:g}%" if percent else ""
            raise ValueError(f"{expected}, got {wrong[0]:g}{hint}")
        if least and not numbers:
            raise ValueError(f"expected at least one {least}")
        return tuple(sorted(set(numbers)))

    return AfterValidator(sort)


def _levels(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """Return levels without duplicates, the fractions rising and before the others (which a study sorts)."""
    if not levels:
        raise ValueError("expected at least one level")
    return tuple(sorted({read_level(level) for level in levels}, key=lambda one: (isinstance(one, str), one)))


Levels = Annotated[
    tuple[float | str, ...],
    Field(
        description="fractions of the structures to prune, each in [0, 1), of all kinds alike; by kind: "
        "heads=0.05+neurons=0.1; or by the share of parameters that stays: parameters:0.9"
    ),
    AfterValidator(_levels),
]
"""At which levels tickets are drawn (see `tickets.levels`)."""
Rates = Annotated[tuple[float, ...], rising("expected numbers above 0", lambda rate: rate > 0)]


class Running(BaseModel):
    """Where and how trainings run."""

    workers: NoEffect[int | Literal["auto"]] = Field(
        "auto",
        description="trainings that run at the same time: a number, or auto (one per core; on GPUs, as many as fit; on "
        "Slurm, 100 jobs)",
    )
    device: NoEffect[str] = Field(
        "auto", description="device to train on: auto (a GPU if there is one, but for Apple's), cpu, cuda, cuda:1, ..."
    )
    backend: NoEffect[Annotated[str, AfterValidator(RUNNERS.checked)]] = Field(
        "local", description=f"where trainings run: on this machine, or on a cluster ({' | '.join(RUNNERS)})"
    )
    address: NoEffect[str | None] = Field(
        None, description="address of the Ray cluster; default: the cluster of this machine, or a new local one"
    )
    cpus: NoEffect[float | None] = Field(None, ge=0, description="CPUs per training on a cluster; default: --threads")
    gpus: NoEffect[float] = Field(
        0.0, ge=0, description="GPUs per training on a cluster; on Ray, trainings share one if this is a fraction"
    )
    partition: NoEffect[str | None] = Field(None, description="Slurm partition; default: the cluster's")
    time_limit: NoEffect[float] = Field(
        240.0,
        ge=5,
        description="minutes that a Slurm job may take; a training that takes longer goes on in another job",
    )
    memory: NoEffect[float | None] = Field(None, gt=0, description="GB of memory per Slurm job; default: the cluster's")
    slurm: NoEffect[Annotated[tuple[str, ...], AfterValidator(checked_options)]] = Field(
        (), description="other options of sbatch, such as account=NAME,qos=NAME,gres=gpu:a100:1"
    )
    track: NoEffect[tuple[str, ...]] = Field(
        (), description="experiment trackers to log to: tensorboard, mlflow, wandb, trackio, ..."
    )
    checkpoint_every: NoEffect[float] = Field(2.0, ge=0, description="minutes between checkpoints of a training")
    out: NoEffect[UserPath | None] = Field(
        None, description="output folder; default: a folder in runs/ named after the task and the study"
    )

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"expected `auto` or at least 1 worker, got {workers}")
        return workers

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        for name in ("cpus", "gpus"):
            asked = getattr(self, name)
            if self.backend == "slurm" and asked is not None and asked != int(asked):
                raise ValueError(f"--{name} {asked:g}: Slurm gives whole numbers to a job; only Ray shares one")
        return self


class StudySettings(Recipe, Running):
    """Settings of every study: how models are trained, where and how often."""

    model: str = Field(
        DEFAULT_MODEL,
        description="hub id or local folder of the pre-trained encoder; `default`: a small one from a Python package",
    )
    layers: int | None = Field(
        None,
        description="use only this many of the model's layers, the first ones, as a smaller model of the same "
        "pre-training; default: all",
    )
    seeds: Grows[int] = Field(2, ge=1, description="number of seeds; each has its own dense training and tickets")
    first_seed: int = Field(0, ge=0, description="first seed; the others are the next integers")
    preset: Preset = Field(
        "paper", description="paper: as described in the paper; released: as in the authors' code, bugs included"
    )
    # A recipe's precision is settled; only settings may leave it to the machine.
    precision: Literal["auto", "float32", "bfloat16"] = Field(  # type: ignore[assignment]
        "auto", description="precision of the forward pass; auto: bfloat16 where this machine computes faster in it"
    )

    study: ClassVar[str]
    """The study's name (see `studies.study.study`): its command, and what its settings file says it is."""
    compared_apart: ClassVar[frozenset[str]] = frozenset()
    """Fields whose effect, not value, is compared with that of the folder's study."""

    @property
    def all_seeds(self) -> range:
        """Its seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def recipe(self) -> Recipe:
        """How every trial is trained; `precision` must be settled by then."""
        return part(self, Recipe)

    @property
    def title(self) -> str:
        """What the study is about, in a few words; its folder is named after it."""
        return self.study

    @property
    def called(self) -> str:
        """The model, with how many of its layers are used if not all."""
        return self.model if self.layers is None else f"{self.model} (first {counted_layers(self.layers)})"

    @property
    def folder(self) -> Path:
        """The output folder."""
        layers = f"-{self.layers}-layers" if self.layers is not None else ""
        return self.out if self.out is not None else Path("runs") / slug(f"{self.title}{layers}")

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return what the preset sets for this study on a model of that shape."""
        return {}

    def check_model(self, shape: Shape) -> None:
        """Raise TicketError for what a model of this shape cannot be asked for."""

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that change nothing beside the others, and why.

        `asked` are the values that were asked for, as they were written.
        """
        slurm = dict.fromkeys(("partition", "time_limit", "memory", "slurm"), "it is used with --backend slurm only")
        address = {"address": "it is used with --backend ray only"}
        if self.backend == "slurm":
            return address
        if self.backend != "local":
            why = "on a cluster, --cpus and --gpus decide how many trainings run at the same time"
            return {"workers": why, **slurm}
        return {**address, **slurm, **dict.fromkeys(("cpus", "gpus"), "it is used with --backend ray or slurm only")}


def slug(name: str) -> str:
    """Return a name as one that a folder may have."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80] or "task"


def source_of(task: str, data: Path | None) -> TaskSource:
    """Return where a task's examples are, if those of tasks with files are in `data`."""
    return TaskSource.model_validate({"task": task, "data": None if task_name(task) in BUILTIN else data})


def part(settings: BaseModel, of: type[M]) -> M:
    """Return the settings of one kind among some that have them all."""
    return of(**{name: getattr(settings, name) for name in of.model_fields})


class TaskSettings(StudySettings, TaskFiles):
    """Settings of studies of one task."""

    task: str = Field(
        "entailment",
        description=f"built-in task ({', '.join(BUILTIN)}), GLUE task, snli, scitail, squad, ner, mlm or clm; with "
        "--train-file, a name for your task",
    )

    @property
    def title(self) -> str:
        """The task and the study."""
        return f"{self.task}-{self.study}"

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return the preset's values for the task; a user's own task is named after its file.

        Raises TicketError if that name alone would make another kind of task of a table of texts and labels.
        """
        if self.train_file is None:
            return self.preset_of(shape, task_name(self.task))
        asked = "task" in self.model_fields_set
        task = self.task if asked else self.train_file.stem
        source = TaskSource.model_validate({**part(self, TaskFiles).model_dump(), "task": task})
        known = reads_file(source)
        if known and not asked and is_labelled(source):
            raise TicketError(
                f"--train-file {self.train_file}: the file is named like task {task_name(task)!r}, but it is a table "
                f"of texts and labels; name your own task with --task, such as --task my-{task_name(task)}."
            )
        named = {} if asked else {"task": task}
        return self.preset_of(shape, task_name(task) if known else "") | named  # a user's may have any name

    def preset_of(self, shape: Shape, task: str) -> dict[str, Any]:
        """Return the preset's values for a task; a user's own has no name."""
        return preset_values(self.preset, shape, task)

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what the task's files make no use of."""
        idle, own, name = super().without_effect(asked), self.train_file is not None, task_name(self.task)
        if own:
            idle["data"] = "the examples are in --train-file"
        elif name in BUILTIN:
            idle["data"] = f"task {self.task!r} is built in and has no files"
        if not own or self.dev_file is not None:
            idle["dev_share"] = "only a --train-file without --dev-file is split"
        if name in text.NAMES:
            idle["dropout"] = "language modelling has no dropout before its output layer"
        return idle


class SourceSettings(TaskSettings, TaskSource):
    """Settings of studies of one training set."""

    @property
    def source(self) -> TaskSource:
        """Where the task's examples come from."""
        return part(self, TaskSource)

    @property
    def title(self) -> str:
        """The task, the fraction that is trained on, and the study."""
        fraction = f"-{self.fraction:g}" if self.fraction < 1 else ""
        return f"{self.task}{fraction}-{self.study}"

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also a seed of fractions that nothing is drawn with."""
        return super().without_effect(asked) | idle_fraction_seed(self.task, self.fraction < 1, "--fraction")


def idle_fraction_seed(task: str, drawn: bool, how: str) -> dict[str, str]:
    """Return why the seed of fractions is not read, by its name; nothing if it is."""
    if task_name(task) in text.NAMES:
        return {"fraction_seed": "a fraction of a text is its first lines"}
    return {} if drawn else {"fraction_seed": f"the whole training set is used ({how})"}


class TicketSettings(Drawing, ScoringSettings, StudySettings):
    """Settings of studies that draw tickets: at which levels, of which kinds, from what."""

    levels: Grows[Levels] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    @property
    def scoring(self) -> ScoringSettings:
        """How importance is measured; what the measure does not read is at its default."""
        return part(self, ScoringSettings).read()

    def unread(self, measures: Sequence[str], randomly: bool, ranked: bool = True) -> dict[str, str]:
        """Return what changes no ticket, and why: with such measures, with random tickets or without, ranked or not."""
        idle = {}
        read = {name for measure in measures for name in MEASURES[measure].reads}
        for name in {"absolute", "accumulation", "score_epoch", "score_examples", "score_attention"} - read:
            idle[name] = f"the measure of importance ({', '.join(measures)}) does not use it"
        if not randomly:
            idle["random"] = "no random tickets are drawn"
        if "neurons" not in self.structures:
            idle["neuron_block"] = "no neurons are pruned (--structures)"
        if not ranked or sum(bool(level) for level in self.levels) < 2:
            idle["schedule"] = "there are fewer than two levels of winning or losing tickets"
        return idle

    def check_model(self, shape: Shape) -> None:
        """Raise TicketError for levels that a model of this shape cannot be pruned to, or that cannot be told apart."""
        self.drawn_levels(shape)

    def units(self, shape: Shape) -> dict[Structure, Units]:
        """Return the structures that are pruned of a model."""
        return units(shape, self.structures, self.neuron_block)

    def drawn_levels(self, shape: Shape) -> dict[float, Counts]:
        """Return how many structures of each kind go at each level, rising; a level's number names it in tables.

        Raises TicketError for one that the model cannot be pruned to, for two with one number, and with an iterative
        schedule for one that prunes fewer of a kind than the level before it.
        """
        of, found, named = self.units(shape), dict[float, Counts](), dict[float, Level]()
        for level in self.levels:
            counts, number = counts_at(level, of, self.counts), number_of(level, of)
            if number in found:
                raise TicketError(
                    f"--levels: {named[number]} and {level} prune the same share of parameters ({number:g}), by which "
                    "tables and figures name levels; change one of them a little."
                )
            found[number], named[number] = counts, level
        rising = dict(sorted(found.items()))
        for before, number in pairwise(rising) if self.schedule == "iterative" else ():
            if fewer := [kind for kind in of if rising[number][kind] < rising[before][kind]]:
                raise TicketError(
                    f"--schedule iterative: level {named[number]} prunes {rising[number][fewer[0]]} {fewer[0]}, fewer "
                    f"than the {rising[before][fewer[0]]} of {named[before]} before it, of whose ticket it is a part; "
                    "expected levels that prune more of each kind, or --schedule one-shot."
                )
        return rising


class DrawnSettings(SourceSettings, TicketSettings):
    """Settings of studies that draw tickets from the dense runs of one task."""

    @model_validator(mode="after")
    def _scores_an_epoch_there_is(self) -> Self:
        known = "epochs" in self.model_fields_set  # else a preset has yet to say how many there are
        if known and self.score_epoch is not None and self.score_epoch > self.epochs:
            raise ValueError(f"--score-epoch {self.score_epoch}: expected at most {self.epochs} (--epochs)")
        return self


class RateSettings(StudySettings):
    """Settings of studies that may show how much models depend on learning rate and seed (Tables 5 and 8)."""

    learning_rates: NoEffect[Rates] = Field(
        (),
        description="more learning rates to train the dense model and the super ticket with, as in Tables 5 and 8",
    )
    rate_seeds: NoEffect[int | None] = Field(
        None, ge=1, description="number of seeds for --learning-rates; default: --seeds"
    )

    @model_validator(mode="after")
    def _rates_have_a_spread(self) -> Self:
        if len(self.learning_rates) == 1 and len(self.seeds_of_rates) < 2:
            raise ValueError("--learning-rates: expected at least two learning rates, or two seeds (--rate-seeds)")
        return self

    @property
    def seeds_of_rates(self) -> range:
        """The seeds of trainings with other learning rates."""
        return range(self.first_seed, self.first_seed + (self.rate_seeds or self.seeds))

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also the seeds of learning rates that there are not."""
        idle = super().without_effect(asked)
        return idle if self.learning_rates else idle | {"rate_seeds": "--learning-rates is not set"}
