"""The one training loop: any number of tasks on one encoder, one task in a batch. One task is the common case."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supertickets.anatomy.blocks import encoder_of
from supertickets.anatomy.cost import BACKWARD
from supertickets.errors import DivergedError, StoppedError
from supertickets.surgery.masks import keep_zero
from supertickets.surgery.sharing import SharedStructures
from supertickets.tickets.weights import WeightTicket
from supertickets.training.batches import Encoded
from supertickets.training.devices import with_threads
from supertickets.training.dropout import KeyedDropout
from supertickets.training.evaluation import Passes
from supertickets.training.learner import Learner
from supertickets.training.optimisers import build_optimizer, build_schedule, go_to
from supertickets.training.orders import Rows, all_batches, part_of
from supertickets.training.recipe import Recipe, Sharing, Span
from supertickets.training.state import RandomState, Training, TrainState
from supertickets.training.vocabulary import UsedVocabulary

Event = dict[str, Any]
"""What a training reports: `{"epoch", "epochs", "step", "steps", "loss"}`, and `"metrics"` after an evaluation."""
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Plan:
    """What a training does: a recipe, and a seed that decides dropout and the order of batches.

    Several tasks share an encoder, as `sharing` says: a batch is of one task, whose ticket alone acts and learns then.
    With a `weight_ticket` the models must lack what it lacks (`surgery.masks.zero`), and they will when trained.
    `span` says which part of the recipe's training there is. `score_epoch` is the epoch whose weights importance is
    measured on, where it is not the one that is kept.
    """

    recipe: Recipe
    seed: int = 0
    sharing: Sharing = field(default_factory=lambda: Sharing.model_validate({}))
    weight_ticket: WeightTicket | None = None
    span: Span = field(default_factory=lambda: Span.model_validate({}))
    score_epoch: int | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The file in which a training is saved every `every` seconds; one with the same `identity` goes on from it.

    `stop` says, after each step, whether the training is to be saved and stopped there, and by what. `environment` is
    what its bits depend on beside its plan, which is kept with it.
    """

    path: Path
    identity: str = ""
    every: float = 120.0
    stop: Callable[[], str | None] = lambda: None
    environment: Mapping[str, Any] = field(default_factory=dict)


def losses_read_every(device: torch.device) -> int:
    """Return after how many steps losses are read: a device beside the CPU need not be waited for in each step."""
    return 1 if device.type == "cpu" else 16


