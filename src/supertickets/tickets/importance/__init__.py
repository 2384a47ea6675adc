"""Measures of importance, one file each: which structures does a trained model need?

A measure is a function of a trained model (see `Measured`) that returns a score for every structure; higher stays.
"""

from supertickets.errors import TicketError
from supertickets.tickets.importance.measured import Gate, Loss, Measured
from supertickets.tickets.scoring import MEASURES, Measure, Scores

__all__ = ["MEASURES", "Gate", "Loss", "Measure", "Measured", "Scores", "importance"]


def importance(measured: Measured) -> Scores:
    """Return importance scores by kind of structure (see `Scores`), not normalised, as the settings say."""
    found = MEASURES[measured.settings.importance].function(measured)
    if left_out := [kind for kind in measured.kept if kind not in found]:
        raise TicketError(
            f"the measure of importance {measured.settings.importance!r} gives no scores of {' and '.join(left_out)}; "
            f"expected scores of {', '.join(measured.kept)}."
        )
    return found
