"""The main study: find the super ticket of a model on a task (Super Tickets paper, sections 3 and 5)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.table import DENSE, Role, results_table, select_super, verdict
from supertickets.lab import Lab, Outcome, Trial
from supertickets.lab.lock import hold
from supertickets.lab.machine import Machine, check_device, require_ray
from supertickets.lab.together import dismiss, follow
from supertickets.lab.tracking import check_trackers
from supertickets.models import BaseModel, find_model
from supertickets.storage import write_atomically
from supertickets.studies.settings import (
    SETTINGS_FILE,
    FindSettings,
    check_same,
    complete,
    read_config,
    record,
    recorded,
)
from supertickets.tasks import Task, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import draw_random, draw_ranked, normalise_by_layer
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, load_ticket
from supertickets.training.team import find_team

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


class _Study:
    """The trials of one study, and what each stands for."""

    def __init__(self, settings: FindSettings, base: BaseModel, task: Task) -> None:
        self.settings, self.base, self.task = settings, base, task
        self.data_hash = task.fingerprint()
        self.layers, self.heads = base.shape.layers, base.shape.heads
        self.seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
        self.roles: dict[Role, Trial] = {}

    def trial(self, role: Role, ticket: Ticket) -> Trial:
        """Return the trial for a role and remember what it stands for."""
        settings = self.settings
        trial = Trial(
            model=settings.model,
            weight_hash=self.base.weight_hash,
            source=settings.source,
            data_hash=self.data_hash,
            ticket=ticket,
            recipe=settings.recipe,
            seed=role.seed,
            # Every training of the whole model is a dense run: level 0 is the same trial.
            scoring=settings.scoring if ticket.is_full else None,
        )
        self.roles[role] = trial
        return trial

    def opening(self) -> list[Trial]:
        """Return the trials that wait for nothing: the dense runs, then the random tickets."""
        dense = [self.trial(Role(DENSE, 0.0, seed), Ticket.full(self.layers, self.heads)) for seed in self.seeds]
        random = [
            self.trial(
                Role("random", level, seed), draw_random(self.layers, self.heads, level, seed, self.settings.drawing)
            )
            for level in self.settings.levels
            for seed in self.seeds
            if "random" in self.settings.kinds
        ]
        return dense + random

    def drawn_from(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return the trials of the tickets drawn from a dense run's scores (none from any other trial)."""
        if not (trial.ticket.is_full and outcome.finished):
            return []
        heads, ffns = outcome.scores()
        heads = normalise_by_layer(heads)
        return [
            self.trial(Role(kind, level, trial.seed), draw_ranked(heads, ffns, level, kind, self.settings.drawing))
            for level in self.settings.levels
            for kind in self.settings.kinds
            if kind != "random"
        ]

    def cost(self, ticket: Ticket) -> float:
        """Return what a trial of a ticket costs about, in any unit: its FLOPs, and the scoring of a dense run."""
        flops = forward_flops(self.base.shape, ticket, 1, 32)
        return 1.2 * flops if ticket.is_full else flops

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be."""
        full = Ticket.full(self.layers, self.heads)
        at_level = [
            self.cost(draw_random(self.layers, self.heads, level, 0, self.settings.drawing))
            for level in self.settings.levels
            if level  # level 0 is the dense run
        ]
        return len(self.seeds) * (self.cost(full) + len(self.settings.kinds) * sum(at_level))

    def names(self) -> dict[str, str]:
        """Return each trial's name by key: the first role it plays."""
        names: dict[str, str] = {}
        for role, trial in self.roles.items():
            names.setdefault(trial.key, str(role))
        return names

    def doubles(self) -> int:
        """Return how many roles are played by a trial that has another one (tickets that came out equal)."""
        counted = [role for role in self.roles if role.level or role.kind == DENSE]  # level 0 is the dense run
        return len(counted) - len({self.roles[role].key for role in counted})

    def is_winning(self, trial: Trial) -> bool:
        """Whether a trial stands for a winning ticket, perhaps among others."""
        return any(role.kind == "winning" and asked.key == trial.key for role, asked in self.roles.items())


