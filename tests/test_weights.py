"""Tickets of single weights: which weights, how many, sets of them, files; what they lack stays zero in a training."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save
from torch.nn.utils import prune
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedModel,
)

from helpers.models import FAMILIES, HEADS, LAYERS, linears, make_loud, save_tiny_model, tiny_config, without_dropout
from supertickets.errors import TicketError
from supertickets.models import ModelSource, find_model, prunable_weights
from supertickets.surgery import masks
from supertickets.surgery.initial import check_start, start_otherwise
from supertickets.surgery.masks import prunable, weights_of, zero
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, load_ticket, load_weight_ticket
from supertickets.tickets.weights import (
    Pruning,
    WeightTicket,
    check_all_tensors,
    check_tensors,
    draw_matched_weights,
    draw_random_weights,
    prune_by_magnitude,
    pruned_count,
)
from supertickets.training.batches import bucketed
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Plan, Trainer
from supertickets.training.objectives import encode
from supertickets.training.orders import part_of
from supertickets.training.recipe import Recipe, Span

CPU = torch.device("cpu")
RECIPE = Recipe.model_validate(
    {
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "max_length": 16,
        "patience": None,
        "dropout": 0.0,
        "warmup": 0.0,
        "keep_epoch": "last",
    }
)
FULL = Ticket.full(LAYERS, HEADS)
PLAIN = Pruning.model_validate({})
EVERYTHING = Pruning.model_validate({"embeddings": True})
BERT_BASE = 85_524_480


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as trials have; several only get in each other's way here


@pytest.fixture
def task(words: dict[str, Path]) -> Task:
    return load_task(TaskSource.model_validate({"task": "words", **words}))


@pytest.fixture
def source(tiny_model: Path) -> ModelSource:
    return ModelSource(find_model(str(tiny_model)))


# --- which weights ----------------------------------------------------------------------------------------------------


def bert_base() -> PreTrainedModel:
    with torch.device("meta"):  # shapes alone
        return AutoModel.from_config(BertConfig())


def test_bert_base_has_85_524_480_prunable_weights_in_73_matrices() -> None:
    found = prunable(bert_base(), PLAIN)
    assert len(found) == 73
    assert sum(weight.numel() for weight in found.values()) == BERT_BASE
    assert list(found)[-1] == "pooler.dense.weight"
    assert not [name for name in found if "LayerNorm" in name or "bias" in name or "embeddings" in name]
    without = prunable(bert_base(), Pruning.model_validate({"pooler": False}))
    assert list(without) == list(found)[:-1]
    assert sum(weight.numel() for weight in without.values()) == BERT_BASE - 768**2
    more = prunable(bert_base(), EVERYTHING)
    assert more.keys() - found.keys() == {
        f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    }


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("pooler", [False, True])
def test_prunable_weights_are_found_by_module_type(family: str, pooler: bool, embeddings: bool) -> None:
    """Every matrix of the encoder is one or is left out on purpose: nothing else has two dimensions."""
    encoder = AutoModel.from_config(tiny_config(family))
    found = prunable(encoder, Pruning.model_validate({"pooler": pooler, "embeddings": embeddings}))
    matrices = {name: weight for name, weight in encoder.named_parameters() if weight.ndim == 2}
    left_out = {name for name in matrices if name.startswith("pooler.") and not pooler}
    # ELECTRA also projects its embeddings.
    left_out |= {name for name in matrices if name.startswith("embeddings") and not embeddings}
    assert list(found) == [name for name in matrices if name not in left_out]
    assert all(found[name] is matrices[name] for name in found)
    layers = {name for name in found if ".layer." in name}
    assert len(layers) == 6 * LAYERS
    assert ("pooler.dense.weight" in found) == (pooler and family in ("bert", "roberta", "xlm-roberta"))


@pytest.mark.parametrize("family", ["t5", "bart", "albert", "rembert", "electra", "opt"])
def test_no_weight_counts_twice_and_embeddings_have_all_of_theirs(family: str) -> None:
    """Tied embeddings are one matrix of three modules; a projection of embeddings is no part of the layers."""
    narrow = {"word_embed_proj_dim": 16} if family == "opt" else {}
    encoder = AutoModel.from_config(tiny_config(family, **narrow))
    ticket = prune_by_magnitude(weights_of(encoder, found := prunable(encoder, EVERYTHING)), 0.5)
    zero(encoder, ticket)
    names = dict(encoder.named_parameters())
    assert found.keys() <= names.keys()
    gone = sum(int((names[name] == 0).sum()) for name in found) / sum(names[name].numel() for name in found)
    assert gone == pytest.approx(ticket.sparsity)
    assert len({value.data_ptr() for value in found.values()}) == len(found)
    layers = prunable(encoder, PLAIN)
    assert not [name for name in layers if "embed" in name or "project_" in name]
    words = {"shared", "embeddings.word_embeddings", "decoder.embed_tokens"}
    assert {name.rpartition(".")[0] for name in found.keys() - layers.keys()} & words


def test_weights_of_a_base_model(family: str, tmp_path: Path) -> None:
    base = find_model(str(save_tiny_model(tmp_path / family, family)))
    expected = prunable(AutoModel.from_pretrained(base.folder), PLAIN)
    found = prunable_weights(base, PLAIN)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name].detach().numpy()) for name in expected)


def test_a_pooler_that_is_not_pre_trained_is_none(tmp_path: Path) -> None:
    base = find_model(str(save_tiny_model(tmp_path / "masked", auto=AutoModelForMaskedLM)))
    assert len(prunable_weights(base, PLAIN)) == 6 * LAYERS
    whole = find_model(str(save_tiny_model(tmp_path / "whole")))  # control
    assert len(prunable_weights(whole, PLAIN)) == 6 * LAYERS + 1


# --- how many ---------------------------------------------------------------------------------------------------------


def test_every_step_of_ten_percent_is_the_same_count() -> None:
    counts = [pruned_count(BERT_BASE, percent / 100) for percent in range(0, 100, 10)]
    assert counts == [8_552_448 * k for k in range(10)]
    # Control: cutting off is not enough, nor are steps that are added up.
    assert [int(BERT_BASE * sum([0.1] * k)) for k in range(10)] != counts


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_sparsity_is_a_share(sparsity: float) -> None:
    weights = {"w": np.ones((2, 2))}
    for draw in (
        lambda: pruned_count(10, sparsity),
        lambda: prune_by_magnitude(weights, sparsity),
        lambda: draw_random_weights({"w": (2, 2)}, sparsity, 0),
    ):
        with pytest.raises(TicketError, match=r"a sparsity is a share in \[0, 1\), got"):
            draw()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(wrong: float) -> None:
    weights = {"good": np.ones((2, 2)), "bad": np.array([[1.0, wrong]])}
    with pytest.raises(TicketError, match="weights of bad are NaN or infinite"):
        prune_by_magnitude(weights, 0.5)


def naive(
    weights: Mapping[str, Any], sparsity: float, within: WeightTicket | None, scope: str = "global"
) -> dict[str, Any]:
    """Sort everything by magnitude, then tensor, row and column; what is gone already goes first."""
    masks = {name: np.ones(values.shape, bool) for name, values in weights.items()}
    for group in [list(weights)] if scope == "global" else [[name] for name in weights]:
        entries = []
        for place, name in enumerate(group):
            for index in np.ndindex(*weights[name].shape):
                gone = within is not None and not within.masks[name][index]
                entries.append((-1.0 if gone else abs(float(weights[name][index])), place, index))
        for _, place, index in sorted(entries)[: pruned_count(len(entries), sparsity)]:
            masks[group[place]][index] = False
    return masks


_TIED = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0])
_ANY = st.floats(-3, 3, width=32)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[float]]:
    """Draw some tensors' weights in several rounds, many of them tied, and rising sparsities."""
    shapes = draw(st.lists(arrays.array_shapes(min_dims=1, max_dims=3, max_side=5), min_size=1, max_size=4))
    sparsities = sorted(draw(st.lists(st.floats(0, 0.99), min_size=1, max_size=4)))
    values = draw(st.sampled_from([_TIED, _ANY]))
    names = draw(st.permutations([f"t{i}" for i in range(len(shapes))]))
    return [
        {
            name: draw(arrays.arrays(np.float32, shape, elements=values))
            for name, shape in zip(names, shapes, strict=True)
        }
        for _ in sparsities
    ], sparsities


