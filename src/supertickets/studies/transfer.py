"""Tickets of one task trained on others, at equal sparsity: the source x target matrix (Chen et al., 2020, 4.2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Model
from pydantic import ConfigDict

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import TicketError
from supertickets.evidence.magnitude import mask_at, ticket_at
from supertickets.evidence.record import Record, Subject, load_subjects
from supertickets.evidence.table import DENSE, Role
from supertickets.evidence.transfer import AnyTicket, Transfer, conclude_transfer
from supertickets.lab import Trial
from supertickets.lab.trial import TicketField, WeightMask
from supertickets.models import BaseModel, prunable_shapes, prunable_weights
from supertickets.storage import write_atomically
from supertickets.studies.config import flag, settings_of
from supertickets.studies.imp import ImpStudy
from supertickets.studies.presets import task_name
from supertickets.studies.settings import FindSettings, slug
from supertickets.studies.settings_weights import ImpSettings, TransferSettings
from supertickets.studies.study import Study, check_some_finished, conduct, prepare, recall, write_results
from supertickets.tasks import TaskSource, load_task
from supertickets.tasks.builtin import BUILTIN
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random
from supertickets.tickets.folder import TICKET_JSON, is_of_weights, load_ticket, load_weight_ticket
from supertickets.tickets.weights import Pruning, WeightTicket, check_all_tensors, check_tensors, prune_by_magnitude
from supertickets.training.recipe import Recipe

PLAN, MASKS = "transfer.json", "masks"
"""In a study's folder: what is trained on what, and the tickets of weights."""


class Source(Model):
    """A ticket to train on every target: its name, the task that it was found on (None: on none), and what it keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    task: str | None = None
    mask: WeightMask | None = None
    ticket: TicketField | None = None


class Target(Model):
    """A task that tickets are trained on, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: TaskSource
    recipe: Recipe


class Plan(Model):
    """What a study of `transfer` trains on what, and at which sparsity (or level)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float
    sources: tuple[Source, ...]
    targets: tuple[Target, ...]


class TransferStudy(Study):
    """Every source's ticket trained on every target, beside the dense model; a subject a target."""

    settings: TransferSettings

    def __init__(self, settings: TransferSettings, subjects: Sequence[Subject], plan: Plan) -> None:
        super().__init__(settings, subjects)
        self.plan = plan
        self.full = Ticket.full(self.layers, self.heads)

    @classmethod
    def remembered(cls, settings: TransferSettings, subjects: Sequence[Subject]) -> TransferStudy | None:
        """Return the study in a folder; None if it stopped before it began."""
        plan = kept_plan(settings.folder)
        return cls(settings, subjects, plan) if plan is not None else None

    def expected(self) -> list[Role]:
        """Return a role for each target, seed and source, the dense model first."""
        return [role for role, _, _ in self._cells()]

    def _cells(self) -> list[tuple[Role, int, Source | None]]:
        level = self.plan.sparsity
        sources = [(DENSE, 0.0, None), *((source.name, level, source) for source in self.plan.sources)]
        return [
            (Role(name, sparsity, seed, subject.task), place, source)
            for seed in self.seeds
            for place, subject in enumerate(self.subjects)
            for name, sparsity, source in sources
        ]

    def opening(self) -> list[Trial]:
        """Return all trials; none waits for another."""
        return [self._cell(*cell) for cell in self._cells()]

    def _cell(self, role: Role, place: int, source: Source | None) -> Trial:
        recipe = self.plan.targets[place].recipe.model_copy(
            update={"precision": self.settings.precision, "processes": self.settings.processes}
        )
        ticket, mask = self.full, None
        if source is not None:
            ticket, mask = source.ticket or self.full, source.mask
            if mask is not None and mask.how == "random":
                mask = mask.model_copy(update={"seed": role.seed})
            if source.name == RANDOM and source.ticket is not None:
                ticket = draw_random(*ticket.shape, role.level, role.seed, Drawing.model_validate({}))
            if mask is not None and mask.path is not None:  # wherever the folder is now
                mask = mask.model_copy(update={"path": (self.settings.folder / MASKS / mask.path.name).resolve()})
        return self.trial(role, {place: ticket}, recipe=recipe, mask=mask)

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay."""
        return self.settings.keep == "all"

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be: pruned weights cost what all weights do."""
        shape = self.subject.shape
        return float(
            sum(
                self.plan.targets[place].recipe.epochs
                * forward_flops(shape, (source.ticket if source else None) or self.full, self.subjects[place].train, 32)
                for _, place, source in self._cells()
            )
        )

    def description(self) -> str:
        """Return what is trained on what, in words."""
        names = ", ".join(source.name for source in self.plan.sources)
        targets = ", ".join(subject.task for subject in self.subjects)
        return f"tickets of {names} at {self.plan.sparsity:.0%} on {targets}"

    def tickets(self) -> dict[str, AnyTicket]:
        """Return the tickets that are there to be compared: those that tasks found, and the one-shot one."""
        found: dict[str, AnyTicket] = {}
        for source in self.plan.sources:
            if source.ticket is not None and source.name != RANDOM:
                found[source.name] = source.ticket
            elif source.mask is not None and source.mask.path is not None:
                path = self.settings.folder / MASKS / source.mask.path.name
                if path.is_file():
                    found[source.name] = WeightTicket.from_bytes(path.read_bytes(), str(path))
        return found

    def shows(self, record: Record) -> Transfer:
        """Return what the study shows."""
        sources = {source.name: source.task for source in self.plan.sources}
        return conclude_transfer(record, sources, self.tickets(), self.plan.sparsity)


