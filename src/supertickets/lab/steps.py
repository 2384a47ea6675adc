"""Steps: which trials a study is made of, and what each needs to have ended before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from supertickets.lab.outcome import WEIGHTS, Outcome
from supertickets.lab.partial import Partial
from supertickets.lab.trial import Trial

Label = str | int | float


@dataclass(frozen=True, eq=False)
class Step:
    """One trial of a study, made when what it needs has ended.

    `labels` say what it stands for; they are columns of `results.csv`. `make` is the trial, or a function that returns
    it, or None if it is not wanted after all; it may ask for the outcomes of the steps in `needs`, all of which have
    ended by then. The trained weights of the steps that it `starts_from` stay on disk until this step has ended. `keep`
    says whether its own stay after that: "best" keeps those of the best outcome so far among all steps that say so,
    "until best" those of a step that may turn out to have the trial of one of these, until all of them have ended.
    With `until` the trial is trained to that share of its steps only; another step may go on with the same trial, which
    ends as if it had never stopped. `elsewhere` is the folder of the same trial in another study, whose outcome is
    taken if its weights are there (and is remembered). `cost` is about what it takes, in FLOPs. A `spare` step is
    probably not wanted: it is counted only once its trial is made. One that `evaluates` trains nothing (its trial has a
    `mean`), and is no training where these are counted.

    >>> dense = Step({"kind": "dense", "seed": 0}, lambda done: None)
    >>> str(Step({"kind": "winning", "level": 0.3, "seed": 0}, lambda done: None, needs=(dense,)))
    'winning 0.3 seed 0'
    """

    labels: Mapping[str, Label]
    make: Trial | Callable[[Done], Trial | None]
    needs: tuple[Step, ...] = field(default=(), repr=False)  # whose own are many: steps of steps
    starts_from: tuple[Step, ...] = field(default=(), repr=False)
    keep: Literal["no", "until best", "best", "yes"] = "no"
    until: float | None = None
    elsewhere: Path | None = None
    cost: float = 0.0
    spare: bool = False
    evaluates: bool = False

    @property
    def parents(self) -> tuple[Step, ...]:
        """All steps that must have ended before this one is made."""
        return (*self.needs, *self.starts_from)

    def __str__(self) -> str:
        """Its name for people."""
        labels = {name: value for name, value in self.labels.items() if value != ""}
        first = [labels.pop(name) for name in ("kind", "level", "sparsity") if labels.get(name)]
        words = " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in first)
        seed = labels.pop("seed", None)
        words += "" if seed is None else f" seed {seed}"
        rest = [
            value if isinstance(value, str) else f"{name.replace('_', ' ')} {value:g}"
            for name, value in labels.items()
            if (value not in first if isinstance(value, str) else value)
        ]
        return ", ".join([words.strip(), *rest])


@dataclass(frozen=True)
class Order:
    """A trial to train, to its end or to a share of its steps."""

    trial: Trial
    until: float | None = None

    @property
    def id(self) -> str:
        """What distinguishes it from other orders."""
        return self.trial.key if self.until is None else f"{self.trial.key}@{self.until:g}"


class NotFinishedError(Exception):
    """A step that another one needs did not finish, so that the other cannot be made."""


class Done:
    """The outcomes that a step may ask for while its trial is made."""

    def __init__(self, run_of: Callable[[Step], Run]) -> None:
        self._run_of = run_of

    def __getitem__(self, step: Step) -> Outcome:
        """Return the outcome of a step that finished; if it did not, the step that asks is not made."""
        outcome = self.get(step)
        if outcome is None:
            raise NotFinishedError
        return outcome

    def get(self, step: Step) -> Outcome | None:
        """Return the outcome of a step that finished, None if it diverged or was not wanted.

        If it failed, the step that asks is not made: the failed one is tried again when the study is.
        """
        outcome = self.ended(step)
        return outcome if outcome is not None and outcome.finished else None

    def ended(self, step: Step) -> Outcome | None:
        """Return the outcome of a step that finished or diverged, None if it was not wanted; otherwise as `get`."""
        run = self._run_of(step)
        if run.failure is not None or (run.trial is not None and run.outcome is None) or run.blocked:
            raise NotFinishedError
        return run.outcome

    def part(self, step: Step) -> Partial:
        """Return what a step's trial said when it was trained to the step's `until`, also if it has gone on since.

        If it was not trained that far, the step that asks is not made.
        """
        run = self._run_of(step)
        if run.partial is None:
            raise NotFinishedError
        return run.partial


@dataclass(eq=False)
class Run:
    """A step and what came of it. `trial` is None until it is made, `failure` a traceback or a sentence.

    Of a step with `until` there is a `partial` in place of an outcome. `unwanted` says that `make` returned None,
    `blocked` that something it needs did not finish.
    """

    step: Step
    trial: Trial | None = None
    outcome: Outcome | None = None
    partial: Partial | None = None
    failure: str | None = None
    unwanted: bool = False
    blocked: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.came or self.failure is not None or self.unwanted or self.blocked

    @property
    def came(self) -> bool:
        """Whether its trial was trained as far as the step asks."""
        return self.outcome is not None or self.partial is not None

    @property
    def counts(self) -> bool:
        """Whether it is one of the study's runs: it is wanted, and not a spare one whose trial there is not."""
        return not self.unwanted and not (self.step.spare and self.trial is None)

    @property
    def result(self) -> Outcome:
        """The outcome, of a run that has one."""
        assert self.outcome is not None
        return self.outcome

    @property
    def order(self) -> Order:
        """What is asked of the lab."""
        assert self.trial is not None
        return Order(self.trial, self.step.until)

    @property
    def finished(self) -> bool:
        """Whether there is a score."""
        return self.outcome is not None and self.outcome.finished

    def lost(self) -> bool:
        """Whether it has finished, and its trained weights are gone."""
        return self.finished and not self.result.has_weights

    def let_go(self) -> bool:
        """Whether its trained weights are gone, or will be when the study has ended."""
        return self.lost() if self.ended else self.step.keep == "no"

    @property
    def status(self) -> str:
        """`finished`, `partial`, `diverged`, `failed`, `not wanted`, or `missing` for what has not run."""
        if self.outcome is not None:
            return self.outcome.status
        if self.partial is not None:
            return "partial"
        return "failed" if self.failure is not None else "not wanted" if self.unwanted else "missing"


