import json
import pickle
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from helpers.drawing import randomly, ranked, sizes
from supertickets.errors import TicketError
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_ranked, normalise_by_layer
from supertickets.tickets.folder import SharedTicket, load_ticket
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.levels import counts_at
from supertickets.tickets.scoring import Scores

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6))
LEVELS = st.floats(0, 0.99)


@st.composite
def tickets(draw: st.DrawFn, count: int = 1) -> tuple[Ticket, ...]:
    layers, heads = draw(SHAPES)
    modules = draw(st.integers(layers, 2 * layers - 1))  # of a decoder beside an encoder there are more than layers
    return tuple(Ticket(draw(arrays(bool, (modules, heads))), draw(arrays(bool, (layers,)))) for _ in range(count))


@st.composite
def scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    layers, heads = draw(SHAPES)
    values = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5]))  # ties happen
    return draw(arrays(float, (layers, heads), elements=values)), draw(arrays(float, (layers,), elements=values))


@given(tickets(3))
def test_tickets_are_sets(abc: tuple[Ticket, Ticket, Ticket]) -> None:
    a, b, c = abc
    full, empty = Ticket.full(*a.shape), ~Ticket.full(*a.shape)
    assert a | b == b | a
    assert a & (b | c) == (a & b) | (a & c)
    assert ~(a | b) == ~a & ~b
    assert a - b == a & ~b
    assert a | ~a == full
    assert a & ~a == empty
    assert (a & b) <= a <= (a | b)
    assert (a <= b) == ((a | b) == b)
    assert a.overlap(b) == b.overlap(a)
    assert a.overlap(a) == 1.0
    assert hash(a) == hash(Ticket.from_dict(a.as_dict()))


@given(tickets())
def test_the_json_form_reads_back(one: tuple[Ticket]) -> None:
    assert Ticket.from_dict(one[0].as_dict()) == one[0]


def test_a_decoder_beside_an_encoder_has_two_attention_modules_a_layer(tmp_path: Path) -> None:
    ticket = Ticket.from_pruned(3, 2, [(0, 1), (4, 0)], [2], attentions=5)
    assert ticket.shape == (3, 2, 5)
    assert (ticket.kept_heads, ticket.kept_ffns) == (8, 2)
    assert [tuple(one) for one in ticket.modules] == [
        (0, "", True),
        (1, "self-attention", False),
        (1, "cross-attention", True),
        (2, "self-attention", False),
        (2, "cross-attention", True),
    ]
    form = ticket.as_dict()
    assert (form["shape"], form["attentions"]) == ([3, 2], 5)
    base = {"name": "some", "weight_hash": "0"}
    SharedTicket(ticket, base, {}, {}, {}).save(tmp_path / "ticket", "")
    assert load_ticket(tmp_path / "ticket").ticket == ticket
    assert json.loads((tmp_path / "ticket" / "ticket.json").read_text())["format"] == 2
    for wrong in (6, 2):  # no encoder, or fewer modules than layers
        with pytest.raises(TicketError, match=re.escape(f"got [{wrong}, 2] and [3]")):
            Ticket.full(3, 2, wrong)
    with pytest.raises(TicketError, match="3 layers with 5 attention modules x 2 heads and 3 layers x 2 heads"):
        ticket | Ticket.full(3, 2)
    with pytest.raises(TicketError, match="3 layers of heads for 5 layers"):
        Ticket.from_dict({**form, "heads": form["heads"][:3]})


def test_a_ticket_never_changes() -> None:
    mask = np.ones((2, 3), bool)
    ticket = Ticket(mask, np.ones(2, bool))
    mask[0, 0] = False
    assert ticket == Ticket.full(2, 3)
    with pytest.raises(ValueError, match="read-only"):
        ticket.heads[0, 0] = False
    with pytest.raises(AttributeError):
        ticket.heads = mask  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(ticket))  # as it gets to another process
    assert again == ticket
    with pytest.raises(ValueError, match="read-only"):
        again.heads[0, 0] = False


