"""Ticket sharing: each task trains its own super ticket of one encoder (Super Tickets paper, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.errors import StudyError, TicketError
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.sharing import MODELS, MT_DNN, TICKET_SHARE, Sharing, conclude_sharing
from supertickets.evidence.table import Role
from supertickets.lab import Outcome, Trial
from supertickets.lab.outcome import WEIGHTS
from supertickets.lab.trial import Start
from supertickets.models import BaseModel, find_model
from supertickets.studies.config import SETTINGS_FILE, asked_for, complete, parse, settings_of
from supertickets.studies.find import find
from supertickets.studies.presets import task_name
from supertickets.studies.settings import DEFAULT_TASKS, FindSettings, ShareSettings, slug
from supertickets.studies.study import (
    Loaded,
    Study,
    check_folder,
    check_some_finished,
    conduct,
    trained_again,
    write_results,
)
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets import Ticket
from supertickets.tickets.folder import (
    MODEL_FOLDER,
    SHARED_MODEL,
    TICKET_JSON,
    SharedTicket,
    load_ticket,
    shipped_trial,
)
from supertickets.training.recipe import Recipe
from supertickets.training.team import find_team

TICKETS = "tickets"
"""Below a study's folder: each task's ticket, as it is shared."""
TASK_MODELS = "models"
"""Below a study's folder: each task's ticket folder, with its part of the shared model."""
FOUND = "find"
"""Below a study's folder: the studies that found the tickets, where none were given."""


