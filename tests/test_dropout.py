"""Keyed dropout: the same masks for a ticket and its dense model, whatever was cut; statistics of masks; trainings."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from helpers.families import FIRST_WITHOUT_HEADS, NEURONS, NO_HEADS, OTHER, fitted, texts_of
from helpers.models import FAMILIES, LAYERS, OTHERS, make_loud, tiny_config
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import ticket_gated
from supertickets.surgery.sharing import SharedStructures
from supertickets.training.dropout import KeyedDropout, keyed_mask
from test_surgery import TICKET, hidden_states

DROP_NEURONS = ("bart", "gte", "mbart", "modernbert", "modernbert-decoder", "mt5", "t5")
"""Families with dropout inside their FFNs, which drops by place among the neurons that are left."""
LIKE = torch.zeros(40, 25)


def dropping(family: str, attention: str | None = None, chance: float = 0.3) -> PreTrainedModel:
    """Return a loud tiny model in training, whose config drops wherever it can; ValueError without that attention."""
    config = tiny_config(family, num_labels=2)
    for name, value in config.to_dict().items():
        if "drop" in name and "layerdrop" not in name and type(value) in (int, float):
            setattr(config, name, chance)
    model = AutoModelForSequenceClassification.from_config(config)
    if attention is not None:
        model.set_attn_implementation(attention)
    return make_loud(model.double()).train()


def states(model: PreTrainedModel, inputs: dict[str, torch.Tensor], seed: int = 0, step: int = 0) -> torch.Tensor:
    keyed = KeyedDropout([model])
    with keyed.drawn(seed, step):
        found = hidden_states(model, inputs)
    keyed.remove()
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.medium) for name in OTHERS)])
def test_cut_drops_what_gated_drops(family: str, attention: str) -> None:
    """In training: with one key the cut model's states are the gated dense model's, with torch's masks they are not."""
    inputs, first = texts_of(family), TICKET if family in DROP_NEURONS else NEURONS
    try:
        model = dropping(family, attention)
    except ValueError:
        pytest.skip(f"{family} has no {attention} attention")
    for one in (first, NO_HEADS):
        ticket = fitted(one, family)
        small = cut(copy.deepcopy(model), ticket)
        with ticket_gated(model, ticket):
            expected = states(model, inputs, 5, 7)
            torch.manual_seed(0)
            by_torch = hidden_states(model, inputs) if one is first else None
        near = 1e-13 * max(10, float(expected.abs().max()))
        torch.testing.assert_close(states(small, inputs, 5, 7), expected, rtol=1e-12, atol=near)
        if by_torch is None:  # the controls, which take longest, are run for the first ticket
            continue
        for other in ((6, 7), (5, 8)):
            assert (states(small, inputs, *other) - expected).abs().max() > 0.1
        torch.manual_seed(0)
        assert (hidden_states(small, inputs) - by_torch).abs().max() > 0.1


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_each_ticket_of_a_shared_encoder_drops_what_it_drops_alone(family: str) -> None:
    """Heads of a shared encoder stand in another order."""
    inputs, model = texts_of(family), dropping(family)
    tickets = [fitted(one, family) for one in (TICKET, OTHER, FIRST_WITHOUT_HEADS)]
    alone = [states(cut(copy.deepcopy(model), ticket), inputs) for ticket in tickets]
    shared = cut(copy.deepcopy(model), tickets[0] | tickets[1] | tickets[2])
    structures = SharedStructures(shared, tickets)
    for ticket, expected in zip(tickets, alone, strict=True):
        structures.activate(ticket)
        torch.testing.assert_close(states(shared, inputs), expected, rtol=1e-12, atol=1e-11)


def drawn(key: tuple[int, ...], like: torch.Tensor, p: float, rows: Any = range(8), of: int = 8) -> torch.Tensor:
    return keyed_mask(key, like, like.shape, p, rows, of)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_masks_keep_the_mean(p: float, dtype: torch.dtype) -> None:
    mask = drawn((1, 2, 3), LIKE.to(dtype), p, range(200), 200)
    assert (mask.dtype, mask.shape) == (dtype, (200, 40, 25))
    kept = torch.tensor(1 / (1 - p), dtype=dtype)
    values = mask.unique()
    assert (len(values), float(values[0])) == (2, 0)
    assert abs(float(values[1] / kept) - 1) < 5e-3
    spread = np.sqrt(p * (1 - p) / mask.numel())
    assert abs(float((mask == 0).double().mean()) - p) < 4 * spread + 1 / 65536
    by_row = (mask == 0).double().mean(dim=(1, 2)).numpy()  # no row, no column is unlike the others
    assert by_row.std() == pytest.approx(np.sqrt(p * (1 - p) / 1000), rel=0.25)
    by_column = (mask == 0).double().mean(dim=(0, 1)).numpy()
    assert np.abs(by_column - p).max() < 5 * np.sqrt(p * (1 - p) / 8000)


@pytest.mark.parametrize("rows", [[0, 1, 2], [3, 4, 7], [5, 0, 6, 1], [7], []])
@pytest.mark.parametrize("numbers", [(3, 5), (16, 8), (1, 1)])
def test_rows_are_the_whole_mask_s(rows: list[int], numbers: tuple[int, int], device_draws: None) -> None:
    like = torch.zeros(numbers)
    whole = drawn((4, 5), like, 0.4)
    assert torch.equal(drawn((4, 5), like, 0.4, rows), whole[rows])
    assert numbers == (1, 1) or not torch.equal(drawn((4, 6), like, 0.4), whole)


@pytest.fixture(params=[False, True], ids=["cpu", "other devices"])
def device_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw as on a CPU, and as on other devices."""
    if request.param:
        monkeypatch.setattr("supertickets.training.dropout._draws_itself", lambda device: True)


def test_masks_of_other_places_have_nothing_in_common() -> None:
    """Correlations of the masks of 30 keys are those of independent ones; a key's with itself is 1 (control)."""
    masks = np.stack([drawn((0, step, place, 0), LIKE, 0.3).numpy().ravel() for step in range(5) for place in range(6)])
    found = np.corrcoef(masks)
    off = found[np.triu_indices(30, 1)]
    assert np.abs(off).max() < 4.5 / np.sqrt(masks.shape[1])
    assert off.std() == pytest.approx(8000**-0.5, rel=0.2)
    assert found.diagonal() == pytest.approx(1)


@pytest.mark.parametrize("p", [0.0, 1.0, 0.2])
def test_chances_at_the_ends(p: float) -> None:
    mask = drawn((1,), LIKE, p)
    assert bool((mask == 0).all()) == (p == 1)
    assert bool((mask == 1).all()) == (p == 0)


class Counted(TorchFunctionMode):
    """Counts the calls of torch's own attention."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
def test_attention_without_dropout_stays_torch_s(training: bool) -> None:
    """Nothing is dropped in evaluation, nor where nothing is to be dropped."""
    inputs, model = texts_of("bert"), dropping("bert", "sdpa", 0.0 if training else 0.3).train(training)
    with Counted() as torchs:
        found = states(model, inputs)
    assert torchs.calls == LAYERS
    assert torch.equal(found, hidden_states(model, inputs))
    with Counted() as torchs:  # control: attention with dropout is made of single operations
        states(dropping("bert", "sdpa"), inputs)
    assert torchs.calls == 0
