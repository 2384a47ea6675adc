"""What some tests need and a machine may lack: there they skip, but not where every test is asked for."""

import importlib
import os
from typing import Any, NoReturn

import pytest


def lack(reason: str) -> NoReturn:
    """Skip, or fail where SUPERTICKETS_TEST_ALL=1 asks for every test, as `make check` does."""
    if os.environ.get("SUPERTICKETS_TEST_ALL") == "1":
        pytest.fail(f"{reason}; SUPERTICKETS_TEST_ALL=1 asks for every test", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def optional_import(name: str) -> Any:
    """Return an optional dependency, or see `lack`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        lack(f"{name}, an optional dependency, is not installed")