@given(rounds(), st.sampled_from(["global", "tensor"]))
@settings(max_examples=150, deadline=None)
def test_pruning_equals_a_sort_and_rounds_are_nested(
    drawn: tuple[list[dict[str, Any]], list[float]], scope: Any
) -> None:
    before: WeightTicket | None = None
    for weights, sparsity in zip(*drawn, strict=True):
        ticket = prune_by_magnitude(weights, sparsity, before, scope)
        expected = naive(weights, sparsity, before, scope)
        assert list(ticket.masks) == list(weights)
        for name in weights:
            assert np.array_equal(ticket.masks[name], expected[name]), name
        if scope == "global":
            assert ticket.total - ticket.kept == pruned_count(ticket.total, sparsity)
        for mask in ticket.masks.values():
            if scope == "tensor":
                assert (~mask).sum() == pruned_count(mask.size, sparsity)
        if before is not None:
            assert ticket <= before
        before = ticket


def test_ties_go_by_tensor_then_row_and_column() -> None:
    weights = {"b": np.full((2, 2), -1.0), "a": np.ones((2, 3))}
    ticket = prune_by_magnitude(weights, 0.6)
    assert ticket.masks["b"].tolist() == [[False, False], [False, False]]
    assert ticket.masks["a"].tolist() == [[False, False, True], [True, True, True]]


