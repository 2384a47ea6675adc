"""Settings on their way: typed or written values into settings, settings into a study's folder and back."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from supertickets.anatomy import Shape
from supertickets.errors import TicketError, named_twice, unknown_name, unknown_value
from supertickets.models import BaseModel as PretrainedModel
from supertickets.storage import user_path, write_atomically
from supertickets.studies import STUDIES
from supertickets.studies.presets import DEFAULT_SHAPE, Preset
from supertickets.studies.settings import StudySettings
from supertickets.tasks import TaskSource
from supertickets.tickets.levels import percentage, read_level

SETTINGS_FILE = "settings.yaml"
SETTINGS_SCHEMA = 5
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time, where it was built
EXAMPLES = frozenset(TaskSource.model_fields)
"""Fields that say where examples are found; the examples are compared by their hash, as the weights of `model` are."""
S = TypeVar("S", bound=StudySettings)


class WrongValueError(TicketError):
    """A value that is wrong whatever the other settings are."""


def flag(name: str, value: Any = None) -> str:
    """Return a setting's flag; that of a value which is False begins with `--no-`."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def says(kind: type[StudySettings], what: str) -> set[str]:
    """Return the names of the settings that say something beside themselves: that they have `no effect`, or `grows`."""
    return {name for name, field in kind.model_fields.items() if what in field.metadata}


def parse(kind: type[S], values: Mapping[str, Any]) -> S:
    """Return settings from names and values; raises TicketError in one sentence that names the setting."""
    for name in values:
        if name not in kind.model_fields:
            raise unknown_name("setting", name, kind.model_fields)
    try:
        return kind(**{name: read_value(kind, name, value) for name, value in values.items()})
    except ValidationError as error:
        alone = bool(error.errors()[0]["loc"])
        raise (WrongValueError if alone else TicketError)(_sentence(error)) from error


