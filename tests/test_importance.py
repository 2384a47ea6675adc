"""Importance against a naive reading of the formula, and against what the released code printed."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from helpers.drawing import ranked
from helpers.models import FFN, HEADS, HIDDEN, LAYERS, make_loud, tiny_config
from supertickets.anatomy.blocks import shape_of
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import gated, ticket_gated
from supertickets.surgery.structures import sum_by_structure
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import _drop_lowest, normalise_by_layer
from supertickets.tickets.importance import MEASURES, Loss, Measured, importance
from supertickets.tickets.kinds import Structure
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.objectives import example_losses

TARGETS = torch.tensor([0, 1, 1, 0, 1])


def naive_importance(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], examples: Sequence[int] = range(5)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One example at a time, one scalar mask variable for each structure, autograd for the rest."""
    modules = shape_of(model).attentions
    totals = [torch.zeros(size).double() for size in ((modules, HEADS), (LAYERS,), (LAYERS, FFN))]
    for row, example in enumerate(examples):
        xi = torch.ones(modules, HEADS, dtype=torch.float64, requires_grad=True)
        nu = torch.ones(LAYERS, dtype=torch.float64, requires_grad=True)
        of_neurons = torch.ones(LAYERS, FFN, dtype=torch.float64, requires_grad=True)
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        with gated(
            model,
            heads=lambda layer, c, xi=xi: xi[layer][:, None],
            ffns=lambda layer, f, nu=nu: nu[layer],
            neurons=lambda layer, n, all=of_neurons: all[layer],
        ):
            loss = torch.nn.functional.cross_entropy(model(**one).logits, TARGETS[example : example + 1])
        for total, found in zip(totals, torch.autograd.grad(loss, (xi, nu, of_neurons)), strict=True):
            total += found.abs() / len(examples)
    heads, ffns, neurons = (total.numpy() for total in totals)
    return heads, ffns, neurons


def measured(model: PreTrainedModel, inputs: dict[str, torch.Tensor], batches: list[list[int]], **settings: str):
    def losses() -> Iterator[Loss]:
        for rows in batches:
            yield lambda rows=rows: example_losses(
                model(**{name: value[rows] for name, value in inputs.items()}).logits, TARGETS[rows], False
            )

    return measure(model, losses, ScoringSettings(**settings))


def measure(
    model: PreTrainedModel,
    losses: Callable[[], Iterable[Loss]],
    settings: ScoringSettings,
    ticket: Ticket | None = None,
    start: PreTrainedModel | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ticket = ticket or Ticket.full(*shape_of(model).of_tickets)
    kept: dict[Structure, np.ndarray] = {
        "heads": ticket.heads,
        "ffns": ticket.ffns,
        "neurons": ticket.neurons_of(shape_of(model).ffn),
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = importance(
        Measured(
            model,
            ticket,
            kept,
            gate=partial(gated, model),
            losses=losses,
            by_structure=lambda value: sum_by_structure(model, kept, value),
            start=lambda parameter: start.get_parameter(names[id(parameter)]).detach(),
            settings=settings,
            seed=seed,
        )
    )
    return found["heads"], found["ffns"], found["neurons"]


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[3, 1], [0, 4, 2]]])
def test_equals_one_example_at_a_time(
    loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor], batches: list
) -> None:
    expected = naive_importance(loud_model, inputs)
    found = measured(loud_model, inputs, batches)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)
        assert (want > 1e-6).mean() > 0.9  # loud enough to tell structures apart
    per_token = measured(loud_model, inputs, batches, absolute="token")
    assert not np.allclose(per_token[0], expected[0], rtol=1e-2)  # the other reading is really another


