"""A shared encoder with the tickets and output layers of all its tasks, in one folder.

`encoder/` is the encoder, cut to the tickets' union, as stock transformers loads it, with its tokenizer;
`outputs.safetensors` has the output layers, `shared.json` the tasks: labels, tickets, how texts are read.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supertickets.anatomy.blocks import encoder_of
from supertickets.errors import TicketError, unknown_name
from supertickets.export.predict import outputs_of
from supertickets.export.ship import describe_outputs, ship
from supertickets.lab.outcome import WEIGHTS, Outcome, named, of_task, task_weights
from supertickets.models import BaseModel, ModelSource, load_tokenizer, own_files, quiet_transformers
from supertickets.storage import atomic_folder, user_path, write_atomically
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.surgery.output_layer import output_linear, rescaled
from supertickets.surgery.sharing import SharedStructures
from supertickets.tasks import Task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SHARED_JSON, SharedTicket, base_entry
from supertickets.training.devices import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
ENCODER, OUTPUTS = "encoder", "outputs.safetensors"


def ship_shared(
    folder: Path,
    task_folders: Sequence[Path],
    outcome: Outcome,
    base: BaseModel,
    tasks: Sequence[Task],
    tickets: Sequence[SharedTicket[Ticket]],
) -> None:
    """Write the model of a trial of several tasks into `folder`, and each task's part as a ticket folder of its own."""
    from safetensors.torch import load_file, save

    trial = outcome.trial
    for place, (task, shared, own) in enumerate(zip(tasks, tickets, task_folders, strict=True)):
        metrics = outcome.by_task[place]["dev"]
        trained = {"trial": trial.key, "seed": trial.seed, "score": metrics["score"], "best_epoch": outcome.best_epoch}
        others = [other.name for other in tasks if other is not task]
        recipe = trial.recipe.model_dump() | {"dropout": trial.dropout(place)}
        origin = {**_before(shared.origin), **trained, "recipe": recipe, "shared_with": others}
        ship(replace(shared, origin=origin), outcome, base, task, own, place)
    source = ModelSource(base)
    model = source.build(tasks[0].outputs, trial.dropout(0), trial.seed)
    weights = load_file(outcome.folder / WEIGHTS)
    expand(model, trial.ticket, task_weights(weights, None, model.base_model_prefix))
    encoder = encoder_of(cut(model, trial.ticket))
    outputs = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{model.base_model_prefix}.")}
    for place, task in enumerate(tasks):
        if task.standardised:
            linear, _ = output_linear(source.build(task.outputs, trial.dropout(place), trial.seed))
            weight, bias = named({f"{linear}.{part}": part for part in ("weight", "bias")}, place)
            outputs[weight], outputs[bias] = rescaled(outputs[weight], outputs[bias], *task.scale)
    content = {
        "format": FORMAT,
        "trial": trial.key,
        "base": base_entry(base.name, base.weight_hash, base.config["model_type"], base.layers),
        "max_length": trial.recipe.max_length,
        "precision": trial.recipe.precision,
        "tasks": [
            {
                "name": task.name,
                "labels": list(task.labels),
                "problem": task.problem,
                "pairs": task.train.pair is not None,
                "ticket": part.ticket.as_dict(),
            }
            for task, part in zip(tasks, trial.tasks, strict=True)
        ],
    }
    with atomic_folder(folder, ours=own_files(ENCODER)) as new, quiet_transformers():
        encoder.save_pretrained(new / ENCODER)
        source.tokenizer.save_pretrained(new / ENCODER)
        write_atomically(new / OUTPUTS, save(outputs))
        write_atomically(new / "README.md", _readme(tasks))
        write_atomically(new / SHARED_JSON, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _before(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a ticket came from; of one that was drawn without training, its level or target in place of that."""
    before = {key: value for key, value in origin.items() if key != "drawn"}
    drawn = origin.get("drawn", {})
    if "target" in drawn:
        before["target"] = drawn["target"]
    elif "levels" in drawn:
        (before["level"],) = drawn["levels"]
    return before


def _readme(tasks: Sequence[Task]) -> str:
    names = ", ".join(f"`{task.name.replace('`', '')}`" for task in tasks)
    name, pair = tasks[0].name, ', ["another"]' if tasks[0].train.pair is not None else ""
    return f"""# One encoder for {len(tasks)} tasks

Tasks: {names}. Each uses its own super ticket of the encoder in `{ENCODER}/`.

```python
from supertickets import load_shared

shared = load_shared("this-folder")
shared.tasks  # names, labels and tickets
shared.predict({name!r}, ["a text"]{pair})  # its outputs, a row a text
shared.model({name!r})  # a stock class on the shared encoder with that task's ticket active
```
"""


@dataclass(frozen=True)
class SharedTask:
    """A task of a shared model: what its outputs mean (no labels: a number), whether it takes pairs, its ticket.

    `problem` is what transformers calls `problem_type`.
    """

    name: str
    labels: tuple[str, ...]
    pairs: bool
    ticket: Ticket
    problem: str


class SharedModel:
    """One encoder with the tickets and output layers of several tasks; one task's ticket acts at a time."""

    def __init__(
        self,
        models: "Mapping[str, PreTrainedModel]",
        tasks: Mapping[str, SharedTask],
        tokenizer: Any,
        max_length: int,
        precision: Any,
    ) -> None:
        self._models, self._tasks, self.tokenizer = models, tasks, tokenizer
        self._max_length, self._precision = max_length, precision
        self._structures = SharedStructures(next(iter(models.values())), [task.ticket for task in tasks.values()])

    def __repr__(self) -> str:
        return f"SharedModel({', '.join(self._tasks)})"

    @property
    def tasks(self) -> list[SharedTask]:
        """Its tasks."""
        return list(self._tasks.values())

    def model(self, task: str) -> "PreTrainedModel":
        """Return a task's model, a stock class on the shared encoder; its ticket acts until another task is asked for.

        It computes what the task's own small model does; that one, in `models/TASK/model` of the study, is the one to
        save. Raises UnknownNameError for a task that is none of its own.
        """
        if task not in self._tasks:
            raise unknown_name("task", task, self._tasks)
        self._structures.activate(self._tasks[task].ticket)
        return self._models[task]

    def predict(self, task: str, text: list[str], pair: list[str] | None = None) -> NDArray[np.float32]:
        """Return a task's outputs `[texts, outputs]`, computed as its training's evaluation does.

        Columns are logits in the order of the task's labels, or the one real number. Raises TicketError where a task of
        pairs gets no second texts, or another does.
        """
        if task in self._tasks and self._tasks[task].pairs != (pair is not None):
            raise TicketError(
                f"task {task!r}: expected "
                f"{'pairs of texts, got single texts' if pair is None else 'single texts, got pairs'}."
            )
        return outputs_of(self.model(task), self.tokenizer, text, pair, self._max_length, self._precision)


def _refuse_to_save(*args: Any, **kwargs: Any) -> None:
    raise TicketError("the model of one task on a shared encoder cannot be saved; use the task's own model in models/.")


def load_shared(folder: Path | str) -> SharedModel:
    """Read a shared model; raises TicketError if the folder holds none, is damaged, or is of a newer version."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForSequenceClassification

    folder = user_path(folder)
    if not (folder / SHARED_JSON).is_file():
        raise TicketError(f"{folder}: not a shared model (no {SHARED_JSON}).")
    try:
        content = json.loads((folder / SHARED_JSON).read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise TicketError(f"{folder}: format {content['format']} is newer than this version reads ({FORMAT}).")
        with quiet_transformers(), undisturbed():
            encoder = AutoModel.from_pretrained(folder / ENCODER, local_files_only=True)
            tokenizer = load_tokenizer(str(folder / ENCODER), folder / ENCODER).tokenizer
        outputs = load_file(folder / OUTPUTS)
        models, tasks = {}, {}
        for place, entry in enumerate(content["tasks"]):
            labels, ticket = tuple(entry["labels"]), Ticket.from_dict(entry["ticket"])
            usual = "single_label_classification" if labels else "regression"  # before there were others
            task = SharedTask(entry["name"], labels, entry["pairs"], ticket, entry.get("problem", usual))
            config = copy.deepcopy(encoder.config)
            config.num_labels = len(task.labels) or 1
            describe_outputs(config, task.labels, task.problem)
            with torch.device("meta"):
                model = AutoModelForSequenceClassification.from_config(config)
            setattr(model, model.base_model_prefix, encoder)
            own = of_task(outputs, place)
            found = model.load_state_dict(own, strict=False, assign=True)
            lacking = [name for name in found.missing_keys if not name.startswith(f"{model.base_model_prefix}.")]
            if lacking or found.unexpected_keys:
                raise TicketError(f"{folder}: {OUTPUTS} does not fit task {task.name!r} ({(lacking or found[1])[0]}).")
            model.save_pretrained = _refuse_to_save
            models[task.name], tasks[task.name] = model.eval(), task
        return SharedModel(models, tasks, tokenizer, content["max_length"], content["precision"])
    except TicketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise TicketError(f"{folder}: the shared model is damaged ({error}).") from error