def test_nine_rounds_of_real_size_are_exact_and_nested() -> None:
    """Each round other weights, so that a ranking that forgets what is gone would not be nested."""
    shapes = {"query": (768, 800), "dense": (320, 768), "pooler": (40, 768)}
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total % 10 == 0
    rng = np.random.default_rng(0)
    before, forgetful = WeightTicket.full(shapes), []
    for k in range(1, 10):
        spread = {"query": 1.0, "dense": 2.0, "pooler": 0.5}
        weights = {name: spread[name] * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        ticket = prune_by_magnitude(weights, k / 10, before)
        assert ticket.total - ticket.kept == k * total // 10
        assert ticket.sparsity == pytest.approx(k / 10, abs=1e-12)
        assert ticket <= before
        forgetful.append(prune_by_magnitude(weights, k / 10))
        before = ticket
    assert not forgetful[1] <= forgetful[0]  # control
    assert len({float(mask.mean()) for mask in before.masks.values()}) == 3  # global: densities are the tensors' own
    even = prune_by_magnitude(weights, 0.9, scope="tensor")
    assert [float(mask.mean()) for mask in even.masks.values()] == pytest.approx([0.1] * 3, abs=1e-4)


def test_a_lower_sparsity_than_what_is_gone_changes_nothing() -> None:
    weights = {"w": np.arange(10.0)}
    half = prune_by_magnitude(weights, 0.5)
    assert prune_by_magnitude({"w": -weights["w"][::-1]}, 0.3, half) == half


# --- random tickets ---------------------------------------------------------------------------------------------------

SHAPES = {"a": (300, 500), "b": (100, 200), "c": (7,)}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.7, 0.99])
def test_random_tickets_have_the_exact_count(sparsity: float) -> None:
    one, again, other = (draw_random_weights(SHAPES, sparsity, seed) for seed in (0, 0, 1))
    assert one.shapes == SHAPES
    assert one.total - one.kept == pruned_count(one.total, sparsity)
    assert one == again
    assert (one != other) == (sparsity > 0)
    even = draw_random_weights(SHAPES, sparsity, 0, "tensor")
    assert [int((~mask).sum()) for mask in even.masks.values()] == [
        pruned_count(math.prod(shape), sparsity) for shape in SHAPES.values()
    ]


def test_a_matched_ticket_has_every_tensors_density() -> None:
    rng = np.random.default_rng(0)
    like = prune_by_magnitude({name: rng.normal(0, 1 + len(shape), shape) for name, shape in SHAPES.items()}, 0.6)
    matched = draw_matched_weights(like, 3)

    def kept(ticket: WeightTicket) -> list[int]:
        return [int(mask.sum()) for mask in ticket.masks.values()]

    assert kept(matched) == kept(like)
    assert kept(draw_random_weights(SHAPES, 0.6, 3)) != kept(like)  # control
    assert draw_matched_weights(like, 3) == matched
    assert draw_matched_weights(like, 4) != matched
    assert matched.overlap(like) < 0.5


@pytest.mark.parametrize("density", [0.1, 0.3, 0.4, 0.9])
def test_random_tickets_overlap_by_chance(density: float) -> None:
    one, other = (draw_random_weights(SHAPES, 1 - density, seed) for seed in (1, 2))
    expected = density / (2 - density)
    assert one.overlap(other) == pytest.approx(expected, abs=0.01)
    assert one.chance(other) == pytest.approx(expected, abs=1e-4)
    assert one.overlap(one) == 1.0  # controls
    assert one.overlap(~one) == 0.0
    third = draw_random_weights(SHAPES, 0.5, 3)
    assert one.overlap(third) == pytest.approx(one.chance(third), abs=0.01)
    pairs = [(one.masks[name], other.masks[name]) for name in SHAPES]
    by_tensor = np.mean([(a & b).sum() / (a | b).sum() if (a | b).any() else 1.0 for a, b in pairs])
    assert one.overlap(other, "tensors") == pytest.approx(by_tensor)


# --- sets of weights --------------------------------------------------------------------------------------------------


@st.composite
def tickets(draw: st.DrawFn, count: int) -> list[WeightTicket]:
    """Draw some tickets of the same tensors."""
    shapes = draw(st.lists(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6), min_size=1, max_size=3))
    return [
        WeightTicket({f"t{i}": draw(arrays.arrays(np.bool_, shape)) for i, shape in enumerate(shapes)})
        for _ in range(count)
    ]


def as_set(ticket: WeightTicket) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, index) for name, mask in ticket.masks.items() for index in np.ndindex(*mask.shape) if mask[index]}


@given(tickets(2))
def test_tickets_are_sets(pair: list[WeightTicket]) -> None:
    one, other = pair
    everything = as_set(WeightTicket.full(one.shapes))
    a, b = as_set(one), as_set(other)
    assert as_set(one | other) == a | b
    assert as_set(one & other) == a & b
    assert as_set(one - other) == a - b
    assert as_set(~one) == everything - a
    assert (one <= other) == (a <= b)
    assert (one == other) == (a == b)
    assert (one.total, one.kept) == (len(everything), len(a))
    assert one.sparsity == pytest.approx(1 - len(a) / len(everything))
    assert one.overlap(other) == pytest.approx(len(a & b) / len(a | b) if a | b else 1.0)
    assert hash(one | other) == hash(other | one)
    assert one.part(["t0"]).masks.keys() == {"t0"}


