"""Packages that add to what there is, found in this process as they are in one that pip has installed them for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supertickets.anatomy import FAMILIES
from supertickets.export import EXPORTERS
from supertickets.lab.machine import RUNNERS
from supertickets.registry import Registry
from supertickets.studies import STUDIES
from supertickets.tasks import TASKS
from supertickets.tickets.scoring import MEASURES

REGISTRIES: tuple[Registry[Any], ...] = (STUDIES, TASKS, MEASURES, FAMILIES, RUNNERS, EXPORTERS)


@contextmanager
def packages_in(site: Path) -> Iterator[None]:
    """Find the packages in a folder; afterwards they are unknown again, and their modules are not loaded."""
    before = [list(registry) for registry in REGISTRIES]
    modules = {path.stem for path in site.iterdir()}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(site)
            for registry in REGISTRIES:
                patch.setattr(registry, "_registered", dict(registry._registered))
                vars(registry).pop("_plugins", None)
            yield
    finally:
        for registry in REGISTRIES:
            vars(registry).pop("_plugins", None)
        for name in [name for name in sys.modules if name.split(".")[0] in modules]:
            del sys.modules[name]
    assert [list(registry) for registry in REGISTRIES] == before