@pytest.mark.parametrize(
    ("heads", "ffns"),
    [
        (np.ones(3, bool), np.ones(3, bool)),
        (np.ones((2, 3)), np.ones(2, bool)),
        (np.ones((2, 3), bool), np.ones(3, bool)),
    ],
)
def test_arrays_that_are_no_ticket(heads: np.ndarray, ffns: np.ndarray) -> None:
    with pytest.raises(TicketError):
        Ticket(heads, ffns)


def test_tickets_of_different_shapes_do_not_combine() -> None:
    with pytest.raises(TicketError, match="2 layers x 3 heads and 3 layers x 3 heads"):
        Ticket.full(2, 3) | Ticket.full(3, 3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"shape": None}, "there is no 'shape'"),
        ({"ffns": None}, "there is no 'ffns'"),
        ({"heads": [[0]]}, "1 layers of heads for 2 layers"),
        ({"heads": [[3], [0]]}, "a head of layer 0 is 3, expected 0 to 2"),
        ({"heads": [[0], [-1]]}, "a head of layer 1 is -1, expected 0 to 2"),
        ({"heads": [[0], [1, 1]]}, "a head of layer 1 is 1 twice, expected each once"),
        ({"heads": [[0], [True]]}, "a head of layer 1 is True, expected a whole number"),
        ({"heads": [[0], [1.0]]}, "a head of layer 1 is 1.0, expected a whole number"),
        ({"heads": [[0], ["1"]]}, "a head of layer 1 is '1', expected a whole number"),
        ({"ffns": [2]}, "an FFN is 2, expected 0 to 1"),
        ({"ffns": [-1]}, "an FFN is -1, expected 0 to 1"),
        ({"ffns": [0, 0]}, "an FFN is 0 twice, expected each once"),
        ({"ffns": [False, True]}, "an FFN is False, expected a whole number"),  # a mask in place of a list of layers
        ({"ffns": [0.0]}, "an FFN is 0.0, expected a whole number"),
        ({"ffns": 1}, "not iterable"),
        ({"shape": [2, True]}, "a size in `shape` is True, expected a whole number"),
        ({"shape": [2.0, 3]}, "a size in `shape` is 2.0, expected a whole number"),
    ],
)
def test_json_that_is_no_ticket(broken: dict, message: str) -> None:
    whole = {"shape": [2, 3], "heads": [[0, 2], [1]], "ffns": [1]}
    assert Ticket.from_dict(whole).as_dict() == whole  # control: the rest of it is right
    content = {name: value for name, value in {**whole, **broken}.items() if value is not None}
    with pytest.raises(TicketError, match=message):
        Ticket.from_dict(content)


@pytest.mark.parametrize("pruned", [([(0, -1)], []), ([(2, 0)], []), ([(0, True)], []), ([], [-1]), ([], [2])])
def test_what_an_encoder_lacks_cannot_be_pruned(pruned: tuple[list, list]) -> None:
    assert Ticket.from_pruned(2, 3, [(np.int64(1), 2)], [1]).kept_heads == 5  # control
    with pytest.raises(TicketError, match="cannot prune what the encoder does not have: a"):
        Ticket.from_pruned(2, 3, *pruned)


# --- drawing ----------------------------------------------------------------------------------------------------------


def naive_ranked(heads: np.ndarray, ffns: np.ndarray, n_heads: int, n_ffns: int) -> Ticket:
    """The text of the paper, read out loud: take the lowest away one at a time, never a layer's best head."""
    layers, per_layer = heads.shape
    protected = {(layer, max(range(per_layer), key=lambda h: (heads[layer, h], -h))) for layer in range(layers)}
    left = [(layer, head) for layer in range(layers) for head in range(per_layer) if (layer, head) not in protected]
    gone = []
    while left and len(gone) < n_heads:
        lowest = min(left, key=lambda place: (heads[place], place))
        left.remove(lowest)
        gone.append(lowest)
    gone_ffns = sorted(range(layers), key=lambda layer: (ffns[layer], layer))[:n_ffns]
    return Ticket.from_pruned(layers, per_layer, gone, gone_ffns)


