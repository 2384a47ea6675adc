"""Searching for the best level: only a part of the winning tickets is trained, turn by turn. Not in the paper.

What a turn trains follows from what came of the turns before, which is why there is a step for everything that each
turn may ask for; nearly all of them turn out not to be wanted. A trial is the very one that the whole grid has, so that
a search can go on as a grid, and a grid's trainings are a search's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.evidence.labels import EPOCH, LOOK, TURN
from supertickets.evidence.runs import DENSE, TaskInfo
from supertickets.evidence.search.course import METHODS, Course, begun, known_at_first, seen
from supertickets.evidence.search.known import Ask, Known
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Done, Label, NotFinishedError, Step
from supertickets.lab.trial import Trial
from supertickets.studies.draws import Draws
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.search_budget import LEAST_EXAMPLES, check_budget, prices_of, whole_of
from supertickets.studies.study import Request, full_ticket, training_flops
from supertickets.tasks.tables import counted

_SHORTEST = 3
"""Tokens of a text of one word, with those that begin and end it."""


def budget_of(
    settings: FindSettings, task: TaskInfo, prices: Mapping[float, float], dense: Sequence[Outcome] = ()
) -> float | None:
    """Return the share of the grid's cost that a search may spend; None for hours, before the dense runs have ended.

    FLOPs are those of texts of 32 tokens until then.
    """
    return whole_of(settings, task.shape, task.train, prices, dense).share(settings.budget)


def paid_share(
    settings: FindSettings, task: TaskInfo, prices: Mapping[float, float], dense: Sequence[Outcome]
) -> float:
    """Return the share of the grid's cost that a budget pays for, by what the dense runs took.

    Raises TicketError if that is too little for a search, or the whole grid.
    """
    whole = whole_of(settings, task.shape, task.train, prices, dense)
    check_budget(settings, prices, whole)
    share = whole.share(settings.budget)
    assert share is not None  # the dense runs have ended
    return share


class LevelSearch:
    """The steps of a search, of one execution: what its turns ask for is worked out once."""

    def __init__(self, settings: FindSettings, task: TaskInfo, draws: Draws, steps: Sequence[Step]) -> None:
        self._settings, self._task, self._grid = settings, task, steps
        self._prices = prices_of(draws.about, task.shape)
        self.levels, self.method = [*self._prices], METHODS[settings.search]
        self._dense = [step for step in steps if step.labels["kind"] == DENSE]
        self._winning = {
            (step.labels["level"], step.labels["seed"]): step for step in steps if step.labels["kind"] == "winning"
        }
        self._turns: list[dict[Ask, Step]] = []
        self._ends: list[Step] = []
        self._courses: dict[int, Course] = {}

    def steps(self) -> Iterator[Step]:
        """Yield the dense runs, what each turn may ask for, and the tickets of the level that is found."""
        yield from (step for step in self._grid if step.labels["level"] not in self._prices)
        shape = (len(self._dense), self._settings.epochs, 1)
        plain = self._known(np.zeros(shape, np.float32))
        self._ends = [self._end(0, self._dense)]
        yield from self._ends
        for turn, asks in enumerate(self.method.possible(plain)):
            self._turns.append({ask: self._look(turn, ask) for ask in asks})
            yield from self._turns[-1].values()
            self._ends.append(self._end(turn + 1, [*self._turns[-1].values()]))
            yield self._ends[-1]
        for step in self._grid:
            if (level := step.labels["level"]) in self._prices:
                needs = (*step.needs, self._ends[-1])
                yield replace(step, make=partial(self._if_found, level, step), needs=needs, spare=True)

    @staticmethod
    def _end(turn: int, made: Sequence[Step]) -> Step:
        """Return where a turn ends (0: the dense runs): what comes after it waits for this step alone."""
        labels: dict[str, Label] = {"stage": LOOK, "kind": TURN, "level": 0.0, TURN: turn}
        return Step(labels, _nothing, needs=tuple(made), spare=True)

    def _known(self, dense: NDArray[np.float32]) -> Known:
        """Return what is known before the search."""
        # What FLOPs and hours pay for is known when the dense runs have ended: the most that it may be is planned.
        whole = whole_of(self._settings, self._task.shape, self._task.train, self._prices, tokens=_SHORTEST)
        budget = min(1.0, whole.share(self._settings.budget) or 1.0)
        last = self._settings.keep_epoch == "last"
        return Known.nothing(self.levels, dense, np.array([*self._prices.values()]), budget, last)

    def _look(self, turn: int, ask: Ask) -> Step:
        """Return the step of a training that is asked for to an epoch; to its last one it is the whole training."""
        winning, epochs = self._step(ask), self._settings.epochs
        labels = {"stage": LOOK, TURN: turn + 1, EPOCH: ask.epoch, **winning.labels}
        return Step(
            labels,
            partial(self._if_asked, turn, ask),
            needs=(self._ends[-1],),
            keep=("until best" if winning.keep == "best" else winning.keep) if ask.epoch == epochs else "no",
            until=None if ask.epoch == epochs else ask.epoch / epochs,
            cost=winning.cost * ask.epoch / epochs,
            spare=True,
        )

    def _step(self, ask: Ask) -> Step:
        """Return the grid's step of what is asked for."""
        return self._winning[self.levels[ask.level], self._dense[ask.seed].labels["seed"]]

    def _if_asked(self, turn: int, ask: Ask, done: Done) -> Trial | None:
        """Return the trial of a ticket if a turn asks for it."""
        course = self._course(turn, done)
        return _made(self._step(ask), done) if len(course.turns) == turn and ask in course.asks else None

    def _if_found(self, level: float, step: Step, done: Done) -> Trial | None:
        """Return the trial of a ticket if its level is found."""
        course = self._course(len(self._turns), done)
        return _made(step, done) if self.levels[course.answer.level] == level else None

    def _course(self, turn: int, done: Done) -> Course:
        """Return the search as it is before a turn."""
        if turn not in self._courses:
            if not turn:
                dense = [done[step] for step in self._dense]
                prices = np.array([*self._prices.values()])
                try:
                    budget = paid_share(self._settings, self._task, self._prices, dense)
                except TicketError as error:  # said where the study is analysed: looking into its folder is no misuse
                    raise NotFinishedError from error
                known = known_at_first(self._task, dense, self.levels, prices, budget)
                self._courses[turn] = begun(self.method, known)
            else:
                before = self._course(turn - 1, done)
                self._courses[turn] = before.after(partial(self._came, turn, done))
        return self._courses[turn]

    def _came(self, before: int, done: Done, turn: int, ask: Ask) -> NDArray[np.float32] | None:
        """Return what came of what a turn asked for, of the turns that have ended."""
        if turn >= before:
            return None
        step = self._turns[turn][ask]
        came = done.part(step) if step.until is not None else done.ended(step)
        return None if came is None else seen(self._task, came, ask.epoch)


