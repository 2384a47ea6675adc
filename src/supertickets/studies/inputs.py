"""Other studies as inputs: the one way to open a finished study, or a ticket folder, that somebody names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from supertickets.anatomy.cost import unlike
from supertickets.errors import TicketError
from supertickets.evidence.runs import Runs, TaskInfo, load_tasks
from supertickets.lab.lab import replay
from supertickets.models import BaseModel
from supertickets.storage import user_path
from supertickets.studies import STUDIES
from supertickets.studies.config import SETTINGS_FILE, named_by, settings_in
from supertickets.studies.exchange import FoundTicket, TrainedModel, ticket_in
from supertickets.studies.run import runs_of
from supertickets.studies.settings import StudySettings
from supertickets.studies.study import Study
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, SUPER_TICKET, TICKET_JSON
from supertickets.tickets.hub import ticket_folder
from supertickets.tickets.weights import WeightTicket


@dataclass(frozen=True)
class OpenStudy:
    """A study as its folder has it; `tasks` are empty if it stopped before it began."""

    study: Study[Any]
    settings: StudySettings
    tasks: tuple[TaskInfo, ...]

    @property
    def name(self) -> str:
        """The name of its kind."""
        return self.study.name

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.settings.folder

    @property
    def begun(self) -> bool:
        """Whether its steps are known."""
        return bool(self.tasks) and (self.study.inputs is not None or not self.study.needs_inputs(self.settings))

    def replay(self) -> Runs:
        """Return what the folder remembers; raises TicketError if the study has not begun."""
        if not self.begun:
            raise TicketError(f"{self.folder}: the study has not begun; see `supertickets status {self.folder}`.")
        steps = self.study.steps(self.settings, self.tasks)
        return runs_of(self.study, self.settings, self.tasks, replay(steps, self.folder))

    def tickets(self, sparsity: float | None = None) -> list[FoundTicket]:
        """Return the tickets that it has for others."""
        return self.study.tickets(self.replay(), self.settings, sparsity)

    def sparsities(self) -> list[float]:
        """Return the sparsities at which it has tickets; nothing where there is no choice."""
        return self.study.sparsities(self.replay(), self.settings)

    def models(self) -> list[TrainedModel]:
        """Return the trained models that it has for others."""
        return self.study.models(self.replay(), self.settings)


def open_study(folder: Path | str) -> OpenStudy:
    """Return the study in a folder; raises TicketError if there is none."""
    folder = user_path(folder)
    settings = settings_in(folder)
    kind = STUDIES[settings.study]
    inputs = kind.Inputs.load(folder) if kind.Inputs is not None and kind.needs_inputs(settings) else None
    return OpenStudy(kind(inputs), settings, load_tasks(folder))


_SHIPPED = (SUPER_TICKET, "ticket", MODEL_FOLDER, "models/*")
"""Where studies ship: `find` a super ticket or a base model, `imp` a ticket, `share` a ticket of each task."""


def shipped_in(folder: Path, which: Literal["ticket", "ticket or model"] = "ticket") -> Path:
    """Return the folder of the ticket, or of the ticket or model, that a study has shipped.

    Raises TicketError if there is none, or one for each of several tasks.
    """
    found = [place for name in _SHIPPED for place in sorted(folder.glob(name)) if place.is_dir()]
    if which == "ticket":
        found = [place for place in found if (place / TICKET_JSON).is_file()]
    if not found:
        raise TicketError(f"{folder}: this study has shipped no {which}; see `supertickets status {folder}`.")
    if len(found) > 1:
        raise TicketError(f"{folder}: it has several; name one of {', '.join(map(str, found))}.")
    return found[0]


def open_tickets(path: Path, sparsity: float | None = None) -> list[FoundTicket]:
    """Return the tickets of a finished study, of a ticket folder or of a repository on the hub, which --tickets names.

    Of a study of single weights they are those of one sparsity, one for each way of rewinding. Raises TicketError if
    there is neither such a folder nor such a repository, or if it has no ticket.
    """
    with _naming(path) as (folder, is_study):
        return open_study(path).tickets(sparsity) if is_study else [replace(ticket_in(folder), where=path)]


def open_sparsities(path: Path) -> list[float]:
    """Return the sparsities at which what --tickets names has tickets of weights; nothing for other tickets."""
    with _naming(path) as (folder, is_study):
        if is_study:
            return open_study(path).sparsities()
        ticket = ticket_in(folder).ticket
        return [ticket.sparsity] if isinstance(ticket, WeightTicket) else []


@contextmanager
def _naming(path: Path) -> Iterator[tuple[Path, bool]]:
    """Give the folder that --tickets names, and whether it is a study's; TicketErrors raised meanwhile say so."""
    with named_by("--tickets"):
        folder = ticket_folder(path)
        yield folder, (folder / SETTINGS_FILE).is_file()


def check_base(found: FoundTicket, base: BaseModel) -> None:
    """Raise TicketError if a ticket is of other weights than a base model's, or of another shape."""
    ticket = found.ticket
    if isinstance(ticket, Ticket) and (differs := unlike(base.shape, ticket)) is not None:
        of, has = differs
    elif found.weight_hash != base.weight_hash:
        of, has = (f"weights {weight_hash[:12]}..." for weight_hash in (found.weight_hash, base.weight_hash))
    else:
        return
    layers = "" if found.layers is None else f" --layers {found.layers}"
    raise TicketError(
        f"--tickets {found.where}: the ticket was drawn from {found.model!r} with {of}, but model {base.called} has "
        f"{has}; use tickets of that model, or --model {found.model}{layers}."
    )