class Trainer:
    """Trains learners by a plan, step by step; it may be held at any step, and others may train meanwhile.

    Between two steps nothing of the process is changed: random numbers and number of threads are the training's own
    while it works, and the caller's before and after. A training goes on from its checkpoint, if there is one that fits
    its models, or else from `resume_from`, the state of one with the same plan: it ends bit-identical to one that was
    never stopped.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        plan: Plan,
        device: torch.device,
        checkpoints: Checkpoints | None = None,
        resume_from: TrainState | None = None,
    ) -> None:
        self.plan, self.device, self._checkpoints = plan, device, checkpoints
        for learner in learners:
            nn.Module.to(learner.model, device)  # transformers' own `to` has lost its types
        for learner in learners[1:]:  # they share the encoder, each under its own stock model
            assert learner.model.base_model is learners[0].model.base_model
        self._structures = SharedStructures(learners[0].model, [learner.ticket for learner in learners])
        self._vocabulary = UsedVocabulary(encoder_of(learners[0].model), [learner.data for learner in learners])
        self.learners = [replace(learner, data=self._vocabulary.translate(learner.data)) for learner in learners]
        if plan.weight_ticket is not None:
            keep_zero(encoder_of(learners[0].model), plan.weight_ticket, self._vocabulary.rows)
        keyed = plan.recipe.dropout_masks == "keyed"
        self._dropout = KeyedDropout([learner.model for learner in learners]) if keyed else None
        self._parameters = list({id(p): p for learner in learners for p in learner.model.parameters()}.values())
        self._grouped = {id(p) for p in self._structures.grouped()}
        lengths = [learner.data.train.lengths for learner in self.learners]
        whole = all_batches(lengths, plan.recipe, plan.sharing, plan.seed)
        steps = sum(map(len, whole))
        self._orders, self._begin = part_of(whole, round(plan.span.skip * steps), round(plan.span.stop * steps))
        self._optimizer = build_optimizer(self._parameters, plan.recipe)
        self._schedule = build_schedule(self._optimizer, plan.recipe, steps * plan.span.lr_horizon)
        self._state = TrainState.of(self._parameters, RandomState.seeded(plan.seed, device))
        self._state.result.cost.parameters = sum(p.numel() for p in self._parameters) + self._vocabulary.left_out
        self._optimizer.state.update(zip(self._parameters, self._state.optimizer, strict=True))
        self.passes = Passes(self._structures, plan.recipe, device, self._state.result)
        self._saved = time.monotonic()
        self._unread: list[Tensor] = []  # losses of steps that are done, on their device
        self._read_every = losses_read_every(device)
        left = checkpoints and TrainState.load(checkpoints.path, checkpoints.identity)
        # Another version of a library may build the same model of other parameters.
        self._go_on_from(left if left and self._state.fits(left) else resume_from)
        if checkpoints and checkpoints.environment not in self._state.environments:
            self._state.environments.append(dict(checkpoints.environment))

    def _go_on_from(self, state: TrainState | None) -> None:
        if state is not None:
            done = sum(map(len, self._orders[: state.epoch])) + len(state.losses)
            if state.step != done or state.epoch > len(self._orders) or state.step > self.total:
                raise ValueError("the state is one of another training: it has done other steps.")
            # A fused optimiser counts its steps where the parameters are.
            scalars = self.device if self._optimizer.defaults.get("fused") else torch.device("cpu")
            self._state.take(state, scalars)
            if state.ended and not self.finished:
                raise ValueError("the state is one of a training that has ended: its last weights may be gone.")
        go_to(self._schedule, self._begin + self._state.step)

    @property
    def state(self) -> TrainState:
        """Where the training stands. Raises DivergedError if a loss until now is NaN or infinite."""
        self._read_losses()
        return self._state

    @property
    def total(self) -> int:
        """How many updates the training has if nothing stops it early."""
        return sum(map(len, self._orders))

    @property
    def result(self) -> Training:
        """What came out until now."""
        return self._state.result

    @property
    def environments(self) -> Sequence[Mapping[str, Any]]:
        """The different environments that the training has been in, in the order in which it came to them."""
        return self._state.environments

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        return self._state.epoch == len(self._orders) or self._patience_is_out()

    def steps(self, until: int | None = None) -> Iterator[Event]:
        """Train; yield what there is to report after every update and every evaluation.

        Stops at the training's end, where the models have the weights that the recipe keeps, or after the update with
        the number `until` (and the evaluation, if an epoch ends there). May be called again: it goes on where the
        training stands. Raises DivergedError when a loss that is read is NaN or infinite (see `losses_read_every`),
        StoppedError where its checkpoints are asked to stop.
        """
        last = self.total if until is None else until
        while not self.finished:
            order = self._orders[self._state.epoch]
            done = len(self._state.losses) + len(self._unread)
            if done == len(order):
                yield self._end_epoch()
            elif self._state.step < last:
                yield self._update(*order[done])
                self._save_if_due()
            else:
                return

    def train(self, report: Report = lambda event: None) -> Training:
        """Train to the end, reporting each step, and return what came out (see `steps`)."""
        for event in self.steps():
            report(event)
        return self.result

    def run_to(self, until: float, report: Report = lambda event: None) -> bool:
        """Train until so many updates (an int), or such a share of all (a float), are done.

        Evaluations come where epochs end. Returns whether the training is finished. Does nothing if it is further on.
        """
        for event in self.steps(until if isinstance(until, int) else round(until * self.total)):
            report(event)
        return self.finished

    def save(self) -> None:
        """Write where the training stands into its checkpoint."""
        assert self._checkpoints is not None
        self.state.save(self._checkpoints.path, self._checkpoints.identity)
        self._saved = time.monotonic()

    def _save_if_due(self) -> None:
        if self._checkpoints is None:
            return
        why = self._checkpoints.stop()
        if why is not None or time.monotonic() - self._saved >= self._checkpoints.every:
            self.save()
        if why is not None:
            raise StoppedError(why)

    def evaluate(self) -> None:
        """Evaluate the models as they are, in place of a training: the one entry is that of epoch 0, without a loss.

        Raises DivergedError if some outputs are NaN or infinite.
        """
        with self.at_work():
            self._judge(0, None)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within the context random numbers and threads are the training's; its time is counted."""
        started = time.monotonic()
        try:
            with with_threads(self.plan.recipe.threads), self._state.random.drawn_from(self.device):
                yield
        finally:
            self.result.cost.seconds += time.monotonic() - started

    def predict(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return the outputs `[examples, outputs]` of an evaluation on a split, without dropout."""
        with self.at_work():
            return self.passes.outputs(learner, split)

    def taught(self, learner: Learner) -> NDArray[np.float32]:
        """Return the outputs on the training set for others to learn from, row by row (see `teacher.Lesson`).

        They are those of the weights that the training ends with, without dropout. Raises DivergedError if some are
        NaN or infinite.
        """
        cost = self.result.cost
        before = cost.flops
        with self.at_work():
            found = self.passes.judged(learner, learner.data.train)
        cost.scoring_flops += cost.flops - before
        if not np.isfinite(found).all():
            raise DivergedError("the outputs on the training set became NaN or infinite")
        return found

    @contextmanager
    def weights_to_score(self) -> Iterator[None]:
        """Within the context the models of a finished training have the weights that importance is measured on."""
        self._put(self._state.to_score or self._state.best)
        try:
            yield
        finally:
            self._put(self._state.best)

    def _put(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, kept in zip(self._parameters, weights, strict=True):
                parameter.copy_(kept)
                parameter.grad = None

    def _update(self, which: int, rows: Rows) -> Event:
        """Do one update and return what there is to report."""
        with self.at_work():
            self._state.decay *= 1.0 - self._optimizer.param_groups[0]["lr"] * self.plan.recipe.weight_decay
            self._unread.append(self._step(which, rows))
            self._state.step += 1
            if len(self._unread) == self._read_every or not self._state.losses:
                self._read_losses()
        return self._where()

    def _read_losses(self) -> None:
        """Move the losses of the steps done from their device into the state, which waits for that device."""
        if not self._unread:
            return
        read, self._unread = torch.stack(self._unread).tolist(), []
        for step, loss in enumerate(read, start=self._state.step - len(read) + 1):
            if not np.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss} at step {step} of {self.total} (epoch {self._state.epoch + 1})"
                )
        self._state.losses += read

    def _step(self, which: int, rows: Rows) -> Tensor:
        """Do one update for a task; what its ticket does not reach has no gradient, so the optimiser passes over it."""
        learner = self.learners[which]
        # After an evaluation, of any task; with several tasks the encoder is another's too. It walks over all modules.
        if not (learner.model.training and encoder_of(learner.model).training):
            learner.model.train()
        # What is masked depends on the step alone: neither on evaluations nor on where a run was stopped.
        drawn = (self.plan.seed, self._begin + self._state.step)
        with self._dropout.drawn(*drawn) if self._dropout is not None else nullcontext():
            loss = self.passes.losses(learner, rows, 1 + BACKWARD, drawn).sum() / len(rows)
        loss.backward()
        if self.plan.sharing.updates == "leaky":
            self._leak()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.plan.recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        return loss.detach()

    def _leak(self) -> None:
        """Let momentum and decay move what this step's ticket does not reach, as the released code does (spec 5).

        There, masked heads get a gradient of zero; so does, once it was updated, everything else without one.
        """
        for parameter in self._parameters:
            if parameter.grad is None and (id(parameter) in self._grouped or self._optimizer.state.get(parameter)):
                parameter.grad = torch.zeros_like(parameter)

    def _end_epoch(self) -> Event:
        """Evaluate, keep what is to be kept, and return what there is to report."""
        with self.at_work():
            state, result = self.state, self.result
            where = self._where()
            best = max((entry["score"] for entry in result.epochs), default=-np.inf)
            entry = self._judge(state.epoch + 1, float(np.mean(state.losses)))
            state.epoch += 1
            state.losses = []
            if entry["score"] > best or self.plan.recipe.keep_epoch == "last":
                state.best = [p.detach().clone() for p in self._parameters]
                state.best_decay, result.best_epoch = state.decay, state.epoch
            if state.epoch == self.plan.score_epoch:
                state.to_score = [p.detach().clone() for p in self._parameters]
        if self.finished:
            self._put(state.best)
            state.decay, state.ended = state.best_decay, True
        return {**where, "metrics": entry["metrics"]}

    def _judge(self, epoch: int, loss: float | None) -> dict[str, Any]:
        """Evaluate, and return the entry of an epoch, which is among the results then."""
        metrics = self.passes.evaluate(self.learners, epoch)
        score = float(np.mean([of_task["dev"]["score"] for of_task in metrics.values()]))
        entry = {"epoch": epoch, "loss": loss, "score": score, "metrics": metrics}
        self.result.epochs.append(entry)
        return entry

    def _where(self) -> Event:
        return {
            "epoch": self._state.epoch + 1,
            "epochs": len(self._orders),
            "step": self._state.step,
            "steps": self.total,
            "loss": float(np.mean(self._state.losses[-20:])),
        }

    def _patience_is_out(self) -> bool:
        scores = [entry["score"] for entry in self.result.epochs]
        if self.plan.recipe.patience is None or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.plan.recipe.patience

    def restore(self) -> None:
        """Give the models the word embeddings that training left out, and plain layers; do this before saving them."""
        if self._dropout is not None:
            self._dropout.remove()
        self._vocabulary.restore(self._state.decay)
        self._structures.merge()
