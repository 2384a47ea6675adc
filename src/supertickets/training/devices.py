"""Where a training runs and in which arithmetic."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from supertickets.training.recipe import Precision
from supertickets.training.team import process_state


def find_device(name: str = "auto") -> torch.device:
    """Return the device accelerate picks (a GPU if there is one), or the one named."""
    if name != "auto":
        return torch.device(name)
    return process_state().device


def choose_precision(asked: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return what `auto` means on a device: bfloat16 where its hardware multiplies it natively, float32 elsewhere."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        features: dict[str, bool] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older torch cannot tell; float32 is always right
        return (
            "bfloat16" if features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16") else "float32"
        )
    return "float32"


@contextlib.contextmanager
def undisturbed(threads: int | None = None) -> Iterator[None]:
    """Leave torch's random state and number of threads as they were before the context; `threads` in it, if given."""
    before, random = torch.get_num_threads(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(random)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def arithmetic(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass has the precision asked for."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
