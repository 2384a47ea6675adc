"""Domain adaptation: trained models, with their tickets, on a new task with few examples (Super Tickets paper, 7)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Model
from pydantic import ConfigDict

from supertickets.errors import TicketError, unknown_name
from supertickets.evidence.adaptation import Adaptation, Compared, conclude_adaptation
from supertickets.evidence.record import Record, Subject, load_subjects
from supertickets.evidence.sharing import MT_DNN, TICKET_SHARE
from supertickets.evidence.table import DENSE, Role, Row, select_super
from supertickets.lab import Outcome, Trial
from supertickets.lab.lab import AGAIN, TRIALS
from supertickets.lab.outcome import WEIGHTS, load_outcome
from supertickets.lab.trial import Start, TicketField
from supertickets.models import BaseModel, find_model
from supertickets.storage import write_atomically
from supertickets.studies.config import asked_for, complete, flag, parse, settings_of
from supertickets.studies.find import FindStudy
from supertickets.studies.presets import task_name
from supertickets.studies.settings import AdaptSettings, FindSettings, ShareSettings
from supertickets.studies.share import ShareStudy
from supertickets.studies.study import (
    Study,
    check_regained,
    check_some_finished,
    conduct,
    lost_starts,
    recall,
    with_weights,
    write_results,
)
from supertickets.tasks import Task, TaskSource, count_of, load_task, take_part
from supertickets.tasks.metrics import REGRESSION
from supertickets.tickets import Ticket
from supertickets.training.recipe import Recipe

ORIGINS = "origins.json"
"""In a study's folder: the models that it adapts."""


class Origin(Model):
    """A trained model to adapt: its name, the study that trained it, where it starts from and what is kept of it.

    `dense` names the model without a ticket that it is compared with, where there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    run: Path
    start: Start
    ticket: TicketField
    dense: str | None = None

    @property
    def what(self) -> tuple[str, str, Ticket]:
        """Which model it is, wherever it lies: its name, the trial that trained it, what is kept of it."""
        return self.name, self.start.trial, self.ticket


class AdaptStudy(Study):
    """Every model trained on every fraction (a subject each) of the new task's examples, in each seed."""

    settings: AdaptSettings

    def __init__(self, settings: AdaptSettings, subjects: Sequence[Subject], origins: Sequence[Origin]) -> None:
        super().__init__(settings, subjects)
        self.origins = tuple(origins)

    @classmethod
    def remembered(cls, settings: AdaptSettings, subjects: Sequence[Subject]) -> AdaptStudy | None:
        """Return the study in a folder; None if it stopped before it began."""
        origins = kept_origins(settings.folder)
        return cls(settings, subjects, origins) if origins else None

    def expected(self) -> list[Role]:
        """Return a role for each number of examples, model and seed."""
        return [role for role, _, _ in self._roles()]

    def _roles(self) -> list[tuple[Role, int, Origin]]:
        return [
            (Role(origin.name, 0.0, seed, f"{subject.train} examples"), place, origin)
            for place, subject in enumerate(self.subjects)
            for seed in self.seeds
            for origin in self.origins
        ]

    def opening(self) -> list[Trial]:
        """Return all trials; none waits for another."""
        return [
            self.trial(role, {place: origin.ticket}, recipe=self.recipe_of(place), start=origin.start)
            for role, place, origin in self._roles()
        ]

    def recipe_of(self, place: int) -> Recipe:
        """Return how a training on one number of examples goes: long enough for the least number of steps."""
        settings = self.settings
        needed = math.ceil(settings.least_steps / math.ceil(self.subjects[place].train / settings.batch_size))
        patience = settings.patience and max(
            settings.patience, needed - 1
        )  # it ends no training before epoch 1 + itself
        change = {"epochs": max(settings.epochs, needed), "patience": patience}
        return settings.recipe.model_copy(update=change)

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay."""
        return self.settings.keep == "all"

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be."""
        return sum(
            self.recipe_of(place).epochs * self._flops(origin.ticket, self.subjects[place].train)
            for _, place, origin in self._roles()
        )

    def description(self) -> str:
        """Return what is adapted to what, in words."""
        names = ", ".join(origin.name for origin in self.origins)
        counts = ", ".join(str(subject.train) for subject in self.subjects)
        longer = [
            f" With {subject.train:,} examples a training has up to {recipe.epochs} epochs, and at least "
            f"{self.settings.least_steps} steps (--least-steps)."
            for place, subject in enumerate(self.subjects)
            if (recipe := self.recipe_of(place)) != self.settings.recipe
        ]
        return f"{names} on {self.subject.task} with {counts} examples{''.join(longer)}"

    @property
    def pairs(self) -> list[Compared]:
        """The models with tickets and the dense ones that they are compared with."""
        return [Compared(origin.name, origin.dense) for origin in self.origins if origin.dense is not None]


