"""A training step of the default encoder, batches of 32 texts without padding, Adamax, weight decay, dropout.

Beside each is transformers' Trainer with the same optimiser and batches, in the precision that is faster on the
machine. "Share of the peak" is the FLOPs of the matrix products in a step by its time, beside those of a product of
large matrices, which takes turns with the steps. Below, tickets of random heads and FFNs: their step beside the dense
one, and the share of the FLOPs that is left. Last, where the time of a step goes, one thread: what takes long in a
dense step, and what does not shrink with a ticket; profiling slows all of it a little.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from figures import PRODUCT, Figure, of_pairs, product, random_ticket, timed
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile, record_function

from supertickets.anatomy.cost import BACKWARD, forward_flops
from supertickets.lab.latency import take_turns
from supertickets.models import ModelSource, find_model
from supertickets.studies.config import fill
from supertickets.studies.find import FindSettings
from supertickets.surgery.cut import cut
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.batches import Encoded, EncodedTask
from supertickets.training.devices import choose_precision, undisturbed
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.recipe import Recipe

CPU = torch.device("cpu")
BATCH = 32
LEVELS = (0.1, 0.3, 0.5, 0.8)
NAMED = {"dropout masks": "supertickets.training.dropout.keyed_mask", "clipping": "torch.nn.utils.clip_grad_norm_"}
"""Functions whose time is theirs, whatever operations they consist of."""
PARTS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in NAMED},
    "optimiser": ("Optimizer.step",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "casts and copies": ("aten::copy_",),
}
"""Parts of a step, and how names of operations begin that belong to them, or that are around those that do."""


def recipe_for(threads: int) -> Recipe:
    """The recipe that `find` has, in the faster precision, with so many threads."""
    base = find_model("default")
    asked: dict[str, Any] = {"task": "entailment", "epochs": 1, "precision": choose_precision("auto", CPU)}
    found: Recipe = fill(FindSettings, asked, base.shape).recipe
    return found.model_copy(update={"threads": threads})


def texts(length: int, batches: int) -> Encoded:
    """Batches of texts of random tokens."""
    ids = np.random.default_rng(0).integers(1000, 20000, (batches * BATCH, length), dtype=np.int32)
    return Encoded(list(ids), None, np.zeros(len(ids), np.int64), 0)


def ours(source: ModelSource, recipe: Recipe, split: Encoded, ticket: Ticket) -> Trainer:
    """Our training of a ticket on texts."""
    task = load_task(TaskSource.model_validate({"task": "entailment"}))
    model = cut(source.build(task.outputs, recipe.dropout, 0), ticket)
    return Trainer([Learner(EncodedTask(task, split, {"dev": split}), model, ticket)], Plan(recipe), CPU)


def steps_of(trainer: Trainer) -> Callable[[], object]:
    """Its next step, whenever called."""
    batches = iter(trainer._orders[0])
    return lambda: trainer._step(*next(batches))


class TheirTrainer:
    """transformers' Trainer on the same texts: blocks of steps of one model, timed from the end of one to the next."""

    def __init__(self, source: ModelSource, recipe: Recipe, split: Encoded) -> None:
        import transformers

        self.ended: list[float] = []
        ended = self.ended

        class Clock(transformers.TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                ended.append(time.perf_counter())

        self.callback = Clock()
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source.base.folder, num_labels=3, dtype=torch.float32, local_files_only=True
        )
        self.rows = [{"input_ids": ids.tolist(), "labels": 0} for ids in split.ids]
        self.tokenizer, self.recipe = source.tokenizer, recipe

    def seconds(self, steps: int) -> list[float]:
        """The seconds of so many steps."""
        import transformers

        recipe = self.recipe
        # Without weight decay: torch's Adamax only has the coupled kind.
        optimizer = torch.optim.Adamax(self.model.parameters(), lr=recipe.learning_rate, foreach=True)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, steps + 1)
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model=self.model,
                args=transformers.TrainingArguments(
                    output_dir=folder,
                    max_steps=steps + 1,
                    per_device_train_batch_size=BATCH,
                    max_grad_norm=recipe.max_grad_norm,
                    bf16=recipe.precision == "bfloat16",
                    save_strategy="no",
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    use_cpu=True,
                ),
                train_dataset=self.rows,
                data_collator=transformers.DataCollatorWithPadding(self.tokenizer),
                optimizers=(optimizer, schedule),
                callbacks=[self.callback],
            )
            self.ended.clear()
            trainer.train()
        return list(np.diff(self.ended))


