"""Tickets of weights: iterative magnitude pruning with rewinding, and its controls (Chen et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.anatomy.cost import forward_flops
from supertickets.errors import StudyError, TicketError
from supertickets.evidence.magnitude import IMP, ROUND, START, Magnitude, conclude_magnitude, ticket_at
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.table import DENSE, Role
from supertickets.lab import Outcome, Trial
from supertickets.lab.outcome import MASK, WEIGHTS
from supertickets.lab.trial import Prune, Start, WeightMask
from supertickets.models import BaseModel
from supertickets.studies.pages import write_magnitude
from supertickets.studies.pretrain import with_output_layer
from supertickets.studies.settings_weights import Arm, ImpSettings
from supertickets.studies.study import Loaded, Study, conduct, prepare, trained_again, write_results
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, SharedWeightTicket, load_weight_ticket
from supertickets.training.recipe import Span

if TYPE_CHECKING:
    import pandas as pd

TICKET = "ticket"
"""In a study's folder: the ticket that it ships."""
_BY_RULE = {"one-shot": "magnitude", "random": "random"}
"""Controls whose masks need no ticket, by what draws them."""
_OTHERWISE = {
    "random-weights": "random",
    "shuffled-layers": "shuffled-layers",
    "shuffled-elements": "shuffled-elements",
}
"""Controls that train a ticket's mask on other weights than the pre-trained ones, by what these are."""


