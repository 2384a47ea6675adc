import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from helpers.models import FAMILIES, HEADS, LAYERS, ROLES, linears, make_loud, save_tiny_model, tiny_config
from supertickets.anatomy.blocks import shape_of
from supertickets.anatomy.cost import flops_prices, forward_flops
from supertickets.errors import TicketError
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import ticket_gated
from supertickets.surgery.heads import BiasAlone
from supertickets.surgery.saving import IMPORT_FIRST
from supertickets.tickets import Ticket

TICKET = Ticket.from_pruned(LAYERS, HEADS, [(0, 1), (1, 0), (1, 2), (1, 3), (2, 2)], [1])
WRONG = Ticket.from_pruned(LAYERS, HEADS, [(0, 2), (1, 0), (1, 2), (1, 3), (2, 2)], [1])  # another head of layer 0
WRONG_FFN = Ticket.from_pruned(LAYERS, HEADS, [(0, 1), (1, 0), (1, 2), (1, 3), (2, 2)], [2])


def hidden_states(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
    if model.config.is_encoder_decoder:
        states = torch.stack([*found.encoder_hidden_states, *found.decoder_hidden_states])
    else:
        states = torch.stack(found.hidden_states)
    return states * inputs["attention_mask"][None, :, :, None]  # what stands at padding is nobody's business


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cut_equals_gated(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor], attention: str) -> None:
    loud_model.set_attn_implementation(attention)
    dense = hidden_states(loud_model, inputs)
    with ticket_gated(loud_model, TICKET):
        expected = hidden_states(loud_model, inputs)
    assert torch.equal(hidden_states(loud_model, inputs), dense)  # the gates are gone again
    found = hidden_states(cut(copy.deepcopy(loud_model), TICKET), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for wrong in (WRONG, WRONG_FFN, Ticket.full(LAYERS, HEADS)):  # controls: any other cut must show
        assert (hidden_states(cut(copy.deepcopy(loud_model), wrong), inputs) - expected).abs().max() > 0.1


def test_attention_is_not_uniform(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    # Without this, test_cut_equals_gated could pass for broken code.
    loud_model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = loud_model(**inputs, output_attentions=True).attentions
    assert all(attention[0].max() > 0.5 for attention in attentions)


def test_gates_agree_with_a_naive_forward_pass() -> None:
    """BERT written out by hand, masks where the paper puts them."""
    model = make_loud(AutoModel.from_config(tiny_config("bert")).double()).eval()
    ids = torch.randint(5, 100, (2, 7), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        states = model.embeddings(ids)
        for index, layer in enumerate(model.encoder.layer):
            attention, size = layer.attention, shape_of(model).head_size
            contexts = []
            for head in range(HEADS):
                rows = slice(head * size, (head + 1) * size)
                q, k, v = (
                    states @ getattr(attention.self, name).weight[rows].T + getattr(attention.self, name).bias[rows]
                    for name in ("query", "key", "value")
                )
                weights = torch.softmax(q @ k.transpose(1, 2) / size**0.5, dim=-1)
                contexts.append(weights @ v * float(TICKET.heads[index, head]))
            output = torch.cat(contexts, dim=-1) @ attention.output.dense.weight.T + attention.output.dense.bias
            states = attention.output.LayerNorm(states + output)
            inner = torch.nn.functional.gelu(states @ layer.intermediate.dense.weight.T + layer.intermediate.dense.bias)
            ffn = inner @ layer.output.dense.weight.T + layer.output.dense.bias
            states = layer.output.LayerNorm(states + ffn * float(TICKET.ffns[index]))
        found = cut(copy.deepcopy(model), TICKET)(ids).last_hidden_state
    torch.testing.assert_close(found, states, rtol=0, atol=1e-12)


def test_a_layer_may_lose_all_heads(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    ticket = Ticket.from_pruned(LAYERS, HEADS, [(1, head) for head in range(HEADS)], [0, 1, 2])
    with ticket_gated(loud_model, ticket):
        expected = hidden_states(loud_model, inputs)
    found = hidden_states(cut(copy.deepcopy(loud_model), ticket), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_cut_gradients_equal_gated_ones(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    small = cut(copy.deepcopy(loud_model), TICKET)
    with ticket_gated(loud_model, TICKET):
        loud_model(**inputs).logits.pow(2).sum().backward()
    small(**inputs).logits.pow(2).sum().backward()
    size = shape_of(small).head_size
    for layer, (big, little) in enumerate(zip(linears(loud_model), linears(small), strict=True)):
        kept, every = torch.from_numpy(np.repeat(TICKET.heads[layer], size)), slice(None)
        for role in ROLES if TICKET.ffns[layer] else ROLES[:4]:
            rows = kept if role in ("query", "key", "value") else every
            columns = kept if role == "attention_output" else every
            wide, bias = big[role].weight.grad[rows][:, columns], big[role].bias.grad[rows]
            torch.testing.assert_close(little[role].weight.grad, wide, atol=1e-10, rtol=0)
            torch.testing.assert_close(little[role].bias.grad, bias, atol=1e-10, rtol=0)
    dense = dict(loud_model.named_parameters())
    alike = {name: of for name, of in small.named_parameters() if of.shape == dense[name].shape and of.grad is not None}
    assert {"classifier", "embeddings"} <= {part for name in alike for part in name.split(".")}
    for name, parameter in alike.items():
        torch.testing.assert_close(parameter.grad, dense[name].grad, atol=1e-10, rtol=1e-10)


def test_cut_model_is_smaller_by_what_was_pruned(loud_model: PreTrainedModel, family: str) -> None:
    before = loud_model.num_parameters()
    shape = shape_of(loud_model)
    per_head = 4 * shape.hidden * shape.head_size + 3 * shape.head_size  # b_O stays
    per_ffn = 2 * shape.hidden * shape.ffn + shape.ffn + shape.hidden
    assert before - cut(loud_model, TICKET).num_parameters() == 5 * per_head + per_ffn


def test_cut_runs_fewer_flops() -> None:
    """The formula against what torch counts, for the whole model and the cut one."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModel.from_config(tiny_config("bert"), attn_implementation="eager").eval()
    ids = torch.randint(5, 100, (2, 9))
    shape = shape_of(model)
    counts = {}
    for ticket in (Ticket.full(LAYERS, HEADS), TICKET):
        small = cut(copy.deepcopy(model), ticket)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(ids)
        pooler = 2 * 2 * shape.hidden**2
        counts[ticket] = counter.get_total_flops() - pooler
        assert counts[ticket] == forward_flops(shape, ticket, 2, 9)
    assert counts[TICKET] < counts[Ticket.full(LAYERS, HEADS)]


def test_flops_of_layers_that_are_applied_unequally_often() -> None:
    """ALBERT's first layer of three is applied three times, the others twice each."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModel.from_config(tiny_config("albert", num_hidden_layers=7), attn_implementation="eager").eval()
    ids, shape, counts = torch.randint(5, 100, (2, 9)), shape_of(model), []
    for ticket in (Ticket.full(LAYERS, HEADS), TICKET):
        small = cut(copy.deepcopy(model), ticket)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(ids)
        outside = 2 * 2 * shape.hidden * (shape.hidden + 9 * model.config.embedding_size)  # pooler, embeddings
        counts.append(counter.get_total_flops() - outside)
        assert counts[-1] == forward_flops(shape, ticket, 2, 9)
        assert counts[-1] == pytest.approx(2 * flops_prices(shape, ("heads", "ffns"), 9).of(ticket))
    assert counts[1] < counts[0]


def test_refuses_what_does_not_fit(loud_model: PreTrainedModel) -> None:
    with pytest.raises(TicketError, match=r"3 layers x 5 heads.*3 layers x 4 heads"):
        cut(loud_model, Ticket.full(3, 5))
    cut(loud_model, TICKET)
    with pytest.raises(TicketError, match="already cut"):
        cut(loud_model, TICKET)


LOAD = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))  # bits depend on it
import supertickets, transformers
for folder in sys.argv[2:]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder + "/small").eval()
    expected = torch.load(folder + "/expected.pt", weights_only=True)
    ids = torch.arange(5, 77).view(6, 12)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected), folder
    model.train()(ids, labels=torch.ones(6).long()).loss.backward()
    model.half().float().save_pretrained(folder + "/again")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(folder + "/again")
    assert again.num_parameters() == model.num_parameters(), folder
    print(folder)
"""


@pytest.mark.slow
def test_loads_in_a_fresh_process_with_stock_classes(tmp_path: Path) -> None:
    """All families in one process, where the package is imported before transformers (test_families.py: after it)."""
    for family in FAMILIES:
        folder = save_tiny_model(tmp_path / family / "base", family, scale=0.5)
        model = cut(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval(), TICKET)
        model.save_pretrained(tmp_path / family / "small")
        with torch.no_grad():
            torch.save(model(torch.arange(5, 77).view(6, 12)).logits, tmp_path / family / "expected.pt")
    folders = [str(tmp_path / family) for family in FAMILIES]
    command = [sys.executable, "-c", LOAD, str(torch.get_num_threads()), *folders]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == folders


def test_saving_to_the_hub_hands_on_what_was_asked(tmp_path: Path) -> None:
    """As transformers does: who may see it, with which token, into which revision; only the main process writes."""
    model = cut(AutoModel.from_config(tiny_config("bert")), TICKET)
    asked: dict[str, Any] = {"private": True, "token": "t", "revision": "r", "create_pr": True}
    calls: list[dict[str, Any]] = []
    model.push_to_hub = lambda **options: calls.append(options)
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, **asked)
    model.save_pretrained(tmp_path / "named", push_to_hub=True, repo_id="me/x")
    model.save_pretrained(tmp_path / "other", is_main_process=False, push_to_hub=True)
    model.save_pretrained(tmp_path / "here", token="t")
    assert calls == [{"repo_id": "mine", **asked}, {"repo_id": "me/x"}]
    assert not (tmp_path / "other" / "config.json").exists()


NO_HEAD = Ticket.from_pruned(LAYERS, HEADS, pruned_heads=[(1, head) for head in range(HEADS)], pruned_ffns=[2])
NO_FFN = Ticket.from_pruned(LAYERS, HEADS, pruned_ffns=range(LAYERS))


@pytest.mark.slow
def test_without_the_import_every_stock_class_refuses(tmp_path: Path) -> None:
    """Whatever the ticket lacks and whatever sizes are ignored; also what was saved again, and an encoder alone."""
    folders = []
    for name, ticket in {"mixed": TICKET, "no-head": NO_HEAD, "no-ffn": NO_FFN}.items():
        model = cut(AutoModelForSequenceClassification.from_config(tiny_config("bert")), ticket)
        model.save_pretrained(tmp_path / name)
        model.base_model.save_pretrained(tmp_path / f"{name}-encoder")
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        for kind, other in {
            "again": again,
            "copied": copy.deepcopy(again),
            "pickled": pickle.loads(pickle.dumps(again)),
            "half": again.half(),
        }.items():
            other.save_pretrained(tmp_path / f"{name}-{kind}")
            assert AutoModel.from_pretrained(tmp_path / f"{name}-{kind}").num_parameters()
        folders += sorted(path.name for path in tmp_path.glob(f"{name}*"))
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path / "dense")  # the control loads
    script = """
import sys, transformers
transformers.logging.set_verbosity_error()
for folder in sys.argv[2:]:
    for auto in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
        for more in ({}, {"ignore_mismatched_sizes": True, "num_labels": 5}, {"use_safetensors": True}):
            try:
                auto.from_pretrained(f"{sys.argv[1]}/{folder}", **more)
                print("loaded", folder)
            except Exception as error:
                print("refused", folder, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "dense", *folders], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("loaded", "refused"))]
    assert [line for line in lines if line.startswith("loaded")] == ["loaded dense"] * 6
    assert len(folders) == 18
    assert len(lines) == 6 * 19
    assert all(IMPORT_FIRST in line for line in lines if line.startswith("refused"))