@given(scores(), LEVELS)
def test_winning_and_losing_tickets_against_a_naive_drawing(found: tuple[np.ndarray, np.ndarray], level: float) -> None:
    heads, ffns = found
    n_heads, n_ffns = counts_at(level, sizes(*heads.shape)).values()
    assert ranked(heads, ffns, level, "winning") == naive_ranked(heads, ffns, n_heads, n_ffns)
    assert ranked(heads, ffns, level, "losing") == naive_ranked(-heads, -ffns, n_heads, n_ffns)


@given(scores(), LEVELS, st.integers(0, 5))
def test_every_kind_has_the_same_size_and_a_head_in_every_layer(
    found: tuple[np.ndarray, np.ndarray], level: float, seed: int
) -> None:
    heads, ffns = found
    layers, per_layer = heads.shape
    n_heads, n_ffns = counts_at(level, sizes(layers, per_layer)).values()
    drawn = [ranked(heads, ffns, level, kind) for kind in ("winning", "losing")]
    drawn.append(randomly(layers, per_layer, level, seed))
    for ticket in drawn:
        assert ticket.kept_heads == layers * per_layer - n_heads
        assert ticket.kept_ffns == layers - n_ffns
        assert ticket.heads.any(axis=1).all()


@given(scores(), LEVELS, LEVELS)
def test_winning_tickets_are_nested(found: tuple[np.ndarray, np.ndarray], one: float, other: float) -> None:
    heavy, light = (ranked(*found, level, "winning") for level in sorted((one, other), reverse=True))
    assert heavy <= light


def test_level_zero_is_the_dense_model() -> None:
    assert ranked(np.ones((3, 4)), np.ones(3), 0.0, "winning").is_full
    assert randomly(3, 4, 0.0, 0).is_full