def test_equals_central_differences(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """No autograd at all: nudge one head's mask."""
    step, (layer, head) = 1e-6, (1, 2)

    def losses(value: float) -> torch.Tensor:
        xi = torch.ones(LAYERS, HEADS, dtype=torch.float64)
        xi[layer, head] = value
        with torch.no_grad(), gated(loud_model, heads=lambda i, c: xi[i][:, None]):
            return example_losses(loud_model(**inputs).logits, TARGETS, False)

    slope = (losses(1 + step) - losses(1 - step)) / (2 * step)
    found, *_ = measured(loud_model, inputs, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(found[layer, head], float(slope.abs().mean()), rtol=1e-6)


def test_leaves_the_model_as_it_was(loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    loud_model.train()
    next(loud_model.parameters()).requires_grad_(False)
    before = [parameter.requires_grad for parameter in loud_model.parameters()]
    measured(loud_model, inputs, [[0, 1]])
    assert loud_model.training
    assert before == [parameter.requires_grad for parameter in loud_model.parameters()]
    assert all(parameter.grad is None for parameter in loud_model.parameters())


# --- other measures, against naive sums over named weights ------------------------------------------------------------


def weights_of(model: PreTrainedModel, layer: int, head: int | None) -> list[tuple[str, tuple[slice, ...]]]:
    """Name and slice of each weight of a head (None: of the layer's FFN) of a BERT model."""
    prefix, size = f"bert.encoder.layer.{layer}.", HIDDEN // HEADS
    if head is None:
        modules = ("intermediate.dense", "output.dense")
        return [(f"{prefix}{module}.{kind}", (slice(None),)) for module in modules for kind in ("weight", "bias")]
    rows = slice(head * size, (head + 1) * size)
    found = [
        (f"{prefix}attention.self.{m}.{k}", (rows,)) for m in ("query", "key", "value") for k in ("weight", "bias")
    ]
    return [*found, (f"{prefix}attention.output.dense.weight", (slice(None), rows))]


def naive_sums(model: PreTrainedModel, values: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    def neuron(layer: int, place: int) -> float:
        into, out = (f"bert.encoder.layer.{layer}.{name}" for name in ("intermediate.dense", "output.dense.weight"))
        own = values[f"{into}.weight"][place].sum() + values[f"{into}.bias"][place] + values[out][:, place].sum()
        return float(own)

    def total(layer: int, head: int | None) -> float:
        return sum(float(values[name][where].sum()) for name, where in weights_of(model, layer, head))

    heads = np.array([[total(layer, head) for head in range(HEADS)] for layer in range(LAYERS)])
    neurons = np.array([[neuron(layer, place) for place in range(FFN)] for layer in range(LAYERS)])
    return heads, np.array([total(layer, None) for layer in range(LAYERS)]), neurons


@pytest.fixture
def bert() -> PreTrainedModel:
    return make_loud(AutoModelForSequenceClassification.from_config(tiny_config("bert", num_labels=2)).double()).eval()


@pytest.fixture
def bert_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(5, 100, (5, 9), generator=generator)}


def batch_losses(model: PreTrainedModel, inputs: dict[str, torch.Tensor], batches: list[list[int]]) -> list[Loss]:
    return [
        lambda rows=rows: example_losses(
            model(**{name: value[rows] for name, value in inputs.items()}).logits, TARGETS[rows], False
        )
        for rows in batches
    ]


@pytest.mark.parametrize("name", ["magnitude", "movement", "taylor", "fisher"])
def test_a_measure_is_what_its_formula_says(
    name: str, bert: PreTrainedModel, bert_inputs: dict[str, torch.Tensor]
) -> None:
    batches = [[0, 1, 2], [3, 4]]
    start = make_loud(copy.deepcopy(bert), seed=5)
    losses = batch_losses(bert, bert_inputs, batches)
    weights = {key: p.detach().clone() for key, p in bert.named_parameters()}
    if name == "magnitude":
        expected = tuple(np.sqrt(sums) for sums in naive_sums(bert, {key: w**2 for key, w in weights.items()}))
    elif name == "movement":
        moved = {key: (w**2 - start.get_parameter(key).detach() ** 2) / 2 for key, w in weights.items()}
        expected = naive_sums(bert, moved)
    elif name == "taylor":
        expected = (np.zeros((LAYERS, HEADS)), np.zeros(LAYERS), np.zeros((LAYERS, FFN)))
        for rows, loss in zip(batches, losses, strict=True):
            bert.zero_grad()
            loss().mean().backward()
            product = {key: (p.detach() * p.grad).abs() for key, p in bert.named_parameters() if p.grad is not None}
            expected = tuple(e + len(rows) / 5 * s for e, s in zip(expected, naive_sums(bert, product), strict=True))
        bert.zero_grad()
    else:
        one = [measure(bert, lambda i=i: batch_losses(bert, bert_inputs, [[i]]), ScoringSettings()) for i in range(5)]
        expected = tuple(np.mean([scores[part] ** 2 for scores in one], axis=0) for part in (0, 1, 2))
    found = measure(bert, lambda: losses, ScoringSettings(importance=name), start=start)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-9)
    paper = measure(bert, lambda: losses, ScoringSettings())
    assert [np.argsort(s, axis=None).tolist() for s in found] != [np.argsort(s, axis=None).tolist() for s in paper]
    assert all(parameter.grad is None for parameter in bert.parameters())


def test_movement_is_what_movement_pruning_sums_over_small_steps(bert: PreTrainedModel) -> None:
    """Plain gradient descent with small steps on w^2: the sum of -lr w dL/dw over the steps, for every weight."""
    start = copy.deepcopy(bert)
    rate, steps, total = 1e-3, 100, {key: torch.zeros_like(p) for key, p in bert.named_parameters()}
    with torch.no_grad():
        for _ in range(steps):
            for key, parameter in bert.named_parameters():
                gradient = 2 * parameter
                total[key] -= rate * parameter * gradient
                parameter -= rate * gradient
    found = measure(bert, list, ScoringSettings(importance="movement"), start=start)
    for have, want in zip(found, naive_sums(bert, total), strict=True):
        np.testing.assert_allclose(have, want, rtol=3e-3)
        assert (have < 0).all()  # towards zero


def test_random_importance_follows_the_seed_alone(bert: PreTrainedModel) -> None:
    settings, another = ScoringSettings(importance="random"), make_loud(copy.deepcopy(bert), seed=5)
    one, again = (measure(model, list, settings) for model in (bert, another))
    other = measure(bert, list, settings, seed=1)
    for have, same, others in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(have, same)
        assert len(np.unique([have, others])) == 2 * have.size


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_cut_model_is_scored_where_it_still_has_something(
    name: str, family: str, loud_model: PreTrainedModel, inputs: dict[str, torch.Tensor]
) -> None:
    """Scores of what is left, in its place, equal those in the gated dense model; what is gone has none."""
    whole = Ticket.from_pruned(LAYERS, HEADS, [(0, 1), (0, 2), (2, 0)], [1])
    ticket = whole & Ticket.of_neurons(whole.heads, np.arange(LAYERS * FFN).reshape(LAYERS, FFN) % 3 > 0)
    small = cut(copy.deepcopy(loud_model), ticket)
    settings = ScoringSettings(importance=name)
    start = make_loud(copy.deepcopy(small), seed=3)
    found = measure(small, lambda: batch_losses(small, inputs, [[0, 1, 2], [3, 4]]), settings, ticket, start)
    kept = (ticket.heads, ticket.ffns, ticket.neurons_of(FFN))
    for scores, stays in zip(found, kept, strict=True):
        assert (scores[~stays] == 0).all()
        assert (scores[stays] != 0).all()
    if name in ("sensitivity", "fisher"):  # the gates of a masked dense model are an independent way to these
        power = 1 if name == "sensitivity" else 2
        with ticket_gated(loud_model, ticket):
            dense = [naive_importance(loud_model, {k: v[[i]] for k, v in inputs.items()}, [i]) for i in range(5)]
        expected = [np.mean([scores[part] ** power for scores in dense], axis=0) for part in (0, 1, 2)]
        for scores, want, stays in zip(found, expected, kept, strict=True):
            np.testing.assert_allclose(scores[stays], want[stays], rtol=1e-6)


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


def pairs(heads: np.ndarray) -> set[tuple[int, int]]:
    """Layer and head of each that is True."""
    return {(int(layer), int(head)) for layer, head in np.argwhere(heads)}


def released_pairs(facts: dict) -> set[tuple[int, int]]:
    return {(int(layer), head) for layer, gone in facts["pruned_heads_at_6"].items() for head in gone}


@pytest.mark.parametrize("task", ["rte", "cola", "stsb"])
def test_released_preset_reproduces_what_the_released_code_printed(oracle: dict, task: str) -> None:
    model, facts = oracle_model(oracle, task), oracle["tasks"][task]
    batches = [batch(facts["train"][i : i + 8]) for i in range(0, len(facts["train"]), 8)]
    regression = facts["outputs"] == 1
    losses = [lambda b=b: example_losses(model(**b[0]).logits, b[1], regression) for b in batches]
    heads, ffns, _ = measure(model, lambda: losses, ScoringSettings(absolute="token", accumulation="decaying"))
    np.testing.assert_allclose(heads, facts["head_scores"], rtol=2e-4)
    np.testing.assert_allclose(ffns, facts["ffn_scores"], rtol=2e-4)
    normalised = normalise_by_layer(heads)
    np.testing.assert_allclose(normalised, facts["head_scores_l2"], rtol=2e-4)
    kept = _drop_lowest(normalised, 6, one_stays=True)
    assert pairs(~kept) == released_pairs(facts)
    assert np.argsort(ffns, kind="stable").tolist() == facts["ffn_ascending"]
    # The paper's reading is another one: it must not pass for the released one.
    mean, *_ = measure(model, lambda: losses, ScoringSettings())
    assert not np.allclose(mean, facts["head_scores"], rtol=1e-2)


@pytest.mark.parametrize("task", ["rte", "cola", "stsb"])
def test_logits_are_the_released_codes(oracle: dict, task: str) -> None:
    model, facts = oracle_model(oracle, task), oracle["tasks"][task]
    inputs, _ = batch(facts["dev"])
    with torch.no_grad():
        np.testing.assert_allclose(model(**inputs).logits.numpy(), facts["dense_logits"], atol=2e-7)
        small = cut(model, Ticket.from_pruned(3, 4, [(0, 1), (0, 2), (2, 0)], [1]))
        np.testing.assert_allclose(small(**inputs).logits.numpy(), facts["masked_logits"], atol=2e-7)
    assert np.abs(np.subtract(facts["dense_logits"], facts["masked_logits"])).max() > 1e-5  # they do differ


def test_drawing_a_ticket_prunes_what_the_released_code_pruned(oracle: dict) -> None:
    for facts in oracle["tasks"].values():
        heads, ffns = (np.array(facts[name]) for name in ("head_scores_l2", "ffn_scores"))
        ticket = ranked(heads, ffns, 0.5, "winning", "ladder")
        assert pairs(~ticket.heads) == released_pairs(facts)
        (gone,) = np.flatnonzero(~ticket.ffns)
        assert gone == facts["ffn_ascending"][0]
