"""Ticket folders and models for others. Formats are found by name."""

from collections.abc import Callable
from typing import Any

from supertickets.registry import Registry

EXPORTERS: Registry[Callable[..., dict[str, Any]]] = Registry(
    "export format", "exporters", {"transformers": "supertickets.export.apply:apply_ticket"}
)
"""What puts a ticket on its base model and writes the result, by the name of the format (see `export.apply`)."""
