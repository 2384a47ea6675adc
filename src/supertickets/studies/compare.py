"""Ablations: change one setting at a time, and compare tickets and scores with the study's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import Field, field_validator

from supertickets.errors import unknown_name
from supertickets.lab.steps import Step
from supertickets.studies.find import grid
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.settings import DrawnSettings, Grows, Levels
from supertickets.studies.study import Study, study
from supertickets.tickets.drawing import Drawing
from supertickets.tickets.scoring import MEASURES, ScoringSettings
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:
    from supertickets.evidence.compare import CompareFindings
    from supertickets.evidence.runs import Runs, TaskInfo


def _named_choices() -> dict[str, tuple[str, ...]]:
    """Return the settings with a list of named values that change tickets or training, and their values."""
    named: dict[str, tuple[str, ...]] = {"importance": tuple(MEASURES)}
    for group in (ScoringSettings, Drawing, Recipe):
        for name, field in group.model_fields.items():
            if get_origin(field.annotation) is Literal and name != "precision":
                named[name] = get_args(field.annotation)
    return named


CHOICES = _named_choices()
"""Where text and code differ, and other named ways: each setting with its values (docs/choices.md)."""


class CompareSettings(DrawnSettings):
    """Settings of `supertickets compare`."""

    levels: Grows[Levels] = (0.3, 0.6)
    choices: Grows[tuple[str, ...]] = Field(
        ("absolute", "accumulation", "counts", "random", "lr_schedule"),
        description="settings to change, one at a time: `name=value`, or `name` to try all its other values",
    )

    @field_validator("choices")
    @classmethod
    def _known_choices(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        for choice in choices:
            name, _, value = choice.partition("=")
            name = name.replace("-", "_")
            if name not in CHOICES:
                raise unknown_name("choice", name, CHOICES)
            if value and value not in CHOICES[name]:
                raise unknown_name(f"value of {name}", value, CHOICES[name])
        if not choices:
            raise ValueError("expected at least one choice")
        return tuple(dict.fromkeys(choice.replace("-", "_", choice.partition("=")[0].count("-")) for choice in choices))

    @property
    def variants(self) -> list[tuple[str, str]]:
        """Every (setting, value) that is tried instead of the one the study has, but for those that change nothing."""
        return list(dict.fromkeys(variant for choice in self.choices for variant in self._variants(choice)))

    @property
    def idle(self) -> list[str]:
        """The choices that change nothing here: the study's own, or what the measure of importance does not read."""
        return [choice for choice in self.choices if not self._variants(choice)]

    def _variants(self, choice: str) -> list[tuple[str, str]]:
        name, _, value = choice.partition("=")
        return [
            (name, other) for other in ([value] if value else CHOICES[name]) if not self._changes_nothing(name, other)
        ]

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no ticket is drawn by, neither the usual ones nor those of a choice."""
        measures = [self.importance, *(value for name, value in self.variants if name == "importance")]
        idle = super().without_effect(asked)
        idle |= self.unread(measures, any(name == "random" for name, _ in self.variants))
        if any(name == "schedule" for name, _ in self.variants):
            idle.pop("schedule", None)
        if self.idle:
            named, measure = " and ".join(self.idle), self.importance
            reasons = [
                "is the study's own value",
                f"is not used by its measure of importance ({measure})",
                f"is not used with its structures ({','.join(self.structures)})",
            ]
            if len(self.levels) < 2:
                reasons.append("needs two levels")
            if self.score_examples == "settled":
                reasons.append("does not go with --score-examples settled")
            idle["choices"] = f"{named} {', or '.join(reasons)}"
        return idle

    def _changes_nothing(self, name: str, value: str) -> bool:
        if name == "counts" and self.structures != ("heads", "ffns"):
            return True  # the released table is of heads and FFNs
        if name == "schedule" and len(self.levels) < 2:
            return True  # from the dense model's scores, either way
        changed = self.model_copy(update={name: value})
        if changed.never_settles:
            return True
        if name not in ScoringSettings.model_fields or value == getattr(self, name):
            return value == getattr(self, name)
        return changed.scoring == self.scoring


@study("compare", settings=CompareSettings)
class Compare(Study[CompareSettings]):
    """Ablation: change one setting at a time and report ticket overlap and score difference.

    By default, the settings are those in which the paper's text and its code differ; --choices names others, such as
    the measure of importance.
    """

    heading = "Ablation of {runs.model} on {runs.name}"
    page = "supertickets.reports.compare:compare_sections"

    def steps(self, settings: CompareSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield the study's own runs, then those of each choice; equal trials are one."""
        (task,) = tasks
        randomly = any(name == "random" for name, _ in settings.variants)
        yield from grid(_part(settings, {}, randomly, True), task, {"choice": ""})
        for name, value in settings.variants:
            part = _part(settings, {name: value}, name == "random", name != "random")
            yield from grid(part, task, {"choice": f"{name}={value}"})

    def analyse(self, runs: Runs, settings: CompareSettings) -> CompareFindings:
        """Return what each choice changed."""
        from supertickets.evidence.compare import analyse_compare

        return analyse_compare(runs, {f"{n}={v}" for n, v in settings.variants if n in Recipe.model_fields})


def _part(settings: CompareSettings, change: Mapping[str, Any], random: bool, winning: bool) -> FindSettings:
    """Return the settings of a study of `find` with one of them changed."""
    shared = {name: getattr(settings, name) for name in FindSettings.model_fields if hasattr(settings, name)}
    kinds = (("winning",) if winning else ()) + (("random",) if random else ())
    return FindSettings(**{**shared, **change, "kinds": kinds, "control": "none", "keep": "none"})
