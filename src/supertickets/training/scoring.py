"""Importance of heads, FFNs and neurons, measured on a trained model over its task's training set."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
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
from supertickets.training.orders import Rows

_ORDERS = {"file": in_file_order, "length": in_length_order}
_PASSES = {"weights": 1 + BACKWARD, "gates": 1 + BACKWARD / 2}
"""What a batch costs in forward passes, by what the loss is derived by; gates need half of a backward pass."""


def score(trainer: Trainer, settings: ScoringSettings, start: Callable[[], PreTrainedModel]) -> Scores:
    """Return the importance of structures (see `tickets.scoring.Scores`) over the (only) task's training set.

    `start` builds the model as it was before training, for measures that ask for it. Call after the training, before
    `restore`.
    """
    (learner,) = trainer.learners
    lengths, early = learner.data.train.lengths, settings.score_examples == "settled"
    parts = parts_of(trainer) if early else []
    cost = trainer.result.cost
    before_scoring = cost.flops
    with trainer.weights_to_score():
        if early:
            ends = tuple(accumulate(sum(map(len, part)) for part in parts))
            found, used = _measured(trainer, settings, start, chain(*parts), ends)
            trainer.result.scored_on = used, len(lengths)
        else:
            order = _ORDERS[MEASURES[settings.importance].order(settings)]
            found, _ = _measured(trainer, settings, start, order(lengths, trainer.plan.recipe.batch_size))
    cost.scoring_flops = cost.flops - before_scoring
    return found


def parts_of(trainer: Trainer) -> list[list[Rows]]:
    """Return the (only) task's training set in a random order, in the parts after which importance may be settled."""
    (learner,) = trainer.learners
    return in_random_parts(learner.data.train.lengths, trainer.plan.recipe.batch_size, trainer.plan.seed)


def score_now(
    trainer: Trainer, settings: ScoringSettings, start: Callable[[], PreTrainedModel], parts: int | None = None
) -> Scores:
    """Return importance on the weights as they are at any step of a training, which goes on as if nothing had been.

    It is over the whole training set, or over so many of the first `parts_of` it. What it costs counts in the
    training's cost.
    """
    (learner,) = trainer.learners
    order = _ORDERS[MEASURES[settings.importance].order(settings)]
    whole = order(learner.data.train.lengths, trainer.plan.recipe.batch_size)
    return _measured(trainer, settings, start, whole if parts is None else chain(*parts_of(trainer)[:parts]))[0]


def _attention(settings: ScoringSettings) -> AbstractContextManager[None]:
    """Return the context in which attention is computed as the settings say.

    torch 2.13's fused kernel for CPUs takes eight times as long for a backward pass in bfloat16 as in float32.
    """
    return sdpa_kernel(SDPBackend.MATH) if settings.score_attention == "plain" else nullcontext()


def _measured(
    trainer: Trainer,
    settings: ScoringSettings,
    start: Callable[[], PreTrainedModel],
    batches: Iterable[Rows],
    parts: tuple[int, ...] = (),
) -> tuple[Scores, int]:
    """Return what the measure says over batches of the training set, and of how many examples it took."""
    learner = replace(*trainer.learners, teacher=None)  # the derivatives are those of the task's own loss
    model, measure = learner.model, MEASURES[settings.importance]
    kept: dict[Structure, NDArray[np.bool_]] = {"heads": learner.ticket.heads, "ffns": learner.ticket.ffns}
    if settings.of_neurons:
        kept["neurons"] = learner.ticket.neurons_of(shape_of(model).ffn)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    used = 0

    @cache
    def before() -> dict[str, nn.Parameter]:
        return dict(nn.Module.to(start(), trainer.device).named_parameters())

    def losses() -> Iterator[Loss]:
        nonlocal used
        for rows in batches:
            used += len(rows)
            yield partial(trainer.passes.losses, learner, rows, _PASSES[measure.gradients])

    with trainer.at_work(), _attention(settings):
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
                parts=parts,
            )
        )
    return found, used
