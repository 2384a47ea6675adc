"""What a study is: a list of labelled steps, and what is said of the table that they give."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel as Model
from pydantic import ConfigDict

from supertickets.anatomy.cost import BACKWARD, forward_flops
from supertickets.errors import TicketError
from supertickets.lab.steps import Run, Step
from supertickets.lab.trial import TaskTicket, Trial
from supertickets.models import find_model
from supertickets.registry import object_at
from supertickets.storage import write_atomically
from supertickets.studies.config import Overrides, parse, resolve_settings
from supertickets.studies.exchange import FoundTicket, Shipping, TrainedModel
from supertickets.studies.settings import StudySettings
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:
    from supertickets.evidence.findings import Findings
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.models import BaseModel
    from supertickets.reports.sections import Section

S = TypeVar("S", bound=StudySettings)
Loaded = Mapping[TaskSource, Task]
"""The tasks of a study by where they come from, in the order of its table."""
INPUTS = "inputs.json"


class Kept(Model):
    """What a study's folder keeps as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Inputs(Kept):
    """What a study takes from others: tickets, models. It is kept in the study's folder, which needs no other then."""

    def save(self, folder: Path) -> None:
        """Write it into a study's folder."""
        write_atomically(folder / INPUTS, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return what a study's folder keeps, None if it has none. Raises TicketError if the file is damaged."""
        try:
            return cls.model_validate(json.loads((folder / INPUTS).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise TicketError(f"{folder / INPUTS}: the file is damaged ({first}); choose another folder.") from error

    def difference(self, before: Self) -> str:
        """Return what the folder's study has another of, in a word or two; nothing if it is the same."""
        return "" if self == before else "inputs"


@dataclass(frozen=True)
class Request:
    """A study that is asked for, checked and ready to run: complete settings, base model, tasks, and its inputs.

    `more_tasks` are what trials of other studies were trained on, if they have to be trained again; `note` says
    before anything runs what is trained beforehand. `lengths` are the tasks' maximum input lengths, where each has its
    own.
    """

    settings: Any
    base: BaseModel
    tasks: Loaded
    inputs: Inputs | None = None
    more_tasks: Loaded = field(default_factory=dict)
    note: str = ""
    lengths: tuple[int, ...] | None = None


class Study(ABC, Generic[S]):
    """A study: its steps, and what it says of the runs.

    A subclass says what is trained (`steps`) and what comes out of it (`analyse`); the command, the dry run, going on
    after a stop, status, report and the Python call follow from that. Register it with `@study`, and from another
    package with an entry point of the group `supertickets.studies`.

    `inputs` are what it took from other studies; `Inputs` says of which kind they are, None for studies that take none.
    """

    name: ClassVar[str]
    settings: ClassVar[type[StudySettings]]
    Inputs: ClassVar[type[Inputs] | None] = None
    side_by_side: ClassVar[bool] = False
    """Whether `report` may put several studies on one page, as super tickets of several tasks."""
    heading: ClassVar[str] = "{study.name}: {runs.name} on {runs.model}"
    """The title of its page; `tasks` are the names of its tasks, `count` is how many there are."""
    page: ClassVar[str] = ""
    """Where the function is (`module:name`) that returns the sections of its page from findings and runs."""

    def __init__(self, inputs: Any = None) -> None:
        self.inputs = inputs

    @classmethod
    def needs_inputs(cls, settings: Any) -> bool:
        """Return whether a study with these settings has `inputs`."""
        return cls.Inputs is not None

    @abstractmethod
    def steps(self, settings: S, tasks: Sequence[TaskInfo]) -> Iterable[Step]:
        """Yield all steps, each after those that it needs."""

    @abstractmethod
    def analyse(self, runs: Runs, settings: S) -> Findings:
        """Return what the runs show; some may be missing, diverged or failed."""

    def describe(self, settings: S, tasks: Sequence[TaskInfo]) -> str:
        """Return what is trained on what, in words."""
        return f"{', '.join(task.task for task in tasks)} on {settings.called}"

    def outlook(self, settings: S, tasks: Sequence[TaskInfo]) -> str:
        """Return what the study can detect, in a sentence that the dry run prints; nothing by default."""
        return ""

    def standing(self, runs: Runs, settings: S) -> str:
        """Return what is known so far, in a sentence that `status` prints; nothing by default."""
        return ""

    def title(self, runs: Runs) -> str:
        """Return the title of the study's page."""
        names = [task.task for task in runs.tasks]
        return self.heading.format(study=self, runs=runs, tasks=", ".join(names), count=len(names))

    def sections(self, findings: Any, runs: Runs) -> list[Section]:
        """Return the sections of the study's page that say what came out: those of `page`, or tables without it."""
        if self.page:
            sections: list[Section] = object_at(self.page)(findings, runs)
            return sections
        from supertickets.reports.sections import tables_section

        return [tables_section(findings.tables())]

    def ship(self, done: Shipping) -> Mapping[str, Path]:
        """Write what the study leaves to others, and return the places by name; nothing by default."""
        return {}

    def to_ship(self, runs: Sequence[Run], settings: S) -> list[Run]:
        """Return the runs of one of which `ship` needs the trained weights; nothing by default."""
        return []

    def has_shipped(self, folder: Path) -> bool:
        """Whether trained weights in a study's folder are of no more use to it."""
        return True

    def tickets(self, runs: Runs, settings: S, sparsity: float | None = None) -> list[FoundTicket]:
        """Return the tickets that other studies may train on other tasks."""
        raise TicketError(
            f"{settings.folder}: a study of `{self.name}` has no tickets to use; expected `find` or, for "
            "`transfer`, `imp`."
        )

    def sparsities(self, runs: Runs, settings: S) -> list[float]:
        """Return the sparsities at which `tickets` has some; nothing where there is no choice."""
        return []

    def models(self, runs: Runs, settings: S) -> list[TrainedModel]:
        """Return the trained models that other studies may go on from, the dense one first."""
        raise TicketError(
            f"{settings.folder}: a study of `{self.name}` has no models to adapt; expected `find` or `share`."
        )

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for; raises TicketError for what cannot be run. Writes nothing if `dry`."""
        settings, base = cls.resolve(overrides, quiet)
        return Request(settings, base, {settings.source: load_task(settings.source)})

    @classmethod
    def resolve(cls, overrides: Overrides, quiet: bool) -> tuple[Any, BaseModel]:
        """Return complete settings and the base model that they name (see `resolve_settings`)."""
        name = str(overrides.get("model", cls.settings.model_fields["model"].default))
        asked = {"layers": overrides["layers"]} if overrides.get("layers") is not None else {}
        base = find_model(name, parse(cls.settings, asked).layers)
        return resolve_settings(cls.settings, overrides, base, quiet), base


K = TypeVar("K", bound=type[Study[Any]])


def study(name: str, settings: type[StudySettings]) -> Callable[[K], K]:
    """Give a class of studies its name, which is its command, and its settings.

    >>> from supertickets.evidence.findings import Findings
    >>> from supertickets.studies.settings import SourceSettings
    >>> class ProbeSettings(SourceSettings):
    ...     pass
    >>> @study("probe", settings=ProbeSettings)
    ... class Probe(Study[ProbeSettings]):
    ...     def steps(self, settings, tasks):
    ...         for seed in settings.all_seeds:
    ...             yield Step({"kind": "dense", "seed": seed}, lambda done: None)
    ...     def analyse(self, runs, settings):
    ...         return Findings(runs.table)
    >>> Probe.name
    'probe'
    """

    def named(kind: K) -> K:
        kind.name, kind.settings, settings.study = name, settings, name
        return kind

    return named


def trial_of(
    settings: StudySettings,
    tasks: TaskInfo | Sequence[TaskInfo],
    tickets: Ticket | Sequence[Ticket],
    seed: int,
    *,
    recipe: Recipe | None = None,
    dropout: Sequence[float | None] | None = None,
    **more: Any,
) -> Trial:
    """Return the trial that trains tickets of the study's model on tasks, one a task, by the settings' recipe.

    What else a trial has (see `Trial`) is given by name; `dropout` is that of each task's output layer.
    """
    several = [tasks] if not isinstance(tasks, Sequence) else list(tasks)
    kept = [tickets] if isinstance(tickets, Ticket) else list(tickets)
    return Trial(
        model=settings.model,
        layers=settings.layers,
        weight_hash=several[0].weight_hash,
        files_hash=several[0].files_hash,
        tasks=tuple(
            TaskTicket(source=task.source, data_hash=task.data_hash, ticket=ticket, dropout=own)
            for task, ticket, own in zip(several, kept, dropout or [None] * len(several), strict=True)
        ),
        recipe=recipe or settings.recipe,
        seed=seed,
        **more,
    )


def training_flops(task: TaskInfo, ticket: Ticket, epochs: int, scored: bool = False) -> float:
    """Return about how many FLOPs a training takes, with texts of 32 tokens, without evaluations.

    Scoring needs half of a backward pass (by gates; measures by weights need all of it).
    """
    forward = float(forward_flops(task.shape, ticket, task.train, 32))
    return forward * (epochs * (1 + BACKWARD) + (1 + BACKWARD / 2) * scored)


def full_ticket(task: TaskInfo) -> Ticket:
    """Return the ticket that keeps all of a task's model."""
    return Ticket.full(*task.shape.of_tickets)
