import numpy as np

from supertickets.tickets import released
from supertickets.tickets.importance.gates import mask_derivatives
from supertickets.tickets.importance.measured import Measure, Measured, Scores


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
    """Return the mean over examples of |dL(x) / d xi| to a power."""
    total: Scores = {kind: np.zeros(kept.shape) for kind, kept in measured.kept.items()}
    examples = 0
    for batch in mask_derivatives(measured):
        total = {kind: total[kind] + (values**power).sum(axis=0) for kind, values in batch.items()}
        examples += len(batch["ffns"])
    return {kind: values / examples for kind, values in total.items()}


SENSITIVITY = Measure(
    sensitivity,
    reads=("absolute", "accumulation", "score_epoch"),
    order=lambda settings: "file" if settings.accumulation == "decaying" else "length",
)
