"""What a machine lacks is an error where every test is asked for; tests that take long are found."""

import pytest

from helpers import medium
from helpers.optional import lack, optional_import

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(("value", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_missing_is_an_error_where_every_test_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("SUPERTICKETS_TEST_ALL", value)
    with pytest.raises(outcome, match="no Chromium"):
        lack("no Chromium")
    with pytest.raises(outcome, match="no_such_package, an optional dependency, is not installed"):
        optional_import("no_such_package")
    assert optional_import("json").loads("1") == 1


SOME_TESTS = """
import time, pytest

@pytest.fixture(scope="module")
def built():
    time.sleep(0.3)

def test_user_of_what_is_built(built): pass
def test_another_user(built): pass
def test_quick(): pass
def test_first_of_the_module(built): pass
@pytest.mark.parametrize("seconds", [0, 0.6])
def test_long_on_average(seconds): time.sleep(seconds)
"""
LONG = ["another_user", "first_of_the_module", "long_on_average", "user_of_what_is_built"]


def test_what_takes_long_is_listed_and_left_out(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medium, "LIMIT", 0.05)
    pytester.makeini("[pytest]\nmarkers = medium")
    path = pytester.mkdir("tests") / "test_some.py"
    path.write_text(SOME_TESTS, encoding="utf-8")
    arguments = ("-p", "helpers.medium", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    quick = (*arguments, "-m", "not medium")

    result = pytester.runpytest_inprocess(*quick)
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["tests/test_some.py::test_long_on_average takes long: `make medium` lists it"])
    result.stdout.no_fnmatch_line("*test_quick takes long*")

    pytester.runpytest_inprocess(*arguments, "--write-medium").assert_outcomes(passed=6)
    listed = (pytester.path / "tests" / "medium.txt").read_text(encoding="utf-8").splitlines()
    assert listed[1:] == [f"tests/test_some.py::test_{name}" for name in LONG]

    result = pytester.runpytest_inprocess(*quick)
    result.assert_outcomes(passed=1, deselected=5)
    result.stdout.no_fnmatch_line("*takes long*")