def find(config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any) -> FindResult:
    """Find the super ticket of a model on a task; the Python call behind `supertickets find`.

    Takes the settings of `FindSettings` by name: in `config` (a mapping or a YAML file), as keywords, or both (keywords
    win). What is already in the output folder is not run again. Raises TicketError for misuse before anything is
    written, and StudyError if no dense training finished.

    >>> result = find(task="cola", data="glue", levels=(0.1, 0.2), seeds=1)  # doctest: +SKIP
    >>> result.table[["kind", "level", "score"]]  # doctest: +SKIP
    """
    if isinstance(config, str | Path):
        config = read_config(Path(config))
    asked = {**(config or {}), **settings}
    first = complete(asked, base := find_model(str(asked.get("model", FindSettings.model_fields["model"].default))))
    task = load_task(first.source)
    team = find_team()
    if "processes" in asked and first.processes != team.size:
        raise TicketError(f"--processes: {first.processes} asked for, {team.size} started; see `accelerate launch`.")
    first = first.model_copy(update={"processes": team.size})
    if not team.leads:
        follow(team, {"models": {base.weight_hash: base}, "tasks": {task.fingerprint(): task}})
        raise SystemExit(0)
    try:
        return _lead(first, base, task, quiet)
    finally:
        dismiss(team)


def _lead(first: FindSettings, base: BaseModel, task: Task, quiet: bool) -> FindResult:
    """Check everything before anything is written, then hold the folder until all is done."""
    _check_folder(first)
    check_trackers(first.track)
    if first.on == "ray":
        require_ray()
    check_device(first.device)
    with hold(first.folder):
        before = _check_folder(first)
        final = first.model_copy(update={"precision": _settle_precision(first, before)})
        study = _Study(final, base, task)
        outcomes, failures = _run(study, quiet)
        return _conclude(study, outcomes, failures)


def _check_folder(settings: FindSettings) -> FindSettings | None:
    """Return the settings an output folder was made with, None for a new one; raises TicketError if it is another's."""
    folder = settings.folder
    if folder.exists() and not folder.is_dir():
        raise TicketError(f"--out {folder}: that is a file; expected a folder, or a name for a new one.")
    before = recorded(folder)
    if before is not None:
        check_same(settings.model_copy(update={"precision": _settle_precision(settings, before)}), before)
    elif folder.exists() and [path for path in folder.iterdir() if not path.name.startswith(".")]:
        raise TicketError(f"--out {folder}: the folder has other files and no {SETTINGS_FILE}; choose another folder.")
    return before


def _settle_precision(settings: FindSettings, before: FindSettings | None) -> str:
    """Return the precision to use: a folder's recorded one goes on, so that a study is never of two."""
    if settings.precision != "auto":
        return settings.precision
    if before is not None:
        return before.precision
    from supertickets.training.devices import choose_precision, find_device

    return choose_precision("auto", find_device(settings.device))