class ShareStudy(Study):
    """MT-DNN and Ticket-Share in each seed, then each of them fine-tuned on each task."""

    settings: ShareSettings
    continues = True

    def __init__(self, settings: ShareSettings, subjects: Sequence[Subject], tickets: Sequence[SharedTicket]) -> None:
        super().__init__(settings, subjects)
        self.tickets = tuple(tickets)
        full = Ticket.full(self.layers, self.heads)
        self._tickets = {
            MT_DNN: [full] * len(self.subjects),
            TICKET_SHARE: [shared.ticket for shared in self.tickets],
        }

    @classmethod
    def remembered(cls, settings: ShareSettings, subjects: Sequence[Subject]) -> ShareStudy | None:
        """Return the study in a folder; None if it stopped before its tickets were there."""
        tickets = [_kept(settings.folder, subject) for subject in subjects]
        there = [ticket for ticket in tickets if ticket is not None]
        return cls(settings, subjects, there) if len(there) == len(subjects) else None

    def expected(self) -> list[Role]:
        """Return the shared models, then their fine-tuning on each task (the role's variant)."""
        shared = [Role(model, 0.0, seed) for seed in self.seeds for model in MODELS]
        tuned = [Role(role.kind, 0.0, role.seed, subject.task) for role in shared for subject in self.subjects]
        return shared + (tuned if self.settings.fine_tune else [])

    def opening(self) -> list[Trial]:
        """Return the shared models' trials."""
        return [
            self.trial(role, dict(enumerate(self._tickets[role.kind])), sharing=self.settings.sharing)
            for role in self.expected()
            if not role.variant
        ]

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return a shared model's fine-tuning on each task, from its encoder and that task's output layer."""
        if len(trial.tasks) == 1 or WEIGHTS not in outcome.files or not self.settings.fine_tune:
            return []
        return [
            self.fine_tuned(
                Role(role.kind, 0.0, role.seed, subject.task), place, outcome, self.settings.fine_tuning(subject.task)
            )
            for role in self.played_by(trial)
            for place, subject in enumerate(self.subjects)
        ]

    def fine_tuned(self, role: Role, place: int, outcome: Outcome, recipe: Recipe) -> Trial:
        """Return the trial that goes on from a shared model's outcome on one task, with that task's ticket."""
        trial = outcome.trial
        start = Start(
            trial=trial.key,
            folder=outcome.folder,
            weights=outcome.files[WEIGHTS],
            ticket=trial.ticket,
            output_layer=place,
        )
        return self.trial(role, {place: self._tickets[role.kind][place]}, recipe=recipe, start=start)

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay: the shared models', which others start from, or all."""
        return self.settings.keep == "all" or len(trial.tasks) > 1

    def dropout(self, place: int) -> float | None:
        """Return a task's own dropout, where it is not the same for all."""
        return self.settings.dropout_of(self.subjects[place].task) if self.settings.dropout is None else None

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be."""
        settings = self.settings
        once = sum(
            self._flops(ticket, subject.train)
            for tickets in self._tickets.values()
            for ticket, subject in zip(tickets, self.subjects, strict=True)
        )
        tuned = settings.fine_tune_epochs if settings.fine_tune else 0
        return len(self.seeds) * once * (settings.epochs + tuned)

    def description(self) -> str:
        """Return which tasks share what, in words."""
        tasks = ", ".join(f"{subject.task} ({subject.train} examples)" for subject in self.subjects)
        return f"{tasks} on {self.settings.model}"


@dataclass(frozen=True)
class _Member:
    """A task of the study, where its examples are, and its ticket if one was given."""

    source: TaskSource
    shared: SharedTicket | None = None
    where: str = ""


def _members(settings: ShareSettings) -> list[_Member]:
    """Return the tasks in the order asked for; raises TicketError where tasks and tickets do not match."""
    given: dict[str, _Member] = {}
    for path in settings.tickets:
        member = _given(path, settings)
        name = task_name(member.source.task)
        if name in given:
            raise TicketError(
                f"--tickets: {given[name].where} and {member.where} are both of task {member.source.task!r}; "
                "name one for each task."
            )
        given[name] = member
    if not given:
        return [_Member(_source(task, settings)) for task in settings.tasks or DEFAULT_TASKS]
    asked = {task_name(task): task for task in settings.tasks}
    without = [task for name, task in asked.items() if name not in given]
    if without:
        raise TicketError(
            f"--tasks: task {without[0]!r} has no ticket; name its study with --tickets, or leave --tickets out to "
            "find them all first."
        )
    more = [member for name, member in given.items() if asked and name not in asked]
    if more:
        raise TicketError(
            f"--tickets {more[0].where}: a ticket of {more[0].source.task!r}, which is not among --tasks."
        )
    return [given[name] for name in asked] if asked else list(given.values())


def _source(task: str, settings: ShareSettings) -> TaskSource:
    data = None if task_name(task) in BUILTIN else settings.data
    return TaskSource.model_validate({"task": task, "data": data})


def _given(path: Path, settings: ShareSettings) -> _Member:
    """Return the task of a finished study, or of a ticket folder, with its ticket."""
    if not path.is_dir():
        raise TicketError(f"--tickets {path}: no such folder.")
    if not (path / SETTINGS_FILE).is_file():
        shared = load_ticket(path)
        task = str(shared.origin.get("task", ""))
        if not task:
            raise TicketError(f"{path}: {TICKET_JSON} does not say which task the ticket is of.")
        return _Member(_source(task, settings), shared, str(path))
    study = settings_of(path)
    if not isinstance(study, FindSettings):
        raise TicketError(f"--tickets {path}: expected a study of `find`, this is one of `{study.study}`.")
    if not (path / "super-ticket" / TICKET_JSON).is_file():
        raise TicketError(f"--tickets {path}: there is no super ticket in it; run `supertickets find` to its end.")
    return _Member(study.source, load_ticket(path / "super-ticket"), str(path))


def _check_bases(members: Sequence[_Member], base: BaseModel) -> None:
    shape = (base.shape.layers, base.shape.heads)
    for member in members:
        if member.shared is None:
            continue
        ticket, given = member.shared.ticket, str(member.shared.base["weight_hash"])
        if ticket.shape != shape:
            raise TicketError(
                f"--tickets {member.where}: the ticket is for {ticket.shape[0]} layers x {ticket.shape[1]} heads, "
                f"model {base.name!r} has {shape[0]} x {shape[1]}; use tickets of that model."
            )
        if given != base.weight_hash:
            raise TicketError(
                f"--tickets {member.where}: the ticket was drawn from {member.shared.base['name']!r} with weights "
                f"{given[:12]}..., model {base.name!r} has {base.weight_hash[:12]}...; use tickets of that model."
            )


def _cut_to_size(source: TaskSource, task: Task, settings: ShareSettings) -> tuple[TaskSource, Task]:
    """Return a task with at most as many training examples as asked for."""
    if settings.at_most is None or len(task.train) <= settings.at_most:
        return source, task
    if settings.at_most < max(2, len(task.labels)):
        raise TicketError(
            f"--at-most {settings.at_most}: task {task.name!r} has {len(task.labels)} classes; expected at least one "
            "example of each."
        )
    share = source.fraction * settings.at_most / len(task.train)
    seed = source.fraction_seed if source.fraction < 1 else settings.fraction_seed  # a part of the part it was
    smaller = source.model_copy(update={"fraction": share, "fraction_seed": seed})
    return smaller, load_task(smaller)


@dataclass(frozen=True)
class ShareResult:
    """What `share` leaves: where things are, the tickets by task, what came out (Table 3, sizes, who keeps what)."""

    folder: Path
    tickets: Mapping[str, Ticket]
    sharing: Sharing
    failures: Mapping[str, str]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"

    @property
    def model_folder(self) -> Path:
        """The shared encoder with all output layers and tickets (see `load_shared`)."""
        return self.folder / SHARED_MODEL

    @property
    def task_folders(self) -> Mapping[str, Path]:
        """Each task's ticket folder, with its small model in `model/`."""
        return {task: self.folder / TASK_MODELS / slug(task) for task in self.tickets}