@dataclass(frozen=True)
class AdaptResult:
    """What `adapt` leaves: every run, the paper's Table 4, and what tickets gain."""

    folder: Path
    adaptation: Adaptation
    failures: Mapping[str, str]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"


def adapt(config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any) -> AdaptResult:
    """Adapt trained models to a new task with few examples; the call behind `supertickets adapt`.

    Takes the settings of `AdaptSettings` by name, in `config` (a mapping or a YAML file), as keywords, or both; `runs`
    are the studies whose models are adapted. A study of `find` gives its super ticket and the dense model of the same
    seed, one of `share` MT-DNN and Ticket-Share of its first seed; weights that were not kept are trained again. Raises
    TicketError for misuse before anything is written, StudyError if weights cannot be had again.
    """
    asked = asked_for(AdaptSettings, config, settings)
    first = parse(AdaptSettings, asked)
    if not first.task and first.train_file is None:
        raise TicketError("--task: name the task to adapt to, such as snli, or your own file with --train-file.")
    if not first.runs:
        raise TicketError(f"{flag('runs')}: name the folder of a finished study of `find` or `share`.")
    runs = [_Run.of(path) for path in first.runs]
    asked.setdefault("model", runs[0].study.settings.model)
    base = find_model(str(asked["model"]))
    finished = complete(AdaptSettings, asked, base, quiet)
    for run in runs:
        if run.study.subject.weight_hash != base.weight_hash:
            raise TicketError(f"{flag('runs')} {run.path}: its model is not {base.name!r}; adapt models of one base.")
    _check_names(runs, finished)
    before = kept_origins(finished.folder)
    if before and [one.what for one in before] != [what for run in runs for what in run.models(finished.as_task)]:
        raise TicketError(f"--out {finished.folder}: the folder's study adapts other models; choose another folder.")
    loaded = _fractions(finished)
    task = next(iter(loaded.values()))
    if finished.least_steps and task.form == "masked":
        raise TicketError(
            f"--least-steps {finished.least_steps}: steps are counted by examples, task {task.name!r} is trained in "
            "blocks of text; leave it out and set --epochs."
        )
    for run in runs:
        run.check_output_layer(finished, task)

    def build(settled: AdaptSettings, subjects: Sequence[Subject]) -> AdaptStudy:
        found = [origin for run in runs for origin in run.origins(settled, base, quiet, before)]
        content = [origin.model_dump(mode="json") for origin in found]
        write_atomically(settled.folder / ORIGINS, json.dumps(content, indent=1) + "\n")
        study = AdaptStudy(settled, subjects, found)
        for start in lost_starts(study):
            run = next(run for run in runs if start.trial in run.trials)
            check_regained(start, run.regained(start.trial, base, quiet))
        return study

    return conduct(build, finished, base, loaded, quiet, _conclude)


def _conclude(study: AdaptStudy, record: Record) -> AdaptResult:
    from supertickets.studies.pages import write_adaptation

    check_some_finished(record)
    seen = conclude_adaptation(record, study.pairs)
    write_results(record.folder, seen.runs)
    write_adaptation(record, seen)
    return AdaptResult(record.folder, seen, dict(record.failures))


def kept_origins(folder: Path) -> list[Origin]:
    """Return the models that a study in a folder adapts; nothing if it does not say."""
    try:
        content = json.loads((folder / ORIGINS).read_text(encoding="utf-8"))
        return [Origin.model_validate(one) for one in content]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise TicketError(f"{folder / ORIGINS}: the file is damaged ({first}); choose another folder.") from error


