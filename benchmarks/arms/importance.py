"""Importance of heads and FFNs from up to 640 training examples, default encoder.

RTE's first 640 pairs (without its files: all 480 of the built-in entailment task), one thread. Ours: the exact
importance that `find` measures, batches of like length, only what importance needs derived; a part of its time in
bfloat16 is the backward pass of torch's attention, which `--score-attention plain` does without. "As TextPruner does":
stock transformers, a backward pass for all weights in float32, texts padded to 128 tokens, then weight times gradient.
"Torch-Pruning": its dependency graph and Taylor importance of all groups, after a backward pass over batches that are
padded to their longest text.
"""

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from figures import ENCODER, Figure, of_pairs, rte_or_built_in
from transformers import AutoModelForSequenceClassification

from supertickets.lab.latency import take_turns
from supertickets.models import ModelSource, find_model
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.batches import Encoded, EncodedTask, in_file_order
from supertickets.training.devices import choose_precision, undisturbed
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe
from supertickets.training.scoring import score_now

CPU, BATCH, LENGTH = torch.device("cpu"), 32, 128
PLAIN = ScoringSettings(score_attention="plain")


def backward(model: Any, split: Encoded, count: int, width: int | None) -> None:
    """A backward pass over the examples for all weights, padded to `width` or to each batch's longest text."""
    model.zero_grad(set_to_none=True)
    for rows in in_file_order(split.lengths[:count], BATCH):
        inputs, targets = split.collate(rows, CPU)
        if width is not None:
            short = width - inputs["input_ids"].shape[1]
            inputs = {name: torch.nn.functional.pad(value, (0, short)) for name, value in inputs.items()}
        model(**inputs, labels=targets).loss.backward()


def as_textpruner(model: Any, split: Encoded, count: int, length: int) -> Callable[[], object]:
    """Weight times gradient, summed by head and by FFN (TextPruner's importance of a head and of a neuron)."""

    def run() -> list[float]:
        backward(model, split, count, length)
        found = []
        for layer in model.base_model.encoder.layer:
            for weight in (layer.attention.output.dense.weight, layer.output.dense.weight):
                found += (weight * weight.grad).sum(0).abs().tolist()
        return found

    return run


def by_torch_pruning(model: Any, split: Encoded, count: int) -> Callable[[], object] | None:
    """Taylor importance of every group of its dependency graph; None without the package."""
    if find_spec("torch_pruning") is None:
        return None
    import torch_pruning as tp

    shown, _ = split.collate([0], CPU)

    def run() -> list[torch.Tensor]:
        backward(model, split, count, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model, example_inputs=shown)
            measure = tp.importance.TaylorImportance()
            found = [measure(group) for group in graph.get_all_groups(root_module_types=[torch.nn.Linear])]
        return [one for one in found if one is not None]

    return run


def figures(smallest: bool) -> Iterator[Figure]:
    count, rounds = (8, 1) if smallest else (640, 3)
    source = ModelSource(find_model(ENCODER))
    task = load_task(TaskSource.model_validate(rte_or_built_in()))
    full, length = Ticket.full(*source.base.shape.of_tickets), min(LENGTH, source.base.max_length)
    data = encode(task, source.tokenizer, length)
    split = data.train
    few = Encoded(split.ids[:count], split.segments and split.segments[:count], split.targets[:count], split.pad_id)
    data = EncodedTask(task, few, data.evaluations)
    recipe = Recipe(epochs=1, batch_size=BATCH, precision=choose_precision("auto", CPU), threads=1)
    model = source.build(task.outputs, 0.0, 0)
    trainer = Trainer([Learner(data, model, full)], Plan(recipe), CPU)
    stock = AutoModelForSequenceClassification.from_pretrained(
        source.base.folder, num_labels=task.outputs, dtype=torch.float32, local_files_only=True
    ).eval()
    arms: dict[str, Callable[[], object]] = {
        "ours": lambda: score_now(trainer, ScoringSettings(), lambda: model),
        "ours, --score-attention plain": lambda: score_now(trainer, PLAIN, lambda: model),
        "as TextPruner does": as_textpruner(stock, few, count, length),
    }
    if (theirs := by_torch_pruning(stock, few, count)) is not None:
        arms["Torch-Pruning"] = theirs
    with undisturbed(1):
        seconds = take_turns(arms, rounds)
    for name, taken in seconds.items():
        yield of_pairs(f"{name}, {recipe.precision if name.startswith('ours') else 'float32'}", taken, "s")
    ours, plain, *others = seconds
    for name in others:
        yield of_pairs(f"ours beside {name}", seconds[ours] / seconds[name], "x", at_most=1.0)
        yield of_pairs(f"{plain}, beside {name}", seconds[plain] / seconds[name], "x", at_most=1.0)
