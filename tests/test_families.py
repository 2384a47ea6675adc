"""Every other family as data: a row each in `helpers.models.OTHERS`, and the same questions to all of them."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

import supertickets
from helpers.families import (
    FIRST_WITHOUT_HEADS,
    FULL,
    NEURONS,
    NO_HEADS,
    OTHER,
    WRONG_NEURON,
    changed,
    fitted,
    loud,
    texts_of,
)
from helpers.models import (
    ATTENTIONS,
    HEADS,
    LAYERS,
    OTHERS,
    TWO_STACKS,
    VOCABULARY,
    make_loud,
    save_tiny_model,
    tiny_config,
)
from helpers.models import FAMILIES as FIRST_FIVE
from helpers.trials import write_words
from supertickets.anatomy import FAMILIES, rows
from supertickets.anatomy.blocks import ffns_of, shape_of
from supertickets.anatomy.cost import forward_flops, removed_parameters
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.models import ModelSource, find_model
from supertickets.models.checkpoint import outside_names
from supertickets.studies.plan import plan_study
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.surgery.gate import ticket_gated
from supertickets.surgery.masks import prunable
from supertickets.surgery.output_layer import full_precision_logits
from supertickets.surgery.sharing import SharedStructures
from supertickets.surgery.structures import sum_by_structure
from supertickets.tickets import Ticket
from supertickets.tickets.weights import Pruning
from test_importance import measured, naive_importance
from test_surgery import NO_FFN, TICKET, WRONG, WRONG_FFN, hidden_states

pytestmark = pytest.mark.medium  # together they take a minute; five families are asked the same in test_surgery.py


@pytest.fixture(params=OTHERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def inputs(family: str) -> dict[str, torch.Tensor]:
    return texts_of(family)


CUT = {"ticket": TICKET, "no heads": NO_HEADS, "no FFN": NO_FFN, "neurons": NEURONS}
WITHOUT_SDPA = {"deberta", "deberta-v2", "gemma2", "megatron-bert", "mpnet", "rembert"}
"""Families whose classes of transformers refuse torch's attention, or go on with their own."""


def with_attention(model: PreTrainedModel, name: str) -> bool:
    """Let a model compute attention in a way; False if its classes cannot."""
    with suppress(ValueError):
        model.set_attn_implementation(name)
    return str(model.config._attn_implementation) == name


def test_cut_equals_gated(family: str, inputs: dict[str, torch.Tensor]) -> None:
    model = loud(family)
    assert with_attention(model, "eager")  # which every family has: wrong tickets are tried with it alone
    wrong = {
        other: hidden_states(cut(copy.deepcopy(model), fitted(other, family)), inputs)
        for other in (WRONG, WRONG_FFN, FULL, WRONG_NEURON, TICKET)
    }
    for attention in ("eager", "sdpa"):
        there = with_attention(model, attention)
        assert there == (attention == "eager" or family not in WITHOUT_SDPA), attention
        for name, ticket in CUT.items() if there else ():
            case, mine = f"{name}, {attention}", fitted(ticket, family)
            with ticket_gated(model, mine):
                expected = hidden_states(model, inputs)
            small = cut(copy.deepcopy(model), mine)
            difference = (hidden_states(small, inputs) - expected).abs()
            assert (difference <= 1e-12 * expected.abs() + 1e-13 * max(10, expected.abs().max())).all(), case
            assert model.num_parameters() - small.num_parameters() == removed_parameters(shape_of(model), mine), case
            controls = (WRONG, WRONG_FFN, FULL, *((WRONG_NEURON, TICKET) if name == "neurons" else ()))
            for other in controls if attention == "eager" else ():
                assert (wrong[other] - expected).abs().max() > 0.1, case


MISREAD = {"h 3 d": "3 h d", "3 h d": "h 3 d"}


