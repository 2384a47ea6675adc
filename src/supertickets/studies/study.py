"""What every study is: trials that stand for something, run in a folder that remembers them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.record import Record, Subject, load_subjects, save_subjects
from supertickets.evidence.table import DENSE, Role, Row
from supertickets.lab import Lab, Outcome, Trial
from supertickets.lab.lab import load_failure
from supertickets.lab.lock import hold
from supertickets.lab.machine import Machine, check_device
from supertickets.lab.on_ray import check_ray
from supertickets.lab.outcome import WEIGHTS, outcome_of
from supertickets.lab.together import dismiss, follow
from supertickets.lab.tracking import check_trackers
from supertickets.lab.trial import Start, TaskTicket
from supertickets.models import BaseModel, find_model
from supertickets.storage import file_digest, write_atomically
from supertickets.studies.config import (
    EXAMPLES,
    SETTINGS_FILE,
    S,
    asked_for,
    check_same,
    complete,
    differences,
    record,
    recorded,
)
from supertickets.studies.settings import StudySettings
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.description import describe
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import KINDS, Drawing, draw_random
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.recipe import Recipe, Sharing
from supertickets.training.team import find_team

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

T = TypeVar("T")
RESULTS = "results.csv"
"""Written when a study ends: one row a run."""


class Study(ABC):
    """The trials of one study and what each stands for; a kind of study says which there are, and when.

    Knows its subjects (see `evidence.record`), one for each task that is trained, not the model or the data: the same
    walk that runs a study finds its outcomes again later.
    """

    continues = False
    """Whether some of its trials start from what others of its own ended with."""

    def __init__(self, settings: StudySettings, subjects: Sequence[Subject]) -> None:
        self.settings, self.subjects, self.subject = settings, tuple(subjects), subjects[0]
        self.layers, self.heads = self.subject.shape.layers, self.subject.shape.heads
        self.seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
        self.roles: dict[Role, Trial] = {}

    @abstractmethod
    def expected(self) -> list[Role]:
        """Return every role there will be, also of trials that wait for others."""

    @abstractmethod
    def opening(self) -> list[Trial]:
        """Return the trials that wait for nothing."""

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return the trials that an outcome makes possible."""
        return []

    def keeps(self, trial: Trial) -> bool:
        """Whether a trial's trained weights stay on disk when it is done."""
        return False

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """Look at an outcome while the study runs, once for each trial; most studies have nothing to do."""
        return

    def trial(
        self,
        role: Role,
        tickets: Ticket | Mapping[int, Ticket],
        scoring: ScoringSettings | None = None,
        recipe: Recipe | None = None,
        sharing: Sharing | None = None,
        start: Start | None = None,
        **otherwise: Any,
    ) -> Trial:
        """Return the trial for a role and remember what it stands for.

        `tickets` has one for each subject trained, by its place; one alone is the first (or only) subject's. What else
        a trial has (see `Trial`) may be given by name; the seed is the role's if none is.
        """
        settings = self.settings
        of = {0: tickets} if isinstance(tickets, Ticket) else tickets
        several = len(of) > 1
        trial = Trial(
            model=settings.model,
            weight_hash=self.subject.weight_hash,
            files_hash=self.subject.files_hash,
            tasks=tuple(
                TaskTicket(
                    source=self.subjects[place].source,
                    data_hash=self.subjects[place].data_hash,
                    ticket=ticket,
                    dropout=self.dropout(place) if several else None,
                )
                for place, ticket in of.items()
            ),
            recipe=recipe or settings.recipe,
            scoring=scoring,
            sharing=sharing,
            start=start,
            **{"seed": role.seed, **otherwise},
        )
        self.roles[role] = trial
        return trial

    def dropout(self, place: int) -> float | None:
        """Return the dropout of a subject's output layer where several are trained; None: the recipe's."""
        return None

    def played_by(self, trial: Trial) -> list[Role]:
        """Return the roles that a trial plays."""
        return [role for role, found in self.roles.items() if found.key == trial.key]

    def cost(self, trial: Trial) -> float:
        """Return what a trial costs about, in any unit: its FLOPs, a fifth more if it is scored."""
        examples = {subject.data_hash: subject.train for subject in self.subjects}
        flops = sum(self._flops(task.ticket, examples[task.data_hash]) for task in trial.tasks)
        return trial.recipe.epochs * flops * (1.2 if trial.scoring is not None else 1.0)

    def _flops(self, ticket: Ticket, examples: int) -> float:
        return float(forward_flops(self.subject.shape, ticket, examples, 32))

    @cached_property
    def _trained(self) -> list[Role]:
        """Every role but tickets of level 0: they are the dense run."""
        return [role for role in self.expected() if role.level or role.kind not in KINDS]

    _sizes = Drawing.model_validate({})

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be."""
        levels = {role.level for role in self.expected()}
        drawn = {level: draw_random(self.layers, self.heads, level, 0, self._sizes) for level in levels}
        return self.settings.epochs * sum(
            self._flops(drawn[role.level], self.subject.train) * (1.2 if role.kind == DENSE else 1.0)
            for role in self._trained
        )

    def names(self) -> dict[str, str]:
        """Return each trial's name by key: the first role it plays."""
        names: dict[str, str] = {}
        for role, trial in self.roles.items():
            names.setdefault(trial.key, str(role))
        return names

    def total(self) -> int:
        """Return how many trials there will be, as far as can be told: tickets that came out equal share one."""
        playing = [self.roles[role].key for role in self._trained if role in self.roles]
        return len(self._trained) - len(playing) + len(set(playing))

    def description(self) -> str:
        """Return what is trained on what, in words."""
        return f"{self.subject.task} on {self.settings.model}"

    def record(self, outcomes: dict[str, Outcome], failures: dict[str, str], complete: bool) -> Record:
        """Return what evidence looks at: every role with its trial and outcome, where there are any."""
        rows = []
        for role in self.expected():
            trial = self.roles.get(role)
            key = trial.key if trial is not None else ""
            rows.append(Row(role, trial, outcomes.get(key), key in failures))
        names = self.names()
        reasons = {names[key]: reason for key, reason in failures.items()}
        shown = {"study": self.settings.study, **self.settings.model_dump(mode="json")}
        return Record(self.subjects, self.settings.folder, shown, rows, complete, reasons)


