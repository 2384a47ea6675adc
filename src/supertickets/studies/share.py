"""Ticket sharing: each task trains its own super ticket of one encoder (Super Tickets paper, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from supertickets.errors import StudyError, TicketError, named_twice
from supertickets.evidence.labels import MT_DNN, RATES, SEARCH, SHARED, TICKET_SHARE, TUNED
from supertickets.evidence.runs import TaskInfo
from supertickets.lab.steps import Done, Run, Step
from supertickets.lab.trial import Trial
from supertickets.studies.config import Overrides, called, fill, load_settings, named_by, parse
from supertickets.studies.exchange import Shipping, TrainedModel, trained_model
from supertickets.studies.find import best_run, best_winning, grid, super_ticket
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.members import cut_to_size, find_members
from supertickets.studies.settings import part, slug
from supertickets.studies.share_settings import ShareSettings
from supertickets.studies.study import Inputs, Request, Study, full_ticket, study, training_flops, trial_of
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import (
    MODEL_FOLDER,
    SHARED_MODEL,
    TICKET_JSON,
    SharedTicket,
    load_ticket,
    shipped_trial,
)
from supertickets.training.recipe import Recipe, Sharing

if TYPE_CHECKING:
    from supertickets.evidence.runs import Runs
    from supertickets.evidence.share import ShareFindings

TICKETS = "tickets"
"""Below a study's folder: each task's ticket, as it is shared."""
TASK_MODELS = "models"
"""Below a study's folder: each task's ticket folder, with its part of the shared model."""


class ShareInputs(Inputs):
    """The tickets that were given, by the slug of their task; none where they are searched for first."""

    tickets: Mapping[str, SharedTicket[Ticket]]

    def save(self, folder: Path) -> None:
        """Write a ticket folder each."""
        from supertickets.export.card import ticket_card

        for name, shared in self.tickets.items():
            shared.save(folder / TICKETS / name, ticket_card(shared, with_model=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the tickets of the ticket folders."""
        found = sorted((folder / TICKETS).glob(f"*/{TICKET_JSON}"))
        return cls(tickets={path.parent.name: load_ticket(path.parent) for path in found})

    def difference(self, before: Self) -> str:
        """Return the first task whose ticket is another."""
        for name, shared in self.tickets.items():
            if name in before.tickets and before.tickets[name].ticket != shared.ticket:
                return f"tickets (that of {name})"
        return ""


