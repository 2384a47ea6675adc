import numpy as np

from supertickets.tickets.importance.measured import Measure, Measured, Scores


def magnitude(measured: Measured) -> Scores:
    """The l2 norm of all trained weights of a head (query, key, value, its share of the output) or of an FFN.

    Needs no data. Source: Han et al., Learning both Weights and Connections (NeurIPS 2015), taken to whole structures.
    """
    heads, ffns = measured.by_structure(lambda parameter: parameter.detach().double() ** 2)
    return np.sqrt(heads), np.sqrt(ffns)


MAGNITUDE = Measure(magnitude, reads=("score_epoch",))
