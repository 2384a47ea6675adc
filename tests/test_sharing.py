"""One encoder, a ticket for each task: what acts, what learns, what it costs."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel

from helpers.models import HEADS, LAYERS, linears, without_dropout
from supertickets.models import ModelSource, find_model
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.surgery.gate import ticket_gated
from supertickets.surgery.sharing import SharedStructures
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training.batches import batches_by_task
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Plan, Trainer
from supertickets.training.objectives import encode, example_losses
from supertickets.training.optimisers import build_optimizer, build_schedule
from supertickets.training.recipe import Recipe, Sharing

CPU = torch.device("cpu")
FULL = Ticket.full(LAYERS, HEADS)
# Layer 0: head 3 is nobody's, head 0 is A's, head 1 is B's. Layer 1 is whole for both. Layer 2: no FFN for B; layer 0:
# no FFN for anybody.
A = Ticket.from_pruned(LAYERS, HEADS, [(0, 3), (0, 1), (2, 0), (2, 1)], [0])
B = Ticket.from_pruned(LAYERS, HEADS, [(0, 3), (0, 0), (2, 2)], [0, 2])
RECIPE = Recipe(
    epochs=2, batch_size=8, learning_rate=1e-2, max_length=16, patience=None, dropout=0.0, keep_epoch="last",
    optimizer="released",
)  # fmt: skip


@pytest.fixture
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(find_model(str(tiny_model)))


@pytest.fixture
def tasks(words: dict[str, Path]) -> list[Task]:
    first = load_task(TaskSource(task="words", **words))
    targets = np.array([len(text.split()) % 3 for text in first.train.text])
    dev = np.array([len(text.split()) % 3 for text in first.dev.text])
    second = replace(
        first,
        name="lengths",
        labels=("0", "1", "2"),
        train=replace(first.train, targets=targets, text=list(reversed(first.train.text))),
        dev=replace(first.dev, targets=dev),
    )
    return [
        first,
        replace(second, train=replace(second.train, text=second.train.text[:24], targets=targets[::-1][:24])),
    ]


def built(source: ModelSource, tasks: Sequence[Task], union: Ticket) -> list[PreTrainedModel]:
    """Stock models on one encoder, cut to the union, in float64."""
    models = [source.build(task.outputs, 0.0, 0).double() for task in tasks]
    cut(models[0], union)
    for model in models[1:]:
        setattr(model, model.base_model_prefix, models[0].base_model)
    return models


def make_trainer(
    source: ModelSource,
    tasks: Sequence[Task],
    tickets: Sequence[Ticket] = (A, B),
    updates: str = "strict",
    recipe: Recipe = RECIPE,
    union: Ticket | None = None,
) -> tuple[Trainer, list[PreTrainedModel]]:
    models = built(source, tasks, union or tickets[0] | tickets[1])
    encoded = [encode(task, source.tokenizer, recipe.max_length) for task in tasks]
    learners = [Learner(*parts) for parts in zip(encoded, models, tickets, strict=True)]
    sharing = Sharing(sampling="proportional", updates=updates)
    return Trainer(learners, Plan(recipe, sharing=sharing), CPU), models


# --- what acts --------------------------------------------------------------------------------------------------------


def logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_an_active_ticket_acts_as_if_it_were_cut_out(
    loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]
) -> None:
    wanted = [logits(cut(copy.deepcopy(loud_model), ticket), inputs) for ticket in (A, B)]
    whole = logits(cut(copy.deepcopy(loud_model), A | B), inputs)
    model = cut(loud_model, A | B)
    shared = SharedStructures(model, [A, B, A])
    for _ in range(2):  # there and back again
        for ticket, expected in zip((A, B), wanted, strict=True):
            shared.activate(ticket)
            assert torch.allclose(logits(model, inputs), expected, rtol=0, atol=1e-12)
    assert (wanted[0] - wanted[1]).abs().max() > 0.1  # the control: one ticket's outputs are not the other's
    with pytest.raises(ValueError, match="not in list"):
        shared.activate(A & B)
    shared.merge()
    assert torch.allclose(logits(model, inputs), whole, rtol=0, atol=1e-12)
    assert not any(is_parametrized(module) for module in model.modules())


def test_merged_weights_are_the_cut_models(loud_model: PreTrainedModel) -> None:
    expected = cut(copy.deepcopy(loud_model), A | B).state_dict()
    model = cut(loud_model, A | B)
    SharedStructures(model, [A, B]).merge()
    found = model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_ticket_may_have_no_head_in_a_layer(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    none = Ticket.from_pruned(LAYERS, HEADS, [(1, head) for head in range(HEADS)])
    expected = logits(cut(copy.deepcopy(loud_model), none), inputs)
    shared = SharedStructures(loud_model, [FULL, none])
    shared.activate(none)
    assert torch.allclose(logits(loud_model, inputs), expected, rtol=0, atol=1e-12)


def test_equal_tickets_leave_the_model_as_it_is(loud_model: PreTrainedModel) -> None:
    model = cut(loud_model, A)
    before = dict(model.named_parameters())
    shared = SharedStructures(model, [A, A])
    assert dict(model.named_parameters()).keys() == before.keys()
    assert not shared.outside(A)


def test_a_cut_models_weights_find_their_places_in_the_dense_one(
    loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]
) -> None:
    trained = copy.deepcopy(loud_model)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(0.9)
    small = cut(copy.deepcopy(trained), A)
    dense = copy.deepcopy(loud_model)
    expand(dense, A, small.state_dict())
    assert torch.equal(logits(cut(copy.deepcopy(dense), A), inputs), logits(small, inputs))
    narrower = A & B
    expected = cut(copy.deepcopy(trained), narrower)
    assert torch.equal(logits(cut(copy.deepcopy(dense), narrower), inputs), logits(expected, inputs))
    part = ~A  # what the ticket lacks stays as it was
    kept = cut(copy.deepcopy(dense), part), cut(copy.deepcopy(loud_model), part)
    assert torch.equal(linears(kept[0])[0]["query"].weight, linears(kept[1])[0]["query"].weight)
    assert not torch.equal(logits(dense, inputs), logits(loud_model, inputs))
    with pytest.raises(RuntimeError):
        expand(dense, B, small.state_dict())


# --- what learns ------------------------------------------------------------------------------------------------------


def state(trainer: Trainer, parameters: Sequence[nn.Parameter]) -> list[dict[str, torch.Tensor]]:
    """Weights and optimiser state, copied."""
    return [
        {"weight": p.detach().clone()}
        | {name: value.clone() for name, value in trainer._optimizer.state.get(p, {}).items()}
        for p in parameters
    ]


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def outside(trainer: Trainer, models: Sequence[PreTrainedModel], which: int) -> list[nn.Parameter]:
    """What a step of a task must not touch: structures outside its ticket, the other task's output layer."""
    other = [
        p for name, p in models[1 - which].named_parameters() if not name.startswith(models[0].base_model_prefix + ".")
    ]
    return trainer._structures.outside((A, B)[which]) + other


