"""Tickets of one task trained on others, at equal sparsity: the source x target matrix (Chen et al., 2020, 4.2)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from supertickets.anatomy.cost import units
from supertickets.errors import TicketError, named_twice
from supertickets.lab.steps import Step
from supertickets.lab.trial import TicketField, WeightMask
from supertickets.models import BaseModel, prunable_shapes, prunable_weights
from supertickets.storage import write_atomically
from supertickets.studies.config import SETTINGS_FILE, Overrides, flag
from supertickets.studies.settings import part, slug, source_of
from supertickets.studies.study import Inputs, Kept, Request, Study, full_ticket, study, training_flops, trial_of
from supertickets.studies.transfer_settings import TransferSettings
from supertickets.tasks import TaskSource, load_task, task_name
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random
from supertickets.tickets.levels import counts_at
from supertickets.tickets.ticket import alike, flat
from supertickets.tickets.weights import Pruning, WeightTicket, check_all_tensors, check_tensors, prune_by_magnitude
from supertickets.training.recipe import Recipe

if TYPE_CHECKING:
    from supertickets.evidence.runs import Runs, TaskInfo
    from supertickets.evidence.transfer import TransferFindings
    from supertickets.studies.exchange import FoundTicket

MASKS = "masks"
"""In a study's folder: the tickets of weights."""
_ALIKE = 0.01
"""How far sparsities may be apart: without the pooler, tickets that were pruned with it are a little denser."""


class Source(Kept):
    """A ticket to train on every target: its kind and name, the task it was found on (None: on none), what it keeps.

    A `mask` names its file in the study's folder; `content` is that file's, until it is written. A random ticket of
    heads and FFNs has neither `mask` nor `ticket`: each seed draws its own.
    """

    kind: Literal["ticket", "one-shot", "random"]
    name: str
    task: str | None = None
    mask: WeightMask | None = None
    ticket: TicketField | None = None
    content: bytes | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def of_weights(cls, kind: str, name: str, task: str | None, ticket: WeightTicket) -> Self:
        """Return the source of a ticket of weights."""
        mask = {"how": "file", "path": f"{slug(name)}.safetensors", "digest": ticket.digest}
        return cls.model_validate(
            {"kind": kind, "name": name, "task": task, "mask": mask, "content": ticket.to_bytes()}
        )

    def found(self, folder: Path) -> Ticket | WeightTicket | None:
        """Return its ticket, of weights from a study's folder; None if each seed draws its own, or the file is gone."""
        path = folder / MASKS / self.mask.path.name if self.mask is not None and self.mask.path is not None else None
        if path is None or not path.is_file():
            return self.ticket
        return WeightTicket.from_bytes(path.read_bytes(), str(path))


class Target(Kept):
    """A task that tickets are trained on, and how."""

    source: TaskSource
    recipe: Recipe


class TransferPlan(Inputs):
    """What a study of `transfer` trains on what, and at which sparsity (or level)."""

    sparsity: float
    sources: tuple[Source, ...]
    targets: tuple[Target, ...]

    def save(self, folder: Path) -> None:
        """Write it into a study's folder, with the files of masks."""
        for source in self.sources:
            if source.content is not None and source.mask is not None and source.mask.path is not None:
                write_atomically(folder / MASKS / source.mask.path, source.content)
        super().save(folder)

    def difference(self, before: Self) -> str:
        """Return what the folder's study has another of."""
        parts: list[tuple[str, Callable[[Self], list[Any]]]] = [
            ("sources", lambda plan: [(source.kind, source.name) for source in plan.sources]),
            ("tickets", lambda plan: [source.mask or source.ticket for source in plan.sources]),
            ("recipes", lambda plan: [target.recipe for target in plan.targets]),
        ]
        return next((what for what, of in parts if of(self) != of(before)), "")


