"""Settings on their way: typed or written values into settings, settings into a study's folder and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from supertickets.anatomy import Shape
from supertickets.errors import TicketError, unknown_name
from supertickets.models import BaseModel as PretrainedModel
from supertickets.storage import user_path, write_atomically
from supertickets.studies.presets import DEFAULT_SHAPE, Preset
from supertickets.studies.settings import (
    AdaptSettings,
    CompareSettings,
    FindSettings,
    ShareSettings,
    StudySettings,
    percentage,
)
from supertickets.studies.settings_weights import ImpSettings, PretrainSettings, TransferSettings
from supertickets.tasks import TaskSource

SETTINGS_FILE = "settings.yaml"
SETTINGS_SCHEMA = 4
# Fields that cannot change a result.
_NO_EFFECT = {
    "out", "workers", "device", "on", "address", "cpus", "gpus", "keep", "track", "checkpoint_minutes",
    "rate", "amount_of",  # they only spell sparsities
}  # fmt: skip
EXAMPLES = frozenset(TaskSource.model_fields)
"""Fields that say where examples are found; the examples are compared by their hash, as the weights of `model` are."""
S = TypeVar("S", bound=StudySettings)
_KINDS = (FindSettings, CompareSettings, ShareSettings, AdaptSettings, ImpSettings, TransferSettings, PretrainSettings)
STUDIES: dict[str, type[StudySettings]] = {kind.study: kind for kind in _KINDS}
"""The settings of each study, by its name."""
FLAGS = {"runs": "from"}
"""What settings are called on the command line and in YAML, where it is not their name."""


def flag(name: str) -> str:
    """Return a setting's flag."""
    return "--" + FLAGS.get(name, name).replace("_", "-")


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the settings' own names, from those that people use."""
    names = {shown: name for name, shown in FLAGS.items()}
    return {names.get(name, name): value for name, value in values.items()}


def _shown(kind: type[StudySettings]) -> list[str]:
    """Return the names of a study's settings as people use them."""
    return [FLAGS.get(name, name) for name in kind.model_fields]


def parse(kind: type[S], values: Mapping[str, Any]) -> S:
    """Return settings from names and values; raises TicketError in one sentence that names the setting."""
    for name in values:
        if name not in kind.model_fields:
            raise unknown_name(
                "setting", FLAGS.get(name, name), [FLAGS.get(known, known) for known in kind.model_fields]
            )
    try:
        return kind(**{name: read_value(kind, name, value) for name, value in values.items()})
    except ValidationError as error:
        raise TicketError(_sentence(error)) from error


def read_value(kind: type[StudySettings], name: str, value: Any) -> Any:
    """Return a setting's value from a flag's text, from YAML or from Python: all three are read here and mean the same.

    A list may be a text with commas, or one value alone; `none` is an empty one, unless the list has such a value. A
    share may be written as a percentage. Raises TicketError for a truth value that is none.
    """
    annotation = kind.model_fields[name].annotation
    if isinstance(value, bool) and annotation is not bool:
        raise TicketError(
            f"{flag(name)}: expected no truth value, got {value}; YAML reads yes, no, on and off so: put it in quotes."
        )
    shape = str(annotation)
    one = percentage if "float" in shape else _as_text if "str" in shape or "Path" in shape else lambda value: value
    if "tuple" not in shape:
        return one(value)
    if isinstance(value, str):
        value = [part for text in value.split(",") if (part := text.strip())]
    elif isinstance(value, int | float | Path):
        value = [value]
    if not isinstance(value, tuple | list):
        return value
    empty = [*value] == ["none"] and name not in _WITH_NONE
    return tuple(map(one, () if empty else value)) or (None if "None" in shape else ())


_WITH_NONE = {"rewind"}
"""Lists that have `none` among their values."""


def _as_text(value: Any) -> Any:
    """Return a whole number as text, where YAML read one and a flag would be text: a column may be named 1."""
    return str(value) if type(value) is int else value


_PLAIN = {"tuple_type": "expected a list", "path_type": "expected the name of a file or folder"}
"""What the settings' library says less plainly."""


