import copy
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from transformers import PreTrainedModel

from helpers.models import FAMILIES, HEADS, LAYERS, save_tiny_model, without_dropout
from supertickets.errors import DivergedError
from supertickets.models import ModelSource, find_model
from supertickets.surgery.cut import cut
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training import devices
from supertickets.training.batches import ORDERS, EncodedTask, bucketed
from supertickets.training.checkpoint import load_checkpoint, save_checkpoint
from supertickets.training.devices import choose_precision
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Plan, Trainer
from supertickets.training.objectives import encode, example_losses
from supertickets.training.optimisers import ReleasedAdamax, build_optimizer, build_schedule, released_factor
from supertickets.training.recipe import Recipe, Span
from supertickets.training.scoring import score
from supertickets.training.vocabulary import UsedVocabulary

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=3e-3, max_length=16, patience=None, dropout=0.0)
FULL = Ticket.full(LAYERS, HEADS)


@pytest.fixture
def task(words: dict[str, Path]) -> Task:
    return load_task(TaskSource(task="words", **words))


@pytest.fixture
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(find_model(str(tiny_model)))


def train(
    source: ModelSource, task: Task, recipe: Recipe = RECIPE, seed: int = 0, ticket: Ticket = FULL, double: bool = False
):
    model = cut(source.build(task.outputs, recipe.dropout, seed), ticket)
    trainer = Trainer(
        [Learner(encode(task, source.tokenizer, recipe.max_length), model.double() if double else model, ticket)],
        Plan(recipe, seed),
        CPU,
    )
    return trainer.train(), trainer, model


def naive_training(source: ModelSource, task: Task, recipe: Recipe) -> PreTrainedModel:
    """The recipe written out with torch's own parts, on the whole embedding matrix: what the loop must equal."""
    model = source.build(task.outputs, recipe.dropout, 0).double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = encode(task, source.tokenizer, recipe.max_length).train
    batches = [rows for epoch in range(recipe.epochs) for rows in bucketed(data.lengths, recipe.batch_size, 0, epoch)]
    optimizer = torch.optim.Adamax(model.parameters(), lr=recipe.learning_rate, foreach=False)
    warmup = round(recipe.warmup * len(batches))
    model.train()
    for step, rows in enumerate(batches):
        rate = step / warmup if step < warmup else (len(batches) - step) / (len(batches) - warmup)
        optimizer.param_groups[0]["lr"] = rate * recipe.learning_rate
        inputs, targets = data.collate(rows, CPU)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs).logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(1 - rate * recipe.learning_rate * recipe.weight_decay)
        optimizer.step()
    return model


def test_training_equals_torch_written_out(source: ModelSource, task: Task) -> None:
    recipe = RECIPE.model_copy(update={"weight_decay": 0.3, "keep_epoch": "last"})
    result, trainer, model = train(without_dropout(source), task, recipe, double=True)
    trainer.restore()
    expected = naive_training(source, task, recipe).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)
    # Controls: the embeddings left out did decay, and a training without decay is another one.
    unused = np.setdiff1d(np.arange(len(value_of(found))), trainer._vocabulary.used)
    before = value_of(source.build(2, 0.0, 0).double().state_dict())
    assert len(unused) > 0
    assert (value_of(found)[unused] - before[unused]).abs().max() > 1e-4
    other = naive_training(source, task, RECIPE.model_copy(update={"weight_decay": 0.0})).state_dict()
    assert (value_of(other) - value_of(found)).abs().max() > 1e-4
    assert len(result.epochs) == recipe.epochs


def value_of(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(value for name, value in state.items() if name.endswith("word_embeddings.weight"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_used_vocabulary_gives_the_same_outputs(family: str, tmp_path: Path, task: Task) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / family, family, scale=0.5))))
    data = encode(task, source.tokenizer, 16)
    model = source.build(2, 0.0, 0).double().eval()

    def outputs(data: EncodedTask) -> torch.Tensor:
        inputs, _ = data.train.collate(range(10), CPU)
        with torch.no_grad():
            return model(**inputs).logits

    expected = outputs(data)
    weight = value_of(model.state_dict()).clone()
    vocabulary = UsedVocabulary(model.base_model, [data])
    assert len(vocabulary.used) < len(weight)
    assert torch.equal(outputs(vocabulary.translate(data)), expected)
    with pytest.raises((AssertionError, IndexError)):  # control: ids must be translated
        assert torch.equal(outputs(data), expected)
    vocabulary.restore(1.0)
    assert torch.equal(value_of(model.state_dict()), weight)
    assert torch.equal(outputs(data), expected)