def read_value(kind: type[StudySettings], name: str, value: Any) -> Any:
    """Return a setting's value from a flag's text, from YAML or from Python: all three are read here and mean the same.

    A list may be a text with commas, or one value alone; `none` is an empty one, unless the list has such a value. A
    share may be written as a percentage. Raises TicketError for a truth value that is none.
    """
    annotation = kind.model_fields[name].annotation
    if isinstance(value, bool) and annotation is not bool:
        raise WrongValueError(
            f"{flag(name)}: got the boolean {value}; YAML reads yes, no, on and off as booleans, so put the value in "
            "quotes."
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
    """Return a number as text, where YAML read one and a flag would be text: a column may be named 1."""
    return str(value) if type(value) in (int, float) else value


_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a text",
    "tuple_type": "a list",
    "path_type": "the name of a file or folder",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
"""What was expected where pydantic reports an error of these types."""


def _sentence(error: ValidationError) -> str:
    """Say what is wrong with the first wrong setting, and the nearest value where there is a list of them."""
    first, *more = error.errors()
    if not first["loc"]:  # settings that do not go together: the message names them
        return str(first["msg"]).removeprefix("Value error, ").rstrip(".") + "."
    name, value, context = str(first["loc"][0]), first["input"], first.get("ctx", {})
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        if value == "none" and len(first["loc"]) > 1:  # a list of it alone is read as an empty one
            return f"{flag(name)}: none cannot be combined with other values; expected some of {', '.join(known)}."
        return str(unknown_value(flag(name), value, known))
    if first["type"] in _EXPECTED:
        expected = _EXPECTED[first["type"]].format(**context)
        words = [e["ctx"]["expected"].strip("'") for e in more if e["loc"][0] == name and e["type"] == "literal_error"]
        return f"{flag(name)}: expected {' or '.join([expected, *words])}, got {value if context else repr(value)}."
    message = str(first["msg"]).removeprefix("Value error, ")
    got = "" if "got" in message or first["type"] == "value_error" else f", got {value!r}"
    return f"{flag(name)}: {message[0].lower()}{message[1:].rstrip('.')}{got}."


def read_config(path: Path, kind: type[StudySettings]) -> Overrides:
    """Return what a YAML file sets for a kind of study; keys are the flags' names, with `-` or `_`.

    A study's own settings file is one too. Raises TicketError, naming the file, if it is another study's or if a value
    is wrong by itself.
    """
    found = _read(path, f"--config {path}")
    found.pop("schema", None)
    a_studys, of = "study" in found, found.pop("study", kind.study)
    if of != kind.study:
        raise TicketError(f"--config {path}: the file has settings of `{of}`; expected those of `{kind.study}`.")
    for name in found:
        if name not in kind.model_fields:
            raise unknown_name(f"key in {path}", name, kind.model_fields)
    try:
        parse(kind, found)
    except WrongValueError as error:
        raise TicketError(f"--config {path}: {error}") from error
    except TicketError:
        pass  # flags may yet change how they go together
    return Overrides(found, found if a_studys else ())


class Overrides(dict[str, Any]):
    """Settings that are asked for; those of `inherited` came with the settings file of a study, which has them all."""

    def __init__(self, values: Mapping[str, Any], inherited: Iterable[str] = ()) -> None:
        super().__init__(values)
        self.inherited = frozenset(inherited)


def merge_overrides(
    kind: type[StudySettings], config: Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> Overrides:
    """Return what is asked for, by the settings' own names: a config (or its file) and what wins over it."""
    if isinstance(config, str | Path):
        config = read_config(user_path(config), kind)
    inherited = config.inherited - settings.keys() if isinstance(config, Overrides) else ()
    return Overrides({**(config or {}), **settings}, inherited)


def _read(path: Path, where: str) -> dict[str, Any]:
    """Return what a YAML file says of each setting; `where` names it in errors."""
    if not path.is_file():
        raise TicketError(f"{where}: {'that is a folder; expected a file' if path.is_dir() else 'no such file'}.")
    try:
        text = path.read_text(encoding="utf-8")
        content, node = yaml.load(text, _LOADER), yaml.compose(text, _LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TicketError(f"{where}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        got = "the file is empty" if content is None else f"got a {'list' if isinstance(content, list) else 'text'}"
        raise TicketError(f"{where}: expected `key: value` lines, {got}.")
    if (twice := named_twice([str(key.value).replace("-", "_") for key, _ in node.value])) is not None:
        raise TicketError(f"{where}: key {twice!r} is there twice; expected each key once.")
    found = {str(key).replace("-", "_"): value for key, value in content.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def fill(kind: type[S], asked: Mapping[str, Any], shape: Shape) -> S:
    """Return settings with everything filled in that was not asked for: the preset's values, then the defaults."""
    values = parse(kind, asked).preset_settings(shape)
    if "epochs" in asked:
        values.pop("score_epoch", None)  # the preset's is one of its own epochs
    values = {"epochs": kind.model_fields["epochs"].default} | values
    return parse(kind, {name: value for name, value in values.items() if name in kind.model_fields} | dict(asked))


def sorted_lists(kind: type[StudySettings], overrides: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the lists of numbers that were asked for in another order, or with duplicates, as they were taken."""
    parsed, found = parse(kind, overrides), dict[str, tuple[Any, ...]]()
    for name in {"levels", "sparsities", "fractions"} & overrides.keys():
        given, taken = read_value(kind, name, overrides[name]), getattr(parsed, name)
        if any(isinstance(one, str) and ".." in one for one in given):
            continue
        read: Callable[[Any], Any] = read_level if name == "levels" else float
        same = [read(one) for one in given] == [*taken]
        # Levels by kind have no order until there is a model.
        if not (same or (any(isinstance(one, str) for one in taken) and len(given) == len(taken))):
            found[name] = taken
    return found


def help_default(kind: type[StudySettings], name: str) -> str:
    """Return a setting's default as text: for the default model and task, if presets set it."""
    value, by_preset = _defaults(kind)[0][name], name in _defaults(kind)[1]
    if value in (None, "", []) or value is False:
        return ""
    shown = _as_typed(name, value)
    task = kind.model_fields.get("task")
    on = "model" if task is not None and task.default == "" else "model and task"
    return f"by preset; {shown} for the default {on}" if by_preset else shown


def _as_typed(name: str, value: Any) -> str:
    """Return a setting's value as it is typed after its flag, and one that is true or false as the flag itself."""
    if isinstance(value, bool):
        return flag(name, value)
    every = value if isinstance(value, list) else [value]
    return ",".join(f"{one:.12g}" if isinstance(one, float) else str(one) for one in every if one is not None) or "none"


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


def resolve_settings(kind: type[S], asked: Mapping[str, Any], base: PretrainedModel, quiet: bool = True) -> S:
    """Return settings that are filled in for a base model, and say (unless `quiet`) which of the preset change nothing.

    Raises TicketError if `max_length` was asked for beyond the model's positions, and for what was asked for and would
    change nothing.
    """
    # All layers of a model are the model itself, whether they were counted or not.
    settings = fill(kind, asked, base.shape).model_copy(update={"layers": base.layers})
    if asked.get("max_length") is not None and settings.max_length > base.max_length:
        raise TicketError(
            f"--max-length: {settings.max_length} is beyond the {base.max_length} positions of model {base.name!r}."
        )
    check_effects(settings, asked, quiet)
    settings.check_model(base.shape)
    # Where each of several tasks has its own, it is None.
    longest = settings.max_length and min(settings.max_length, base.max_length)
    return settings.model_copy(update={"max_length": longest, "out": settings.folder})


def check_effects(settings: StudySettings, asked: Mapping[str, Any], quiet: bool) -> None:
    """Raise TicketError for what was asked for and would change nothing; what came with a study's file is printed.

    Otherwise a study's settings file would name settings that it did not use.
    """
    typed = asked.keys() - (asked.inherited if isinstance(asked, Overrides) else ())
    told, harmless = [], says(type(settings), "no effect")
    for name, why in settings.without_effect(asked).items():
        if getattr(settings, name) == type(settings).model_fields[name].default and name not in _ALWAYS_TOLD:
            continue
        if name in typed:
            raise TicketError(
                f"{flag(name, getattr(settings, name))}: it would change nothing, since {why}; leave it out."
            )
        told += [f"{flag(name)} changes nothing, since {why}."] if name in asked and name not in harmless else []
    if told and not quiet:
        print("\n".join(told), file=sys.stderr)


_ALWAYS_TOLD = {"choices"}
"""Of these a part may change nothing by default."""


def load_settings(folder: Path) -> StudySettings | None:
    """Return the settings that an output folder was made with, or None if it has none."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    content = _read(path, str(path))
    found, study = content.pop("schema", None), str(content.pop("study", ""))
    if found != SETTINGS_SCHEMA:
        raise TicketError(
            f"{folder}: the folder was written by another version (schema {found}, this one reads "
            f"{SETTINGS_SCHEMA}); choose another folder, or use that version."
        )
    try:
        if study not in STUDIES:
            raise unknown_name("study", study, STUDIES)
        return parse(STUDIES[study].settings, content)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error


@contextmanager
def named_by(flag: str) -> Iterator[None]:
    """Begin TicketErrors about a folder, raised within the context, with the flag that names the folder."""
    try:
        yield
    except TicketError as error:
        raise TicketError(f"{flag} {error}") from error


@contextmanager
def called(flag: str, here: str) -> Iterator[None]:
    """Name a setting in TicketErrors, raised within the context, by the flag that it has in this command."""
    try:
        yield
    except TicketError as error:
        raise TicketError(re.sub(rf"{flag}\b", here, str(error))) from error


def settings_in(folder: Path) -> StudySettings:
    """Return the settings of the study in a folder; raises TicketError if there is none."""
    if not folder.is_dir():
        raise TicketError(f"{folder}: no such folder.")
    settings = load_settings(folder)
    if settings is None:
        raise TicketError(f"{folder}: there is no study in it (no {SETTINGS_FILE}){_where_else(folder)}.")
    return settings.model_copy(update={"out": folder})  # wherever the folder is now


def _where_else(folder: Path) -> str:
    """Say where a study is, below or above a folder that has none."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SETTINGS_FILE}"))
    if inside:
        return f"; it has studies in {', '.join(inside)}"
    above = [up for up in folder.resolve().parents if (up / SETTINGS_FILE).is_file()]
    return f"; it belongs to the study in {above[0]}" if above else ""


def save_settings(settings: StudySettings) -> None:
    """Write the effective settings into the output folder."""
    content = {"schema": SETTINGS_SCHEMA, "study": settings.study, **settings.model_dump(mode="json")}
    write_atomically(settings.folder / SETTINGS_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def check_same(settings: StudySettings, before: StudySettings, hashed: bool) -> None:
    """Raise TicketError if a folder's settings differ from these in anything that could change a result.

    Where `hashed`, weights and examples are compared by their hashes elsewhere, and may be found in another place.
    """
    if settings.study != before.study:
        raise TicketError(
            f"--out {settings.folder}: this folder holds a study of `{before.study}`; choose another folder."
        )
    kind = type(settings)
    compared = kind.model_fields.keys() - says(kind, "no effect") - settings.compared_apart
    compared -= {name for name in says(kind, "grows") if _has_grown(getattr(settings, name), getattr(before, name))}
    if said := differences(settings, before, compared - ({"model", *EXAMPLES} if hashed else set())):
        raise TicketError(
            f"--out {settings.folder}: this folder was created with different settings: {said}. Use a new --out or the "
            "original settings."
        )


def differences(settings: StudySettings, before: StudySettings, among: Set[str]) -> str:
    """Say in which settings of some a folder's differ from these, three at most; nothing if in none."""
    now, then = settings.model_dump(mode="json"), before.model_dump(mode="json")
    other = [name for name in now if name in among and now[name] != then[name]]
    return ", ".join(
        f"{flag(name)} was {_as_typed(name, then[name])} and is now {_as_typed(name, now[name])}" for name in other[:3]
    )


def _has_grown(now: Any, before: Any) -> bool:
    """Whether a setting that says which runs there are asks for all that it asked for before."""
    return set(before) <= set(now) if isinstance(now, tuple) else bool(now >= before)
