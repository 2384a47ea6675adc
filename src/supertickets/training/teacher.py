"""A teacher: the outputs of another model on the training set, which a training fits beside its targets.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015), section 2. The outputs are stored once,
so that a student's training needs no second model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.training.orders import Rows


@dataclass(frozen=True)
class Lesson:
    """A teacher's outputs on each training example, in the order of the training set, and how they are learnt from.

    `outputs` are `[examples, outputs]`; of the form `spans` `[windows, tokens, 2]`, 0 at padding. For `weight` and
    `temperature` see `Learner.losses`.
    """

    outputs: NDArray[np.floating]
    weight: float
    temperature: float

    def at(self, rows: Rows, like: Tensor) -> Tensor:
        """Return the outputs at `rows`, with the type, the device and the width of a student's outputs on them."""
        found = torch.from_numpy(self.outputs[np.asarray(rows)][:, : like.shape[1]])
        return found.to(like.device, like.dtype)


def as_stored(outputs: NDArray[np.float32], regression: bool = False) -> NDArray[np.floating]:
    """Return outputs in float16, or as they are where some are too large for that, or are real numbers of a regression.

    Those are in the targets' own units: float16 would round years to whole ones, and prices to steps of 32.

    >>> [as_stored(np.array([[2.5, large]], np.float32)).dtype.name for large in (6e4, 7e4)]
    ['float16', 'float32']
    """
    if regression:
        return outputs
    with np.errstate(over="ignore"):
        half = outputs.astype(np.float16)
    return half if np.isfinite(half).all() else outputs
