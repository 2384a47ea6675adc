"""Running one trial. A workbench keeps base weights, examples and token ids in memory from one trial to the next."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as bytes_to_arrays
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load as bytes_to_tensors
from safetensors.torch import save as tensors_to_bytes
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import encoder_of
from supertickets.errors import DivergedError, TicketError
from supertickets.lab.environment import environment, joined
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import (
    CHECKPOINT,
    LOGITS,
    MASK,
    PARTIAL_PREDICTIONS,
    PREDICTIONS,
    SCORED_ON,
    SCORES,
    WEIGHTS,
    Outcome,
    drop_checkpoint,
    named,
    save_outcome,
    task_weights,
)
from supertickets.lab.partial import Partial, save_partial
from supertickets.lab.stopping import asked_to_stop
from supertickets.lab.tracking import Tracking
from supertickets.lab.trial import Prune, Start, TaskTicket, Trial
from supertickets.models import BaseModel, ModelSource, find_model
from supertickets.storage import write_atomically
from supertickets.surgery.averaging import mean_weights
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.surgery.initial import start_otherwise
from supertickets.surgery.masks import weights_of, zero
from supertickets.tasks import Task, load_task
from supertickets.tickets.weights import (
    Pruning,
    WeightTicket,
    check_tensors,
    draw_matched_weights,
    draw_random_weights,
    prune_by_magnitude,
)
from supertickets.training.batches import EncodedTask
from supertickets.training.devices import find_device, undisturbed
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Plan, Report, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Sharing
from supertickets.training.scoring import score
from supertickets.training.teacher import Lesson, as_stored

_EVERYTHING = Pruning.model_validate({"embeddings": True})


@dataclass
class _Begun:
    """A job that has begun: what its trial is about, and the models that it starts from."""

    job: Job
    source: ModelSource
    data: list[EncodedTask]
    ticket: WeightTicket | None

    def __post_init__(self) -> None:
        self.models = self.start()

    def start(self) -> list[PreTrainedModel]:
        """Return the models that a trial's training starts from, one a task on one encoder, cut to its ticket.

        The encoder is the pre-trained one, or as another trial left it; output layers are new unless that is to go on.
        Of a mean of weights, it is that. Weights that a ticket of weights lacks are zero. Raises TicketError if the
        other trials' are gone or others.
        """
        trial, source, ticket = self.job.trial, self.source, self.ticket
        first = source.build(self.data[0].task.outputs, trial.dropout(0), trial.seed, self.data[0].task.form)
        if (start := trial.start) is not None:
            chosen = self._trained(start, first.base_model_prefix)
            if start.rewound != "nothing":
                chosen = _rewound(chosen, first, ticket.masks if start.rewound == "prunable" and ticket else None)
            expand(first, start.ticket, chosen)
        if (mean := trial.mean) is not None:
            every = (self._trained(start, first.base_model_prefix) for start in mean.starts)
            expand(first, trial.ticket, mean_weights(every, mean.shares))
        if trial.initial != "pretrained":
            names = ticket.masks if ticket is not None else source.encoder_weights(Pruning.model_validate({}))
            start_otherwise(first, trial.initial, names, trial.seed)
        if ticket is not None:
            zero(first, ticket)
        models = [cut(first, trial.ticket)]
        for place, encoded in enumerate(self.data[1:], start=1):
            task = encoded.task
            models.append(source.build(task.outputs, trial.dropout(place), trial.seed, task.form))
            setattr(models[-1], first.base_model_prefix, first.base_model)
        return models

    def _trained(self, start: Start, encoder: str) -> dict[str, torch.Tensor]:
        """Return another trial's weights, those of the encoder and of the output layer that goes on."""
        what = "weights that this training starts from"
        weights = bytes_to_tensors(_named_file(start.folder / WEIGHTS, start.weights, self.job.sent, what))
        return task_weights(weights, start.output_layer, encoder)


