"""Files of masks made ticket folders, and what ticket folders say of their base models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError
from supertickets.export.card import ticket_card
from supertickets.models import BaseModel, find_model, prunable_weights
from supertickets.storage import atomic_folder, check_free, file_digest, user_path
from supertickets.tickets.folder import SharedTicket, base_entry
from supertickets.tickets.mask_files import MaskFile, read_masks
from supertickets.tickets.weights import Pruning


def named_base(base: BaseModel) -> dict[str, Any]:
    """Return what a ticket folder says of its base model."""
    return base_entry(base.name, base.weight_hash, base.config["model_type"], base.layers)


def import_masks(path: Path, model: str, task: str, out: Path, zeros: bool = False) -> MaskFile:
    """Make a ticket folder of a file of masks, or with `zeros` of a pruned model's weights; return what was read.

    `task` is the task that the masks were found on. Such files do not name their base model, so `model` is not verified
    beyond the names and shapes of its weights. Raises TicketError for a file that is no set of masks of the model (see
    `tickets.mask_files`), or a full `out`.
    """
    from supertickets.lab.environment import versions

    path, out = user_path(path), user_path(out)
    check_free(out)
    base = find_model(model)
    found = read_masks(path, prunable_weights(base, Pruning.model_validate({"embeddings": True})), zeros)
    if found.ticket.kept == found.ticket.total:
        raise TicketError(f"{path}: the masks prune nothing; expected zeros in some of them.")
    source = {"file": path.name, "sha256": file_digest(path), "notes": list(found.notes)}
    origin: Mapping[str, Any] = {"task": task, "kind": "imported", **source}
    shared = SharedTicket(found.ticket, named_base(base), origin, versions())
    with atomic_folder(out) as new:
        shared.save(new, ticket_card(shared, with_model=False))
    return found