@given(tickets(1), st.randoms())
def test_equal_tickets_have_equal_hashes(found: list[WeightTicket], chance: Any) -> None:
    (ticket,) = found
    names = list(ticket.masks)
    chance.shuffle(names)
    again = WeightTicket({name: ticket.masks[name].copy() for name in names})
    assert again == ticket
    assert hash(again) == hash(ticket)
    assert again.part(list(ticket.masks)).to_bytes() == ticket.to_bytes()
    assert ticket != "a ticket"


def test_a_ticket_never_changes() -> None:
    array = np.array([True, False])
    ticket = WeightTicket({"w": array})
    array[:] = False
    assert ticket.kept == 1
    with pytest.raises(ValueError, match="read-only"):
        ticket.masks["w"][0] = False


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"v": (2, 2)}, "w is missing in the other"),
        ({"w": (4,)}, r"w has shape \[2, 2\] and \[4\]"),
        ({"w": (2, 2), "v": (1,)}, "v is missing in the one"),
    ],
)
def test_tickets_of_other_tensors_do_not_combine(other: dict[str, tuple[int, ...]], message: str) -> None:
    one, two = WeightTicket.full({"w": (2, 2)}), WeightTicket.full(other)
    for combine in (lambda: one | two, lambda: one & two, lambda: one - two, lambda: one <= two):
        with pytest.raises(TicketError, match=message):
            combine()
    with pytest.raises(TicketError, match=message):
        one.overlap(two)
    assert one != two


def test_masks_are_bool_and_there_are_some() -> None:
    with pytest.raises(TicketError, match="must be an array of bool, got int64"):
        WeightTicket({"w": np.array([1, 0])})
    with pytest.raises(TicketError, match="at least one weight"):
        WeightTicket({})
    with pytest.raises(TicketError, match="combine with tickets of weights, got Ticket"):
        WeightTicket.full({"w": (1,)}) | FULL  # type: ignore[operator]


# --- files ------------------------------------------------------------------------------------------------------------


@given(tickets(1))
def test_a_ticket_comes_back_from_its_bytes(found: list[WeightTicket]) -> None:
    (ticket,) = found
    again = WeightTicket.from_bytes(ticket.to_bytes(), "here")
    assert again == ticket
    assert list(again.masks) == list(ticket.masks)
    assert again.digest == ticket.digest


def test_a_file_has_a_bit_a_weight_whatever_it_keeps() -> None:
    weights = {"w": np.random.default_rng(0).normal(size=(1000, 999))}
    sizes = {len(prune_by_magnitude(weights, k / 10).to_bytes()) for k in range(10)}
    assert len(sizes) == 1
    assert sizes.pop() == pytest.approx(999_000 / 8, rel=0.01)