class Workbench:
    """Runs trials in this process, one after the other.

    `models` and `tasks` are base models and tasks at hand, by hash; others are looked for where a trial says.
    `trackers` log each training (see `lab.tracking`). `checkpoint_every` is in seconds.
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
        self._trackers, self._checkpoint_every = trackers, checkpoint_every
        self._models = dict(models or {})
        self._sources: dict[tuple[str, str], ModelSource] = {}
        self._tasks = dict(tasks or {})
        self._encoded: dict[tuple[str, str, str, int], EncodedTask] = {}

    def run(self, job: Job, report: Report) -> Outcome | Partial:
        """Run a job's trial, leave everything in its folder and return the outcome.

        Goes on from a checkpoint that an earlier run of the same trial left, stopped or asked for a part. A job that
        asks for a part which does not end the trial gives a `Partial`. A loss that becomes NaN gives an outcome with
        status `diverged`. Raises TicketError if the model or the data are not what the trial names any
        more, NoSpaceError if the disk is full, StoppedError if a signal stopped the training (see `lab.stopping`).
        """
        with undisturbed(job.trial.recipe.threads):
            return self._run(job, report)

    def _run(self, job: Job, report: Report) -> Outcome | Partial:
        begun = self._begin(job)
        trains = job.trial.mean is None
        with Tracking(self._trackers if trains else (), job, report) as follow:
            trainer = self._trainer(begun, self._checkpoints(job))
            try:
                if not trains:
                    trainer.evaluate()
                elif not trainer.run_to(1.0 if job.until is None else job.until, follow):
                    return self._pause(begun, trainer)
                arrays, reason = self._arrays(begun, trainer), None
            except DivergedError as error:
                said = _predictions(trainer)
                arrays, reason = {PREDICTIONS: said} if said else {}, str(error)
        return self._conclude(begun, trainer, arrays, reason)

    def _begin(self, job: Job) -> _Begun:
        """Return what a job's trial is about, with the models that it starts from."""
        source = self._source(job.trial)
        data = [self._data(job.trial, task, source) for task in job.trial.tasks]
        return _Begun(job, source, data, _weight_ticket(job, source))

    def trainer(self, job: Job) -> Trainer:
        """Return what trains a job's trial, at its first step; it writes no checkpoints."""
        return self._trainer(self._begin(job))

    def _checkpoints(self, job: Job) -> Checkpoints:
        return Checkpoints(
            job.folder / CHECKPOINT,
            job.trial.key,
            self._checkpoint_every,
            asked_to_stop,
            environment(self.device, job.trial.recipe),
        )

    def _trainer(self, begun: _Begun, checkpoints: Checkpoints | None = None) -> Trainer:
        trial = begun.job.trial
        teacher = _lesson(begun.job, begun.data[0])
        learners = [
            Learner(data, model, task.ticket, teacher)
            for data, model, task in zip(begun.data, begun.models, trial.tasks, strict=True)
        ]
        plan = Plan(
            trial.recipe,
            trial.course_seed,
            trial.sharing or Sharing.model_validate({}),
            begun.ticket,
            trial.span,
            trial.scoring.score_epoch if trial.scoring is not None else None,
        )
        return Trainer(learners, plan, self.device, checkpoints)

    def _arrays(self, begun: _Begun, trainer: Trainer) -> dict[str, dict[str, np.ndarray]]:
        """Return what a finished training says, by file: its outputs, and what else the trial asks for."""
        found: dict[str, dict[str, np.ndarray]] = {}
        if (scoring := begun.job.trial.scoring) is not None:
            found[SCORES] = dict(score(trainer, scoring, lambda: begun.start()[0]).items())
            if trainer.result.scored_on is not None:
                found[SCORES][SCORED_ON] = np.array(trainer.result.scored_on)
        if begun.job.trial.logits:
            kept = (
                {"logits": as_stored(trainer.taught(learner), learner.data.task.is_regression)}
                for learner in trainer.learners
            )
            found[LOGITS] = {name: of for task, one in enumerate(kept) for name, of in named(one, task).items()}
        found[PREDICTIONS] = _predictions(trainer)
        return found

    @staticmethod
    def _pause(begun: _Begun, trainer: Trainer) -> Partial:
        """Write where a trial stands and what it says until now."""
        trainer.save()
        job, result, files = begun.job, trainer.result, dict[str, str]()
        if predictions := _predictions(trainer):
            content = arrays_to_bytes(predictions)
            files[PARTIAL_PREDICTIONS] = write_atomically(job.folder / PARTIAL_PREDICTIONS, content)
        done = trainer.state.step / trainer.total
        partial = Partial(job.trial.key, job.trial, job.folder, done, result.epochs, vars(result.cost), files)
        save_partial(partial)
        return partial

    def _conclude(
        self, begun: _Begun, trainer: Trainer, arrays: Mapping[str, dict[str, np.ndarray]], reason: str | None
    ) -> Outcome:
        """Write a trial's outcome, with the weights or masks it is asked for; `reason` says why it diverged, if so."""
        job, training, finished = begun.job, trainer.result, reason is None
        files = {name: arrays_to_bytes(values) for name, values in arrays.items()}
        if finished and (job.keep_weights or job.trial.prune is not None):
            trainer.restore()
            if job.keep_weights:
                files[WEIGHTS] = tensors_to_bytes(_weights(begun.models))
            if job.trial.prune is not None:
                files[MASK] = _pruned(job.trial.prune, begun.models[0], begun.source, begun.ticket).to_bytes()
        outcome = Outcome(
            key=job.trial.key,
            trial=job.trial,
            folder=job.folder,
            status="finished" if finished else "diverged",
            reason=reason,
            epochs=training.epochs,
            best_epoch=training.best_epoch if finished else None,
            cost=vars(training.cost),
            environment=joined(trainer.environments),
            files={name: write_atomically(job.folder / name, data) for name, data in files.items()},
        )
        save_outcome(outcome)
        drop_checkpoint(job.folder)
        return outcome

    def _source(self, trial: Trial) -> ModelSource:
        key = trial.weight_hash, trial.files_hash
        if key not in self._sources:
            base = self._models.get(trial.weight_hash) or find_model(trial.model, trial.layers)
            if base.weight_hash != trial.weight_hash:
                raise TicketError(f"the weights of model {trial.model!r} have changed since the study began.")
            if trial.files_hash not in ("", base.files_hash):
                raise TicketError(
                    f"the config or tokenizer of model {trial.model!r} has changed since the study began."
                )
            self._sources[key] = ModelSource(base)
        return self._sources[key]

    def _data(self, trial: Trial, of: TaskTicket, source: ModelSource) -> EncodedTask:
        if of.data_hash not in self._tasks:
            task = load_task(of.source)
            if task.fingerprint() != of.data_hash:
                raise TicketError(f"the examples of task {of.source.task!r} have changed since the study began.")
            self._tasks[of.data_hash] = task
        key = (of.data_hash, trial.weight_hash, trial.files_hash, trial.recipe.max_length)
        if key not in self._encoded:
            self._encoded[key] = encode(self._tasks[of.data_hash], source.tokenizer, trial.recipe.max_length)
        return self._encoded[key]


