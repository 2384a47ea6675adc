"""Trainings of a model's first layers alone (`--layers`): they are the stock model with so many layers."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

import supertickets
from helpers.models import FAMILIES, LAYERS, OTHERS, TWO_STACKS, save_tiny_model
from helpers.trials import make_trial
from supertickets.anatomy.cost import parameters
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import load_outcome
from supertickets.lab.steps import Execution
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model, load_model
from supertickets.studies.find import Find
from supertickets.studies.run import Result, check_request
from supertickets.tickets import Ticket

SHARED = ("albert", "esm", *TWO_STACKS)
"""Families whose first layers are no model of the same family."""
SMALL: dict[str, Any] = {
    "task": "words", "levels": (0.4,), "kinds": "winning", "epochs": 1, "batch_size": 8, "learning_rate": 1e-2,
    "max_length": 16, "precision": "float32", "workers": 1, "seeds": 1,
}  # fmt: skip
DENSE = {name: value for name, value in SMALL.items() if name not in ("levels", "kinds")}


@lru_cache(maxsize=1)
def saved(folder: Path) -> tuple[PretrainedConfig, str, dict[str, torch.Tensor]]:
    """Return a saved model's config, where its layers are, and its weights; a test asks for them several times."""
    weights = AutoModel.from_pretrained(folder, dtype=torch.float64).state_dict()
    return AutoConfig.from_pretrained(folder), find_model(str(folder)).family.layers, weights


def stock(folder: Path, layers: int, which: Mapping[int, int] | None = None) -> PreTrainedModel:
    """Return the stock class built with so many layers, with a saved model's weights: those of `which` layers."""
    config, place, weights = saved(folder)
    there = config.to_dict()
    numbers = {name: layers for name in ("num_hidden_layers", "n_layers", "n_layer") if name in there}
    lists = {name: there[name][:layers] for name in ("layer_types", "no_rope_layers") if there.get(name)}
    small = AutoModel.from_config(type(config)(**{**there, **numbers, **lists})).double().eval()
    rest = {name: value for name, value in weights.items() if f"{place}." not in name}
    for to, of in (which or {i: i for i in range(layers)}).items():
        found = {name: value for name, value in weights.items() if f"{place}.{of}." in name}
        rest |= {name.replace(f"{place}.{of}.", f"{place}.{to}."): value for name, value in found.items()}
    small.load_state_dict(rest, strict=which is None)  # the first layer may be without a norm
    return small


def hidden(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(5, 100, (4, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).last_hidden_state


def first(folder: Path, layers: int | None) -> PreTrainedModel:
    return load_model(find_model(str(folder), layers), AutoModel, torch.float32).model.double().eval()


def check(folder: Path) -> None:
    found = hidden(first(folder, 2))
    torch.testing.assert_close(found, hidden(stock(folder, 2)), rtol=0, atol=0)
    whole = stock(folder, LAYERS)
    for wrong in (stock(folder, 1), whole, stock(folder, 2, {0: 1, 1: 2})):  # negative controls
        assert float((hidden(wrong) - found).abs().max()) > 0.05
    torch.testing.assert_close(hidden(first(folder, None)), hidden(whole), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "smollm3"])
def test_first_layers_are_the_stock_model_with_so_many(family: str, tmp_path: Path) -> None:
    check(save_tiny_model(tmp_path / family, family, scale=0.5))


@pytest.mark.parametrize("family", [name for name in (*FAMILIES, *OTHERS) if name not in ("bert", "smollm3", *SHARED)])
def test_every_family_has_first_layers(family: str, tmp_path: Path) -> None:
    check(save_tiny_model(tmp_path / family, family, scale=0.5))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "distilbert"])
def test_a_saved_one_is_a_plain_model(family: str, tmp_path: Path) -> None:
    made = first(save_tiny_model(tmp_path / family, family, scale=0.5), 2)
    made.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.float32).double().eval()
    torch.testing.assert_close(hidden(again), hidden(made), rtol=0, atol=0)
    assert find_model(str(tmp_path / "saved")).shape.layers == 2


