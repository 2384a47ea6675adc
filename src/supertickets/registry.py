"""Named things that other packages may add to: studies, families, measures, tasks, runners, exporters.

A package adds to one in its pyproject.toml:

    [project.entry-points."supertickets.studies"]
    bisect = "my_package.bisect:Bisect"
"""

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from supertickets.errors import TicketError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What there is of one kind, by name: our own, other packages' entry points, and what a script registers.

    `ours` maps a name to the place (`module:attribute`) that is imported when the name is looked up, so that listing
    names is cheap; `kinds` is the plural of `kind`, and the entry points are those of the group `supertickets.KINDS`.

    >>> colours = Registry("colour", "colours", {"red": "string:digits"})
    >>> colours["red"]
    '0123456789'
    >>> colours.register("blue", 7)
    >>> sorted(colours)
    ['blue', 'red']
    """

    def __init__(self, kind: str, kinds: str, ours: Mapping[str, str]) -> None:
        self.kind, self.group = kind, f"supertickets.{kinds}"
        self._ours = dict(ours)
        self._registered: dict[str, T] = {}

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def register(self, name: str, value: T) -> None:
        """Add something under a name. Raises TicketError if the name is taken."""
        if name in self:
            raise TicketError(f"{self.kind} {name!r} is registered already; choose another name.")
        self._registered[name] = value

    def package_of(self, name: str) -> str | None:
        """Return the package that adds a name, None if it is ours or a script's."""
        points = self._plugins.get(name)
        return None if points is None else _package(points[0])

    def __getitem__(self, name: str) -> T:
        """Return what has a name.

        Raises UnknownNameError for a name that nothing has, and TicketError if two packages add it or if the package
        that adds it cannot be imported.
        """
        if name not in self:
            raise unknown_name(self.kind, name, self)
        if name in self._registered:
            return self._registered[name]
        points = self._plugins.get(name, [])
        packages = [*(["supertickets"] if name in self._ours else []), *sorted(map(_package, points))]
        if len(packages) > 1:
            raise TicketError(
                f"{self.kind} {name!r} is registered by {' and by '.join(packages)}; uninstall all but one of them."
            )
        if points:
            try:
                value = points[0].load()
            except Exception as error:  # whatever the package raises
                raise TicketError(
                    f"{self.kind} {name!r}: package {packages[0]} registers it and cannot be imported "
                    f"({type(error).__name__}: {error})."
                ) from error
        else:
            value = object_at(self._ours[name])
        self._registered[name] = value
        return self._registered[name]

    def checked(self, name: str) -> str:
        """Return a name that something has, as a pydantic validator does; else the error is as a Literal's."""
        from pydantic_core import PydanticKnownError  # most that look names up have no settings to check

        if name not in self:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, self))})
        return name

    def __contains__(self, name: object) -> bool:
        return name in self._ours or name in self._registered or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._ours, *self._registered, *self._plugins]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def object_at(place: str) -> Any:
    """Return what is at a place, which is a `module:attribute`."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _package(point: EntryPoint) -> str:
    distribution: Any = point.dist
    return distribution.name if distribution is not None else point.value
