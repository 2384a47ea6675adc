"""The one training loop: any number of tasks on one encoder, one task in a batch. One task is the common case."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.anatomy.blocks import shape_of
from supertickets.anatomy.cost import BACKWARD, forward_flops
from supertickets.errors import DivergedError
from supertickets.surgery.gate import gated
from supertickets.surgery.masks import keep_zero
from supertickets.surgery.sharing import SharedStructures
from supertickets.surgery.structures import sum_by_structure
from supertickets.tasks.metrics import evaluate
from supertickets.tickets import Ticket
from supertickets.tickets.importance import Loss, Measured, Scores, importance
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.weights import WeightTicket
from supertickets.training.batches import (
    ORDERS,
    Encoded,
    EncodedTask,
    batches_by_task,
    in_file_order,
    in_length_order,
)
from supertickets.training.checkpoint import load_checkpoint, save_checkpoint
from supertickets.training.evaluation import forward, judged_on
from supertickets.training.objectives import Objective, objective_of
from supertickets.training.optimisers import build_optimizer, build_schedule, go_to
from supertickets.training.recipe import Recipe, Sharing, Span
from supertickets.training.team import find_team
from supertickets.training.vocabulary import UsedVocabulary

EVALUATED_AT_ONCE = 2
"""How many training batches' examples are evaluated together: without gradients there is room."""

Report = Callable[[dict[str, Any]], None]
"""Told of progress: `{"epoch", "epochs", "step", "steps", "loss"}`, and `"metrics"` after an evaluation."""


@dataclass
class Learner:
    """A task, the model that learns it, and the task's ticket.

    The model is a stock one, cut to the ticket; where several share an encoder, to the union of their tickets.
    """

    data: EncodedTask
    model: PreTrainedModel
    ticket: Ticket

    @property
    def objective(self) -> Objective:
        """What its task's form means in training."""
        return objective_of(self.data.task)


@dataclass
class Cost:
    """What a training took. Tokens and FLOPs count training, evaluation and scoring; tokens without padding."""

    seconds: float = 0.0
    tokens: int = 0
    flops: int = 0
    parameters: int = 0


