"""What is shipped is what was measured: a saved model is loaded again and asked the dev set's questions again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import StudyError
from supertickets.lab.outcome import Outcome
from supertickets.models import STOCK_CLASSES, load_tokenizer, quiet_transformers
from supertickets.tasks import Task
from supertickets.tasks.metrics import evaluate
from supertickets.tickets import Ticket
from supertickets.tickets.weights import WeightTicket
from supertickets.training.recipe import Precision

_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""How far outputs may be from those measured, as a share of the largest one: the study may have run on another machine.
On the same one they are the same bit for bit."""
SCORES_APART = 1.0
"""How far scores of answers and of masked tokens may be apart, in percent, for the same reason."""


def check_reloaded(folder: Path, outcome: Outcome, task: Task, place: int = 0) -> dict[str, Any]:
    """Return how a saved model does on the dev set when stock transformers loads it again.

    `largest_difference` is that of its outputs (of answers and masked tokens: of its score), in the training's
    precision, from those that were measured; `float32` has the metrics in float32, as stock classes compute. `place` is
    the task's among those of the outcome's trial.
    Raises StudyError if the outputs are others than were measured.
    """
    recipe = outcome.trial.recipe
    measured = outcome.best_outputs(place)
    found = outputs_again(folder, task, recipe.max_length, recipe.batch_size, recipe.precision, recipe.threads)
    if found.shape != measured.shape:
        difference, allowed = np.inf, 0.0
    elif task.form == "sequence":
        difference = float(np.abs(found - measured).max())
        allowed = _TOLERANCE[recipe.precision] * max(1.0, float(np.abs(measured).max()))
    else:  # of tokens only judgements are kept: a near tie that falls otherwise moves an answer
        scores = [evaluate(task.metrics, task.dev.targets, outputs)["score"] for outputs in (found, measured)]
        difference, allowed = abs(scores[0] - scores[1]), SCORES_APART
    if not difference <= allowed:
        raise StudyError(
            f"{folder}: the outputs of the saved model on the dev set differ from those measured after training "
            f"(largest difference {difference:.3g}), so it is not shipped; please report this."
        )
    if recipe.precision != "float32":
        found = outputs_again(folder, task, recipe.max_length, recipe.batch_size, "float32", recipe.threads)
    return {"largest_difference": difference, "float32": evaluate(task.metrics, task.dev.targets, found)}


def outputs_again(
    folder: Path,
    task: Task,
    max_length: int,
    batch_size: int,
    precision: Precision,
    threads: int,
    device_name: str = "auto",
) -> NDArray[np.float32]:
    """Return a saved model's outputs on a task's dev set, as a training's evaluation computes and keeps them."""
    import torch
    import transformers

    from supertickets.training.devices import find_device, undisturbed
    from supertickets.training.evaluation import EVALUATED_AT_ONCE
    from supertickets.training.objectives import Sequences, objective_of

    with undisturbed(threads), quiet_transformers():
        model = getattr(transformers, STOCK_CLASSES[task.form]).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        device = find_device(device_name)
        # The saved model predicts in the targets' own units: nothing is to be rescaled.
        whole = task.form == "sequence"
        objective = Sequences(task.is_regression, task.outputs) if whole else objective_of(task)
        tokenizer, at_once = load_tokenizer(str(folder), folder).tokenizer, EVALUATED_AT_ONCE * batch_size
        return dev_outputs(model.to(device), objective, task, tokenizer, max_length, at_once, precision, device)


def dev_outputs(
    model: Any,
    objective: Any,
    task: Task,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    precision: Precision,
    device: Any,
) -> NDArray[np.float32]:
    """Return what a model, or anything that is called as one, gives for a task's dev set, as evaluations keep it."""
    from supertickets.training.evaluation import judged_on

    encoded = objective.encode(task.dev, tokenizer, max_length)
    found: NDArray[np.float32] = objective.finish(
        judged_on(encoded, model, objective, batch_size, precision, device), encoded
    )
    return found


def fault_of_model(folder: Path, ticket: Ticket | WeightTicket) -> str:
    """Return what is wrong with a ticket folder's saved model, in words; nothing if it loads and fits the ticket.

    It must load by the stock class that its config names, with every weight; be cut to the ticket; or, of a ticket of
    single weights, be zero where the ticket has nothing. No pickle is read, and no code in the folder is run.
    """
    import transformers

    from supertickets.surgery.masks import not_zero
    from supertickets.training.devices import undisturbed

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (name,) = config["architectures"]
        said = config.get("quantization_config", {}).get("ticket")
        kind = getattr(transformers, name)
        if not issubclass(kind, transformers.PreTrainedModel):
            return f"{name} is no class of models"
        with undisturbed(), quiet_transformers():
            model, info = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # transformers raises many kinds for a folder that is no model
        return f"it does not load ({type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]})"
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(what):
            return f"its weights do not fit its config ({what.replace('_', ' ')}: {sorted(map(str, info[what]))[0]})"
    if isinstance(ticket, Ticket):
        return "" if said == ticket.as_dict() else "it is cut to another ticket"
    return next((f"{name} is not zero where the ticket has nothing" for name in not_zero(model, ticket)), "")
