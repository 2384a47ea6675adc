import numpy as np

from supertickets.tickets.importance.measured import Measure, Measured, Scores


def random(measured: Measured) -> Scores:
    """Uniform random scores from the training's seed: what any measure has to beat."""
    rng = np.random.default_rng([measured.seed, 7])
    return {kind: rng.random(kept.shape) * kept for kind, kept in measured.kept.items()}


RANDOM = Measure(random)
