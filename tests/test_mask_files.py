"""Tickets of weights for others: files of masks, ticket folders, plain models."""

import json
import pickle
import re
from argparse import Namespace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModel, AutoModelForSequenceClassification

import supertickets
from helpers.models import save_tiny_model
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.export.weights import import_masks
from supertickets.models import find_model, prunable_weights
from supertickets.tickets.folder import is_of_weights, load_weight_ticket
from supertickets.tickets.mask_files import MaskFile, read_masks
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude

LAYERS_ONLY = Pruning.model_validate({"pooler": False})
DEFAULT = Pruning.model_validate({})
WITH_EMBEDDINGS = Pruning.model_validate({"embeddings": True})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "bert")


def ticket_of(model: Path, pruning: Pruning, sparsity: float = 0.4) -> WeightTicket:
    return prune_by_magnitude(prunable_weights(find_model(str(model)), pruning), sparsity)


@cache
def all_weights(model: Path) -> dict[str, np.ndarray]:
    return prunable_weights(find_model(str(model)), WITH_EMBEDDINGS)


def read(path: Path, model: Path, zeros: bool = False) -> MaskFile:
    return read_masks(path, all_weights(model), zeros)


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


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4, 4)}}, "param_groups": [{"lr": 0.1}]}


def checkpoint(ticket: WeightTicket) -> dict[str, object]:
    return {"epoch": 3, "best": np.float64(0.5), "model_state_dict": state_dict(ticket), "optimizer": OPTIMIZER}


def checkpoint_of_masks(ticket: WeightTicket) -> dict[str, object]:
    return {"net": grasp(ticket), "optimizer_state": OPTIMIZER}


def nni(ticket: WeightTicket) -> dict[str, object]:
    return {
        f"bert.{name.removesuffix('.weight')}": {"weight": torch.tensor(mask).float(), "bias": torch.ones(len(mask))}
        for name, mask in ticket.masks.items()
    }


def numpy_arrays(ticket: WeightTicket) -> dict[str, object]:
    columns = {name: np.asfortranarray(mask.astype(">f4")) for name, mask in ticket.masks.items()}
    return {"masks": columns, "words": np.array(["a"]), "none": np.array([]), "args": [1, ("x", None)]}


def beside_weights(ticket: WeightTicket) -> tuple[object, ...]:
    """Weights and masks under the same names, in two dictionaries."""
    weights = {f"bert.{name}": torch.randn(mask.shape) for name, mask in ticket.masks.items()}
    return {"state_dict": weights}, {"mask_dict": [{key: torch.tensor(ticket.masks[key[5:]]) for key in weights}]}