def test_a_cut_model_is_freed_when_nobody_uses_it() -> None:
    model = cut(AutoModel.from_config(tiny_config("bert")), TICKET)
    gone = weakref.ref(model)
    gc.disable()  # what is in a reference cycle would wait for it
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def empty_products(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> list[str]:
    """Return the operations of an exported model on tensors without entries, which ONNX Runtime refuses."""
    graph = torch.export.export(model, (), kwargs=inputs).run_decompositions().graph
    values = {node.name: node.meta["val"] for node in graph.nodes if node.op == "call_function" and "val" in node.meta}
    return [name for name, value in values.items() if isinstance(value, torch.Tensor) and 0 in value.shape]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "distilbert"])  # the others have BERT's layers
def test_a_layer_without_heads_exports(
    loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = copy.deepcopy(loud_model)
    small = cut(loud_model, NO_HEAD)
    with torch.no_grad():
        with ticket_gated(dense, NO_HEAD):
            expected = dense(**inputs).logits
        torch.testing.assert_close(small(**inputs).logits, expected, atol=1e-10, rtol=0)
    assert empty_products(small, inputs) == []
    monkeypatch.setattr(BiasAlone, "forward", torch.nn.Linear.forward)  # the control reads its empty input
    assert empty_products(small, inputs)


@pytest.mark.slow  # torch's exporter takes seconds
def test_a_layer_without_heads_runs_in_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = cut(make_loud(AutoModelForSequenceClassification.from_config(tiny_config("bert"))).eval(), NO_HEAD)
    ids = torch.arange(5, 17).view(2, 6)
    torch.onnx.export(model, (), tmp_path / "x.onnx", kwargs={"input_ids": ids}, dynamo=True, verbose=False)
    (found,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"input_ids": ids.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(ids).logits.numpy(), atol=1e-4)
