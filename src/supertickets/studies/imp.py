"""Tickets of weights: iterative magnitude pruning with rewinding, and its controls (Chen et al., NeurIPS 2020)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supertickets.errors import TicketError
from supertickets.export.evidence_file import update_evidence
from supertickets.models import ModelSource, find_model
from supertickets.studies.config import Overrides, load_settings, named_by
from supertickets.studies.exchange import FoundTicket, Shipping, origin_of, trainings_like
from supertickets.studies.imp_settings import ImpSettings
from supertickets.studies.rounds import INITIAL, Rounds
from supertickets.studies.settings import SourceSettings, part
from supertickets.studies.study import Request, Study, study
from supertickets.tasks.tables import counted
from supertickets.tasks.task import CORPORA
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket
from supertickets.tickets.weights import Pruning

if TYPE_CHECKING:
    from supertickets.evidence.imp import ImpFindings
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.lab.steps import Run, Step
    from supertickets.tasks import Task
    from supertickets.tickets.weights import WeightTicket

TICKET, BASE = "ticket", "base"
"""In a study's folder: the ticket that it ships. What the folder of the study that trains its base model ends with."""


@study("imp", settings=ImpSettings)
class Imp(Study[ImpSettings]):
    """Find tickets of single weights by iterative magnitude pruning.

    Trains, prunes the smallest weights and rewinds the others, round by round, and trains controls for comparison. Run
    the same command again to resume. With --task mlm or clm, a checkpoint without a language modelling head is first
    trained with one, in a folder next to the study's (disable this with --no-pretrain).
    """

    heading = "Tickets of weights of {runs.model} on {runs.name}"
    page = "supertickets.reports.imp:imp_sections"

    def steps(self, settings: ImpSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield dense runs, rounds, tickets and controls, seed by seed (see `studies.rounds`)."""
        for seed in settings.all_seeds:
            yield from Rounds(settings, tasks[0], seed).steps()

    def analyse(self, runs: Runs, settings: ImpSettings) -> ImpFindings:
        """Return which tickets match the dense model (see `evidence.imp`)."""
        from supertickets.evidence.imp import analyse_imp

        return analyse_imp(runs, settings.rule)

    def ship(self, done: Shipping) -> dict[str, Path]:
        """Write the folder of the matching ticket of the highest sparsity, or of the best one if none matches."""
        from supertickets.evidence.imp import ticket_of

        runs, seed = done.runs, done.settings.first_seed
        runs.check_some_finished("dense training", kind="dense")
        for sparsity in done.findings.to_ship:
            for run in runs.where(kind="imp", sparsity=sparsity, rewind="", seed=seed):
                if (ticket := ticket_of(run)) is not None:
                    _ship(done, run, ticket)
                    return {"ticket": runs.folder / TICKET}
        return {}

    def to_ship(self, runs: Sequence[Run], settings: ImpSettings) -> list[Run]:
        """Return the first seed's tickets."""
        if settings.keep == "none":
            return []
        own = {"kind": "imp", "rewind": "", "seed": settings.first_seed}
        return [run for run in runs if own.items() <= run.step.labels.items()]

    def sparsities(self, runs: Runs, settings: ImpSettings) -> list[float]:
        """Return the sparsities at which the first seed has a ticket from every rewind point."""
        from supertickets.evidence.imp import mask_file

        return [sparsity for sparsity in settings.sparsities if all(map(mask_file, _first(runs, settings, sparsity)))]

    def tickets(self, runs: Runs, settings: ImpSettings, sparsity: float | None = None) -> list[FoundTicket]:
        """Return the first seed's tickets of a sparsity (default: the highest there is), one for each rewind point."""
        from supertickets.evidence.imp import ticket_of

        there, folder, task, found = self.sparsities(runs, settings), settings.folder, runs.task, []
        if not there:
            raise TicketError(f"{folder}: there is no ticket in it yet; see `supertickets status {folder}`.")
        if sparsity not in (None, *there):
            known = ", ".join(f"{one:g}" for one in there)
            raise TicketError(f"{folder}: there is no ticket of sparsity {sparsity:g}; expected one of {known}.")
        for run in _first(runs, settings, there[-1] if sparsity is None else sparsity):
            ticket, label = ticket_of(run), run.step.labels["rewind"]
            assert ticket is not None
            name = f"{task.task} ({label})" if label else task.task
            of = (task.weight_hash, task.model, folder, task.source, settings.recipe, task.layers)
            found.append(FoundTicket(name, task.task, ticket, *of))
        return found

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for; raises TicketError for what cannot be run.

        Masked language modelling goes on with the checkpoint's own output layer. Where it has none, the dense model is
        trained first, in a study of its own beside the study's folder, and takes the base model's place; `dry`, it does
        so only if it is there already. Nothing is trained before the study itself has been checked.
        """
        from supertickets.studies.checks import check_folder, check_runner, check_tasks

        request = super().prepare(overrides, quiet)
        settings, base, (task,) = request.settings, request.base, request.tasks.values()
        _check_rewind(settings, task)
        for how in filter(None, map(INITIAL.get, settings.controls)):
            with named_by("--controls"):
                ModelSource(base).check_start(task.form, how)
        if task.form not in CORPORA or ModelSource(base).has_head(task.form):
            return request
        if not settings.pretrain:
            raise TicketError(
                f"--no-pretrain: model {base.name!r} has no language modelling head; leave the flag out to train one "
                "first, or use a model that has one."
            )
        check_runner(settings)
        with named_by("--out"):
            before = load_settings(settings.folder)
        trained = before is not None and Path(before.model).match(f"*-{BASE}/{MODEL_FOLDER}")
        # A base model that was trained has the asked number of layers, and no more.
        taken = {"model": before.model, "layers": None} if before is not None and trained else {}
        as_before = settings.model_copy(update=taken)
        check_folder(as_before, check_tasks(settings, base, request.tasks), weights=not trained)
        model = _pretrained(settings, quiet, dry)
        if model is None:
            note = f"Not counted: the dense model is trained first, as {base.name} has no language modelling head."
            return replace(request, note=note)
        own = settings.model_copy(update={"model": str(model), "layers": None})
        return replace(request, settings=own, base=find_model(str(model)))


def _pretrained(settings: ImpSettings, quiet: bool, dry: bool) -> Path | None:
    """Return the folder of the base model that `find` trains beside the study's folder; `dry`, None if it is not there.

    Raises TicketError if that folder is another study's, before anything is trained.
    """
    from supertickets.studies.find import Find
    from supertickets.studies.run import check_request, conduct

    asked = {name: getattr(settings, name) for name in SourceSettings.model_fields}
    asked |= {"kinds": (), "keep": "dense", "seeds": 1}
    asked["out"] = settings.folder.with_name(f"{settings.folder.name}-{BASE}")
    request = Find.prepare(Overrides(asked, asked))  # inherited: what has no effect there was not asked for there
    if dry:
        check_request(Find, request)
        model = request.settings.folder / MODEL_FOLDER
        return model if model.is_dir() else None
    if not quiet:
        what = "masked tokens" if settings.task == "mlm" else "the next token"
        said = f"{request.base.name} has no output layer for {what}; the dense model is trained first."
        print(said, file=sys.stderr)
    return conduct(Find, request, quiet).shipped["model"]


def _first(runs: Runs, settings: ImpSettings, sparsity: float) -> list[Run]:
    """Return the runs of the first seed's tickets of a sparsity, one for each rewind point, finished or not."""
    return runs.every(kind="imp", sparsity=sparsity, seed=settings.first_seed)


def _check_rewind(settings: ImpSettings, task: Task) -> None:
    """Raise TicketError for a rewind point at no step of the dense training but its start.

    How many steps that has is known before it where each example is one input: not of blocks and windows.
    """
    if task.form not in ("sequence", "tokens"):
        return
    steps = settings.epochs * math.ceil(len(task.train) / settings.batch_size)
    for text, point in zip(settings.rewind, settings.rewind_points, strict=True):
        if point.share and not round(point.share * steps):
            raise TicketError(
                f"--rewind {text}: that is no step of the dense training, which has {counted(steps, 'step')}; expected "
                f"0, or at least {math.ceil(10_000 / steps) / 100:g}%."
            )


_SEARCH = ("rewind", "rewind_scope", "output_layer", "prune_at_init", "lr_schedule_over", "rate_of", "sparsities")
"""The settings that say how tickets were looked for."""


def _ship(done: Shipping, run: Run, ticket: WeightTicket) -> None:
    """Write the folder of a run's ticket, unless it is there already."""
    from supertickets.export.ship import say_again, ship
    from supertickets.export.weights import named_base
    from supertickets.lab.environment import versions

    settings, findings, folder = done.settings, done.findings, done.runs.folder / TICKET
    trainings, task = trainings_like(done.runs, run), done.tasks[done.runs.task.source]
    matches = findings.highest.get("") is not None
    why = "The highest sparsity that matches the dense model" if matches else "No ticket matches; the best"
    chosen = {
        "why": f"{why} on that same dev set ({findings.rule}).",
        "rewind": settings.rewind[0],
        "search": {name: getattr(settings, name) for name in _SEARCH} | part(settings, Pruning).model_dump(),
    }
    if (outcome := done.unshipped(folder, run)) is None:
        say_again(folder, chosen, task.form)
        update_evidence(folder, trainings)
        return
    origin = origin_of(done.runs, run, settings) | chosen
    shared = SharedTicket(ticket, named_base(done.base), origin, versions())
    ship(shared, outcome, done.base, task, folder, trainings=trainings)
