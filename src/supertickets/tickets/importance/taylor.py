import numpy as np

from supertickets.tickets.importance.gates import frozen
from supertickets.tickets.importance.measured import Measure, Measured, Scores


def taylor(measured: Measured) -> Scores:
    """First-order Taylor on weights: the sum over a structure's weights of |w dL/dw|, L a batch's mean loss.

    Batches are weighted by their examples. The gradient is a batch's, not an example's: the score depends on the batch
    size. Source: Molchanov et al., Importance Estimation for Neural Network Pruning (CVPR 2019), |.| for each weight.
    """
    import torch

    total: Scores = {kind: np.zeros(kept.shape) for kind, kept in measured.kept.items()}
    examples = 0
    parameters = [parameter for parameter in measured.model.parameters() if parameter.requires_grad]
    with frozen(measured.model, parameters=False):
        for loss in measured.losses():
            losses = loss()
            gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
            found = {id(p): gradient for p, gradient in zip(parameters, gradients, strict=True)}
            of_batch = measured.by_structure(lambda p, g=found: (p.detach() * g[id(p)]).abs().double())  # type: ignore[misc]
            total = {kind: total[kind] + len(losses) * values for kind, values in of_batch.items()}
            examples += len(losses)
    return {kind: values / examples for kind, values in total.items()}


TAYLOR = Measure(taylor, reads=("score_epoch", "score_attention"), gradients="weights")