def _made(step: Step, done: Done) -> Trial | None:
    return step.make if isinstance(step.make, Trial) else step.make(done)


def _nothing(done: Done) -> None:
    """Make no trial: the step stands for the end of those that it needs."""


def check_searchable(request: Request) -> Request:
    """Return a request; raises TicketError for a budget that makes no sense, or a dev set too small to be halved."""
    settings, (task,) = request.settings, request.tasks.values()
    if not settings.searches:
        return request
    prices = prices_of(settings.random_tickets(request.base.shape), request.base.shape)
    # How long texts are in tokens is known when the dense runs have ended.
    whole, at_least = (
        whole_of(settings, request.base.shape, len(task.train), prices, tokens=tokens)
        for tokens in (settings.max_length, _SHORTEST)
    )
    check_budget(settings, prices, whole, at_least)
    if len(task.dev.targets) < LEAST_EXAMPLES:
        raise TicketError(
            f"--search {settings.search}: it sees one half of the dev set, and the other confirms the level; expected "
            f"at least {LEAST_EXAMPLES} dev examples, got {len(task.dev.targets)}."
        )
    return request


def search_outlook(settings: FindSettings, task: TaskInfo, draws: Draws) -> str:
    """Say how much a search trains at most, beside the dense runs; of a budget in FLOPs, where texts have 32 tokens."""
    prices, first = prices_of(draws.about, task.shape), METHODS[settings.search].first
    levels, share = len(prices), budget_of(settings, task, prices)
    name = f"This counts the dense runs alone: --search {settings.search} then trains winning tickets"
    if share is None:
        return f"{name} for {settings.budget} at most, at the pace of the dense runs."
    begin, share = max(1, round(first * settings.epochs)), min(share, 1.0)
    all_prices = np.repeat(sorted(prices.values()), settings.seeds)
    whole = float(all_prices.sum()) * settings.epochs
    most = int(np.searchsorted((begin * all_prices).cumsum(), share * whole * (1 + 1e-9), side="right"))
    flops = share * whole * training_flops(task, full_ticket(task), 1)
    others = [kind for kind in settings.kinds if kind != "winning"]
    every = counted(levels * settings.seeds, "training")
    texts = ", if texts have 32 tokens on average," if settings.budget.lower().endswith("flops") else ""
    said = (
        f"{name} for at most {share:.3g}{texts} of what all {every} of them cost, which is about "
        f"{flops:.2g} FLOPs for at most {counted(most, 'training')}, many of them stopped early"
    )
    more = f"; then follow {counted(len(others) * settings.seeds, 'training')} of {' and '.join(others)} tickets"
    return f"{said}{more if others else ''}."
