"""What every study is: trials that stand for something, run in a folder that remembers them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import TicketError
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.table import CONTROL, DENSE, Role, Row
from supertickets.lab import Lab, Outcome, Trial
from supertickets.lab.lab import load_failure
from supertickets.lab.lock import hold
from supertickets.lab.machine import Machine, check_device, require_ray
from supertickets.lab.outcome import load_outcome
from supertickets.lab.together import dismiss, follow
from supertickets.lab.tracking import check_trackers
from supertickets.models import BaseModel, find_model
from supertickets.storage import write_atomically
from supertickets.studies.settings import (
    SETTINGS_FILE,
    S,
    StudySettings,
    check_same,
    complete,
    read_config,
    record,
    recorded,
)
from supertickets.tasks import Task, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.recipe import Recipe
from supertickets.training.team import find_team

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
RESULTS = "results.csv"
"""Written when a study ends: one row a run."""


class Study(ABC):
    """The trials of one study and what each stands for; a kind of study says which there are, and when.

    Knows the subject (see `evidence.record`), not the model or the data: the same walk that runs a study finds its
    outcomes again later.
    """

    def __init__(self, settings: StudySettings, subject: Subject) -> None:
        self.settings, self.subject = settings, subject
        self.layers, self.heads = subject.shape.layers, subject.shape.heads
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
        self, role: Role, ticket: Ticket, scoring: ScoringSettings | None = None, recipe: Recipe | None = None
    ) -> Trial:
        """Return the trial for a role and remember what it stands for."""
        settings = self.settings
        trial = Trial(
            model=settings.model,
            weight_hash=self.subject.weight_hash,
            source=settings.source,
            data_hash=self.subject.data_hash,
            ticket=ticket,
            recipe=recipe or settings.recipe,
            seed=role.seed,
            scoring=scoring,
        )
        self.roles[role] = trial
        return trial

    def played_by(self, trial: Trial) -> list[Role]:
        """Return the roles that a trial plays."""
        return [role for role, found in self.roles.items() if found.key == trial.key]

    def cost(self, ticket: Ticket, scored: bool = False) -> float:
        """Return what a trial of a ticket costs about, in any unit: its FLOPs, a fifth more if it is scored."""
        flops = forward_flops(self.subject.shape, ticket, 1, 32)
        return 1.2 * flops if scored else flops

    @cached_property
    def _trained(self) -> list[Role]:
        """Every role but tickets of level 0: they are the dense run."""
        return [role for role in self.expected() if role.level or role.kind in (DENSE, CONTROL)]

    _sizes = Drawing.model_validate({})

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be."""
        levels = {role.level for role in self.expected()}
        drawn = {level: draw_random(self.layers, self.heads, level, 0, self._sizes) for level in levels}
        return sum(self.cost(drawn[role.level], role.kind == DENSE) for role in self._trained)

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

    def record(self, outcomes: dict[str, Outcome], failures: dict[str, str], complete: bool) -> Record:
        """Return what evidence looks at: every role with its trial and outcome, where there are any."""
        rows = []
        for role in self.expected():
            trial = self.roles.get(role)
            key = trial.key if trial is not None else ""
            rows.append(Row(role, trial, outcomes.get(key), key in failures))
        names = self.names()
        reasons = {names[key]: reason for key, reason in failures.items()}
        shown = self.settings.model_dump(mode="json")
        return Record(self.subject, self.settings.folder, shown, rows, complete, reasons)


@dataclass(frozen=True)
class Walk:
    """What a study's folder remembers: outcomes and failures (tracebacks) by key, and trials that have yet to run."""

    outcomes: dict[str, Outcome]
    failures: dict[str, str]
    waiting: list[Trial]


def walk(study: Study) -> Walk:
    """Walk through what a study's folder remembers, running nothing."""
    found, asked = Walk({}, {}, []), set[str]()
    ahead = deque(study.opening())
    while ahead:
        trial = ahead.popleft()
        if trial.key in asked:
            continue
        asked.add(trial.key)
        folder = study.settings.folder / "trials" / trial.key
        if (outcome := load_outcome(folder)) is not None:
            found.outcomes[trial.key] = outcome
            ahead.extend(study.then(trial, outcome))
        elif (reason := load_failure(folder)) is not None:
            found.failures[trial.key] = reason
        else:
            found.waiting.append(trial)
    return found


def recall(study: Study) -> Record:
    """Return the record of what a study's folder remembers; what has not run is missing in it."""
    found = walk(study)
    return study.record(found.outcomes, found.failures, not found.waiting)


