"""How dimensions count structures, and what a family's data says of sizes."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, PreTrainedModel

from helpers.models import tiny_config
from supertickets.anatomy import FAMILIES, Family, Shape
from supertickets.anatomy.cost import forward_flops, parameters
from supertickets.anatomy.family import _NO_CLASS, _NOT_YET
from supertickets.anatomy.parts import index, size_of, width
from supertickets.cli import main
from supertickets.models import quiet_transformers
from supertickets.tickets import Ticket

AXES = ("h d", "3 h d", "h 3 d", "h d + g d + g d", "2 n", "n", "h", "g d", "2 h 3 d + n")
sizes = st.fixed_dictionaries({name: st.integers(1, 5) for name in "hgdn"})


def naive(axes: str, sizes: dict[str, int], kept: dict[str, list[int]]) -> list[int]:
    """Count the places one after the other, and keep those whose structures stay."""
    place, found = 0, []
    for block in axes.split(" + "):
        names = block.split()
        for at in product(*(range(int(name) if name.isdigit() else sizes[name]) for name in names)):
            if all(name not in kept or number in kept[name] for name, number in zip(names, at, strict=True)):
                found.append(place)
            place += 1
    return found


@given(st.sampled_from(AXES), sizes, st.data())
def test_places_that_stay_are_those_that_counting_keeps(axes: str, sizes: dict[str, int], data: st.DataObject) -> None:
    masks = {
        name: np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
        for name, size in sizes.items()
        if data.draw(st.booleans())
    }
    kept = {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
    expected = naive(axes, sizes, kept)
    assert index(axes, sizes, masks).tolist() == expected
    assert index(axes, sizes, kept).tolist() == expected
    assert size_of(axes, sizes) == len(naive(axes, sizes, {}))
    for name in "hgdn":
        one, none = (len(naive(axes, sizes, {name: places})) for places in ([0], []))
        assert width(axes, name, sizes) == one - none


def test_a_layout_that_is_misread_keeps_other_places() -> None:
    by_part, by_head = (index(axes, {"h": 4, "d": 2}, {"h": [1, 3]}) for axes in ("3 h d", "h 3 d"))
    assert len(by_part) == len(by_head)
    assert by_part.tolist() != by_head.tolist()


def test_places_in_another_order() -> None:
    assert index("h d", {"h": 3, "d": 2}, {"h": [2, 0]}).tolist() == [4, 5, 0, 1]


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_sizes_by_hand(family: str) -> None:
    found: Family = FAMILIES[family]
    names = (found.config_layers, found.config_heads, found.config_hidden, found.config_ffn)
    shape = found.shape(dict(zip(names, (2, 4, 32, 48), strict=True)))
    assert shape == Shape(2, 4, 32, 48)
    assert (shape.head_size, shape.kv_heads, shape.kv_weights) == (8, 4, 0)
    assert (shape.head_weights, shape.head_biases) == (4 * 32 * 8, 3 * 8)
    assert (shape.ffn_weights, shape.ffn_biases) == (2 * 32 * 48, 32 + 48)


def test_a_key_value_head_costs_until_its_last_query_head_is_gone() -> None:
    shape = Shape(1, 4, 32, 48, head_size=8, kv_heads=2, head_weights=512, head_biases=8, kv_weights=512, kv_biases=16)
    one, two = (Ticket.from_pruned(1, 4, [(0, head) for head in pruned], []) for pruned in ([0], [0, 1]))
    full = Ticket.full(1, 4)
    assert parameters(shape, full) - parameters(shape, one) == 512 + 8
    assert parameters(shape, one) - parameters(shape, two) == 512 + 8 + 512 + 16
    assert forward_flops(shape, full, 1, 1) - forward_flops(shape, one, 1, 1) == 2 * 512 + 2 * 2 * 8


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("mixtral", ": its FFNs are mixtures of experts;"),
        ("mamba", ": it has layers of linear"),
        ("granite", ": transformers has no class of it that classifies texts;"),
        ("nobody", ";"),
    ],
)
def test_an_architecture_without_a_family_is_refused_with_the_reason(
    model_type: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert main(["find", "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"(model_type '{model_type}') is not supported{why}" in said
    assert "supported are albert, bart, bert" in said
    assert ("CONTRIBUTING.md says how to add a model family." in said) == (model_type == "nobody")
    assert not (tmp_path / "out").exists()


def test_transformers_classifies_texts_with_none_of_those_that_are_refused_for_it() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES

    assert not set(_NOT_YET[_NO_CLASS]) & set(CLASSES)
    assert "bert" in CLASSES


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_longest_input_is_the_longest_that_runs(family: str) -> None:
    """With positions in a table, one token more has none; others count them relative to each other."""
    config = tiny_config(family)
    longest = FAMILIES[family].max_length(config.to_dict())
    with torch.no_grad(), quiet_transformers():
        model = AutoModel.from_config(config).eval()
        tables = [one for one in model.modules() if isinstance(one, torch.nn.Embedding) and one.num_embeddings in
                  (longest, longest + 1, longest + 2)]  # fmt: skip
        if longest > 1000 or not tables:
            assert model(**of_length(60, model)).last_hidden_state.isfinite().all()  # more than tables here have rows
            return
        assert model(**of_length(longest, model)).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(**of_length(longest + 1, model))


def of_length(tokens: int, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids = torch.full((1, tokens), 7)
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :1]} if model.config.is_encoder_decoder else {})
