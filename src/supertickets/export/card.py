"""The README of a ticket folder."""

import re
import shlex
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from supertickets.models import DEFAULT_MODEL, STOCK_CLASSES
from supertickets.storage import user_path
from supertickets.tasks import Form
from supertickets.tasks.metrics import scored
from supertickets.tickets.folder import SharedTicket
from supertickets.tickets.weights import WeightTicket


def ticket_card(shared: SharedTicket[Any], with_model: bool, form: Form = "sequence") -> str:
    """Return the model card: what was kept, how it scored, how to load it; `form` is that of the model's task."""
    base = shared.base
    on_hub = not user_path(base["name"]).is_dir() and base["name"] != DEFAULT_MODEL
    header = ModelCardData(
        library_name="supertickets",
        base_model=base["name"] if on_hub else None,
        tags=["supertickets", "lottery-ticket", "pruning"],
    )
    # Markdown for people, no HTML: names are put in code spans, backticks taken out of them.
    environment = Environment(loader=PackageLoader("supertickets.export"), undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"code": _code, "plain": _plain, "quote": shlex.quote, "scored": scored}
    template = "weights.md.jinja" if isinstance(shared.ticket, WeightTicket) else "card.md.jinja"
    card = environment.get_template(template).render(
        vars(shared), header=header.to_yaml(), with_model=with_model, stock_class=STOCK_CLASSES[form]
    )
    return f"{card}\n"


def _code(name: Any) -> str:
    return f"`{str(name).replace('`', '')}`"


def _plain(sentence: str) -> str:
    """Return a sentence on one line, in which names from data files are neither Markdown nor HTML nor links."""
    return re.sub(r"([\\`*_\[\]<>&~$|#]|:(?=//))", r"\\\1", " ".join(sentence.split()))
