"""Measures of importance, one file each: which heads and FFNs does a trained model need?

A measure is a function of a trained model (see `Measured`) that returns a score for every head and FFN; higher stays.
"""

from supertickets.tickets.importance.fisher import fisher
from supertickets.tickets.importance.magnitude import magnitude
from supertickets.tickets.importance.measured import Gate, Loss, Measure, Measured, Scores
from supertickets.tickets.importance.movement import movement
from supertickets.tickets.importance.random import random
from supertickets.tickets.importance.sensitivity import sensitivity
from supertickets.tickets.importance.taylor import taylor

__all__ = ["MEASURES", "Gate", "Loss", "Measure", "Measured", "Scores", "importance"]

MEASURES: dict[str, Measure] = {
    "sensitivity": sensitivity,
    "magnitude": magnitude,
    "taylor": taylor,
    "fisher": fisher,
    "movement": movement,
    "random": random,
}


def importance(measured: Measured) -> Scores:
    """Return importance scores of heads `[layers, heads]` and FFNs `[layers]`, not normalised, as the settings say."""
    return MEASURES[measured.settings.importance](measured)
