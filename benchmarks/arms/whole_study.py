"""A whole study, beside masks as the released code trains them.

8 levels of winning, random and losing tickets and the dense model, one seed, up to 1,000 examples of RTE (without its
files: of the built-in entailment task, which has fewer), 2 epochs. Each takes minutes and is measured once, one after
the other: not in turns. Ours: `find --workers auto`. Masks: what the released code does, written anew on stock
transformers: heads are multiplied by 0 and go on being computed, FFNs are skipped, one training after the other with
all threads; batches, optimiser, precision and evaluations are ours. In float32 and without dropout both come to the
same losses at every step. Then `find --search`, which trains a part of the winning tickets, beside `find` with all of
them, without random and losing ones.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import ENCODER, Figure, random_ticket, rte_or_built_in, timed
from torch import Tensor, nn

from supertickets import find
from supertickets.models import ModelSource, find_model
from supertickets.studies.config import fill
from supertickets.studies.find import FindSettings
from supertickets.surgery.cut import cut
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.batches import EncodedTask, in_length_order
from supertickets.training.devices import arithmetic, choose_precision, undisturbed
from supertickets.training.learner import Learner
from supertickets.training.loop import Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.optimisers import build_optimizer, build_schedule
from supertickets.training.orders import all_batches
from supertickets.training.recipe import Recipe, Sharing

CPU = torch.device("cpu")
EXAMPLES = 1000
KINDS = ("winning", "random", "losing")
LEVELS = tuple(level / 10 for level in range(1, 9))


def asked(examples: int, real: bool) -> dict[str, Any]:
    """The task, and how it is trained."""
    where = rte_or_built_in() if real else {"task": "entailment"}
    whole = len(load_task(TaskSource.model_validate(where)).train)
    return {**where, "model": ENCODER, "fraction": min(1.0, examples / whole), "epochs": 2, "patience": None}


@contextmanager
def masked(model: Any, ticket: Ticket) -> Iterator[None]:
    """Within the context a stock BERT is masked (modeling_bert_masked.py, 104 and 132).

    Heads' contexts are multiplied by 0, FFNs are skipped.
    """

    def of_heads(kept: Tensor, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        heads = args[0].unflatten(-1, (len(kept), -1)) * kept[:, None].to(args[0])
        return (heads.flatten(-2),)

    def skipped(module: Any, attention: Tensor) -> Tensor:
        return module.output.LayerNorm(attention)

    with ExitStack() as hooks:
        for layer, kept, has_ffn in zip(model.bert.encoder.layer, ticket.heads, ticket.ffns, strict=True):
            gate = partial(of_heads, torch.tensor(kept))
            hooks.enter_context(layer.attention.output.dense.register_forward_pre_hook(gate))
            if not has_ffn:
                layer.feed_forward_chunk = partial(skipped, layer)
        yield


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def by_masks(model: Any, data: EncodedTask, recipe: Recipe, ticket: Ticket) -> list[float]:
    """Train a ticket as masks on the whole encoder; return the loss of each step."""
    losses = []
    orders = all_batches([data.train.lengths], recipe, Sharing(), 0)
    optimizer = build_optimizer(model.parameters(), recipe)
    schedule = build_schedule(optimizer, recipe, sum(map(len, orders)))
    with masked(model, ticket):
        for order in orders:
            model.train()
            for _, rows in order:
                inputs, targets = data.train.collate(rows, CPU)
                with arithmetic(recipe.precision, CPU):
                    loss = model(**inputs, labels=targets).loss
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                losses.append(loss.item())
            model.eval()
            dev = data.evaluations["dev"]
            with torch.inference_mode(), arithmetic(recipe.precision, CPU):
                for rows in in_length_order(dev.lengths, 2 * recipe.batch_size):
                    model(**dev.collate(rows, CPU)[0])
    return losses


def difference(source: ModelSource, data: EncodedTask, recipe: Recipe, ticket: Ticket) -> float:
    """The largest difference of the losses of a cut and of a masked training, without dropout, in float32."""
    plain = recipe.model_copy(update={"dropout": 0.0, "precision": "float32", "epochs": 1})
    models = [without_dropout(source.build(data.task.outputs, 0.0, 0)) for _ in range(2)]
    trainer = Trainer([Learner(data, cut(models[0], ticket), ticket)], Plan(plain), CPU)
    ours = [trainer._step(*batch).item() for batch in trainer._orders[0]]
    return float(np.abs(np.array(ours) - by_masks(models[1], data, plain, ticket)).max())


def figures(smallest: bool) -> Iterator[Figure]:
    study = asked(32 if smallest else EXAMPLES, not smallest)
    levels, budget = ((0.3, 0.5), "0.9") if smallest else (LEVELS, "0.25")
    source = ModelSource(find_model(ENCODER))
    recipe = fill(FindSettings, study | {"precision": choose_precision("auto", CPU)}, source.base.shape).recipe
    task = load_task(TaskSource.model_validate({name: study[name] for name in study.keys() & TaskSource.model_fields}))
    data, shape = encode(task, source.tokenizer, recipe.max_length), source.base.shape
    full, tickets = Ticket.full(*shape.of_tickets), {level: random_ticket(shape, level) for level in levels}
    with tempfile.TemporaryDirectory() as folder:

        def ours(name: str, **how: Any) -> float:
            how |= {"workers": 1} if smallest else {}
            return timed(lambda: find(**study, **how, levels=levels, seeds=1, keep="none", out=Path(folder) / name))

        whole = ours("whole")
        masks = 0.0
        with undisturbed():
            for ticket in (full, *(ticket for ticket in tickets.values() for _ in KINDS)):
                masks += timed(lambda ticket=ticket: by_masks(source.build(task.outputs, 0.1, 0), data, recipe, ticket))
        winning = ours("winning", kinds=("winning",))
        found = ours("search", kinds=("winning",), search="halving", budget=budget)
    trainings = 1 + len(KINDS) * len(levels)
    yield Figure(f"find: {trainings} trainings, importance, page, ticket", whole / 60, "minutes")
    yield Figure(f"as masks: {trainings} trainings, one after the other", masks / 60, "minutes")
    yield Figure("find beside masks", whole / masks, "x", at_most=1.0)
    yield Figure("largest difference of their losses, float32", difference(source, data, recipe, tickets[0.5]))
    yield Figure("find --kinds winning", winning / 60, "minutes")
    yield Figure("find --kinds winning --search halving", found / 60, "minutes")
    yield Figure("find --search beside find --kinds winning", found / winning, "x", at_most=1.0)
