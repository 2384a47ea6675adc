"""Where something was computed: what its bits depend on beside what was asked for."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
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


def joined(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the environments that one training has been in as one: what differs between them is named in turn.

    >>> joined([{"device": "cpu", "torch": "2.12.0"}, {"device": "cpu", "torch": "2.13.0"}])
    {'device': 'cpu', 'torch': '2.12.0, then 2.13.0'}
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in environments for name in one):
        values = list(dict.fromkeys(one.get(name) for one in environments))
        found[name] = values[0] if len(values) == 1 else ", then ".join(map(str, values))
    return found


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
