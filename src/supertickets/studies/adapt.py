"""Domain adaptation: trained models, with their tickets, on a new task with few examples (Super Tickets paper, 7)."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field

from supertickets.errors import TicketError, named_twice, unknown_name
from supertickets.lab.outcome import WEIGHTS
from supertickets.lab.steps import Done, Label, Step
from supertickets.lab.trial import Start, TicketField, Trial
from supertickets.storage import write_atomically
from supertickets.studies.adapt_settings import AdaptSettings
from supertickets.studies.config import Overrides, named_by, parse
from supertickets.studies.settings import part
from supertickets.studies.study import Inputs, Kept, Request, Study, study, training_flops, trial_of
from supertickets.studies.ticket_models import TicketModel, is_ticket_model, open_ticket_model
from supertickets.tasks import Task, TaskFiles, TaskSource, count_of, load_task, take_part, task_name
from supertickets.tasks.metrics import JUDGED
from supertickets.tasks.task import CORPORA
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:
    from supertickets.evidence.adapt import AdaptFindings
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.studies.exchange import Shipping, TrainedModel
    from supertickets.studies.inputs import OpenStudy


SOURCES = "sources"
"""In a study's folder: weights of models that are of no study."""


class Origin(Kept):
    """A trained model to adapt: its name, the trial that trained it and where that lies, and what is kept of it.

    The model of a ticket folder has no trial that could be repeated, but the SHA-256 of its `weights`, which the
    study's folder has a copy of; `content` is that file's, until it is written. `output_layer` is the place of the task
    whose output layer goes on (None: a new one), `dense` the name of the model without a ticket that it is compared
    with, where there is one.
    """

    name: str
    trial: Trial | None = None
    folder: Path | None = None
    ticket: TicketField
    weights: str | None = None
    output_layer: int | None = None
    dense: str | None = None
    content: bytes | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def of_ticket(cls, model: TicketModel) -> Self:
        """Return the model of a ticket folder."""
        digest = hashlib.sha256(model.weights).hexdigest()
        return cls(name=model.name, ticket=model.shared.ticket, weights=digest, content=model.weights)

    @property
    def key(self) -> str:
        """What it is, wherever it lies."""
        return str(self.weights) if self.trial is None else self.trial.key

    def copied(self, folder: Path) -> Path:
        """Return where a study's folder has the copy of its weights."""
        return folder.resolve() / SOURCES / self.key[:24]

    def start(self, folder: Path) -> Start:
        """Return the copy as weights to start from, with a new output layer."""
        return Start(trial=self.key, folder=self.copied(folder), weights=self.key, ticket=self.ticket)


class AdaptInputs(Inputs):
    """The models that a study adapts."""

    origins: tuple[Origin, ...]

    def save(self, folder: Path) -> None:
        """Write them into a study's folder, with the weights of those that are of no study."""
        for origin in self.origins:
            if origin.content is not None:
                write_atomically(origin.copied(folder) / WEIGHTS, origin.content)
        super().save(folder)

    def difference(self, before: Self) -> str:
        """Return that models are others, or called otherwise (see `named_as_before`)."""
        now, then = ([(one.name, one.key, one.ticket) for one in of.origins] for of in (self, before))
        return "" if now == then else "models to adapt"

    def named_as_before(self, folder: Path) -> Self:
        """Return these models as a folder calls them: those of ticket folders are called by paths, and may move."""
        before = None
        with suppress(TicketError):  # of a folder of something else, which is said where folders are checked
            before = self.load(folder)
        known = {} if before is None else {one.key: one.name for one in before.origins if one.trial is None}
        return self.model_copy(
            update={
                "origins": tuple(one.model_copy(update={"name": known.get(one.key, one.name)}) for one in self.origins)
            }
        )


