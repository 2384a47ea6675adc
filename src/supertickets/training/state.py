"""Where a training stands: all that it needs to go on, here or elsewhere, as if it had never stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.training.checkpoint import load_checkpoint, save_checkpoint

SCHEMA = 1
"""Of a saved state; one with another is not read."""


@dataclass
class Cost:
    """What a training took. Tokens and FLOPs count training, evaluation and scoring; tokens without padding.

    `scoring_flops` are those of what only tickets need of a dense training: scoring, and outputs that they learn from.
    """

    seconds: float = 0.0
    tokens: int = 0
    flops: int = 0
    parameters: int = 0
    scoring_flops: int = 0


@dataclass
class Training:
    """What came out. `predictions[task][split]` are outputs `[epochs, examples, outputs]`; epochs count from 1.

    `scored_on` says of how many training examples importance was measured, and how many there are, where it may have
    stopped early.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, dict[str, list[NDArray[np.float32]]]] = field(default_factory=dict)
    best_epoch: int = 0
    cost: Cost = field(default_factory=Cost)
    scored_on: tuple[int, int] | None = None

    def take(self, other: "Training") -> None:
        """Become another one; lists and counts are copied, arrays never change."""
        self.epochs, self.best_epoch, self.cost = list(other.epochs), other.best_epoch, Cost(**asdict(other.cost))
        self.predictions = {
            task: {split: list(outputs) for split, outputs in splits.items()}
            for task, splits in other.predictions.items()
        }


@dataclass
class RandomState:
    """torch's random numbers of one training: those of the CPU, and of the device that it is on if that is another."""

    cpu: Tensor
    on_device: Tensor | None = None

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> Self:
        """Return what `torch.manual_seed` gives."""
        on_device = None if device.type == "cpu" else torch.Generator(device).manual_seed(seed).get_state()
        return cls(torch.Generator().manual_seed(seed).get_state(), on_device)

    @contextmanager
    def drawn_from(self, device: torch.device) -> Iterator[None]:
        """Within the context torch draws from here; before and after it, what the process draws is its own."""
        before, before_there = torch.get_rng_state(), None
        torch.set_rng_state(self.cpu)
        if self.on_device is not None:
            before_there = _drawn_there(device)
            _draw_there(self.on_device, device)
        try:
            yield
        finally:
            self.cpu = torch.get_rng_state()
            torch.set_rng_state(before)
            if before_there is not None:
                self.on_device = _drawn_there(device)
                _draw_there(before_there, device)


def _drawn_there(device: torch.device) -> Tensor:
    module: Any = torch.get_device_module(device)
    found: Tensor = module.get_rng_state(*_which(device))
    return found


