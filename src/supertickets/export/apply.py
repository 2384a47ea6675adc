"""A shared ticket put on its pre-trained base model: a smaller encoder, or a plain one with zeros in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from supertickets.tickets.folder import UNNAMED_BASE, SharedTicket, load_any_ticket
from supertickets.tickets.hub import ticket_folder
from supertickets.tickets.weights import check_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Applied:
    """A ticket on its pre-trained base model: the encoder, its tokenizer, and what became of its parameters."""

    model: "PreTrainedModel"
    tokenizer: Any
    dense_parameters: int
    zeros: int
    notices: tuple[str, ...]


def apply_ticket(ticket: Path | str, model: str | None, out: Path | str, any_base: bool = False) -> dict[str, Any]:
    """Put a shared ticket on its pre-trained base model and save the encoder in `out`.

    `ticket` is a ticket folder, or a repository on the hub as org/name or org/name@revision (see `tickets.hub`). A
    ticket of heads and FFNs is cut out; one of single weights leaves zeros where it has nothing. `model` None means the
    one the ticket names. Returns the folder, how many parameters there are (but zeros) and were, how many became zeros,
    and notices about the base. Raises TicketError if the base's weights are not those the ticket was drawn from (unless
    `any_base`), if the ticket does not fit, or if `out` is not empty. `supertickets.export_model` writes other formats,
    and trained models.
    """
    out, shared = user_path(out), load_any_ticket(ticket_folder(ticket))
    base = base_of(shared, model, any_base)
    check_free(out)
    made = applied(shared, base)
    with atomic_folder(out) as new, quiet_transformers():
        made.model.save_pretrained(new)
        made.tokenizer.save_pretrained(new)
    return {
        "folder": str(out),
        "parameters": made.model.num_parameters() - made.zeros,
        "dense_parameters": made.dense_parameters,
        "zeros": made.zeros,
        "notices": list(made.notices),
    }


def applied(shared: SharedTicket[Any], base: BaseModel) -> Applied:
    """Return a shared ticket on a base model that it fits (see `base_of`)."""
    from transformers import AutoModel

    from supertickets.surgery.cut import cut
    from supertickets.surgery.masks import zero

    fitted, loaded = load_tokenizer(base.name, base.folder), load_model(base, AutoModel, "auto")
    encoder, zeros = loaded.model, 0
    before = encoder.num_parameters()
    if isinstance(shared.ticket, Ticket):
        cut(encoder, shared.ticket)
    else:
        zero(encoder, shared.ticket)
        zeros = shared.ticket.total - shared.ticket.kept
    return Applied(encoder, fitted.tokenizer, before, zeros, (*fitted.notices, *loaded.notices))


def base_of(shared: SharedTicket[Any], model: str | None, any_base: bool) -> BaseModel:
    """Return the base model of a shared ticket, by default the one that it names.

    Raises TicketError if its weights are not those the ticket was drawn from (unless `any_base`), or if the ticket does
    not fit.
    """
    if model is None and shared.base["name"] == UNNAMED_BASE:
        raise TicketError(
            "the ticket was drawn from a model that has no name on the hub, with weights "
            f"{shared.base['weight_hash'][:12]}...; name that model with --model."
        )
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
