"""The cost of a training step with a ticket of weights, compared with a dense one; and the memory that pruning takes.

Steps of a dense encoder, of one whose pruned weights are kept at zero, and of one pruned by torch.nn.utils.prune (as in
the released code) take turns in one run, so that other load slows all of them equally. Default encoder, one thread.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import prune

import supertickets
from supertickets.lab.latency import take_turns
from supertickets.lab.outcome import MASK, WEIGHTS
from supertickets.lab.peak import _resident
from supertickets.models import ModelSource, find_model
from supertickets.surgery.masks import zero
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe

CPU = torch.device("cpu")


def trainer_of(source: ModelSource, recipe: Recipe, ticket: WeightTicket | None, hooks: bool = False) -> Trainer:
    """Return a trainer of the default encoder, with a ticket of weights or none; `hooks` prunes as torch does."""
    task = load_task(TaskSource.model_validate({"task": "entailment"}))
    model = source.build(task.outputs, 0.1, 0)
    if ticket is not None and hooks:
        for name, mask in ticket.masks.items():
            module = model.base_model.get_submodule(name.removesuffix(".weight"))
            prune.custom_from_mask(module, "weight", torch.tensor(mask, dtype=torch.float32))
    elif ticket is not None:
        zero(model, ticket)
    shape = source.base.shape
    learner = Learner(encode(task, source.tokenizer, recipe.max_length), model, Ticket.full(shape.layers, shape.heads))
    return Trainer([learner], Plan(recipe, weight_ticket=None if hooks else ticket), CPU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--memory", action="store_true", help="also run rounds of pruning and watch memory and disk")
    parser.add_argument("--smallest", action="store_true", help="one step of few examples, and one round of pruning")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.batch_size = 1, 4
    torch.set_num_threads(1)
    source = ModelSource(find_model("default"))
    recipe = Recipe(
        epochs=1, batch_size=options.batch_size, max_length=32, precision=options.precision, optimizer="adamw"
    )
    # With its untrained pooler pruned, next to no gradient would reach the encoder, and optimisers are slow on numbers
    # that are next to nothing.
    ticket = prune_by_magnitude(source.encoder_weights(Pruning.model_validate({"pooler": False})), options.sparsity)
    trainers = {
        "dense": trainer_of(source, recipe, None),
        "kept at zero": trainer_of(source, recipe, ticket),
        "torch.nn.utils.prune": trainer_of(source, recipe, ticket, hooks=True),
    }
    rows = trainers["dense"]._orders[0][0][1]
    steps: dict[str, Callable[[], object]] = {
        name: partial(trainer._step, 0, rows) for name, trainer in trainers.items()
    }
    seconds = take_turns(steps, options.rounds)
    print(f"a step at {options.sparsity:.0%} sparsity, as a share of a dense step (medians of paired steps)")
    for name, taken in seconds.items():
        print(f"{name:22} {np.median(taken / seconds['dense']):.3f}   {np.median(taken):.3f} s")
    if options.memory:
        for last in (0.1,) if options.smallest else (0.1, 0.5, 0.9):
            watch_rounds(last, 0.01 if options.smallest else 0.1)


def watch_rounds(last: float, fraction: float) -> None:
    """Print the most memory that a study takes with rounds up to a sparsity, in a process of its own, and its disk."""
    process = multiprocessing.get_context("spawn").Process(target=run_rounds, args=(last, fraction))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def run_rounds(last: float, fraction: float) -> None:
    """Prune up to a sparsity without rewinding, so that each round starts from the last one's weights."""
    with tempfile.TemporaryDirectory() as folder:
        supertickets.imp(
            task="entailment",
            fraction=fraction,
            sparsities=(f"0.1..{last}",),
            seeds=1,
            epochs=1,
            controls=(),
            rewind=("none",),
            workers=1,
            out=Path(folder) / "study",
        )
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        masks = {path.stat().st_size for path in files if path.name == MASK}
        weights = sum(path.name == WEIGHTS for path in files)
        disk = sum(path.stat().st_size for path in files) / 2**20
        peak = _resident("VmHWM")  # of this process alone: getrusage's has that of the one that started it in it
        memory = "unknown" if peak is None else f"{peak / 2**20:.0f}"
        print(
            f"{round(10 * last)} rounds: {memory} MiB of memory at most, {disk:.1f} MiB on disk, "
            f"masks of {masks} bytes, {weights} files of weights"
        )


if __name__ == "__main__":
    main()
