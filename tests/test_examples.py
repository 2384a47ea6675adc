"""The examples in docstrings do what they show."""

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import supertickets

SOURCE = Path(supertickets.__file__).parent


def with_examples() -> list[str]:
    """The modules that have examples."""
    files = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    names = [".".join(("supertickets", *path.relative_to(SOURCE).with_suffix("").parts)) for path in files]
    return [name.removesuffix(".__init__") for name in names]


def test_examples_do_what_they_show() -> None:
    ran: dict[str, int] = {}
    for name in with_examples():
        failed, ran[name] = doctest.testmod(importlib.import_module(name))
        assert not failed, name
    parts = ("evidence.gains", "evidence.findings", "lab.steps", "registry", "studies.study")
    assert all(ran[f"supertickets.{part}"] > 1 for part in parts), ran


def test_an_example_that_is_wrong_is_told() -> None:
    wrong = ModuleType("wrong", "It counts.\n\n>>> 1 + 1\n3\n")
    assert doctest.testmod(wrong, report=False, verbose=False) == (1, 1)
