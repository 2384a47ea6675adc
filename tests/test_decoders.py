"""Decoders, alone and beside an encoder: as classifiers, and as what writes text."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Cache,
    DynamicCache,
    PreTrainedModel,
)

from helpers.families import (
    FIRST_WITHOUT_HEADS,
    NEURONS,
    changed,
    fitted,
    kept_by,
    loud,
    texts_of,
)
from helpers.models import (
    HIDDEN,
    OTHERS,
    TWO_STACKS,
    make_loud,
    pads_with_1,
    save_tiny_model,
    tiny_config,
)
from helpers.trials import write_words
from supertickets.anatomy import FAMILIES, Family
from supertickets.anatomy.blocks import attentions_of, shape_of
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.models import ModelSource, find_model
from supertickets.models.checkpoint import read_config
from supertickets.models.tokenizer import check_ends
from supertickets.surgery.cut import cut
from supertickets.surgery.gate import ticket_gated
from supertickets.surgery.heads import PICKED, _WithoutHeads, attention_of
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from test_surgery import TICKET, hidden_states

pytestmark = pytest.mark.medium  # together they take a minute; five families are asked the same in test_surgery.py


@pytest.fixture(params=OTHERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def inputs(family: str) -> dict[str, torch.Tensor]:
    return texts_of(family)


DECODERS = [family for family in OTHERS if FAMILIES[family].causal]


def test_a_family_says_whether_its_tokens_see_later_ones(family: str) -> None:
    """The last token of a text reaches the others of an encoder, and of no decoder that stands alone."""
    if family in TWO_STACKS:
        pytest.skip("it has both")
    model = loud(family).base_model
    ids = torch.arange(5, 14)[None].repeat(2, 1)
    ids[1, -1] = 90
    with torch.no_grad():
        one, other = model(ids).last_hidden_state[:, :-1]
    assert FAMILIES[family].causal == bool((one - other).abs().max() < 1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_attention_function_sees_its_own_name_where_key_value_heads_are_picked(family: str) -> None:
    """Flash attention asks the module's config which of its versions it is."""
    model, seen = loud(family), []

    def named(module: Any, *inputs: Any, **more: Any) -> Any:
        seen.append(module.config._attn_implementation)
        return AttentionInterface()["sdpa"](module, *inputs, **more)

    AttentionInterface.register("named", named)
    ids = torch.arange(5, 14)[None]
    uneven = cut(model, Ticket(np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]], bool), np.ones(3, bool)))
    with torch.no_grad():
        expected = uneven(ids).logits
        uneven.set_attn_implementation("named")
        torch.testing.assert_close(uneven(ids).logits, expected)
    assert seen == ["named"] * 3
    picks = [layer.self_attn.config._attn_implementation == PICKED for layer in uneven.base_model.layers]
    assert picks == [True, False, True]  # control


class _WithLanguage:
    """A tokenizer that puts a token behind the end of a text, as mBART's puts the language."""

    def __init__(self, whole: Any, *behind: int) -> None:
        self.whole, self.behind = whole, behind

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*self.whole(text)["input_ids"][:-1], *self.behind]}

    def convert_ids_to_tokens(self, id: int) -> Any:
        return self.whole.convert_ids_to_tokens(id)


def test_the_end_of_a_text_need_not_be_its_last_token(words: dict[str, Path], tmp_path: Path) -> None:
    base = find_model(str(save_tiny_model(tmp_path / "bart", "bart")))
    tokenizer, task = ModelSource(base).tokenizer, load_task(TaskSource.model_validate({"task": "words", **words}))
    end = read_config(base.name, base.folder).eos_token_id
    check_ends(base.name, base.folder, tokenizer, task)
    check_ends(base.name, base.folder, _WithLanguage(tokenizer, end, 7), task)
    with pytest.raises(TicketError, match="does not end a text with"):
        check_ends(base.name, base.folder, _WithLanguage(tokenizer, 7), task)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("ticket", [NEURONS, FIRST_WITHOUT_HEADS], ids=["ticket", "no heads"])