@pytest.mark.parametrize("family", SHARED)
def test_families_without_first_layers_are_refused(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    with pytest.raises(TicketError, match=r"cannot be cut to its first layers, since .*; expected a model such as"):
        first(folder, 2)


@pytest.mark.parametrize(("layers", "nearest"), [(0, 1), (-2, 1), (4, 3), (100, 3)])
def test_a_number_of_layers_that_there_is_not(layers: int, nearest: int, tiny_model: Path) -> None:
    with pytest.raises(TicketError) as caught:
        find_model(str(tiny_model), layers)
    said = f"has 3 layers; expected a number from 1 to 3, the nearest is {nearest}."
    assert str(caught.value) == f"--layers {layers}: model '{tiny_model}' {said}"


def test_a_wrong_number_is_misuse(tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong in ("0", "4", "two"):
        out = str(tmp_path / "out")
        assert main(["find", "--model", str(tiny_model), "--layers", wrong, "--out", out]) == 2
        assert "--layers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_number_is_part_of_the_trial_unless_it_is_all(tiny_model: Path, words: dict[str, Path]) -> None:
    trial, bases = make_trial(tiny_model, words), {n: find_model(str(tiny_model), n) for n in (None, 1, 2, 3)}
    keys = {
        n: trial.model_copy(update={"layers": base.layers, "weight_hash": base.weight_hash}).key
        for n, base in bases.items()
    }
    assert keys[None] == keys[3] == make_trial(tiny_model, words).key
    assert len(set(keys.values())) == 3
    assert bases[3] == bases[None]
    assert [bases[n].shape.layers for n in (1, 2, 3)] == [1, 2, 3]


def test_parameters_are_those_of_the_layers_that_stay(tiny_model: Path) -> None:
    counts, shapes = [], []
    for layers in (1, 2, 3):
        base = find_model(str(tiny_model), layers)
        counts.append(ModelSource(base).build(2, 0.0, 0).num_parameters())
        shapes.append(parameters(base.shape, Ticket.full(*base.shape.of_tickets)))
    assert counts[1] - counts[0] == counts[2] - counts[1] > 0
    assert shapes[1] - shapes[0] == shapes[0] == shapes[2] - shapes[1]
    notices = ModelSource(find_model(str(tiny_model), 2))
    notices.check("sequence", 2)
    assert f"Model {tiny_model} is cut to its first 2 layers of 3 (--layers)." in notices.notices


@pytest.fixture(scope="module")
def cut(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A study of the first two layers."""
    out = tmp_path_factory.mktemp("layers") / "out"
    return supertickets.find(SMALL, model=str(tiny_model), layers=2, out=out, **words)


def test_a_study_of_first_layers(cut: Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    shared = supertickets.load_ticket(cut.shipped["ticket"])
    assert shared.ticket.shape[0] == 2
    assert shared.base["layers"] == 2
    assert "first 2 layers" in (cut.shipped["ticket"] / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(cut.shipped["ticket"] / "model")
    assert model.config.num_hidden_layers == 2
    assert "(first 2 layers)" in cut.report.read_text()
    # As many layers as the model has are the model itself, and its trials others than those of two layers.
    asked = {**DENSE, "model": str(tiny_model), "kinds": (), "out": tmp_path / "out", **words}
    whole, counted = (Find.prepare({**asked, "layers": layers}) for layers in (None, LAYERS))
    assert whole.settings == counted.settings
    keys = [
        [order.trial.key for order in Execution(Find().steps(one.settings, check_request(Find, one))).begin()]
        for one in (whole, counted)
    ]
    assert keys[0] == keys[1] != []
    assert not set(keys[0]) & set(cut.table["trial"])


def test_tickets_of_first_layers_are_applied_to_them(cut: Result, tiny_model: Path, tmp_path: Path) -> None:
    made = supertickets.apply_ticket(cut.shipped["ticket"], None, out=tmp_path / "small")
    small = AutoModel.from_pretrained(tmp_path / "small")
    assert small.config.num_hidden_layers == 2
    assert small.num_parameters() == made["parameters"] < made["dense_parameters"]
    assert any("first 2 layers of 3" in notice for notice in made["notices"])
    first(tiny_model, 1).save_pretrained(tmp_path / "one")
    with pytest.raises(TicketError, match=r"drawn with --layers 2: model .* has 1 layer; expected"):
        supertickets.apply_ticket(cut.shipped["ticket"], str(tmp_path / "one"), out=tmp_path / "no", any_base=True)


def test_other_studies_take_them_with_their_layers(
    cut: Result, tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    small = {name: SMALL[name] for name in ("epochs", "batch_size", "max_length", "precision", "workers", "seeds")}
    adapted = supertickets.adapt(
        small, task="new", sources=cut.folder, fractions=(0.5,), out=tmp_path / "adapted", **words
    )
    assert {load_outcome(path).trial.layers for path in (adapted.folder / "trials").iterdir()} == {2}
    with pytest.raises(TicketError, match=r"use tickets of that model, or --model .* --layers 2\."):
        supertickets.transfer(small, model=str(tiny_model), tickets=cut.folder, out=tmp_path / "transferred")
    with pytest.raises(TicketError, match=r"its base model is not '.*' \(first layer\)"):
        supertickets.adapt(small, task="new", sources=cut.folder, layers=1, out=tmp_path / "other", **words)


def test_processes_that_find_the_model_themselves_give_the_same(cut: Result, tmp_path: Path) -> None:
    """As worker processes do, whose workbench is given no models."""
    bench = Workbench("cpu")
    for key in cut.table["trial"]:
        outcome = load_outcome(cut.folder / "trials" / key)
        assert outcome is not None
        again = bench.run(Job(outcome.trial, tmp_path / key, False, "a run"), lambda event: None)
        assert again.epochs == outcome.epochs
        assert np.array_equal(again.predictions()["dev"], outcome.predictions()["dev"])
    whole = outcome.trial.model_copy(update={"layers": None})  # control: with all its layers it is another model
    with pytest.raises(TicketError, match="have changed since"):
        Workbench("cpu").run(Job(whole, tmp_path / "whole", False, "a run"), lambda event: None)


def test_single_weights_of_first_layers(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    small = {name: SMALL[name] for name in ("task", "epochs", "batch_size", "max_length", "precision", "workers")}
    done = supertickets.imp(
        small, model=str(tiny_model), layers=1, sparsities=(0.5,), controls="none", seeds=1, out=tmp_path / "imp",
        **words,
    )  # fmt: skip
    masks = supertickets.load_weight_ticket(done.shipped["ticket"]).ticket.masks
    assert {name.split(".")[2] for name in masks if name.startswith("encoder.layer.")} == {"0"}
    assert json.loads((done.shipped["ticket"] / "ticket.json").read_text())["base"]["layers"] == 1