def test_a_training_repeats_bit_for_bit_and_another_seed_does_not(source: ModelSource, task: Task) -> None:
    recipe = RECIPE.model_copy(update={"dropout": 0.1, "precision": "bfloat16"})
    runs = [train(source, task, recipe, seed)[0] for seed in (0, 0, 1)]
    first, again, other = [run.predictions["words"]["dev"][-1] for run in runs]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_tiny_model_learns_the_task(source: ModelSource, task: Task) -> None:
    result, _, _ = train(source, task, RECIPE.model_copy(update={"epochs": 12, "learning_rate": 1e-2}))
    losses = [epoch["loss"] for epoch in result.epochs]
    assert losses[-1] < 0.75 * losses[0]
    assert max(epoch["score"] for epoch in result.epochs) > 70


def test_the_best_epoch_is_kept_and_patience_ends_the_rest(source: ModelSource, task: Task) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 30, "patience": 2})
    result, trainer, _ = train(source, task, recipe)
    scores = [epoch["score"] for epoch in result.epochs]
    assert result.best_epoch == 1 + int(np.argmax(scores))
    assert len(scores) == min(30, result.best_epoch + 2)
    (learner,) = trainer.learners
    kept = trainer.predict(learner, learner.data.evaluations["dev"])
    assert np.array_equal(kept, result.predictions["words"]["dev"][result.best_epoch - 1])
    last, _, _ = train(source, task, recipe.model_copy(update={"keep_epoch": "last", "epochs": 4, "patience": None}))
    assert last.best_epoch == 4


def test_a_cut_model_costs_less(source: ModelSource, task: Task) -> None:
    ticket = Ticket.from_pruned(LAYERS, HEADS, [(0, 0), (1, 2)], [1])
    dense, small = train(source, task)[0].cost, train(source, task, ticket=ticket)[0].cost
    assert small.flops < dense.flops
    assert small.parameters < dense.parameters
    assert small.tokens == dense.tokens
    assert dense.parameters == source.build(2, 0.0, 0).num_parameters()


def test_a_loss_that_is_not_a_number_ends_the_training(source: ModelSource, task: Task) -> None:
    with pytest.raises(DivergedError, match=r"step \d+ of 24"):
        train(source, task, RECIPE.model_copy(update={"learning_rate": 1e30}))


def test_two_tasks_share_one_encoder(source: ModelSource, task: Task) -> None:
    other = replace(task, name="other", train=replace(task.train, targets=1 - task.train.targets))
    first = source.build(2, 0.0, 0)
    second = source.build(2, 0.0, 1)
    setattr(second, second.base_model_prefix, first.base_model)
    learners = [Learner(encode(t, source.tokenizer, 16), m, FULL) for t, m in ((task, first), (other, second))]
    result = Trainer(learners, Plan(RECIPE), CPU).train()
    assert set(result.predictions) == {"words", "other"}
    assert set(result.epochs[-1]["metrics"]) == {"words", "other"}
    assert all((one.classifier.bias != 0).all() for one in (first, second))  # each output layer has been trained
    alone, together = (one.base_model.encoder.state_dict() for one in (train(source, task)[2], first))
    assert all(not torch.equal(alone[name], value) for name, value in together.items())  # and both train the encoder


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("optimizer", "stop_at"),
    [("adamax", (1, 8, 31)), ("adamw", (7,)), ("released", (9, 20))],
)
def test_a_stopped_training_ends_bit_identical(
    source: ModelSource, task: Task, tmp_path: Path, stop_at: tuple[int, ...], optimizer: str
) -> None:
    recipe = RECIPE.model_copy(
        update={"epochs": 4, "dropout": 0.1, "optimizer": optimizer, "learning_rate": 1e-2, "precision": "bfloat16"}
    )
    expected, _, whole = train(source, task, recipe)

    begun: list[int] = []

    def attempt(stop: int | None, identity: str = "this") -> tuple[Trainer, PreTrainedModel]:
        before = len(begun)

        def report(event: dict) -> None:
            if len(begun) == before:
                begun.append(event["step"])
            if event["step"] == stop:
                raise StoppedError

        model = source.build(task.outputs, recipe.dropout, 0)
        learner = Learner(encode(task, source.tokenizer, recipe.max_length), model, FULL)
        trainer = Trainer([learner], Plan(recipe), CPU, Checkpoints(tmp_path / "checkpoint", identity, 0.0))
        torch.manual_seed(99)  # whatever ran before must not matter
        trainer.train(report)
        return trainer, model

    for stop in stop_at:
        with pytest.raises(StoppedError):
            attempt(stop)
    trainer, model = attempt(None)
    # Each time the step that was stopped is done again, no other before it; before step 9 the evaluation after step 8
    # is, which is saved with the step that follows.
    assert begun == [1, *(8 if stop == 9 else stop for stop in stop_at)]
    assert trainer.result.epochs == expected.epochs
    assert trainer.result.best_epoch == expected.best_epoch
    assert trainer.result.cost.tokens == expected.cost.tokens
    for have, want in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(have, want)
    for have, want in zip(*(r.predictions["words"]["dev"] for r in (trainer.result, expected)), strict=True):
        assert np.array_equal(have, want)
    with pytest.raises(StoppedError):
        attempt(1, identity="another")
    assert begun[-1] == 1  # control: another trial's checkpoint is not taken