def changed(content: bytes, masks: Any = None, **arrays: Any) -> bytes:
    """Return a ticket's file with other arrays (None: without one), or another account of them."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    kept = {name: value for name, value in {**load(content), **arrays}.items() if value is not None}
    return save(kept, metadata=metadata if masks is None else {"masks": json.dumps(masks)})


def test_damaged_bytes_are_told() -> None:
    whole = WeightTicket({"a": np.array([[True, False, True]]), "b": np.ones((3, 4), bool)}).to_bytes()
    cases = {
        whole[:-1]: "here: not a file of weight masks",
        whole[:20]: "here: not a file of weight masks",
        b"": "here: not a file of weight masks",
        b"junk" * 40: "here: not a file of weight masks",
        save({"a": np.ones(3, np.uint8)}): "here: not a file of weight masks",
        changed(whole, a=None): "here: the mask of a is missing",
        changed(whole, b=np.ones(3, np.uint8)): "here: the mask of b does not have the 12 bits of its shape",
        changed(whole, b=np.ones(2, np.int64)): "here: the mask of b does not have the 12 bits of its shape",
        changed(whole, masks=[["a", [1, 3]], ["b", [5, 4]]]): "here: the mask of b does not have the 20 bits",
        changed(whole, masks=[["a", "wide"]]): "here: not a file of weight masks",
        changed(whole, masks=3): "here: not a file of weight masks",
        changed(whole, masks=[]): "at least one weight",
    }
    for content, message in cases.items():
        with pytest.raises(TicketError, match=message):
            WeightTicket.from_bytes(content, "here")
    assert changed(whole) == whole  # control: what is changed by nothing is read
    WeightTicket.from_bytes(changed(whole), "here")


def save_shared(folder: Path) -> SharedTicket:
    ticket = prune_by_magnitude({"w": np.arange(12.0).reshape(3, 4), "v": np.ones(5)}, 0.5)
    base = {"name": "m", "weight_hash": "0" * 64}
    shared = SharedTicket(ticket, base, {"task": "cola"}, {"torch": "2"})
    shared.save(folder, "# A ticket")
    return shared


def test_a_ticket_folder_round_trip(tmp_path: Path) -> None:
    shared = save_shared(tmp_path / "ticket")
    assert load_weight_ticket(tmp_path / "ticket") == shared
    assert (tmp_path / "ticket" / "README.md").read_text() == "# A ticket"
    said = json.loads((tmp_path / "ticket" / "ticket.json").read_text())
    assert (said["weights"], said["kept"], said["tensors"]) == (17, shared.ticket.kept, 2)
    with pytest.raises(TicketError, match="a ticket of single weights; expected one of heads and FFNs"):
        load_ticket(tmp_path / "ticket")


def damage(folder: Path, what: str) -> None:
    file, array = folder / "ticket.json", folder / "ticket.safetensors"
    content = json.loads(file.read_text())
    changes: dict[str, dict[str, Any]] = {
        "structured": {"kind": "heads"},
        "newer": {"format": 99},
        "nameless": {"base": {"name": "m"}},
        "no base": {"base": None},
        "no name": {"base": {"name": 5, "weight_hash": "0"}},
        "odd origin": {"origin": {"drawn": {"seeds": "<b>"}}},
        "no sum": {"sha256": 1},
    }
    if what in changes:
        file.write_text(json.dumps(content | changes[what]))
    elif what == "no origin":
        del content["origin"]
        file.write_text(json.dumps(content))
    elif what == "list":
        file.write_text("[1]")
    elif what == "cut off":
        file.write_text(file.read_text()[:30])
    elif what == "no arrays":
        array.unlink()
    elif what == "flipped":
        array.write_bytes(array.read_bytes()[:-1] + bytes([array.read_bytes()[-1] ^ 1]))
    elif what == "other":
        array.write_bytes(WeightTicket.full({"w": (3, 4)}).to_bytes())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("structured", "not a ticket of single weights"),
        ("cut off", "not a ticket of single weights"),
        ("newer", "ticket format 99 is newer than this version reads"),
        ("nameless", "does not say which base model"),
        ("list", "not a ticket of single weights"),
        ("no base", r"the ticket folder is damaged \(ticket.json has a wrong entry 'base'\)"),
        ("no sum", r"the ticket folder is damaged \(ticket.json has a wrong entry 'sha256'\)"),
        ("no name", r"the ticket folder is damaged \(ticket.json has a wrong entry 'base.name'\)"),
        ("odd origin", r"the ticket folder is damaged \(ticket.json has a wrong entry 'origin.drawn'\)"),
        ("no origin", r"the ticket folder is damaged \(ticket.json has no entry 'origin'\)"),
        ("no arrays", "the ticket folder is damaged"),
        ("flipped", "does not match ticket.json"),
        ("other", "does not match ticket.json"),
    ],
)
def test_a_damaged_ticket_folder_is_told(tmp_path: Path, what: str, message: str) -> None:
    save_shared(tmp_path / "ticket")
    load_weight_ticket(tmp_path / "ticket")  # control
    damage(tmp_path / "ticket", what)
    with pytest.raises(TicketError, match=message) as told:
        load_weight_ticket(tmp_path / "ticket")
    assert ("is damaged" in str(told.value)) == ("is damaged" in message)  # one sentence, not one within another
    with pytest.raises(TicketError):
        load_weight_ticket(tmp_path / "nowhere")


def test_a_ticket_fits_its_model_alone() -> None:
    shapes = {"w": (3, 4), "pooler.dense.weight": (4, 4)}
    check_all_tensors(WeightTicket.full(shapes), shapes, "m")
    part = WeightTicket.full({"w": (3, 4)})
    check_tensors(part, shapes, "m")
    with pytest.raises(TicketError, match=r"has no mask of pooler.dense.weight \(1 of 2 prunable tensors"):
        check_all_tensors(part, shapes, "m")
    with pytest.raises(TicketError, match=r"w has shape \[4, 3\] and \[3, 4\]"):
        check_tensors(WeightTicket.full({"w": (4, 3)}), shapes, "m")
    with pytest.raises(TicketError, match="has a mask of v, which model 'm' does not have"):
        check_tensors(WeightTicket.full({"v": (4, 3)}), shapes, "m")


# --- zero, and kept zero ----------------------------------------------------------------------------------------------


def half_of(source: ModelSource, pruning: Pruning = PLAIN, sparsity: float = 0.5) -> WeightTicket:
    """Return a random ticket, so that weights of every size are pruned."""
    return draw_random_weights({n: v.shape for n, v in source.encoder_weights(pruning).items()}, sparsity, 5)


def trainer_of(
    source: ModelSource,
    task: Task,
    recipe: Recipe,
    ticket: WeightTicket,
    double: bool = False,
    checkpoint: Path | None = None,
    **plan: Any,
) -> tuple[Trainer, PreTrainedModel]:
    model = source.build(task.outputs, recipe.dropout, 0)
    zero(model, ticket)
    model = model.double() if double else model
    learner = Learner(encode(task, source.tokenizer, recipe.max_length), model, FULL)
    checkpoints = None if checkpoint is None else Checkpoints(checkpoint, "this", 0.0)
    return Trainer([learner], Plan(recipe, weight_ticket=ticket, **plan), CPU, checkpoints), model


def pruned_entries(model: PreTrainedModel, ticket: WeightTicket) -> Iterator[torch.Tensor]:
    parameters = dict(model.base_model.named_parameters())
    for name, mask in ticket.masks.items():
        if name in parameters:
            yield parameters[name][torch.tensor(~mask)]


@pytest.mark.parametrize("pruning", [PLAIN, EVERYTHING], ids=["matrices", "embeddings too"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamax", "released"])
def test_what_is_pruned_has_no_gradient_and_stays_zero(
    source: ModelSource, task: Task, optimizer: str, pruning: Pruning, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "weight_decay": 0.3, "epochs": 2})
    ticket = half_of(source, pruning)

    def train() -> tuple[list[float], PreTrainedModel]:
        trainer, model = trainer_of(source, task, recipe, ticket)
        names = {id(parameter): name for name, parameter in model.base_model.named_parameters()}
        rows = trainer._vocabulary.rows
        largest = []
        clip = torch.nn.utils.clip_grad_norm_

        def looking(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
            for parameter in parameters:
                name = names.get(id(parameter), "")
                if name in ticket.masks and parameter.grad is not None:
                    mask = ticket.masks[name][rows[name]] if name in rows else ticket.masks[name]
                    largest.append(float(parameter.grad[torch.tensor(~mask)].abs().max()))
            return clip(parameters, limit)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", looking)
            trainer.train()
        trainer.restore()
        return largest, model

    before = source.build(task.outputs, 0.0, 0)
    gradients, model = train()
    assert len(gradients) == 2 * 8 * len(ticket.masks)
    assert set(gradients) == {0.0}
    found = list(pruned_entries(model, ticket))
    assert sum(len(entries) for entries in found) == ticket.total - ticket.kept
    assert all(torch.count_nonzero(entries) == 0 for entries in found)
    kept = dict(model.base_model.named_parameters())["encoder.layer.0.output.dense.weight"]
    mask = torch.tensor(ticket.masks["encoder.layer.0.output.dense.weight"])
    start = dict(before.base_model.named_parameters())["encoder.layer.0.output.dense.weight"]
    assert torch.count_nonzero(kept) == mask.sum()  # the others are all there, and have moved
    assert (kept - start)[mask].abs().min() > 0
    # Control: without the gradients set to zero, weights come back.
    monkeypatch.setattr(masks, "mask_gradient", lambda parameter, factor: None)
    gradients, model = train()
    assert max(gradients) > 1e-3
    grown = torch.cat(list(pruned_entries(model, ticket)))
    assert torch.count_nonzero(grown) > 0.5 * len(grown)
    assert grown.abs().max() > 1e-2


def reparametrised(source: ModelSource, task: Task, recipe: Recipe, ticket: WeightTicket) -> tuple[Any, list[float]]:
    """Train w * m with torch's own pruning, everything written out; return the weights and the gradients' norms."""
    model = source.build(task.outputs, 0.0, 0).double()
    modules = dict(model.base_model.named_modules())
    for name, mask in ticket.masks.items():
        prune.custom_from_mask(modules[name.removesuffix(".weight")], "weight", torch.tensor(mask))
    data = encode(task, source.tokenizer, recipe.max_length).train
    batches = [rows for epoch in range(recipe.epochs) for rows in bucketed(data.lengths, recipe.batch_size, 0, epoch)]
    kind = {"adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}[recipe.optimizer]
    optimizer = kind(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, foreach=False)
    norms = []
    model.train()
    for step, rows in enumerate(batches):
        rate = recipe.learning_rate * (len(batches) - step) / len(batches)
        optimizer.param_groups[0]["lr"] = rate
        inputs, targets = data.collate(rows, CPU)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs).logits, targets).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(1 - rate * recipe.weight_decay)
        optimizer.step()
    for name in ticket.masks:
        prune.remove(modules[name.removesuffix(".weight")], "weight")
    return model.state_dict(), norms


@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
def test_a_masked_training_equals_a_reparametrised_one(
    source: ModelSource, task: Task, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = without_dropout(source)
    recipe = RECIPE.model_copy(
        update={"optimizer": optimizer, "weight_decay": 0.3, "max_grad_norm": 0.05, "learning_rate": 3e-3}
    )
    ticket = half_of(source)
    expected, norms = reparametrised(source, task, recipe, ticket)
    assert min(norms) > recipe.max_grad_norm  # every step is clipped

    def train() -> dict[str, torch.Tensor]:
        trainer, model = trainer_of(source, task, recipe, ticket, double=True)
        trainer.train()
        trainer.restore()
        return model.state_dict()

    found = train()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
    # Control: gradients that count in the clipping before they go make another training.
    clip, mask_gradient = torch.nn.utils.clip_grad_norm_, masks.mask_gradient
    waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def late(parameters: Any, limit: float) -> torch.Tensor:
        norm = clip(parameters, limit)
        while waiting:
            mask_gradient(*waiting.pop())
        return norm

    monkeypatch.setattr(masks, "mask_gradient", lambda parameter, factor: waiting.append((parameter, factor)))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", late)
    other = train()
    assert max((other[name] - expected[name]).abs().max() for name in expected) > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_a_ticket(family: str, tmp_path: Path, task: Task) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / family, family))))
    ticket = prune_by_magnitude(source.encoder_weights(PLAIN), 0.7)
    trainer, model = trainer_of(source, task, RECIPE.model_copy(update={"epochs": 1}), ticket)
    trainer.train()
    trainer.restore()
    found = weights_of(model.base_model, ticket.masks)
    # Under a stock output layer RoBERTa has no pooler; the ticket's mask of it waits.
    assert ticket.masks.keys() - found.keys() == ({"pooler.dense.weight"} if "roberta" in family else set())
    for name, values in found.items():
        assert np.array_equal(values != 0, ticket.masks[name]), name


# --- spans ------------------------------------------------------------------------------------------------------------


def rates(source: ModelSource, task: Task, span: Span | None, recipe: Recipe = RECIPE) -> tuple[Trainer, list[float]]:
    """Train; return each update's learning rate, and at the end the one that the next would have."""
    found: list[float] = []
    trainer, _ = trainer_of(source, task, recipe, half_of(source), span=span or Span.model_validate({}))
    trainer._optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: found.append(optimizer.param_groups[0]["lr"])
    )
    trainer.train()
    return trainer, [*found, trainer._optimizer.param_groups[0]["lr"]]


