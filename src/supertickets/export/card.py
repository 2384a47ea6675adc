"""The README of a ticket folder."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from supertickets.models import DEFAULT_MODEL
from supertickets.tickets import Ticket


def ticket_card(ticket: Ticket, base: Mapping[str, Any], origin: Mapping[str, Any], with_model: bool) -> str:
    """Return the model card: what was kept, how it scored, how to load it."""
    on_hub = not Path(base["name"]).is_dir() and base["name"] != DEFAULT_MODEL
    header = ModelCardData(
        library_name="supertickets",
        base_model=base["name"] if on_hub else None,
        tags=["supertickets", "lottery-ticket", "pruning"],
    )
    # Markdown for people, no HTML: names are put in code spans, backticks taken out of them.
    environment = Environment(loader=PackageLoader("supertickets.export"), undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = lambda value: f"`{str(value).replace('`', '')}`"
    environment.filters["quote"] = shlex.quote
    template = environment.get_template("card.md.jinja")
    return (
        template.render(header=header.to_yaml(), ticket=ticket, base=base, origin=origin, with_model=with_model) + "\n"
    )
