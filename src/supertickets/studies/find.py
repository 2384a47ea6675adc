"""The main study: find the super ticket of a model on a task (Super Tickets paper, sections 3 and 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from supertickets.errors import TicketError
from supertickets.evidence.labels import RATES, SAME_SHARE
from supertickets.export.evidence_file import update_evidence
from supertickets.lab.steps import Done, Label, Run, Step
from supertickets.studies.budget import tuned_steps
from supertickets.studies.config import Overrides
from supertickets.studies.draws import ByLevel, Draws, ForTarget
from supertickets.studies.exchange import (
    FoundTicket,
    Shipping,
    TrainedModel,
    origin_of,
    ticket_in,
    trained_model,
    trainings_like,
)
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.search import LevelSearch, budget_of, check_searchable, paid_share, search_outlook
from supertickets.studies.search_budget import prices_of
from supertickets.studies.selection import settle_selection
from supertickets.studies.settings import part
from supertickets.studies.soup import soup_steps
from supertickets.studies.study import Request, Study, full_ticket, study, training_flops, trial_of
from supertickets.studies.targets import TargetInputs, caps_of, with_targets
from supertickets.studies.teaching import settle_teacher, taught, taught_steps
from supertickets.tasks import task_name, text
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, Kind
from supertickets.tickets.folder import MODEL_FOLDER, SUPER_TICKET, TICKET_JSON, SharedTicket, base_entry

if TYPE_CHECKING:
    from supertickets.evidence.find import FindFindings
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.evidence.searched import Searched
    from supertickets.lab.outcome import Outcome
    from supertickets.lab.trial import Trial
    from supertickets.training.recipe import Recipe

TICKET, BASE_MODEL = SUPER_TICKET, "model"
"""In a study's folder: the ticket that it ships; without tickets, the dense model as a base model."""


