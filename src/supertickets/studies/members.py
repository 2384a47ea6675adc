"""The tasks of a study of `share`, with the tickets that are given for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supertickets.errors import TicketError
from supertickets.studies.settings import source_of
from supertickets.studies.share_settings import DEFAULT_TASKS
from supertickets.tasks import Task, TaskSource, load_task, task_name
from supertickets.tickets import Ticket
from supertickets.tickets.folder import TICKET_JSON

if TYPE_CHECKING:
    from supertickets.studies.exchange import FoundTicket
    from supertickets.studies.share_settings import ShareSettings


@dataclass(frozen=True)
class Member:
    """A task of the study, where its examples are, and its ticket if one was given."""

    source: TaskSource
    found: FoundTicket | None = None


def find_members(settings: ShareSettings) -> list[Member]:
    """Return the tasks in the order asked for; raises TicketError where tasks and tickets do not match."""
    from supertickets.studies.inputs import open_tickets

    given: dict[str, FoundTicket] = {}
    for path in settings.tickets:
        for found in open_tickets(path):
            if not isinstance(found.ticket, Ticket):
                raise TicketError(
                    f"--tickets {path}: this is a ticket of single weights; expected one of heads and FFNs."
                )
            if not found.task:
                raise TicketError(f"{path}: {TICKET_JSON} does not say which task the ticket is of.")
            if (other := given.setdefault(task_name(found.task), found)) is not found:
                raise TicketError(
                    f"--tickets: {other.where} and {found.where} are both of task {found.task!r}; name one for each "
                    "task."
                )
    if not given:
        return [Member(source_of(task, settings.data)) for task in settings.tasks or DEFAULT_TASKS]
    asked = {task_name(task): task for task in settings.tasks}
    if without := [task for name, task in asked.items() if name not in given]:
        raise TicketError(
            f"--tasks: task {without[0]!r} has no ticket; name its study with --tickets, or leave --tickets out to "
            "find them all first."
        )
    if others := [found for name, found in given.items() if asked and name not in asked]:
        raise TicketError(f"--tickets {others[0].where}: its task {others[0].task!r} is not among --tasks.")
    chosen = [given[name] for name in asked or given]
    return [Member(found.source or source_of(found.task, settings.data), found) for found in chosen]


def cut_to_size(source: TaskSource, task: Task, settings: ShareSettings) -> tuple[TaskSource, Task]:
    """Return a task with at most as many training examples as asked for."""
    most = settings.max_train_examples
    if most is None or len(task.train) <= most:
        return source, task
    if most < max(2, len(task.classes)):
        raise TicketError(
            f"--max-train-examples {most}: task {task.name!r} has {len(task.labels)} classes; expected at least one "
            "example of each."
        )
    share = source.fraction * most / len(task.train)
    seed = source.fraction_seed if source.fraction < 1 else settings.fraction_seed  # a part of the part it was
    smaller = source.model_copy(update={"fraction": share, "fraction_seed": seed})
    return smaller, load_task(smaller)
