"""supertickets: find, train, share, transfer, explain and ship lottery tickets in pre-trained transformers.

Importing this package lets stock transformers load cut models; it imports neither torch nor transformers itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from supertickets.errors import StudyError, TicketError
    from supertickets.export.apply import apply_ticket
    from supertickets.export.shared import load_shared
    from supertickets.studies.adapt import adapt
    from supertickets.studies.compare import compare
    from supertickets.studies.find import FindResult, find
    from supertickets.studies.imp import imp
    from supertickets.studies.pretrain import pretrain
    from supertickets.studies.report import report
    from supertickets.studies.sensitivity import sensitivity
    from supertickets.studies.share import share
    from supertickets.studies.transfer import transfer
    from supertickets.surgery.cut import cut
    from supertickets.tickets import Ticket
    from supertickets.tickets.folder import load_ticket, load_weight_ticket
    from supertickets.tickets.weights import WeightTicket

__all__ = [
    "FindResult",
    "StudyError",
    "Ticket",
    "TicketError",
    "WeightTicket",
    "adapt",
    "apply_ticket",
    "compare",
    "cut",
    "find",
    "imp",
    "load_shared",
    "load_ticket",
    "load_weight_ticket",
    "pretrain",
    "report",
    "sensitivity",
    "share",
    "transfer",
]

_HOME = {
    "FindResult": "studies.find",
    "StudyError": "errors",
    "Ticket": "tickets",
    "TicketError": "errors",
    "adapt": "studies.adapt",
    "apply_ticket": "export.apply",
    "compare": "studies.compare",
    "cut": "surgery.cut",
    "find": "studies.find",
    "imp": "studies.imp",
    "load_shared": "export.shared",
    "load_ticket": "tickets.folder",
    "load_weight_ticket": "tickets.folder",
    "pretrain": "studies.pretrain",
    "report": "studies.report",
    "sensitivity": "studies.sensitivity",
    "share": "studies.share",
    "transfer": "studies.transfer",
    "WeightTicket": "tickets.weights",
}


@wrapt.when_imported("transformers.modeling_utils")
def _teach_transformers(module: Any) -> None:
    """Register how cut models load, as soon as transformers is there (now, if it is already)."""
    importlib.import_module("supertickets.surgery.reload")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"supertickets.{_HOME[name]}"), name)
    raise AttributeError(f"module 'supertickets' has no attribute {name!r}")