@study("find", settings=FindSettings)
class Find(Study[FindSettings]):
    """Find the super ticket of a model on a task.

    Fine-tunes the dense model, measures the importance of its heads and FFNs (or neurons), draws winning, random and
    losing tickets at each level, rewinds and trains each of them, and picks the best winning ticket. Run the same
    command again to resume. The defaults of many settings depend on the preset, the model's size and the task.
    """

    side_by_side = True
    heading = "Super ticket of {runs.model} on {runs.name}"
    page = "supertickets.reports.find:find_sections"
    Inputs = TargetInputs
    inputs: TargetInputs | None

    @classmethod
    def needs_inputs(cls, settings: FindSettings) -> bool:
        """Return whether there are targets, whose numbers the folder keeps."""
        return bool(settings.target)

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for; levels are chosen on the whole dev set where a share is too small."""
        request = check_searchable(settle_selection(super().prepare(overrides, quiet, dry), overrides))
        return with_targets(settle_teacher(request, overrides), quiet)

    def draws(self, settings: FindSettings, task: TaskInfo) -> Draws:
        """Return how tickets are drawn: at levels, or for a target."""
        if self.inputs is None:
            return ByLevel(settings, task.shape)
        return ForTarget(settings, task.shape, caps_of(settings, task.shape, self.inputs))

    def steps(self, settings: FindSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield dense runs, tickets of every kind and level, soups, controls' dense runs, other learning rates."""
        (task,) = tasks
        draws = self.draws(settings, task)
        steps = list(grid(settings, task, draws=draws))
        if settings.searches:
            steps = list(LevelSearch(settings, task, draws, steps).steps())
        for step in steps:
            yield step
            yield from soup_steps(settings, task, step)
        dense = [step for step in steps if step.labels["kind"] == "dense"]
        if isinstance(draws, ForTarget) and "winning" in settings.kinds:
            yield from (_of_same_share(settings, task, draws, step) for step in dense)
        if settings.teaches:
            yield from taught_steps(settings, task, dense)
        full, cost = full_ticket(task), training_flops(task, full_ticket(task), settings.epochs)
        if settings.control == "best-of-k":
            others = settings.all_seeds.stop
            # Of levels that prune as much, the tickets are the same.
            sizes = {(of.kept_heads, of.kept_ffns, of.kept_neurons) for of in draws.about.values() if not of.is_full}
            for seed in range(others, others + len(sizes)):
                trial = trial_of(settings, task, full, seed)
                yield Step({"kind": "control", "level": 0.0, "seed": seed}, trial, cost=cost)
        if settings.control == "equal-budget" and settings.kinds:
            for seed in settings.all_seeds:
                own = [step for step in steps if step.labels["seed"] == seed]
                first, *winning = (step for step in own if step.labels["kind"] in ("dense", "winning"))
                yield from tuned_steps(settings, task, seed, first, winning)
        own = [step for step in steps if "stage" not in step.labels]
        yield from _rates(settings, task, [step for step in own if step.labels["kind"] == "winning"])

    def outlook(self, settings: FindSettings, tasks: Sequence[TaskInfo]) -> str:
        """Say what gain the study can detect (see `evidence.design`); nothing of language modelling's blocks."""
        from supertickets.evidence.design import Design
        from supertickets.evidence.power import assumed_variance

        (task,) = tasks
        if not settings.kinds or (not task.labels and task_name(task.task) in text.NAMES):
            return ""
        examples = len(task.targets) - len(task.targets) // 2 if settings.searches else len(task.targets)
        design = Design(settings.seeds, examples, task.metrics, assumed_variance(), settings.light)
        said = f"{design.sentence()} (See `supertickets design` for what this assumes.)"
        return f"{search_outlook(settings, task, self.draws(settings, task))} {said}" if settings.searches else said

    def analyse(self, runs: Runs, settings: FindSettings) -> FindFindings:
        """Return means, gains, phases (see `evidence.find`); without tickets, means alone."""
        from supertickets.evidence.find import analyse_find, without_grid
        from supertickets.evidence.tables import AnalysedStudy, paper_tables

        runs.check_some_finished("dense training", kind="dense")
        findings = analyse_find(runs)
        if not settings.kinds:
            return replace(findings, base_model=runs.folder / BASE_MODEL, measure=runs.task.measure)
        draws = self.draws(settings, runs.task)
        if settings.searches:
            return without_grid(findings, self._searched(runs, settings))
        if isinstance(draws, ForTarget):
            from supertickets.evidence.reached import reached

            findings = replace(findings, target=reached(runs, draws.caps, settings.structures))
        if settings.design == "narrow":
            from supertickets.evidence.narrow import narrow_gains

            (level,) = draws.about
            findings = replace(findings, narrow=narrow_gains(runs, level))
        if "winning" not in settings.kinds:  # the paper's tables are about super tickets
            return findings
        return replace(findings, paper_tables=paper_tables([AnalysedStudy(runs.only(stage=None), findings)]))

    def ship(self, done: Shipping) -> dict[str, Path]:
        """Write the super ticket's folder; without tickets, the dense model as a base model."""
        if not done.settings.kinds:
            return {"model": _ship_base(done)}
        best, folder = best_run(done.runs.only(stage=None)), done.runs.folder / TICKET
        if best is None:
            return {}
        trainings = trainings_like(done.runs.only(stage=None), best)
        if (outcome := done.unshipped(folder, best)) is not None:
            from supertickets.export.ship import ship

            ticket = super_ticket(done.runs, best, done.settings)
            task = done.tasks[done.runs.task.source]
            ship(ticket, outcome, done.base, task, folder, trainings=trainings)
        else:
            update_evidence(folder, trainings)
        return {"ticket": folder}

    def to_ship(self, runs: Sequence[Run], settings: FindSettings) -> list[Run]:
        """Return the winning tickets; without tickets, the dense runs."""
        if not settings.kinds:
            return [run for run in runs if run.step.labels["kind"] == "dense"]
        winning = [run for run in runs if run.step.labels["kind"] == "winning" and "stage" not in run.step.labels]
        return [run for run in winning if run.step.labels["level"] and settings.keep != "none" and run.counts]

    def standing(self, runs: Runs, settings: FindSettings) -> str:
        """Return the best level so far of a search, and what it does not know."""
        if not settings.searches:
            return ""
        try:
            return self._searched(runs, settings).sentence
        except TicketError as error:  # a budget that turned out to pay for no search
            return str(error)

    def _searched(self, runs: Runs, settings: FindSettings) -> Searched:
        from supertickets.evidence.searched import searched

        dense = [run.result for run in runs.only(stage=None).where(kind="dense")]
        prices = prices_of(self.draws(settings, runs.task).about, runs.task.shape)
        known = len(dense) == settings.seeds  # else the search has not begun
        share = (paid_share if known else budget_of)(settings, runs.task, prices, dense)
        return searched(runs, settings.search, prices, share or 1.0)

    def has_shipped(self, folder: Path) -> bool:
        """Whether the super ticket's model, or the base model, is there."""
        return (folder / TICKET / MODEL_FOLDER).is_dir() or (folder / BASE_MODEL).is_dir()

    def tickets(self, runs: Runs, settings: FindSettings, sparsity: float | None = None) -> list[FoundTicket]:
        """Return the super ticket."""
        if not (settings.folder / TICKET / TICKET_JSON).is_file():
            if "winning" not in settings.kinds:
                kinds = ",".join(settings.kinds) or "none"
                raise TicketError(f"{settings.folder}: the study has no winning tickets (--kinds {kinds}).")
            raise TicketError(
                f"{settings.folder}: there is no super ticket in it yet; run its `supertickets find` to the end."
            )
        return [ticket_in(settings.folder / TICKET, runs.task, settings.recipe)]

    def models(self, runs: Runs, settings: FindSettings) -> list[TrainedModel]:
        """Return the dense model of the super ticket's seed, and the super ticket."""
        grid_runs = runs.only(stage=None)
        best = best_run(grid_runs)
        if best is None:
            raise TicketError(
                f"{settings.folder}: there is no super ticket, as no winning ticket above level 0 has finished; run "
                "`supertickets find` to the end, with levels above 0."
            )
        labels, task = best.step.labels, runs.task.task.upper()
        return [
            trained_model(grid_runs, f"{task}-ST-DNN", kind="dense", seed=labels["seed"]),
            trained_model(grid_runs, f"{task}-SuperT", **labels),
        ]