@dataclass
class Training:
    """What came out. `predictions[task][split]` are outputs `[epochs, examples, outputs]`; epochs count from 1."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, dict[str, list[NDArray[np.float32]]]] = field(default_factory=dict)
    best_epoch: int = 0
    cost: Cost = field(default_factory=Cost)


class Trainer:
    """Trains learners by a recipe; the seed decides dropout and the order of batches.

    Several share an encoder, as `sharing` says: a batch is of one task, whose ticket alone acts and learns then.
    With a `weight_ticket` the models must lack what it lacks (`surgery.masks.zero`), and they will when trained.
    `span` says which part of the recipe's training there is; without one, all of it. `score_epoch` is the epoch whose
    weights `score` measures, where it is not the one that is kept.
    With a `checkpoint` file, where the training stands is written there every `checkpoint_every` seconds, and a
    training with the same `identity` goes on from it.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        recipe: Recipe,
        seed: int,
        device: torch.device,
        report: Report,
        checkpoint: Path | None = None,
        checkpoint_every: float = 120.0,
        identity: str = "",
        sharing: Sharing | None = None,
        weight_ticket: WeightTicket | None = None,
        span: Span | None = None,
        score_epoch: int | None = None,
    ) -> None:
        self.recipe, self.seed, self.device, self.report = recipe, seed, device, report
        self._team = find_team()
        # The processes of a team have random states of their own, which one checkpoint cannot hold.
        self._checkpoint = checkpoint if self._team.size == 1 else None
        self._checkpoint_every, self._identity = checkpoint_every, identity
        for learner in learners:
            learner.model.to(device)
        for learner in learners[1:]:  # they share the encoder, each under its own stock model
            assert learner.model.base_model is learners[0].model.base_model
        self._sharing = sharing or Sharing.model_validate({})
        self._structures = SharedStructures(learners[0].model, [learner.ticket for learner in learners])
        self._vocabulary = UsedVocabulary(learners[0].model.base_model, [learner.data for learner in learners])
        self.learners = [
            Learner(self._vocabulary.translate(learner.data), learner.model, learner.ticket) for learner in learners
        ]
        self.result = Training()
        unique = {id(p): p for learner in learners for p in learner.model.parameters()}
        self._parameters = list(unique.values())
        self._reached = [self._reached_by(learner) for learner in learners]
        self._of_heads = {id(p) for p in self._structures.heads()}
        self.result.cost.parameters = sum(p.numel() for p in self._parameters) + self._vocabulary.left_out
        if weight_ticket is not None:
            keep_zero(learners[0].model.base_model, weight_ticket, self._vocabulary.rows)
        span = span or Span.model_validate({})
        whole = self._all_batches()
        steps = sum(map(len, whole))
        self._orders, self._begin = _part(whole, round(span.skip * steps), round(span.stop * steps))
        self._optimizer = build_optimizer(self._parameters, recipe)
        self._schedule = build_schedule(self._optimizer, recipe, steps * span.lr_horizon)
        go_to(self._schedule, self._begin)
        # Where the training stands: epochs done, batches done in this one and their losses, the best epoch's weights.
        self._epoch, self._losses = 0, list[float]()
        self._best: list[Tensor] = []
        self._score_epoch = score_epoch
        self._to_score: list[Tensor] = []  # the weights after that epoch
        self._decay = self._best_decay = 1.0  # the product of all steps' weight decay, owed to the embeddings left out
        self._started = self._saved = time.monotonic()

    def _reached_by(self, learner: Learner) -> list[nn.Parameter]:
        """Return the parameters that a step of a learner's task may change."""
        outside = {id(p) for p in self._structures.outside(learner.ticket)}
        return [p for p in learner.model.parameters() if id(p) not in outside]

    @property
    def steps(self) -> int:
        """How many updates the training has if nothing stops it early."""
        return sum(map(len, self._orders))

    def train(self) -> Training:
        """Train until the last epoch or until patience runs out; leave the models with the weights the recipe keeps.

        Raises DivergedError when a loss is NaN or infinite.
        """
        torch.manual_seed(self._team.seed(self.seed))
        self._started = self._saved = time.monotonic()
        self._resume()
        try:
            while self._epoch < len(self._orders) and not self._patience_is_out():
                self._train_epoch()
        finally:
            self.result.cost.seconds += time.monotonic() - self._started
        self._put(self._best)
        self._decay = self._best_decay
        cost = self.result.cost
        cost.tokens, cost.flops = map(int, self._team.sum_array(np.array([cost.tokens, cost.flops])))
        return self.result

    def _put(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, kept in zip(self._parameters, weights, strict=True):
                parameter.copy_(kept)
                parameter.grad = None

    def _train_epoch(self) -> None:
        for which, rows in self._orders[self._epoch][len(self._losses) :]:
            self._decay *= 1.0 - self._optimizer.param_groups[0]["lr"] * self.recipe.weight_decay
            loss = self._step(which, rows)
            self._losses.append(loss)
            if not np.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss} at step {self.steps_done} of {self.steps} (epoch {self._epoch + 1})"
                )
            self.report(self._where())
            self._save_checkpoint_if_due()
        metrics = self._evaluate(self._epoch + 1)
        self.report({**self._where(), "metrics": metrics})
        score = float(np.mean([of_task["dev"]["score"] for of_task in metrics.values()]))
        best = max((entry["score"] for entry in self.result.epochs), default=-np.inf)
        self._epoch += 1
        self.result.epochs.append(
            {"epoch": self._epoch, "loss": float(np.mean(self._losses)), "score": score, "metrics": metrics}
        )
        self._losses = []
        if score > best or self.recipe.keep_epoch == "last":
            self._best = [p.detach().clone() for p in self._parameters]
            self._best_decay, self.result.best_epoch = self._decay, self._epoch
        if self._epoch == self._score_epoch:
            self._to_score = [p.detach().clone() for p in self._parameters]

    @property
    def steps_done(self) -> int:
        """How many updates there have been."""
        return sum(map(len, self._orders[: self._epoch])) + len(self._losses)

    def _where(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch + 1,
            "epochs": len(self._orders),
            "step": self.steps_done,
            "steps": self.steps,
            "loss": float(np.mean(self._losses[-20:])),
        }

    def _patience_is_out(self) -> bool:
        scores = [entry["score"] for entry in self.result.epochs]
        if self.recipe.patience is None or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.recipe.patience

    def _save_checkpoint_if_due(self) -> None:
        if self._checkpoint is None or time.monotonic() - self._saved < self._checkpoint_every:
            return
        tensors = {f"now.{i}": parameter for i, parameter in enumerate(self._parameters)}
        tensors |= {f"best.{i}": kept for i, kept in enumerate(self._best)}
        tensors |= {f"score.{i}": kept for i, kept in enumerate(self._to_score)}
        for i, parameter in enumerate(self._parameters):
            tensors |= {f"optimizer.{i}.{name}": value for name, value in self._optimizer.state[parameter].items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for task, splits in self.result.predictions.items():
            for split, outputs in splits.items():
                tensors |= {
                    f"predictions/{task}/{split}/{epoch}": torch.from_numpy(o) for epoch, o in enumerate(outputs)
                }
        cost = vars(self.result.cost) | {"seconds": self.result.cost.seconds + time.monotonic() - self._started}
        state = {
            "identity": self._identity,
            "epoch": self._epoch,
            "losses": self._losses,
            "decay": [self._decay, self._best_decay],
            "epochs": self.result.epochs,
            "best_epoch": self.result.best_epoch,
            "cost": cost,
        }
        save_checkpoint(self._checkpoint, tensors, state)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one of this training."""
        found = load_checkpoint(self._checkpoint) if self._checkpoint is not None else None
        if found is None or found[1]["identity"] != self._identity:
            return
        tensors, state = found
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters):
                parameter.copy_(tensors[f"now.{i}"])
                prefix = f"optimizer.{i}."
                self._optimizer.state[parameter] = {
                    name.removeprefix(prefix): value.to(parameter.device if value.ndim else "cpu")
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
        if "best.0" in tensors:
            self._best = [tensors[f"best.{i}"].to(self.device) for i in range(len(self._parameters))]
        if "score.0" in tensors:
            self._to_score = [tensors[f"score.{i}"].to(self.device) for i in range(len(self._parameters))]
        self._epoch, self._losses = state["epoch"], state["losses"]
        self._decay, self._best_decay = state["decay"]
        self.result.epochs, self.result.best_epoch = state["epochs"], state["best_epoch"]
        self.result.cost = Cost(**state["cost"])
        for learner in self.learners:
            task = learner.data.task.name
            self.result.predictions[task] = {
                split: [tensors[f"predictions/{task}/{split}/{epoch}"].numpy() for epoch in range(self._epoch)]
                for split in learner.data.evaluations
            }
        go_to(self._schedule, self._begin + self.steps_done)
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def score(self, settings: ScoringSettings, start: Callable[[], PreTrainedModel]) -> Scores:
        """Return the importance of heads `[layers, heads]` and FFNs `[layers]` over the (only) task's training set.

        `start` builds the model as it was before training, for measures that ask for it. Call after `train`, before
        `restore`.
        """
        started = time.monotonic()
        (learner,) = self.learners
        # The order matters only there.
        by_file = settings.importance == "sensitivity" and settings.accumulation == "decaying"
        order = (in_file_order if by_file else in_length_order)(learner.data.train.lengths, self.recipe.batch_size)

        # Taylor needs parameters' gradients: a whole backward pass; gates alone need half of one.
        passes = 1 + (BACKWARD if settings.importance == "taylor" else BACKWARD / 2)
        names = {id(parameter): name for name, parameter in learner.model.named_parameters()}

        @cache
        def before() -> dict[str, nn.Parameter]:
            return dict(start().to(self.device).named_parameters())

        def losses() -> Iterator[Loss]:
            for rows in order:

                def loss(rows: NDArray[np.int64] = rows) -> Tensor:
                    inputs, targets = self._collate(learner.data.train, rows, learner, passes)
                    return learner.objective.losses(self._forward(learner, inputs, targets), targets)

                yield loss

        self._put(self._to_score or self._best)
        scores = importance(
            Measured(
                learner.model,
                learner.ticket,
                gate=lambda head, ffn: gated(learner.model, head, ffn),
                losses=losses,
                by_structure=lambda value: sum_by_structure(learner.model, learner.ticket, value),
                start=lambda parameter: before()[names[id(parameter)]].detach(),
                settings=settings,
                seed=self.seed,
            )
        )
        self._put(self._best)
        self.result.cost.seconds += time.monotonic() - started
        return scores

    def restore(self) -> None:
        """Give the models the word embeddings that training left out, and plain layers; do this before saving them."""
        self._vocabulary.restore(self._decay)
        self._structures.merge()

    def _all_batches(self) -> list[list[tuple[int, NDArray[np.int64]]]]:
        """Return every epoch's (learner, rows): tasks shuffled together, each as often as the sampling says.

        A task's batches go round: in each round all of them, in a new order. Sampled in proportion to its size, a task
        has a round an epoch.
        """
        queues = [self._rounds(learner) for learner in self.learners]
        sizes = [len(self._round(learner, 0)) for learner in self.learners]
        orders = []
        for epoch in range(self.recipe.epochs):
            counts = batches_by_task(sizes, self._sharing.sampling, epoch, self.recipe.epochs)
            tasks = np.repeat(np.arange(len(sizes)), counts)
            np.random.default_rng([self.seed, epoch, 1]).shuffle(tasks)
            orders.append([(int(task), next(queues[task])) for task in tasks])
        return orders

    def _rounds(self, learner: Learner) -> Iterator[NDArray[np.int64]]:
        for number in count():
            yield from self._round(learner, number)

    def _round(self, learner: Learner, number: int) -> list[NDArray[np.int64]]:
        return ORDERS[self.recipe.order](learner.data.train.lengths, self.recipe.batch_size, self.seed, number)

    def _step(self, which: int, rows: NDArray[np.int64]) -> float:
        """Do one update for a task; what its ticket does not reach has no gradient, so the optimiser passes over it."""
        learner = self.learners[which]
        learner.model.train()
        mine, loss = self._team.share(rows), 0.0
        if len(mine):
            # What is masked depends on the step alone: neither on evaluations nor on where a run was stopped.
            drawn = (self.seed, self._begin + self.steps_done)
            inputs, targets = self._collate(learner.data.train, mine, learner, 1 + BACKWARD, drawn)
            losses = learner.objective.losses(self._forward(learner, inputs, targets), targets)
            share = losses.sum() / len(rows)
            share.backward()
            loss = share.item()
        self._team.sum_gradients(self._reached[which])
        if self._sharing.updates == "leaky":
            self._leak()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        return float(self._team.sum_array(np.array([loss]))[0])

    def _leak(self) -> None:
        """Let momentum and decay move what this step's ticket does not reach, as the released code does (spec 5).

        There, masked heads get a gradient of zero; so does, once it was updated, everything else without one.
        """
        for parameter in self._parameters:
            if parameter.grad is None and (id(parameter) in self._of_heads or self._optimizer.state.get(parameter)):
                parameter.grad = torch.zeros_like(parameter)

    def _evaluate(self, epoch: int) -> dict[str, dict[str, dict[str, float]]]:
        """Evaluate every task on each of its sets; keep the outputs, return metrics by task and set."""
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for learner in self.learners:
            task = learner.data.task
            kept = self.result.predictions.setdefault(task.name, {})
            for name, split in learner.data.evaluations.items():
                found = self._judged(learner, split)
                if not np.isfinite(found).all():
                    raise DivergedError(f"the outputs on {name} became NaN or infinite after epoch {epoch}")
                outputs = learner.objective.finish(found, split)
                kept.setdefault(name, []).append(outputs)
                metrics.setdefault(task.name, {})[name] = evaluate(task.metrics, split.targets, outputs)
        return metrics

    def predict(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return the outputs `[examples, outputs]` of an evaluation on a split, without dropout."""
        return learner.objective.finish(self._judged(learner, split), split)

    def _judged(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return what the task's form keeps of a model's outputs on a split, a row an example."""
        self._structures.activate(learner.ticket)
        return self._team.sum_array(
            judged_on(
                split,
                learner.model,
                learner.objective,
                EVALUATED_AT_ONCE * self.recipe.batch_size,
                self.recipe.precision,
                self.device,
                self._team.share,
                lambda rows, inputs: self._count(split, rows, learner, 1, inputs),
            )
        )

    def _collate(
        self,
        split: Encoded,
        rows: NDArray[np.int64],
        learner: Learner,
        passes: float,
        drawn: Sequence[int] = (),
    ) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = split.collate(rows, self.device, drawn)
        self._count(split, rows, learner, passes, inputs)
        return inputs, targets

    def _count(
        self, split: Encoded, rows: NDArray[np.int64], learner: Learner, passes: float, inputs: dict[str, Tensor]
    ) -> None:
        """Add a batch to what the training took."""
        examples, length = inputs["input_ids"].shape
        self.result.cost.tokens += int(split.lengths[rows].sum())
        self.result.cost.flops += int(passes * forward_flops(shape_of(learner.model), learner.ticket, examples, length))

    def _forward(self, learner: Learner, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        self._structures.activate(learner.ticket)
        return forward(learner.model, learner.objective, inputs, targets, self.recipe.precision, self.device)


Orders = list[list[tuple[int, NDArray[np.int64]]]]


def _part(orders: Orders, first: int, last: int) -> tuple[Orders, int]:
    """Return the epochs' batches from `first` to before `last`, one at least, and how many are left out before them."""
    last = max(last, 1)
    first = min(first, last - 1)
    kept, position = [], 0
    for order in orders:
        kept.append(order[max(first - position, 0) : max(last - position, 0)])
        position += len(order)
    return [order for order in kept if order], first
