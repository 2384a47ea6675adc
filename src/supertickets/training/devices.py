"""Where a training runs and in which arithmetic."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from supertickets.tasks.tables import counted
from supertickets.training.recipe import Precision


def find_device(name: str = "auto") -> torch.device:
    """Return the device named; for `auto` torch's accelerator (a GPU), if this machine has one that can train."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # Apple's MPS has no float64, in which importance is summed.
    return torch.device("cpu") if found is None or found.type == "mps" else found


def choose_precision(asked: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return what `auto` means on a device: bfloat16 where its hardware multiplies it faster, float32 elsewhere."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and _multiplies_bfloat16_faster() else "float32"


@cache
def _multiplies_bfloat16_faster() -> bool:
    """Return whether this CPU multiplies matrices in bfloat16 in clearly less time than in float32.

    Its instructions do not tell: with avx512_bf16 it may take a third of the time (AMD's Zen 4) or twice as long
    (Intel's Sapphire Rapids, where the matrix unit amx_bf16 is not there). So products of an encoder's size are timed,
    for some hundredths of a second, in time of this thread alone: others may be at work.
    """
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # float32 is right where torch is older
    if not any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return False
    with torch.inference_mode(), with_threads(1):
        pairs = [(torch.ones(512, 512, dtype=kind), torch.ones(512, 1024, dtype=kind)) for kind in _CPU_PRECISIONS]
        seconds = [[_seconds_of_product(*pair) for pair in pairs] for _ in range(_PRODUCTS)]
    float32, bfloat16 = (min(times) for times in zip(*seconds, strict=True))
    return bfloat16 < _CLEARLY_LESS * float32


_CPU_PRECISIONS = (torch.float32, torch.bfloat16)
_PRODUCTS = 7  # of which the fastest counts; the first also prepares the routine
_CLEARLY_LESS = 0.8  # weights and activations have to be converted, too


def _seconds_of_product(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.thread_time()
    torch.mm(left, right)
    return time.thread_time() - started


@contextlib.contextmanager
def undisturbed(threads: int | None = None) -> Iterator[None]:
    """Leave torch's random state and number of threads as they were before the context; `threads` in it, if given."""
    random = torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        with with_threads(torch.get_num_threads() if threads is None else threads):
            yield
    finally:
        torch.set_rng_state(random)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


@contextlib.contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Within the context torch computes with so many threads; after it, with as many as before."""
    before = torch.get_num_threads()
    try:
        if threads != before:
            torch.set_num_threads(threads)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def arithmetic(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass has the precision asked for."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def device_name(device: torch.device) -> str:
    """Return what a device's maker calls it, as far as the system knows: the model of a CPU or of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def describe_devices() -> str:
    """Return this machine's cores and GPUs in words."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores, threads = counted(os.cpu_count() or 1, "CPU core"), counted(torch.get_num_threads(), "torch thread")
    return f"{cores}, GPUs: {', '.join(gpus) or 'none'}; {threads}"
