from contextlib import closing

import numpy as np

from supertickets.tickets import released
from supertickets.tickets.importance.gates import mask_derivatives
from supertickets.tickets.importance.measured import Measure, Measured, Scores
from supertickets.tickets.importance.settled import SettledCheck


def sensitivity(measured: Measured) -> Scores:
    """How much the loss reacts to mask variables: I(l, h) = E over examples of |dL(x) / d xi(l, h)| (paper, section 3).

    A neuron has a mask variable as heads and FFNs have, which multiplies what it hands to the FFN's second matrix.

    With `accumulation: decaying` batches are summed as the released code does.
    """
    if measured.settings.accumulation == "decaying":
        # A batch's loss was its mean: each example's share is 1 / batch size of what the summed loss gives.
        batches = [{k: v.mean(axis=0) for k, v in batch.items()} for batch in mask_derivatives(measured)]
        return {kind: released.decaying_mean([batch[kind] for batch in batches]) for kind in measured.kept}
    return mean_over_examples(measured, 1)


def mean_over_examples(measured: Measured, power: int) -> Scores:
    """Return the mean over examples of |dL(x) / d xi| to a power.

    Where the settings say so, it stops at the part of the examples after which the tickets are settled.
    """
    total: Scores = {kind: np.zeros(kept.shape) for kind, kept in measured.kept.items()}
    examples, check = 0, SettledCheck(measured) if measured.parts else None
    with closing(mask_derivatives(measured)) as batches:
        for batch in batches:
            values = {kind: derivatives**power for kind, derivatives in batch.items()}
            total = {kind: total[kind] + of_kind.sum(axis=0) for kind, of_kind in values.items()}
            examples += len(batch["ffns"])
            if check is not None and check.settled(values):
                break
    return {kind: values / examples for kind, values in total.items()}


SENSITIVITY = Measure(
    sensitivity,
    reads=("absolute", "accumulation", "score_epoch", "score_examples", "score_attention"),
    order=lambda settings: "file" if settings.accumulation == "decaying" else "length",
)
