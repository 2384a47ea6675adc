"""Ticket folders with the model inside, and small models made from ticket folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError
from supertickets.export.card import ticket_card
from supertickets.lab.outcome import WEIGHTS, Outcome, task_weights
from supertickets.models import BaseModel, ModelSource, find_model, quiet_transformers
from supertickets.storage import written_whole
from supertickets.surgery.cut import cut
from supertickets.surgery.reload import save_cut_model
from supertickets.tasks import Task
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, load_ticket


def ship(shared: SharedTicket, outcome: Outcome, base: BaseModel, task: Task, folder: Path, place: int = 0) -> None:
    """Write a ticket folder with the outcome's trained small model in `model/`, if it has its weights.

    `place` is the task's among those of the outcome's trial.
    """
    if outcome.has_weights:
        save_trained_model(outcome, base, task, folder / MODEL_FOLDER, place)
    shared.save(folder, ticket_card(shared.ticket, shared.base, shared.origin, with_model=outcome.has_weights))


def save_trained_model(outcome: Outcome, base: BaseModel, task: Task, folder: Path, place: int = 0) -> None:
    """Save one task's part of an outcome's trained model, with its tokenizer, as stock transformers loads it."""
    from safetensors.torch import load_file

    from supertickets.surgery.expand import expand

    source = ModelSource(base)
    trial = outcome.trial
    ticket = trial.tasks[place].ticket
    model = source.build(task.outputs, trial.dropout(place), trial.seed)
    weights = task_weights(load_file(outcome.folder / WEIGHTS), place, model.base_model_prefix)
    expand(model, trial.ticket, weights)
    cut(model, ticket)
    describe_outputs(model.config, task.labels)
    with written_whole(folder) as new, quiet_transformers():
        save_cut_model(model, ticket, new)
        source.tokenizer.save_pretrained(new)


def describe_outputs(config: Any, labels: Sequence[str]) -> None:
    """Write into a model's config what its outputs mean: labels by place, or one real number."""
    if not labels:
        config.problem_type = "regression"
    else:
        config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}


def apply_ticket(ticket: Path | str, model: str | None, out: Path, any_base: bool = False) -> dict[str, Any]:
    """Cut a shared ticket out of its pre-trained base model and save the small encoder in `out`.

    `model` None means the one the ticket names. Raises TicketError if the base's weights are not those the ticket was
    drawn from (unless `any_base`), if its shape is another, or if `out` is not empty.
    """
    from transformers import AutoModel, AutoTokenizer

    shared = load_ticket(ticket)
    base = find_model(model if model is not None else shared.base["name"])
    if base.weight_hash != shared.base["weight_hash"] and not any_base:
        raise TicketError(
            f"model {base.name!r} has weights {base.weight_hash[:12]}..., the ticket was drawn from "
            f"{shared.base['name']!r} with {shared.base['weight_hash'][:12]}...; use that model, or --any-base."
        )
    if shared.ticket.shape != (base.shape.layers, base.shape.heads):
        raise TicketError(
            f"the ticket is for {shared.ticket.shape[0]} layers x {shared.ticket.shape[1]} heads, model {base.name!r} "
            f"has {base.shape.layers} x {base.shape.heads}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TicketError(f"--out {out}: there is something there already; choose another folder.")
    with written_whole(out) as new, quiet_transformers():
        dense = AutoModel.from_pretrained(base.folder, local_files_only=True)
        before = dense.num_parameters()
        save_cut_model(cut(dense, shared.ticket), shared.ticket, new)
        AutoTokenizer.from_pretrained(base.folder, local_files_only=True).save_pretrained(new)
    return {"folder": str(out), "parameters": dense.num_parameters(), "dense_parameters": before}