@pytest.mark.parametrize("optimizer", ["adamax", "adamw", "released"])
@pytest.mark.parametrize("updates", ["strict", "leaky"])
def test_a_step_touches_nothing_outside_its_ticket(
    source: ModelSource, tasks: list[Task], optimizer: str, updates: str
) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    trainer, models = make_trainer(source, tasks, updates=updates, recipe=recipe)
    untouched = []
    for step, (which, rows) in enumerate(trainer._orders[0] + trainer._orders[1]):
        theirs = outside(trainer, models, which)
        mine = [p for p in trainer._parameters if not any(p is other for other in theirs)]
        before, own = state(trainer, theirs), state(trainer, mine)
        trainer._step(which, rows)
        if step > 4:  # by then both tasks have had a step, and the learning rate is not zero any more
            untouched.append(same(before, state(trainer, theirs)))
            assert not same(own, state(trainer, mine))
    assert {which for which, _ in trainer._orders[0]} == {0, 1}
    assert all(untouched) if updates == "strict" else not any(untouched)


def test_outside_is_what_the_ticket_lacks(source: ModelSource, tasks: list[Task]) -> None:
    trainer, models = make_trainer(source, tasks)
    size, hidden, ffn = 8, 32, 48
    head = 4 * size * hidden + 3 * size
    for ticket in (A, B):
        missing = (A | B) - ticket
        expected = missing.kept_heads * head + missing.kept_ffns * (2 * hidden * ffn + hidden + ffn)
        assert sum(p.numel() for p in trainer._structures.outside(ticket)) == expected > 0
    dense, small = source.build(2, 0.0, 0), built(source, tasks[:1], A | B)[0]
    gone = ~(A | B)
    assert (gone.kept_heads, gone.kept_ffns) == (1, 1)
    assert dense.num_parameters() - small.num_parameters() == head + 2 * hidden * ffn + hidden + ffn
    assert trainer.result.cost.parameters == small.num_parameters() + sum(
        p.numel() for name, p in models[1].named_parameters() if name.startswith("classifier")
    )