def against_trainer(source: ModelSource, threads: int, length: int, rounds: int, each: int) -> Iterator[Figure]:
    """Steps of the dense model, of the Trainer, and products of matrices, in turns."""
    recipe, shape = recipe_for(threads), source.base.shape
    full = Ticket.full(*shape.of_tickets)
    split = texts(length, rounds * each + 2)
    theirs = TheirTrainer(source, recipe, split)
    found: dict[str, list[float]] = {"ours": [], "theirs": [], "product": []}
    with undisturbed(threads):
        step, multiply = steps_of(ours(source, recipe, split, full)), product(recipe.precision)
        step()
        for _ in range(rounds):
            for name, arm in (("ours", step), ("product", multiply)):
                for _ in range(each):
                    started = time.perf_counter()
                    arm()
                    found[name].append(time.perf_counter() - started)
            found["theirs"] += theirs.seconds(each)
    mine, other, peak = (np.array(found[name]) for name in ("ours", "theirs", "product"))
    flops = (1 + BACKWARD) * forward_flops(shape, full, BATCH, length)
    share = (flops / mine) / (2 * PRODUCT**3 / np.median(peak))
    by = f"{threads} thread{'s' if threads > 1 else ''}"
    where = f"{length} tokens, {by}"
    yield of_pairs(f"step, {where}, {recipe.precision}", 1000 * mine, "ms")
    yield of_pairs(f"step of the transformers Trainer, {where}", 1000 * other, "ms")
    yield of_pairs(f"step beside the Trainer's, {where}", mine / other, "x", at_most=1.0)
    yield of_pairs(f"share of the peak, {where}", share, "", at_least=0.55 if length < 32 else 0.65)
    yield of_pairs(f"peak of products, {by}", 2e-9 * PRODUCT**3 / peak, "GFLOPs/s")


def by_level(source: ModelSource, length: int, rounds: int) -> Iterator[Figure]:
    """Steps of tickets at each level in turns with the dense model's."""
    recipe, shape = recipe_for(1), source.base.shape
    full = Ticket.full(*shape.of_tickets)
    tickets = {0.0: full} | {level: random_ticket(shape, level) for level in LEVELS}
    split = texts(length, rounds + 2)
    with undisturbed(1):
        steps = {str(level): steps_of(ours(source, recipe, split, ticket)) for level, ticket in tickets.items()}
        seconds: dict[str, NDArray[np.float64]] = take_turns(steps, rounds)
    for level in LEVELS:
        left = forward_flops(shape, tickets[level], BATCH, length) / forward_flops(shape, full, BATCH, length)
        allowed = left + (0.05 if level <= 0.5 else 0.1)
        name = f"step at level {100 * level:.0f}% beside the dense one, {length} tokens ({left:.2f} of the FLOPs)"
        yield of_pairs(name, seconds[str(level)] / seconds["0.0"], "x", at_most=round(allowed, 2))


def part_of(operation: Any) -> str:
    """The part of a step that an operation belongs to."""
    names, at = [], operation
    while at is not None:
        names.append(at.name)
        at = at.cpu_parent
    found = (part for part, begins in PARTS.items() if any(name.startswith(begins) for name in names))
    return next(found, "other operations")


def where_time_goes(source: ModelSource, length: int, level: float, steps: int) -> Iterator[Figure]:
    """The milliseconds of each part of a step, of the dense model or a random ticket; the rest is Python's."""

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return function(*args, **kwargs)

        return run

    shape, warm = source.base.shape, 2
    ticket = random_ticket(shape, level) if level else Ticket.full(*shape.of_tickets)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(1))
        for name, place in NAMED.items():
            module, _, function = place.rpartition(".")
            now = getattr(import_module(module), function)
            stack.enter_context(patch(place, named(name, now)))
        step = steps_of(ours(source, recipe_for(1), texts(length, steps + warm), ticket))
        for _ in range(warm):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            taken = timed(lambda: [step() for _ in range(steps)])
    spent = Counter[str]()
    for operation in found.events():
        spent[part_of(operation)] += operation.self_cpu_time_total / 1e6
    spent["between operations"] = taken - spent.total()
    what = f"at level {100 * level:.0f}%" if level else "dense"
    for part, seconds in spent.most_common():
        yield Figure(f"{part}, {what}, {length} tokens", 1000 * seconds / steps, "ms")


def figures(smallest: bool) -> Iterator[Figure]:
    source = ModelSource(find_model("default"))
    lengths, threads = ((8,), (1,)) if smallest else ((16, 64), (1, 2))
    for length in lengths:
        for number in threads:
            yield from against_trainer(source, number, length, *((1, 1) if smallest else (5, 6)))
        yield from by_level(source, length, 1 if smallest else 15)
    for length in lengths:
        for level in (0.0, LEVELS[-1]):
            yield from where_time_goes(source, length, level, 1 if smallest else 10)