def _predictions(trainer: Trainer) -> dict[str, np.ndarray]:
    """Return a training's outputs at its evaluated epochs, under the names that they have in a trial's files."""
    epochs = len(trainer.result.epochs)  # one more was begun where outputs became NaN
    return {
        name: np.stack(outputs[:epochs])
        for task, predictions in enumerate(trainer.result.predictions.values())
        for name, outputs in named(predictions, task).items()
        if epochs
    }


def _weight_ticket(job: Job, source: ModelSource) -> WeightTicket | None:
    """Return the ticket of weights that a trial trains, out of a file or drawn by the rule that its trial names.

    Raises TicketError if the file is gone or does not fit.
    """
    mask = job.trial.mask
    if mask is None:
        return None
    if mask.path is not None and mask.digest is not None:
        content = _named_file(mask.path, mask.digest, job.sent, "masks that this training keeps")
        found = WeightTicket.from_bytes(content, str(mask.path))
        every = {name: values.shape for name, values in source.encoder_weights(_EVERYTHING).items()}
        check_tensors(found, every, source.base.name)
    else:
        assert mask.sparsity is not None
        assert mask.pruning is not None
        values = source.encoder_weights(mask.pruning)
        if mask.how == "random":
            shapes = {name: value.shape for name, value in values.items()}
            return draw_random_weights(shapes, mask.sparsity, mask.seed or 0, mask.pruning.scope)
        found = prune_by_magnitude(values, mask.sparsity, scope=mask.pruning.scope)
    return draw_matched_weights(found, mask.seed or 0) if mask.how == "matched" else found


