"""Domain adaptation: trained models, with their tickets, on a new task with few examples (Super Tickets paper, 7)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from supertickets.errors import TicketError, named_twice, unknown_name
from supertickets.lab.steps import Done, Label, Step
from supertickets.lab.trial import TicketField, Trial
from supertickets.models import DEFAULT_MODEL
from supertickets.storage import UserPath
from supertickets.studies.config import Overrides, named_by, parse
from supertickets.studies.settings import Grows, NoEffect, TaskSettings, idle_fraction_seed, part, rising
from supertickets.studies.study import Inputs, Kept, Request, Study, study, training_flops, trial_of
from supertickets.tasks import Task, TaskFiles, TaskSource, count_of, load_task, take_part, task_name
from supertickets.tasks.metrics import JUDGED
from supertickets.tasks.task import CORPORA
from supertickets.tickets.hub import on_hub
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:
    from supertickets.evidence.adapt import AdaptFindings
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.studies.exchange import Shipping, TrainedModel
    from supertickets.studies.inputs import OpenStudy


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
        (), description="finished studies of `find` or `share` whose models are adapted"
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


class Origin(Kept):
    """A trained model to adapt: its name, the trial that trained it and where that lies, and what is kept of it.

    `output_layer` is the place of the task whose output layer goes on (None: a new one), `dense` the name of the model
    without a ticket that it is compared with, where there is one.
    """

    name: str
    trial: Trial
    folder: Path
    ticket: TicketField
    output_layer: int | None = None
    dense: str | None = None


class AdaptInputs(Inputs):
    """The models that a study adapts."""

    origins: tuple[Origin, ...]

    def difference(self, before: Self) -> str:
        """Return that models are others, wherever they lie."""
        now, then = ([(one.name, one.trial.key, one.ticket) for one in of.origins] for of in (self, before))
        return "" if now == then else "models to adapt"


@study("adapt", settings=AdaptSettings)
class Adapt(Study[AdaptSettings]):
    """Adapt trained models and their tickets to a new task with few examples.

    The models are the super ticket and the dense model of a study of `find`, or MT-DNN and Ticket-Share of a study of
    `share` (--sources, several with commas). They get a new output layer and are trained on growing fractions of the
    new task's training set. If a model's trained weights were not kept (--keep), its training is
    repeated first. Run the same command again to resume.
    """

    Inputs = AdaptInputs
    heading = "Tickets of {runs.model} adapted to {runs.task.task}"
    page = "supertickets.reports.adapt:adapt_sections"

    def steps(self, settings: AdaptSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield the models to adapt, then each of them on each part of the training set (a task each), in each seed."""
        parents = {}
        for origin in self.inputs.origins:
            labels: dict[str, Label] = {"stage": "model", "kind": origin.name, "seed": origin.trial.seed}
            parents[origin.name] = Step(labels, origin.trial, elsewhere=origin.folder)
            yield parents[origin.name]
        for task in tasks:
            recipe = recipe_for(settings, task.train)
            for seed in settings.all_seeds:
                for origin in self.inputs.origins:
                    yield Step(
                        {"kind": origin.name, "examples": task.train, "task": task.task, "seed": seed},
                        partial(_adapted, settings, task, origin, parents[origin.name], seed, recipe),
                        starts_from=(parents[origin.name],),
                        keep="yes" if settings.keep == "all" else "no",
                        cost=training_flops(task, origin.ticket, recipe.epochs),
                    )

    def describe(self, settings: AdaptSettings, tasks: Sequence[TaskInfo]) -> str:
        """Return what is adapted to what, in words."""
        names = ", ".join(origin.name for origin in self.inputs.origins)
        counts = ", ".join(str(task.train) for task in tasks)
        longer = [
            f" With {task.train:,} examples a training has up to {recipe.epochs} epochs, and at least "
            f"{settings.least_steps} steps (--least-steps)."
            for task in tasks
            if (recipe := recipe_for(settings, task.train)) != settings.recipe
        ]
        return f"{names} on {tasks[0].task} with {counts} examples{''.join(longer)}"

    def analyse(self, runs: Runs, settings: AdaptSettings) -> AdaptFindings:
        """Return Table 4, and what tickets gain (see `evidence.adapt`)."""
        from supertickets.evidence.adapt import analyse_adapt

        pairs = [(origin.name, origin.dense) for origin in self.inputs.origins if origin.dense is not None]
        return analyse_adapt(runs.only(stage=None), pairs)

    def ship(self, done: Shipping) -> dict[str, Path]:
        """Ship nothing; raises StudyError if no model was adapted, as those that it begins with do not count."""
        done.runs.only(stage=None).check_some_finished("adaptation")
        return {}

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for, with the models that it adapts."""
        from supertickets.studies.inputs import open_study

        first = parse(AdaptSettings, overrides)
        if not first.task and first.train_file is None:
            raise TicketError("--task: name the task to adapt to, such as snli, or your own file with --train-file.")
        if not first.sources:
            raise TicketError("--sources: name the folder of a finished study of `find` or `share`.")
        for path in first.sources:
            if on_hub(path) is not None:
                raise TicketError(
                    f"--sources {path}: no such folder; expected a finished study's folder on this machine, since a "
                    "ticket on the hub has no trainings to go on from (`transfer` takes it with --tickets)."
                )
        with named_by("--sources"):
            sources = [open_study(path) for path in first.sources]
            models = [model for source in sources for model in source.models()]
        overrides.setdefault("model", sources[0].settings.model)
        overrides.setdefault("layers", sources[0].settings.layers)
        settings, base = cls.resolve(overrides, quiet)
        for source in sources:
            if source.tasks[0].weight_hash != base.weight_hash:
                raise TicketError(
                    f"--sources {source.folder}: its base model is not {base.called}; all --sources need the same base "
                    "model."
                )
        if (name := named_twice([model.name for model in models])) is not None:
            raise TicketError(
                f"--sources: two of them have a model called {name}; adapt them separately, each with its own --out."
            )
        if settings.ticket_of is not None and all(len(model.tasks) < 2 for model in models):
            raise TicketError(f"--ticket-of {settings.ticket_of}: none of the --sources is a study of `share`.")
        whole = TaskSource(**part(settings, TaskFiles).model_dump(), fraction_seed=settings.fraction_seed)
        task = load_task(whole)
        if "fractions" not in overrides:
            settings = _without_empty(settings, task, quiet)
        loaded = _fractions(settings, whole, task)
        if settings.least_steps and task.form in CORPORA:
            raise TicketError(
                f"--least-steps {settings.least_steps}: it does not apply to task {task.name!r}, which is trained on "
                "blocks of text; set --epochs instead."
            )
        origins = [origin for source in sources for origin in _origins(source, settings, task)]
        inputs, untrained = AdaptInputs(origins=tuple(origins)), [model for model in models if not _has_weights(model)]
        named = ", ".join(model.name for model in untrained)
        note = f"These models are trained again first, as their weights were not kept: {named}."
        return Request(settings, base, loaded, inputs, _to_train_again(untrained), note if untrained else "")


def _adapted(
    settings: AdaptSettings, task: TaskInfo, origin: Origin, parent: Step, seed: int, recipe: Recipe, done: Done
) -> Trial:
    """Return the trial that goes on from a trained model on a part of the task."""
    start = done[parent].start(origin.output_layer)
    return trial_of(settings, task, origin.ticket, seed, recipe=recipe, start=start)


def recipe_for(settings: AdaptSettings, examples: int) -> Recipe:
    """Return how a training on some examples goes: long enough for the least number of steps."""
    needed = math.ceil(settings.least_steps / math.ceil(examples / settings.batch_size))
    # With this patience, early stopping ends no training before the needed epochs are done.
    patience = settings.patience and max(settings.patience, needed - 1)
    return settings.recipe.model_copy(update={"epochs": max(settings.epochs, needed), "patience": patience})


def _origins(source: OpenStudy, settings: AdaptSettings, task: Task) -> list[Origin]:
    """Return a study's models to adapt, the dense one first.

    Raises TicketError if a trained output layer is of another kind of task.
    """
    models = source.models()
    dense, names, place = models[0], [one.task for one in models[0].tasks], None
    several = len(names) > 1
    if several and settings.ticket_of is not None:
        known = [task_name(name) for name in names]
        if task_name(settings.ticket_of) not in known:
            raise unknown_name(f"--ticket-of of {source.folder}:", settings.ticket_of, known)
        place = known.index(task_name(settings.ticket_of))
    layer = (place or 0) if settings.output_layer == "trained" else None
    if layer is not None:
        if several and place is None:
            raise TicketError(
                f"--output-layer trained: {source.folder} has one output layer per task; choose one with --ticket-of "
                f"({', '.join(names)})."
            )
        _check_output_layer(source, dense.tasks[layer], dense.trial.tasks[layer].source, task)
    return [
        Origin(
            name=model.name,
            trial=model.trial,
            folder=model.folder.resolve(),
            ticket=model.trial.ticket if place is None or model is dense else model.trial.tasks[place].ticket,
            output_layer=layer,
            dense=None if model is dense else dense.name,
        )
        for model in models
    ]


def _check_output_layer(source: OpenStudy, trained: TaskInfo, trained_on: TaskSource, task: Task) -> None:
    """Raise TicketError if a trained output layer is not one for a task."""
    theirs = _outputs(trained.labels, trained.metrics, trained.targets.ndim == 2)
    ours = _outputs(task.labels, task.metrics, task.multi_label)
    if theirs != ours:
        raise TicketError(
            f"--output-layer trained: {trained.task!r} in {source.folder} has {theirs}, {task.name!r} {ours}; expected "
            "the same in the same order, or --output-layer new."
        )
    if trained_on.regression or task.standardised:
        name = task.name if task.standardised else trained.task
        raise TicketError(
            f"--output-layer trained: {name!r} standardizes its targets with its own training set, so the output "
            "layers of the two tasks have different scales; use --output-layer new."
        )


def _has_weights(model: TrainedModel) -> bool:
    """Whether a model's trained weights are on disk."""
    from supertickets.lab.outcome import load_outcome

    outcome = load_outcome(model.folder)
    return outcome is not None and outcome.has_weights


