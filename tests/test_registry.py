from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from supertickets.errors import TicketError, UnknownNameError
from supertickets.registry import Registry


def _with_plugins(*points: tuple[str, str]) -> Registry:
    found = Registry("colour", "colours", {"red": "string:digits", "green": "string:hexdigits"})
    plugins: dict[str, list[EntryPoint]] = {}
    for name, value in points:
        plugins.setdefault(name, []).append(EntryPoint(name, value, found.group))
    vars(found)["_plugins"] = plugins
    return found


def test_ours_are_imported_when_they_are_looked_up() -> None:
    found = Registry("colour", "colours", {"red": "no_such_module:thing", "green": "string:digits"})
    assert list(found) == ["red", "green"]
    assert len(found) == 2
    assert found["green"] == "0123456789"
    with pytest.raises(ModuleNotFoundError):
        found["red"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown colour 'gren': did you mean 'green'"):
        _with_plugins()["gren"]


def test_a_plugin_is_found_by_its_name() -> None:
    found = _with_plugins(("blue", "string:octdigits"))
    assert found["blue"] == "01234567"
    assert found.package_of("blue") == "string:octdigits"
    assert found.package_of("red") is None


def test_a_plugin_that_cannot_be_imported_is_named_and_the_rest_works() -> None:
    found = _with_plugins(("blue", "no_such_package.module:thing"))
    with pytest.raises(TicketError, match=r"'blue': package no_such_package.module:thing .* \(ModuleNotFoundError: No"):
        found["blue"]
    assert found["green"]


@pytest.mark.parametrize(
    "points", [[("blue", "string:digits"), ("blue", "string:octdigits")], [("red", "string:octdigits")]]
)
def test_two_of_one_name_are_refused_and_the_rest_works(points: list[tuple[str, str]]) -> None:
    found = _with_plugins(*points)
    with pytest.raises(TicketError, match=r"is registered by .* and by string:octdigits; uninstall all but one"):
        found[points[0][0]]
    assert found["green"]


def test_a_script_registers_what_it_has() -> None:
    found = _with_plugins()
    found.register("mine", Path)
    assert found["mine"] is Path
    with pytest.raises(TicketError, match="'red' is registered already"):
        found.register("red", Path)