def test_random_tickets_are_uniform_among_those_that_keep_a_head_a_layer() -> None:
    possible = {gone for gone in combinations(range(6), 3) if {i // 3 for i in range(6) if i not in gone} == {0, 1}}
    counts = dict.fromkeys(possible, 0)
    draws = 6000
    for seed in range(draws):
        ticket = randomly(2, 3, 0.5, seed)
        counts[tuple(np.flatnonzero(~ticket.heads.ravel()))] += 1  # a KeyError would be an impossible ticket
    expected = draws / len(possible)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 45  # 17 degrees of freedom: 5e-4 of fair draws lie above 43


def test_random_tickets_follow_the_seed_and_the_level() -> None:
    first = randomly(6, 12, 0.4, 1)
    assert first == randomly(6, 12, 0.4, 1)
    assert first != randomly(6, 12, 0.4, 2)


def test_the_released_ladder() -> None:
    levels = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert [(*counts_at(level, sizes(12, 12), "ladder").values(),) for level in levels] == [
        (14, 1), (28, 2), (43, 3), (57, 4), (72, 5), (86, 6), (100, 7), (115, 8),
    ]  # fmt: skip
    assert [(*counts_at(level, sizes(12, 12)).values(),) for level in levels] == [
        (14, 1), (29, 2), (43, 4), (58, 5), (72, 6), (86, 7), (101, 8), (115, 10),
    ]  # fmt: skip


def test_the_ladder_of_an_encoder_with_a_decoder_counts_its_ffns() -> None:
    """12 layers have 18 attention modules."""
    both: dict[Structure, Units] = {"heads": Units(18, 12), "ffns": Units(12, 1, one_stays=False)}
    found = [(*counts_at(level, both, "ladder").values(),) for level in (0.4, 0.8, 0.99)]
    assert found == [(86, 4), (172, 8), (198, 9)]


def test_a_ticket_of_a_ticket_never_gets_structures_back() -> None:
    rng = np.random.default_rng(0)
    scores: Scores = {"heads": rng.random((3, 4)), "ffns": rng.random(3)}
    first = draw_ranked(scores, {"heads": 6}, "winning")
    again = {"heads": np.where(first.heads, scores["heads"], 0.0), "ffns": scores["ffns"]}
    assert draw_ranked(again, {"heads": 6, "ffns": 1}, "winning", first) <= first
    with pytest.raises(TicketError, match="6 heads are gone already; expected a ticket that lacks"):
        draw_ranked(again, {"heads": 5}, "winning", first)


def test_released_random_tickets_prune_fewer_than_asked() -> None:
    """Spec section 3, mean of 2000 draws on base: 72 asked, 56.8 pruned."""
    how = Drawing(counts="ladder", random="with-replacement")
    gone = [144 - randomly(12, 12, 0.5, seed, how).kept_heads for seed in range(400)]
    assert np.mean(gone) == pytest.approx(56.8, abs=0.5)
    large = np.array([randomly(24, 16, 0.5, seed, how).heads for seed in range(100)])
    assert large[:, 16:].all()  # id // layers: only layers 0-15 can lose heads
    assert not large[:, :16].all()


def test_scores_that_cannot_rank() -> None:
    with pytest.raises(TicketError, match=r"\[layers, heads\]"):
        ranked(np.ones(3), np.ones(3), 0.5, "winning")
    with pytest.raises(TicketError, match="NaN"):
        ranked(np.full((2, 2), np.nan), np.ones(2), 0.5, "winning")


@given(scores())
@settings(max_examples=50)
def test_normalised_layers_have_length_one(found: tuple[np.ndarray, np.ndarray]) -> None:
    heads = found[0] + 0.1
    assert np.linalg.norm(normalise_by_layer(heads), axis=1) == pytest.approx(1.0)


# --- folders ----------------------------------------------------------------------------------------------------------


@given(one=tickets())
@settings(max_examples=20)
def test_a_ticket_folder_reads_back(one: tuple[Ticket], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ticket")
    measured = {
        "heads": np.random.default_rng(0).random(one[0].heads.shape),
        "ffns": np.arange(len(one[0].ffns), dtype=float),
    }
    shared = SharedTicket(one[0], {"name": "x", "weight_hash": "0"}, {"task": "t"}, {"python": "3"}, measured)
    shared.save(folder, "# card")
    again = load_ticket(folder)
    assert again.ticket == one[0]
    assert again.origin == shared.origin
    assert all(np.array_equal(again.scores[name], measured[name]) for name in measured)


def test_folders_that_hold_no_ticket(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=r"no ticket\.json"):
        load_ticket(tmp_path)
    shared = SharedTicket(Ticket.full(2, 2), {"name": "x", "weight_hash": "0"}, {}, {})
    shared.save(tmp_path / "study" / "super-ticket", "")
    with pytest.raises(TicketError, match=r"did you mean .*super-ticket"):
        load_ticket(tmp_path / "study")
    folder = tmp_path / "study" / "super-ticket"
    text = (folder / "ticket.json").read_text()
    (folder / "ticket.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(TicketError, match="newer"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(text.replace('"layers": 2', '"layers": 3'))
    with pytest.raises(TicketError, match=r"does not match ticket\.json"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(text.replace('"weight_hash"', '"hash"'))
    with pytest.raises(TicketError, match="does not say which base model"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(text.replace('"base"', '"bass"'))
    with pytest.raises(TicketError, match=r"damaged \(ticket\.json has no entry 'base'\)\.$"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(f"[{text}]")
    with pytest.raises(TicketError, match=r"damaged \(ticket\.json is not an object\)\.$"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(text)
    (folder / "ticket.safetensors").write_bytes(save({"heads": np.ones((2, 4), np.uint8)}))
    with pytest.raises(TicketError, match=r"the checksum of ticket\.safetensors does not match ticket\.json"):
        load_ticket(folder)
    (folder / "ticket.json").write_text(re.sub('"sha256": "[0-9a-f]+",', "", text))  # as earlier versions wrote it
    with pytest.raises(TicketError, match=r"damaged \(ticket\.safetensors has no entry 'ffns'\)\.$"):
        load_ticket(folder)
    (folder / "ticket.safetensors").write_bytes(b"junk")
    with pytest.raises(TicketError, match="damaged"):
        load_ticket(folder)