def share(config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any) -> ShareResult:
    """Train tasks together, each its own super ticket of one encoder; the call behind `supertickets share`.

    Takes the settings of `ShareSettings` by name, in `config` (a mapping or a YAML file), as keywords, or both. Tickets
    that are not given are found first, in `find/` of the output folder. Raises TicketError for misuse before anything
    is written, StudyError if a task has no super ticket.
    """
    asked = asked_for(ShareSettings, config, settings)
    first = parse(ShareSettings, asked)
    members = _members(first)
    if len(members) < 2:
        raise TicketError(f"--tasks: sharing needs at least two tasks, got {members[0].source.task!r} alone.")
    if first.data is not None and all(member.source.data != first.data for member in members):
        raise TicketError("--data: it would change nothing: no task takes its examples from there.")
    if members[0].shared is None and not any(first.levels):
        raise TicketError("--levels 0: a ticket of level 0 is the dense model; name one above 0 too.")
    asked["tasks"] = tuple(member.source.task for member in members)
    base = find_model(first.model)
    _check_bases(members, base)
    finished = complete(ShareSettings, asked, base, quiet)
    if members[0].shared is None and find_team().size > 1:
        raise TicketError("--tickets: under `accelerate launch`, find the tickets first and name their studies.")
    loaded = dict(_cut_to_size(member.source, load_task(member.source), first) for member in members)
    if of_tokens := [task.name for task in loaded.values() if task.form != "sequence"]:
        raise TicketError(
            f"--tasks: task {of_tokens[0]!r} gives outputs for tokens, which cannot share an encoder yet; expected "
            "tasks of whole texts (see `supertickets find` for this one)."
        )
    tickets = [member.shared for member in members if member.shared is not None]
    _check_kept(finished.folder, [task.name for task in loaded.values()], tickets)

    def check() -> None:
        for source, task in {} if tickets else loaded.items():
            subject = Subject.of(base, source, task)
            if _kept(finished.folder, subject) is None:
                check_folder(complete(FindSettings, _search(finished, subject), base), [subject])

    def build(settled: ShareSettings, subjects: Sequence[Subject]) -> ShareStudy:
        from supertickets.export.card import ticket_card

        found = tickets or [_kept(settled.folder, subject) or _found(settled, subject, quiet) for subject in subjects]
        for subject, shared in zip(subjects, found, strict=True):
            readme = ticket_card(shared.ticket, shared.base, shared.origin, with_model=False)
            shared.save(_ticket_folder(settled.folder, subject), readme)
        return ShareStudy(settled, subjects, found)

    return conduct(
        build, finished, base, loaded, quiet, lambda study, record: _conclude(study, record, base, loaded), check=check
    )


def _conclude(study: ShareStudy, record: Record, base: BaseModel, loaded: Loaded) -> ShareResult:
    """Write the tables, the page and the models."""
    from supertickets.studies.pages import write_sharing

    check_some_finished(record)
    seen = conclude_sharing(record, study.tickets)
    write_results(record.folder, seen.runs)
    write_sharing(record, seen, study.tickets)
    _ship(study, record, base, loaded)
    if study.settings.keep == "none" and all(row.finished for row in record.rows):
        for row in record.rows:
            row.outcome.drop_weights()  # type: ignore[union-attr]
    tickets = {one.task: shared.ticket for one, shared in zip(record.subjects, study.tickets, strict=True)}
    return ShareResult(record.folder, tickets, seen, dict(record.failures))


