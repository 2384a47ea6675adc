"""Tickets of weights for others: ticket folders with plain models, files of masks made tickets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from supertickets.export.card import weight_ticket_card
from supertickets.export.ship import save_trained_model
from supertickets.lab.outcome import Outcome
from supertickets.models import BaseModel, find_model, own_files, prunable_weights
from supertickets.storage import atomic_folder, check_free, file_digest, user_path
from supertickets.tasks import Task
from supertickets.tickets.folder import MODEL_FOLDER, SharedWeightTicket
from supertickets.tickets.mask_files import MaskFile, read_masks
from supertickets.tickets.weights import Pruning


def ship_weights(shared: SharedWeightTicket, outcome: Outcome, base: BaseModel, task: Task, folder: Path) -> None:
    """Write a ticket folder with the outcome's trained model in `model/`, if it has its weights.

    The model is a plain one, with zeros where the ticket has nothing: stock transformers loads it.
    """
    with atomic_folder(folder, ours=own_files(MODEL_FOLDER)) as new:
        if outcome.has_weights:
            reloaded = save_trained_model(outcome, base, task, new / MODEL_FOLDER)
            shared = replace(shared, origin={**shared.origin, "reloaded": reloaded})
        shared.save(new, weight_ticket_card(shared.ticket, shared.base, shared.origin, outcome.has_weights, task.form))


def named_base(base: BaseModel) -> dict[str, Any]:
    """Return what a ticket folder says of its base model."""
    return {"name": base.name, "weight_hash": base.weight_hash, "model_type": base.config["model_type"]}


def import_masks(path: Path, model: str, task: str, out: Path, zeros: bool = False) -> MaskFile:
    """Make a ticket folder of a file of masks, or with `zeros` of a pruned model's weights; return what was read.

    `task` is the task that the masks were found on. Such files do not name their base model, so `model` is not verified
    beyond the names and shapes of its weights. Raises TicketError for a file that is no set of masks of the model (see
    `tickets.mask_files`), or a full `out`.
    """
    from supertickets.lab.workbench import versions

    path, out = user_path(path), user_path(out)
    check_free(out)
    base = find_model(model)
    found = read_masks(path, prunable_weights(base, Pruning.model_validate({"embeddings": True})), zeros)
    source = {"file": path.name, "sha256": file_digest(path), "notes": list(found.notes)}
    origin: Mapping[str, Any] = {"task": task, "kind": "imported", **source}
    shared = SharedWeightTicket(found.ticket, named_base(base), origin, versions())
    with atomic_folder(out) as new:
        shared.save(new, weight_ticket_card(found.ticket, shared.base, origin, False))
    return found
