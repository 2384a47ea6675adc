import numpy as np

from supertickets.tickets.importance.gates import frozen
from supertickets.tickets.importance.measured import Measure, Measured, Scores


def taylor(measured: Measured) -> Scores:
    """First-order Taylor on weights: the sum over a structure's weights of |w dL/dw|, L a batch's mean loss.

    Batches are weighted by their examples. The gradient is a batch's, not an example's: the score depends on the batch
    size. Source: Molchanov et al., Importance Estimation for Neural Network Pruning (CVPR 2019), |.| for each weight.
    """
    import torch

    total_heads, total_ffns = np.zeros(measured.ticket.heads.shape), np.zeros(measured.ticket.ffns.shape)
    examples = 0
    parameters = [parameter for parameter in measured.model.parameters() if parameter.requires_grad]
    with frozen(measured.model, parameters=False):
        for loss in measured.losses():
            losses = loss()
            gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
            found = {id(p): gradient for p, gradient in zip(parameters, gradients, strict=True)}
            heads, ffns = measured.by_structure(lambda p, g=found: (p.detach() * g[id(p)]).abs().double())  # type: ignore[misc]
            total_heads, total_ffns = total_heads + len(losses) * heads, total_ffns + len(losses) * ffns
            examples += len(losses)
    return total_heads / examples, total_ffns / examples


TAYLOR = Measure(taylor, reads=("score_epoch",), gradients="weights")
