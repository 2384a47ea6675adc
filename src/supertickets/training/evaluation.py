"""What a model says of a split: one loop for trainings and for models that are loaded again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from supertickets.training.batches import Encoded, in_length_order
from supertickets.training.devices import arithmetic
from supertickets.training.objectives import Objective
from supertickets.training.recipe import Precision

Rows = NDArray[np.int64]


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
    share: Callable[[list[Rows]], Any] = lambda batches: batches,
    collated: Callable[[Rows, dict[str, Tensor]], None] = lambda rows, inputs: None,
) -> NDArray[np.float32]:
    """Return what a task's form keeps of a model's outputs on a split, a row an example, without dropout.

    `share` picks the batches that this process computes (rows of others stay zero); `collated` is told of each.
    `objective.finish` makes an evaluation's outputs of it.
    """
    model.eval()
    found = objective.blank(split)
    with objective.judging(model), torch.inference_mode():
        for rows in share(list(in_length_order(split.lengths, batch_size))):
            inputs, targets = split.collate(rows, device)
            collated(rows, inputs)
            judged = objective.judge(forward(model, objective, inputs, targets, precision, device), targets)
            found[rows, : judged.shape[1]] = judged  # of each token: this batch may be shorter than the longest
    return found
