"""Measures of importance, one file each: which heads and FFNs does a trained model need?

A measure is a function of a trained model (see `Measured`) that returns a score for every head and FFN; higher stays.
"""

from supertickets.tickets.importance.measured import Gate, Loss, Measured
from supertickets.tickets.scoring import MEASURES, Measure, Scores

__all__ = ["MEASURES", "Gate", "Loss", "Measure", "Measured", "Scores", "importance"]


def importance(measured: Measured) -> Scores:
    """Return importance scores of heads `[layers, heads]` and FFNs `[layers]`, not normalised, as the settings say."""
    return MEASURES[measured.settings.importance].function(measured)