@study("adapt", settings=AdaptSettings)
class Adapt(Study[AdaptSettings]):
    """Adapt trained models and their tickets to a new task with few examples.

    The models are the super ticket and the dense model of a study of `find`, MT-DNN and Ticket-Share of a study of
    `share`, or the trained model of a ticket folder or of a repository on the hub (--sources, several with commas).
    They get a new output layer and are trained on growing fractions of the
    new task's training set. If a model's trained weights were not kept (--keep), its training is
    repeated first. Run the same command again to resume.
    """

    Inputs = AdaptInputs
    heading = "Tickets of {runs.model} adapted to {runs.task.task}"
    page = "supertickets.reports.adapt:adapt_sections"

    def steps(self, settings: AdaptSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield the models to adapt, then each of them on each part of the training set (a task each), in each seed."""
        parents: dict[str, Step] = {}
        for origin in self.inputs.origins:
            if origin.trial is None:
                continue
            labels: dict[str, Label] = {"stage": "model", "kind": origin.name, "seed": origin.trial.seed}
            parents[origin.name] = Step(labels, origin.trial, elsewhere=origin.folder)
            yield parents[origin.name]
        for task in tasks:
            recipe = recipe_for(settings, task.train)
            for seed in settings.all_seeds:
                for origin in self.inputs.origins:
                    parent = parents.get(origin.name)
                    yield Step(
                        {"kind": origin.name, "examples": task.train, "task": task.task, "seed": seed},
                        partial(_adapted, settings, task, origin, parent, seed, recipe),
                        starts_from=() if parent is None else (parent,),
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
            raise TicketError(
                "--sources: name the folder of a finished study of `find` or `share`, or of a ticket with its model."
            )
        with named_by("--sources"):
            sources = [open_study(path) for path in first.sources if not is_ticket_model(path)]
            tickets = [open_ticket_model(path) for path in first.sources if is_ticket_model(path)]
            models = [model for source in sources for model in source.models()]
        of = [{"model": source.settings.model, "layers": source.settings.layers} for source in sources]
        for key, value in [*of, *(ticket.base for ticket in tickets)][0].items():
            overrides.setdefault(key, value)
        if "model" not in overrides:
            raise TicketError(
                f"--sources {tickets[0].name}: the ticket does not name its base model; name it with --model."
            )
        settings, base = cls.resolve(overrides, quiet)
        for ticket in tickets:
            ticket.check_base(base)
        if tickets and settings.output_layer == "trained":
            raise TicketError(
                f"--output-layer trained: {tickets[0].name} is no study, whose output layers are known; use new."
            )
        for source in sources:
            if source.tasks[0].weight_hash != base.weight_hash:
                raise TicketError(
                    f"--sources {source.folder}: its base model is not {base.called}; all --sources need the same base "
                    "model."
                )
        if (name := named_twice([*(model.name for model in models), *(one.name for one in tickets)])) is not None:
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
        origins += _of_folders(tickets)
        inputs = AdaptInputs(origins=tuple(origins)).named_as_before(settings.folder)
        untrained = [model for model in models if not _has_weights(model)]
        named = ", ".join(model.name for model in untrained)
        note = f"These models are trained again first, as their weights were not kept: {named}."
        return Request(settings, base, loaded, inputs, _to_train_again(untrained), note if untrained else "")


def _adapted(
    settings: AdaptSettings, task: TaskInfo, origin: Origin, parent: Step | None, seed: int, recipe: Recipe, done: Done
) -> Trial:
    """Return the trial that goes on from a trained model on a part of the task."""
    start = origin.start(settings.folder) if parent is None else done[parent].start(origin.output_layer)
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


def _of_folders(tickets: Sequence[TicketModel]) -> list[Origin]:
    """Return the models of ticket folders to adapt; raises TicketError if two are the same."""
    found = [Origin.of_ticket(ticket) for ticket in tickets]
    if (twice := named_twice([origin.key for origin in found])) is not None:
        first, second, *_ = (origin.name for origin in found if origin.key == twice)
        raise TicketError(f"--sources: {second} and {first} have the same trained model; leave one of them out.")
    return found


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