class ImpStudy(Study):
    """Rounds of training and pruning, each round's ticket trained from rewound weights, and controls beside it.

    A round's training is the evaluation of the ticket that it starts with, where both are the same: the output layer
    as at the start, everything rewound, the learning rate falling to 0. Otherwise tickets are trained apart.
    """

    settings: ImpSettings

    def __init__(self, settings: ImpSettings, subjects: Sequence[Subject]) -> None:
        super().__init__(settings, subjects)
        self.full = Ticket.full(self.layers, self.heads)
        self.rungs = settings.sparsities
        self._outcomes: dict[Role, Outcome] = {}
        # Whether the search's trainings are those that tickets are judged by.
        self._judged_by_rounds = settings.lr_horizon == "round"
        self._dense_prunes = settings.first_prune == "after" and self._judged_by_rounds
        self.continues = any(self._starts(arm) for arm in settings.arms)

    def _starts(self, arm: Arm) -> bool:
        """Whether an arm's rounds start from weights that another trial left."""
        return arm.rewind != 0 or self.settings.head == "carry" or self.settings.rewind_scope == "prunable"

    def _judged(self, arm: Arm) -> bool:
        """Whether an arm's rounds are also the trainings that its tickets are judged by.

        What is not rewound has no other training: standard pruning is judged as it stands.
        """
        return arm.rewind is None or (self._judged_by_rounds and self.settings.head == "rewind"
                                      and self.settings.rewind_scope == "backbone")  # fmt: skip

    def expected(self) -> list[Role]:
        """Return every role: dense runs, rounds that are not judged themselves, tickets and controls."""
        settings = self.settings
        roles = []
        for seed in self.seeds:
            roles.append(Role(DENSE, 0.0, seed))
            if settings.first_prune == "after" and not self._dense_prunes:
                roles.append(Role(ROUND, 0.0, seed))
            for arm in settings.arms:
                roles += [self._begun(arm, seed)] if arm.rewind else []
                if not self._judged(arm):
                    roles += [Role(ROUND, rung, seed, arm.name) for rung in self.rungs[:-1]]
                roles += [Role(IMP, rung, seed, arm.name) for rung in self.rungs]
            roles += [Role(kind, rung, seed) for kind in settings.controls for rung in self._control_at]
        return roles

    @property
    def _control_at(self) -> Sequence[float]:
        return [r for r in self.rungs if not self.settings.control_at or r in self.settings.control_at]

    def opening(self) -> list[Trial]:
        """Return the dense runs, those that tickets are rewound to, and controls whose masks need no ticket."""
        settings, trials = self.settings, []
        for seed in self.seeds:
            prune = self._prune(self.rungs[0]) if self._dense_prunes else None
            trials.append(self._trial(Role(DENSE, 0.0, seed), prune=prune))
            if settings.first_prune == "after" and not self._dense_prunes:
                trials.append(self._round(Role(ROUND, 0.0, seed), prune=self._prune(self.rungs[0])))
            for arm in settings.arms:
                if arm.rewind:
                    trials.append(
                        self._trial(self._begun(arm, seed), span=Span(skip=0.0, stop=arm.rewind, lr_horizon=1))
                    )
            trials += [
                self._trial(Role(kind, rung, seed), mask=self._rule(how, rung, seed))
                for kind, how in _BY_RULE.items()
                if kind in settings.controls
                for rung in self._control_at
            ]
        for seed in self.seeds:
            trials += self._possible(seed)
        return trials

    @staticmethod
    def _begun(arm: Arm, seed: int) -> Role:
        """Return the role of the dense training up to where an arm rewinds to."""
        return Role(START, arm.rewind or 0.0, seed)

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return the trials that an outcome makes possible: the next round, and what is made of its ticket."""
        roles = self.played_by(trial)
        for role in roles:
            self._outcomes[role] = outcome
        return [possible for seed in {role.seed for role in roles} for possible in self._possible(seed)]

    def _possible(self, seed: int) -> list[Trial]:
        """Return all trials of a seed that wait for nothing any more."""
        return [trial for arm in self.settings.arms for trial in self._next(arm, seed)]

    def _next(self, arm: Arm, seed: int) -> Iterator[Trial]:
        """Yield an arm's rounds, tickets and controls, as far as outcomes are there."""
        judged = self._judged(arm)
        for i, rung in enumerate(self.rungs):
            mask, before = self._mask(arm, seed, i)
            if mask is None:
                return
            last = i + 1 == len(self.rungs)
            a_round = judged or not last
            start = self._start(arm, seed, before) if a_round or arm.rewind else None
            waits = start is None and (arm.rewind or (self._starts(arm) and before is not None))
            if a_round and not waits:
                role = Role(IMP if judged else ROUND, rung, seed, arm.name)
                prune = None if last else self._prune(self.rungs[i + 1])
                yield self._round(role, arm, i, mask=mask, start=start, prune=prune)
            if not judged and not (arm.rewind and start is None):
                from_there = (
                    {"start": start, "span": Span(skip=arm.rewind, stop=1.0, lr_horizon=1)} if arm.rewind else {}
                )
                yield self._trial(Role(IMP, rung, seed, arm.name), mask=mask, **from_there)
            if arm == self.settings.arms[0] and rung in self._control_at:
                yield from self._controls(rung, seed, mask)

    def _controls(self, rung: float, seed: int, mask: WeightMask) -> Iterator[Trial]:
        """Yield the controls that need the ticket itself."""
        for kind in self.settings.controls:
            role = Role(kind, rung, seed)
            if kind in _OTHERWISE:
                yield self._trial(role, mask=mask, initial=_OTHERWISE[kind])
            elif kind == "matched":
                yield self._trial(role, mask=mask.model_copy(update={"how": "matched", "seed": seed}))

    def _mask(self, arm: Arm, seed: int, i: int) -> tuple[WeightMask | None, Outcome | None]:
        """Return an arm's ticket of the i-th sparsity and what it was drawn from; None for what is still to come."""
        if i == 0 and self.settings.first_prune == "before":
            return self._rule("magnitude", self.rungs[0], seed), None
        if i == 0:
            role = Role(DENSE if self._dense_prunes else ROUND, 0.0, seed)
        else:
            role = Role(IMP if self._judged(arm) else ROUND, self.rungs[i - 1], seed, arm.name)
        before = self._outcomes.get(role)
        if before is None or MASK not in before.files:
            return None, None
        path = (before.folder / MASK).resolve()
        return WeightMask.model_validate({"how": "file", "path": path, "digest": before.files[MASK]}), before

    def _start(self, arm: Arm, seed: int, before: Outcome | None) -> Start | None:
        """Return the weights that a round starts from, where they are not the pre-trained ones."""
        settings = self.settings
        if arm.rewind:
            begun = self._outcomes.get(self._begun(arm, seed))
            return self._from(begun) if begun is not None and begun.finished else None
        if before is None or not self._starts(arm):
            return None
        if arm.rewind is None:
            return self._from(before)
        rewound = "encoder" if settings.rewind_scope == "backbone" else "prunable"
        return self._from(before, rewound, 0 if settings.head == "carry" else None)

    def _from(self, outcome: Outcome, rewound: str = "nothing", output_layer: int | None = 0) -> Start:
        return Start.model_validate(
            {
                "trial": outcome.key,
                "folder": outcome.folder.resolve(),
                "weights": outcome.files[WEIGHTS],
                "ticket": self.full,
                "output_layer": output_layer,
                "rewound": rewound,
            }
        )

    def _rule(self, how: str, sparsity: float, seed: int) -> WeightMask:
        drawn = {"how": how, "sparsity": sparsity, "pruning": self.settings.pruning}
        return WeightMask.model_validate(drawn | ({"seed": seed} if how == "random" else {}))

    def _prune(self, sparsity: float) -> Prune:
        return Prune(sparsity=sparsity, pruning=self.settings.pruning)

    def _trial(self, role: Role, **parts: Any) -> Trial:
        if role not in self.roles:  # it is asked for again and again
            self.trial(role, self.full, **parts)
        return self.roles[role]

    def _round(self, role: Role, arm: Arm | None = None, i: int = -1, **parts: Any) -> Trial:
        """Return the trial of a round of the search, with the schedule and the output layer that it is to have."""
        settings = self.settings
        horizon = 1 if self._judged_by_rounds else _ROUNDS
        skip = (arm.rewind or 0.0) if arm is not None else 0.0
        parts["span"] = Span.model_validate({"skip": skip, "lr_horizon": horizon})
        if arm is not None and settings.head == "fresh" and arm.rewind == 0:
            parts["seed"] = role.seed + _FRESH * (i + 1)
        return self._trial(role, **parts)

    def keeps(self, trial: Trial) -> bool:
        """Whether trained weights stay: all, or those that a next round starts from."""
        if self.settings.keep == "all":
            return True
        ends = {  # the last round of each arm whose rounds go on from the round before
            arm.name: max(self.rungs if self._judged(arm) else self.rungs[:-1], default=0.0)
            for arm in self.settings.arms
            if self._starts(arm) and not arm.rewind
        }
        return any(
            role.kind == START
            or (
                trial.prune is not None
                and any(role.level < end and (not role.level or role.variant == arm) for arm, end in ends.items())
            )
            for role in self.played_by(trial)
        )

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """Drop the weights that a round started from, once nothing else is to start from them."""
        if self.settings.keep == "all" or trial.start is None:
            return
        waiting = {
            other.start.trial
            for role, other in self.roles.items()
            if other.start is not None and role not in self._outcomes and other.key != trial.key
        }
        # Every training of an arm rewound into a training starts from the same weights.
        rewound = {arm.name for arm in self.settings.arms if arm.rewind}
        played = self.played_by(trial)
        ahead = {(role.seed, role.variant) for role in played if role.variant in rewound}
        later = any(
            role.kind in (IMP, ROUND) and (role.seed, role.variant) in ahead
            for role in set(self.expected()) - self._outcomes.keys() - set(played)
        )
        if trial.start.trial not in waiting and not later:
            before = next((o for o in self._outcomes.values() if o.key == trial.start.trial), None)
            if before is not None:
                before.drop_weights()

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be: pruned weights cost what all weights do."""
        flops = float(forward_flops(self.subject.shape, self.full, self.subject.train, 32))
        return self.settings.epochs * flops * len(self.expected())


_ROUNDS = 10  # of the released code's schedule over all rounds, however many there are here
_FRESH = 10_007  # far from the seeds that studies are given, so that output layers drawn anew are no other seed's


@dataclass(frozen=True)
class ImpResult:
    """What `imp` leaves: every run, what tickets are worth at each sparsity, and which ones match the full model."""

    folder: Path
    settings: ImpSettings
    seen: Magnitude
    failures: Mapping[str, str]

    @property
    def table(self) -> pd.DataFrame:
        """One row a run."""
        return self.seen.runs

    @property
    def verdict(self) -> str:
        """What came out, in words."""
        return self.seen.verdict

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report.html"

    @property
    def ticket_folder(self) -> Path:
        """The shipped ticket's folder."""
        return self.folder / TICKET