class Execution:
    """The steps of a study on their way: which can be made now, which trials they share, what came of them."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.runs = [Run(step) for step in steps]
        self._run = {run.step: run for run in self.runs}
        self._rivals = [run for run in self.runs if run.step.keep == "best"]
        known = [run.step.make for run in self._rivals]
        self._all_dense = all(isinstance(trial, Trial) and trial.ticket.is_full for trial in known)
        self._maybe_rivals = [run for run in self.runs if run.step.keep == "until best"]
        self._by_id: dict[str, list[Run]] = {}
        self._by_key: dict[str, list[Run]] = {}
        self._children: dict[Step, list[Run]] = {}
        self._waits_for: dict[Run, int] = {}
        self._dropped: set[str] = set()
        for run in self.runs:
            parents = set(run.step.parents)
            if strange := parents - self._run.keys():
                raise ValueError(f"{run.step}: it needs {next(iter(strange))}, which is no step of the study")
            self._waits_for[run] = len(parents)
            for parent in parents:
                self._children.setdefault(parent, []).append(run)

    def begin(self) -> list[Order]:
        """Return what waits for nothing."""
        return self._made([run for run in self.runs if not self._waits_for[run]])

    def end(
        self, id: str, outcome: Outcome | None = None, failure: str | None = None, partial: Partial | None = None
    ) -> list[Order]:
        """Note what came of an order, and return those that can be made now."""
        ready: list[Run] = []
        for run in self._by_id[id]:
            run.outcome, run.failure, run.partial = outcome, failure, partial
            ready += self._freed(run)
        return self._made(ready)

    def _freed(self, run: Run) -> list[Run]:
        """Return the runs that have waited for this one alone."""
        children = self._children.get(run.step, [])
        for child in children:
            self._waits_for[child] -= 1
        return [child for child in children if not self._waits_for[child]]

    def _made(self, ready: Sequence[Run]) -> list[Order]:
        new, waiting = [], deque(ready)
        while waiting:
            run = waiting.popleft()
            if any(self._never_kept(self._run[parent]) for parent in run.step.starts_from):
                continue  # in a replay; they are trained again when the study is run
            try:
                make = run.step.make
                run.trial = make if isinstance(make, Trial) else make(Done(self._run.__getitem__))
                run.unwanted = run.trial is None
            except NotFinishedError:
                run.blocked = True
            if run.trial is not None:
                same = self._by_id.setdefault(run.order.id, [])
                same.append(run)
                self._by_key.setdefault(run.trial.key, []).append(run)
                if len(same) == 1:
                    new.append(run.order)
                run.outcome, run.failure, run.partial = same[0].outcome, same[0].failure, same[0].partial
            if run.ended:
                waiting.extend(self._freed(run))
        return new

    def keeps(self, id: str) -> bool:
        """Whether a trial's trained weights are kept when it ends, for good or for a while."""
        return self.is_start(id) or any(run.step.keep != "no" for run in self._by_id[id])

    def is_start(self, id: str) -> bool:
        """Whether a run that has yet to end starts from a trial's trained weights."""
        return any(self._starting(run) for run in self._by_id[id])

    def _starting(self, run: Run) -> bool:
        """Whether a run that has yet to end starts from this one's weights."""
        children = self._children.get(run.step, [])
        return any(run.step in child.step.starts_from and not child.ended for child in children)

    def repeated(self, shipped: Sequence[Run] = ()) -> list[Run]:
        """Return the runs that are trained again for their weights, if these runs' are `shipped` in the end.

        Their weights are gone, or will be by then; others that have yet to end start from them, or they are shipped.
        """
        found: list[Run] = []
        starts = {step for run in self.runs if not run.ended for step in run.step.starts_from}
        for wanted, of in ((starts, Run.lost), ({run.step for run in shipped}, Run.let_go)):
            for run in reversed(self.runs):  # each comes after those that it starts from
                if run.step in wanted and of(run):
                    found.append(run)
                    wanted.update(run.step.starts_from)
        return found

    @staticmethod
    def _never_kept(run: Run) -> bool:
        return run.outcome is not None and run.finished and WEIGHTS not in run.outcome.files

    def to_drop(self, id: str) -> list[Outcome]:
        """Return the outcomes whose trained weights are no longer needed, now that a trial has ended."""
        runs, contest = self._by_id[id], self._contest()
        # What waited for it may have turned out not to be wanted, with others that it would have started from.
        ended = [*runs, *(child for run in runs for child in self._children.get(run.step, []))]
        others = [self._run[parent] for run in ended for parent in run.step.starts_from]
        if self._maybe_rivals or any(run.step.keep == "best" for run in runs):
            others += [*contest, *self._maybe_rivals]
        best = max((run.outcome for run in contest if run.outcome is not None), key=lambda one: one.rank, default=None)
        outcomes = {run.outcome.key: run.outcome for run in [*others, *runs] if run.outcome is not None}
        is_best = None if best is None else best.key
        found = {key: one for key, one in outcomes.items() if key != is_best and not self._wanted(key)}
        new = [one for key, one in found.items() if key not in self._dropped]
        self._dropped |= found.keys()
        return new

    def _wanted(self, key: str) -> bool:
        """Whether a step keeps a trial's weights for good, or one that has yet to end starts from them."""
        of_trial = [run for run in self._by_key.get(key, []) if run.outcome is not None]
        if any(run.step.keep == "until best" for run in of_trial) and not all(run.ended for run in self._rivals):
            return True
        return any(run.step.keep == "yes" or self._starting(run) for run in of_trial)

    def _contest(self) -> list[Run]:
        """Return the finished runs of which the best is kept.

        A full ticket is the dense model, and no candidate unless all of them are.
        """
        finished = [run for run in self._rivals if run.finished]
        return [run for run in finished if run.trial and (self._all_dense or not run.trial.ticket.is_full)]

    def elsewhere(self, id: str) -> list[Path]:
        """Return the folders of the same trial in other studies."""
        return [run.step.elsewhere for run in self._by_id[id] if run.step.elsewhere is not None]

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        return all(run.ended for run in self.runs)

    def name(self, key: str) -> str:
        """Return a trial's name for people: that of the first step that it is of, of one that has not ended if any."""
        of_trial = self._of(key)
        waiting = [run for run in of_trial if not run.ended] or of_trial
        return str(waiting[0].step) if waiting else key

    def cost(self, key: str) -> float:
        """Return about what a trial costs, in FLOPs."""
        return self._of(key)[0].step.cost

    def _of(self, key: str) -> list[Run]:
        """Return the runs of a trial, those to its end first."""
        return sorted(self._by_key.get(key, []), key=lambda run: run.step.until is not None)

    @property
    def total(self) -> int:
        """How many trainings there are, as far as is known: equal ones are one."""
        return sum(not run.step.evaluates for run in self._orders)

    @property
    def evaluations(self) -> int:
        """How many evaluations there are of weights that others trained."""
        return sum(run.step.evaluates for run in self._orders)

    def evaluates(self, key: str) -> bool:
        """Whether a trial is such an evaluation."""
        return self._of(key)[0].step.evaluates

    @property
    def total_cost(self) -> float:
        """What all of them cost."""
        return sum(run.step.cost for run in self._orders)

    def longest(self, cost: Callable[[Run], float]) -> float:
        """Return what the dearest chain of runs costs of which each waits for the one before."""
        ends: dict[Step, float] = {}
        for run in self.runs:
            ends[run.step] = cost(run) + max((ends.get(step, 0.0) for step in run.step.parents), default=0.0)
        return max(ends.values(), default=0.0)

    @property
    def _orders(self) -> list[Run]:
        """A run for each order, and those that are still to be made."""
        return [*self._unmade, *(runs[0] for runs in self._by_id.values())]

    @property
    def _unmade(self) -> list[Run]:
        """The runs that are still to be made."""
        return [run for run in self.runs if run.trial is None and not run.ended and run.counts]
