"""Where a training runs and in which arithmetic."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from supertickets.tasks.tables import counted
from supertickets.training.recipe import Precision


def find_device(name: str = "auto") -> torch.device:
    """Return the device named; for `auto` torch's accelerator (a GPU), if this machine has one."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


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
