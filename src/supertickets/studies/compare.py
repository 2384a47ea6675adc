"""How much a choice matters: one setting at a time put otherwise, tickets and scores compared with the study's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.conclusions import shared
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.statistics import paired_t_test
from supertickets.evidence.table import DENSE, Role, Row
from supertickets.evidence.tables import write_tables
from supertickets.lab import Outcome, Trial
from supertickets.studies.find import FindStudy
from supertickets.studies.settings import CompareSettings, FindSettings
from supertickets.studies.study import Study, conduct, prepare, write_results
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Kind
from supertickets.training.recipe import Recipe


class CompareStudy(Study):
    """A find study as set, and one for each choice put otherwise; they share every trial that comes out the same."""

    settings: CompareSettings

    def __init__(self, settings: CompareSettings, subjects: Sequence[Subject]) -> None:
        super().__init__(settings, subjects)
        variants = settings.variants
        randomly = [(name, value) for name, value in variants if name == "random"]
        own: tuple[Kind, ...] = ("winning", "random") if randomly else ("winning",)
        self.parts = {"": self._part({}, own)}
        for name, value in variants:
            self.parts[f"{name}={value}"] = self._part({name: value}, ("random",) if name == "random" else ("winning",))

    def _part(self, change: Mapping[str, Any], kinds: tuple[Kind, ...]) -> FindStudy:
        shared = {
            name: getattr(self.settings, name) for name in FindSettings.model_fields if hasattr(self.settings, name)
        }
        settings = FindSettings(**{**shared, **change, "kinds": kinds, "control": "none", "keep": "none"})
        return FindStudy(settings, self.subjects)

    def expected(self) -> list[Role]:
        """Return every part's roles, named after what is otherwise in it."""
        return [replace(role, variant=name) for name, part in self.parts.items() for role in part.expected()]

    def opening(self) -> list[Trial]:
        """Return what waits for nothing in any part."""
        return self._noted(trial for part in self.parts.values() for trial in part.opening())

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return what an outcome makes possible in any part."""
        return self._noted(more for part in self.parts.values() for more in part.then(trial, outcome))

    def _noted(self, trials: Iterable[Trial]) -> list[Trial]:
        found = list(trials)
        for name, part in self.parts.items():
            self.roles |= {replace(role, variant=name): trial for role, trial in part.roles.items()}
        return found


@dataclass(frozen=True)
class CompareResult:
    """What `compare` leaves: every run, and what each choice changed."""

    folder: Path
    runs: pd.DataFrame
    comparison: pd.DataFrame
    failures: Mapping[str, str]


def compare(
    config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any
) -> CompareResult:
    """Put one choice at a time otherwise, and compare tickets and scores; the call behind `supertickets compare`.

    Takes the settings of `CompareSettings` by name, in `config` (a mapping or a YAML file), as keywords, or both.
    Raises TicketError for misuse before anything is written.
    """
    first, base = prepare(CompareSettings, config, settings, quiet)
    tasks = {first.source: load_task(first.source)}

    def conclude(study: CompareStudy, record: Record) -> CompareResult:
        found = comparison(record)
        write_results(record.folder, record.table)
        write_tables(record.folder, {"comparison": found})
        return CompareResult(record.folder, record.table, found, dict(record.failures))

    return conduct(CompareStudy, first, base, tasks, quiet, conclude)


def comparison(record: Record) -> pd.DataFrame:
    """Return what each choice changed: a row a choice and level (level 0: the dense model).

    `overlap` is the share of what is pruned that both ways prune (twice the shared over both sizes), averaged over
    seeds; `heads` and `ffns` are mean counts of what stays; `score` and `usual` are mean scores with and without the
    change, `difference` their paired difference with 95 % interval and p over seeds. Missing where runs are.
    """
    rows = []
    usual = {role: row for role, row in record.roles.items() if not role.variant}
    groups: dict[tuple[str, str, float], list[tuple[Row, Row]]] = {}
    for role, row in record.roles.items():
        if role.variant and (role.kind != DENSE or _trains_otherwise(role.variant)):
            groups.setdefault((role.variant, role.kind, role.level), []).append((row, usual[replace(role, variant="")]))
    for (variant, kind, level), pairs in groups.items():
        drawn = [(a.ticket, b.ticket) for a, b in pairs if a.ticket is not None and b.ticket is not None]
        scores = [(_score(with_it), _score(without)) for with_it, without in pairs]
        test = paired_t_test([with_it for with_it, _ in scores], [without for _, without in scores])
        rows.append(
            {
                "choice": variant,
                "kind": kind,
                "level": level,
                "overlap": np.mean([_overlap(a, b) for a, b in drawn]) if drawn and level else np.nan,
                "heads": np.mean([a.kept_heads for a, _ in drawn]) if drawn else np.nan,
                "ffns": np.mean([a.kept_ffns for a, _ in drawn]) if drawn else np.nan,
                "score": _mean([with_it for with_it, _ in scores]),
                "usual": _mean([without for _, without in scores]),
                "difference": test.mean,
                "low": test.low,
                "high": test.high,
                "p": test.p,
            }
        )
    return pd.DataFrame(rows)


def _trains_otherwise(variant: str) -> bool:
    """Whether a choice changes the dense training itself, not only how tickets are drawn from it."""
    return variant.partition("=")[0] in Recipe.model_fields


def _score(row: Row) -> float:
    return row.outcome.score if row.finished and row.outcome is not None else float("nan")


def _mean(values: list[float]) -> float:
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def _overlap(one: Ticket, other: Ticket) -> float:
    return shared(*(np.append(~ticket.heads, ~ticket.ffns) for ticket in (one, other)))
