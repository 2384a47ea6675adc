"""The cost of a training step when tasks share an encoder: a task's step should cost as much as its ticket.

Steps of a dense encoder, of a task with a ticket in a shared encoder, and of the same ticket as masks (gates on the
whole encoder) take turns in one run, so that other load slows all of them equally. Default encoder, one thread.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from figures import random_ticket

from supertickets.anatomy.cost import forward_flops
from supertickets.lab.latency import take_turns
from supertickets.models import ModelSource, find_model
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import ticket_gated
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe

CPU = torch.device("cpu")


def trainer_of(source: ModelSource, tickets: list[Ticket], recipe: Recipe, union: Ticket) -> Trainer:
    """Return a trainer whose learners have these tickets of one encoder."""
    task = load_task(TaskSource.model_validate({"task": "entailment"}))
    data = encode(task, source.tokenizer, recipe.max_length)
    models = [source.build(task.outputs, 0.1, 0) for _ in tickets]
    cut(models[0], union)
    for model in models[1:]:
        setattr(model, model.base_model_prefix, models[0].base_model)
    learners = [Learner(data, model, ticket) for model, ticket in zip(models, tickets, strict=True)]
    return Trainer(learners, Plan(recipe), CPU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--levels", default="0.1,0.3,0.5,0.8")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--smallest", action="store_true", help="one step of few examples at one level")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.levels, options.batch_size = 1, "0.5", 4
    torch.set_num_threads(1)
    base = find_model("default")
    source, shape = ModelSource(base), base.shape
    full = Ticket.full(*shape.of_tickets)
    recipe = Recipe(epochs=1, batch_size=options.batch_size, max_length=32, precision=options.precision)
    dense = trainer_of(source, [full], recipe, full)
    rows = dense._orders[0][0][1]
    print("level  FLOPs   in a shared encoder  by masks  (share of a dense step, medians of paired steps)")
    for level in map(float, options.levels.split(",")):
        ticket, other = (random_ticket(shape, level, seed) for seed in (0, 1))
        shared = trainer_of(source, [ticket, other, full], recipe, full)
        masked = trainer_of(source, [full], recipe, full)

        def by_masks(trainer: Trainer = masked, ticket: Ticket = ticket) -> None:
            with ticket_gated(trainer.learners[0].model, ticket):
                trainer._step(0, rows)

        steps: dict[str, Callable[[], object]] = {
            "dense": lambda: dense._step(0, rows),
            "shared": lambda trainer=shared: trainer._step(0, rows),
            "masks": by_masks,
        }
        seconds = take_turns(steps, options.rounds)
        ratio = {name: np.median(seconds[name] / seconds["dense"]) for name in ("shared", "masks")}
        flops = forward_flops(shape, ticket, 32, 24) / forward_flops(shape, full, 32, 24)
        print(f"{level:5.2f}  {flops:5.2f}  {ratio['shared']:19.2f}  {ratio['masks']:8.2f}")


if __name__ == "__main__":
    main()