@study("transfer", settings=TransferSettings)
class Transfer(Study[TransferSettings]):
    """Train the tickets of some tasks on other tasks.

    Every ticket is rewound to the pre-trained weights and trained on every task with that task's recipe. The dense
    model and tickets that belong to no task, of the same sparsity, are trained for comparison.
    """

    Inputs = TransferPlan
    inputs: TransferPlan
    heading = "transfer: tickets of {runs.model} on {tasks}"
    page = "supertickets.reports.transfer:transfer_sections"

    def steps(self, settings: TransferSettings, tasks: Sequence[TaskInfo]) -> Iterator[Step]:
        """Yield a step a seed, target and source, the dense model first; none waits for another."""
        for seed in settings.all_seeds:
            for task, target in zip(tasks, self.inputs.targets, strict=True):
                for source in (None, *self.inputs.sources):
                    yield self._step(settings, task, target.recipe, source, seed)

    def _step(
        self, settings: TransferSettings, task: TaskInfo, recipe: Recipe, source: Source | None, seed: int
    ) -> Step:
        ticket, mask, level = full_ticket(task), source.mask if source is not None else None, self.inputs.sparsity
        if source is not None and source.ticket is not None:
            ticket = source.ticket
        elif source is not None and mask is None:
            ticket = _random(task, [one.ticket for one in self.inputs.sources if one.ticket], level, seed)
        if mask is not None:  # its file is wherever the folder is now
            path = (settings.folder / MASKS / mask.path.name).resolve() if mask.path is not None else None
            mask = mask.model_copy(update={"path": path, **({"seed": seed} if mask.how == "random" else {})})
        recipe = recipe.model_copy(update={"precision": settings.precision})
        trial = trial_of(settings, task, ticket, seed, recipe=recipe, mask=mask)
        kind, name = ("dense", "dense") if source is None else (source.kind, source.name)
        return Step(
            {"kind": kind, "source": name, "sparsity": level if source else 0.0, "task": task.task, "seed": seed},
            trial,
            keep="yes" if settings.keep == "all" else "no",
            cost=training_flops(task, ticket, recipe.epochs),
        )

    def analyse(self, runs: Runs, settings: TransferSettings) -> TransferFindings:
        """Return the matrix of gains, and how alike the tickets are (see `evidence.transfer`)."""
        from supertickets.evidence.transfer import analyse_transfer

        plan = self.inputs
        found = {source.name: source.found(settings.folder) for source in plan.sources}
        tickets = {name: ticket for name, ticket in found.items() if ticket is not None}
        return analyse_transfer(runs, {source.name: source.task for source in plan.sources}, tickets, plan.sparsity)

    def describe(self, settings: TransferSettings, tasks: Sequence[TaskInfo]) -> str:
        """Return what is trained on what, in words."""
        from supertickets.evidence.findings import level

        names = ", ".join(source.name for source in self.inputs.sources)
        return f"tickets of {names} at {level(self.inputs.sparsity)} on {', '.join(task.task for task in tasks)}"

    @classmethod
    def prepare(cls, overrides: Overrides, quiet: bool = True, dry: bool = False) -> Request:
        """Return the study that is asked for, with its plan; raises TicketError for what cannot be run.

        Writes nothing: the plan is saved when the study begins.
        """
        settings, base = cls.resolve(overrides, quiet)
        settings, found = _found(settings, base, quiet)
        sources, level = (_of_structures if settings.sparsity is None else _of_weights)(found, base, settings)
        names = ["dense", *(source.name for source in sources)]
        if (twice := named_twice(names)) is not None:
            raise TicketError(f"--tickets: there are two tickets of {twice}; expected each source once.")
        targets = _targets(settings, base, found)
        plan = TransferPlan(sparsity=level, sources=tuple(sources), targets=tuple(targets))
        tasks = {target.source: load_task(target.source) for target in targets}
        return Request(settings, base, tasks, plan, lengths=tuple(target.recipe.max_length for target in targets))


def _found(settings: TransferSettings, base: BaseModel, quiet: bool) -> tuple[TransferSettings, list[FoundTicket]]:
    """Return the tickets to take, and the settings with their sparsity (None for tickets of heads and FFNs).

    Raises TicketError if there are none, if some are of weights and others not, or if one is of another model.
    """
    from supertickets.studies.inputs import check_base, open_sparsities, open_tickets

    if not settings.tickets:
        raise TicketError("--tickets: name finished studies of `imp` or `find`, or ticket folders.")
    there = {path: open_sparsities(path) for path in settings.tickets}
    found = {path: open_tickets(path) for path, sparsities in there.items() if not sparsities}
    of_weights = {path: sparsities for path, sparsities in there.items() if sparsities}
    if found and of_weights:
        raise TicketError("--tickets: some are of single weights, others of heads and FFNs; run them separately.")
    sparsity = _common_sparsity(of_weights, settings.sparsity)
    if settings.sparsity != sparsity and not quiet:
        said = f"--sparsity: using {sparsity:g}, the highest sparsity that all --tickets have."
        print(said, file=sys.stderr)
    found |= {path: open_tickets(path, sparsity) for path in of_weights}
    tickets = [ticket for path in settings.tickets for ticket in found[path]]
    for ticket in tickets:
        check_base(ticket, base)
    return settings.model_copy(update={"sparsity": sparsity}), tickets


def _common_sparsity(there: Mapping[Path, Sequence[float]], asked: float | None) -> float | None:
    """Return the sparsity to take: the one asked for, or the highest that all have; None where there are none.

    Raises TicketError if not all have it. A study's sparsities are the round numbers that its tickets came as near to
    as whole weights allow; a ticket folder's is what came out.
    """
    if not there:
        if asked is not None:
            raise TicketError("--sparsity: tickets of heads and FFNs have no sparsity to choose; leave it out.")
        return None
    known = "; ".join(f"{path} has {', '.join(f'{s:.4g}' for s in found)}" for path, found in there.items())
    studies = [path for path in there if (path / SETTINGS_FILE).is_file()]

    def common(sparsity: float) -> bool:
        far = {path: 1e-9 if path in studies else _ALIKE for path in there}
        return all(any(abs(sparsity - one) <= far[path] for one in found) for path, found in there.items())

    if asked is not None:
        if not common(asked):
            raise TicketError(f"--sparsity {asked:g}: not all --tickets have a ticket of this sparsity: {known}.")
        return asked
    shared = [sparsity for path in studies or there for sparsity in there[path] if common(sparsity)]
    if not shared:
        raise TicketError(f"--tickets: they have no sparsity in common: {known}.")
    return max(shared)


