"""Which tickets a study of `find` draws: at levels, as the paper does, or for a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from supertickets.anatomy import Shape
from supertickets.studies.find_settings import FindSettings
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Kind, draw_ranked, normalise
from supertickets.tickets.knapsack import Cap, Drawn, draw_under, lightest_level
from supertickets.tickets.levels import Counts
from supertickets.tickets.scoring import Scores

WITHOUT = "without-replacement"
_Draw = Callable[[float, Counts], Ticket]
"""Gives the ticket of a level and its counts."""


class Draws(Protocol):
    """What a study draws its tickets by. A level is a number that names it in tables and figures."""

    @property
    def about(self) -> Mapping[float, Ticket]:
        """A random ticket of each level: what a level costs hardly depends on what is drawn."""

    def random(self, level: float, seed: int) -> Ticket:
        """Return a seed's random ticket of a level."""

    def ranked(self, kind: Kind, level: float, scores: Scores, within: Ticket) -> Ticket:
        """Return the winning or losing ticket of a level from scores as measured on the model of ticket `within`."""


class ByLevel:
    """The same share of each kind of structures at each level (Super Tickets paper, section 3)."""

    def __init__(self, settings: FindSettings, shape: Shape) -> None:
        self._settings, self._shape = settings, shape
        self._counts = settings.drawn_levels(shape)

    @property
    def about(self) -> Mapping[float, Ticket]:
        """A random ticket of each level."""
        return {level: self.random(level, 0) for level in self._counts}

    def random(self, level: float, seed: int) -> Ticket:
        """Return a seed's random ticket of a level."""
        return self._settings.random_ticket(self._shape, level, self._counts[level], seed)

    def ranked(self, kind: Kind, level: float, scores: Scores, within: Ticket) -> Ticket:
        """Return the ticket that lacks the least important structures (losing: the most important ones)."""
        return draw_ranked(normalise(scores), self._counts[level], kind, within, self._settings.neuron_block)


class ForTarget:
    """The winning ticket keeps the most importance that a target allows; others lack the same share of each kind.

    The one level is named after the share that a random ticket lacks when it just reaches the target. Random tickets
    are drawn without replacement: with it, a level prunes fewer than it says, and may not reach the target.
    """

    def __init__(self, settings: FindSettings, shape: Shape, caps: list[Cap]) -> None:
        self._settings, self._shape, self.caps = settings.model_copy(update={"random": WITHOUT}), shape, caps
        self._units = settings.units(shape)
        found, self._first = lightest_level(self._random_at(0), caps, self._units)
        self.level = max(round(found, 4), 0.0001)  # 0 would be the dense model

    @property
    def about(self) -> Mapping[float, Ticket]:
        """A random ticket of the level."""
        return {self.level: self._first}

    def random(self, level: float, seed: int) -> Ticket:
        """Return a seed's random ticket that reaches the target."""
        return self._lightest(self._random_at(seed))

    def ranked(self, kind: Kind, level: float, scores: Scores, within: Ticket) -> Ticket:
        """Return the winning ticket that keeps the most importance, or the losing one of the same share."""
        return self.under(scores).ticket if kind == "winning" else self.same_share(kind, scores)

    def under(self, scores: Scores) -> Drawn:
        """Return the winning ticket, with what is known of better ones."""
        return draw_under(scores, self.caps, self._shape.of_tickets, self._units)

    def same_share(self, kind: Kind, scores: Scores) -> Ticket:
        """Return the ticket of the lightest level that reaches the target, drawn as the paper draws it."""
        ranked, block = normalise(scores), self._settings.neuron_block
        return self._lightest(lambda level, counts: draw_ranked(ranked, counts, kind, block=block))

    def _random_at(self, seed: int) -> _Draw:
        def draw(level: float, counts: Counts) -> Ticket:
            return self._settings.random_ticket(self._shape, level, counts, seed)

        return draw

    def _lightest(self, draw: _Draw) -> Ticket:
        return lightest_level(draw, self.caps, self._units)[1]
