"""The trained model in a ticket folder, of this machine or on the hub: its encoder's weights, to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.anatomy.cost import unlike
from supertickets.errors import TicketError
from supertickets.models import BaseModel
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, UNNAMED_BASE, SharedTicket, load_any_ticket
from supertickets.tickets.hub import on_hub, ticket_folder


@dataclass(frozen=True)
class TicketModel:
    """A ticket and its trained model, called as it was asked for.

    `weights` are the encoder's as it was cut, in the form of a trial's file of weights.
    """

    name: str
    shared: SharedTicket[Ticket]
    weights: bytes

    @property
    def base(self) -> dict[str, Any]:
        """How the base model is called (`model`) and of how many first layers the ticket is (`layers`), where known."""
        name, layers = self.shared.base["name"], self.shared.base.get("layers")
        return ({} if name == UNNAMED_BASE else {"model": name}) | {"layers": layers}

    def check_base(self, base: BaseModel) -> None:
        """Raise TicketError if the ticket is of other weights than a base model's, or of another shape."""
        if self.shared.base["weight_hash"] != base.weight_hash or unlike(base.shape, self.shared.ticket) is not None:
            raise TicketError(
                f"--sources {self.name}: the ticket's base model is not {base.called}; all --sources need the same "
                "base model, which --model names."
            )


def is_ticket_model(path: Path) -> bool:
    """Return whether a path names a ticket folder or a repository on the hub, and no study."""
    from supertickets.export.source import is_ticket

    return on_hub(path) is not None or is_ticket(path)


def open_ticket_model(path: Path) -> TicketModel:
    """Return the trained model of a ticket folder, or of a repository on the hub, which is downloaded.

    Raises TicketError if there is none, if the ticket has no trained model, or if it is one of single weights.
    """
    from safetensors.torch import save

    from supertickets.export.source import open_ticket

    folder = ticket_folder(path, with_model=True)
    shared = load_any_ticket(folder)
    if not isinstance(shared.ticket, Ticket):
        raise TicketError(f"{path}: this is a ticket of single weights; expected one of heads and FFNs.")
    if not (folder / MODEL_FOLDER).is_dir():
        raise TicketError(
            f"{path}: the ticket has no trained model beside it to go on from; `transfer` trains it from the "
            "pre-trained weights."
        )
    model = open_ticket(folder).model
    encoder = f"{model.base_model_prefix}."
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name.startswith(encoder)}
    if not weights:
        raise TicketError(f"{path}: its model is an encoder without an output layer; expected a trained model.")
    return TicketModel(str(path), shared, save(weights))
