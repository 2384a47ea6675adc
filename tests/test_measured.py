"""Measured costs: who takes turns when, what is made of times, and tables that recover what times were made of."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.models import ATTENTIONS, FFN, HEADS, LAYERS, save_tiny_model
from supertickets import Ticket
from supertickets.anatomy import Shape
from supertickets.anatomy.cost import parameters
from supertickets.errors import TicketError
from supertickets.lab import cost_table
from supertickets.lab.cost_table import Group, alike, latency_prices, measure_table, random_model, table_of
from supertickets.lab.forward import forward_of, prepared
from supertickets.lab.latency import WARM_UP, dense_and_cut, measure_sizes, seconds_of, take_turns
from supertickets.lab.measured import Batch, Conditions, Quartiles, passes_of
from supertickets.models import find_model
from supertickets.tickets.kinds import Structure

HALF = Ticket.from_pruned(LAYERS, HEADS, [(layer, head) for layer in range(LAYERS) for head in (0, 2)], [1])


class Clock:
    """Time that passes only where somebody says so; every look is remembered."""

    def __init__(self) -> None:
        self.now, self.said = 0.0, list[str]()

    def __call__(self) -> float:
        self.said.append("clock")
        return self.now

    def taking(self, name: str, seconds: Callable[[], float]) -> Callable[[], None]:
        def forward() -> None:
            self.said.append(name)
            self.now += seconds()

        return forward


# --- turns and what is made of them -----------------------------------------------------------------------------------


def test_models_take_turns() -> None:
    clock = Clock()
    passes = {"dense": clock.taking("dense", lambda: 2.0), "ticket": clock.taking("ticket", lambda: 1.0)}
    found = take_turns(passes, 3, clock, lambda: clock.said.append("settled"))
    turn = [part for name in ("dense", "ticket") for part in ("settled", "clock", name, "settled", "clock")]
    assert clock.said == turn * (WARM_UP + 3)
    assert {name: times.tolist() for name, times in found.items()} == {"dense": [2.0] * 3, "ticket": [1.0] * 3}


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    clock, factors = Clock(), itertools.count(1)
    slow = {"now": 1.0}

    def dense() -> float:
        slow["now"] = float(next(factors))
        return 2.0 * slow["now"]

    passes = {"dense": clock.taking("dense", dense), "ticket": clock.taking("ticket", lambda: slow["now"])}
    found = take_turns(passes, 5, clock)
    made = passes_of(Batch(batch_size=1, length=4), found, {"dense": 1, "ticket": 1})
    assert made.ratio == Quartiles(median=0.5, low=0.5, high=0.5)
    assert made.models["dense"].seconds.low < made.models["dense"].seconds.high  # control: times do vary
    before, after = found["dense"][0], found["ticket"][-1]
    assert after / before != 0.5  # control: what is not of one turn


def test_medians_quartiles_and_ratios() -> None:
    times = {"dense": [4.0, 1.0, 2.0, 8.0, 100.0], "ticket": [2.0, 1.0, 1.0, 2.0, 10.0]}
    made = passes_of(Batch(batch_size=8, length=5), times, {"dense": 40, "ticket": 20})
    dense, ticket = made.models["dense"], made.models["ticket"]
    assert dense.seconds == Quartiles(median=4.0, low=2.0, high=8.0)
    assert ticket.seconds == Quartiles(median=2.0, low=1.0, high=2.0)
    assert (dense.examples_per_second, dense.tokens_per_second, dense.flops) == (2.0, 10.0, 40)
    assert made.ratio == Quartiles(median=0.5, low=0.25, high=0.5)  # of 0.5, 1, 0.5, 0.25, 0.1
    assert passes_of(Batch(batch_size=1, length=1), {"dense": [1.0]}, {"dense": 1}).ratio is None


def test_what_is_timed_is_a_forward_pass_of_each_model(tiny_model: Path) -> None:
    base = find_model(str(tiny_model))
    models = dense_and_cut(base, HALF)
    seen: list[tuple[str, list[int], int, bool]] = []
    for name, model in models.items():

        def note(module: Any, given: Any, named: Any, out: Any, name: str = name) -> None:
            seen.append((name, [*named["input_ids"].shape], torch.get_num_threads(), torch.is_inference_mode_enabled()))

        model.register_forward_hook(note, with_kwargs=True)
    ready = {name: prepared(model, "cpu") for name, model in models.items()}
    found = seconds_of(ready, Batch(batch_size=3, length=7), Conditions(threads=2), 2)
    assert seen == [(name, [3, 7], 2, True) for _ in range(WARM_UP + 2) for name in ("dense", "ticket")]
    assert all(times.shape == (2,) and (times > 0).all() for times in found.values())
    fewer = models["dense"].num_parameters() - models["ticket"].num_parameters()
    assert fewer == parameters(base.shape, Ticket.full(LAYERS, HEADS)) - parameters(base.shape, HALF) > 0


def test_precision_is_that_of_the_products(tiny_model: Path) -> None:
    model = prepared(dense_and_cut(find_model(str(tiny_model)), None)["dense"], "cpu")
    seen = set()
    model.encoder.layer[0].output.dense.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    batch = Batch(batch_size=1, length=4)
    seconds_of({"dense": model}, batch, Conditions(precision="bfloat16"), 1)
    assert seen == {torch.bfloat16}
    seen.clear()
    seconds_of({"dense": model}, batch, Conditions(), 1)
    assert seen == {torch.float32}


def test_random_tokens_are_no_padding(tmp_path: Path) -> None:
    base = find_model(str(save_tiny_model(tmp_path / "roberta", "roberta")))
    model = prepared(dense_and_cut(base, None)["dense"], "cpu")
    seen: dict[str, torch.Tensor] = {}
    model.register_forward_pre_hook(lambda module, given, named: seen.update(named), with_kwargs=True)
    forward_of(model, Batch(batch_size=32, length=base.max_length))()
    assert model.config.pad_token_id == 1
    assert (seen["input_ids"] != 1).all()
    assert (seen["input_ids"] == 2).any()
    assert seen["attention_mask"].all()


# --- tables of prices -------------------------------------------------------------------------------------------------

SHAPES = {
    "bert": Shape(layers=3, heads=4, hidden=32, ffn=48),
    "groups of heads": Shape(layers=3, heads=4, hidden=32, ffn=48, kv_heads=2),
    "two stacks": Shape(layers=3, heads=4, hidden=32, ffn=48, attentions=5),
    "many heads": Shape(layers=2, heads=32, hidden=64, ffn=40),
}
KINDS: list[tuple[Structure, ...]] = [("heads", "ffns"), ("heads", "neurons"), ("heads",), ("neurons",), ("ffns",)]


def groups_of(shape: Shape) -> list[Group]:
    """Two groups of attention modules, and one of FFNs."""
    first, rest = (0,), tuple(range(1, shape.attentions))
    return [*(Group(of="heads", rows=rows) for rows in (first, rest)), Group(of="ffns", rows=(*range(shape.layers),))]


class MadeUp:
    """Times that add up: of heads by group and number, of neurons with a bend; `drift` slows pairs down."""

    def __init__(self, shape: Shape, seed: int = 0, together: float = 0.0, drift: bool = False) -> None:
        rng = np.random.default_rng(seed)
        knots = np.unique(np.linspace(0, shape.heads, 9).round()) if shape.heads > 16 else np.arange(shape.heads + 1)
        grow = np.sort(rng.random((2, len(knots))))
        self.heads = [np.interp(np.arange(shape.heads + 1), knots, row - row[0]) for row in grow]
        bends = np.linspace(0, shape.ffn, 9).round()
        self.neurons = np.interp(np.arange(shape.ffn + 1), bends, np.append(0.0, 1 + np.sort(rng.random(8))))
        self.shape, self.together, self.drift, self.calls = shape, together, drift, 0

    def of(self, ticket: Ticket) -> float:
        kept = ticket.heads.sum(axis=1)
        heads = [self.heads[row > 0][count] for row, count in enumerate(kept)]
        neurons = self.neurons[ticket.neurons_of(self.shape.ffn).sum(axis=1)]
        product = self.together * float(np.prod(kept / self.shape.heads) * neurons.sum())
        return 5.0 + float(sum(heads)) + float(neurons.sum()) + product

    def pair(self, ticket: Ticket) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        slow = np.ones(3)
        if self.drift:  # half of the machine's time is another's, now and then; most of the time is not
            self.calls += 1
            slow = np.array([1.0, 1.0 + self.calls, 1.0])
        dense = self.of(Ticket.full(*self.shape.of_tickets))
        return dense * slow, self.of(ticket) * slow


def random_tickets(shape: Shape, kinds: tuple[Structure, ...], count: int = 20) -> list[Ticket]:
    rng = np.random.default_rng(7)
    full = Ticket.full(*shape.of_tickets)
    heads = (rng.random((count, *full.heads.shape)) < rng.random((count, shape.attentions, 1))) | ("heads" not in kinds)
    ffns = (rng.random((count, shape.layers)) < 0.6) | ("ffns" not in kinds)
    neurons = rng.random((count, shape.layers, shape.ffn)) < rng.random((count, shape.layers, 1))
    if "neurons" in kinds:
        return [Ticket.of_neurons(*each) for each in zip(heads, neurons, strict=True)]
    return [Ticket(*each) for each in zip(heads, ffns, strict=True)]


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_table_of_times_that_add_up_predicts_every_ticket(shape: Shape, kinds: tuple[Structure, ...]) -> None:
    made = MadeUp(shape, drift=True)
    prices = table_of(shape, groups_of(shape), kinds, made.pair, {}).prices(shape)
    assert prices.unit == "seconds"
    assert set(prices.by) == set(kinds)
    tickets = [Ticket.full(*shape.of_tickets), *random_tickets(shape, kinds)]
    expected = [made.of(ticket) for ticket in tickets]
    assert len({round(time, 6) for time in expected}) > 2
    np.testing.assert_allclose([prices.of(ticket) for ticket in tickets], expected, rtol=1e-12)
    if "heads" in kinds:
        np.testing.assert_allclose(prices.by["heads"][1], made.heads[1], atol=1e-12)
        assert not np.allclose(prices.by["heads"][0], made.heads[1], atol=1e-3)  # control: the other group's


def test_times_that_do_not_add_up_are_not_predicted() -> None:
    shape = SHAPES["bert"]
    made = MadeUp(shape, together=0.5)
    prices = table_of(shape, groups_of(shape), ("heads", "neurons"), made.pair, {}).prices(shape)
    tickets = random_tickets(shape, ("heads", "neurons"))
    wrong = [prices.of(ticket) / made.of(ticket) - 1 for ticket in tickets]
    assert max(map(abs, wrong)) > 0.02
    assert prices.of(Ticket.full(3, 4)) == pytest.approx(made.of(Ticket.full(3, 4)), rel=1e-12)


def test_times_that_were_no_pairs_would_be_wrong() -> None:
    """The control of pairing: as many seconds, but each of a turn of its own."""
    shape = SHAPES["bert"]
    made = MadeUp(shape, drift=True)

    def apart(ticket: Ticket) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        dense, cut = made.pair(ticket)
        return dense, np.roll(cut, 1) * made.calls

    prices = table_of(shape, groups_of(shape), ("heads", "ffns"), apart, {}).prices(shape)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(prices.of(HALF), made.of(HALF), rtol=0.01)


def test_noise_gives_no_negative_prices() -> None:
    shape = SHAPES["bert"]
    rng = np.random.default_rng(0)
    table = table_of(shape, groups_of(shape), ("heads", "ffns"), lambda ticket: (rng.random(3), rng.random(3)), {})
    prices = table.prices(shape)
    assert prices.of(Ticket.full(3, 4)) == pytest.approx(table.seconds.median, rel=1e-12)
    assert min(point.ratio.median for point in table.points) < 1 < max(point.ratio.median for point in table.points)
    assert all((rows >= 0).all() for rows in prices.by.values())


def test_which_tickets_a_table_is_measured_with() -> None:
    shape = SHAPES["groups of heads"]
    seen: list[Ticket] = []

    def pair(ticket: Ticket) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        seen.append(ticket)
        return np.ones(2), np.ones(2)

    table_of(shape, groups_of(shape), ("heads", "neurons"), pair, {})
    assert len(seen) == 2 * HEADS + 8
    assert not any(ticket.is_full for ticket in seen)
    two = next(ticket for ticket in seen if ticket.heads[0].sum() == 2)
    assert two.heads[0].tolist() == [True, False, True, False]  # one of each key/value group
    assert two.heads[1:].all()
    assert [ticket.neurons_of(48).sum(axis=1).tolist() for ticket in seen[-8:]] == [[n] * 3 for n in range(0, 48, 6)]


# --- real models ------------------------------------------------------------------------------------------------------


def test_modules_that_are_alike(tmp_path: Path) -> None:
    def rows(family: str) -> list[tuple[str, tuple[int, ...]]]:
        base = find_model(str(save_tiny_model(tmp_path / family, family)))
        return [(group.of, group.rows) for group in alike(base)]

    assert rows("bert") == [("heads", (0, 1, 2)), ("ffns", (0, 1, 2))]
    assert rows("albert") == [("heads", (0, 1, 2)), ("ffns", (0, 1, 2))]
    # An encoder's layer, and two of a decoder: self-attention, cross-attention.
    assert rows("t5") == [("heads", (0,)), ("heads", (1, 3)), ("heads", (2, 4)), ("ffns", (0,)), ("ffns", (1, 2))]
    assert ATTENTIONS == 5
    assert rows("gemma3_text") == [("heads", (0, 1, 2)), ("ffns", (0, 1, 2))]  # all are local


def test_layers_of_local_and_of_global_attention_are_told_apart(tmp_path: Path) -> None:
    for family in ("gemma3_text", "modernbert"):
        folder = save_tiny_model(tmp_path / family, family)
        config = json.loads((folder / "config.json").read_text())
        config["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
        (folder / "config.json").write_text(json.dumps(config))
        found = [(group.of, group.rows) for group in alike(find_model(str(folder)))]
        assert found == [("heads", (0, 2)), ("heads", (1,)), ("ffns", (0, 2)), ("ffns", (1,))], family


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "bart", "albert"])
def test_every_kind_of_model_has_a_table(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_table, "_GRID", 3)
    base = find_model(str(save_tiny_model(tmp_path / family, family)))
    table = measure_table(base, ("heads", "neurons"), Batch(batch_size=2, length=6), Conditions(), 1)
    prices = table.prices(base.shape)
    assert prices.by["heads"].shape == (base.shape.attentions, HEADS + 1)
    assert prices.by["neurons"].shape == (LAYERS, FFN + 1)
    assert table.seconds.median > 0
    assert cost_table.CostTable.model_validate_json(table.model_dump_json()) == table


def test_shared_layers_that_are_not_applied_equally_often_are_refused(tmp_path: Path) -> None:
    base = find_model(str(save_tiny_model(tmp_path / "albert", "albert")))
    assert base.shape.applied == (2,) * LAYERS
    with pytest.raises(TicketError, match="3 layers of weights are applied 7 times in all, some more often"):
        alike(replace(base, config=base.config | {"num_hidden_layers": 7}))


def test_a_random_model_has_the_shape_of_its_first_layers(tiny_model: Path) -> None:
    base = find_model(str(tiny_model), layers=2)
    state = torch.get_rng_state()
    model = random_model(base)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(model.encoder.layer) == 2
    loaded = dense_and_cut(base, None)["dense"]
    assert model.num_parameters() == loaded.num_parameters()
    weight = "embeddings.word_embeddings.weight"
    assert not torch.equal(model.get_parameter(weight), loaded.get_parameter(weight))


def test_a_table_is_measured_once(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shape, times = SHAPES["bert"], 0

    def measured(base: Any, structures: Any, batch: Any, conditions: Any, repeats: int) -> Any:
        nonlocal times
        times += 1
        about = cost_table._about(base, structures, batch, conditions, repeats)
        return table_of(shape, groups_of(shape), structures, MadeUp(shape, seed=times).pair, about)

    monkeypatch.setattr(cost_table, "measure_table", measured)
    base = find_model(str(tiny_model))
    first = latency_prices(base, ("heads", "ffns"), 2, 8, device="cpu")
    assert times == 1
    again = latency_prices(base, ("heads", "ffns"), 2, 8, device="cpu")
    assert times == 1
    assert again.of(HALF) == first.of(HALF)
    assert (
        latency_prices(replace(base, weight_hash="other", name="other"), ("heads", "ffns"), 2, 8).fixed == first.fixed
    )
    assert times == 1  # weights and names cost nothing
    (file,) = (tmp_path / "cache" / "supertickets" / "costs").iterdir()
    content = json.loads(file.read_text())
    assert content["about"]["architecture"]["hidden_size"] == 32
    assert {*content["about"]} >= {"conditions", "batch", "device_name", "versions", "structures", "repeats"}
    for count, more in enumerate(
        [
            {"batch_size": 3},
            {"length": 9},
            {"threads": 2},
            {"precision": "bfloat16"},
            {"structures": ("heads", "neurons")},
        ]
    ):
        asked: dict[str, Any] = {"structures": ("heads", "ffns"), "batch_size": 2, "length": 8, **more}
        assert latency_prices(base, **asked).of(HALF) != first.of(HALF)
        assert times == 2 + count
    wider = replace(base, config=base.config | {"hidden_act": "relu"})
    latency_prices(wider, ("heads", "ffns"), 2, 8)
    assert times == 7
    file.write_text("{")  # a damaged one is measured anew
    latency_prices(base, ("heads", "ffns"), 2, 8)
    assert times == 8


def test_a_cache_that_cannot_be_written_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    base = find_model(str(tiny_model))
    prices = latency_prices(base, ("ffns",), 1, 4, device="cpu", repeats=1)
    assert prices.by["ffns"].shape == (LAYERS, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"length": 41}, "--latency-of 41: model .* reads 1 to 40 tokens; the nearest is 40."),
        ({"device": "cuda:9"}, "--device cuda:9: this machine has no such device"),
    ],
)
def test_prices_that_cannot_be_measured(tiny_model: Path, more: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"structures": ("heads",), "batch_size": 1, "length": 4, **more}
    with pytest.raises(TicketError, match=message):
        latency_prices(find_model(str(tiny_model)), **asked)


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    """A model of 60 MB takes more than its file at least once, and the one without FFNs less."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "large"
    BertModel(BertConfig(num_hidden_layers=3, hidden_size=768, num_attention_heads=12, vocab_size=200)).save_pretrained(
        folder
    )
    base = find_model(str(folder))
    ticket = Ticket(np.ones((3, 12), bool), np.zeros(3, bool))
    hog = np.ones(2**27)  # a gigabyte of this process's memory, which is not the model's
    found = measure_sizes(base, dense_and_cut(base, ticket), ticket, Batch(batch_size=1, length=8), Conditions())
    dense, cut = found["dense"], found["ticket"]
    assert hog.nbytes == 2**30
    assert dense.peak is not None
    assert cut.peak is not None
    assert dense.file < dense.peak < 3 * dense.file
    assert cut.file < cut.peak < dense.peak
    assert dense.file - cut.file == pytest.approx(4 * (dense.parameters - cut.parameters), rel=0.01)
    assert dense.structures - cut.structures == dense.parameters - cut.parameters
