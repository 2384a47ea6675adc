"""A task of random words, and trials on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from supertickets.lab import Trial
from supertickets.lab.steps import Step
from supertickets.lab.trial import TaskTicket
from supertickets.models import find_model
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.recipe import Recipe


def write_words(
    path: Path,
    examples: int,
    seed: int,
    label: Callable[[list[int]], object] = lambda w: int(2 * sum(i < 12 for i in w) > len(w)),
) -> Path:
    """Write a JSONL file of texts of words w0...; by default the majority of low words decides the class."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(examples):
        n = int(torch.randint(3, 9, (1,), generator=generator))
        words = torch.randint(0, 24, (n,), generator=generator).tolist()
        rows.append({"text": " ".join(f"w{word}" for word in words), "label": label(words)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_trial(model: Path, words: dict[str, Path], seed: int = 0, **recipe: Any) -> Trial:
    source = TaskSource(task="words", **words)
    base = find_model(str(model))
    settings = {"epochs": 1, "batch_size": 8, "max_length": 16, **recipe}
    return Trial(
        model=str(model),
        weight_hash=base.weight_hash,
        tasks=(TaskTicket(source=source, data_hash=load_task(source).fingerprint(), ticket=Ticket.full(3, 4)),),
        recipe=Recipe(**settings),
        seed=seed,
    )


def step_of(trial: Trial, **more: Any) -> Step:
    """Return a step that is a trial, whatever came before it."""
    return Step({"kind": "x", "seed": trial.seed}, lambda done: trial, **more)