def _ship(study: ShareStudy, record: Record, base: BaseModel, loaded: Loaded) -> None:
    """Write the best Ticket-Share model and each task's part of it, unless they are there already."""
    shared = [row for row in record.finished(TICKET_SHARE) if not row.role.variant and row.outcome is not None]
    if study.settings.keep == "none" or not shared:
        return
    best = max(shared, key=lambda row: (row.outcome.score if row.outcome else 0.0, -row.role.seed))
    trial = best.trial
    assert trial is not None
    folders = [study.settings.folder / TASK_MODELS / slug(subject.task) for subject in study.subjects]
    whole = all((folder / MODEL_FOLDER).is_dir() and (folder / TICKET_JSON).is_file() for folder in folders)
    if whole and shipped_trial(study.settings.folder / SHARED_MODEL) == trial.key:
        return
    from supertickets.export.shared import ship_shared

    outcome = trained_again(study, base, loaded, trial)
    tasks = [loaded[subject.source] for subject in study.subjects]
    ship_shared(study.settings.folder / SHARED_MODEL, folders, outcome, base, tasks, study.tickets)


def _ticket_folder(folder: Path, subject: Subject) -> Path:
    return folder / TICKETS / slug(subject.task)


def _kept(folder: Path, subject: Subject) -> SharedTicket | None:
    """Return a task's ticket as a study in `folder` shares it; None if it has none yet."""
    there = _ticket_folder(folder, subject)
    return load_ticket(there) if (there / TICKET_JSON).is_file() else None


def _check_kept(folder: Path, names: Sequence[str], tickets: Sequence[SharedTicket]) -> None:
    """Raise TicketError if two tasks would have one folder, or if a study in `folder` shares other tickets."""
    slugs = [slug(name) for name in names]
    for name, own in zip(names, slugs, strict=True):
        if slugs.count(own) > 1:
            raise TicketError(f"--tasks: another task's name is too much like {name!r}; rename one of them.")
    for name, shared in zip(names, tickets, strict=False):  # none are given where they are to be found
        there = folder / TICKETS / slug(name)
        if (there / TICKET_JSON).is_file() and load_ticket(there).ticket != shared.ticket:
            raise TicketError(
                f"--out {folder}: the folder's study shares another ticket of {name!r}; choose another folder."
            )


def _search(settings: ShareSettings, subject: Subject) -> dict[str, Any]:
    """Return what is asked of the study that finds a task's super ticket: this one's recipe, levels and seeds.

    Its epochs are those of a single task: the preset's, or as many as were asked for (appendix A.2.1).
    """
    own = {"out", "dropout", "keep", "data", "fraction_seed", "epochs"}
    same = {name: getattr(settings, name) for name in type(settings).model_fields.keys() & FindSettings.model_fields}
    same = {name: value for name, value in same.items() if name not in own | settings.without_effect({}).keys()}
    if settings.score_epoch is None:
        same.pop("score_epoch", None)  # the task's own, by preset
    if settings.find_epochs is not None:
        same["epochs"] = settings.find_epochs
    if settings.dropout is not None:
        same["dropout"] = settings.dropout
    source = {name: value for name, value in subject.source.model_dump().items() if value is not None}
    folder = settings.folder / FOUND / slug(subject.task)
    return {**same, **source, "kinds": ("winning",), "keep": "none", "out": folder}


def _found(settings: ShareSettings, subject: Subject, quiet: bool) -> SharedTicket:
    """Return a task's super ticket, from a study of its own with this one's recipe and seeds (appendix A.2.1)."""
    result = find(_search(settings, subject), quiet=quiet)
    if result.failures:
        raise StudyError(
            f"task {subject.task!r}: {len(result.failures)} trials failed while its ticket was looked for: "
            f"{', '.join(result.failures)}; the same command tries them again."
        )
    if result.super_ticket is None:
        raise StudyError(f"task {subject.task!r}: no winning ticket finished its training; see {result.folder}.")
    return load_ticket(result.ticket_folder)
