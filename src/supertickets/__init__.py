"""supertickets: find, train, share, transfer, explain and ship lottery tickets in pre-trained transformers.

Importing this package lets stock transformers load cut models; it imports neither torch nor transformers itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from supertickets.errors import StudyError, TicketError
    from supertickets.export.shared import load_shared
    from supertickets.export.ship import apply_ticket
    from supertickets.studies.adapt import adapt
    from supertickets.studies.compare import compare
    from supertickets.studies.find import FindResult, find
    from supertickets.studies.report import report
    from supertickets.studies.sensitivity import sensitivity
    from supertickets.studies.share import share
    from supertickets.surgery.cut import cut
    from supertickets.tickets import Ticket
    from supertickets.tickets.folder import load_ticket

__all__ = [
    "FindResult",
    "StudyError",
    "Ticket",
    "TicketError",
    "adapt",
    "apply_ticket",
    "compare",
    "cut",
    "find",
    "load_shared",
    "load_ticket",
    "report",
    "sensitivity",
    "share",
]

_HOME = {
    "FindResult": "studies.find",
    "StudyError": "errors",
    "Ticket": "tickets",
    "TicketError": "errors",
    "adapt": "studies.adapt",
    "apply_ticket": "export.ship",
    "compare": "studies.compare",
    "cut": "surgery.cut",
    "find": "studies.find",
    "load_shared": "export.shared",
    "load_ticket": "tickets.folder",
    "report": "studies.report",
    "sensitivity": "studies.sensitivity",
    "share": "studies.share",
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