@dataclass(frozen=True)
class Walk:
    """What a study's folder remembers: outcomes and failures (tracebacks) by key, and trials that have yet to run.

    `failed` are the trials of `failures`: they are tried again when the study is.
    """

    outcomes: dict[str, Outcome]
    failures: dict[str, str]
    waiting: list[Trial]
    failed: list[Trial]


def walk(study: Study) -> Walk:
    """Walk through what a study's folder remembers, running nothing."""
    found, asked = Walk({}, {}, [], []), set[str]()
    ahead = deque(study.opening())
    while ahead:
        trial = ahead.popleft()
        if trial.key in asked:
            continue
        asked.add(trial.key)
        folder = study.settings.folder / "trials" / trial.key
        if (outcome := outcome_of(trial, folder.parent)) is not None:
            found.outcomes[trial.key] = outcome
            ahead.extend(study.then(trial, outcome))
        elif (reason := load_failure(folder)) is not None:
            found.failures[trial.key] = reason
            found.failed.append(trial)
        else:
            found.waiting.append(trial)
    return found


def recall(study: Study) -> Record:
    """Return the record of what a study's folder remembers; what has not run is missing in it."""
    found = walk(study)
    return study.record(found.outcomes, found.failures, not found.waiting)


def prepare(
    kind: type[S], config: Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any], quiet: bool = True
) -> tuple[S, BaseModel]:
    """Return a study's complete settings and base model, from a config (or its file) and what wins over it."""
    asked = asked_for(kind, config, settings)
    base = find_model(str(asked.get("model", kind.model_fields["model"].default)))
    return complete(kind, asked, base, quiet), base