def test_importance_is_measured_after_the_epoch_asked_for(source: ModelSource, task: Task, tmp_path: Path) -> None:
    """On the weights of a training of the same schedule that ends there; the training itself goes on to its end."""
    recipe = RECIPE.model_copy(update={"epochs": 3, "keep_epoch": "last", "dropout": 0.1, "learning_rate": 1e-2})
    data = encode(task, source.tokenizer, recipe.max_length)

    def scores(
        stop_at: int | None = None, checkpoints: Checkpoints | None = None, **options: Any
    ) -> tuple[Trainer, list[np.ndarray]]:
        def report(event: dict) -> None:
            if event["step"] == stop_at:
                raise StoppedError

        model = source.build(task.outputs, recipe.dropout, 0)
        trainer = Trainer([Learner(data, model, FULL)], Plan(recipe, **options), CPU, checkpoints)
        trainer.train(report)
        return trainer, [*score(trainer, ScoringSettings.model_validate({}), lambda: model).values()]

    whole, at_its_end = scores()
    part, expected = scores(span=Span(skip=0.0, stop=2 / 3, lr_horizon=1))
    assert len(part.result.epochs) == 2
    asked, found = scores(score_epoch=2)
    assert all(map(np.array_equal, found, expected))
    assert not any(map(np.array_equal, found, at_its_end))  # control
    assert asked.result.epochs == whole.result.epochs
    (learner,) = asked.learners  # the weights that are kept are the last epoch's again
    last = asked.predict(learner, learner.data.evaluations["dev"])
    assert np.array_equal(last, whole.result.predictions["words"]["dev"][2])
    checkpoints = Checkpoints(tmp_path / "checkpoint", "this", 0.0)
    with pytest.raises(StoppedError):
        scores(20, checkpoints, score_epoch=2)  # in the last epoch
    assert all(map(np.array_equal, scores(None, checkpoints, score_epoch=2)[1], expected))


def test_a_checkpoint_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    """Its bytes are those that safetensors makes in memory, which is the control."""
    tensors = {name: torch.full((1 << 20,), 0.5) for name in "abcd"}  # 17 MB

    def taken(write: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            write()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert taken(lambda: save_checkpoint(tmp_path / "one", tensors, {"epoch": 1})) < 1 << 20
    with safe_open(tmp_path / "one", framework="pt") as file:
        metadata = file.metadata()
    whole: list[bytes] = []
    assert taken(lambda: whole.append(save(tensors, metadata=metadata))) > 1 << 24
    bytes_of = [one[8 + int.from_bytes(one[:8], "little") :] for one in ((tmp_path / "one").read_bytes(), whole[0])]
    assert bytes_of[0] == bytes_of[1]  # behind the header, whose metadata have no order


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    save_checkpoint(file, {"a": torch.arange(5.0)}, {"epoch": 1})
    tensors, state = load_checkpoint(file)
    assert state == {"epoch": 1}
    assert torch.equal(tensors["a"], torch.arange(5.0))
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:-1] + b"\x01", b"", b"junk"):
        file.write_bytes(damaged)
        assert load_checkpoint(file) is None
    assert load_checkpoint(tmp_path / "none") is None


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 40), min_size=1, max_size=300), st.integers(1, 33), st.integers(0, 3))
@settings(max_examples=60)
def test_every_example_is_in_one_batch(lengths: list[int], size: int, seed: int) -> None:
    for order in ORDERS.values():
        batches = order(np.array(lengths), size, seed, 0)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert all(len(batch) <= size for batch in batches)


def test_bucketing_pads_less_and_differs_by_epoch() -> None:
    lengths = np.random.default_rng(0).integers(4, 100, 2000)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(len(rows) * int(lengths[rows].max()) for rows in batches)

    assert padded(bucketed(lengths, 32, 0, 0)) < 1.1 * lengths.sum()
    assert padded(ORDERS["released"](lengths, 32, 0, 0)) > 1.5 * lengths.sum()
    one, two = bucketed(lengths, 32, 0, 0), bucketed(lengths, 32, 0, 1)
    assert not np.array_equal(np.concatenate(one), np.concatenate(two))
    frozen = [np.concatenate(ORDERS["released"](lengths, 32, 0, epoch)) for epoch in (0, 1)]
    assert np.array_equal(*frozen)