def test_a_cut_decoder_generates_what_the_gated_one_does(
    family: str, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, with a cache, texts of different lengths; the cache holds the key/value heads that are left."""
    model = make_loud(AutoModelForCausalLM.from_config(tiny_config(family)).float()).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 120, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[1, :2], mask[1, :2] = int(pads_with_1(family)), 0  # padded on the left
    small = cut(copy.deepcopy(model), ticket)

    def generated(of: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
        found = of.generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=False, output_logits=True,
            return_dict_in_generate=True, eos_token_id=None,
        )  # fmt: skip
        return found.sequences, torch.stack(found.logits)

    with ticket_gated(model, ticket):
        tokens, logits = generated(model)
    found, theirs = generated(small)
    assert torch.equal(found, tokens)
    torch.testing.assert_close(theirs, logits, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        cache = small(ids, use_cache=True).past_key_values
    shape = shape_of(model)
    for layer, heads in enumerate(ticket.heads):
        assert cache.layers[layer].keys.shape[1] == max(1, int(shape.kept(heads)["g"].sum()))
    if ticket is FIRST_WITHOUT_HEADS and family != "modernbert-decoder":  # whose cache counts by its other layers
        # The control's first layer hands nothing to the cache, which counts tokens by it.
        stand_in = _WithoutHeads.__call__

        def forgetful(self: _WithoutHeads, *args: Any, **kwargs: Any) -> Any:
            kept = [None if isinstance(one, Cache) else one for one in args]
            return stand_in(self, *kept, **{k: None if isinstance(v, Cache) else v for k, v in kwargs.items()})

        monkeypatch.setattr(_WithoutHeads, "__call__", forgetful)
        assert not torch.allclose(generated(small)[1], logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", TWO_STACKS)
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("ticket", [NEURONS, FIRST_WITHOUT_HEADS], ids=["ticket", "no heads"])
def test_a_cut_decoder_beside_an_encoder_generates_what_the_gated_one_does(
    family: str, ticket: Ticket, beams: int, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both caches: that of its own tokens counts them by its first layer, which has no heads here."""
    encoder = 2 if "t5" in family else 1  # transformers counts the caches of T5's decoder by the encoder's layers
    sizes = {"num_layers" if "t5" in family else "encoder_layers": encoder}
    model = make_loud(AutoModelForSeq2SeqLM.from_config(tiny_config(family, **sizes)).float()).eval()
    heads, neurons = (kept[[0] * (encoder - 1) + [*range(len(kept))]] for kept in kept_by(fitted(ticket, family)))
    mine = Ticket.of_neurons(heads, neurons)
    assert mine.heads[encoder].any() == (ticket is NEURONS)
    small = cut(copy.deepcopy(model), mine)

    def generated(of: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
        found = of.generate(
            **inputs, max_new_tokens=6, do_sample=False, num_beams=beams, output_logits=True,
            return_dict_in_generate=True, eos_token_id=None, forced_eos_token_id=None,
        )  # fmt: skip
        return found.sequences, torch.stack(found.logits)

    with ticket_gated(model, mine):
        tokens, logits = generated(model)
    found, theirs = generated(small)
    assert torch.equal(found, tokens)
    torch.testing.assert_close(theirs, logits, rtol=1e-3, atol=1e-3)
    if ticket is FIRST_WITHOUT_HEADS:
        monkeypatch.setattr(DynamicCache, "get_seq_length", lambda self, layer_idx=0: 0)  # the control counts no tokens
        assert not torch.allclose(generated(small)[1], logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", TWO_STACKS)
def test_a_classifier_with_a_decoder_gives_a_text_the_same_outputs_in_any_batch(family: str, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", family, scale=0.5))))
    model = source.build(2, 0.0, 0).eval()
    texts = ["w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
    with torch.no_grad():
        batch = source.tokenizer(texts, padding=True, return_tensors="pt")
        together = model(**batch).logits
        alone = [model(**source.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
        whole = model(batch["input_ids"]).logits  # the control takes padding for text
        assert not torch.allclose(whole, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "sizes", "more", "said"),
    [
        (
            "w1 [SEP] w2",
            {},
            [],
            "training example 1 has '[SEP]' in its text, which is how a t5 model marks where a text",
        ),
        (
            "w1 w2",
            {},
            ["--task", "mlm"],
            "(t5) has a decoder beside the encoder, and is supported for tasks with a label",
        ),
        ("w1 w2", {"decoder_ffn_dim": 64}, [], "encoder_ffn_dim and decoder_ffn_dim differ, which is not supported"),
    ],
)
def test_what_a_classifier_with_a_decoder_cannot_be_is_said(
    text: str, sizes: dict[str, int], more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_model(tmp_path / "model", "bart" if sizes else "t5", mask=bool(more))
    config = json.loads((model / "config.json").read_text()) | sizes
    (model / "config.json").write_text(json.dumps(config))
    file = write_words(tmp_path / "train.jsonl", 64, 0)
    lines = file.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"text": text})
    file.write_text("\n".join(lines))
    if more:
        file = tmp_path / "train.txt"
        file.write_text("w1 w2 w3\n" * 200)
    asked = ["find", "--model", str(model), "--train-file", str(file), "--out", str(tmp_path / "out")]
    asked += more or ["--task", "words"]
    assert main([*asked, "--max-length", "16"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_reads_the_last_token_of_a_text(family: str, tmp_path: Path) -> None:
    """Its tokenizer has no padding token: the end-of-text token is used, on the right, and said."""
    folder = save_tiny_model(tmp_path / "model", family, scale=0.5)
    config, tokens = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    tokens = {name: value for name, value in tokens.items() if name != "pad_token"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "eos_token": "[UNK]", "padding_side": "left"}))
    source = ModelSource(find_model(str(folder)))
    assert [said for said in source.notices if "no padding token; '[UNK]', its end-of-text token, is used" in said]
    model = source.build(2, 0.0, 0).eval()
    texts = ["w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
    with torch.no_grad():
        together = model(**source.tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = [model(**source.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
        model.config.pad_token_id = 0  # the control takes padding for text
        assert not torch.allclose(model(**source.tokenizer(texts, padding=True, return_tensors="pt")).logits, together)


@pytest.mark.parametrize("family", TWO_STACKS)
def test_a_misread_decoder_shows(family: str, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows of heads are those of self- and of cross-attention in turns; the control takes one for the other."""
    model, ticket = loud(family), fitted(TICKET, family)
    with ticket_gated(model, ticket):
        expected = hidden_states(model, inputs)
    of: Family = FAMILIES[family]
    assert of.decoder is not None
    turned = replace(of.decoder, attentions=of.decoder.attentions[::-1])
    monkeypatch.setitem(FAMILIES._registered, family, replace(of, decoder=turned))
    assert (hidden_states(cut(model, ticket), inputs) - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", ["mt5", "t5"])
def test_a_forgotten_table_fails(family: str, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bias is for all heads, and goes on from the first layer to the others."""
    changed(family, monkeypatch, table=None)
    with pytest.raises(RuntimeError):
        cut(loud(family), fitted(TICKET, family))(**inputs)


@pytest.mark.parametrize(("family", "reads"), [("llama", False), ("qwen3", False), ("mistral", True)])
def test_a_class_that_calls_the_decoder_otherwise_is_refused(family: str, reads: bool, tmp_path: Path) -> None:
    """Its weights would all be missing; Mistral's is the control."""
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", family))))
    expected = pytest.raises(TicketError, match="ForQuestionAnswering of transformers does not read its checkpoint")
    with nullcontext() if reads else expected:
        source.check("spans", 2)


@pytest.mark.parametrize("family", ["gpt2", "modernbert-decoder", "starcoder2"])
def test_what_a_layer_without_heads_adds_is_dropped_as_in_the_dense_model(family: str) -> None:
    """Its projection's bias: all of it where all is dropped, nothing out of training."""
    model = make_loud(AutoModel.from_config(tiny_config(family, attention_bias=True)))
    cut(model, fitted(FIRST_WITHOUT_HEADS, family))
    attention, field = attention_of(attentions_of(model)[0]), FAMILIES[family].attention.dropout
    assert field is not None
    if isinstance(getattr(attention, field), float):
        setattr(attention, field, 1.0)
    else:
        getattr(attention, field).p = 1.0
    given = {"hidden_states": torch.ones(1, 2, HIDDEN), "position_embeddings": None, "attention_mask": None}
    assert bool(attention.eval()(**given)[0].any())  # control
    assert not bool(attention.train()(**given)[0].any())