def check_some_finished(record: Record) -> None:
    """Raise StudyError if no training of a study finished."""
    if not any(row.finished for row in record.rows):
        raise StudyError(f"no training finished: {record.first_trouble()}")


def write_results(folder: Path, table: pd.DataFrame) -> None:
    """Write a study's runs as `results.csv`."""
    write_atomically(folder / RESULTS, table.to_csv(index=False, float_format="%.10g"))


Loaded = Mapping[TaskSource, Task]
"""The tasks of a study by where they come from, in the order of its subjects."""


def conduct(
    kind: Callable[[Any, Sequence[Subject]], Study],
    settings: StudySettings,
    base: BaseModel,
    tasks: Loaded,
    quiet: bool,
    conclude: Callable[[Any, Record], T],
    further: bool = False,
    check: Callable[[], None] = lambda: None,
) -> T:
    """Run a study in its folder and conclude; under `accelerate launch`, every process but the first only follows.

    `further` is for a look at a study that is there: its folder's settings stay as they are. `check` looks at what only
    this kind of study has. Raises TicketError for misuse before anything is written, StudyError when nothing can go on.
    """
    team = find_team()
    settings = settings.model_copy(update={"processes": check_processes(settings)})
    subjects = check_tasks(settings, base, tasks)
    if not team.leads:
        by_hash = {subject.data_hash: task for subject, task in zip(subjects, tasks.values(), strict=True)}
        follow(team, {"models": {base.weight_hash: base}, "tasks": by_hash})
        raise SystemExit(0)
    try:
        check_runner(settings)
        check_folder(settings, subjects)
        check()
        with hold(settings.folder):
            before = check_folder(settings, subjects)
            settled = settings.model_copy(update={"precision": _settle_precision(settings, before)})
            if not further:
                record(settled)
                save_subjects(settled.folder, subjects)
            study = kind(settled, subjects)
            return conclude(study, run(study, base, tasks, quiet))
    finally:
        dismiss(team)


def check_processes(settings: StudySettings) -> int:
    """Return how many processes train together; raises TicketError if others were asked for."""
    size = find_team().size
    if settings.processes not in (1, size):
        raise TicketError(f"--processes: {settings.processes} asked for, {size} started; see `accelerate launch`.")
    return size


def check_runner(settings: StudySettings) -> None:
    """Raise TicketError unless trainings can run and be tracked as asked for."""
    check_trackers(settings.track)
    if find_team().size > 1 and (settings.device != "auto" or settings.workers not in ("auto", 1)):
        raise TicketError("--device and --workers: `accelerate launch` has set both for its processes; leave them out.")
    if settings.on == "ray":
        check_ray(settings.address)
    check_device(settings.device)


def check_tasks(settings: StudySettings, base: BaseModel, tasks: Loaded) -> list[Subject]:
    """Return what a study is about; raises TicketError unless each of its tasks can be trained and scored."""
    subjects = [Subject.of(base, source, task) for source, task in tasks.items()]
    _check_subjects(subjects)
    return _described(subjects, settings, base, tasks)


def _check_subjects(subjects: Sequence[Subject]) -> None:
    """Raise TicketError for a task that cannot be scored, and for two that are one and the same."""
    seen: dict[str, str] = {}
    for subject in subjects:
        if len(subject.targets) < 2:
            raise TicketError(
                f"task {subject.task!r}: choosing and scoring need at least two dev examples, there is one."
            )
        if subject.data_hash in seen:
            raise TicketError(f"tasks {seen[subject.data_hash]!r} and {subject.task!r} have the same examples.")
        seen[subject.data_hash] = subject.task


