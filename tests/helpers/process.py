"""Random numbers, threads and other settings of this process, which a call must leave as they were."""

import random
from typing import Any

import numpy as np
import torch


def process() -> list[Any]:
    """Return what of a process libraries like to change."""
    return [
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ]
