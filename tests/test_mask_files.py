"""Tickets of weights for others: masks of released code, ticket folders, plain models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModel, AutoModelForSequenceClassification

import supertickets
from conftest import save_tiny_model
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.export.weights import import_masks
from supertickets.models import find_model, prunable_shapes, prunable_weights
from supertickets.tickets.folder import is_of_weights, load_weight_ticket
from supertickets.tickets.legacy import read_legacy_masks
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude

LAYERS_ONLY = Pruning.model_validate({"pooler": False})
DEFAULT = Pruning.model_validate({})
WITH_EMBEDDINGS = Pruning.model_validate({"embeddings": True})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "bert")


def ticket_of(model: Path, pruning: Pruning, sparsity: float = 0.4) -> WeightTicket:
    return prune_by_magnitude(prunable_weights(find_model(str(model)), pruning), sparsity)


def released(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    """BERT-Tickets' mask.pt."""
    return {
        f"bert.{name.removesuffix('.weight')}.weight_mask": torch.tensor(mask, dtype=torch.float32)
        for name, mask in ticket.masks.items()
    }


def state_dict(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    """A pruned model's state dict, saved under DataParallel."""
    rest = {
        f"bert.{name.removesuffix('.weight')}.weight_orig": torch.randn(mask.shape)
        for name, mask in ticket.masks.items()
    }
    found = released(ticket) | rest | {"bert.embeddings.LayerNorm.bias": torch.randn(32)}
    return {f"module.{name}": value for name, value in found.items()}


def grasp(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    return {
        f"bert.{name.removesuffix('.weight')}": torch.tensor(mask, dtype=torch.float32)
        for name, mask in ticket.masks.items()
    }


def tamt(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    return {f"{name.removesuffix('.weight')}.weight_mask": torch.tensor(mask) for name, mask in ticket.masks.items()}


@pytest.mark.parametrize(
    ("layout", "pruning"),
    [(released, DEFAULT), (state_dict, DEFAULT), (grasp, LAYERS_ONLY), (tamt, WITH_EMBEDDINGS)],
    ids=["mask.pt", "state dict", "GraSP", "TAMT"],
)
def test_masks_of_released_code_come_back(model: Path, tmp_path: Path, layout, pruning: Pruning) -> None:
    """A8: the four layouts of spec section 6, written as that code writes them."""
    ticket = ticket_of(model, pruning)
    torch.save(layout(ticket), tmp_path / "mask.pt")
    found = read_legacy_masks(tmp_path / "mask.pt", prunable_shapes(find_model(str(model))))
    assert found == ticket
    assert found != ticket_of(model, pruning, 0.5)


def test_masks_that_torch_prunes_by_come_back(model: Path, tmp_path: Path) -> None:
    """Global L1 pruning by torch itself, saved as the released code saves it, is our own ranking."""
    encoder = AutoModel.from_pretrained(model)
    modules = [(m, "weight") for n, m in encoder.named_modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(modules, prune.L1Unstructured, amount=0.4)
    masks = {f"bert.{name}": value for name, value in encoder.state_dict().items() if "mask" in name}
    torch.save(masks, tmp_path / "mask.pt")
    found = read_legacy_masks(tmp_path / "mask.pt", prunable_shapes(find_model(str(model))))
    assert found == ticket_of(model, DEFAULT)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"bert.encoder.layer.0.output.dense.weight_mask": torch.ones(2, 2)}, "has shape [2, 2]"),
        ({"bert.encoder.layer.9.output.dense.weight_mask": torch.ones(2, 2)}, "of no prunable tensor"),
        ({"bert.pooler.dense.weight_mask": torch.full((32, 32), 0.5)}, "other values than 0 and 1"),
        ({}, "no masks in it"),
        ([1, 2], "expected a dictionary of masks"),
        (nn.Linear(2, 2), "cannot be read safely|not a dictionary of tensors that can be read safely"),
    ],
)
def test_other_files_are_refused(model: Path, tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "mask.pt")
    with pytest.raises(TicketError) as error:
        read_legacy_masks(tmp_path / "mask.pt", prunable_shapes(find_model(str(model))))
    assert any(part in str(error.value) for part in said.split("|"))