def _sentence(error: ValidationError) -> str:
    """Say what is wrong with the first wrong setting, and the nearest value where there is a list of them."""
    first = error.errors()[0]
    if not first["loc"]:  # settings that do not go together: the message names them
        return str(first["msg"]).removeprefix("Value error, ").rstrip(".") + "."
    name = str(first["loc"][0])
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        return str(unknown_name(name.removesuffix("s"), first["input"], known))
    if first["type"] in _PLAIN:
        return f"{flag(name)}: {_PLAIN[first['type']]}, got {first['input']!r}."
    message = str(first["msg"]).removeprefix("Value error, ")
    got = "" if "got" in message or first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{flag(name)}: {message[0].lower()}{message[1:].rstrip('.')}{got}."


def read_config(path: Path, kind: type[StudySettings]) -> Asked:
    """Return what a YAML file sets for a kind of study; keys are the flags' names, with `-` or `_`.

    A study's own settings file is one too. Raises TicketError if it is another study's.
    """
    found = _read(path)
    found.pop("schema", None)
    a_studys, of = "study" in found, found.pop("study", kind.study)
    if of != kind.study:
        raise TicketError(f"--config {path}: these are settings of `{of}`, expected those of `{kind.study}`.")
    for name in found:
        if name not in kind.model_fields:
            raise unknown_name(f"key in {path}", FLAGS.get(name, name), _shown(kind))
    return Asked(found, found if a_studys else ())


class Asked(dict[str, Any]):
    """Settings that are asked for; those of `inherited` came with the settings file of a study, which has them all."""

    def __init__(self, values: Mapping[str, Any], inherited: Iterable[str] = ()) -> None:
        super().__init__(values)
        self.inherited = frozenset(inherited)