def test_the_learning_rate_falls_to_zero_in_a_round_or_over_all(source: ModelSource, task: Task) -> None:
    steps = 3 * 8
    _, of_round = rates(source, task, None)
    assert of_round == pytest.approx([1e-2 * (1 - step / steps) for step in range(steps + 1)], abs=1e-15)
    assert of_round[-1] == 0.0
    _, of_all = rates(source, task, Span(skip=0.0, stop=1.0, lr_horizon=10))
    assert of_all[0] == 1e-2
    assert of_all[-1] == pytest.approx(0.9e-2, rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_two_parts_of_a_training_are_the_whole(source: ModelSource, task: Task, share: float) -> None:
    recipe = RECIPE.model_copy(update={"warmup": 0.2})
    whole, rates_of_whole = rates(source, task, None, recipe)
    first, before = rates(source, task, Span(skip=0.0, stop=share, lr_horizon=1), recipe)
    second, after = rates(source, task, Span(skip=share, stop=1.0, lr_horizon=1), recipe)

    def batches(trainer: Trainer) -> list[list[int]]:
        return [rows.tolist() for order in trainer._orders for _, rows in order]

    assert first.total == round(share * 24)
    assert batches(first) + batches(second) == batches(whole)
    assert batches(first) != batches(second)[: first.total]
    assert before[:-1] + after == pytest.approx(rates_of_whole, abs=1e-15)
    assert len(whole.result.epochs) <= len(first.result.epochs) + len(second.result.epochs) <= 4


@given(
    st.lists(st.lists(st.integers(), min_size=1, max_size=6), min_size=1, max_size=5),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_min=True),
)
def test_parts_are_parts(epochs: list[list[int]], skip: float, stop: float) -> None:
    orders: Any = [[(0, step) for step in epoch] for epoch in epochs]
    flat = [step for epoch in orders for step in epoch]
    first, last = round(skip * len(flat)), round(stop * len(flat))
    found, begin = part_of(orders, first, last)
    assert found
    assert all(found)  # no epoch without a step, and one step at least
    assert begin == min(first, max(last, 1) - 1)
    assert [step for epoch in found for step in epoch] == flat[begin : max(last, 1)]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("span", [Span.model_validate({}), Span(skip=0.3, stop=0.9, lr_horizon=10)])