def naive_sharing(source: ModelSource, tasks: list[Task], trainer: Trainer) -> list[PreTrainedModel]:
    """Algorithm 1 on the whole dense model: gates, then everything outside the ticket is put back after each step."""
    models = built(source, tasks, FULL)
    encoded = [encode(task, source.tokenizer, RECIPE.max_length) for task in tasks]
    unique = list({id(p): p for model in models for p in model.parameters()}.values())
    optimizer = build_optimizer(unique, RECIPE)
    schedule = build_schedule(optimizer, RECIPE, trainer.total)
    for which, rows in trainer._orders[0] + trainer._orders[1]:
        model, ticket = models[which].train(), (A, B)[which]
        inputs, targets = encoded[which].train.collate(rows, CPU)
        with ticket_gated(model, ticket):
            example_losses(model(**inputs).logits, targets, False).mean().backward()
        torch.nn.utils.clip_grad_norm_(unique, RECIPE.max_grad_norm)
        before = {
            p: (p.detach().clone(), {k: v.clone() for k, v in optimizer.state.get(p, {}).items()}) for p in unique
        }
        masks = dict.fromkeys(unique, None)
        for layer, block in enumerate(linears(model)):
            units = torch.from_numpy(np.repeat(ticket.heads[layer], 8))
            for role in ("query", "key", "value"):
                for p in block[role].parameters():
                    masks[p] = units.reshape(-1, *[1] * (p.ndim - 1)).expand_as(p)  # type: ignore[assignment]
            masks[block["attention_output"].weight] = units.expand(32, -1)  # type: ignore[assignment,index]
            for role in ("ffn_in", "ffn_out"):
                for p in block[role].parameters():
                    masks[p] = torch.full(p.shape, bool(ticket.ffns[layer]))  # type: ignore[assignment]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        with torch.no_grad():
            for p, mask in masks.items():
                if mask is None:
                    continue
                p.copy_(torch.where(mask, p, before[p][0]))
                for name, value in optimizer.state[p].items():
                    value.copy_(torch.where(mask, value, before[p][1].get(name, torch.zeros_like(value))))
    return models


def test_sharing_equals_masks_and_putting_back(source: ModelSource, tasks: list[Task]) -> None:
    without_dropout(source)
    trainer, models = make_trainer(source, tasks)
    trainer.train()
    trainer.restore()
    expected = naive_sharing(source, tasks, trainer)
    wanted = cut(copy.deepcopy(expected[0]), A | B).state_dict()
    for name, value in models[0].state_dict().items():
        if "word_embeddings" not in name:  # unused rows: see test_training
            assert torch.allclose(value, wanted[name], rtol=1e-9, atol=1e-11), name
    assert torch.allclose(models[1].classifier.weight, expected[1].classifier.weight, rtol=1e-9, atol=1e-11)
    leaky, leaking = make_trainer(source, tasks, updates="leaky")
    leaky.train()
    leaky.restore()
    differ = (leaking[0].state_dict()[name] - value for name, value in wanted.items() if "query.weight" in name)
    assert max(float(d.abs().max()) for d in differ) > 1e-6


