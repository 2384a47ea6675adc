"""Running one trial. A workbench keeps base weights, examples and token ids in memory from one trial to the next."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from transformers import PreTrainedModel

from supertickets.errors import DivergedError, TicketError
from supertickets.lab.outcome import PREDICTIONS, SCORES, WEIGHTS, Outcome, save_outcome
from supertickets.lab.trial import Trial
from supertickets.models import ModelSource, find_model
from supertickets.storage import file_digest
from supertickets.surgery.cut import cut
from supertickets.tasks import Task, load_task
from supertickets.training.batches import EncodedTask, encode
from supertickets.training.devices import find_device
from supertickets.training.loop import Learner, Report, Trainer


class Workbench:
    """Runs trials in this process, one after the other."""

    def __init__(self, device: str = "auto") -> None:
        self.device = find_device(device)
        self._sources: dict[str, ModelSource] = {}
        self._tasks: dict[str, Task] = {}
        self._encoded: dict[tuple[str, str, int], EncodedTask] = {}

    def run(self, trial: Trial, folder: Path, keep_weights: bool, report: Report) -> Outcome:
        """Run a trial, leave everything in `folder` and return the outcome.

        A loss that becomes NaN gives an outcome with status `diverged`. Raises TicketError if the model or the data are
        not what the trial names any more.
        """
        torch.set_num_threads(trial.recipe.threads)
        folder.mkdir(parents=True, exist_ok=True)
        source = self._source(trial)
        data = self._data(trial, source)
        model = cut(source.build(data.task.outputs, trial.recipe.dropout, trial.seed), trial.ticket)
        trainer = Trainer([Learner(data, model, trial.ticket)], trial.recipe, trial.seed, self.device, report)
        status, reason = "finished", None
        files: dict[str, str] = {}
        try:
            training = trainer.train()
            if trial.scoring is not None:
                heads, ffns = trainer.score(trial.scoring)
                save_arrays({"heads": heads, "ffns": ffns}, folder / SCORES)
                files[SCORES] = file_digest(folder / SCORES)
        except DivergedError as error:
            training, status, reason = trainer.result, "diverged", str(error)
        if status == "finished":
            (predictions,) = training.predictions.values()
            save_arrays({name: np.stack(outputs) for name, outputs in predictions.items()}, folder / PREDICTIONS)
            files[PREDICTIONS] = file_digest(folder / PREDICTIONS)
            if keep_weights:
                trainer.restore()
                save_tensors(_weights(model), folder / WEIGHTS)
                files[WEIGHTS] = file_digest(folder / WEIGHTS)
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
            files=files,
        )
        save_outcome(outcome)
        return outcome

    def _source(self, trial: Trial) -> ModelSource:
        if trial.weight_hash not in self._sources:
            base = find_model(trial.model)
            if base.weight_hash != trial.weight_hash:
                raise TicketError(f"model {trial.model!r} has other weights than when the study began.")
            self._sources[trial.weight_hash] = ModelSource(base)
        return self._sources[trial.weight_hash]

    def _data(self, trial: Trial, source: ModelSource) -> EncodedTask:
        if trial.data_hash not in self._tasks:
            task = load_task(trial.source)
            if task.fingerprint() != trial.data_hash:
                raise TicketError(f"task {trial.source.task!r} has other examples than when the study began.")
            self._tasks[trial.data_hash] = task
        key = (trial.data_hash, trial.weight_hash, trial.recipe.max_length)
        if key not in self._encoded:
            self._encoded[key] = encode(self._tasks[trial.data_hash], source.tokenizer, trial.recipe.max_length)
        return self._encoded[key]

    def _environment(self, trial: Trial) -> dict[str, Any]:
        return {
            "device": str(self.device) if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "threads": trial.recipe.threads,
            "precision": trial.recipe.precision,
            **versions(),
        }


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    libraries = ("supertickets", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{library: version(library) for library in libraries}}