def test_a_stopped_masked_training_ends_bit_identical(
    source: ModelSource, task: Task, tmp_path: Path, span: Span
) -> None:
    recipe = RECIPE.model_copy(update={"dropout": 0.1, "weight_decay": 0.1, "optimizer": "adamw"})
    ticket = half_of(source, EVERYTHING)
    whole, expected = trainer_of(source, task, recipe, ticket, span=span)
    whole.train()
    stops = [9, 11]

    def report(event: dict[str, Any]) -> None:
        if stops and event["step"] == stops[0]:
            stops.pop(0)
            raise StoppedError

    for _ in range(2):
        trainer, model = trainer_of(source, task, recipe, ticket, span=span, checkpoint=tmp_path / "checkpoint")
        with pytest.raises(StoppedError):
            trainer.train(report)
    trainer, model = trainer_of(source, task, recipe, ticket, span=span, checkpoint=tmp_path / "checkpoint")
    zeros = [(len(e), int(torch.count_nonzero(e))) for e in pruned_entries(source.build(2, 0.0, 0), half_of(source))]
    assert all(count > 0 for _, count in zeros)  # control: a model as built has no zeros there
    trainer.train()
    assert trainer.result.epochs == whole.result.epochs
    for one in (trainer, whole):
        one.restore()
    for (name, have), want in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(have, want), name
    assert all(torch.count_nonzero(entries) == 0 for entries in pruned_entries(model, ticket))
    drawn = [prune_by_magnitude(weights_of(one.base_model, ticket.masks), 0.6, ticket) for one in (model, expected)]
    assert drawn[0].to_bytes() == drawn[1].to_bytes()


