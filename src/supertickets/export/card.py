"""The README of a ticket folder."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from supertickets.tickets import Ticket


def ticket_card(ticket: Ticket, base: Mapping[str, Any], origin: Mapping[str, Any], with_model: bool) -> str:
    """Return the model card: what was kept, how it scored, how to load it."""
    is_path = (
        base["name"] == "default" or "/" in base["name"].lstrip("/").replace("/", "", 1) or base["name"].startswith("/")
    )
    header = ModelCardData(
        library_name="supertickets",
        base_model=None if is_path else base["name"],
        tags=["supertickets", "lottery-ticket", "pruning"],
    )
    # Markdown for people, no HTML: names are put in code spans, backticks taken out of them.
    environment = Environment(loader=PackageLoader("supertickets.export"), undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = lambda value: f"`{str(value).replace('`', '')}`"
    template = environment.get_template("card.md.jinja")
    return (
        template.render(header=header.to_yaml(), ticket=ticket, base=base, origin=origin, with_model=with_model) + "\n"
    )
