"""Ticket folders and models for others. Formats are found by name."""

from collections.abc import Callable
from typing import Any

from supertickets.registry import Registry

EXPORTERS: Registry[Callable[..., dict[str, Any]]] = Registry(
    "export format",
    "exporters",
    {
        "onnx": "supertickets.export.to_onnx:write_onnx",
        "dense": "supertickets.export.formats:write_dense",
        "transformers": "supertickets.export.formats:write_transformers",
        "ticket": "supertickets.export.formats:write_ticket",
    },
)
"""What writes a format, by its name: a function of an `export.source.Exported` and a new, empty folder.

It returns what it has to say: `said`, sentences that are printed, `notices`, and other values that JSON can have. If it
raises, nothing is left. A function with a keyword `int8` takes `--int8`.
"""
