"""Tickets of neurons (intermediate units of FFNs): sets, levels, drawing, folders, and studies of them."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoModelForSequenceClassification

import supertickets
from helpers.drawing import sizes
from helpers.models import FFN, HEADS, LAYERS
from supertickets.anatomy import Shape
from supertickets.anatomy.cost import parameters, units
from supertickets.errors import TicketError
from supertickets.evidence.find import FindFindings
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random, draw_ranked, normalise
from supertickets.tickets.folder import SharedTicket, load_ticket
from supertickets.tickets.kinds import Units
from supertickets.tickets.levels import counts_at, number_of, read_level
from supertickets.tickets.ticket import alike

L, H, N = 3, 2, 5


@st.composite
def tickets(draw: st.DrawFn, count: int = 1) -> tuple[Ticket, ...]:
    """Tickets of FFNs and of neurons of one model."""
    heads = [draw(arrays(bool, (L, H))) for _ in range(count)]
    of_neurons = st.one_of(arrays(bool, (L, N)), arrays(bool, (L, 1)).map(lambda kept: kept.repeat(N, axis=1)))
    return tuple(Ticket.of_neurons(kept, draw(of_neurons)) for kept in heads)


def as_set(ticket: Ticket) -> set[tuple[str, int, int]]:
    """The naive way: a set of names."""
    arrays = {"head": ticket.heads, "neuron": ticket.neurons_of(N)}
    return {(name, int(i), int(j)) for name, kept in arrays.items() for i, j in np.argwhere(kept)}


EVERYTHING = as_set(Ticket.full(L, H))


@given(tickets(2))
def test_tickets_are_sets_whatever_they_are_of(pair: tuple[Ticket, Ticket]) -> None:
    a, b = pair
    assert as_set(a | b) == as_set(a) | as_set(b)
    assert as_set(a & b) == as_set(a) & as_set(b)
    assert as_set(a - b) == as_set(a) - as_set(b)
    assert as_set(~a) == EVERYTHING - as_set(a)
    assert (a <= b) == (as_set(a) <= as_set(b))
    assert (a == b) == (as_set(a) == as_set(b))
    assert (hash(a) == hash(b)) or a != b
    if a.neurons is not None:  # of whole FFNs, they are counted as wholes
        assert a.overlap(b) == pytest.approx(len(as_set(a & b)) / max(1, len(as_set(a | b))))
    assert (a.neurons is None) == all(len(set(row)) == 1 for row in a.neurons_of(N).tolist())


@given(tickets())
def test_json_and_pickle_read_back(one: tuple[Ticket]) -> None:
    (ticket,) = one
    assert Ticket.from_dict(json.loads(json.dumps(ticket.as_dict()))) == ticket
    assert pickle.loads(pickle.dumps(ticket)) == ticket
    assert copy.deepcopy(ticket) == ticket


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neurons": ["a0", "40"]}, "its neurons are not 3 numbers of 5 bits"),
        ({"neurons": ["a0", "40", "0040"]}, "its neurons are not 3 numbers of 5 bits"),
        ({"neurons": ["a0", "40", "04"]}, "a neuron is beyond the 5 of its FFN"),
        ({"neurons": ["a0", "40", "zz"]}, "non-hexadecimal"),
        ({"neurons": None}, "there is no 'neurons'"),
        ({"ffns": [0, 1]}, "with some in each FFN that stays and none in any other"),
        ({"shape": [3, 2, 5, 5]}, "positional argument"),
    ],
)
def test_json_that_is_no_ticket(change: dict, message: str) -> None:
    whole = {"shape": [L, H, N], "heads": [[0], [], [1]], "ffns": [0, 1, 2], "neurons": ["a0", "40", "08"]}
    assert Ticket.from_dict(whole).as_dict() == whole  # control
    with pytest.raises(TicketError, match=message):
        Ticket.from_dict({name: value for name, value in {**whole, **change}.items() if value is not None})


def test_tickets_of_other_ffns_do_not_combine() -> None:
    heads = np.ones((L, H), bool)
    one, other = (Ticket.of_neurons(heads, np.eye(L, width, dtype=bool)) for width in (N, N + 1))
    with pytest.raises(TicketError, match="FFNs with 5 and with 6 neurons do not combine"):
        one | other
    assert one <= (one | Ticket.full(L, H))


# --- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (0.25, 0.25),
        ("0.25", 0.25),
        ("25%", 0.25),
        ("neurons=20%+heads=0.10", "heads=0.1+neurons=0.2"),
        ("heads = 0.5", "heads=0.5"),
        ("heads=0+neurons=0", 0.0),
        ("parameters:95%", "parameters:0.95"),
        ("parameters:1", 0.0),
    ],
)
def test_levels_are_read(written: float | str, read: float | str) -> None:
    assert read_level(written) == read
    assert read_level(read) == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (1.0, r"expected fractions in \[0, 1\), got 1"),
        ("parameters:0", r"expected fractions in \(0, 1\], got 0 in 'parameters:0'"),
        ("heads=1", r"\[0, 1\), got 1 in 'heads=1'"),
        ("heads=0.1+heads=0.2", "names 'heads', twice; expected heads, ffns, neurons"),
        ("experts=0.1", "names 'experts', which is no kind of structure; expected heads, ffns, neurons"),
        ("heads=", "such as 0.1, heads=0.1.neurons=0.2 or parameters:0.9, got '' in 'heads='"),
        (float("nan"), "got nan"),
    ],
)
def test_levels_that_are_none(written: float | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_level(written)


SMALL = units(Shape(layers=6, heads=12, hidden=384, ffn=1536), ("heads", "neurons"))
COARSE = units(Shape(layers=6, heads=12, hidden=384, ffn=1536), ("heads", "ffns"))


@pytest.mark.parametrize("stays", [0.95, 0.85, 0.6, 0.3])
def test_a_share_of_parameters_is_met_by_any_kinds(stays: float) -> None:
    """Within half of the smallest structure; one FFN of six is 11 %, so fractions alone would miss it."""
    shape = Shape(layers=6, heads=12, hidden=384, ffn=1536)
    for of in (SMALL, COARSE):
        counts = counts_at(f"parameters:{stays}", of)
        ticket = draw_random((6, 12), of, counts, 0.1, 0, Drawing())
        share = parameters(shape, ticket) / parameters(shape, Ticket.full(6, 12))
        smallest = min(one.parameters for one in of.values()) / parameters(shape, Ticket.full(6, 12))
        assert share == pytest.approx(stays, abs=smallest / 2 + 3e-4)  # the biases of FFNs are no neuron's
        assert number_of(f"parameters:{stays}", of) == pytest.approx(1 - stays)
    by_fraction = draw_random((6, 12), COARSE, counts_at(1 - 0.95, COARSE), 0.1, 0, Drawing())
    share = parameters(shape, by_fraction) / parameters(shape, Ticket.full(6, 12))
    assert abs(share - 0.95) > 0.03  # control


def test_levels_by_kind() -> None:
    counts = counts_at("heads=0.25+neurons=0.5", SMALL)
    assert counts == {"heads": 18, "neurons": 4608}
    assert number_of("heads=0.25+neurons=0.5", SMALL) == pytest.approx((0.25 + 2 * 0.5) / 3, abs=1e-3)
    assert counts_at("neurons=0.1", {"neurons": SMALL["neurons"]}) == {"neurons": 922}
    with pytest.raises(TicketError, match=r"its ffns are not pruned \(--structures heads,neurons\)"):
        counts_at("ffns=0.1", SMALL)
    with pytest.raises(TicketError, match=r"--levels parameters:0.001: .* of the parameters stay at least"):
        counts_at("parameters:0.001", SMALL)
    with pytest.raises(TicketError, match="--counts ladder"):
        counts_at(0.1, SMALL, "ladder")


def test_blocks_fill_an_ffn() -> None:
    shape = Shape(layers=2, heads=4, hidden=32, ffn=48)
    assert counts_at(0.3, units(shape, ("neurons",), 16)) == {"neurons": 32}
    with pytest.raises(TicketError, match=r"--neuron-block 7: an FFN has 48 neurons, .* the nearest that fits is 6"):
        units(shape, ("neurons",), 7)


# --- drawing ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10), st.floats(0, 0.99), st.sampled_from([1, 2, 4]))
@settings(max_examples=60)
def test_drawn_tickets_against_a_naive_drawing(seed: int, level: float, block: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {"heads": rng.random((L, H)), "ffns": rng.random(L), "neurons": rng.random((L, 8)).round(1)}
    of = {"heads": Units(L, H), "neurons": Units(L, 8, least=block)}
    counts = counts_at(level, of)  # type: ignore[arg-type]
    ticket = draw_ranked(scores, counts, "winning", block=block)  # type: ignore[arg-type]
    left = {
        (i, j): scores["neurons"][i, j * block : (j + 1) * block].sum() for i in range(L) for j in range(8 // block)
    }
    for layer in range(L):
        del left[max((place for place in left if place[0] == layer), key=lambda place: (left[place], -place[1]))]
    gone = sorted(left, key=lambda place: (left[place], place))[: counts["neurons"] // block]
    expected = np.ones((L, 8), bool)
    for i, j in gone:
        expected[i, j * block : (j + 1) * block] = False
    assert np.array_equal(ticket.neurons_of(8), expected)
    assert (~ticket.neurons_of(8)).sum() == counts["neurons"]
    lighter = draw_ranked(scores, {kind: n // 2 // block * block for kind, n in counts.items()}, "winning", block=block)  # type: ignore[arg-type]
    assert ticket <= lighter


def test_neurons_are_ranked_over_layers_that_are_normalised_like_heads() -> None:
    scores = {"heads": np.ones((2, 2)), "ffns": np.ones(2), "neurons": np.array([[3.0, 4.0], [300.0, 400.0]])}
    assert normalise(scores)["neurons"].tolist() == [[0.6, 0.8], [0.6, 0.8]]  # type: ignore[arg-type]
    kept = draw_ranked(normalise(scores), {"neurons": 2}, "winning")  # type: ignore[arg-type]
    assert kept.neurons_of(2).tolist() == [[False, True], [False, True]]
    assert kept.heads.all()  # not among the counts
    assert draw_ranked(normalise(scores), {"neurons": 2}, "losing").neurons_of(2).tolist() == [[True, False]] * 2  # type: ignore[arg-type]


def beyond_chance(draw: Callable[[int], np.ndarray], stay: int) -> bool:
    """Whether 4000 draws of what stays of 2 layers of 3, one at least of each, are no uniform ones."""
    possible: dict[bytes, int] = {}
    for bits in range(2**6):
        kept = np.array([bits >> place & 1 for place in range(6)], bool).reshape(2, 3)
        if kept.any(axis=1).all() and kept.sum() == stay:
            possible[kept.tobytes()] = 0
    draws = 4000
    for seed in range(draws):
        possible[draw(seed).tobytes()] += 1
    expected = draws / len(possible)
    return bool(sum((found - expected) ** 2 / expected for found in possible.values()) >= 2.5 * len(possible) + 15)


@pytest.mark.parametrize(("stay", "block"), [(2, 1), (3, 1), (4, 1), (4, 2)])
def test_random_tickets_are_uniform_among_those_that_keep_a_neuron_a_layer(stay: int, block: int) -> None:
    of, counts = {"neurons": Units(2, 3 * block, least=block)}, {"neurons": 6 * block - stay}

    def draw(seed: int) -> np.ndarray:
        ticket = draw_random((2, 1), of, counts, 0.5, seed, Drawing())  # type: ignore[arg-type]
        return ticket.neurons_of(3 * block)[:, ::block]

    assert not beyond_chance(draw, stay // block)


def test_one_neuron_of_each_layer_and_any_others_would_not_be_uniform() -> None:
    """The control: two and two of them are then drawn more often than one and three, which have fewer ways to come."""

    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        kept = np.zeros((2, 3), bool)
        kept[[0, 1], rng.integers(3, size=2)] = True
        kept.ravel()[rng.choice(np.flatnonzero(~kept), 2, replace=False)] = True
        return kept

    assert beyond_chance(draw, 4)


@pytest.mark.parametrize("how", ["without-replacement", "with-replacement"])
def test_random_tickets_are_of_whole_blocks(how: str) -> None:
    of = {"neurons": Units(3, 32, least=4)}
    drawn = draw_random((3, 1), of, {"neurons": 32}, 0.3, 0, Drawing.model_validate({"random": how}))  # type: ignore[arg-type]
    blocks = drawn.neurons_of(32).reshape(3, 8, 4)
    assert (blocks.all(axis=2) == blocks.any(axis=2)).all()
    pruned = (~blocks).sum()
    assert pruned == 32 if how == "without-replacement" else 0 < pruned < 32  # what is drawn twice is pruned once


def test_random_tickets_of_a_large_model_are_drawn_at_once() -> None:
    of = sizes(24, 16, 4096)
    ticket = draw_random((24, 16), of, counts_at(0.999, of), 0.999, 0, Drawing())
    assert ticket.neurons_of(4096).any(axis=1).all()
    assert ticket.kept_neurons == 24 * 4096 - counts_at(0.999, of)["neurons"]


# --- folders and studies ----------------------------------------------------------------------------------------------


def test_a_ticket_folder_of_format_2(tmp_path: Path) -> None:
    ticket = Ticket.of_neurons(np.ones((L, H), bool), np.eye(L, N, dtype=bool))
    scores = {"neurons": np.arange(L * N, dtype=float).reshape(L, N)}
    shared = SharedTicket(ticket, {"name": "m", "weight_hash": "h"}, {}, {}, scores)
    shared.save(tmp_path / "new", "")
    SharedTicket(Ticket.full(L, H), shared.base, {}, {}).save(tmp_path / "old", "")
    contents = [json.loads((tmp_path / name / "ticket.json").read_text()) for name in ("new", "old")]
    assert [content["format"] for content in contents] == [2, 1]  # which earlier versions read
    assert contents[0]["shape"] == {"layers": L, "heads": H, "neurons": N}
    assert contents[0]["kept"] == {"heads": L * H, "ffns": L, "neurons": L}
    found = load_ticket(tmp_path / "new")
    assert found.ticket == ticket
    assert np.array_equal(found.scores["neurons"], scores["neurons"])
    (tmp_path / "new" / "ticket.json").write_text(json.dumps({**contents[0], "shape": contents[1]["shape"]}))
    with pytest.raises(TicketError, match=r"the shape of ticket\.safetensors does not match"):
        load_ticket(tmp_path / "new")


@pytest.fixture(scope="module")
def done(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> supertickets.Result:
    return supertickets.find(
        model=str(tiny_model), task="words", **words, structures="heads,neurons", seeds=2, epochs=1,
        levels="0.2,heads=0.3+neurons=0.1,parameters:0.4", kinds="winning,random", precision="float32",
        batch_size=8, learning_rate=1e-2, max_length=16, workers=1, out=tmp_path_factory.mktemp("neurons") / "out",
    )  # fmt: skip


@pytest.mark.medium
def test_a_study_of_neurons(done: supertickets.Result) -> None:
    findings = done.findings
    assert isinstance(findings, FindFindings)
    table = done.table[done.table["kind"] == "winning"].set_index("level")
    assert (table["status"] == "finished").all()
    assert {round(level, 3) for level in table.index} == {0.2, 0.215, 0.6}
    heads, neurons = LAYERS * HEADS, LAYERS * FFN
    assert (table.loc[0.2, "heads"] == heads - round(0.2 * heads)).all()
    assert (table.loc[0.2, "neurons"] == neurons - round(0.2 * neurons)).all()
    assert table.loc[0.6, "encoder"].to_numpy() == pytest.approx(0.4, abs=0.005)
    assert list(findings.kept) == ["heads", "neurons", "parameters", "FLOPs"]
    assert findings.kept.loc[0.2, "neurons"] == pytest.approx(1 - 0.2, abs=0.01)
    assert list(findings.agreement) == ["level", "pairs", "heads", "heads_chance", "neurons", "neurons_chance"]
    assert "of all neurons" in done.verdict or "of all neurons" in (done.folder / "summary.txt").read_text()
    page = done.report.read_text()
    assert "neurons kept" in page
    ticket = load_ticket(done.shipped["ticket"])
    assert ticket.ticket.neurons is not None
    assert set(ticket.scores) == {"heads", "ffns", "neurons"}
    model = AutoModelForSequenceClassification.from_pretrained(done.shipped["ticket"] / "model")
    sizes_of = [layer.intermediate.dense.out_features for layer in model.base_model.encoder.layer]
    assert sizes_of == ticket.ticket.neurons.sum(axis=1).tolist()
    assert "neurons" in (done.shipped["ticket"] / "README.md").read_text()


@pytest.mark.medium
@pytest.mark.slow
def test_neurons_are_shared_between_tasks_and_transferred(
    done: supertickets.Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    small = {"batch_size": 8, "max_length": 16, "epochs": 1, "seeds": 1, "workers": 1}
    recipe = {"precision": "float32", "learning_rate": 1e-2, **small}
    other = supertickets.find(
        recipe, model=str(tiny_model), task="other", train_file=words["dev_file"], dev_file=words["train_file"],
        structures="heads,ffns", levels=0.4, kinds="winning", out=tmp_path / "other",
    )  # fmt: skip
    both = (done.folder, other.folder)
    shared = supertickets.share(recipe, model=str(tiny_model), tickets=both, fine_tune=False, out=tmp_path / "share")
    assert (shared.table["status"] == "finished").all()
    assert "neurons of all" in shared.findings.keepers
    moved = supertickets.transfer(
        recipe, model=str(tiny_model), tickets=both, baselines="random", out=tmp_path / "transfer"
    )
    assert (moved.table["status"] == "finished").all()
    kinds = [set(kept) for kept in alike(load_ticket(done.shipped["ticket"]).ticket)]
    assert kinds == [{"heads", "neurons"}]
