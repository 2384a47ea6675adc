"""Errors users meet. One sentence each: what was wrong, where, what was expected, the nearest valid choice."""

import difflib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

EXTRAS = {
    "report": ("pandas", "plotly", "scipy", "tabulate"),
    "data": ("datasets", "pyarrow"),
    "ray": ("ray",),
    "trackers": ("accelerate",),
    "slurm": ("submitit",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
"""The extras of pyproject.toml that parts of the package need, and the packages that each of them installs."""


class TicketError(ValueError):
    """Wrong usage or wrong input; the message says what was expected. Exit code 2."""


class UnknownNameError(TicketError, KeyError):
    """A name that is not in the list it is looked up in; the message has the nearest one that is."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr


class StudyError(RuntimeError):
    """A valid command failed while it ran. Exit code 1."""


class NoSpaceError(StudyError):
    """The disk is full: the study stops, and resumes when there is space."""


class DivergedError(StudyError):
    """A training's loss became NaN or infinite; it ends that trial and no other."""


class StoppedError(StudyError):
    """A training was asked to stop and made a checkpoint; the message says by what."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for `name`, which is no `what`, with the nearest known name first and all of them after."""
    names = sorted(known)
    return UnknownNameError(f"unknown {what} {name!r}: {nearest(name, names)}known are {', '.join(names)}.")


def unknown_value(where: str, value: object, known: Sequence[str]) -> UnknownNameError:
    """Return the error for a setting's value that is not in its list; `where` is the setting's flag."""
    asked = nearest(value, known)
    expected = f"{'E' if asked else 'e'}xpected one of {', '.join(known)}"
    return UnknownNameError(f"{where}: unknown value {value!r}; {asked}{expected}.")


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the question whether the known name nearest to `name` was meant, with a space after it, or nothing."""
    by_lower = {known_name.lower(): known_name for known_name in known}
    near = [by_lower[low] for low in difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)]
    return f"did you mean {near[0]!r}? " if near else ""


def named_twice(names: Sequence[str]) -> str | None:
    """Return the first of some names that is there more than once."""
    return next((name for name in names if names.count(name) > 1), None)


def needs(extra: str, what: str) -> None:
    """Raise TicketError, which names the extra, unless all packages of an extra are installed; none is imported.

    >>> needs("report", "A report")
    """
    if missing := [name for name in EXTRAS[extra] if find_spec(name) is None]:
        one = len(missing) == 1
        raise TicketError(
            f"{what} needs the package{'' if one else 's'} {', '.join(missing)}, which {'is' if one else 'are'} not "
            f'installed: `pip install "supertickets[{extra}]"`.'
        )
