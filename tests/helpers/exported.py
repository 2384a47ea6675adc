"""Ticket folders with a trained model inside, made without a study."""

from pathlib import Path
from typing import Any

import numpy as np

from helpers.models import FFN, make_loud
from supertickets.anatomy.blocks import shape_of
from supertickets.export.ship import describe_outputs
from supertickets.models import ModelSource, find_model
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, base_entry

LABELS = ("no", "maybe", "yes")


def hard_ticket(model: Any) -> Ticket:
    """A ticket with a layer without heads, uneven layers, an FFN gone, and one with two thirds of its neurons."""
    full = Ticket.full(*shape_of(model).of_tickets)
    heads, neurons = full.heads.copy(), np.ones((len(full.ffns), FFN), bool)
    heads[0] = False
    heads[1, [0, 2]] = False
    heads[2, [0, 1]] = False
    neurons[0, ::3] = neurons[1] = False
    return Ticket.of_neurons(heads, neurons)


def save_ticket(folder: Path, base: Path | str, labels: tuple[str, ...] = LABELS, loud: bool = True) -> SharedTicket:
    """Save a ticket folder with a cut model of new weights, and return the ticket."""
    found = find_model(str(base))
    source = ModelSource(found)
    model = source.build(len(labels), 0.0, 0)
    if loud:
        make_loud(model)
    ticket = hard_ticket(model) if loud else Ticket.from_pruned(6, 12, [(0, h) for h in range(12)] + [(3, 1)], [2])
    describe_outputs(model.config, labels, "single_label_classification")
    cut(model, ticket).save_pretrained(folder / MODEL_FOLDER)
    source.tokenizer.save_pretrained(folder / MODEL_FOLDER)
    origin = {
        "task": "words", "kind": "winning", "level": 0.3, "seed": 0, "score": 50.0, "metrics": ["accuracy"],
        "reloaded": {"largest_difference": 0.0}, "recipe": {"max_length": 16, "precision": "float32"},
    }  # fmt: skip
    shared = SharedTicket(ticket, base_entry(found.name, found.weight_hash, found.config["model_type"]), origin, {})
    shared.save(folder, "a ticket")
    return shared