def prepare(
    kind: type[S], config: Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> tuple[S, BaseModel, Task]:
    """Return a study's complete settings, base model and task, from a config (or its file) and what wins over it."""
    if isinstance(config, str | Path):
        config = read_config(Path(config), kind)
    asked = {**(config or {}), **settings}
    base = find_model(str(asked.get("model", kind.model_fields["model"].default)))
    first = complete(kind, asked, base)
    return first, base, load_task(first.source)


def write_results(folder: Path, table: pd.DataFrame) -> None:
    """Write a study's runs as `results.csv`."""
    write_atomically(folder / RESULTS, table.to_csv(index=False, float_format="%.10g"))


def conduct(
    kind: Callable[[Any, Subject], Study],
    settings: StudySettings,
    base: BaseModel,
    task: Task,
    quiet: bool,
    conclude: Callable[[Any, Record], T],
    further: bool = False,
) -> T:
    """Run a study in its folder and conclude; under `accelerate launch`, every process but the first only follows.

    `further` is for a look at a study that is there: its folder's settings stay as they are. Raises TicketError for
    misuse before anything is written, StudyError when nothing can go on.
    """
    team = find_team()
    if settings.processes not in (1, team.size):
        raise TicketError(f"--processes: {settings.processes} asked for, {team.size} started; see `accelerate launch`.")
    settings = settings.model_copy(update={"processes": team.size})
    subject = Subject.of(base, task)
    if len(subject.targets) < 2:
        raise TicketError(f"task {task.name!r}: choosing and scoring need at least two dev examples, there is one.")
    if not team.leads:
        follow(team, {"models": {base.weight_hash: base}, "tasks": {subject.data_hash: task}})
        raise SystemExit(0)
    try:
        check_folder(settings, subject)
        check_trackers(settings.track)
        if settings.on == "ray":
            require_ray()
        check_device(settings.device)
        with hold(settings.folder):
            before = check_folder(settings, subject)
            settled = settings.model_copy(update={"precision": _settle_precision(settings, before)})
            study = kind(settled, subject)
            if not further:
                record(settled)
                subject.save(settled.folder)
            return conclude(study, run(study, base, task, quiet))
    finally:
        dismiss(team)


def check_folder(settings: StudySettings, subject: Subject) -> StudySettings | None:
    """Return the settings an output folder was made with, None for a new one; raises TicketError if it is another's."""
    folder = settings.folder
    if folder.exists() and not folder.is_dir():
        raise TicketError(f"--out {folder}: that is a file; expected a folder, or a name for a new one.")
    before = recorded(folder)
    if before is not None:
        check_same(settings.model_copy(update={"precision": _settle_precision(settings, before)}), before)
        there = None
        with suppress(TicketError):  # a damaged one is written anew
            there = Subject.load(folder)
        for what, attribute in (("weights", "weight_hash"), ("examples", "data_hash")):
            if there is not None and getattr(there, attribute) != getattr(subject, attribute):
                raise TicketError(f"--out {folder}: the folder's study has other {what}; choose another folder.")
    elif folder.exists() and [path for path in folder.iterdir() if not path.name.startswith(".")]:
        raise TicketError(f"--out {folder}: the folder has other files and no {SETTINGS_FILE}; choose another folder.")
    return before


def _settle_precision(settings: StudySettings, before: StudySettings | None) -> str:
    """Return the precision to use: a folder's recorded one goes on, so that a study is never of two."""
    if settings.precision != "auto":
        return settings.precision
    if before is not None:
        return before.precision
    from supertickets.training.devices import choose_precision, find_device

    return choose_precision("auto", find_device(settings.device))


def run(study: Study, base: BaseModel, task: Task, quiet: bool) -> Record:
    """Run all trials of a study that its folder does not remember, and show how far it is."""
    from rich.console import Console

    from supertickets.lab.progress import Board, ProgressDisplay

    settings = study.settings
    board = Board(study.total(), study.expected_cost(), lambda trial: study.cost(trial.ticket, bool(trial.scoring)))
    console = Console(stderr=True, quiet=quiet)
    display = ProgressDisplay(console, board, settings.folder)
    with Lab(settings.folder, machine(settings, base, task, study.subject.data_hash), display) as lab, display:
        console.print(
            f"{settings.task} on {settings.model}: {len(task.train)} training and {len(task.dev)} dev examples, "
            f"{board.total} trainings in {settings.precision}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

        def then(trial: Trial, outcome: Outcome) -> Iterable[Trial]:
            study.done(trial, outcome)
            more = study.then(trial, outcome)
            board.names, board.total = study.names(), study.total()
            return more

        opening = study.opening()
        board.names, board.total = study.names(), study.total()
        outcomes = lab.run(opening, then, study.keeps)
        return study.record(outcomes, lab.failures, True)


def machine(settings: StudySettings, base: BaseModel, task: Task, data_hash: str) -> Machine:
    """Return where a study's trials run; `data_hash` is the task's fingerprint, which takes reading all of it."""
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
        tasks={data_hash: task},
    )


def trained_again(settings: StudySettings, base: BaseModel, task: Task, trial: Trial) -> Outcome:
    """Return a trial's outcome with its trained weights, running it again if they were dropped."""
    with Lab(settings.folder, machine(settings, base, task, trial.data_hash)) as lab:
        return lab.with_weights(trial)