def _to_train_again(models: Sequence[TrainedModel]) -> dict[TaskSource, Task]:
    """Return the tasks of models whose weights were not kept; raises TicketError if their examples have changed."""
    loaded: dict[TaskSource, Task] = {}
    for model in models:
        for task in model.tasks:
            loaded[task.source] = loaded.get(task.source) or load_task(task.source)
            if loaded[task.source].fingerprint() != task.data_hash:
                raise TicketError(
                    f"{model.folder.parent.parent}: the weights of {model.name} were not kept, so it must be trained "
                    f"again, but the examples of task {task.task!r} have changed; restore its files."
                )
    return loaded


def _outputs(labels: Sequence[str], metrics: Sequence[str], several: bool) -> str:
    """Say what the numbers of a task's output layer stand for: labels in their order, a real number, tokens."""
    named = f"{'any of ' if several else ''}the labels {', '.join(labels)}"
    if set(metrics) <= set(JUDGED):
        return f"outputs for tokens ({', '.join(metrics)}){f', with {named}' if labels else ''}"
    return named if labels else "a real number as target"


def _without_empty(settings: AdaptSettings, task: Task, quiet: bool) -> AdaptSettings:
    """Return settings without those of the default fractions that leave too few examples of a task, which is said."""
    size, needed = len(task.train), max(len(task.classes), 2)
    kept = tuple(fraction for fraction in settings.fractions if count_of(fraction, size) >= needed)
    if kept != settings.fractions and not quiet:
        gone = ", ".join(f"{fraction:g}" for fraction in settings.fractions if fraction not in kept)
        said = f"--fractions: {gone} left out: fewer than {needed} of {size} training examples of task {task.name!r}."
        print(said, file=sys.stderr)
    return settings.model_copy(update={"fractions": kept or settings.fractions})


def _fractions(settings: AdaptSettings, whole: TaskSource, task: Task) -> dict[TaskSource, Task]:
    """Return a task with each number of its training examples, fewest first."""
    size = len(task.train)
    shares: dict[int, float] = {}  # by number of examples
    for fraction in settings.fractions:
        if fraction > size:
            raise TicketError(
                f"--fractions: {fraction:g} examples requested, but task {task.name!r} has {size} training examples."
            )
        share = fraction / size if fraction > 1 else fraction
        count = count_of(share, size)
        shares.setdefault(count, 1.0 if count == size else share)
    sources = [whole.model_copy(update={"fraction": share}) for _, share in sorted(shares.items())]
    return {source: take_part(task, source, "--fractions") for source in sources}
