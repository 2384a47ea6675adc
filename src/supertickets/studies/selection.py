"""Whether a study can choose levels on a sample of its dev set, before anything is trained."""

from __future__ import annotations

from dataclasses import replace

from supertickets.errors import TicketError
from supertickets.studies.config import Overrides, flag
from supertickets.studies.study import Request


def settle_selection(request: Request, asked: Overrides) -> Request:
    """Return a request whose levels can be chosen as it says: on the whole dev set where a sample is too small.

    Raises TicketError if the sample was asked for, and not left to the preset.
    """
    from supertickets.evidence.sampling import nearest_share, why_not_sampled

    settings, (task,) = request.settings, request.tasks.values()
    if settings.selection == "whole" or not settings.chooses:
        return request
    share, targets = settings.selection_share, task.dev.targets
    if not (reason := why_not_sampled(task.metrics, targets, len(targets), share)):
        return request
    if typed := {"selection", "selection_share"} & (asked.keys() - asked.inherited):
        nearest = nearest_share(task.metrics, targets, share)
        other = "" if nearest is None else f"--selection-share {nearest:g} or "
        raise TicketError(f"{flag(min(typed))}: {reason}; expected {other}--selection whole.")
    note = f"Levels are chosen on the whole dev set, as with --selection whole, since {reason}."
    whole = settings.model_copy(update={"selection": "whole"})
    return replace(request, settings=whole, note=" ".join(filter(None, [request.note, note])))