def test_released_adamax_against_its_formula() -> None:
    parameter = torch.nn.Parameter(torch.tensor([[0.3, -0.7]], dtype=torch.float64))
    theta, m, u = parameter.detach().clone(), torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    recipe = Recipe(optimizer="released", learning_rate=0.1, weight_decay=0.01)
    optimizer = build_optimizer([parameter], recipe)
    assert isinstance(optimizer, ReleasedAdamax)
    for step in range(5):
        gradient = torch.tensor([[math.sin(step), 0.5 - step]], dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        m, u = 0.9 * m + 0.1 * gradient, torch.maximum(0.999 * u, gradient.abs() + 1e-6)
        theta = theta - 0.1 * (m / (u + 1e-6) + 0.01 * theta)
        torch.testing.assert_close(parameter.detach(), theta, rtol=0, atol=1e-12 if step == 0 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamax_in_blocks_has_the_bits_of_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = ((700, 301), (70_001,), (2, 33_000), (1, 1), (3,), ())  # of some blocks, of one, and of one row a block
    recipe = Recipe(learning_rate=0.01, weight_decay=0.3)
    ours = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    ours[0] = torch.nn.Parameter(ours[0].detach().T)  # its rows are not neighbours in memory
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    begun = [parameter.detach().clone() for parameter in ours]
    optimizer, schedule = build_optimizer(ours, recipe), [0.01, 0.02, 0.0, 0.005]
    expected = torch.optim.Adamax(theirs, foreach=False)
    for step, rate in enumerate(schedule):
        for group in (*optimizer.param_groups, *expected.param_groups):
            group["lr"] = rate
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = None if (number + step) % 4 == 3 else torch.randn_like(one)
            other.grad = None if one.grad is None else one.grad.clone()
            if one.grad is not None and one.ndim >= 2:
                other.data.mul_(1 - rate * 0.3)
        optimizer.step()
        expected.step()
    for one, other, before in zip(ours, theirs, begun, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before)
        for name, value in expected.state[other].items():
            assert torch.equal(optimizer.state[one][name], value), name


def test_schedules() -> None:
    def rates(schedule: str) -> list[float]:
        parameter = torch.nn.Parameter(torch.ones(1))
        optimizer = build_optimizer([parameter], Recipe(learning_rate=1.0, lr_schedule=schedule, warmup=0.1))
        scheduler = build_schedule(optimizer, Recipe(lr_schedule=schedule, warmup=0.1), 20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    linear, released = rates("linear"), rates("released")
    assert linear[:3] == [0.0, 0.5, 1.0]
    assert linear[-1] == pytest.approx(1 / 18)
    assert released[:4] == pytest.approx([0.0, 0.5, 0.9, 0.85])  # the jump: 1.0 is never reached, then 1 - x
    assert released_factor(0, 10, 0.1) == 0.0


def test_example_losses() -> None:
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    losses = example_losses(outputs, torch.tensor([0, 0]), False)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))])
    assert example_losses(torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 1.0]).double(), True).tolist() == [0.25, 4.0]


def test_a_new_output_layer_follows_the_seed_and_nothing_else(source: ModelSource) -> None:
    one, again, other = (source.build(2, 0.1, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"classifier.weight"}
    assert one["classifier.bias"].eq(0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_task_dropout_is_the_recipes(family: str, tmp_path: Path) -> None:
    model = ModelSource(find_model(str(save_tiny_model(tmp_path / family, family)))).build(2, 0.37, 0)
    inside = set(model.base_model.modules())
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m not in inside]
    assert rates == [0.37]
    assert copy.deepcopy(model).config.to_dict()[find_model(str(tmp_path / family)).family.task_dropout] == 0.37


@pytest.mark.parametrize(("there", "chosen"), [("mps", "cpu"), ("xpu", "xpu"), (None, "cpu")])
def test_auto_is_no_device_without_float64(there: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there and torch.device(there))
    assert devices.find_device() == torch.device(chosen)


def test_precision() -> None:
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize(
    ("has", "bfloat16", "chosen"),
    [("avx512_bf16", 0.5, "bfloat16"), ("avx512_bf16", 2.0, "float32"), ("avx2", 0.5, "float32")],
)
def test_auto_is_the_faster_precision(has: str, bfloat16: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions for bfloat16 may take half of float32's time, or twice as long: only a measurement tells."""
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True})
    monkeypatch.setattr(devices, "_seconds_of_product", lambda left, right: seconds[left.dtype])
    monkeypatch.setattr(devices, "_multiplies_bfloat16_faster", devices._multiplies_bfloat16_faster.__wrapped__)
    assert choose_precision("auto", CPU) == chosen
