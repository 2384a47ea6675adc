"""Flags from settings: one for each field, with its help, in panels."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

import click
from pydantic import BaseModel

from supertickets.studies.config import flag, help_default
from supertickets.studies.settings import Running, StudySettings
from supertickets.tasks import TaskSource
from supertickets.training.recipe import Recipe

_MAIN = (
    "model", "layers", "task", "tasks", "data", "train_file", "dev_file", "tickets", "sources", "levels", "sparsities",
    "fractions", "seeds", "preset", "out",
)  # fmt: skip
"""The settings that are shown first."""
_GROUPS: dict[str, type[BaseModel]] = {"Training": Recipe, "Data": TaskSource, "Running": Running}
_ORDER = ("Main settings", "Search", "Training", "Data", "Running", "Other")


class SettingsCommand(click.Command):
    """A command whose options are shown in panels."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, the main ones first."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panels.setdefault(getattr(parameter, "panel", "Other"), []).append(record)
        for panel in _ORDER:
            if panel in panels:
                with formatter.section(panel):
                    formatter.write_dl(panels[panel])


class SettingOption(click.Option):
    """A flag for a setting; `panel` is where its help stands."""

    def __init__(self, *args: Any, panel: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.panel = panel


def options(kind: type[StudySettings]) -> Iterable[click.Option]:
    """Return a flag for every field of a study's settings; what is typed is read where YAML is."""
    named = sorted(kind.model_fields, key=lambda name: _MAIN.index(name) if name in _MAIN else len(_MAIN))
    for name in named:
        field = kind.model_fields[name]
        more: dict[str, Any] = {"help": _help(kind, name), "panel": _panel(name), "default": None}
        if field.annotation is bool:
            yield SettingOption([f"{flag(name)}/--no-{flag(name)[2:]}"], **more)
        elif _is_list(field.annotation):
            yield SettingOption([flag(name)], multiple=True, metavar="A,B,...", **more)
        else:
            yield SettingOption([flag(name)], metavar=_metavar(field.annotation), **more)


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return those of a command's values that were typed; lists may be repeated flags, or have commas."""
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _panel(name: str) -> str:
    if name in _MAIN:
        return "Main settings"
    return next((panel for panel, group in _GROUPS.items() if name in group.model_fields), "Search")


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(part) is tuple for part in (annotation, *typing.get_args(annotation)))


def _metavar(annotation: Any) -> str:
    """Return what stands for a flag's value in its help."""
    parts = [part for part in typing.get_args(annotation) or [annotation] if part is not type(None)]
    if len(parts) > 1:
        return "TEXT"
    return "PATH" if "Path" in str(parts[0]) else {int: "INTEGER", float: "FLOAT"}.get(parts[0], "TEXT")


def _help(kind: type[StudySettings], name: str) -> str:
    """Return a flag's help: what it is, which values it has, what it is by default."""
    field, default = kind.model_fields[name], help_default(kind, name)
    values = _values(field.annotation)
    named = all(value in (field.description or "") for value in values)
    shown = "" if named else f" ({' | '.join(values)})"
    told = not default or "default: " in (field.description or "")
    return f"{field.description}{shown}" + ("" if told else f" [default: {default}]")


def _values(annotation: Any) -> list[str]:
    """Return the texts that a setting may be, also where it may be something else, or a list of them."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return [value for value in parts if isinstance(value, str)]
    return [value for part in parts for value in _values(part)]
