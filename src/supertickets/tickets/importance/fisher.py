from supertickets.tickets.importance.measured import Measure, Measured, Scores
from supertickets.tickets.importance.sensitivity import mean_over_examples


def fisher(measured: Measured) -> Scores:
    """The diagonal of the empirical Fisher information of the masks: E over examples of (dL(x) / d xi)^2.

    Source: Kwon et al., A Fast Post-Training Pruning Framework for Transformers (NeurIPS 2022), section 4.
    """
    return mean_over_examples(measured, 2)


FISHER = Measure(fisher, reads=("absolute", "score_epoch", "score_examples", "score_attention"))