def parametrized(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    """torch.ao.pruning's."""
    return {
        f"bert.{name.removesuffix('.weight')}.parametrizations.weight.{part}": torch.tensor(mask, dtype=torch.float32)
        for name, mask in ticket.masks.items()
        for part in ("original", "0.mask")
    }


def wrapped(ticket: WeightTicket) -> dict[str, torch.Tensor]:
    """Names as wrappers of whole models, layers and modules leave them."""
    ways = (
        lambda n: f"module._orig_mod.bert.{n}.weight_mask",
        lambda n: f"model.bert.{n.replace('layer.', 'layer._orig_mod.')}.weight_mask",
        lambda n: f"bert.{n}.module.weight_mask",
        lambda n: f"base_model.model.bert.{n}.base_layer.weight.mask",
        lambda n: f"_fsdp_wrapped_module.bert.{n.replace('.dense', '._checkpoint_wrapped_module.dense')}.mask",
    )
    masks = {name.removesuffix(".weight"): torch.tensor(mask) for name, mask in ticket.masks.items()}
    return {ways[n % len(ways)](name): mask for n, (name, mask) in enumerate(masks.items())}


@pytest.mark.parametrize(
    ("layout", "pruning"),
    [
        (released, DEFAULT), (state_dict, DEFAULT), (grasp, LAYERS_ONLY), (tamt, WITH_EMBEDDINGS),
        (checkpoint, DEFAULT), (nni, LAYERS_ONLY), (numpy_arrays, DEFAULT), (beside_weights, WITH_EMBEDDINGS),
        (parametrized, DEFAULT), (checkpoint_of_masks, DEFAULT), (wrapped, DEFAULT),
    ],
)  # fmt: skip
def test_masks_come_back_from_every_layout(model: Path, tmp_path: Path, layout, pruning: Pruning) -> None:
    """A8: the four layouts of spec section 6 as that code writes them, and those of other tools."""
    ticket = ticket_of(model, pruning)
    torch.save(layout(ticket), tmp_path / "mask.pt")
    found = read(tmp_path / "mask.pt", model).ticket
    assert found == ticket
    assert found != ticket_of(model, pruning, 0.5)
    torch.save(layout(ticket), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert read(tmp_path / "old.bin", model).ticket == ticket


def test_masks_come_back_from_other_files(model: Path, tmp_path: Path) -> None:
    ticket = ticket_of(model, DEFAULT)
    names = [f"bert.{name}" for name in ticket.masks]
    np.savez_compressed(tmp_path / "a.npz", **dict(zip(names, ticket.masks.values(), strict=True)))
    save_file(released(ticket), tmp_path / "b.safetensors", metadata={"format": "pt", "note": "x"})
    (tmp_path / "c.anything").write_bytes((tmp_path / "b.safetensors").read_bytes())
    (tmp_path / "ticket.safetensors").write_bytes(ticket.to_bytes())
    for file in ("a.npz", "b.safetensors", "c.anything", "ticket.safetensors"):
        assert read(tmp_path / file, model).ticket == ticket, file
    assert "`__metadata__`" in read(tmp_path / "b.safetensors", model).notes[-1]
    name, mask = next(iter(ticket.masks.items()))  # one array has the file's name
    np.save(tmp_path / f"{name}.npy", mask)
    assert read(tmp_path / f"{name}.npy", model).ticket == ticket.part([name])


PREFIXES = ("", "bert.", "module.", "_orig_mod.bert.", "model.bert.", "module._orig_mod.", "0.auto_model.")
TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_neither_depth_nor_prefix_nor_type_matters(model: Path, tmp_path: Path, data: st.DataObject) -> None:
    weights = all_weights(model)
    names = data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=4, unique=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    masks = {name: rng.random(weights[name].shape) < 0.6 for name in weights if name in names}
    prefix = data.draw(st.sampled_from(PREFIXES))
    end = data.draw(st.sampled_from([".weight_mask", ".weight", "", ".mask", ".weight.mask", ".module.weight_mask"]))
    content: object = {}
    for name, mask in masks.items():
        tensor = torch.tensor(mask).to(getattr(torch, data.draw(st.sampled_from(TYPES))))
        how = data.draw(st.sampled_from(["dense", "to_sparse", "to_sparse_csr", "numpy"]))
        if how == "numpy":
            tensor = tensor.numpy() if tensor.dtype != torch.bfloat16 else tensor
        elif how != "dense":
            tensor = getattr(tensor, how)()
        content[prefix + name.removesuffix(".weight") + end] = tensor  # type: ignore[index]
    for key in data.draw(st.lists(st.sampled_from(["model", "net", "state_dict", "masks", "list"]), max_size=4)):
        content = [content, 7] if key == "list" else {"epoch": 7, key: content}
    torch.save(content, tmp_path / "mask.pt", _use_new_zipfile_serialization=data.draw(st.booleans()))
    found = read_masks(tmp_path / "mask.pt", weights)
    assert found.ticket == WeightTicket(masks)
    flipped = {**masks, names[0]: ~masks[names[0]]}
    assert found.ticket != WeightTicket(flipped)


def pruned(model: Path) -> tuple[dict[str, torch.Tensor], WeightTicket]:
    """A classifier's state dict after torch's prune.remove, which leaves zeros alone, and the ticket in it."""
    ticket = ticket_of(model, DEFAULT)
    classifier = AutoModelForSequenceClassification.from_pretrained(model)
    for name, mask in ticket.masks.items():
        module = classifier.base_model.get_submodule(name.removesuffix(".weight"))
        prune.custom_from_mask(module, "weight", torch.tensor(mask))
        prune.remove(module, "weight")
    return dict(classifier.state_dict()), ticket


def test_zeros_are_masks_only_if_asked_for(model: Path, tmp_path: Path) -> None:
    weights, ticket = pruned(model)
    torch.save({"model": weights}, tmp_path / "pruned.bin")
    with pytest.raises(TicketError, match=r"there are no masks in it: .*--zeros takes the zeros \([\d,]+ of [\d,]+\)"):
        read(tmp_path / "pruned.bin", model)
    found = read(tmp_path / "pruned.bin", model, zeros=True)
    assert found.ticket == ticket  # embeddings have no zeros, so they have no mask
    assert found.notes[0].startswith(
        f"Zeros are taken as pruned in {len(ticket.masks)} tensors named like `model.bert.encoder"
    )
    assert "the others stay whole: `embeddings.word_embeddings.weight`" in found.notes[1]
    assert any("bias" in note and "not taken" in note for note in found.notes)  # biases that are all zero

    weights["classifier.weight"][0, 3] = 0
    torch.save(weights, tmp_path / "pruned.bin")
    with pytest.raises(TicketError, match=r"'classifier.weight' prunes 1 of 64 weights"):
        read(tmp_path / "pruned.bin", model, zeros=True)
    weights["classifier.weight"] += 1
    weights["bert.pooler.dense.weight"][0, 0] = np.nan
    torch.save(weights, tmp_path / "pruned.bin")
    with pytest.raises(TicketError, match="NaN or infinite"):
        read(tmp_path / "pruned.bin", model, zeros=True)
    dense = {key: value + 2.5 for key, value in pruned(model)[0].items()}
    torch.save({"model": pruned(model)[0], "first": dense}, tmp_path / "two.bin")
    with pytest.raises(TicketError, match="different masks of one matrix"):
        read(tmp_path / "two.bin", model, zeros=True)
    torch.save(dense, tmp_path / "dense.bin")
    with pytest.raises(TicketError, match="--zeros finds no pruned weights"):
        read(tmp_path / "dense.bin", model, zeros=True)


def test_zeros_that_the_model_has_itself_are_not_pruned(tmp_path: Path) -> None:
    """transformers starts the word embedding of padding at zero, where it stays."""
    model = save_tiny_model(tmp_path / "bert")
    encoder = AutoModel.from_pretrained(model)
    encoder.embeddings.word_embeddings.weight.data[0] = 0
    encoder.save_pretrained(model)
    weights, ticket = pruned(model)
    torch.save(weights, tmp_path / "pruned.bin")
    found = read(tmp_path / "pruned.bin", model, zeros=True)
    assert found.ticket == ticket
    assert any("not taken as pruned: `bert.embeddings.word_embeddings.weight`" in note for note in found.notes)
    weights["bert.embeddings.word_embeddings.weight"][3, 3] = 0  # control: one that was pruned
    torch.save(weights, tmp_path / "pruned.bin")
    found = read(tmp_path / "pruned.bin", model, zeros=True)
    assert (~found.ticket.masks["embeddings.word_embeddings.weight"]).sum() == 33


def test_zeros_of_weights_with_two_names(model: Path, tmp_path: Path) -> None:
    """An output layer of masked tokens is the word embeddings; it is pruned with them, and not on its own."""
    words = torch.randn(120, 32) * (torch.rand(120, 32) < 0.5)
    weights = {"bert.embeddings.word_embeddings.weight": words, "cls.predictions.decoder.weight": words}
    torch.save(weights, tmp_path / "tied.bin")
    found = read(tmp_path / "tied.bin", model, zeros=True).ticket
    assert found == WeightTicket({"embeddings.word_embeddings.weight": (words != 0).numpy()})
    torch.save(weights | {"cls.predictions.decoder.weight": words * (torch.rand(120, 32) < 0.5)}, tmp_path / "tied.bin")
    with pytest.raises(TicketError, match=r"'cls.predictions.decoder.weight' prunes"):
        read(tmp_path / "tied.bin", model, zeros=True)


def test_masks_win_over_zeros(model: Path, tmp_path: Path) -> None:
    weights, _ = pruned(model)
    ticket = ticket_of(model, LAYERS_ONLY, 0.2)
    torch.save(weights | released(ticket), tmp_path / "both.bin")
    for zeros in (False, True):
        found = read(tmp_path / "both.bin", model, zeros)
        assert found.ticket == ticket
        assert "Zeros without a mask were not taken as pruned: `bert.pooler.dense.weight`." in found.notes
        assert any("--zeros has no effect" in note for note in found.notes) == zeros


@pytest.mark.parametrize(
    "key",
    [
        "bert.encoder.layer.0.output.dense.bias_mask",
        "bert.encoder.layer.0.output.LayerNorm.weight_mask",
        "classifier.weight_mask",
        "cls.predictions.decoder.weight_mask",
        "bert.encoder.layer.12.output.dense.weight_mask",
    ],
)
@pytest.mark.parametrize("layout", [released, nni])
def test_masks_that_no_ticket_holds(model: Path, tmp_path: Path, key: str, layout) -> None:
    """They are named if they prune nothing, and refused if they do."""
    ticket = ticket_of(model, LAYERS_ONLY)
    key = key if layout is released else key.removesuffix("_mask")
    mask = torch.ones(6, 4)
    torch.save(layout(ticket) | {key: mask}, tmp_path / "mask.pt")
    found = read(tmp_path / "mask.pt", model)
    assert found.ticket == ticket
    if layout is released:
        assert f"Masks that prune nothing and are not part of a ticket: `{key}`." in found.notes
    mask[0, :2] = 0
    torch.save(layout(ticket) | {key: mask}, tmp_path / "mask.pt")
    with pytest.raises(TicketError, match=f"{key}' prunes 2 of 24 weights, but .*delete that entry from the file"):
        read(tmp_path / "mask.pt", model)


def test_two_masks_of_one_matrix(model: Path, tmp_path: Path) -> None:
    ticket, other = ticket_of(model, DEFAULT), ticket_of(model, DEFAULT, 0.5)
    torch.save({"bare": tamt(ticket), "with": released(ticket)}, tmp_path / "mask.pt")
    assert read(tmp_path / "mask.pt", model).ticket == ticket
    torch.save({"bare": tamt(ticket), "with": released(other)}, tmp_path / "mask.pt")
    with pytest.raises(
        TicketError, match=r"'bare.encoder.* and 'with.bert.encoder.* are different masks of one matrix"
    ):
        read(tmp_path / "mask.pt", model)


def test_whole_matrices_gone_are_told(model: Path, tmp_path: Path) -> None:
    ticket = ticket_of(model, DEFAULT)
    torch.save(released(ticket) | {"bert.pooler.dense.weight_mask": torch.zeros(32, 32)}, tmp_path / "mask.pt")
    found = read(tmp_path / "mask.pt", model)
    assert "All weights are pruned in `pooler.dense.weight`." in found.notes
    assert not found.ticket.masks["pooler.dense.weight"].any()
    holder: dict[str, object] = dict(released(ticket))
    holder["self"] = holder  # a pickle can
    torch.save(holder, tmp_path / "mask.pt")
    assert read(tmp_path / "mask.pt", model).ticket == ticket


OUTPUT = "bert.encoder.layer.0.output.dense.weight_mask"
POOLER = "bert.pooler.dense.weight_mask"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({OUTPUT: torch.ones(2, 2)}, "has shape [2, 2], the model's matrix [32, 48]."),
        ({OUTPUT: torch.ones(48, 32)}, "has shape [48, 32], the model's matrix [32, 48]; it is transposed."),
        ({OUTPUT.replace("0", "9"): torch.ones(2, 2)}, "named like a prunable matrix of the model: the first is 'bert"),
        (
            {POOLER: torch.full((32, 32), 0.5)},
            "'bert.pooler.dense.weight_mask' has the value 0.5 at [0, 0]; a mask has",
        ),
        ({POOLER: torch.full((32, 32), 255, dtype=torch.uint8)}, "the value 255 at [0, 0]"),
        ({POOLER: torch.full((32, 32), -1).to_sparse()}, "the value -1 at [0, 0]"),
        ({POOLER: torch.full((32, 32), torch.nan)}, "the value nan at [0, 0]"),
        ({POOLER: torch.ones(32, 32, dtype=torch.complex64)}, "has the type complex64"),
        ({POOLER: torch.ones(32, 32, device="meta")}, "cannot be read as an array"),
        ({POOLER: torch.ones(32, 32), "head_mask": torch.full((2,), 3)}, "'head_mask' has the value 3"),
        (
            {POOLER[:-5]: torch.full((32, 32), 0.5)},
            "there are no masks in it: 'bert.pooler.dense.weight' has the value",
        ),
        ([torch.ones(32, 32)], "the first is '0', expected a name that ends like"),
        (torch.ones(32, 32), "the first is 'mask'"),
        ({}, "no tensors in it"),
        ([1, 2], "no tensors in it"),
        (nn.Linear(2, 2), "there is a Python object, torch.nn.modules.linear.Linear, in it"),
        (Namespace(a=1), "there is a Python object, argparse.Namespace, in it"),
    ],
)
def test_other_contents_are_refused(model: Path, tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "mask.pt")
    with pytest.raises(TicketError) as error:
        read(tmp_path / "mask.pt", model)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'mask.pt'}: ")