def _of_structures(
    found: Sequence[FoundTicket], base: BaseModel, settings: TransferSettings
) -> tuple[list[Source], float]:
    """Return the sources of tickets of heads and FFNs, and the mean share of these that they lack.

    Raises TicketError for settings that are of single weights alone.
    """
    given = [name for name in Pruning.model_fields if getattr(settings, name) != Pruning.model_fields[name].default]
    if "one-shot" in settings.baselines and "baselines" in settings.model_fields_set:
        given.append("baselines")
    if given:
        raise TicketError(
            f"{flag(given[0])}: {getattr(settings, given[0])} is for tickets of single weights; those of --tickets are "
            "of heads and FFNs, so leave it out."
        )
    tickets = [(one, one.ticket) for one in found if isinstance(one.ticket, Ticket)]
    sources = [Source(kind="ticket", name=one.name, task=one.task or None, ticket=ticket) for one, ticket in tickets]
    lacking = [1 - float(flat(kept).mean()) for kept in alike(*(ticket for _, ticket in tickets))]
    if "random" in settings.baselines:
        sources.append(Source(kind="random", name="random"))
    return sources, round(sum(lacking) / len(lacking), 4)


def _random(task: TaskInfo, tickets: Sequence[Ticket], level: float, seed: int) -> Ticket:
    """Return a random ticket of the kinds of structures that tickets have, with a fraction of each pruned."""
    of = units(task.shape, [*alike(*tickets)[0]])
    return draw_random(full_ticket(task).shape, of, counts_at(level, of), level, seed, Drawing.model_validate({}))


def _of_weights(
    found: Sequence[FoundTicket], base: BaseModel, settings: TransferSettings
) -> tuple[list[Source], float]:
    """Return the sources of tickets of weights, and their sparsity.

    Tensors that the settings say are not pruned stay whole in every ticket. Raises TicketError if one lacks a
    tensor, or if sparsities differ.
    """
    pruning = part(settings, Pruning)
    every, weights = prunable_shapes(base), prunable_weights(base, pruning)
    shapes = {name: values.shape for name, values in weights.items()}
    sources: list[Source] = []
    sparsities: list[float] = []
    for one in found:
        assert isinstance(one.ticket, WeightTicket)
        check_tensors(one.ticket, every, base.name)
        ticket = one.ticket.part([tensor for tensor in one.ticket.masks if tensor in shapes])
        check_all_tensors(ticket, shapes, base.name)
        if sparsities and abs(ticket.sparsity - sparsities[0]) > _ALIKE:
            raise TicketError(
                f"--tickets: the ticket of {found[0].name} has sparsity {sparsities[0]:.3f}, that of {one.name} "
                f"{ticket.sparsity:.3f}; expected equal sparsities."
            )
        sources.append(Source.of_weights("ticket", one.name, one.task or None, ticket))
        sparsities.append(ticket.sparsity)
    level = round(sum(sparsities) / len(sparsities), 4)
    if "one-shot" in settings.baselines:
        drawn = prune_by_magnitude(weights, level, scope=pruning.scope)
        sources.append(Source.of_weights("one-shot", "one-shot", None, drawn))
    if "random" in settings.baselines:
        mask = {"how": "random", "sparsity": level, "pruning": pruning, "seed": 0}
        sources.append(Source(kind="random", name="random", mask=WeightMask.model_validate(mask)))
    return sources, level


def _targets(settings: TransferSettings, base: BaseModel, found: Sequence[FoundTicket]) -> list[Target]:
    """Return the tasks to train on, with the examples and the recipe of the study that found the task's ticket."""
    own = {task_name(one.task): (one.source, one.recipe) for one in found if one.source is not None}
    asked = dict.fromkeys(settings.tasks or (one.task for one in found if one.task))
    if not asked:
        raise TicketError("--tasks: the tickets do not say which tasks they were found on; name the tasks to train on.")
    if settings.data is not None and all(task_name(task) in {*own, *BUILTIN} for task in asked):
        raise TicketError("--data: it would change nothing: every target is built in or has a study.")
    targets = []
    for task in asked:
        source, recipe = own.get(task_name(task), (source_of(task, settings.data), None))
        if recipe is None or settings.preset is not None:
            recipe = settings.preset_recipe(base.shape, task)
        values = {**recipe.model_dump(), **settings.asked_recipe(), "threads": settings.threads}
        values["max_length"] = min(values["max_length"], base.max_length)
        targets.append(Target(source=source, recipe=Recipe.model_validate(values)))
    return targets
