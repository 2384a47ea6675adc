"""What a model says of examples: forward passes of trainings, and evaluations of models that are loaded again too."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import shape_of
from supertickets.anatomy.cost import forward_flops
from supertickets.errors import DivergedError
from supertickets.surgery.sharing import SharedStructures
from supertickets.tasks.metrics import evaluate
from supertickets.training.batches import Encoded, in_length_order
from supertickets.training.devices import arithmetic
from supertickets.training.learner import Learner
from supertickets.training.objectives import Objective
from supertickets.training.orders import Rows
from supertickets.training.recipe import Precision, Recipe
from supertickets.training.state import Training

EVALUATED_AT_ONCE = 2
"""How many training batches' examples are evaluated together: evaluations need less memory than training."""


def forward(
    model: PreTrainedModel,
    objective: Objective,
    inputs: dict[str, Tensor],
    targets: Tensor,
    precision: Precision,
    device: torch.device,
) -> Tensor:
    """Return what a model gives for a batch, computed in a precision and returned in float32 or better."""
    with arithmetic(precision, device):
        outputs = objective.forward(model, inputs, targets)
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def judged_on(
    split: Encoded,
    model: PreTrainedModel,
    objective: Objective,
    batch_size: int,
    precision: Precision,
    device: torch.device,
    collated: Callable[[Rows, dict[str, Tensor]], None] = lambda rows, inputs: None,
) -> NDArray[np.float32]:
    """Return what a task's form keeps of a model's outputs on a split, a row an example, without dropout.

    `collated` is called with each batch. `objective.finish` makes an evaluation's outputs of what is returned.
    """
    model.eval()
    found = objective.blank(split)
    with objective.judging(model), torch.inference_mode():
        for rows in in_length_order(split.lengths, batch_size):
            inputs, targets = split.collate(rows, device)
            collated(rows, inputs)
            judged = objective.judge(forward(model, objective, inputs, targets, precision, device), targets)
            found[rows, : judged.shape[1]] = judged  # of each token: this batch may be shorter than the longest
    return found


class Passes:
    """Forward passes of learners that share an encoder, each with its own ticket alone; their cost is counted."""

    def __init__(self, structures: SharedStructures, recipe: Recipe, device: torch.device, result: Training) -> None:
        self._structures, self._recipe, self._device, self._result = structures, recipe, device, result
        self._shape = cache(shape_of)  # a config takes a millisecond to read, and no training changes it

    def losses(self, learner: Learner, rows: Rows, passes: float, drawn: Sequence[int] = ()) -> Tensor:
        """Return the losses `[batch]` of some training examples.

        `passes` is what is done with the batch, this and what follows, in forward passes; for `drawn` see
        `Encoded.collate`.
        """
        split = learner.data.train
        inputs, targets = split.collate(rows, self._device, drawn)
        self._count(split, rows, learner, passes, inputs)
        self._structures.activate(learner.ticket)
        outputs = forward(learner.model, learner.objective, inputs, targets, self._recipe.precision, self._device)
        return learner.losses(outputs, targets, rows)

    def outputs(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return the outputs of an evaluation on a split, as `tasks.metrics.evaluate` takes them, without dropout."""
        return learner.objective.finish(self.judged(learner, split), split)

    def evaluate(self, learners: Sequence[Learner], epoch: int) -> dict[str, dict[str, dict[str, float]]]:
        """Evaluate every task on each of its sets; keep the outputs, return metrics by task and set.

        Raises DivergedError if some outputs are NaN or infinite.
        """
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for learner in learners:
            task = learner.data.task
            kept = self._result.predictions.setdefault(task.name, {})
            for name, split in learner.data.evaluations.items():
                found = self.judged(learner, split)
                if not np.isfinite(found).all():
                    raise DivergedError(f"the outputs on {name} became NaN or infinite after epoch {epoch}")
                outputs = learner.objective.finish(found, split)
                kept.setdefault(name, []).append(outputs)
                metrics.setdefault(task.name, {})[name] = evaluate(task.metrics, split.targets, outputs)
        return metrics

    def judged(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return what the task's form keeps of a model's outputs on a split, a row an example."""
        self._structures.activate(learner.ticket)
        return judged_on(
            split,
            learner.model,
            learner.objective,
            EVALUATED_AT_ONCE * self._recipe.batch_size,
            self._recipe.precision,
            self._device,
            lambda rows, inputs: self._count(split, rows, learner, 1, inputs),
        )

    def _count(self, split: Encoded, rows: Rows, learner: Learner, passes: float, inputs: dict[str, Tensor]) -> None:
        """Add a batch to what the training took."""
        examples, length = inputs["input_ids"].shape
        cost = self._result.cost
        cost.tokens += int(split.lengths[rows].sum())
        cost.flops += int(passes * forward_flops(self._shape(learner.model), learner.ticket, examples, length))