def grid(
    settings: FindSettings,
    task: TaskInfo,
    labels: Mapping[str, Label] | None = None,
    draws: Draws | None = None,
) -> Iterator[Step]:
    """Yield dense runs, and the tickets of every kind and level that are drawn from their scores (paper, section 3).

    One-shot, a dense run's scores give every level. Iterative, they give the first; then each rewound ticket's own
    scores give the next. `labels` are put before each step's own. `draws` says how; None: at the settings' levels. A
    ticket that lacks something is taught where there is a teacher; one that keeps everything is the dense run.
    """
    full, draws = full_ticket(task), draws or ByLevel(settings, task.shape)
    costs = {level: training_flops(task, ticket, settings.epochs) for level, ticket in draws.about.items()}
    for seed in settings.all_seeds:
        dense = Step(
            {**(labels or {}), "kind": "dense", "level": 0.0, "seed": seed},
            trial_of(
                settings, task, full, seed, scoring=settings.scoring if settings.kinds else None, **_stored(settings)
            ),
            keep="yes" if settings.keep in ("dense", "all") else _kept(settings, "dense"),
            cost=training_flops(task, full, settings.epochs, scored=True),
        )
        yield dense
        for kind in settings.kinds:
            before = dense
            for level, cost in costs.items():
                needs = [] if kind == "random" else [before]
                needs += [dense] if settings.teaches and dense not in needs else []
                step = Step(
                    {**(labels or {}), "kind": kind, "level": level, "seed": seed},
                    partial(_drawn, settings, task, draws, kind, level, seed, (before, dense), level < max(costs)),
                    needs=tuple(needs),
                    keep="yes" if settings.keep == "all" else _kept(settings, kind),
                    cost=cost,
                )
                yield step
                if settings.schedule == "iterative" and level and kind != "random":
                    before = step


def _kept(settings: FindSettings, kind: str) -> Literal["best", "no"]:
    """Return whether trained weights may stay: one model is shipped, and any other can be trained again."""
    shipped = "winning" if settings.kinds else "dense"
    return "best" if settings.keep != "none" and kind == shipped else "no"


def _drawn(
    settings: FindSettings,
    task: TaskInfo,
    draws: Draws,
    kind: Kind,
    level: float,
    seed: int,
    after: tuple[Step, Step],
    more: bool,
    done: Done,
) -> Trial:
    """Return the trial of a ticket of some kind, drawn from the scores of the step before it (random: from none).

    It comes `after` that step and the dense run, which may teach it. `more`: heavier levels come after it.
    """
    before, dense = after
    if not level:
        ticket = full_ticket(task)
    elif kind == "random":
        ticket = draws.random(level, seed)
    else:
        outcome = done[before]
        ticket = draws.ranked(kind, level, outcome.scores(), outcome.trial.ticket)
    scored = kind != "random" and (ticket.is_full or (settings.schedule == "iterative" and more))
    how = _stored(settings) if ticket.is_full else taught(settings, dense, done)
    return trial_of(settings, task, ticket, seed, scoring=settings.scoring if scored or not level else None, **how)


def _stored(settings: FindSettings) -> dict[str, Any]:
    """Return what of a dense run says that it stores its outputs, where it is to teach."""
    return {"logits": True} if settings.teaches else {}