RANDOM, ONE_SHOT = "random", "one-shot"


@dataclass(frozen=True)
class TransferResult:
    """What `transfer` leaves: every run, the matrix, how alike the tickets are."""

    folder: Path
    transfer: Transfer
    failures: Mapping[str, str]

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"


def transfer(
    config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any
) -> TransferResult:
    """Train tickets of some tasks on others; the Python call behind `supertickets transfer`.

    Takes the settings of `TransferSettings` by name, in `config` (a mapping or a YAML file), as keywords, or both.
    Raises TicketError for misuse before anything is written, StudyError if no training finished.
    """
    finished, base = prepare(TransferSettings, config, settings, quiet)
    if not finished.tickets:
        raise TicketError("--tickets: name finished studies of `imp` or `find`, or ticket folders.")
    sparsity = _choose_sparsity(finished)
    if finished.sparsity != sparsity and not quiet:
        import typer

        typer.echo(f"--sparsity: the tickets of {sparsity:g} are taken, the highest that all --tickets have.", err=True)
    finished = finished.model_copy(update={"sparsity": sparsity})
    if sparsity is None:
        finished = _of_structures(finished)
    found = [given for path in finished.tickets for given in _given(path, sparsity, base)]
    names = [one.source.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TicketError(f"--tickets: there are two tickets of {twice[0]}; expected each source once.")
    found, level = _comparable(found, base, finished)
    targets = _targets(finished, base, found)
    tasks = {target.source: load_task(target.source) for target in targets}
    given = [*found, *_baselines(finished, base, found, level)]
    folder = finished.folder
    plan = Plan(sparsity=level, sources=tuple(one.here(folder) for one in given), targets=tuple(targets))

    def check() -> None:
        _check_same_plan(folder, kept_plan(folder), plan)

    def build(settled: TransferSettings, subjects: Sequence[Subject]) -> TransferStudy:
        for one, source in zip(given, plan.sources, strict=True):
            if one.content is not None and source.mask is not None and source.mask.path is not None:
                write_atomically(source.mask.path, one.content)
        write_atomically(folder / PLAN, plan.model_dump_json(indent=1) + "\n")
        return TransferStudy(settled, subjects, plan)

    return conduct(build, finished, base, tasks, quiet, _conclude, check=check)


def _conclude(study: TransferStudy, record: Record) -> TransferResult:
    from supertickets.studies.pages import write_transfer

    check_some_finished(record)
    seen = study.shows(record)
    write_results(record.folder, seen.runs)
    write_transfer(record, seen)
    return TransferResult(record.folder, seen, dict(record.failures))


def kept_plan(folder: Path) -> Plan | None:
    """Return what a study in a folder trains on what; None if it does not say. Raises TicketError if it is damaged."""
    try:
        return Plan.model_validate(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise TicketError(f"{folder / PLAN}: the file is damaged ({first}); choose another folder.") from error


def _check_same_plan(folder: Path, before: Plan | None, now: Plan) -> None:
    """Raise TicketError if a folder's study has other tickets or targets than are asked for now."""
    if before is None:
        return

    def what(plan: Plan) -> list[Any]:
        masks = [source.mask.model_dump(exclude={"path"}) if source.mask else source.ticket for source in plan.sources]
        return [[source.name for source in plan.sources], masks, [target.recipe for target in plan.targets]]

    for name, then, later in zip(("sources", "tickets", "recipes"), what(before), what(now), strict=True):
        if then != later:
            raise TicketError(f"--out {folder}: the folder's study has other {name}; choose another folder.")


@dataclass(frozen=True)
class _Given:
    """A source as it is found: with its file of masks, if its ticket is one of weights in a file."""

    source: Source
    content: bytes | None = None

    @classmethod
    def of_weights(cls, name: str, task: str | None, content: bytes) -> _Given:
        """Return the source of a ticket of weights."""
        mask = {"how": "file", "path": Path(f"{slug(name)}.safetensors"), "digest": hashlib.sha256(content).hexdigest()}
        return cls(Source(name=name, task=task, mask=WeightMask.model_validate(mask)), content)

    def here(self, folder: Path) -> Source:
        """Return the source with its file in a study's own folder."""
        mask = self.source.mask
        if mask is None or mask.path is None:
            return self.source
        return self.source.model_copy(
            update={"mask": mask.model_copy(update={"path": (folder / MASKS / mask.path.name).resolve()})}
        )


def _given(path: Path, sparsity: float | None, base: BaseModel) -> list[_Given]:
    """Return the tickets of a folder: of a study of `imp` one for each way to rewind, of `find` the super ticket."""
    study = _studied(path)
    if isinstance(study, ImpSettings):
        assert sparsity is not None
        return _of_imp(path, study, sparsity, base)
    return [_of_folder(path if study is None else path / "super-ticket", base)]


def _of_structures(settings: TransferSettings) -> TransferSettings:
    """Return the settings for tickets of heads and FFNs; raises TicketError for what is of single weights alone."""
    given = [name for name in Pruning.model_fields if getattr(settings, name) != Pruning.model_fields[name].default]
    if ONE_SHOT in settings.baselines and "baselines" in settings.model_fields_set:
        given.append("baselines")
    if given:
        raise TicketError(
            f"{flag(given[0])}: {getattr(settings, given[0])} is for tickets of single weights; those of --tickets are "
            "of heads and FFNs, so leave it out."
        )
    return settings.model_copy(update={"baselines": tuple(one for one in settings.baselines if one != ONE_SHOT)})


def _studied(path: Path) -> ImpSettings | FindSettings | None:
    """Return the settings of the study in a folder, None for a ticket folder; raises TicketError if it is neither."""
    if not path.is_dir():
        raise TicketError(f"--tickets {path}: no such folder.")
    if (path / TICKET_JSON).is_file():
        return None
    study = settings_of(path)
    if not isinstance(study, ImpSettings | FindSettings):
        raise TicketError(f"--tickets {path}: expected a study of `imp` or `find`, this is one of `{study.study}`.")
    if isinstance(study, FindSettings) and not (path / "super-ticket" / TICKET_JSON).is_file():
        raise TicketError(f"--tickets {path}: there is no super ticket in it; run `supertickets find` to its end.")
    return study


def _choose_sparsity(settings: TransferSettings) -> float | None:
    """Return the sparsity of the tickets to take, None for heads and FFNs; raises TicketError if some have none of it.

    Unless one is asked for, it is the highest that every study and ticket folder has.
    """
    there: dict[Path, list[float]] = {}
    for path in settings.tickets:
        study = _studied(path)
        if isinstance(study, ImpSettings):
            there[path] = _sparsities(path, study)
        elif study is None and is_of_weights(path):
            there[path] = [load_weight_ticket(path).ticket.sparsity]
    if not there:
        if settings.sparsity is not None:
            raise TicketError("--sparsity: tickets of heads and FFNs have no sparsity to choose; leave it out.")
        return None
    known = "; ".join(f"{path} has {', '.join(f'{s:.4g}' for s in found)}" for path, found in there.items())

    folders = {path for path in there if (path / TICKET_JSON).is_file()}

    def common(sparsity: float) -> bool:
        # A study's sparsities are the round numbers that its tickets came as near to as whole weights allow.
        far = {path: _ALIKE if path in folders else 1e-9 for path in there}
        return all(any(abs(sparsity - one) <= far[path] for one in found) for path, found in there.items())

    if settings.sparsity is not None:
        if not common(settings.sparsity):
            raise TicketError(f"--sparsity {settings.sparsity:g}: not all --tickets have a ticket of it: {known}.")
        return settings.sparsity
    known_by = there.keys() - folders or folders
    shared = [sparsity for path in known_by for sparsity in there[path] if common(sparsity)]
    if not shared:
        raise TicketError(f"--tickets: they have no sparsity in common, and only equal ones compare: {known}.")
    return max(shared)


def _sparsities(path: Path, settings: ImpSettings) -> list[float]:
    """Return the sparsities at which a study has the tickets of its first seed, in every way to rewind."""
    subjects = load_subjects(path)
    if not subjects:
        raise TicketError(f"--tickets {path}: the study has not begun; see `supertickets status {path}`.")
    record = recall(ImpStudy(settings, subjects))
    found = [
        sparsity
        for sparsity in settings.sparsities
        if all(_is_there(mask_at(record, sparsity, settings.first_seed, arm.name)) for arm in settings.arms)
    ]
    if not found:
        raise TicketError(f"--tickets {path}: no ticket of it is there yet; see `supertickets status {path}`.")
    return found


def _is_there(mask: WeightMask | None) -> bool:
    return mask is not None and mask.path is not None and mask.path.is_file()


def _of_folder(path: Path, base: BaseModel) -> _Given:
    """Return the ticket of a ticket folder; raises TicketError if it is of another model."""
    shared = load_weight_ticket(path) if is_of_weights(path) else load_ticket(path)
    _check_base(path, str(shared.base["weight_hash"]), base)
    task = str(shared.origin.get("task", path.name))
    if isinstance(shared.ticket, WeightTicket):
        return _Given.of_weights(task, task, shared.ticket.to_bytes())
    return _Given(Source(name=task, task=task, ticket=shared.ticket))


def _check_base(path: Path, weight_hash: str, base: BaseModel) -> None:
    if weight_hash != base.weight_hash:
        raise TicketError(
            f"--tickets {path}: the ticket was drawn from weights {weight_hash[:12]}..., model {base.name!r} has "
            f"{base.weight_hash[:12]}...; name its model with --model."
        )


def _of_imp(path: Path, settings: ImpSettings, sparsity: float, base: BaseModel) -> list[_Given]:
    """Return the tickets that a study found at a sparsity in its first seed, one for each way to rewind."""
    subjects = load_subjects(path)
    _check_base(path, subjects[0].weight_hash, base)
    record = recall(ImpStudy(settings, subjects))
    task, found = subjects[0].task, []
    for arm in settings.arms:
        ticket = ticket_at(record, sparsity, settings.first_seed, arm.name)
        assert ticket is not None  # see `_sparsities`
        found.append(_Given.of_weights(f"{task} ({arm.name})" if arm.name else task, task, ticket.to_bytes()))
    return found


def _comparable(found: Sequence[_Given], base: BaseModel, settings: TransferSettings) -> tuple[list[_Given], float]:
    """Return sources whose tickets compare, and their sparsity (of structured ones the mean share of heads and FFNs).

    Tensors that the settings say are not pruned stay whole in every ticket. Raises TicketError if some tickets are of
    weights and others not, if one does not fit the model or lacks a tensor, or if sparsities differ.
    """
    tickets = [one.source.ticket for one in found if one.source.ticket is not None]
    weights = {one.source.name: WeightTicket.from_bytes(one.content, one.source.name) for one in found if one.content}
    if weights and tickets:
        raise TicketError("--tickets: some are of single weights, others of heads and FFNs; transfer them apart.")
    shape = (base.shape.layers, base.shape.heads)
    for ticket in tickets:
        if ticket.shape != shape:
            raise TicketError(
                f"--tickets: a ticket is for {ticket.shape[0]} layers x {ticket.shape[1]} heads, model {base.name!r} "
                f"has {shape[0]} x {shape[1]}."
            )
    if tickets:
        gone = [1 - (t.kept_heads + t.kept_ffns) / (t.heads.size + t.ffns.size) for t in tickets]
        return list(found), round(sum(gone) / len(gone), 4)
    every = prunable_shapes(base)
    shapes = {name: values.shape for name, values in prunable_weights(base, settings.pruning).items()}
    parts: dict[str, WeightTicket] = {}
    for name, of_weights in weights.items():
        check_tensors(of_weights, every, base.name)
        parts[name] = of_weights.part([tensor for tensor in of_weights.masks if tensor in shapes])
        check_all_tensors(parts[name], shapes, base.name)
    first, like = next(iter(parts.items()))
    for name, part in parts.items():
        if abs(part.sparsity - like.sparsity) > _ALIKE:
            raise TicketError(
                f"--tickets: that of {first} has {like.sparsity:.3f}, that of {name} {part.sparsity:.3f}; only equal "
                "sparsities compare."
            )
    given = [_Given.of_weights(one.source.name, one.source.task, parts[one.source.name].to_bytes()) for one in found]
    return given, round(sum(part.sparsity for part in parts.values()) / len(parts), 4)


_ALIKE = 0.01
"""How far sparsities may be apart: without the pooler, tickets that were pruned with it are a little denser."""


def _baselines(settings: TransferSettings, base: BaseModel, found: Sequence[_Given], level: float) -> list[_Given]:
    """Return the sources that no task found: one-shot pruning of the pre-trained weights, and random tickets."""
    given = []
    of_weights = found[0].content is not None
    if ONE_SHOT in settings.baselines and of_weights:
        weights = prunable_weights(base, settings.pruning)
        drawn = prune_by_magnitude(weights, level, scope=settings.pruning.scope)
        given.append(_Given.of_weights(ONE_SHOT, None, drawn.to_bytes()))
    if RANDOM in settings.baselines and of_weights:
        mask = {"how": "random", "sparsity": level, "pruning": settings.pruning, "seed": 0}
        given.append(_Given(Source(name=RANDOM, mask=WeightMask.model_validate(mask))))
    elif RANDOM in settings.baselines:
        given.append(_Given(Source(name=RANDOM, ticket=Ticket.full(base.shape.layers, base.shape.heads))))
    return given


def _targets(settings: TransferSettings, base: BaseModel, found: Sequence[_Given]) -> list[Target]:
    """Return the tasks to train on, with the examples and the recipe of the study that found the task's ticket."""
    studies: dict[str, ImpSettings | FindSettings] = {}
    for path in settings.tickets:
        if not (path / TICKET_JSON).is_file() and isinstance(one := settings_of(path), ImpSettings | FindSettings):
            studies[task_name(one.task)] = one
    asked = settings.tasks or tuple(dict.fromkeys(one.source.task for one in found if one.source.task is not None))
    if settings.data is not None and all(task_name(task) in {*studies, *BUILTIN} for task in asked):
        raise TicketError("--data: it would change nothing: every target is built in or has a study.")
    changed, targets = settings.asked_recipe(), []
    for task in asked:
        study = studies.get(task_name(task))
        own = study is not None and settings.preset is None
        source = (
            study.source
            if study
            else TaskSource.model_validate(
                {"task": task, "data": None if task_name(task) in BUILTIN else settings.data}
            )
        )
        recipe = study.recipe if study and own else settings.preset_recipe(base.shape, task)
        values = {**recipe.model_dump(), **changed, "threads": settings.threads}
        values["max_length"] = min(values["max_length"], base.max_length)
        targets.append(Target(source=source, recipe=Recipe.model_validate(values)))
    return targets