def test_a_stopped_sharing_goes_on_bit_identical(source: ModelSource, tasks: list[Task], tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    begun: list[object] = []

    def attempt(stop: int | None) -> list[PreTrainedModel]:
        before = len(begun)
        models = built(source, tasks, A | B)
        encoded = [encode(task, source.tokenizer, 16) for task in tasks]
        learners = [Learner(*parts) for parts in zip(encoded, models, (A, B), strict=True)]
        recipe = RECIPE.model_copy(update={"optimizer": "adamax", "dropout": 0.1, "keep_epoch": "best"})

        def report(event: dict[str, object]) -> None:
            if len(begun) == before:
                begun.append(event["step"])
            if event["step"] == stop:
                raise StoppedError

        checkpoints = Checkpoints(tmp_path / f"{stop is not None}", "this", 0.0)
        trainer = Trainer(learners, Plan(recipe), CPU, checkpoints)
        trainer.train(report)
        trainer.restore()
        return models

    expected = attempt(None)
    (tmp_path / "False").unlink()
    for stop in (5, 14):
        with pytest.raises(StoppedError):
            attempt(stop)
    (tmp_path / "True").rename(tmp_path / "False")
    found = attempt(None)
    assert begun == [1, 1, 5, 14]  # the step that was stopped is done again, no other before it
    for one, other in zip(expected, found, strict=True):
        for name, value in other.state_dict().items():
            assert torch.equal(value, one.state_dict()[name]), name


def test_training_costs_what_the_tickets_cost(source: ModelSource, tasks: list[Task]) -> None:
    def cost(which: Sequence[int], tickets: Sequence[Ticket]) -> int:
        encoded = [encode(tasks[i], source.tokenizer, 16) for i in which]
        union = tickets[0] | tickets[-1]
        models = built(source, [tasks[i] for i in which], union)
        learners = [Learner(*parts) for parts in zip(encoded, models, tickets, strict=True)]
        return Trainer(learners, Plan(RECIPE), CPU).train().cost.flops

    together = cost((0, 1), (A, B))
    assert together == cost((0,), (A,)) + cost((1,), (B,))
    assert together < cost((0, 1), (FULL, FULL))


# --- how often a task comes -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 500), min_size=1, max_size=9), st.integers(1, 9), st.data())
def test_batches_by_task(sizes: list[int], epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, epochs - 1))
    counts = {name: batches_by_task(sizes, name, epoch, epochs) for name in ("proportional", "annealed", "uniform")}
    assert all(sum(found) == sum(sizes) for found in counts.values())
    assert counts["proportional"] == sizes
    assert max(counts["uniform"]) - min(counts["uniform"]) <= 1
    if epoch == 0:
        assert counts["annealed"] == sizes
    order = np.argsort(sizes, kind="stable")
    for found in counts.values():
        assert all(found[a] <= found[b] + 1 for a, b in pairwise(order))


def test_each_task_sees_the_batches_it_would_see_alone(source: ModelSource, tasks: list[Task]) -> None:
    together, _ = make_trainer(source, tasks)
    for task in (0, 1):
        alone = Trainer(
            [Learner(encode(tasks[task], source.tokenizer, 16), built(source, tasks[task : task + 1], A)[0], A)],
            Plan(RECIPE), CPU,
        )  # fmt: skip
        for epoch in range(RECIPE.epochs):
            found = [rows.tolist() for which, rows in together._orders[epoch] if which == task]
            assert found == [rows.tolist() for _, rows in alone._orders[epoch]]


def test_annealed_counts_by_hand() -> None:
    # alpha 0.2 in the last epoch: 100 ** 0.2 = 2.512, 1 ** 0.2 = 1; 101 batches in all
    assert batches_by_task([100, 1], "annealed", 4, 5) == [72, 29]


@pytest.mark.parametrize("order", ["bucketed", "released"])
def test_every_example_comes_whatever_the_sampling(source: ModelSource, tasks: list[Task], order: str) -> None:
    models = built(source, tasks, FULL)
    encoded = [encode(task, source.tokenizer, 16) for task in tasks]
    learners = [Learner(*parts) for parts in zip(encoded, models, (FULL, FULL), strict=True)]
    recipe = RECIPE.model_copy(update={"order": order, "epochs": 3})
    trainer = Trainer(learners, Plan(recipe, sharing=Sharing(sampling="uniform", updates="strict")), CPU)
    seen = {row for epoch in trainer._orders for which, rows in epoch if which == 0 for row in rows.tolist()}
    assert seen == set(range(64))


@pytest.mark.parametrize("sampling", ["annealed", "uniform"])
def test_a_small_task_begins_again_in_another_order(source: ModelSource, tasks: list[Task], sampling: str) -> None:
    models = built(source, tasks, FULL)
    encoded = [encode(task, source.tokenizer, 16) for task in tasks]
    learners = [Learner(*parts) for parts in zip(encoded, models, (FULL, FULL), strict=True)]
    trainer = Trainer(learners, Plan(RECIPE, sharing=Sharing(sampling=sampling, updates="strict")), CPU)
    all_of_it = [rows.tolist() for epoch in trainer._orders for which, rows in epoch if which == 1]
    assert len(all_of_it) > 2 * 3  # the small task has three batches, and two epochs
    rounds = [all_of_it[start : start + 3] for start in range(0, len(all_of_it) - 2, 3)]
    assert all(sorted(row for batch in found for row in batch) == list(range(24)) for found in rounds)
    assert rounds[0] != rounds[1]
    assert [which for which, _ in trainer._orders[0]] != [which for which, _ in trainer._orders[1]]
