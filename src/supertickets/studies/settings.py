"""Settings of a study: one declaration gives flag, YAML key, type, default and help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from supertickets.errors import TicketError, unknown_name
from supertickets.models import DEFAULT_MODEL
from supertickets.models import BaseModel as PretrainedModel
from supertickets.storage import write_atomically
from supertickets.studies.presets import Preset, preset_values
from supertickets.tasks import TaskSource
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets.drawing import KINDS, Drawing, Kind
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.recipe import Recipe

SETTINGS_FILE = "settings.yaml"
SETTINGS_SCHEMA = 1
# Fields that cannot change a result.
_NO_EFFECT = {
    "out", "workers", "device", "on", "address", "cpus", "gpus", "keep", "track", "checkpoint_minutes",
}  # fmt: skip


class FindSettings(Recipe, Drawing, ScoringSettings, TaskSource):
    """Settings of `supertickets find`: where the task is, how tickets are made, how models are trained, and these."""

    model: str = Field(
        DEFAULT_MODEL, description="hub id, local folder, or `default`: a small real encoder, no network"
    )
    task: str = Field("entailment", description="built-in or GLUE task, or a name for your own files")
    levels: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), description="shares of heads and FFNs to prune, in [0, 1)"
    )
    kinds: tuple[Kind, ...] = Field(KINDS, description="kinds of tickets: winning, random, losing")
    seeds: int = Field(2, ge=1, description="how many seeds, each with its own dense training and tickets")
    first_seed: int = Field(0, ge=0, description="the first seed; the others follow it")
    preset: Preset = Field("paper", description="paper: the text, done right; released: what the paper's code did")
    # A recipe's precision is settled; only settings may leave it to the machine.
    precision: Literal["auto", "float32", "bfloat16"] = Field(  # type: ignore[assignment]
        "auto", description="arithmetic of the forward pass; auto: bfloat16 where it is native"
    )
    workers: int | Literal["auto"] = Field("auto", description="trainings side by side: a number, or one for each core")
    device: str = Field("auto", description="auto (a GPU if there is one), cpu, cuda, ...")
    on: Literal["local", "ray"] = Field("local", description="where trainings run: this machine, or a Ray cluster")
    address: str | None = Field(None, description="Ray cluster; default: the one of this machine, or a new local one")
    cpus: float | None = Field(None, ge=0, description="CPUs a training takes on Ray; default: its threads")
    gpus: float = Field(0.0, ge=0, description="GPUs a training takes on Ray; a fraction shares one")
    keep: Literal["none", "super", "all"] = Field("super", description="whose trained weights stay on disk")
    track: tuple[str, ...] = Field((), description="experiment trackers: tensorboard, mlflow, wandb, trackio, ...")
    checkpoint_minutes: float = Field(2.0, ge=0, description="how often a training saves where it stands")
    out: Path | None = Field(None, description="output folder; default: runs/TASK")

    @field_validator("levels")
    @classmethod
    def _sorted_levels(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [level for level in levels if not 0 <= level < 1]
        if wrong:
            raise ValueError(f"a level is a share in [0, 1), got {wrong[0]}")
        if not levels:
            raise ValueError("expected at least one level")
        return tuple(sorted(set(levels)))

    @field_validator("kinds")
    @classmethod
    def _kinds_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds:
            raise ValueError("expected at least one kind")
        return tuple(kind for kind in KINDS if kind in kinds)

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"expected `auto` or at least 1 worker, got {workers}")
        return workers

    @property
    def source(self) -> TaskSource:
        """Where the task's examples come from."""
        return TaskSource(**_part(self, TaskSource))

    @property
    def recipe(self) -> Recipe:
        """How every trial is trained; `precision` must be settled by then."""
        return Recipe(**_part(self, Recipe))

    @property
    def scoring(self) -> ScoringSettings:
        """How importance is measured."""
        return ScoringSettings(**_part(self, ScoringSettings))

    @property
    def drawing(self) -> Drawing:
        """How tickets are drawn."""
        return Drawing(**_part(self, Drawing))

    @property
    def trials(self) -> int:
        """How many trials the study has; level 0 is the dense run, whatever the kind."""
        return self.seeds * (1 + len([level for level in self.levels if level]) * len(self.kinds))

    @property
    def folder(self) -> Path:
        """The output folder."""
        return (
            self.out
            if self.out is not None
            else Path("runs") / (re.sub(r"[^\w.-]+", "-", self.task).strip(".-") or "task")
        )