def _of_same_share(settings: FindSettings, task: TaskInfo, draws: ForTarget, dense: Step) -> Step:
    """Return the step of the ticket that reaches the target as the paper prunes, beside the winning one."""
    seed, (cost,) = int(dense.labels["seed"]), draws.about.values()

    def make(done: Done) -> Trial:
        ticket = draws.same_share("winning", done[dense].scores())
        return trial_of(settings, task, ticket, seed, **taught(settings, dense, done))

    labels: dict[str, Label] = {"stage": SAME_SHARE, "kind": "winning", "level": draws.level, "seed": seed}
    return Step(labels, make, needs=(dense,), cost=training_flops(task, cost, settings.epochs))


def best_winning(done: Done, winning: Sequence[Step]) -> Outcome | None:
    """Return the super ticket among winning steps (see `evidence.selection.select_super`), None if there is none."""
    found = [outcome for step in winning if (outcome := done.get(step)) is not None and step.labels["level"]]
    return max((one for one in found if not one.trial.ticket.is_full), key=lambda one: one.rank, default=None)


def best_run(runs: Runs) -> Run | None:
    """Return the run of the super ticket (see `evidence.selection.select_super`)."""
    from supertickets.evidence.selection import select_super

    chosen = select_super(runs.table)
    if chosen is None:
        return None
    return runs.where(kind="winning", level=float(chosen["level"]), seed=int(chosen["seed"]))[0]


def _rates(settings: FindSettings, task: TaskInfo, winning: Sequence[Step]) -> Iterator[Step]:
    """Yield the dense model and the super ticket with every learning rate and seed (Tables 5 and 8, appendix A.4)."""
    full, cost = full_ticket(task), training_flops(task, full_ticket(task), settings.epochs)

    def super_ticket(recipe: Recipe, seed: int, dense: Step, done: Done) -> Trial | None:
        if (best := best_winning(done, winning)) is None:
            return None
        return trial_of(settings, task, best.trial.ticket, seed, recipe=recipe, **taught(settings, dense, done))

    for rate in settings.learning_rates:
        recipe = settings.recipe.model_copy(update={"learning_rate": rate})
        # With the study's own rate they are its dense runs, which it has scored.
        scoring = settings.scoring if rate == settings.learning_rate else None
        for seed in settings.seeds_of_rates:
            labels: dict[str, Label] = {"stage": RATES, "seed": seed, "learning_rate": rate}
            trial = trial_of(settings, task, full, seed, recipe=recipe, scoring=scoring, **_stored(settings))
            dense = Step({**labels, "kind": "dense", "level": 0.0}, trial, cost=cost)
            yield dense
            make, teacher = partial(super_ticket, recipe, seed, dense), (dense,) if settings.teaches else ()
            yield Step({**labels, "kind": "super"}, make, needs=(*teacher, *winning), cost=cost)


def super_ticket(runs: Runs, run: Run, settings: FindSettings) -> SharedTicket[Ticket]:
    """Return the ticket of a winning run, with the scores it was drawn by and where it comes from."""
    from supertickets.lab.environment import versions

    scored = next(one.result for one in runs.runs if one.step is run.step.needs[0])
    scores = scored.scores()
    ranked = "heads and neurons" if "neurons" in scores else "heads"
    normalised = "no" if settings.target else f"{ranked} by their layer's l2 norm"
    drawn: dict[str, Any] = {"trial": scored.key, "normalised": normalised}
    drawn |= settings.scoring.model_dump() | part(settings, Drawing).model_dump()
    if settings.target:  # which says what is kept in place of a level
        drawn = {name: value for name, value in drawn.items() if name not in ("counts", "random", "schedule")}
    task = runs.task
    base = base_entry(task.model, task.weight_hash, task.model_type, task.layers)
    origin = origin_of(runs, run, settings) | {"scores": drawn}
    origin |= {"target": list(settings.target)} if settings.target else {}
    return SharedTicket(run.result.trial.ticket, base, origin, versions(), dict(scores.items()))


def _ship_base(done: Shipping) -> Path:
    """Save the dense model of the best seed as a base model, unless it is there already."""
    from supertickets.export.ship import save_base

    folder = done.runs.folder / BASE_MODEL
    if not folder.is_dir():
        best = max((run.result for run in done.runs.where(kind="dense")), key=lambda outcome: outcome.rank)
        save_base(done.with_weights(best.trial), done.base, done.tasks[done.runs.task.source], folder)
    return folder