def _lesson(job: Job, data: EncodedTask) -> Lesson | None:
    """Return what a trial learns from its teacher; raises TicketError if the file is gone or of other examples."""
    teacher = job.trial.teacher
    if teacher is None:
        return None
    what = "outputs that this training learns from"
    outputs = bytes_to_arrays(_named_file(teacher.folder / LOGITS, teacher.logits, job.sent, what))["logits"]
    if len(outputs) != len(data.train.ids):
        raise TicketError(
            f"{teacher.folder}: the {what} are those on {len(outputs)} examples; expected {len(data.train.ids)}, as in "
            f"the training set of task {data.task.name!r}."
        )
    return Lesson(outputs, teacher.weight, teacher.temperature)


def _named_file(path: Path, digest: str, sent: Mapping[str, bytes], what: str) -> bytes:
    """Return the content of a file that a trial names by hash; raises TicketError if it is gone or another."""
    try:
        content = sent[digest] if digest in sent else path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise TicketError(
            f"{path.parent}: the {what} {'have changed' if content else 'were deleted'}; run the study that made them "
            "again."
        )
    return content


def _rewound(
    weights: Mapping[str, torch.Tensor], model: PreTrainedModel, names: Collection[str] | None
) -> dict[str, torch.Tensor]:
    """Return another trial's weights with some of the encoder's tensors, or all of them, as pre-trained again.

    `model` is one that has been built, with the pre-trained weights in it (Chen et al., 2020, Algorithm 1).
    """
    encoder = f"{model.base_model_prefix}."
    before = model.state_dict()
    return {
        name: before[name]
        if name.startswith(encoder) and (names is None or name.removeprefix(encoder) in names)
        else value
        for name, value in weights.items()
    }


def _pruned(prune: Prune, model: PreTrainedModel, source: ModelSource, ticket: WeightTicket | None) -> WeightTicket:
    """Return the ticket that magnitude pruning draws from a trained model.

    Tensors that the model does without (the pooler, under an output layer that does not read it) are ranked by their
    pre-trained magnitudes, as in the paper's code (spec section 1).
    """
    prunable = source.encoder_weights(prune.pruning)
    trained = weights_of(encoder_of(model), prunable)
    return prune_by_magnitude({**prunable, **trained}, prune.sparsity, ticket, prune.pruning.scope)


def _weights(models: Sequence[PreTrainedModel]) -> dict[str, torch.Tensor]:
    """Return the weights of models that share an encoder: the first one's whole, the others' output layers."""
    found: dict[str, torch.Tensor] = {}
    for task, model in enumerate(models):
        encoder, tied = f"{model.base_model_prefix}.", _tied(model)
        own = {name: tensor for name, tensor in model.state_dict().items() if not task or not name.startswith(encoder)}
        found |= named({name: tensor for name, tensor in own.items() if name not in tied}, task)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _tied(model: PreTrainedModel) -> set[str]:
    """Return the names of parameters that are others under a second name, as a masked-token head's matrix is.

    What is the encoder's goes by its name there.
    """
    every = list(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, parameter in sorted(every, key=lambda one: not one[0].startswith(f"{model.base_model_prefix}.")):
        first.setdefault(id(parameter), name)
    return {name for name, parameter in every if first[id(parameter)] != name}
