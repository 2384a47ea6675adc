import numpy as np

from supertickets.tickets import released
from supertickets.tickets.importance.gates import mask_derivatives
from supertickets.tickets.importance.measured import Measure, Measured, Scores


def sensitivity(measured: Measured) -> Scores:
    """How much the loss reacts to mask variables: I(l, h) = E over examples of |dL(x) / d xi(l, h)| (paper, section 3).

    With `accumulation: decaying` batches are summed as the released code does.
    """
    if measured.settings.accumulation == "decaying":
        # A batch's loss was its mean: each example's share is 1 / batch size of what the summed loss gives.
        batches = [(heads.mean(axis=0), ffns.mean(axis=0)) for heads, ffns in mask_derivatives(measured)]
        by_heads, by_ffns = zip(*batches, strict=True)
        return released.decaying_mean(by_heads), released.decaying_mean(by_ffns)
    return mean_over_examples(measured, 1)


def mean_over_examples(measured: Measured, power: int) -> Scores:
    """Return the mean over examples of |dL(x) / d xi| to a power."""
    total_heads, total_ffns = np.zeros(measured.ticket.heads.shape), np.zeros(measured.ticket.ffns.shape)
    examples = 0
    for heads, ffns in mask_derivatives(measured):
        total_heads = total_heads + (heads**power).sum(axis=0)
        total_ffns = total_ffns + (ffns**power).sum(axis=0)
        examples += len(ffns)
    return total_heads / examples, total_ffns / examples


SENSITIVITY = Measure(
    sensitivity,
    reads=("absolute", "accumulation", "score_epoch"),
    order=lambda settings: "file" if settings.accumulation == "decaying" else "length",
)
