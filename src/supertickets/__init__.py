"""supertickets: find, train, share, transfer, explain and ship lottery tickets in pre-trained transformers.

Importing this package lets stock transformers load cut models; it imports neither torch nor transformers itself.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supertickets.errors import StudyError, TicketError
    from supertickets.export.apply import apply_ticket
    from supertickets.export.shared import load_shared
    from supertickets.export.unshare import unshare
    from supertickets.lab.steps import Step
    from supertickets.studies.design import design
    from supertickets.studies.exporting import export_model
    from supertickets.studies.measure import measure
    from supertickets.studies.plan import plan_study
    from supertickets.studies.push import push
    from supertickets.studies.report import report
    from supertickets.studies.run import Result, run_study
    from supertickets.studies.study import Study, study
    from supertickets.studies.verify import verify
    from supertickets.surgery.cut import cut
    from supertickets.tickets import Ticket
    from supertickets.tickets.folder import load_ticket, load_weight_ticket
    from supertickets.tickets.weights import WeightTicket

    find: Callable[..., Result]
    share: Callable[..., Result]
    adapt: Callable[..., Result]
    imp: Callable[..., Result]
    transfer: Callable[..., Result]
    compare: Callable[..., Result]
    __version__: str

_HOME = {
    "Result": "studies.run",
    "Step": "lab.steps",
    "Study": "studies.study",
    "StudyError": "errors",
    "Ticket": "tickets",
    "TicketError": "errors",
    "WeightTicket": "tickets.weights",
    "apply_ticket": "export.apply",
    "cut": "surgery.cut",
    "design": "studies.design",
    "export_model": "studies.exporting",
    "load_shared": "export.shared",
    "load_ticket": "tickets.folder",
    "load_weight_ticket": "tickets.folder",
    "measure": "studies.measure",
    "plan_study": "studies.plan",
    "push": "studies.push",
    "report": "studies.report",
    "run_study": "studies.run",
    "study": "studies.study",
    "unshare": "export.unshare",
    "verify": "studies.verify",
}

__all__ = [
    "Result",
    "Step",
    "Study",
    "StudyError",
    "Ticket",
    "TicketError",
    "WeightTicket",
    "adapt",
    "apply_ticket",
    "compare",
    "cut",
    "design",
    "export_model",
    "find",
    "imp",
    "load_shared",
    "load_ticket",
    "load_weight_ticket",
    "measure",
    "plan_study",
    "push",
    "report",
    "run_study",
    "share",
    "study",
    "transfer",
    "unshare",
    "verify",
]


class _AfterTransformers:
    """An import hook: registers how cut models load as soon as transformers has been imported, and not before.

    A library for this (wrapt) costs a tenth of a second at every start of the command line.
    """

    module, register = "transformers.modeling_utils", "supertickets.surgery.reload"

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the module that stock models are loaded by, and have the registration follow its import."""
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                importlib.import_module(self.register)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if _AfterTransformers.module in sys.modules:
    importlib.import_module(_AfterTransformers.register)
else:
    sys.meta_path.insert(0, _AfterTransformers())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "__version__":  # pyproject.toml has it, and the installed package what was in that
        return importlib.import_module("importlib.metadata").version("supertickets")
    if name in _HOME:
        return getattr(importlib.import_module(f"supertickets.{_HOME[name]}"), name)
    # A study, ours or another package's, is called by its name: `supertickets.find(task="rte")`.
    studies = importlib.import_module("supertickets.studies").STUDIES
    if not name.startswith("_") and name in studies:
        run: Any = partial(importlib.import_module("supertickets.studies.run").run_study, name)
        run.__doc__ = studies[name].__doc__
        return run
    raise AttributeError(f"module 'supertickets' has no attribute {name!r}")