@pytest.mark.parametrize("family", ["deberta", "modernbert"])
def test_a_misread_layout_shows(family: str, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loud(family)
    with ticket_gated(model, TICKET):
        expected = hidden_states(model, inputs)
    before = FAMILIES[family].attention.parts
    parts = tuple(replace(one, axes=MISREAD.get(one.axes, one.axes)) for one in before)
    assert parts != before
    changed(family, monkeypatch, parts=parts)
    assert (hidden_states(cut(model, TICKET), inputs) - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", ["phi"])
def test_axes_of_another_size_are_named(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(family, monkeypatch, parts=rows("self_attn", "q_proj", "k_proj", "v_proj"))
    with pytest.raises(TicketError, match=r"^layer 0: self_attn.k_proj.weight has 16 rows, expected 32 \('h d'\) by"):
        cut(loud(family), TICKET)


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_a_forgotten_attribute_shows(
    family: str, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read how many heads there are, and are silently wrong where nobody says so."""
    model = loud(family)
    with ticket_gated(model, TICKET):
        expected = hidden_states(model, inputs)
    changed(family, monkeypatch, attributes={})
    assert (hidden_states(cut(model, TICKET), inputs) - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", ["mpnet"])
def test_a_forgotten_argument_fails(
    family: str, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(family, monkeypatch, argument=None)
    with pytest.raises(RuntimeError):
        cut(loud(family), TICKET)(**inputs)


def test_gradients_equal_the_gated_ones(family: str, inputs: dict[str, torch.Tensor]) -> None:
    """The gradients of a cut model, put in their places, are those of the gated one."""
    model, ticket = loud(family), fitted(NEURONS, family)
    small = cut(copy.deepcopy(model), ticket)
    with ticket_gated(model, ticket):
        model(**inputs).logits.pow(2).sum().backward()
    small(**inputs).logits.pow(2).sum().backward()
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.zero_()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in small.named_parameters()}
    expand(found, ticket, gradients)
    for name, parameter in found.named_parameters():
        grad = model.get_parameter(name).grad
        expected = torch.zeros_like(parameter) if grad is None else grad
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            parameter / scale, expected / scale, rtol=0, atol=1e-6, msg=name
        )  # some norms are float32


def test_importance_is_that_of_one_example_at_a_time(family: str, inputs: dict[str, torch.Tensor]) -> None:
    model = loud(family)
    expected = naive_importance(model, inputs)
    found = measured(model, inputs, [[3, 1], [0, 4, 2]])
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)
        assert (want > 1e-7).mean() > 0.5  # ReLU lets some neurons say nothing


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_new_output_layers_spread_as_those_of_transformers(family: str, tmp_path: Path) -> None:
    """T5's config has a factor, where others have a standard deviation."""
    config = tiny_config(family, num_labels=200)
    theirs = AutoModelForSequenceClassification.from_config(config)
    ours = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", family)))).build(200, 0.0, 0)
    new = [name for name in outside_names(ours) if name.endswith("weight")]
    assert new
    for name in new:
        expected = float(theirs.get_parameter(name).std())
        assert float(ours.get_parameter(name).std()) == pytest.approx(expected, rel=0.1), name


def test_a_structure_has_the_weights_that_go_with_it(family: str) -> None:
    """Squares that are gone without it; a key/value head goes with the last head that reads it, and counts for each."""
    model, whole = loud(family), fitted(FULL, family)
    squares = sum(float((p.detach() ** 2).sum()) for p in model.parameters())

    def sums(of: PreTrainedModel, ticket: Ticket) -> dict[Any, np.ndarray]:
        return sum_by_structure(of, {"heads": ticket.heads, "ffns": ticket.ffns}, lambda p: p.detach() ** 2)

    def gone(heads: list[tuple[int, int]], ffns: Sequence[int] = ()) -> float:
        kept, left = whole.heads.copy(), whole.ffns.copy()
        kept[tuple(np.array(heads, int).reshape(-1, 2).T)], left[list(ffns)] = False, False
        small = cut(copy.deepcopy(model), Ticket(kept, left))
        return squares - sum(float((p.detach() ** 2).sum()) for p in small.parameters())

    found, each = sums(model, whole), HEADS // shape_of(model).kv_heads
    # All groups of the first row, and the first one of the others: each row and each place is cut alone once.
    rows_of_one = [(row, 0) for row in range(1, len(whole.heads))]
    for row, first in [*((0, first) for first in range(0, HEADS, each)), *rows_of_one]:
        group = [(row, head) for head in range(first, first + each)]
        alone = [gone([one]) for one in group]
        shared = gone(group) - sum(alone) if each > 1 else 0.0
        np.testing.assert_allclose([found["heads"][one] for one in group], np.array(alone) + shared, rtol=1e-9)
        assert (shared > 0) == (each > 1)
    np.testing.assert_allclose(found["ffns"], [gone([], [layer]) for layer in range(len(whole.ffns))], rtol=1e-9)
    ticket = fitted(NO_HEADS & OTHER, family)
    left = sums(cut(copy.deepcopy(model), ticket), ticket)
    for kind, stays in (("heads", ticket.heads), ("ffns", ticket.ffns)):
        np.testing.assert_allclose(left[kind], np.where(stays, found[kind], 0.0), rtol=1e-9)


def test_a_tickets_weights_find_their_places(family: str, inputs: dict[str, torch.Tensor]) -> None:
    trained, dense, ticket = loud(family), loud(family), fitted(NEURONS, family)
    make_loud(trained, seed=1)
    small = cut(copy.deepcopy(trained), ticket)
    expand(dense, ticket, small.state_dict())
    assert torch.equal(hidden_states(cut(dense, ticket), inputs), hidden_states(small, inputs))


def test_shared_structures_act_as_each_ticket(family: str, inputs: dict[str, torch.Tensor]) -> None:
    model = loud(family)
    tickets = [fitted(ticket, family) for ticket in (NEURONS, OTHER, NO_HEADS, WRONG_NEURON)]
    union = reduce(or_, tickets)
    expected = [hidden_states(cut(copy.deepcopy(model), ticket), inputs) for ticket in tickets]
    whole = cut(copy.deepcopy(model), union)
    shared = cut(model, union)
    structures = SharedStructures(shared, tickets)
    for ticket, states in zip((*tickets, tickets[0]), (*expected, expected[0]), strict=True):
        structures.activate(ticket)
        torch.testing.assert_close(hidden_states(shared, inputs), states, rtol=1e-10, atol=1e-10)
    structures.merge()
    assert torch.equal(hidden_states(shared, inputs), hidden_states(whole, inputs))
    assert list(shared.state_dict()) == list(whole.state_dict())


def test_flops_are_what_torch_counts(family: str) -> None:
    """Heads and FFNs; DeBERTa's relative positions have products of their own, which are not counted one by one."""
    from torch.utils.flop_counter import FlopCounterMode

    model = loud(family)
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 100, (2, 9))
    ids[:, -1] = 2
    counts, (full, part) = {}, [fitted(ticket, family) for ticket in (FULL, NEURONS)]
    for ticket in (part, full):
        small = cut(copy.deepcopy(model), ticket)
        with FlopCounterMode(display=False) as counter:
            small(ids)
        counts[ticket] = counter.get_total_flops()
    if "deberta" not in family:  # of the full ticket
        layers = {id(block.layer) for block in ffns_of(small)}
        names = {f"{type(small).__name__}.{name}" for name, module in small.named_modules() if id(module) in layers}
        inside = [sum(of.values()) for name, of in counter.get_flop_counts().items() if name in names]
        assert sum(inside) == forward_flops(shape_of(model), full, 2, 9)
    saved = forward_flops(shape_of(model), full, 2, 9) - forward_flops(shape_of(model), part, 2, 9)
    assert counts[full] - counts[part] == pytest.approx(saved, rel=0.25 if "deberta" in family else 0)


LOAD = """
import sys, torch, transformers, supertickets
transformers.logging.set_verbosity_error()
from safetensors.torch import load_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = load_file(folder + "/../expected.safetensors")
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys() - {"logits", "ids"}, folder
    assert all(torch.equal(found[name], expected[name]) for name in found), folder
    with torch.no_grad():
        torch.testing.assert_close(model(expected["ids"]).logits, expected["logits"])
    model.half().float().save_pretrained(folder + "/again")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(folder + "/again")
    assert again.num_parameters() == model.num_parameters(), folder
    print(folder)
"""


@pytest.mark.slow
def test_stock_classes_load_them_in_a_fresh_process(tmp_path: Path) -> None:
    """All families and tickets in one process, where transformers is imported first: parameters bit for bit."""
    from safetensors.torch import save_file

    folders = []
    for family in (*FIRST_FIVE, *OTHERS):
        base = save_tiny_model(tmp_path / family / "base", family, scale=0.5)
        for name, ticket in {"ticket": NEURONS, "no-heads": NO_HEADS}.items():
            model = cut(
                AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).eval(), fitted(ticket, family)
            )
            folder = tmp_path / family / name / "small"
            model.save_pretrained(folder)
            ids = torch.arange(5, 77).view(6, 12)
            ids[:, -1] = 2
            with torch.no_grad():
                logits = model(ids).logits
            state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            save_file({**state, "logits": logits, "ids": ids}, folder.parent / "expected.safetensors")
            folders.append(str(folder))
    done = subprocess.run([sys.executable, "-c", LOAD, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == folders


USUAL = ("albert", "deberta-v2", "modernbert", "gpt2", "llama", "mt5")
"""One of each kind: shared layers, positions of its own, gates in one matrix, and so on."""


def few_words(folder: Path, seed: int) -> dict[str, Path]:
    """Files of three batches and of two, for what is asked of every family."""
    files = {"train_file": (f"t{seed}.jsonl", 24, seed), "dev_file": (f"d{seed}.jsonl", 16, seed + 1)}
    return {name: write_words(folder / file, count, of) for name, (file, count, of) in files.items()}


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family in USUAL else pytest.mark.slow) for family in OTHERS]
)
def test_find_from_a_folder_to_what_it_ships(family: str, tmp_path: Path) -> None:
    """What is shipped is loaded again and asked the dev set by the study itself."""
    model = save_tiny_model(tmp_path / "model", family)
    words = few_words(tmp_path, 0)
    done = supertickets.find(
        task="words", model=str(model), levels=(0.4,), kinds=("winning",), seeds=1, epochs=1, batch_size=8,
        max_length=16, precision="float32", workers=1, out=tmp_path / "out", **words,
    )  # fmt: skip
    assert not done.failures
    assert done.table.score.notna().all()
    assert (done.shipped["ticket"] / "model" / "config.json").is_file()
    assert load_file(done.shipped["ticket"] / "ticket.safetensors")["heads"].shape == (
        ATTENTIONS if family in TWO_STACKS else LAYERS,
        HEADS,
    )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_real_number_is_computed_in_full_precision(family: str, precision: torch.dtype) -> None:
    """Also where a model has one for each token, and takes that of one or the mean."""
    if precision == torch.bfloat16 and not FAMILIES[family].in_bfloat16:
        pytest.skip(f"{family} does not compute in bfloat16")
    model = make_loud(AutoModelForSequenceClassification.from_config(tiny_config(family, num_labels=1))).eval()
    ids = torch.randint(5, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        plain, exact = model(**inputs).logits, full_precision_logits(model, inputs)
    assert exact.dtype == torch.float32
    assert exact.shape == plain.shape == (4, 1)
    if precision == torch.float32:
        assert torch.equal(exact, plain)
    else:
        torch.testing.assert_close(exact, plain.float(), rtol=0.05, atol=0.05 * float(plain.abs().max()))
        assert not torch.equal(exact, exact.bfloat16().float())


def test_a_decoder_learns_real_numbers_but_no_standardised_ones(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model", "llama"))
    small: dict[str, Any] = {
        "seeds": 1, "epochs": 1, "batch_size": 8, "max_length": 16, "precision": "float32", "workers": 1,
        "kinds": ("winning",), "levels": (0.4,), "model": model,
    }  # fmt: skip
    done = supertickets.find(small, task="similarity", fraction=0.1, out=tmp_path / "out")
    assert done.table.score.notna().all()
    file = write_words(tmp_path / "real.jsonl", 24, 0, lambda words: sum(words) / 7)
    with pytest.raises(TicketError, match=r"task 'own': its targets are standardized, and .* \(llama\) has no bias"):
        supertickets.find(small, task="own", train_file=file, dev_file=file, regression=True, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_plain_attention_is_refused_where_it_changes_nothing(
    family: str, tmp_path: Path, words: dict[str, Path]
) -> None:
    """MPNet's attention is its own: torch's kernel never runs."""
    model = str(save_tiny_model(tmp_path / "model", family))
    asked: dict[str, Any] = {**words, "model": model, "score_attention": "plain", "out": tmp_path / "out"}
    said = rf"--score-attention plain: model .* \({family}\) computes attention without torch's kernel"
    with nullcontext() if family == "bert" else pytest.raises(TicketError, match=said):
        plan_study("find", asked)
    assert not (tmp_path / "out").exists()


def test_a_family_that_does_not_compute_in_bfloat16(tmp_path: Path, words: dict[str, Path]) -> None:
    base = save_tiny_model(tmp_path / "model", "deberta")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    with pytest.raises(RuntimeError, match="BFloat16"), torch.autocast("cpu", torch.bfloat16):
        model(torch.tensor([[5, 6, 2]]))  # if it works some day, the family's `in_bfloat16` can go
    small: dict[str, Any] = {
        "task": "words",
        "model": str(base),
        "levels": (0.4,),
        "epochs": 1,
        "max_length": 16,
        **words,
    }
    small |= {"kinds": ("winning",), "seeds": 1, "workers": 1}
    with pytest.raises(TicketError, match=r"--precision bfloat16: the classes .* 'deberta' do not compute in it"):
        supertickets.find(small, precision="bfloat16", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supertickets.training.devices._multiplies_bfloat16_faster", lambda: True)
        assert supertickets.find(small, out=tmp_path / "out").settings.precision == "float32"


def test_a_config_may_leave_out_its_defaults(family: str) -> None:
    """Older checkpoints lack fields that are newer; whether there are biases is read without transformers."""
    config = tiny_config(family)
    whole, default = config.to_dict(), type(config)().to_dict()
    short = {k: v for k, v in whole.items() if not (isinstance(v, bool) and v == default.get(k))}
    assert FAMILIES[family].shape(short) == FAMILIES[family].shape(whole)


def test_every_matrix_of_a_layer_may_be_pruned(family: str) -> None:
    """Tickets of single weights find the matrices of all families; embeddings and norms are left out."""
    model = AutoModelForSequenceClassification.from_config(tiny_config(family, num_labels=2))
    found = prunable(model.base_model, Pruning())
    inside = [path for path in dict(model.base_model.named_parameters()) if ".0." in path]
    matrices = {name for name in inside if model.base_model.get_parameter(name).ndim == 2}
    matrices -= {name for name in matrices if "relative_attention_bias" in name}  # T5's table is an embedding
    assert matrices
    assert matrices <= found.keys()
    kinds = {name: model.base_model.get_submodule(name.removesuffix(".weight")) for name in found}
    assert not [name for name, module in kinds.items() if isinstance(module, torch.nn.Embedding)]
    assert not [name for name in found if "contact_head" in name]  # ESM's, of attention maps, which no task reads


@pytest.mark.parametrize(("layers", "applied"), [(4, (2, 2)), (3, (2, 1))])
def test_an_albert_gets_layers_of_its_own(
    layers: int, applied: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two groups, applied one after the other: the same outputs bit for bit, more layers."""
    config = tiny_config("albert", num_hidden_groups=2, num_hidden_layers=layers)
    shared = save_tiny_model(tmp_path / "shared", "albert", scale=0.5)
    model = make_loud(AutoModel.from_config(config)).eval()
    model.save_pretrained(shared)
    assert main(["unshare", str(shared), "--out", str(tmp_path / "own")]) == 0
    assert main(["unshare", str(tmp_path / "own"), "--out", str(tmp_path / "again")]) == 2
    assert "its layers do not share weights; expected a model such as ALBERT" in capsys.readouterr().err
    own = AutoModel.from_pretrained(tmp_path / "own").eval()
    ids = torch.arange(5, 29).view(2, 12)
    with torch.no_grad():
        assert torch.equal(own(ids).last_hidden_state, model(ids).last_hidden_state)
        weights = [group.albert_layers[0].ffn.weight for group in own.encoder.albert_layer_groups]
        weights[0].data, weights[-1].data = weights[-1].data, weights[0].data.clone()  # the control: another order
        assert not torch.allclose(own(ids).last_hidden_state, model(ids).last_hidden_state)
    bases = [find_model(str(tmp_path / name)) for name in ("shared", "own")]
    assert [base.shape.applied for base in bases] == [applied, ()]
    assert ModelSource(bases[1]).build(2, 0.0, 0).config.num_hidden_groups == layers


@pytest.mark.slow
@pytest.mark.parametrize("family", ["phi3", "deberta", "mpnet", "t5"])  # shared, fused; raw; an argument; two stacks
def test_every_study_runs_end_to_end(family: str, tmp_path: Path) -> None:
    """Tickets are found on two tasks, shared, transferred and adapted, and single weights are pruned."""
    model = str(save_tiny_model(tmp_path / "model", family))
    small: dict[str, Any] = {
        "seeds": 1, "epochs": 1, "batch_size": 8, "max_length": 16, "precision": "float32", "workers": 1,
    }  # fmt: skip
    files = [few_words(tmp_path, seed) for seed in (1, 3)]
    found = [
        supertickets.find(
            small, task=f"words{i}", model=model, levels=(0.4,), kinds=("winning",), out=tmp_path / f"find{i}", **own
        )
        for i, own in enumerate(files)
    ]
    tickets = tuple(one.folder for one in found)
    shared = supertickets.share(small, tickets=tickets, model=model, out=tmp_path / "share")
    results = [
        *found,
        shared,
        supertickets.transfer(small, tickets=tickets, model=model, out=tmp_path / "transfer"),
        supertickets.imp(small, task="words0", model=model, sparsities=(0.5,), out=tmp_path / "imp", **files[0]),
        supertickets.adapt(
            small, sources=(shared.folder,), task="new", fractions=(1.0,), out=tmp_path / "adapt", **files[1]
        ),
    ]
    for result in results:
        assert not result.failures
        assert result.table.score.notna().all()


def test_a_cut_model_is_copied_and_pickled_with_all_it_needs(family: str, inputs: dict[str, torch.Tensor]) -> None:
    model = cut(loud(family), fitted(FIRST_WITHOUT_HEADS, family))
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))  # transformers' own hooks come with the first call
    expected = hidden_states(model, inputs)
    for other in others:
        assert torch.equal(hidden_states(other, inputs), expected)