@study("share", settings=ShareSettings)
class Share(Study[ShareSettings]):
    """Train several tasks on one encoder, each with its own super ticket.

    The tickets come from finished studies (--tickets) or are searched for first. Heads and FFNs that no task keeps are
    removed, and a training step of a task changes only that task's ticket. The dense model is trained in the same way
    for comparison (MT-DNN), and both are fine-tuned on each task. Run the same command again to resume.
    """

    Inputs = ShareInputs
    heading = "Tickets shared by {count} tasks on {runs.model}"
    page = "supertickets.reports.share:share_sections"

    def steps(self, settings: ShareSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield the search for tickets that were not given, the shared trainings, then their fine-tuning."""
        searched = [
            list(grid(fill_search(settings, task), task, {"stage": SEARCH, "task": task.task}))
            for task in (() if settings.tickets else tasks)
        ]
        needs = tuple(step for steps in searched for step in steps)
        yield from needs
        winning = [[step for step in steps if step.labels["kind"] == "winning"] for steps in searched]
        full = [full_ticket(task) for task in tasks]
        given = [one.ticket for one in self._given(tasks)] if settings.tickets else None
        epochs = settings.epochs

        def found(done: Done) -> Sequence[Ticket] | None:
            best = [best_winning(done, steps) for steps in winning]
            return None if None in best else [one.trial.ticket for one in best if one is not None]

        def together(seed: int, tickets: Sequence[Ticket] | None, done: Done) -> Trial | None:
            tickets = tickets or found(done)
            dropout = [settings.dropout_of(task.task) if settings.dropout is None else None for task in tasks]
            more: dict[str, Any] = {"sharing": part(settings, Sharing), "dropout": dropout}
            return None if tickets is None else trial_of(settings, tasks, tickets, seed, **more)

        for seed in settings.all_seeds:
            for kind, tickets in ((MT_DNN, full), (TICKET_SHARE, given)):
                shared = Step(
                    {"stage": SHARED, "kind": kind, "seed": seed},
                    partial(together, seed, tickets),
                    needs=() if tickets else needs,
                    keep="no" if settings.keep == "none" else "yes",
                    cost=sum(training_flops(t, k, epochs) for t, k in zip(tasks, tickets or full, strict=True)),
                )
                yield shared
                yield from self._tuned(settings, tasks, shared, seed)

    def _tuned(self, settings: ShareSettings, tasks: Sequence[TaskInfo], shared: Step, seed: int) -> Iterator[Step]:
        """Yield a shared model's fine-tuning on each task; of the first seed also with other rates and seeds."""
        stages: list[tuple[str, int, dict[str, float]]] = [(TUNED, seed, {})] if settings.fine_tune else []
        if seed == settings.first_seed:
            rates = [{"learning_rate": rate} for rate in settings.learning_rates]
            stages += [(RATES, other, rate) for rate in rates for other in settings.seeds_of_rates]
        for stage, own, rate in stages:
            for place, task in enumerate(tasks):
                recipe = settings.fine_tuning(task.task).model_copy(update=rate)
                yield Step(
                    {"stage": stage, "kind": shared.labels["kind"], "task": task.task, "seed": own, **rate},
                    partial(_fine_tuned, settings, task, place, shared, own, recipe),
                    starts_from=(shared,),
                    keep="yes" if settings.keep == "all" else "no",
                    cost=training_flops(task, full_ticket(task), recipe.epochs),
                )

    def _given(self, tasks: Sequence[TaskInfo]) -> list[SharedTicket]:
        return [self.inputs.tickets[slug(task.task)] for task in tasks]

    def analyse(self, runs: Runs, settings: ShareSettings) -> ShareFindings:
        """Return Table 3, gains, sizes, who keeps what (see `evidence.share`)."""
        from supertickets.evidence.share import analyse_share

        shared = self._shared(runs, settings)
        tickets = {task.task: one.ticket for task, one in zip(runs.tasks, shared, strict=True)}
        return analyse_share(runs, tickets, {task: one.scores for task, one in zip(tickets, shared, strict=True)})

    def _shared(self, runs: Runs, settings: ShareSettings) -> list[SharedTicket[Ticket]]:
        """Return each task's ticket: as it was given, or found here."""
        if settings.tickets:
            return self._given(runs.tasks)
        found = []
        for task in runs.tasks:
            searched = runs.only(stage=SEARCH, task=task.task)
            searched.check_some_finished(f"dense training of task {task.task!r}", kind="dense")
            best = best_run(searched)
            if best is None:
                raise StudyError(f"task {task.task!r}: no winning ticket that prunes anything finished its training.")
            found.append(super_ticket(runs, best, fill_search(settings, task)))
        return found

    def ship(self, done: Shipping) -> dict[str, Path]:
        """Write the best Ticket-Share model and each task's part of it, unless they are there already."""
        tickets, folder = self._shared(done.runs, done.settings), done.runs.folder
        if not done.settings.tickets:
            ShareInputs(tickets={slug(t.task): s for t, s in zip(done.runs.tasks, tickets, strict=True)}).save(folder)
        shared = done.runs.where(stage=SHARED, kind=TICKET_SHARE)
        if done.settings.keep == "none" or not shared:
            return {}
        best = max((run.result for run in shared), key=lambda outcome: (outcome.score, -outcome.trial.seed)).trial
        folders = [folder / TASK_MODELS / slug(task.task) for task in done.runs.tasks]
        whole = all((one / MODEL_FOLDER).is_dir() and (one / TICKET_JSON).is_file() for one in folders)
        if not whole or shipped_trial(folder / SHARED_MODEL) != best.key:
            from supertickets.export.shared import ship_shared

            tasks = [done.tasks[task.source] for task in done.runs.tasks]
            ship_shared(folder / SHARED_MODEL, folders, done.with_weights(best), done.base, tasks, tickets)
        return {"model": folder / SHARED_MODEL, "models": folder / TASK_MODELS}

    def to_ship(self, runs: Sequence[Run], settings: ShareSettings) -> list[Run]:
        """Return the shared tickets' trainings."""
        own = {"stage": SHARED, "kind": TICKET_SHARE}
        return [run for run in runs if settings.keep != "none" and own.items() <= run.step.labels.items()]

    def models(self, runs: Runs, settings: ShareSettings) -> list[TrainedModel]:
        """Return MT-DNN and Ticket-Share of the first seed."""
        seed = settings.first_seed
        return [trained_model(runs, kind, stage=SHARED, kind=kind, seed=seed) for kind in (MT_DNN, TICKET_SHARE)]

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for, with its tasks and the tickets that are given."""
        from supertickets.studies.inputs import check_base

        first = parse(ShareSettings, overrides)
        members = find_members(first)
        if len(members) < 2:
            raise TicketError(f"--tasks: sharing needs at least two tasks, got {members[0].source.task!r} alone.")
        if first.data is not None and all(member.source.data != first.data for member in members):
            raise TicketError("--data: it would change nothing: no task takes its examples from there.")
        if members[0].found is None and not any(first.levels):
            raise TicketError("--levels 0: a ticket of level 0 is the dense model; add a level above 0.")
        overrides["tasks"] = tuple(member.source.task for member in members)
        settings, base = cls.resolve(overrides, quiet)
        for member in members:
            if member.found is not None:
                check_base(member.found, base)
        loaded = dict(cut_to_size(member.source, load_task(member.source), first) for member in members)
        if of_tokens := [task.name for task in loaded.values() if task.form != "sequence"]:
            raise TicketError(
                f"--tasks: task {of_tokens[0]!r} has outputs for each token, which `share` does not support yet; "
                "expected tasks with outputs for whole texts (`supertickets find` supports this one)."
            )
        names = [task.name for task in loaded.values()]
        slugs = [slug(name) for name in names]
        if (twice := named_twice(slugs)) is not None:
            name = names[slugs.index(twice)]
            raise TicketError(f"--tasks: another task's name is too similar to {name!r}; rename one of them.")
        _check_search(settings, {source: TaskInfo.of(base, source, task) for source, task in loaded.items()})
        given = {name: one.found.shared for name, one in zip(slugs, members, strict=True) if one.found is not None}
        return Request(settings, base, loaded, ShareInputs.model_validate({"tickets": given}))


def _check_search(settings: ShareSettings, tasks: Mapping[TaskSource, TaskInfo]) -> None:
    """Raise TicketError where tickets cannot be searched for, or are given to a folder whose study searches, or not."""
    if not settings.tickets:
        with called("--epochs", "--find-epochs"):
            for task in tasks.values():
                fill_search(settings, task)
    with named_by("--out"):
        before = load_settings(settings.folder)
    if isinstance(before, ShareSettings) and bool(before.tickets) != bool(settings.tickets):
        had = "was given tickets" if before.tickets else "searches for its tickets"
        raise TicketError(f"--tickets: the study in {settings.folder} {had}; choose another folder with --out.")


def fill_search(settings: ShareSettings, task: TaskInfo) -> FindSettings:
    """Return the settings of the search for a task's super ticket: this study's recipe, levels and seeds.

    Its epochs are those of a single task: the preset's, or as many as were asked for (appendix A.2.1).
    """
    own = {"out", "dropout", "keep", "data", "fraction_seed", "epochs", "learning_rates", "rate_seeds"}
    same = {name: getattr(settings, name) for name in ShareSettings.model_fields.keys() & FindSettings.model_fields}
    same = {name: value for name, value in same.items() if name not in own | settings.without_effect({}).keys()}
    if settings.score_epoch is None:
        same.pop("score_epoch", None)  # the task's own, by preset
    if settings.find_epochs is not None:
        same["epochs"] = settings.find_epochs
    if settings.dropout is not None:
        same["dropout"] = settings.dropout
    source = {name: value for name, value in task.source.model_dump().items() if value is not None}
    return fill(FindSettings, {**same, **source, "kinds": ("winning",), "keep": "none"}, task.shape)


def _fine_tuned(
    settings: ShareSettings, task: TaskInfo, place: int, shared: Step, seed: int, recipe: Recipe, done: Done
) -> Trial:
    """Return the trial that goes on from a shared model on one task, with that task's ticket."""
    outcome = done[shared]
    return trial_of(settings, task, outcome.trial.tasks[place].ticket, seed, recipe=recipe, start=outcome.start(place))