def asked_for(
    kind: type[StudySettings], config: Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> Asked:
    """Return what is asked for, by the settings' own names: a config (or its file) and what wins over it."""
    if isinstance(config, str | Path):
        config = read_config(user_path(config), kind)
    typed = renamed(settings)
    inherited = config.inherited - typed.keys() if isinstance(config, Asked) else ()
    return Asked({**renamed(config or {}), **typed}, inherited)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TicketError(f"--config {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TicketError(f"--config {path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise TicketError(f"--config {path}: expected `key: value` lines, got {type(content).__name__}.")
    # YAML 1.1 reads the key `on` as the truth value.
    found = renamed({"on" if key is True else str(key).replace("-", "_"): value for key, value in content.items()})
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def fill(kind: type[S], asked: Mapping[str, Any], shape: Shape) -> S:
    """Return settings with everything filled in that was not asked for: the preset's values, then the defaults."""
    values = parse(kind, asked).preset_settings(shape)
    if "epochs" in asked:
        values.pop("score_epoch", None)  # the preset's is one of its own epochs
    return parse(kind, {name: value for name, value in values.items() if name in kind.model_fields} | dict(asked))


def help_default(kind: type[StudySettings], name: str) -> str:
    """Return what a setting is where nobody asks for it, in words: on the default model and task, if presets set it."""
    value, by_preset = _defaults(kind)[0][name], name in _defaults(kind)[1]
    if value is None or value is False or value == []:
        return ""
    every = value if isinstance(value, list) else [value]
    shown = ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in every)
    task = kind.model_fields.get("task")
    on = "model" if task is not None and task.default == "" else "model and task"
    return f"by preset; {shown} for the default {on}" if by_preset else shown


@cache
def _defaults(kind: type[StudySettings]) -> tuple[dict[str, Any], set[str]]:
    """Return the settings where nothing is asked for, and the names of those that depend on preset, model or task."""
    shapes = [replace(DEFAULT_SHAPE, hidden=hidden) for hidden in (DEFAULT_SHAPE.hidden, 768, 1024)]
    tasks = [{"task": task} for task in ("mnli", "mlm")] if "task" in kind.model_fields else []
    named = {
        name
        for preset in get_args(Preset)
        for task in [{}, *tasks]
        for shape in shapes
        for name in parse(kind, {"preset": preset, **task}).preset_settings(shape)
    }
    return fill(kind, {}, DEFAULT_SHAPE).model_dump(mode="json"), named


def complete(kind: type[S], asked: Mapping[str, Any], base: PretrainedModel, quiet: bool = True) -> S:
    """Return settings that are filled in for a base model, and say (unless `quiet`) which of the preset change nothing.

    Raises TicketError if `max_length` was asked for beyond the model's positions, and for what was asked for and would
    change nothing.
    """
    settings = fill(kind, asked, base.shape)
    if asked.get("max_length") is not None and settings.max_length > base.max_length:
        raise TicketError(
            f"--max-length: {settings.max_length} is beyond the {base.max_length} positions of model {base.name!r}."
        )
    _check_effects(settings, asked, quiet)
    # Where each of several tasks has its own, it is None.
    longest = settings.max_length and min(settings.max_length, base.max_length)
    return settings.model_copy(update={"max_length": longest, "out": settings.folder})


def _check_effects(settings: StudySettings, asked: Mapping[str, Any], quiet: bool) -> None:
    """Raise TicketError for what was asked for and would change nothing; what a preset or a file brought is told."""
    typed = asked.keys() - (asked.inherited if isinstance(asked, Asked) else ())
    told = []
    for name, why in settings.without_effect(asked).items():
        if getattr(settings, name) == type(settings).model_fields[name].default and name not in _ALWAYS_TOLD:
            continue
        if name in typed:
            raise TicketError(f"{flag(name)}: it would change nothing, since {why}; leave it out.")
        told += [f"{flag(name)} changes nothing, since {why}."] if name not in _NO_EFFECT else []
    if told and not quiet:
        import typer

        typer.echo("\n".join(told), err=True)


_ALWAYS_TOLD = {"choices"}
"""Of these a part may change nothing by default."""


def recorded(folder: Path) -> StudySettings | None:
    """Return the settings that an output folder was made with, or None if it has none."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    content = _read(path)
    found, study = content.pop("schema", None), content.pop("study", FindSettings.study)
    if found != SETTINGS_SCHEMA:
        raise TicketError(
            f"--out {folder}: the folder was written by another version (schema {found}, this one reads "
            f"{SETTINGS_SCHEMA}); choose another folder, or use that version."
        )
    if study not in STUDIES:
        raise unknown_name(f"study in {path}", study, STUDIES)
    return parse(STUDIES[study], content)


def settings_of(folder: Path) -> StudySettings:
    """Return the settings of the study in a folder; raises TicketError if there is none."""
    settings = recorded(folder)
    if settings is None:
        raise TicketError(f"{folder}: there is no study in it (no {SETTINGS_FILE}){_where_else(folder)}.")
    return settings.model_copy(update={"out": folder})  # wherever the folder is now


def _where_else(folder: Path) -> str:
    """Say where a study is, below or above a folder that has none."""
    if not folder.is_dir():
        return "; there is no such folder"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SETTINGS_FILE}"))
    if inside:
        return f"; it has studies in {', '.join(inside)}"
    above = [up for up in folder.resolve().parents if (up / SETTINGS_FILE).is_file()]
    return f"; it belongs to the study in {above[0]}" if above else ""


def record(settings: StudySettings) -> None:
    """Write the effective settings into the output folder."""
    values = {FLAGS.get(name, name): value for name, value in settings.model_dump(mode="json").items()}
    content = {"schema": SETTINGS_SCHEMA, "study": settings.study, **values}
    write_atomically(settings.folder / SETTINGS_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def check_same(settings: StudySettings, before: StudySettings, hashed: bool) -> None:
    """Raise TicketError if a folder's settings differ from these in anything that could change a result.

    Where `hashed`, weights and examples are compared by their hashes elsewhere, and may be found in another place.
    """
    if settings.study != before.study:
        raise TicketError(
            f"--out {settings.folder}: the folder belongs to a study of `{before.study}`; choose another folder."
        )
    compared = type(settings).model_fields.keys() - _NO_EFFECT - settings.compared_apart
    if said := differences(settings, before, compared - ({"model", *EXAMPLES} if hashed else set())):
        raise TicketError(
            f"--out {settings.folder}: the folder belongs to other settings ({said}); choose another folder, or leave "
            "out what differs."
        )


def differences(settings: StudySettings, before: StudySettings, among: Set[str]) -> str:
    """Say in which settings of some a folder's differ from these, three at most; nothing if in none."""
    now, then = settings.model_dump(mode="json"), before.model_dump(mode="json")
    other = [name for name in now if name in among and now[name] != then[name]]
    return ", ".join(f"{FLAGS.get(name, name)} is {then[name]}, not {now[name]}" for name in other[:3])
