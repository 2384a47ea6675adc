"""A shared ticket put on its pre-trained base model: a smaller encoder, or a plain one with zeros in it."""

from pathlib import Path
from typing import Any

from supertickets.anatomy.cost import unlike
from supertickets.errors import TicketError
from supertickets.models import (
    BaseModel,
    find_model,
    first_layers,
    load_model,
    load_tokenizer,
    prunable_shapes,
    quiet_transformers,
)
from supertickets.storage import atomic_folder, check_free, user_path
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, load_any_ticket
from supertickets.tickets.weights import check_tensors


def apply_ticket(ticket: Path | str, model: str | None, out: Path | str, any_base: bool = False) -> dict[str, Any]:
    """Put a shared ticket on its pre-trained base model and save the encoder in `out`.

    A ticket of heads and FFNs is cut out; one of single weights leaves zeros where it has nothing. `model` None means
    the one the ticket names. Returns the folder, how many parameters there are (but zeros) and were, how many became
    zeros, and notices about the base. Raises TicketError if the base's weights are not those the ticket was drawn from
    (unless `any_base`), if the ticket does not fit, or if `out` is not empty.
    """
    from transformers import AutoModel

    from supertickets.surgery.cut import cut
    from supertickets.surgery.masks import zero

    out, shared = user_path(out), load_any_ticket(ticket)
    base = base_of(shared, model, any_base)
    check_free(out)
    fitted, loaded = load_tokenizer(base.name, base.folder), load_model(base, AutoModel, "auto")
    with atomic_folder(out) as new, quiet_transformers():
        encoder = loaded.model
        before, zeros = encoder.num_parameters(), 0
        if isinstance(shared.ticket, Ticket):
            cut(encoder, shared.ticket)
        else:
            zero(encoder, shared.ticket)
            zeros = shared.ticket.total - shared.ticket.kept
        encoder.save_pretrained(new)
        fitted.tokenizer.save_pretrained(new)
    notices = [*fitted.notices, *loaded.notices]
    return {
        "folder": str(out),
        "parameters": encoder.num_parameters() - zeros,
        "dense_parameters": before,
        "zeros": zeros,
        "notices": notices,
    }


def base_of(shared: SharedTicket[Any], model: str | None, any_base: bool) -> BaseModel:
    """Return the base model of a shared ticket, by default the one that it names.

    Raises TicketError if its weights are not those the ticket was drawn from (unless `any_base`), or if the ticket does
    not fit.
    """
    base = find_model(model if model is not None else shared.base["name"])
    base = first_layers(base, shared.base.get("layers"), "the ticket was drawn with --layers")
    if base.weight_hash != shared.base["weight_hash"] and not any_base:
        raise TicketError(
            f"the ticket was drawn from {shared.base['name']!r} with weights {shared.base['weight_hash'][:12]}..., but "
            f"model {base.called} has weights {base.weight_hash[:12]}...; use that model, or add --any-base."
        )
    if not isinstance(shared.ticket, Ticket):
        check_tensors(shared.ticket, prunable_shapes(base), base.name)
    elif (differs := unlike(base.shape, shared.ticket)) is not None:
        raise TicketError(f"the ticket is for {differs[0]}, but model {base.called} has {differs[1]}.")
    return base