def _run(study: _Study, quiet: bool) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Run all trials; keep trained weights as the settings say; `super` is the best winning ticket so far."""
    from rich.console import Console

    from supertickets.lab.progress import Board, ProgressDisplay

    settings = study.settings
    machine = _machine(study)
    board = Board(settings.trials, study.expected_cost(), lambda trial: study.cost(trial.ticket))
    console = Console(stderr=True, quiet=quiet)
    best: Outcome | None = None

    def keep(trial: Trial) -> bool:
        return settings.keep == "all" or (settings.keep == "super" and study.is_winning(trial))

    display = ProgressDisplay(console, board, settings.folder)
    with Lab(settings.folder, machine, display) as lab, display:
        record(settings)
        console.print(
            f"{settings.task} on {settings.model}: {len(study.task.train)} training and {len(study.task.dev)} dev "
            f"examples, {settings.trials} trainings in {settings.precision}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

        def then(trial: Trial, outcome: Outcome) -> Iterable[Trial]:
            nonlocal best
            if settings.keep == "super" and study.is_winning(trial) and outcome.finished:
                if best is None or _rank(outcome) > _rank(best):
                    beaten, best = best, outcome
                else:
                    beaten = outcome
                if beaten is not None:
                    beaten.drop_weights()
            more = study.drawn_from(trial, outcome)
            board.names = study.names()
            board.total = settings.trials - study.doubles()
            return more

        opening = study.opening()
        board.names = study.names()
        outcomes = lab.run(opening, then, keep)
        return outcomes, {board.names[key]: reason for key, reason in lab.failures.items()}


def _machine(study: _Study) -> Machine:
    settings = study.settings
    return Machine(
        on=settings.on,
        workers=settings.workers,
        device=settings.device,
        threads=settings.threads,
        address=settings.address,
        cpus=settings.cpus,
        gpus=settings.gpus,
        trackers=settings.track,
        checkpoint_every=60 * settings.checkpoint_minutes,
        models={study.base.weight_hash: study.base},
        tasks={study.data_hash: study.task},
    )


def _rank(outcome: Outcome) -> tuple[float, float, int]:
    """Order winning tickets as `select_super` does: by score, then the smaller, then the earlier seed."""
    return outcome.score, -outcome.cost["parameters"], -outcome.trial.seed


def _conclude(study: _Study, outcomes: dict[str, Outcome], failures: dict[str, str]) -> FindResult:
    """Write the table, the super ticket and the report."""
    from supertickets.report.page import write_report

    settings, folder = study.settings, study.settings.folder
    rows = [(role, trial, outcomes.get(trial.key)) for role, trial in study.roles.items()]
    table = results_table(rows)
    write_atomically(folder / "results.csv", table.to_csv(index=False, float_format="%.10g"))
    if not any(role.kind == DENSE and outcome is not None and outcome.finished for role, _, outcome in rows):
        reasons = [*failures.values(), *(outcome.reason or "" for *_, outcome in rows if outcome is not None)]
        raise StudyError(f"no dense training finished: {reasons[0].strip().splitlines()[-1]}")
    chosen = select_super(table)
    ticket = None
    if chosen is not None:
        ticket = _ship(study, Role("winning", float(chosen["level"]), int(chosen["seed"])), outcomes)
    said = verdict(table)
    tickets = {role: trial.ticket for role, trial in study.roles.items()}
    command = shlex.join(["supertickets", "find", "--config", str(folder / SETTINGS_FILE)])
    shown = settings.model_dump(mode="json")
    write_report(folder / "report.html", study.task, table, tickets, said, shown, command)
    return FindResult(folder, settings, table, said, ticket, failures)


def _ship(study: _Study, role: Role, outcomes: dict[str, Outcome]) -> Ticket:
    """Write the super ticket's folder, unless it is there already."""
    trial, settings = study.roles[role], study.settings
    folder = settings.folder / "super-ticket"
    there = None
    with suppress(TicketError):  # none yet, or a damaged one
        there = load_ticket(folder).origin.get("trial")
    if there == trial.key and (settings.keep == "none" or (folder / MODEL_FOLDER).is_dir()):
        return trial.ticket
    from supertickets.export.ship import ship
    from supertickets.lab.workbench import versions

    if settings.keep == "none":
        outcome = outcomes[trial.key]
    else:
        with Lab(settings.folder, _machine(study)) as lab:
            outcome = lab.with_weights(trial)
    dense = outcomes[study.roles[Role(DENSE, 0.0, role.seed)].key]
    heads, ffns = dense.scores()
    origin = {
        "task": settings.task,
        "data_hash": study.data_hash,
        "kind": role.kind,
        "level": role.level,
        "seed": role.seed,
        "score": outcome.score,
        "metrics": list(study.task.metrics),
        "best_epoch": outcome.best_epoch,
        "trial": trial.key,
        "preset": settings.preset,
        "recipe": trial.recipe.model_dump(),
        "scores": {
            "trial": dense.key,
            "normalised": "heads by their layer's l2 norm",
            **settings.scoring.model_dump(),
            **settings.drawing.model_dump(),
        },
    }
    base = {
        "name": settings.model,
        "weight_hash": study.base.weight_hash,
        "model_type": study.base.config["model_type"],
    }
    ship(
        SharedTicket(trial.ticket, base, origin, versions(), {"heads": heads, "ffns": ffns}),
        outcome,
        study.base,
        study.task,
        folder,
    )
    return trial.ticket