def imp(config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any) -> ImpResult:
    """Find tickets of weights by iterative magnitude pruning; the Python call behind `supertickets imp`.

    Takes the settings of `ImpSettings` by name: in `config` (a mapping or a YAML file), as keywords, or both (keywords
    win). What is already in the output folder is not run again. Raises TicketError for misuse before anything is
    written, and StudyError if no dense training finished.

    >>> result = imp(task="cola", data="glue", sparsities=(0.5, 0.7), seeds=1)  # doctest: +SKIP
    """
    first, base = prepare(ImpSettings, config, settings, quiet)
    task = load_task(first.source)
    first, base = with_output_layer(first, base, task, quiet)
    tasks = {first.source: task}
    return conduct(ImpStudy, first, base, tasks, quiet, lambda study, record: _conclude(study, record, base, tasks))


def _conclude(study: ImpStudy, record: Record, base: BaseModel, tasks: Loaded) -> ImpResult:
    """Write the table, the page, and a ticket's folder."""
    settings = study.settings
    seen = conclude_magnitude(record, settings.rule)
    write_results(record.folder, seen.runs)
    if not record.finished(DENSE):
        raise StudyError(f"no dense training finished: {record.first_trouble()}")
    write_magnitude(record, seen)
    _ship(study, record, seen, base, tasks)
    return ImpResult(record.folder, settings, seen, dict(record.failures))


