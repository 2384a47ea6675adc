"""Ticket folders with the trained model inside, and trained models as base models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.export.card import ticket_card
from supertickets.export.evidence_file import Outputs, Training, hashes_of, load_evidence, write_evidence
from supertickets.export.reloaded import check_reloaded
from supertickets.lab.outcome import WEIGHTS, Outcome, task_weights
from supertickets.models import BaseModel, ModelSource, load_model, own_files, quiet_transformers
from supertickets.storage import atomic_folder
from supertickets.surgery.cut import cut
from supertickets.surgery.output_layer import rescale
from supertickets.tasks import Form, Task
from supertickets.tickets.folder import MODEL_FOLDER, SharedTicket, load_any_ticket
from supertickets.training.tokens import for_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def ship(
    shared: SharedTicket[Any],
    outcome: Outcome,
    base: BaseModel,
    task: Task,
    folder: Path,
    place: int = 0,
    trainings: Sequence[Training] = (),
) -> None:
    """Write a ticket folder with the outcome's trained model in `model/`, if it has its weights.

    It is a small model, or of a ticket of weights a plain one with zeros where the ticket has nothing. `place` is the
    task's among those of the outcome's trial, `trainings` are what others may check (see `export.evidence_file`). A
    crash leaves the folder as it was, or the whole new one. Raises StudyError if the model, loaded again, does not give
    what was measured.
    """
    model = Outputs.of(outcome, place) if outcome.has_weights else None
    with atomic_folder(folder, ours=own_files(MODEL_FOLDER)) as new:
        if outcome.has_weights:
            reloaded = save_trained_model(outcome, base, task, new / MODEL_FOLDER, place)
            shared = replace(shared, origin={**shared.origin, "reloaded": reloaded})
        shared.save(new, ticket_card(shared, with_model=outcome.has_weights, form=task.form))
        write_evidence(new, trainings, model)


def say_again(folder: Path, changes: Mapping[str, Any], form: Form) -> None:
    """Write what a shipped ticket's origin and card say anew, where a study that has grown says something else now.

    The model in the folder stays, and so do the hashes of what is not written. A folder whose evidence is damaged is
    left as it is, for `verify` to tell. A crash leaves the folder as it was, or the whole new one.
    """
    changes = json.loads(json.dumps(changes))  # as the file has it: lists for tuples
    shared = load_any_ticket(folder)
    if changes.items() <= shared.origin.items():
        return
    try:
        before = load_evidence(folder)
    except TicketError:
        return
    shared = replace(shared, origin={**shared.origin, **changes})
    with atomic_folder(folder) as new:
        shared.save(new, ticket_card(shared, with_model=(folder / MODEL_FOLDER).is_dir(), form=form))
        if before is not None:
            before.but(files={**before.files, **hashes_of(new)}).save(new)


def save_trained_model(outcome: Outcome, base: BaseModel, task: Task, folder: Path, place: int = 0) -> dict[str, Any]:
    """Save one task's part of an outcome's trained model, with its tokenizer, as stock transformers loads it.

    Returns what the model gives when it is loaded again (see `export.reloaded`). Raises StudyError if that is not what
    was measured.
    """
    source = ModelSource(base)
    ticket = outcome.trial.tasks[place].ticket
    model = cut(_trained(source, outcome, task, place), ticket)
    describe_outputs(model.config, task.labels, task.problem)
    # Of words, one with the setting that the model was trained with.
    tokenizer = for_words(source.tokenizer) if task.form == "tokens" else source.tokenizer
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return check_reloaded(folder, outcome, task, place)


def _trained(source: ModelSource, outcome: Outcome, task: Task, place: int) -> "PreTrainedModel":
    """Return an outcome's trained model with one of its tasks' output layers, in the dense model's shape."""
    from safetensors.torch import load_file

    from supertickets.surgery.expand import expand

    trial = outcome.trial
    model = source.build(task.outputs, trial.dropout(place), trial.seed, task.form)
    expand(model, trial.ticket, task_weights(load_file(outcome.folder / WEIGHTS), place, model.base_model_prefix))
    if task.standardised:
        rescale(model, *task.scale)
    return model


def save_base(outcome: Outcome, base: BaseModel, task: Task, folder: Path) -> None:
    """Save a dense trained model with its output layer as a base model: a plain folder that stock transformers loads.

    A pooler that the output layer does without stays what it was, so that the folder has all that the base had.
    """
    import torch
    from transformers import AutoModel

    source = ModelSource(base)
    model = _trained(source, outcome, task, 0)
    describe_outputs(model.config, task.labels, task.problem)
    with atomic_folder(folder) as new, quiet_transformers():
        had = load_model(base, AutoModel, torch.float32)
        pooler = None if any(name.startswith("pooler.") for name in had.new) else getattr(had.model, "pooler", None)
        if pooler is not None and model.base_model.pooler is None:
            model.base_model.pooler = pooler
        model.save_pretrained(new)
        source.tokenizer.save_pretrained(new)


def describe_outputs(config: Any, labels: Sequence[str], problem: str | None) -> None:
    """Write into a model's config what its outputs mean: labels by place, and the kind of problem (`Task.problem`)."""
    if problem is not None:
        config.problem_type = problem
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