def _draw_there(state: Tensor, device: torch.device) -> None:
    module: Any = torch.get_device_module(device)
    module.set_rng_state(state, *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of which there is one


@dataclass
class TrainState:
    """Weights, optimiser, random numbers, position and results of a training.

    `weights` and `optimizer` have an entry a parameter, in the trainer's order; a trainer's own state holds the very
    tensors that it trains (`copy` keeps them as they are). Of the epoch that goes on, `losses` has those of the batches
    done. `decay` is the product of all steps' weight decay. `best` are the weights after the best epoch, with their
    `decay`, `to_score` those that importance is measured on; both are empty until there are any. Where the training has
    `ended`, the weights are those that its recipe keeps. `environments` are the different ones that it has been in.
    """

    weights: list[Tensor]
    optimizer: list[dict[str, Tensor]]
    random: RandomState
    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    decay: float = 1.0
    best: list[Tensor] = field(default_factory=list)
    best_decay: float = 1.0
    ended: bool = False
    to_score: list[Tensor] = field(default_factory=list)
    result: Training = field(default_factory=Training)
    environments: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, parameters: Sequence[Tensor], random: RandomState) -> Self:
        """Return the state before the first step of what trains these parameters."""
        return cls(list(parameters), [{} for _ in parameters], random)

    def copy(self) -> "TrainState":
        """Return this state as it is now, whatever is trained later."""
        found = TrainState.of([torch.empty_like(weight) for weight in self.weights], self.random)
        found.take(self)
        return found

    def fits(self, other: "TrainState") -> bool:
        """Return whether another state's weights have the shapes of these."""
        return [weight.shape for weight in self.weights] == [weight.shape for weight in other.weights]

    def take(self, other: "TrainState", scalars: torch.device | None = None) -> None:
        """Become another state, in the tensors that are here.

        `scalars` is where the optimiser wants its counts of steps; default: where they are. Raises ValueError if the
        other's weights are not those of such a model.
        """
        if not self.fits(other):
            raise ValueError("the state is one of another model: its weights have other shapes.")
        with torch.no_grad():
            for weight, value in zip(self.weights, other.weights, strict=True):
                weight.copy_(value)
        for weight, mine, theirs in zip(self.weights, self.optimizer, other.optimizer, strict=True):
            mine.clear()
            for name, value in theirs.items():
                mine[name] = value.detach().to(weight.device if value.ndim else scalars or value.device, copy=True)
        mine_there, theirs_there = self.random.on_device, other.random.on_device
        both = mine_there is not None and theirs_there is not None
        self.random = RandomState(other.random.cpu, theirs_there if both else mine_there)
        self.epoch, self.step, self.losses = other.epoch, other.step, list(other.losses)
        self.decay, self.best_decay, self.ended = other.decay, other.best_decay, other.ended
        # Never changed in place, so they may be the other's.
        self.best, self.to_score = (
            [value.to(weight.device) for weight, value in zip(self.weights, kept, strict=False)]
            for kept in (other.best, other.to_score)
        )
        self.result.take(other.result)
        self.environments = list(other.environments)

    def save(self, path: Path, identity: str = "") -> None:
        """Write the state into one file, whole or not at all; `identity` says whose it is."""
        tensors = {f"now.{i}": weight for i, weight in enumerate(self.weights)}
        tensors |= {f"best.{i}": kept for i, kept in enumerate(self.best)}
        tensors |= {f"score.{i}": kept for i, kept in enumerate(self.to_score)}
        for i, values in enumerate(self.optimizer):
            tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
        tensors["random"] = self.random.cpu
        if self.random.on_device is not None:
            tensors["random.on_device"] = self.random.on_device
        kinds = [(task, split) for task, splits in self.result.predictions.items() for split in splits]
        for i, (task, split) in enumerate(kinds):
            kept = self.result.predictions[task][split]
            tensors |= {f"predictions.{i}.{epoch}": torch.from_numpy(outputs) for epoch, outputs in enumerate(kept)}
        state = {
            "schema": SCHEMA,
            "identity": identity,
            "predictions": kinds,
            "position": {name: getattr(self, name) for name in _POSITION},
            "epochs": self.result.epochs,
            "best_epoch": self.result.best_epoch,
            "cost": asdict(self.result.cost),
            "environments": self.environments,
        }
        save_checkpoint(path, tensors, state)

    @classmethod
    def load(cls, path: Path, identity: str = "") -> Self | None:
        """Return the state that `save` wrote, or None if there is none, if it is damaged or somebody else's."""
        found = load_checkpoint(path)
        if found is None or (found[1].get("schema"), found[1].get("identity")) != (SCHEMA, identity):
            return None
        tensors, state = found

        def numbered(prefix: str) -> list[Tensor]:
            count = sum(name.startswith(f"{prefix}.") for name in tensors)
            return [tensors[f"{prefix}.{i}"] for i in range(count)]

        weights = numbered("now")
        optimizer: list[dict[str, Tensor]] = [{} for _ in weights]
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, place, of = name.split(".", 2)
                optimizer[int(place)][of] = value
        result = Training(state["epochs"], {}, state["best_epoch"], Cost(**state["cost"]))
        for i, (task, split) in enumerate(state["predictions"]):
            outputs = [value.numpy() for value in numbered(f"predictions.{i}")]
            result.predictions.setdefault(task, {})[split] = outputs
        random = RandomState(tensors["random"], tensors.get("random.on_device"))
        more: dict[str, Any] = {"best": numbered("best"), "to_score": numbered("score")}
        more["environments"] = state.get("environments", [])  # older checkpoints have none
        return cls(weights, optimizer, random, result=result, **more, **state["position"])


_POSITION = ("epoch", "step", "losses", "decay", "best_decay", "ended")
