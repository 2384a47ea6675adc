"""Formats that transformers loads, and the ticket alone. Each is a function of what is exported and a new folder."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from supertickets.errors import TicketError
from supertickets.export.card import ticket_card
from supertickets.export.same import check_same, run_of
from supertickets.export.source import Exported
from supertickets.models import quiet_transformers
from supertickets.surgery.expand import expand
from supertickets.tickets.folder import MODEL_FOLDER
from supertickets.training.devices import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_transformers(exported: Exported, folder: Path) -> dict[str, Any]:
    """Save the model as it is; a cut one loads with `import supertickets`.

    No stock config can say that layers differ, so the ticket is in config.json, where supertickets finds it. The new
    `per_layer_config` of transformers is for no family here: their classes pass it by, and build a dense model.
    """
    difference = _save(exported, exported.model, folder)
    needs = "" if exported.ticket is None else ", after `import supertickets`"
    return {
        "parameters": exported.model.num_parameters(),
        "largest_difference": difference,
        "said": [f"Load it with transformers' {exported.stock}{needs}."],
    }


def write_dense(exported: Exported, folder: Path) -> dict[str, Any]:
    """Save the model in the dense model's shape, with zeros for what its ticket lacks; no class needs supertickets.

    A removed head has zeros in its rows of query, key and value and in its columns of the output projection, whose bias
    stays; a removed FFN is all zeros, biases too. Both then add nothing, in every family. It takes as long as the dense
    model does.
    """
    model = dense_model(exported)
    difference = _save(exported, model, folder)
    parameters = model.num_parameters()
    return {
        "parameters": parameters,
        "zeros": parameters - exported.model.num_parameters(),
        "largest_difference": difference,
        "said": [f"Load it with transformers' {exported.stock}; supertickets is not needed."],
    }


def dense_model(exported: Exported) -> "PreTrainedModel":
    """Return a model in the dense model's shape that computes what the exported one does."""
    model, ticket = exported.model, exported.ticket
    if ticket is None:
        return model
    with undisturbed(), quiet_transformers():
        dense: PreTrainedModel = type(model)(plain_config(model))
        torch.nn.Module.to(dense, model.dtype)  # as typed, PreTrainedModel.to is of no method
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    expand(dense, ticket, model.state_dict())
    if model.can_generate():
        dense.generation_config = copy.deepcopy(model.generation_config)
    return dense.eval()


def plain_config(model: "PreTrainedModel") -> Any:
    """Return a model's config without the ticket that it was cut to: that of the dense model."""
    config = copy.deepcopy(model.config)
    for name in ("quantization_config", "transformers_weights"):
        vars(config).pop(name, None)
    return config


def in_float32(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return a model in float32 in evaluation mode: itself, or a copy."""
    return (model if model.dtype == torch.float32 else copy.deepcopy(model).float()).eval()


def _save(exported: Exported, model: "PreTrainedModel", folder: Path) -> float:
    """Save a model with its tokenizer; return how far its outputs are from the exported one's when it is loaded."""
    with quiet_transformers(), undisturbed():
        model.save_pretrained(folder)
        exported.tokenizer.save_pretrained(folder)
        stock = getattr(transformers, exported.stock)
        loaded = stock.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    expected, found = (run_of(in_float32(one), exported.form) for one in (exported.model, loaded))
    return check_same(exported, expected, found, exported.stock)


def write_ticket(exported: Exported, folder: Path) -> dict[str, Any]:
    """Write the ticket folder alone, without a trained model: small, and for the same base model.

    Raises TicketError for a model whose ticket is not known, or that has none.
    """
    shared = exported.shared
    if shared is None:
        cut = exported.ticket is not None
        why = "its folder does not say from which base model its ticket was drawn" if cut else "it has none"
        raise TicketError(
            f"--to ticket: {exported.what} is not exported as a ticket, since {why}; name a ticket folder or a study."
        )
    # What it gave when it was loaded again is said of the model, which stays behind.
    origin = {name: value for name, value in shared.origin.items() if name != "reloaded"}
    shared = replace(shared, origin=origin)
    shared.save(folder, ticket_card(shared, with_model=False))
    return {"said": [f"It has no {MODEL_FOLDER}/; `supertickets apply` puts it on its base model."]}