def _described(subjects: Sequence[Subject], settings: StudySettings, base: BaseModel, tasks: Loaded) -> list[Subject]:
    """Return subjects that say what was understood of the base model and of their data.

    Raises TicketError where the model's files do not fit together, or the tasks' texts do not fit the model.
    """
    from supertickets.models import ModelSource
    from supertickets.training.objectives import check_task, describe_tokens

    source, found = ModelSource(base), []
    for subject, task in zip(subjects, tasks.values(), strict=True):
        source.check(task.form, task.outputs)
        check_task(task, source.tokenizer, settings.max_length)
        said = describe(task).sentences() + describe_tokens(task, source.tokenizer, settings.max_length)
        found.append(replace(subject, description=said))
    return [replace(found[0], description=(*source.notices, *found[0].description)), *found[1:]]


def check_folder(settings: StudySettings, subjects: Sequence[Subject], weights: bool = True) -> StudySettings | None:
    """Return the settings an output folder was made with, None for a new one; raises TicketError if it is another's.

    Without `weights`, the model's weights may differ: they are yet to be trained.
    """
    folder = settings.folder
    check_place(folder)
    before = recorded(folder)
    if before is not None:
        there: tuple[Subject, ...] = ()
        with suppress(TicketError):  # a damaged one is written anew
            there = load_subjects(folder)
        settled = settings.model_copy(update={"precision": _settle_precision(settings, before)})
        check_same(settled, before, hashed=bool(there))
        hashes = [("examples", "data_hash", EXAMPLES)]
        if weights:
            of_model = frozenset({"model"})
            hashes += [("weights", "weight_hash", of_model), ("model files", "files_hash", of_model)]
        for what, attribute, named in hashes:
            if there and [getattr(one, attribute) for one in there] != [getattr(one, attribute) for one in subjects]:
                said = differences(settled, before, named)
                said = f" ({said})" if said else ""
                raise TicketError(f"--out {folder}: the folder's study has other {what}{said}; choose another folder.")
    elif folder.exists() and [path for path in folder.iterdir() if not path.name.startswith(".")]:
        raise TicketError(f"--out {folder}: the folder has other files and no {SETTINGS_FILE}; choose another folder.")
    return before


def check_place(path: Path, file: bool = False) -> None:
    """Raise TicketError unless a folder (or a `file`) is there or can be made; writes nothing."""
    if path.exists() and path.is_dir() == file:
        wrong, right = ("folder", "file") if file else ("file", "folder")
        raise TicketError(f"--out {path}: that is a {wrong}; expected a {right}, or a name for a new one.")
    above = next(up for up in (path.absolute(), *path.absolute().parents) if up.exists() or up.is_symlink())
    if above != path.absolute() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise TicketError(f"--out {path}: cannot be made, since {above} is no folder to write in; choose another one.")


def _settle_precision(settings: StudySettings, before: StudySettings | None) -> str:
    """Return the precision to use: a folder's recorded one goes on, so that a study is never of two."""
    if settings.precision != "auto":
        return settings.precision
    if before is not None:
        return before.precision
    from supertickets.training.devices import choose_precision, find_device

    return choose_precision("auto", find_device(settings.device))


