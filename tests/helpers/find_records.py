"""Studies of `find` that are made up: their steps are the real ones, their outcomes invented; nothing is trained."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.weight_records import task_info
from supertickets.evidence.runs import Runs
from supertickets.lab.outcome import LOGITS, Outcome
from supertickets.lab.partial import Partial, part_of
from supertickets.lab.steps import Execution
from supertickets.lab.trial import Trial
from supertickets.studies.find import Find, FindSettings
from supertickets.studies.study import training_flops

EXAMPLES, EPOCHS, SCORING = 300, 4, 0.5
TARGETS = np.random.default_rng(5).integers(0, 2, EXAMPLES)
TASK = replace(task_info("words"), metrics=("accuracy",), targets=TARGETS, data_hash="data of words")
DIFFICULTY = np.random.default_rng(6).permutation(EXAMPLES) / EXAMPLES
MADE: dict[str, Any] = {
    "task": "words", "model": "m", "control": "equal-budget", "kinds": ("winning",), "levels": (0.1, 0.3, 0.4),
    "epochs": EPOCHS, "patience": 0, "batch_size": 16, "precision": "float32", "seeds": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Made(Outcome):
    """An invented outcome; `said` are its outputs on the dev set."""

    said: NDArray[np.float32] | None = None

    def predictions(self, task: int = 0) -> dict[str, NDArray[np.float32]]:
        assert self.said is not None
        return {"dev": self.said}

    def scores(self) -> Any:
        rng = np.random.default_rng(self.trial.seed)
        return {"heads": rng.random(self.trial.ticket.heads.shape), "ffns": rng.random(self.trial.ticket.ffns.shape)}


@dataclass(frozen=True)
class MadePart(Partial):
    """What an invented training said when it was trained to a part."""

    said: NDArray[np.float32] | None = None

    def predictions(self, task: int = 0) -> dict[str, NDArray[np.float32]]:
        assert self.said is not None
        return {"dev": self.said[: len(self.epochs)]} if self.epochs else {}


def part(outcome: Made, until: float) -> MadePart:
    return MadePart(**vars(part_of(outcome, until)), said=outcome.said)


def made(trial: Trial, ability: float, epochs: int, status: str = "finished") -> Made:
    """A training that ended after so many epochs: right where an example is not too difficult, a few times by luck."""
    flops = {"flops": training_flops(TASK, trial.ticket, epochs)}
    if trial.scoring is not None:
        flops["scoring_flops"] = SCORING * training_flops(TASK, trial.ticket, 1)
        flops["flops"] += flops["scoring_flops"]
    entries, said = [], np.zeros((epochs, EXAMPLES, 2), np.float32)
    for epoch in range(epochs):
        rng = np.random.default_rng([int(trial.key[:8], 16), epoch])
        right = (ability > DIFFICULTY) ^ (rng.random(EXAMPLES) < 0.03)
        said[epoch, np.arange(EXAMPLES), np.where(right, TARGETS, 1 - TARGETS)] = 1
        score = 100 * float(right.mean())
        dev = {"accuracy": score, "score": score}
        entries.append({"epoch": epoch + 1, "loss": 1.0, "score": score, "metrics": {"words": {"dev": dev}}})
    best = max(entries, key=lambda entry: entry["score"])["epoch"] if status == "finished" else None
    parameters = 1e6 * (trial.ticket.kept_heads + trial.ticket.kept_ffns)
    cost = {**flops, "parameters": parameters, "tokens": 1.0, "seconds": 1.0}
    files = {LOGITS: f"outputs of {trial.key}"} if trial.logits else {}
    return Made(trial.key, trial, Path(), status, "NaN", entries, best, cost, files=files, said=said)


def study(
    outcome: Callable[[Trial], Made | None] = lambda trial: made(trial, ability(trial), trial.recipe.epochs),
    stop: int | None = None,
    **more: Any,
) -> Runs:
    """A study of `find` whose trainings end as `outcome` says; None for one that fails. It may `stop` after some."""
    settings = FindSettings(**{**MADE, **more})
    execution = Execution(Find().steps(settings, (TASK,)))
    waiting = deque(execution.begin())
    ended = 0
    while waiting and ended != stop:
        order, ended = waiting.popleft(), ended + 1
        came = outcome(order.trial)
        if came is not None and order.until is not None:
            waiting.extend(execution.end(order.id, partial=part(came, order.until)))
        else:
            waiting.extend(execution.end(order.id, came, failure=None if came else "out of memory"))
    shown = {"study": "find", **settings.model_dump(mode="json")}
    return Runs((TASK,), Path(), shown, execution.runs, execution.complete)


def ability(trial: Trial, tuned: float = 0.7) -> float:
    """Tickets are better than the dense model by 6 points; a dense model with twice the learning rate is as told."""
    if not trial.ticket.is_full:
        return 0.76
    return tuned if trial.recipe.learning_rate > 5e-5 else 0.7
