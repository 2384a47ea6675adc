"""The one training loop: any number of tasks on one encoder, one task in a batch. One task is the common case."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from supertickets.tasks.metrics import evaluate
from supertickets.tickets import Ticket
from supertickets.tickets.importance import importance
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.batches import ORDERS, Encoded, EncodedTask, in_file_order, in_length_order
from supertickets.training.devices import arithmetic
from supertickets.training.optimisers import build_optimizer, build_schedule
from supertickets.training.recipe import Recipe
from supertickets.training.vocabulary import UsedVocabulary

Report = Callable[[dict[str, Any]], None]
"""Told of progress: `{"epoch", "epochs", "step", "steps", "loss"}`."""


@dataclass
class Learner:
    """A task, the model that learns it (a stock one; several may share an encoder), and the ticket it was cut to."""

    data: EncodedTask
    model: PreTrainedModel
    ticket: Ticket


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


def example_losses(outputs: Tensor, targets: Tensor, regression: bool) -> Tensor:
    """Return each example's loss `[batch]`: cross-entropy, or squared error in regression."""
    if regression:
        return (outputs.squeeze(-1) - targets.to(outputs.dtype)) ** 2
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


class Trainer:
    """Trains learners by a recipe; the seed decides dropout and the order of batches."""

    def __init__(self, learners: Sequence[Learner], recipe: Recipe, seed: int, device: torch.device, report: Report):
        self.recipe, self.seed, self.device, self.report = recipe, seed, device, report
        for learner in learners:
            learner.model.to(device)
        self._vocabulary = UsedVocabulary(learners[0].model.base_model, [learner.data for learner in learners])
        for learner in learners[1:]:  # they share the encoder, each under its own stock model
            assert learner.model.base_model is learners[0].model.base_model
        self.learners = [
            Learner(self._vocabulary.translate(learner.data), learner.model, learner.ticket) for learner in learners
        ]
        self.result = Training()
        unique = {id(p): p for learner in learners for p in learner.model.parameters()}
        self._parameters = list(unique.values())
        missing = len(self._vocabulary._full) - len(self._vocabulary.used)
        width = self._vocabulary._full.shape[1]
        self.result.cost.parameters = sum(p.numel() for p in self._parameters) + missing * width
        self._decay = 1.0  # the product of all steps' weight decay, owed to the embeddings left out

    def train(self) -> Training:
        """Train until the last epoch or until patience runs out; leave the models with the weights the recipe keeps.

        Raises DivergedError when a loss is NaN or infinite.
        """
        torch.manual_seed(self.seed)
        started = time.monotonic()
        orders = [self._batches(epoch) for epoch in range(self.recipe.epochs)]
        steps = sum(map(len, orders))
        optimizer = build_optimizer(self._parameters, self.recipe)
        schedule = build_schedule(optimizer, self.recipe, steps)
        best: tuple[float, list[Tensor], float] | None = None
        step = 0
        for epoch, order in enumerate(orders, start=1):
            epoch_started, losses = time.monotonic(), []
            for which, rows in order:
                step += 1
                self._decay *= 1.0 - optimizer.param_groups[0]["lr"] * self.recipe.weight_decay
                loss = self._step(self.learners[which], rows, optimizer)
                schedule.step()
                if not np.isfinite(loss):
                    raise DivergedError(f"the loss became {loss} at step {step} of {steps} (epoch {epoch})")
                losses.append(loss)
                self.report(
                    {
                        "epoch": epoch,
                        "epochs": self.recipe.epochs,
                        "step": step,
                        "steps": steps,
                        "loss": float(np.mean(losses[-20:])),
                    }
                )
            metrics = self._evaluate(epoch)
            score = float(np.mean([of_task["dev"]["score"] for of_task in metrics.values()]))
            self.result.epochs.append(
                {
                    "epoch": epoch,
                    "loss": float(np.mean(losses)),
                    "score": score,
                    "metrics": metrics,
                    "seconds": time.monotonic() - epoch_started,
                }
            )
            if best is None or score > best[0] or self.recipe.keep == "last":
                best = (score, [p.detach().clone() for p in self._parameters], self._decay)
                self.result.best_epoch = epoch
            elif self.recipe.patience is not None and epoch - self.result.best_epoch >= self.recipe.patience:
                break
        assert best is not None
        with torch.no_grad():
            for parameter, kept in zip(self._parameters, best[1], strict=True):
                parameter.copy_(kept)
                parameter.grad = None
        self._decay = best[2]
        self.result.cost.seconds += time.monotonic() - started
        return self.result

    def score(self, settings: ScoringSettings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the importance of heads `[layers, heads]` and FFNs `[layers]` over the (only) task's training set.

        Needs a dense model. Call after `train`, before `restore`.
        """
        started = time.monotonic()
        (learner,) = self.learners
        by_file = settings.accumulation == "decaying"  # the order matters only there
        order = (in_file_order if by_file else in_length_order)(learner.data.train.lengths, self.recipe.batch_size)

        def losses() -> Iterator[Callable[[], Tensor]]:
            for rows in order:

                def loss(rows: NDArray[np.int64] = rows) -> Tensor:
                    inputs, targets = self._collate(learner.data.train, rows, learner, 1 + BACKWARD / 2)
                    return example_losses(self._forward(learner, inputs), targets, learner.data.task.is_regression)

                yield loss

        scores = importance(
            learner.model,
            lambda head, ffn: gated(learner.model, head, ffn),
            losses(),
            len(learner.ticket.ffns),
            settings,
        )
        self.result.cost.seconds += time.monotonic() - started
        return scores

    def restore(self) -> None:
        """Give the models the word embeddings that training left out; do this before saving them."""
        self._vocabulary.restore(self._decay)

    def _batches(self, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Return an epoch's (learner, rows): tasks shuffled together, each met in proportion to its size."""
        make = ORDERS[self.recipe.order]
        per_task = [
            make(learner.data.train.lengths, self.recipe.batch_size, self.seed, epoch) for learner in self.learners
        ]
        tasks = np.repeat(np.arange(len(per_task)), [len(batches) for batches in per_task])
        np.random.default_rng([self.seed, epoch, 1]).shuffle(tasks)
        queues = [iter(batches) for batches in per_task]
        return [(int(task), next(queues[task])) for task in tasks]

    def _step(self, learner: Learner, rows: NDArray[np.int64], optimizer: torch.optim.Optimizer) -> float:
        learner.model.train()
        inputs, targets = self._collate(learner.data.train, rows, learner, 1 + BACKWARD)
        loss = example_losses(self._forward(learner, inputs), targets, learner.data.task.is_regression).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _evaluate(self, epoch: int) -> dict[str, dict[str, dict[str, float]]]:
        """Evaluate every task on each of its sets; keep the outputs, return metrics by task and set."""
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for learner in self.learners:
            task = learner.data.task
            kept = self.result.predictions.setdefault(task.name, {})
            for name, split in learner.data.evaluations.items():
                outputs = self.predict(learner, split)
                if not np.isfinite(outputs).all():
                    raise DivergedError(f"the outputs on {name} became NaN or infinite after epoch {epoch}")
                kept.setdefault(name, []).append(outputs)
                metrics.setdefault(task.name, {})[name] = evaluate(task.metrics, split.targets, outputs)
        return metrics

    def predict(self, learner: Learner, split: Encoded) -> NDArray[np.float32]:
        """Return the model's outputs `[examples, outputs]` on a split, without dropout."""
        learner.model.eval()
        outputs = np.empty((len(split.ids), learner.data.task.outputs), np.float32)
        with torch.inference_mode():
            for rows in in_length_order(split.lengths, 2 * self.recipe.batch_size):
                inputs, _ = self._collate(split, rows, learner, 1)
                outputs[rows] = self._forward(learner, inputs).float().cpu().numpy()
        return outputs

    def _collate(
        self, split: Encoded, rows: NDArray[np.int64], learner: Learner, passes: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = split.collate(rows, self.device)
        examples, length = inputs["input_ids"].shape
        self.result.cost.tokens += int(split.lengths[rows].sum())
        self.result.cost.flops += int(passes * forward_flops(shape_of(learner.model), learner.ticket, examples, length))
        return inputs, targets

    def _forward(self, learner: Learner, inputs: dict[str, Tensor]) -> Tensor:
        with arithmetic(self.recipe.precision, self.device):
            outputs = learner.model(**inputs).logits
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
