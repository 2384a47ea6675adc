import numpy as np

from supertickets.tickets.importance.measured import Measure, Measured, Scores


def magnitude(measured: Measured) -> Scores:
    """The l2 norm of all trained weights of a head (query, key, value, its share of the output), FFN or neuron.

    Needs no data. Source: Han et al., Learning both Weights and Connections (NeurIPS 2015), taken to whole structures.
    """
    squares = measured.by_structure(lambda parameter: parameter.detach().double() ** 2)
    return {kind: np.sqrt(values) for kind, values in squares.items()}


MAGNITUDE = Measure(magnitude, reads=("score_epoch",))
