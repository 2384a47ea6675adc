"""Importance of heads, FFNs and neurons, measured on a trained model over its task's training set."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import shape_of
from supertickets.anatomy.cost import BACKWARD
from supertickets.surgery.gate import gated
from supertickets.surgery.structures import sum_by_structure
from supertickets.tickets.importance import MEASURES, Loss, Measured, Scores
from supertickets.tickets.kinds import Structure
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.batches import in_file_order, in_length_order, in_random_parts
from supertickets.training.loop import Trainer

_ORDERS = {"file": in_file_order, "length": in_length_order}
_PASSES = {"weights": 1 + BACKWARD, "gates": 1 + BACKWARD / 2}
"""What a batch costs in forward passes, by what the loss is derived by; gates need half of a backward pass."""


def score(trainer: Trainer, settings: ScoringSettings, start: Callable[[], PreTrainedModel]) -> Scores:
    """Return the importance of structures (see `tickets.scoring.Scores`) over the (only) task's training set.

    `start` builds the model as it was before training, for measures that ask for it. Call after the training, before
    `restore`.
    """
    learner = replace(*trainer.learners, teacher=None)  # the derivatives are those of the task's own loss
    model, measure = learner.model, MEASURES[settings.importance]
    kept: dict[Structure, NDArray[np.bool_]] = {"heads": learner.ticket.heads, "ffns": learner.ticket.ffns}
    if settings.of_neurons:
        kept["neurons"] = learner.ticket.neurons_of(shape_of(model).ffn)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    @cache
    def before() -> dict[str, nn.Parameter]:
        return dict(nn.Module.to(start(), trainer.device).named_parameters())

    lengths, batch_size = learner.data.train.lengths, trainer.plan.recipe.batch_size
    early = settings.score_examples == "settled"
    parts = in_random_parts(lengths, batch_size, trainer.plan.seed) if early else []
    used = 0

    def losses() -> Iterator[Loss]:
        nonlocal used
        order = chain(*parts) if early else _ORDERS[measure.order(settings)](lengths, batch_size)
        for rows in order:
            used += len(rows)
            yield partial(trainer.passes.losses, learner, rows, _PASSES[measure.gradients])

    cost = trainer.result.cost
    before_scoring = cost.flops
    with trainer.at_work(), trainer.weights_to_score():
        found = measure.function(
            Measured(
                model,
                learner.ticket,
                kept,
                gate=partial(gated, model),
                losses=losses,
                by_structure=lambda value: sum_by_structure(model, kept, value),
                start=lambda parameter: before()[names[id(parameter)]].detach(),
                settings=settings,
                seed=trainer.plan.seed,
                parts=tuple(accumulate(sum(map(len, part)) for part in parts)),
            )
        )
    trainer.result.scored_on = (used, len(lengths)) if early else None
    cost.scoring_flops = cost.flops - before_scoring
    return found
