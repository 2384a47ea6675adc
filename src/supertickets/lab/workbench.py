"""Running one trial. A workbench keeps base weights, examples and token ids in memory from one trial to the next."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load as bytes_to_tensors
from safetensors.torch import save as tensors_to_bytes
from transformers import PreTrainedModel

from supertickets.errors import DivergedError, TicketError
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import (
    CHECKPOINT,
    PREDICTIONS,
    SCORES,
    WEIGHTS,
    Outcome,
    named,
    save_outcome,
    task_weights,
)
from supertickets.lab.tracking import Tracking
from supertickets.lab.trial import Start, TaskTicket, Trial
from supertickets.models import BaseModel, ModelSource, find_model
from supertickets.storage import write_atomically
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.tasks import Task, load_task
from supertickets.training.batches import EncodedTask, encode
from supertickets.training.devices import find_device
from supertickets.training.loop import Learner, Report, Trainer
from supertickets.training.team import find_team


class Workbench:
    """Runs trials in this process, one after the other.

    `models` and `tasks` are base models and tasks at hand, by hash; others are looked for where a trial says.
    `trackers` are told each training's course (see `lab.tracking`). `checkpoint_every` is in seconds.
    """

    def __init__(
        self,
        device: str = "auto",
        trackers: Sequence[str] = (),
        checkpoint_every: float = 120.0,
        models: Mapping[str, BaseModel] | None = None,
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        self.device = find_device(device)
        self._writes = find_team().leads
        self._trackers, self._checkpoint_every = trackers, checkpoint_every
        self._models = dict(models or {})
        self._sources: dict[str, ModelSource] = {}
        self._tasks = dict(tasks or {})
        self._encoded: dict[tuple[str, str, int], EncodedTask] = {}

    def run(self, job: Job, report: Report) -> Outcome:
        """Run a job's trial, leave everything in its folder and return the outcome.

        Goes on from a checkpoint that an earlier, stopped run of the same trial left. A loss that becomes NaN gives an
        outcome with status `diverged`. Raises TicketError if the model or the data are not what the trial names any
        more, NoSpaceError if the disk is full.
        """
        trial, folder = job.trial, job.folder
        torch.set_num_threads(trial.recipe.threads)
        source = self._source(trial)
        data = [self._data(trial, task, source) for task in trial.tasks]
        models = self._start(job, source, data)
        checkpoint = folder / CHECKPOINT
        learners = [
            Learner(encoded, model, task.ticket) for encoded, model, task in zip(data, models, trial.tasks, strict=True)
        ]
        follow = Tracking(self._trackers if self._writes else (), job, report)
        trainer = Trainer(
            learners,
            trial.recipe,
            trial.seed,
            self.device,
            follow,
            checkpoint,
            self._checkpoint_every,
            trial.key,
            trial.sharing,
        )
        status, reason = "finished", None
        arrays: dict[str, dict[str, np.ndarray]] = {}
        try:
            training = trainer.train()
            if trial.scoring is not None:
                heads, ffns = trainer.score(trial.scoring, lambda: self._start(job, source, data)[0])
                arrays[SCORES] = {"heads": heads, "ffns": ffns}
            arrays[PREDICTIONS] = {
                name: np.stack(outputs)
                for task, predictions in enumerate(training.predictions.values())
                for name, outputs in named(predictions, task).items()
            }
        except DivergedError as error:
            training, status, reason = trainer.result, "diverged", str(error)
        files = {name: arrays_to_bytes(values) for name, values in arrays.items()}
        if job.keep_weights and status == "finished":
            trainer.restore()
            files[WEIGHTS] = tensors_to_bytes(_weights(models))
        outcome = Outcome(
            key=trial.key,
            trial=trial,
            folder=folder,
            status=status,
            reason=reason,
            epochs=training.epochs,
            best_epoch=training.best_epoch if status == "finished" else None,
            cost=vars(training.cost),
            environment=self._environment(trial),
            files={name: write_atomically(folder / name, data) for name, data in files.items() if self._writes},
        )
        if self._writes:
            save_outcome(outcome)
            checkpoint.unlink(missing_ok=True)
            follow.finish()
        return outcome

    def _start(self, job: Job, source: ModelSource, data: Sequence[EncodedTask]) -> list[PreTrainedModel]:
        """Return the models that a trial's training starts from, one a task on one encoder, cut to its ticket.

        The encoder is the pre-trained one, or as another trial left it; output layers are new unless that is to go on.
        """
        trial = job.trial
        first = source.build(data[0].task.outputs, trial.dropout(0), trial.seed)
        if trial.start is not None:
            weights = self._start_weights(trial.start, job.start)
            chosen = task_weights(weights, trial.start.output_layer, first.base_model_prefix)
            expand(first, trial.start.ticket, chosen)
        models = [cut(first, trial.ticket)]
        for place, encoded in enumerate(data[1:], start=1):
            models.append(source.build(encoded.task.outputs, trial.dropout(place), trial.seed))
            setattr(models[-1], first.base_model_prefix, first.base_model)
        return models

    @staticmethod
    def _start_weights(start: Start, sent: bytes | None) -> dict[str, torch.Tensor]:
        """Return another trial's trained weights; raises TicketError if they are gone or others."""
        try:
            content = sent if sent is not None else (start.folder / WEIGHTS).read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != start.weights:
            raise TicketError(
                f"{start.folder}: the weights that this training starts from are {'others' if content else 'gone'}; "
                "run the study that trained them again."
            )
        return bytes_to_tensors(content)

    def _source(self, trial: Trial) -> ModelSource:
        if trial.weight_hash not in self._sources:
            base = self._models.get(trial.weight_hash) or find_model(trial.model)
            if base.weight_hash != trial.weight_hash:
                raise TicketError(f"model {trial.model!r} has other weights than when the study began.")
            self._sources[trial.weight_hash] = ModelSource(base)
        return self._sources[trial.weight_hash]

    def _data(self, trial: Trial, of: TaskTicket, source: ModelSource) -> EncodedTask:
        if of.data_hash not in self._tasks:
            task = load_task(of.source)
            if task.fingerprint() != of.data_hash:
                raise TicketError(f"task {of.source.task!r} has other examples than when the study began.")
            self._tasks[of.data_hash] = task
        key = (of.data_hash, trial.weight_hash, trial.recipe.max_length)
        if key not in self._encoded:
            self._encoded[key] = encode(self._tasks[of.data_hash], source.tokenizer, trial.recipe.max_length)
        return self._encoded[key]

    def _environment(self, trial: Trial) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "threads": trial.recipe.threads,
            "precision": trial.recipe.precision,
            **versions(),
        }


def _weights(models: Sequence[PreTrainedModel]) -> dict[str, torch.Tensor]:
    """Return the weights of models that share an encoder: the first one's whole, the others' output layers."""
    found: dict[str, torch.Tensor] = {}
    for task, model in enumerate(models):
        encoder = f"{model.base_model_prefix}."
        own = {name: tensor for name, tensor in model.state_dict().items() if not task or not name.startswith(encoder)}
        found |= named(own, task)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    libraries = ("supertickets", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{library: version(library) for library in libraries}}
