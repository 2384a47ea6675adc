"""The main study: find the super ticket of a model on a task (Super Tickets paper, sections 3 and 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import StudyError, TicketError
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.table import CONTROL, DENSE, Role, select_super
from supertickets.lab import Outcome, Trial
from supertickets.models import BaseModel
from supertickets.studies.pages import write_study_report
from supertickets.studies.settings import FindSettings
from supertickets.studies.study import Loaded, Study, conduct, prepare, trained_again, write_results
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Kind, draw_random, draw_ranked, normalise_by_layer
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, load_ticket

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FindResult:
    """What `find` leaves: where things are, the table of results and the super ticket (None if none finished)."""

    folder: Path
    settings: FindSettings
    table: pd.DataFrame
    verdict: str
    super_ticket: Ticket | None
    failures: dict[str, str]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"

    @property
    def ticket_folder(self) -> Path:
        """The super ticket's folder, with the trained small model in `model/`."""
        return self.folder / "super-ticket"


class FindStudy(Study):
    """Dense runs, the tickets drawn from their scores, and random ones; `best` is the best winning ticket so far."""

    settings: FindSettings

    def __init__(self, settings: FindSettings, subjects: Sequence[Subject]) -> None:
        super().__init__(settings, subjects)
        self.levels = [level for level in settings.levels if level]  # level 0 is the dense run
        self.best: Outcome | None = None
        self._scored: dict[str, Outcome] = {}

    def expected(self) -> list[Role]:
        """Return dense runs, tickets of every kind and level, and the control's dense runs."""
        settings = self.settings
        kinds = [Role(kind, level, seed) for kind in settings.kinds for level in settings.levels for seed in self.seeds]
        return [Role(DENSE, 0.0, seed) for seed in self.seeds] + kinds + self._controls()

    def _controls(self) -> list[Role]:
        if self.settings.control == "none":
            return []
        return [Role(CONTROL, 0.0, self.seeds.stop + i) for i in range(len(self.levels))]

    def opening(self) -> list[Trial]:
        """Return the trials that wait for nothing: the dense runs, then the random tickets."""
        settings, full = self.settings, Ticket.full(self.layers, self.heads)
        dense = [self.trial(Role(DENSE, 0.0, seed), full, settings.scoring) for seed in self.seeds]
        if 0.0 in settings.levels:
            for kind in settings.kinds:
                for seed in self.seeds:
                    self.trial(Role(kind, 0.0, seed), full, settings.scoring)
        random = [
            self.trial(Role("random", level, seed), draw_random(self.layers, self.heads, level, seed, settings.drawing))
            for level in self.levels
            for seed in self.seeds
            if "random" in settings.kinds
        ]
        return dense + random + [self.trial(role, full) for role in self._controls()]

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return the trials of the tickets drawn from an outcome's scores (paper, section 3).

        One-shot, a dense run's scores give every level. Iterative, they give the first; then each rewound ticket's own
        scores give the next.
        """
        if not outcome.finished or trial.scoring is None:
            return []
        self._scored[trial.key] = outcome
        waiting = deque((role, outcome) for role in self.played_by(trial))
        drawn: list[Trial] = []
        while waiting:
            role, scored = waiting.popleft()
            for after in self._drawn_from(role):
                drawn.append(self._drawn(after, scored))
                # Equal tickets share a trial: one that has ended already asks for nothing any more, so go on here.
                if drawn[-1].key in self._scored:
                    waiting.append((after, self._scored[drawn[-1].key]))
        return drawn

    def _drawn_from(self, role: Role) -> list[Role]:
        """Return the roles whose tickets the scores of a role's trial give."""
        if role.kind == DENSE:
            ranked = [kind for kind in self.settings.kinds if kind != "random"]
            levels = self.levels if self.settings.schedule == "one-shot" else self.levels[:1]
            return [Role(kind, level, role.seed) for kind in ranked for level in levels]
        if self.settings.schedule == "one-shot" or role.kind not in ("winning", "losing") or not role.level:
            return []
        return [Role(role.kind, level, role.seed) for level in self.levels if level > role.level][:1]

    def _drawn(self, role: Role, outcome: Outcome) -> Trial:
        """Return the trial of a role whose ticket an outcome's scores give."""
        heads, ffns = outcome.scores()
        how = self.settings.drawing
        kind: Kind = "winning" if role.kind == "winning" else "losing"
        ticket = draw_ranked(normalise_by_layer(heads), ffns, role.level, kind, how, within=outcome.trial.ticket)
        scored = ticket.is_full or (how.schedule == "iterative" and role.level < self.levels[-1])
        return self.trial(role, ticket, self.settings.scoring if scored else None)

    def ranked_by(self, role: Role) -> Role:
        """Return the role whose scores ranked a winning or losing ticket."""
        before = [level for level in self.levels if level < role.level]
        if self.settings.schedule == "one-shot" or not before:
            return Role(DENSE, 0.0, role.seed)
        return Role(role.kind, before[-1], role.seed)

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay: all, or those of winning tickets until a better one is there."""
        keep = self.settings.keep
        return keep == "all" or (keep == "super" and self._is_winning(trial))

    def _is_winning(self, trial: Trial) -> bool:
        # A full ticket is the dense run, which is no candidate, at whatever level it was drawn.
        return not trial.ticket.is_full and any(role.kind == "winning" for role in self.played_by(trial))

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """Drop the trained weights of a winning ticket that is beaten."""
        if self.settings.keep != "super" or not self._is_winning(trial) or not outcome.finished:
            return
        beaten = outcome
        if self.best is None or _rank(outcome) > _rank(self.best):
            beaten, self.best = self.best, outcome  # type: ignore[assignment]
        if beaten is not None:
            beaten.drop_weights()


def find(config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any) -> FindResult:
    """Find the super ticket of a model on a task; the Python call behind `supertickets find`.

    Takes the settings of `FindSettings` by name: in `config` (a mapping or a YAML file), as keywords, or both (keywords
    win). What is already in the output folder is not run again. Raises TicketError for misuse before anything is
    written, and StudyError if no dense training finished.

    >>> result = find(task="cola", data="glue", levels=(0.1, 0.2), seeds=1)  # doctest: +SKIP
    >>> result.table[["kind", "level", "score"]]  # doctest: +SKIP
    """
    first, base = prepare(FindSettings, config, settings, quiet)
    tasks = {first.source: load_task(first.source)}
    return conduct(FindStudy, first, base, tasks, quiet, lambda study, record: _conclude(study, record, base, tasks))


def _rank(outcome: Outcome) -> tuple[float, float, int]:
    """Order winning tickets as `select_super` does: by score, then the smaller, then the earlier seed."""
    return outcome.score, -outcome.cost["parameters"], -outcome.trial.seed


def _conclude(study: FindStudy, record: Record, base: BaseModel, tasks: Loaded) -> FindResult:
    """Write the table, the super ticket and the report."""
    settings, folder = study.settings, study.settings.folder
    table = record.table
    write_results(folder, table)
    if not record.finished(DENSE):
        raise StudyError(f"no dense training finished: {record.first_trouble()}")
    chosen = select_super(table)
    ticket = None
    if chosen is not None:
        role = Role("winning", float(chosen["level"]), int(chosen["seed"]))
        ticket = _ship(study, record, role, base, tasks)
    conclusions = write_study_report(record)
    return FindResult(folder, settings, table, conclusions.verdict, ticket, dict(record.failures))


def _ship(study: FindStudy, record: Record, role: Role, base: BaseModel, tasks: Loaded) -> Ticket:
    """Write the super ticket's folder, unless it is there already."""
    settings = study.settings
    trial, outcome = record.roles[role].trial, record.roles[role].outcome
    scored = record.roles[study.ranked_by(role)].outcome
    assert trial is not None
    assert outcome is not None
    assert scored is not None
    folder = settings.folder / "super-ticket"
    there = None
    with suppress(TicketError):  # none yet, or a damaged one
        there = load_ticket(folder).origin.get("trial")
    if there == trial.key and (settings.keep == "none" or (folder / MODEL_FOLDER).is_dir()):
        return trial.ticket
    from supertickets.export.ship import ship
    from supertickets.lab.workbench import versions

    if settings.keep != "none":
        outcome = trained_again(study, base, tasks, trial)
    heads, ffns = scored.scores()
    origin = {
        "task": settings.task,
        "data_hash": record.subject.data_hash,
        "data": list(record.subject.description),
        "kind": role.kind,
        "level": role.level,
        "seed": role.seed,
        "score": outcome.score,
        "metrics": list(record.subject.metrics),
        "best_epoch": outcome.best_epoch,
        "trial": trial.key,
        "preset": settings.preset,
        "recipe": trial.recipe.model_dump(),
        "scores": {
            "trial": scored.key,
            "normalised": "heads by their layer's l2 norm",
            **settings.scoring.model_dump(),
            **settings.drawing.model_dump(),
        },
    }
    described = {
        "name": settings.model,
        "weight_hash": base.weight_hash,
        "model_type": base.config["model_type"],
    }
    ship(
        SharedTicket(trial.ticket, described, origin, versions(), {"heads": heads, "ffns": ffns}),
        outcome,
        base,
        tasks[record.subject.source],
        folder,
    )
    return trial.ticket