def _part(settings: FindSettings, of: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in of.model_fields}


def parse(values: Mapping[str, Any]) -> FindSettings:
    """Return settings from names and values; raises TicketError in one sentence that names the setting."""
    for name in values:
        if name not in FindSettings.model_fields:
            raise unknown_name("setting", name, FindSettings.model_fields)
    lists = {name for name, field in FindSettings.model_fields.items() if "tuple" in str(field.annotation)}
    single = {
        name: (value,) for name, value in values.items() if name in lists and isinstance(value, (str, int, float))
    }
    try:
        return FindSettings(**{**values, **single})
    except ValidationError as error:
        raise TicketError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    """Say what is wrong with the first wrong setting, and the nearest value where there is a list of them."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        return str(unknown_name(name.removesuffix("s"), first["input"], known))
    message = str(first["msg"]).removeprefix("Value error, ")
    got = "" if "got" in message else f", got {first['input']!r}"
    return f"--{name.replace('_', '-')}: {message[0].lower()}{message[1:]}{got}."


def read_config(path: Path, schema: bool = False) -> dict[str, Any]:
    """Return what a YAML file sets; keys are the flags' names, with `-` or `_`.

    A study's own settings file has its `schema` besides, which is left out unless asked for.
    """
    if not path.is_file():
        raise TicketError(f"--config {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TicketError(f"--config {path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise TicketError(f"--config {path}: expected `key: value` lines, got {type(content).__name__}.")
    # YAML 1.1 reads the key `on` as the truth value.
    found = {"on" if key is True else str(key).replace("-", "_"): value for key, value in content.items()}
    written = found.pop("schema", None)
    for name in found:
        if name not in FindSettings.model_fields:
            raise unknown_name(f"key in {path}", name, FindSettings.model_fields)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return {**values, "schema": written} if schema else values


def complete(asked: Mapping[str, Any], base: PretrainedModel) -> FindSettings:
    """Return settings with everything filled in that was not asked for: the preset's values, then the defaults.

    Raises TicketError if `max_length` was asked for beyond the model's positions.
    """
    first = parse(asked)
    own = first.train_file is not None
    task = "" if own else first.task.lower().replace("-", "")  # a user's own task may have any name
    filled = preset_values(first.preset, base.shape, task, task in BUILTIN) | dict(asked)
    if own and "task" not in asked:
        filled["task"] = Path(str(first.train_file)).stem
    if "max_length" in asked and first.max_length > base.max_length:
        raise TicketError(
            f"--max-length: {first.max_length} is beyond the {base.max_length} positions of model {first.model!r}."
        )
    settings = parse(filled)
    return settings.model_copy(update={"max_length": min(settings.max_length, base.max_length), "out": settings.folder})


def recorded(folder: Path) -> FindSettings | None:
    """Return the settings that an output folder was made with, or None if it has none."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    content = read_config(path, schema=True)
    found = content.pop("schema", None)
    if found != SETTINGS_SCHEMA:
        raise TicketError(
            f"--out {folder}: the folder was written by another version (schema {found}, this one reads "
            f"{SETTINGS_SCHEMA}); choose another folder, or use that version."
        )
    return parse(content)


def record(settings: FindSettings) -> None:
    """Write the effective settings into the output folder."""
    content = {"schema": SETTINGS_SCHEMA, **settings.model_dump(mode="json")}
    write_atomically(settings.folder / SETTINGS_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def check_same(settings: FindSettings, before: FindSettings) -> None:
    """Raise TicketError if a folder's settings differ from these in anything that could change a result."""
    now, then = settings.model_dump(mode="json"), before.model_dump(mode="json")
    other = [name for name in now if name not in _NO_EFFECT and now[name] != then[name]]
    if other:
        said = ", ".join(f"{name} is {then[name]}, not {now[name]}" for name in other[:3])
        raise TicketError(
            f"--out {settings.folder}: the folder belongs to other settings ({said}); choose another folder, or leave "
            "out what differs."
        )