# --- other weights to start from --------------------------------------------------------------------------------------


def test_shuffled_layers_are_the_same_matrices(loud_model: PreTrainedModel) -> None:
    def matrices() -> list[list[bytes]]:
        return [
            [linear.weight.detach().numpy().tobytes() for linear in layer.values()] for layer in linears(loud_model)
        ]

    state = {name: value.clone() for name, value in loud_model.state_dict().items()}
    before = matrices()
    names = list(prunable(loud_model.base_model, PLAIN))
    start_otherwise(loud_model, "shuffled-layers", names, 1)
    after = matrices()
    assert after != before
    assert sorted(after) == sorted(before)  # all six of a layer together
    moved = {name for name, value in loud_model.state_dict().items() if not torch.equal(value, state[name])}
    assert 0 < len(moved) <= 6 * LAYERS
    assert moved <= {f"{loud_model.base_model_prefix}.{name}" for name in names if ".layer." in name}


@pytest.mark.parametrize(("of", "more"), [("olmo2", {}), ("t5", {"num_layers": 2}), ("gpt2", {})])
def test_all_matrices_of_a_layer_are_shuffled(of: str, more: dict[str, int]) -> None:
    """Those too that pruning heads leaves whole, of the encoder and of a decoder; nothing else moves."""
    model = make_loud(AutoModelForSequenceClassification.from_config(tiny_config(of, **more)).double())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    start_otherwise(model, "shuffled-layers", [], 1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    matrices = {name for name, value in state.items() if re.search(r"\.\d+\.", name) and value.ndim == 2}
    inside = {name for name in matrices if "relative" not in name}  # T5's table is an embedding
    assert moved <= inside
    of_all = [{re.sub(r"\.\d+\.", ".*.", name, count=1) for name in names} for names in (moved, inside)]
    assert of_all[0] == of_all[1]


@pytest.mark.parametrize(("of", "field"), [("albert", "num_hidden_groups"), ("bert", "num_hidden_layers")])
def test_one_layer_cannot_be_shuffled(of: str, field: str) -> None:
    """ALBERT's share their weights."""
    model = AutoModelForSequenceClassification.from_config(tiny_config(of, **{field: 1}))
    with pytest.raises(TicketError, match="shuffled-layers: the model has the weights of one layer"):
        start_otherwise(model, "shuffled-layers", [], 1)
    check_start(model, "shuffled-elements")
    check_start(AutoModelForSequenceClassification.from_config(tiny_config("bert")), "shuffled-layers")


def test_an_albert_may_keep_its_pooler() -> None:
    encoder = AutoModel.from_config(tiny_config("albert"))
    pruned = {pooler: set(prunable(encoder, Pruning.model_validate({"pooler": pooler}))) for pooler in (True, False)}
    assert pruned[True] - pruned[False] == {"pooler.weight"}


def test_shuffled_elements_are_the_same_numbers(loud_model: PreTrainedModel) -> None:
    state = {name: value.clone() for name, value in loud_model.state_dict().items()}
    names = list(prunable(loud_model.base_model, PLAIN))
    start_otherwise(loud_model, "shuffled-elements", names, 1)
    for name, value in loud_model.state_dict().items():
        inside = name.removeprefix(f"{loud_model.base_model_prefix}.")
        if inside not in names:
            assert torch.equal(value, state[name]), name
            continue
        assert torch.equal(value.flatten().sort().values, state[name].flatten().sort().values), name
        assert (value != state[name]).double().mean() > 0.9, name


@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_random_weights_leave_nothing_pre_trained(family: str, auto: Any) -> None:
    def loud() -> PreTrainedModel:
        model = make_loud(auto.from_config(tiny_config(family)).double())
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                torch.nn.init.normal_(module.weight)
        return model

    model = loud()
    before = {name: value.clone() for name, value in model.named_parameters()}
    start_otherwise(model, "random", [], 7)
    for name, value in model.named_parameters():
        assert not torch.eq(value, before[name]).any(), name
        if value.ndim >= 2:
            assert value.std().item() == pytest.approx(model.config.initializer_range, rel=0.25), name
        else:
            assert value.unique().tolist() == [0.0 if name.endswith("bias") else 1.0], name


@pytest.mark.parametrize("how", ["random", "shuffled-layers", "shuffled-elements"])
def test_the_seed_decides_how_to_start(how: str, source: ModelSource) -> None:
    names = list(source.encoder_weights(PLAIN))

    def start(seed: int) -> dict[str, torch.Tensor]:
        model = source.build(2, 0.0, 0)
        start_otherwise(model, how, names, seed)
        return model.state_dict()

    one, again, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