def test_a_file_that_runs_code_does_not(model: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    torch.save({"a": Trap()}, tmp_path / "mask.pt")
    assert main(["import-masks", str(tmp_path / "mask.pt"), "--model", str(model), "--task", "rte",
                 "--out", str(tmp_path / "ticket")]) == 2  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ticket").exists()


def test_import_and_apply(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An imported ticket's encoder is the pre-trained one with zeros, in a plain folder."""
    ticket = ticket_of(model, DEFAULT)
    torch.save(released(ticket), tmp_path / "mask.pt")
    assert import_masks(tmp_path / "mask.pt", str(model), "mnli", tmp_path / "ticket") == ticket
    assert is_of_weights(tmp_path / "ticket")
    shared = load_weight_ticket(tmp_path / "ticket")
    assert shared.ticket == ticket
    assert shared.origin["task"] == "mnli"
    assert main(["apply", str(tmp_path / "ticket"), "--out", str(tmp_path / "sparse")]) == 0
    assert "% of the dense model's" in capsys.readouterr().out
    sparse, dense = AutoModel.from_pretrained(tmp_path / "sparse"), AutoModel.from_pretrained(model)
    assert "quantization_config" not in (tmp_path / "sparse" / "config.json").read_text()
    for name, parameter in dense.named_parameters():
        expected = parameter.detach().numpy() * ticket.masks.get(name, np.True_)
        np.testing.assert_array_equal(sparse.get_parameter(name).detach().numpy(), expected)
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(TicketError, match="the ticket was drawn from"):
        supertickets.apply_ticket(tmp_path / "ticket", str(other), tmp_path / "sparse2")
    supertickets.apply_ticket(tmp_path / "ticket", str(other), tmp_path / "sparse2", any_base=True)
    narrow = save_tiny_model(tmp_path / "narrow", family="distilbert")
    with pytest.raises(TicketError, match="does not have"):
        supertickets.apply_ticket(tmp_path / "ticket", str(narrow), tmp_path / "sparse3", any_base=True)
    assert not (tmp_path / "sparse3").exists()
    with pytest.raises(TicketError, match="of single weights"):
        supertickets.load_ticket(tmp_path / "ticket")


def test_a_damaged_ticket_folder_is_refused(model: Path, tmp_path: Path) -> None:
    torch.save(released(ticket_of(model, DEFAULT)), tmp_path / "mask.pt")
    import_masks(tmp_path / "mask.pt", str(model), "mnli", tmp_path / "ticket")
    arrays = tmp_path / "ticket" / "ticket.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(bytes(content))
    with pytest.raises(TicketError, match="is not the file"):
        load_weight_ticket(tmp_path / "ticket")
    with pytest.raises(TicketError, match="the folder is not empty"):
        import_masks(tmp_path / "mask.pt", str(model), "mnli", tmp_path / "ticket")


def test_a_shipped_ticket_loads_in_stock_classes(model: Path, tmp_path: Path) -> None:
    """`--keep matching` leaves a plain trained model: zeros exactly where the ticket has nothing, and no other."""
    result = supertickets.imp(
        model=str(model), task="sentiment", fraction=0.05, sparsities=(0.5,), seeds=1, epochs=1, controls=(), workers=1,
        rule="strict", keep="matching", max_length=16, out=tmp_path / "study",
    )  # fmt: skip
    ticket = load_weight_ticket(result.ticket_folder).ticket
    assert abs(ticket.sparsity - 0.5) < 1e-4
    trained = AutoModelForSequenceClassification.from_pretrained(result.ticket_folder / "model")
    pretrained = AutoModel.from_pretrained(model)
    moved = False
    for name, mask in ticket.masks.items():
        weights = trained.base_model.get_parameter(name).detach().numpy()
        np.testing.assert_array_equal(weights[~mask], 0.0)
        assert np.count_nonzero(weights[mask]) == mask.sum()
        moved |= bool((weights[mask] != pretrained.get_parameter(name).detach().numpy()[mask]).any())
    assert moved