def run(study: Study, base: BaseModel, tasks: Loaded, quiet: bool) -> Record:
    """Run all trials of a study that its folder does not remember, and show how far it is."""
    from rich.console import Console

    from supertickets.lab.progress import Board, ProgressDisplay

    settings = study.settings
    board = Board(study.total(), study.expected_cost(), study.cost)
    console = Console(stderr=True, quiet=quiet)
    display = ProgressDisplay(console, board, settings.folder)
    where = machine(study, base, tasks)
    if study.continues:
        _regain(study, where, console)
    with Lab(settings.folder, where, display) as lab, display:
        console.print(
            f"{study.description()}: {board.total} trainings in {settings.precision}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        for subject in study.subjects:
            of = f"{subject.task}: " if len(study.subjects) > 1 else ""
            for sentence in subject.description:
                console.print(f"{of}{sentence}", markup=False, highlight=False, soft_wrap=True)

        def then(trial: Trial, outcome: Outcome) -> Iterable[Trial]:
            study.done(trial, outcome)
            more = study.then(trial, outcome)
            board.names, board.total = study.names(), study.total()
            return more

        opening = study.opening()
        board.names, board.total = study.names(), study.total()
        outcomes = lab.run(opening, then, study.keeps)
        return study.record(outcomes, lab.failures, True)


def _regain(study: Study, where: Machine, console: Console) -> None:
    """Train again what trials of a study start from, where the weights are gone."""
    lost = lost_starts(study)
    by_key = {trial.key: trial for trial in study.roles.values()}
    for start in lost:
        name = study.names()[start.trial]
        console.print(f"{name}: its trained weights are gone; it is trained again.", highlight=False, soft_wrap=True)
        with Lab(study.settings.folder, where) as lab:
            check_regained(start, lab.with_weights(by_key[start.trial]))


def lost_starts(study: Study) -> list[Start]:
    """Return where trials that have yet to run start from, if the weights are not there."""
    found = walk(study)
    starts = {trial.start.weights: trial.start for trial in found.waiting + found.failed if trial.start is not None}
    return [start for start in starts.values() if not _is_there(start)]


def _is_there(start: Start) -> bool:
    path = start.folder / WEIGHTS
    return path.is_file() and file_digest(path) == start.weights


def check_regained(start: Start, outcome: Outcome) -> None:
    """Raise StudyError unless a training again gave the weights that trials are to start from."""
    if outcome.files[WEIGHTS] != start.weights:
        raise StudyError(
            f"{start.folder}: the weights that trainings start from are gone, and training again gave others (another "
            "machine, or other versions of libraries); put the file back, or choose another folder."
        )


def machine(study: Study, base: BaseModel, tasks: Loaded) -> Machine:
    """Return where a study's trials run."""
    settings = study.settings
    return Machine(
        on=settings.on,
        workers=settings.workers,
        device=settings.device,
        threads=settings.threads,
        address=settings.address,
        cpus=settings.cpus,
        gpus=settings.gpus,
        trackers=settings.track,
        checkpoint_every=60 * settings.checkpoint_minutes,
        models={base.weight_hash: base},
        tasks={subject.data_hash: tasks[subject.source] for subject in study.subjects if subject.source in tasks},
    )


def with_weights(study: Study, row: Row, name: str, base: BaseModel, quiet: bool) -> Outcome:
    """Return the outcome of a finished study's run with its trained weights, trained again if they were not kept.

    `name` is what the run is called when that is told. Raises TicketError if the examples are others by now.
    """
    from rich.console import Console

    trial, outcome = row.trial, row.outcome
    assert trial is not None
    assert outcome is not None
    if outcome.has_weights:
        return outcome
    folder = study.settings.folder
    if find_team().size > 1:
        raise TicketError(
            f"{folder}: the weights of {name} were not kept; under `accelerate launch` they cannot be trained again, "
            "so begin without it, or keep them (`--keep all`)."
        )
    wanted = {task.data_hash for task in trial.tasks}
    tasks = {one.source: load_task(one.source) for one in study.subjects if one.data_hash in wanted}
    if {task.fingerprint() for task in tasks.values()} != wanted:
        raise TicketError(
            f"{folder}: the weights of {name} were not kept, and the task has other examples than when it was trained; "
            "put its files back."
        )
    Console(stderr=True, quiet=quiet).print(
        f"{name}: its trained weights were not kept; it is trained again in {folder}.", highlight=False, soft_wrap=True
    )
    with hold(folder):
        return trained_again(study, base, tasks, trial)


def trained_again(study: Study, base: BaseModel, tasks: Loaded, trial: Trial) -> Outcome:
    """Return a trial's outcome with its trained weights, running it again if they were dropped."""
    with Lab(study.settings.folder, machine(study, base, tasks)) as lab:
        return lab.with_weights(trial)