def test_other_files_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(released(ticket_of(model, DEFAULT)), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    np.save(tmp_path / "object.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.pth").touch()
    for name, content, said in [
        ("nowhere.pt", None, "no such file"),
        ("folder", None, "a folder; expected a file of masks, such as"),
        ("object.npy", None, "there is a pickled Python object in it"),
        ("script.pt", None, "there is a TorchScript model in it"),
        ("empty.pt", b"", "the file is empty"),
        ("text.ckpt", b"hello", "not a file of tensors, or a truncated or damaged one"),
        ("page.bin", b"<!DOCTYPE html><html></html>", "not a file of tensors"),
        ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("half.pth", whole[: len(whole) // 2], "truncated or damaged"),
        ("head.safetensors", b"\xff" * 20, "truncated or damaged"),
        ("dict.pkl", pickle.dumps({"a": 1}), "not a file of tensors"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert main(["import-masks", str(tmp_path / name), "--model", str(model), "--task", "rte",
                     "--out", str(tmp_path / "ticket")]) == 2, name  # fmt: skip
        error = capsys.readouterr().err
        assert "weights_only" not in error
        assert said in error.replace("\n", " "), name
        assert str(tmp_path / name) in error
        assert not (tmp_path / "ticket").exists()
    assert main(["import-masks", str(tmp_path / "whole.pt"), "--model", str(model), "--task", "rte",
                 "--out", str(tmp_path / "ticket")]) == 0  # fmt: skip


def test_damaged_bytes_never_break_it(model: Path, tmp_path: Path) -> None:
    """Cut and garbled files of every kind are either refused in a sentence or read."""
    matrix = "encoder.layer.0.attention.self.query.weight"
    ticket = ticket_of(model, LAYERS_ONLY).part([matrix])
    content = released(ticket) | {"a": np.ones(2), "sparse": torch.ones(2, 2).to_sparse(), "epoch": 3, "list": [1, "a"]}
    torch.save(content, tmp_path / "zip")
    torch.save(content, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(released(ticket), tmp_path / "safe")
    with (tmp_path / "npz").open("wb") as file:
        np.savez(file, **ticket.masks)
    with (tmp_path / "npy").open("wb") as file:
        np.save(file, ticket.masks[matrix])
    weights, rng = all_weights(model), np.random.default_rng(0)
    path, kinds = tmp_path / f"{matrix}.damaged", ("zip", "old", "safe", "npz", "npy")
    refused = {how: dict.fromkeys(kinds, 0) for how in ("cut", "garbled")}
    for kind in kinds:
        whole = np.frombuffer((tmp_path / kind).read_bytes(), np.uint8)
        path.write_bytes(whole.tobytes())
        assert read_masks(path, weights).ticket == ticket, kind
        for n in range(150):
            damaged = whole[: rng.integers(1, len(whole))] if n % 3 == 0 else whole.copy()
            if n % 3:
                reach = min(len(whole), 1500) if n % 3 == 1 else len(whole)
                damaged[rng.integers(0, reach, rng.integers(1, 12))] = rng.integers(0, 256)
            path.write_bytes(damaged.tobytes())
            try:
                read_masks(path, weights)
            except TicketError:  # anything else is a fault
                refused["garbled" if n % 3 else "cut"][kind] += 1
    assert refused["cut"] == dict.fromkeys(kinds, 50)
    assert min(refused["garbled"].values()) > 25  # of 100; a changed value may still be a mask's


def test_a_pickled_array_is_only_numbers(model: Path, tmp_path: Path) -> None:
    """What numpy's own functions would be told by a pickle, such as that floats are addresses, is not listened to."""
    array = np.ones((32, 32))
    good = array.__reduce__()

    class Forged:
        def __reduce__(self) -> tuple[object, ...]:
            version, _, dtype, fortran, raw = good[2]
            return good[0], good[1], (version, self.shape, dtype, fortran, raw)

    for shape, said in (((32, 32), None), ((99, 99), "damaged")):
        Forged.shape = shape  # type: ignore[attr-defined]
        torch.save({POOLER: Forged()}, tmp_path / "mask.pt")
        if said is None:
            assert read(tmp_path / "mask.pt", model).ticket.kept == 32 * 32
        else:
            with pytest.raises(TicketError, match=said):
                read(tmp_path / "mask.pt", model)


def test_what_is_not_used_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the terminal, in ticket.json and in the README, where nothing in a name is Markdown."""
    ticket = ticket_of(model, DEFAULT)
    torch.save(checkpoint(ticket) | {"<b>`*\n": 1}, tmp_path / "mask.pt")
    assert main(["import-masks", str(tmp_path / "mask.pt"), "--model", str(model), "--task", "rte",
                 "--out", str(tmp_path / "ticket")]) == 0  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    layer = "encoder.layer.0.attention.self.query"
    assert printed[1:] == [
        f"Read 19 masks named like `model_state_dict.module.bert.{layer}.weight_mask`.",
        "There is a mask for 19 of the model's 22 prunable matrices; the others stay whole: "
        "`embeddings.word_embeddings.weight`, `embeddings.position_embeddings.weight`, "
        "`embeddings.token_type_embeddings.weight`.",
        "Not used: `epoch`, `best`, `optimizer`, `<b>*\\n`, 20 tensors such as "
        f"`model_state_dict.module.bert.{layer}.weight_orig`.",
    ]
    assert load_weight_ticket(tmp_path / "ticket").origin["notes"] == printed[1:]
    readme = (tmp_path / "ticket" / "README.md").read_text()
    assert all(f"\n- {note}\n" in readme for note in printed[1:])


def test_an_import_as_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = ticket_of(model, DEFAULT)
    torch.save(released(ticket), tmp_path / "mask.pt")
    assert main(["import-masks", str(tmp_path / "mask.pt"), "--model", str(model), "--task", "rte", "--json",
                 "--out", str(tmp_path / "ticket")]) == 0  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert said["notes"] == load_weight_ticket(tmp_path / "ticket").origin["notes"]
    assert (said["ticket"], said["kept"], said["weights"]) == (str(tmp_path / "ticket"), ticket.kept, ticket.total)
    assert (said["matrices"], said["sparsity"]) == (len(ticket.masks), ticket.sparsity)


def test_masks_that_prune_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ones = {name: np.ones_like(mask) for name, mask in ticket_of(model, DEFAULT).masks.items()}
    torch.save(released(WeightTicket(ones)), tmp_path / "mask.pt")
    assert main(["import-masks", str(tmp_path / "mask.pt"), "--model", str(model), "--task", "rte",
                 "--out", str(tmp_path / "ticket")]) == 2  # fmt: skip
    assert "mask.pt: the masks prune nothing; expected zeros in some of them." in capsys.readouterr().err
    assert not (tmp_path / "ticket").exists()


def test_masks_that_torch_prunes_by_come_back(model: Path, tmp_path: Path) -> None:
    """Global L1 pruning by torch itself, saved as the released code saves it, is our own ranking."""
    encoder = AutoModel.from_pretrained(model)
    modules = [(m, "weight") for n, m in encoder.named_modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(modules, prune.L1Unstructured, amount=0.4)
    masks = {f"bert.{name}": value for name, value in encoder.state_dict().items() if "mask" in name}
    torch.save(masks, tmp_path / "mask.pt")
    found = read(tmp_path / "mask.pt", model).ticket
    assert found == ticket_of(model, DEFAULT)


def test_a_file_that_runs_code_does_not(model: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    torch.save({"a": Trap()}, tmp_path / "mask.pt")
    torch.load(tmp_path / "mask.pt", weights_only=False)  # control: it would run
    (tmp_path / "ran").unlink()
    assert main(["import-masks", str(tmp_path / "mask.pt"), "--model", str(model), "--task", "rte",
                 "--out", str(tmp_path / "ticket")]) == 2  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ticket").exists()


def test_import_and_apply(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An imported ticket's encoder is the pre-trained one with zeros, in a plain folder."""
    ticket = ticket_of(model, DEFAULT)
    torch.save(released(ticket), tmp_path / "mask.pt")
    assert import_masks(tmp_path / "mask.pt", str(model), "mnli", tmp_path / "ticket").ticket == ticket
    assert is_of_weights(tmp_path / "ticket")
    shared = load_weight_ticket(tmp_path / "ticket")
    assert shared.ticket == ticket
    assert shared.origin["task"] == "mnli"
    assert main(["apply", str(tmp_path / "ticket"), "--out", str(tmp_path / "sparse")]) == 0
    printed = capsys.readouterr()
    assert re.search(r"sparse: [\d,]+ of [\d,]+ parameters are not zero \(\d+\.\d%\)\.$", printed.out.strip())
    assert "seed" not in printed.err
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
    with pytest.raises(TicketError, match=r"does not match ticket\.json"):
        load_weight_ticket(tmp_path / "ticket")
    with pytest.raises(TicketError, match="the folder is not empty"):
        import_masks(tmp_path / "mask.pt", str(model), "mnli", tmp_path / "ticket")


def test_a_shipped_ticket_loads_in_stock_classes(model: Path, tmp_path: Path) -> None:
    """`--keep matching` leaves a plain trained model: zeros exactly where the ticket has nothing, and no other."""
    result = supertickets.imp(
        model=str(model), task="sentiment", fraction=0.05, sparsities=(0.5,), seeds=1, epochs=1, controls=(), workers=1,
        rule="strict", keep="matching", max_length=16, out=tmp_path / "study",
    )  # fmt: skip
    ticket = load_weight_ticket(result.shipped["ticket"]).ticket
    assert abs(ticket.sparsity - 0.5) < 1e-4
    trained = AutoModelForSequenceClassification.from_pretrained(result.shipped["ticket"] / "model")
    pretrained = AutoModel.from_pretrained(model)
    moved = False
    for name, mask in ticket.masks.items():
        weights = trained.base_model.get_parameter(name).detach().numpy()
        np.testing.assert_array_equal(weights[~mask], 0.0)
        assert np.count_nonzero(weights[mask]) == mask.sum()
        moved |= bool((weights[mask] != pretrained.get_parameter(name).detach().numpy()[mask]).any())
    assert moved
