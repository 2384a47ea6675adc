from supertickets.tickets.importance.measured import Measure, Measured, Scores


def movement(measured: Measured) -> Scores:
    """How far training moved a structure's weights away from zero: sum of (w_end^2 - w_start^2) / 2; may be negative.

    Movement pruning sums -lr w dL/dw over the steps of a training; under plain gradient descent with small steps that
    is what this is, seen at the end. Needs no data. Source: Sanh et al., Movement Pruning (NeurIPS 2020), section 4.
    """
    return measured.by_structure(
        lambda parameter: (parameter.detach().double() ** 2 - measured.start(parameter).double() ** 2) / 2
    )


MOVEMENT = Measure(movement, reads=("score_epoch",))