def _ship(study: ImpStudy, record: Record, seen: Magnitude, base: BaseModel, tasks: Loaded) -> None:
    """Write the folder of the matching ticket of the highest sparsity, or of the best one if none matches."""
    from supertickets.export.weights import named_base, ship_weights
    from supertickets.lab.workbench import versions

    settings = study.settings
    of_imp = seen.means[(seen.means["kind"] == IMP) & (seen.means["variant"] == "")]
    highest = seen.highest.get("")
    for sparsity in [highest] if highest is not None else of_imp.sort_values("mean", ascending=False)["sparsity"]:
        row = record.roles[Role(IMP, float(sparsity), settings.first_seed)]
        ticket = ticket_at(record, float(sparsity), settings.first_seed)
        if ticket is None or not row.finished:
            continue
        assert row.trial is not None
        assert row.outcome is not None
        kept, folder, there = settings.keep != "none", record.folder / TICKET, None
        with suppress(TicketError):  # none yet, or a damaged one
            there = load_weight_ticket(folder).origin.get("trial")
        if there == row.trial.key and (not kept or (folder / MODEL_FOLDER).is_dir()):
            return
        outcome = trained_again(study, base, tasks, row.trial) if kept else row.outcome
        why = (
            "The highest sparsity that matches the full model" if highest is not None else "No ticket matches; the best"
        )
        origin = {
            "task": settings.task,
            "data_hash": record.subject.data_hash,
            "data": list(record.subject.description),
            "kind": IMP,
            "sparsity": float(sparsity),
            "seed": settings.first_seed,
            "score": outcome.score,
            "metrics": list(record.subject.metrics),
            "why": f"{why} on that same dev set ({seen.rule}).",
            "trial": row.trial.key,
            "preset": settings.preset,
            "recipe": row.trial.recipe.model_dump(),
            "search": {name: getattr(settings, name) for name in _SEARCH} | settings.pruning.model_dump(),
        }
        ship_weights(
            SharedWeightTicket(ticket, named_base(base), origin, versions()),
            outcome if kept else replace(outcome, files={}),
            base,
            tasks[record.subject.source],
            folder,
        )
        return


_SEARCH = ("rewind", "rewind_scope", "head", "first_prune", "lr_horizon", "amount_of", "sparsities")
"""The settings that say how tickets were looked for."""
