"""Where something was computed: what its bits depend on beside what was asked for."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from supertickets.training.recipe import Recipe


def environment(device: torch.device, recipe: Recipe) -> dict[str, Any]:
    """Return what a training's bits depend on beside its trial: device and processor, arithmetic, versions."""
    from supertickets.training.devices import device_name

    name = device_name(device)
    return {
        "device": name if device.type == "cuda" else device.type,
        "processor": name,
        "threads": recipe.threads,
        "precision": recipe.precision,
        **versions(),
    }


def repeats_bits(environment: Mapping[str, Any]) -> bool:
    """Return whether a training gives the same bits again there: on a CPU; on GPUs sums have no fixed order."""
    return bool(environment.get("device") == "cpu")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    libraries = ("supertickets", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{library: _version(library) for library in libraries}}


@cache  # each reads and parses the library's metadata, which takes as long as a step of a tiny model
def _version(library: str) -> str:
    return version(library)