def _fractions(settings: AdaptSettings) -> dict[TaskSource, Task]:
    """Return the task with each number of its training examples, fewest first."""
    whole = TaskSource.model_validate(settings.files.model_dump() | {"fraction_seed": settings.fraction_seed})
    task = load_task(whole)
    size = len(task.train)
    shares: dict[int, float] = {}  # by number of examples
    for fraction in settings.fractions:
        if fraction > size:
            raise TicketError(
                f"--fractions: {fraction:g} examples asked for, task {task.name!r} has {size} to train on."
            )
        share = fraction / size if fraction > 1 else fraction
        count = count_of(share, size)
        shares.setdefault(count, 1.0 if count == size else share)
    sources = [whole.model_copy(update={"fraction": share}) for _, share in sorted(shares.items())]
    return {source: take_part(task, source) for source in sources}


@dataclass(frozen=True)
class _Run:
    """A finished study whose models are adapted."""

    path: Path
    study: FindStudy | ShareStudy
    record: Record

    @classmethod
    def of(cls, path: Path) -> _Run:
        """Look into a folder; raises TicketError if it holds no study of `find` or `share` that began."""
        settings, subjects = settings_of(path), load_subjects(path)
        study: FindStudy | ShareStudy | None = None
        if isinstance(settings, FindSettings):
            study = FindStudy(settings, subjects) if subjects else None
        elif isinstance(settings, ShareSettings):
            study = ShareStudy.remembered(settings, subjects)
        else:
            raise TicketError(f"{path}: expected a study of `find` or `share`, this is one of `{settings.study}`.")
        if study is None:
            raise TicketError(f"{path}: the study has not begun; see `supertickets status {path}`.")
        return cls(path.resolve(), study, recall(study))

    def rows(self) -> dict[str, Row]:
        """Return the runs whose models are adapted by name, the dense one first."""
        if isinstance(self.study, ShareStudy):
            seed = self.study.settings.first_seed
            roles = {model: Role(model, 0.0, seed) for model in (MT_DNN, TICKET_SHARE)}
        else:
            chosen = select_super(self.record.table)
            if chosen is None:
                raise TicketError(
                    f"{self.path}: there is no super ticket, as no winning ticket above level 0 has finished; run "
                    "`supertickets find` to its end, with levels above 0."
                )
            seed, task = int(chosen["seed"]), self.study.subject.task.upper()
            best = Role("winning", float(chosen["level"]), seed)
            roles = {f"{task}-ST-DNN": Role(DENSE, 0.0, seed), f"{task}-SuperT": best}
        rows = {name: self.record.roles[role] for name, role in roles.items()}
        for name, row in rows.items():
            if not row.finished:
                raise TicketError(
                    f"{self.path}: {name} of seed {seed} has not finished its training ({row.status}); run its study "
                    "to its end first."
                )
        return rows

    def models(self, as_task: str | None) -> list[tuple[str, str, Ticket]]:
        """Return which models these are (see `Origin.what`)."""
        found: list[tuple[str, str, Ticket]] = []
        for name, row in self.rows().items():
            assert row.trial is not None
            found.append((name, row.trial.key, self._kept(row.trial, as_task if found else None)))
        return found

    @property
    def trials(self) -> list[str]:
        """The keys of the trials that trained the models."""
        return [key for _, key, _ in self.models(None)]

    def origins(self, settings: AdaptSettings, base: BaseModel, quiet: bool, before: Sequence[Origin]) -> list[Origin]:
        """Return the models to adapt; what was adapted `before` goes on from the same weights, wherever they are now.

        Without weights to go on from, they are trained again.
        """
        found: list[Origin] = []
        earlier = {origin.name: origin for origin in before}
        for name, key, kept in self.models(settings.as_task):
            if name in earlier:
                weights, ticket = earlier[name].start.weights, earlier[name].start.ticket
                folder = self._place(key, weights)
            else:
                outcome = self.regained(key, base, quiet)
                weights, ticket, folder = outcome.files[WEIGHTS], outcome.trial.ticket, outcome.folder.resolve()
            layer = self._output_layer(settings)
            start = Start(trial=key, folder=folder, weights=weights, ticket=ticket, output_layer=layer)
            dense = found[0].name if found else None
            found.append(Origin(name=name, run=self.path, start=start, ticket=kept, dense=dense))
        return found

    def _place(self, key: str, weights: str) -> Path:
        """Return the folder that has a trial's weights, or would have."""
        again = load_outcome(self.path / AGAIN / key)
        regained = again is not None and again.has_weights and again.files[WEIGHTS] == weights
        return self.path / (AGAIN if regained else TRIALS) / key

    def _kept(self, trial: Trial, as_task: str | None) -> Ticket:
        """Return what is kept of a model with a ticket."""
        place = None if as_task is None else self.place_of(as_task)
        return trial.ticket if place is None else trial.tasks[place].ticket

    def place_of(self, task: str) -> int | None:
        """Return a task's place among those of a shared model; None if the model is of one task alone.

        Raises UnknownNameError for a task that is none of its own.
        """
        if not isinstance(self.study, ShareStudy):
            return None
        names = [task_name(subject.task) for subject in self.study.subjects]
        if task_name(task) not in names:
            raise unknown_name(f"--as-task of {self.path}:", task, names)
        return names.index(task_name(task))

    def _output_layer(self, settings: AdaptSettings) -> int | None:
        """Return the place of the task whose trained output layer is kept; None for a new one."""
        if settings.output_layer == "new":
            return None
        return (self.place_of(settings.as_task) if settings.as_task is not None else None) or 0

    def check_output_layer(self, settings: AdaptSettings, task: Task) -> None:
        """Raise TicketError if a trained output layer is asked for that is not one for a task."""
        place, wanted = self._output_layer(settings), f"{flag('output_layer')} {settings.output_layer}"
        if place is None:
            return
        if isinstance(self.study, ShareStudy) and settings.as_task is None:
            names = ", ".join(subject.task for subject in self.study.subjects)
            raise TicketError(f"{wanted}: {self.path} has an output layer a task; name one with --as-task ({names}).")
        subject = self.study.subjects[place]
        if _outputs(subject.labels, subject.metrics) != _outputs(task.labels, task.metrics):
            raise TicketError(
                f"{wanted}: {subject.task!r} in {self.path} has {_outputs(subject.labels, subject.metrics)}, "
                f"{task.name!r} {_outputs(task.labels, task.metrics)}; expected the same in the same order, or "
                f"{flag('output_layer')} new."
            )
        trained = next(iter(self.rows().values())).trial
        assert trained is not None
        if trained.tasks[place].source.regression or task.standardised:
            name = task.name if task.standardised else subject.task
            raise TicketError(
                f"{wanted}: {name!r} standardises its targets by its own training examples, so an output layer of "
                f"one task predicts on another scale than the other's; expected {flag('output_layer')} new."
            )

    def regained(self, key: str, base: BaseModel, quiet: bool) -> Outcome:
        """Return a trial's outcome with its weights, training again for them if they were not kept."""
        name, row = next(item for item in self.rows().items() if item[1].trial is not None and item[1].trial.key == key)
        return with_weights(self.study, row, name, base, quiet)


def _outputs(labels: Sequence[str], metrics: Sequence[str]) -> str:
    """Say what the numbers of a task's output layer stand for: labels in their order, a real number, tokens."""
    if labels:
        return f"the labels {', '.join(labels)}"
    return (
        "a real number as target" if set(metrics) <= set(REGRESSION) else f"outputs for tokens ({', '.join(metrics)})"
    )


def _check_names(runs: Sequence[_Run], settings: AdaptSettings) -> None:
    """Raise TicketError if two models have one name, or if a run has no model to adapt."""
    names: dict[str, Path] = {}
    for run in runs:
        for name in run.rows():
            if name in names:
                raise TicketError(
                    f"{flag('runs')}: {names[name]} and {run.path} both have {name}; adapt them one after the other, "
                    "in folders of their own."
                )
            names[name] = run.path
    if settings.as_task is not None and all(run.place_of(settings.as_task) is None for run in runs):
        raise TicketError(f"--as-task {settings.as_task}: none of the studies is one of `share`.")
