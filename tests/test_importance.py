"""Importance against a naive reading of the formula, and against what the released code printed."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from conftest import HEADS, LAYERS
from supertickets.surgery.gate import gated
from supertickets.tickets.drawing import Drawing, _drop_lowest, draw_ranked, normalise_by_layer
from supertickets.tickets.importance import importance
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.loop import example_losses

TARGETS = torch.tensor([0, 1, 1, 0, 1])


def naive_importance(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """One example at a time, one scalar mask variable for each structure, autograd for the rest."""
    heads, ffns = torch.zeros(LAYERS, HEADS).double(), torch.zeros(LAYERS).double()
    for row in range(len(TARGETS)):
        xi = torch.ones(LAYERS, HEADS, dtype=torch.float64, requires_grad=True)
        nu = torch.ones(LAYERS, dtype=torch.float64, requires_grad=True)
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        with gated(model, lambda layer, c, xi=xi: xi[layer][:, None], lambda layer, f, nu=nu: nu[layer]):
            loss = torch.nn.functional.cross_entropy(model(**one).logits, TARGETS[row : row + 1])
        by_xi, by_nu = torch.autograd.grad(loss, (xi, nu))
        heads += by_xi.abs() / len(TARGETS)
        ffns += by_nu.abs() / len(TARGETS)
    return heads.numpy(), ffns.numpy()


def measured(model: PreTrainedModel, inputs: dict[str, torch.Tensor], batches: list[list[int]], **settings: str):
    def losses() -> Iterator:
        for rows in batches:
            yield lambda rows=rows: example_losses(
                model(**{name: value[rows] for name, value in inputs.items()}).logits, TARGETS[rows], False
            )

    gate = lambda head, ffn: gated(model, head, ffn)  # noqa: E731
    return importance(model, gate, losses(), LAYERS, ScoringSettings(**settings))


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[3, 1], [0, 4, 2]]])
def test_equals_one_example_at_a_time(
    loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor], batches: list
) -> None:
    expected = naive_importance(loud_model, inputs)
    found = measured(loud_model, inputs, batches)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)
        assert want.min() > 1e-6  # loud enough to tell structures apart
    per_token = measured(loud_model, inputs, batches, absolute="token")
    assert not np.allclose(per_token[0], expected[0], rtol=1e-2)  # the other reading is really another


def test_equals_central_differences(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """No autograd at all: nudge one head's mask."""
    step, (layer, head) = 1e-6, (1, 2)

    def losses(value: float) -> torch.Tensor:
        xi = torch.ones(LAYERS, HEADS, dtype=torch.float64)
        xi[layer, head] = value
        with torch.no_grad(), gated(loud_model, lambda i, c: xi[i][:, None], lambda i, f: torch.ones(())):
            return example_losses(loud_model(**inputs).logits, TARGETS, False)

    slope = (losses(1 + step) - losses(1 - step)) / (2 * step)
    found, _ = measured(loud_model, inputs, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(found[layer, head], float(slope.abs().mean()), rtol=1e-6)


def test_leaves_the_model_as_it_was(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    loud_model.train()
    next(loud_model.parameters()).requires_grad_(False)
    before = [parameter.requires_grad for parameter in loud_model.parameters()]
    measured(loud_model, inputs, [[0, 1]])
    assert loud_model.training
    assert before == [parameter.requires_grad for parameter in loud_model.parameters()]
    assert all(parameter.grad is None for parameter in loud_model.parameters())


# --- the released code's numbers (tests/data/released_oracle.json: outputs it printed for a tiny model) ------------

ORACLE = Path(__file__).parent / "data" / "released_oracle.json"


@pytest.fixture(scope="module")
def oracle() -> dict:
    return json.loads(ORACLE.read_text())


def oracle_model(oracle: dict, task: str) -> PreTrainedModel:
    from safetensors.torch import load_file

    config = BertConfig(**oracle["config"], num_labels=oracle["tasks"][task]["outputs"], hidden_act="gelu")
    model = BertForSequenceClassification(config)
    state = load_file(ORACLE.with_name("released_oracle.safetensors"))
    head = {name.removeprefix(f"{task}."): state[name] for name in state if name.startswith(f"{task}.")}
    body = {name: value for name, value in state.items() if name.startswith("bert.")}
    model.load_state_dict({**body, **head})
    return model.eval()


def batch(examples: list[dict]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    width = max(len(example["ids"]) for example in examples)
    rows = {
        name: torch.tensor([example[key] + [0] * (width - len(example[key])) for example in examples])
        for name, key in (("input_ids", "ids"), ("token_type_ids", "segments"))
    }
    mask = torch.tensor([[1] * len(e["ids"]) + [0] * (width - len(e["ids"])) for e in examples])
    return {**rows, "attention_mask": mask}, torch.tensor([example["label"] for example in examples])


@pytest.mark.parametrize("task", ["rte", "cola", "stsb"])
def test_released_preset_reproduces_what_the_released_code_printed(oracle: dict, task: str) -> None:
    model, facts = oracle_model(oracle, task), oracle["tasks"][task]
    batches = [batch(facts["train"][i : i + 8]) for i in range(0, len(facts["train"]), 8)]
    regression = facts["outputs"] == 1
    losses = [lambda b=b: example_losses(model(**b[0]).logits, b[1], regression) for b in batches]
    gate = lambda head, ffn: gated(model, head, ffn)  # noqa: E731
    heads, ffns = importance(model, gate, losses, 3, ScoringSettings(absolute="token", accumulation="decaying"))
    np.testing.assert_allclose(heads, facts["head_scores"], rtol=2e-4)
    np.testing.assert_allclose(ffns, facts["ffn_scores"], rtol=2e-4)
    normalised = normalise_by_layer(heads)
    np.testing.assert_allclose(normalised, facts["head_scores_l2"], rtol=2e-4)
    ticket = _drop_lowest(normalised, ffns, 6, 0)
    pruned = {(int(layer), head) for layer, gone in facts["pruned_heads_at_6"].items() for head in gone}
    assert {(int(layer), int(head)) for layer, head in np.argwhere(~ticket.heads)} == pruned
    assert np.argsort(ffns, kind="stable").tolist() == facts["ffn_ascending"]
    # The paper's reading is another one: it must not pass for the released one.
    mean, _ = importance(model, gate, losses, 3, ScoringSettings())
    assert not np.allclose(mean, facts["head_scores"], rtol=1e-2)


@pytest.mark.parametrize("task", ["rte", "cola", "stsb"])
def test_logits_are_the_released_codes(oracle: dict, task: str) -> None:
    from supertickets.surgery.cut import cut
    from supertickets.tickets import Ticket

    model, facts = oracle_model(oracle, task), oracle["tasks"][task]
    inputs, _ = batch(facts["dev"])
    with torch.no_grad():
        np.testing.assert_allclose(model(**inputs).logits.numpy(), facts["dense_logits"], atol=2e-7)
        small = cut(model, Ticket.from_pruned(3, 4, [(0, 1), (0, 2), (2, 0)], [1]))
        np.testing.assert_allclose(small(**inputs).logits.numpy(), facts["masked_logits"], atol=2e-7)
    assert np.abs(np.subtract(facts["dense_logits"], facts["masked_logits"])).max() > 1e-5  # they do differ


def test_drawing_a_ticket_prunes_what_the_released_code_pruned(oracle: dict) -> None:
    for facts in oracle["tasks"].values():
        ticket = draw_ranked(
            np.array(facts["head_scores_l2"]), np.array(facts["ffn_scores"]), 0.5, "winning", Drawing(counts="ladder")
        )
        assert ticket.kept_heads == 6
        with contextlib.suppress(KeyError):
            assert set(np.flatnonzero(~ticket.heads[2])) == set(facts["pruned_heads_at_6"]["2"])
