"""Which tests are `medium`: those that `make quick` leaves out, listed in tests/medium.txt, which `make medium` writes.

A function is listed if its cases take more than LIMIT seconds on average. What tests share (a fixture of a module or of
the session) counts for each that uses it, since whichever runs first pays for it.
"""

import time
from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest

LIMIT = 0.2
HEAD = "# Tests of more than {:g} s a case, which `make quick` leaves out. Written by `make medium`.\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-medium", action="store_true", help="write what took long into tests/medium.txt")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Durations(config), "durations")


class Durations:
    """Marks what the list names, measures what runs, and writes the list anew or says what it lacks."""

    def __init__(self, config: pytest.Config) -> None:
        self._list = config.rootpath / "tests" / "medium.txt"
        self._writes: bool = config.getoption("--write-medium")
        self._leaves_out = "not medium" in config.getoption("-m")
        self._is_worker = hasattr(config, "workerinput")  # of pytest-xdist
        self._shared: dict[Any, float] = {}
        self._built = 0.0
        self._seconds: dict[str, float] = defaultdict(float)

    def _listed(self) -> set[str]:
        lines = self._list.read_text(encoding="utf-8").splitlines() if self._list.exists() else []
        return {line for line in lines if not line.startswith("#")}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        listed = self._listed()
        for item in items:
            if _function(item.nodeid) in listed:
                item.add_marker("medium")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self._shared[fixturedef] = time.perf_counter() - began
                self._built += self._shared[fixturedef]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: Any
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        seconds = report.duration
        if call.when == "setup":
            fixtures = item._fixtureinfo.name2fixturedefs if hasattr(item, "_fixtureinfo") else {}
            used = {one[-1] for one in fixtures.values()}
            seconds += sum(self._shared.get(one, 0.0) for one in used) - self._built
            self._built = 0.0
        report.user_properties.append(("seconds", seconds))  # the way from a worker
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += dict(report.user_properties).get("seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._is_worker:
            return
        if self._writes:
            found = "".join(f"{one}\n" for one in self._longer_than(LIMIT))
            self._list.write_text(HEAD.format(LIMIT) + found, encoding="utf-8")
        elif self._leaves_out:
            for one in self._longer_than(4 * LIMIT):  # no two machines are equally fast, and this one may be busy
                terminalreporter.write_line(f"{one} takes long: `make medium` lists it")

    def _longer_than(self, limit: float) -> list[str]:
        cases: dict[str, list[float]] = defaultdict(list)
        for case, seconds in self._seconds.items():
            cases[_function(case)].append(seconds)
        return sorted(name for name, seconds in cases.items() if sum(seconds) > limit * len(seconds))


def _function(case: str) -> str:
    return case.split("[")[0]
