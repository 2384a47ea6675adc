"""Studies of tickets of weights made by hand: scores in, runs out, no training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supertickets.anatomy import Shape
from supertickets.evidence.runs import DENSE, Runs, TaskInfo
from supertickets.lab.steps import Label, Run, Step
from supertickets.lab.trial import TaskTicket, Trial, WeightMask
from supertickets.storage import write_atomically
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.weights import WeightTicket
from supertickets.training.recipe import Recipe

SHAPE = Shape(2, 4, 8, 16)
MATRICES = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")


class Done:
    """An outcome of which only scores and cost are known."""

    def __init__(self, trial: Trial, score: float) -> None:
        self.trial, self.key, self.finished, self.status, self.reason = trial, trial.key, True, "finished", None
        self.score, self.best_epoch = score, 3
        self.epochs = [{"epoch": i + 1, "score": score - d} for i, d in enumerate((4.0, -0.5, 0.0))]
        self.metrics = {"dev": {"matthews": score, "score": score}}
        self.by_task = [self.metrics]
        self.cost = {"parameters": 22_713_986, "tokens": 17_066, "flops": 6.2e11, "seconds": 5.97}
        self.environment = {"python": "3.11", "torch": "2.6"}


def task_info(task: str, train: int = 8_551, model: str = "bert-base-uncased") -> TaskInfo:
    return TaskInfo(
        model, "bert", "w", SHAPE, task, f"data of {task}", ("0", "1"), ("matthews",), train, np.zeros(1043, int),
        TaskSource(task=task),
    )  # fmt: skip


def run(labels: Mapping[str, Label], task: str, score: float | None, mask: Path | None = None) -> Run:
    """A run; what has no score is missing."""
    step = Step(labels, lambda done: None)
    what: dict[str, Any] = {"how": "file", "path": mask, "digest": str(labels)}
    of_task = TaskTicket(source=TaskSource(task=task), data_hash=f"data of {task}", ticket=Ticket.full(2, 4))
    trial = Trial(
        model="m",
        weight_hash=str(labels),
        tasks=(of_task,),
        recipe=Recipe(),
        seed=int(labels["seed"]),
        mask=WeightMask.model_validate(what) if mask is not None else None,
    )
    return Run(step, trial, None if score is None else Done(trial, score))  # type: ignore[arg-type]


def imp_runs(
    scores: Mapping[tuple[str, str, float], Sequence[float | None]],
    folder: Path = Path("x"),
    task: str = "cola",
    tickets: Mapping[tuple[float, int], WeightTicket] | None = None,
    **settings: Any,
) -> Runs:
    """A study of `imp`: each seed's score by kind, way of rewinding and sparsity; the first way's tickets."""
    found = []
    for (kind, rewind, sparsity), of_seeds in scores.items():
        for seed, score in enumerate(of_seeds):
            labels, path = {"kind": kind, "sparsity": sparsity, "rewind": rewind, "seed": seed}, None
            ticket = (tickets or {}).get((sparsity, seed))
            if kind == "imp" and not rewind and ticket is not None:
                path = folder / "trials" / f"{sparsity}-{seed}" / "mask.safetensors"
                write_atomically(path, ticket.to_bytes())
            found.append(run(labels, task, score, path))
    shown = {"study": "imp", "task": task, "rewind": ("0",), "fraction": 1.0, "address": None} | settings
    return Runs((task_info(task),), folder, shown, found, all(one.finished for one in found))


def transfer_runs(
    scores: Mapping[tuple[str, str], Sequence[float | None]], targets: Sequence[str], folder: Path = Path("x")
) -> Runs:
    """A study of `transfer`: each seed's score by source (or dense) and target."""
    found = []
    for (source, target), of_seeds in scores.items():
        for seed, score in enumerate(of_seeds):
            kind = source if source in (DENSE, "one-shot", "random") else "ticket"
            labels = {"kind": kind, "source": source, "sparsity": 0.0 if source == DENSE else 0.7, "task": target}
            found.append(run({**labels, "seed": seed}, target, score))
    infos = tuple(task_info(task, train=1_000 + 1_000 * i) for i, task in enumerate(targets))
    shown = {"study": "transfer", "sparsity": 0.7, "baselines": ("one-shot",)}
    return Runs(infos, folder, shown, found, all(one.finished for one in found))


def random_ticket(seed: int, densities: Sequence[float] = (0.3,), size: int = 8, pooler: bool = True) -> WeightTicket:
    """A ticket of a tiny encoder; densities go round its tensors."""
    rng = np.random.default_rng(seed)
    names = [f"encoder.layer.{layer}.{matrix}.weight" for layer in range(2) for matrix in MATRICES]
    names += ["pooler.dense.weight"] if pooler else []
    return WeightTicket(
        {name: rng.random((size, size)) < densities[i % len(densities)] for i, name in enumerate(names)}
    )
