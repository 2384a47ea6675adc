import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

from helpers.families import OTHER, fitted, loud
from helpers.models import FAMILIES, OTHERS, make_loud, save_tiny_model, tiny_config
from supertickets.errors import StudyError, TicketError
from supertickets.export import vocabulary
from supertickets.export.fewer_tokens import keep_entries
from supertickets.export.vocabulary import cut_vocabulary, encode_texts, texts_that_differ, vocabulary_texts
from supertickets.surgery.cut import cut
from supertickets.tasks import Split, Task, TaskSource, load_task
from supertickets.tasks.builtin import sentences

MANY = sentences("train")[:400]
"""What tiny tokenizers learn their entries from."""
TEXTS = [*MANY[:12], (MANY[12], MANY[13]), ["no", "words", "apart"]]
WORDS = sorted({word for text in MANY[:6] for word in text.split()})


def _trained(model: Any, trainer: Any, splitter: Any) -> dict[str, Any]:
    """What a tokenizer of a kind learns: the model of its tokenizer.json."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(MANY, trainer)
    return dict(json.loads(tokenizer.to_str())["model"])


def wordpiece() -> Any:
    specials = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=240, special_tokens=specials, show_progress=False)
    model = _trained(models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer())
    return BertTokenizer(vocab=model["vocab"])


def _byte_level(specials: list[str]) -> dict[str, Any]:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))


def bpe() -> Any:
    model = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    merges = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True)


def bpe_with_padding_behind() -> Any:
    """Like ModernBERT's: special tokens were added behind the entries, others beside them."""
    tokenizer = Tokenizer(models.BPE())
    model = _byte_level(["<|endoftext|>"])
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["  ", "    "])
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    cls, sep = (tokenizer.token_to_id(one) for one in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    names = {name: f"[{name[:3].upper()}]" for name in ("unk_token", "cls_token", "sep_token", "pad_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)


def _pieces(specials: list[str], unknown: str) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=specials, unk_token=unknown, show_progress=False, shrinking_factor=0.5
    )
    pieces = _trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())["vocab"]
    return [(piece, score) for piece, score in pieces]


def unigram() -> Any:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    return XLMRobertaTokenizer(vocab=[*_pieces(specials, "<unk>"), ("<mask>", 0.0)])


LOADED: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}
"""How far products in float64 may differ once weights lie elsewhere in memory: not at all on some processors."""


def unigram_of_t5() -> Any:
    return T5Tokenizer(vocab=_pieces(["<pad>", "</s>", "<unk>"], "<unk>"), extra_ids=3)


KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "wordpiece": ("bert", wordpiece),
    "wordpiece-electra": ("electra", wordpiece),
    "bpe": ("roberta", bpe),
    "bpe-padding-behind": ("modernbert", bpe_with_padding_behind),
    "unigram": ("xlm-roberta", unigram),
    "unigram-t5": ("t5", unigram_of_t5),
}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {kind: make() for kind, (_, make) in KINDS.items()}


def model_for(kind: str, tokenizer: Any, auto: Any = AutoModelForSequenceClassification) -> PreTrainedModel:
    """A loud float64 model with some more rows than the tokenizer has entries, and its ids in the config."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{name}_token"))
        for name in ("pad", "bos", "eos", "cls", "sep")
        if getattr(tokenizer, f"{name}_token") is not None
    }
    config = tiny_config(KINDS[kind][0], num_labels=2, **ids)
    config.vocab_size, config.max_position_embeddings = len(tokenizer) + 5, 200
    return make_loud(auto.from_config(config).double()).eval()


def outputs(model: PreTrainedModel, tokenizer: Any, texts: Any = TEXTS) -> torch.Tensor:
    """Outputs for texts of different lengths, padded, and for a pair."""
    single = [text for text in texts if isinstance(text, str)]
    (pair,) = (text for text in texts if isinstance(text, tuple))
    with torch.inference_mode():
        batches = (tokenizer(single, padding=True, return_tensors="pt"), tokenizer(*pair, return_tensors="pt"))
        return torch.cat([model(**batch).logits for batch in batches])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_outputs_are_the_same_and_load_again(kind: str, made: dict[str, Any], tmp_path: Path) -> None:
    old = made[kind]
    model = model_for(kind, old)
    before, rows, parameters = outputs(model, old), len(old) + 5, model.num_parameters()
    done = cut_vocabulary(model, old, TEXTS)
    width = model.get_input_embeddings().weight.shape[1]
    assert len(done.kept) == len(done.tokenizer) == model.config.vocab_size < rows - 30
    assert done.dense_parameters - done.parameters == (rows - len(done.kept)) * width
    assert done.dense_parameters == parameters
    assert texts_that_differ(old, done.tokenizer, TEXTS).differ == 0
    assert torch.equal(outputs(model, done.tokenizer), before)
    model.save_pretrained(tmp_path)
    done.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert torch.allclose(outputs(again, loaded), before, **LOADED)
    for name in ("pad", "cls", "sep", "eos", "bos", "mask", "unk"):
        token = getattr(old, f"{name}_token")
        assert getattr(loaded, f"{name}_token") == token
        if token is not None and getattr(model.config, f"{name}_token_id", None) is not None:
            assert getattr(again.config, f"{name}_token_id") == loaded.convert_tokens_to_ids(token)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_row_is_seen(kind: str, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: one used token has another's row."""
    old, right = made[kind], vocabulary._keep_rows
    model = model_for(kind, old)
    before = outputs(model, old)

    def wrong(model: PreTrainedModel, kept: np.ndarray, whole: int) -> None:
        places = [int(np.flatnonzero(kept == one)[0]) for one in encode_texts(old, [TEXTS[0]])[0][2:4]]
        kept = kept.copy()
        kept[places] = kept[places[::-1]]
        right(model, kept, whole)

    monkeypatch.setattr(vocabulary, "_keep_rows", wrong)
    done = cut_vocabulary(model, old, TEXTS)
    assert not torch.equal(outputs(model, done.tokenizer), before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wordpiece-electra"])
def test_words_in_any_order_and_any_text(kind: str, made: dict[str, Any]) -> None:
    old = made[kind]
    new = cut_vocabulary(model_for(kind, old), old, [*WORDS, " ".join(["a", *WORDS])]).tokenizer

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
    def words(text: str) -> None:
        assert texts_that_differ(old, new, [text]).differ == 0

    @settings(max_examples=30, deadline=None)
    @given(st.one_of(st.text(max_size=30), st.sampled_from(MANY), st.lists(st.sampled_from(MANY)).map("".join)))
    def anything(text: str) -> None:
        assert texts_that_differ(old, new, [text]).unknown == 0

    words()
    anything()
    others = texts_that_differ(old, new, MANY[50:150])
    assert others.differ > 10  # what is left out is missed elsewhere
    assert others.tokens > 1
    assert f"{others.differ} of 100 texts" in others.sentence


LETTERS = "abcd"


def _random_model(kind: str, rng: random.Random, letters: str = LETTERS) -> dict[str, Any]:
    """A model with random entries, of which many ways lead to the same ones; scores are whole, so that paths tie."""
    longer = ["".join(rng.choices(letters, k=rng.randint(2, 5))) for _ in range(rng.randint(3, 25))]
    if kind == "WordPiece":
        entries = ["[UNK]", *letters, *(f"##{one}" for one in letters), *longer, *(f"##{one}" for one in longer[::2])]
        vocab = {token: i for i, token in enumerate(dict.fromkeys(entries))}
        return {"vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
    if kind == "Unigram":
        pieces = [["<unk>", 0.0], *([one, float(-rng.randint(1, 9))] for one in dict.fromkeys([*letters, *longer]))]
        return {"vocab": pieces, "unk_id": 0, "byte_fallback": False}
    entries, merges = dict.fromkeys(letters), []
    for _ in range(rng.randint(3, 25)):
        pair = [rng.choice(list(entries)), rng.choice(list(entries))]
        if pair not in merges and len("".join(pair)) < 7:
            merges.append(pair)
            entries["".join(pair)] = None
    return {"vocab": {token: i for i, token in enumerate(["[UNK]", *entries])}, "merges": merges, "dropout": None,
            "unk_token": "[UNK]", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": rng.random() < 0.5}  # fmt: skip


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
@settings(max_examples=100, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.text(LETTERS + "x ", max_size=16), max_size=4),
    st.lists(st.text(LETTERS + "xy ", max_size=16), max_size=4),
)
def test_random_vocabularies(kind: str, rng: random.Random, texts: list[str], others: list[str]) -> None:
    """Random entries, texts with characters that are unknown (x, y) or that only longer entries have."""
    letters = LETTERS + ("x" if rng.random() < 0.3 else "")
    content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
               "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
               "model": {"type": kind, **_random_model(kind, rng, letters)}}  # fmt: skip
    old = Tokenizer.from_str(json.dumps(content))
    needed = {token for text in texts for token in old.encode(text).tokens}
    # An unknown piece has the name of its text in `tokens`; its entry is kept anyway.
    keep_entries(content, needed & old.get_vocab().keys())
    new = Tokenizer.from_str(json.dumps(content))
    assert sorted(new.get_vocab().values()) == list(range(new.get_vocab_size()))
    names = {i: token for token, i in old.get_vocab().items()}, {i: token for token, i in new.get_vocab().items()}

    def tokens(text: str) -> list[list[str]]:
        return [[of[i] for i in one.encode(text).ids] for one, of in zip((old, new), names, strict=True)]

    for text in texts:
        before, now = tokens(text)
        assert now == before
    for text in others:
        before, now = tokens(text)
        unknown = {"[UNK]", "<unk>"}
        if not unknown & set(before):
            assert not unknown & set(now)


def test_a_join_that_is_missing_is_seen(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that reads the texts otherwise is not let through."""
    right = vocabulary.cut_tokenizer

    def wrong(tokenizer: Any, used: set[int], config: Any) -> Any:
        return right(tokenizer, set(sorted(used)[:-3]), config)

    monkeypatch.setattr(vocabulary, "cut_tokenizer", wrong)
    with pytest.raises(StudyError, match=r"reads .* otherwise than the whole one"):
        cut_vocabulary(model_for("bpe", made["bpe"]), made["bpe"], TEXTS)


SOON = ("bert", "bart", "deberta-v2", "esm", "gpt2", "modernbert", "mpnet", "roberta", "t5")
SIMPLE = ["w1 w7 w30 w31 w2", "w7 w99", "w50 w7 w3 w4 w5 w6 w8 w9"]


def word_tokenizer(folder: Path, family: str) -> Any:
    return AutoTokenizer.from_pretrained(save_tiny_model(folder / "words", family))


def logits_of(model: PreTrainedModel, tokenizer: Any, **more: Any) -> torch.Tensor:
    inputs = tokenizer(SIMPLE, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **more).logits


@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[] if one in SOON else pytest.mark.slow) for one in (*FAMILIES, *OTHERS)],
)
def test_every_family(family: str, tmp_path: Path) -> None:

    def loaded(name: str) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(tmp_path / name, dtype=torch.float64, num_labels=2)

    loud(family).save_pretrained(tmp_path / "old")
    model, tokenizer = loaded("old"), word_tokenizer(tmp_path, family)
    before = logits_of(model, tokenizer)
    done = cut_vocabulary(model, tokenizer, SIMPLE)
    assert len(done.kept) < 30
    assert torch.equal(logits_of(model, done.tokenizer), before)
    model.save_pretrained(tmp_path / "new")
    again = loaded("new")
    assert again.num_parameters() == done.parameters
    assert torch.allclose(logits_of(again, done.tokenizer), before, **LOADED)


@pytest.mark.parametrize(
    ("family", "auto"),
    [
        ("bert", AutoModelForMaskedLM),
        ("roberta", AutoModelForMaskedLM),
        ("distilbert", AutoModelForMaskedLM),
        ("electra", AutoModelForMaskedLM),
        ("deberta-v2", AutoModelForMaskedLM),
        ("deberta-v2 legacy=false", AutoModelForMaskedLM),
        ("modernbert", AutoModelForMaskedLM),
        ("mpnet", AutoModelForMaskedLM),
        ("rembert", AutoModelForMaskedLM),
        ("gpt2", AutoModelForCausalLM),
        ("bart", AutoModelForSeq2SeqLM),
        ("t5", AutoModelForSeq2SeqLM),
    ],
)
def test_predicted_tokens(family: str, auto: Any, tmp_path: Path) -> None:
    """Each kept token's logit is what it was, of tied matrices, others, and biases."""
    family, _, legacy = family.partition(" legacy=")
    config = tiny_config(family, **({"legacy": False} if legacy else {}))
    model, tokenizer = make_loud(auto.from_config(config).double()).eval(), word_tokenizer(tmp_path, family)
    for buffer in (buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"):
        buffer.copy_(torch.randn(buffer.shape))

    def of(model: PreTrainedModel, tokenizer: Any) -> torch.Tensor:
        begin = {"decoder_input_ids": tokenizer(SIMPLE, padding=True, return_tensors="pt")["input_ids"]}
        return logits_of(model, tokenizer, **(begin if auto is AutoModelForSeq2SeqLM else {}))

    before = of(model, tokenizer)
    done = cut_vocabulary(model, tokenizer, SIMPLE)
    # Products of other shapes are summed in another order.
    assert torch.allclose(of(model, done.tokenizer), before[..., done.kept], **LOADED)
    assert not torch.allclose(of(model, done.tokenizer), before[..., np.roll(done.kept, 1)], **LOADED)
    model.save_pretrained(tmp_path / "new")
    again = auto.from_pretrained(tmp_path / "new", dtype=torch.float64)
    assert torch.allclose(of(again, done.tokenizer), of(model, done.tokenizer), **LOADED)


def test_a_model_that_was_cut_to_a_ticket(tmp_path: Path) -> None:
    model, tokenizer = loud("roberta"), word_tokenizer(tmp_path, "roberta")
    cut(model, fitted(OTHER, "roberta"))
    before = logits_of(model, tokenizer)
    done = cut_vocabulary(model, tokenizer, SIMPLE)
    model.save_pretrained(tmp_path / "new")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new", dtype=torch.float64)
    assert torch.allclose(logits_of(again, done.tokenizer), before, **LOADED)


def test_ids_in_configs_are_kept_and_renumbered(made: dict[str, Any]) -> None:
    """Rows behind the tokenizer's entries that the config names stay; an id beyond all rows is as it was."""
    old = made["wordpiece"]
    model = model_for("wordpiece", old)
    row = len(old) + 2
    old_row = model.get_input_embeddings().weight[row].detach().clone()
    model.config.bos_token_id, model.config.eos_token_id, model.config.decoder_start_token_id = row, [3, 4], 5000
    done = cut_vocabulary(model, old, TEXTS)
    assert done.kept[model.config.bos_token_id] == row
    assert torch.equal(model.get_input_embeddings().weight[model.config.bos_token_id], old_row)
    assert done.kept[model.config.eos_token_id].tolist() == [3, 4]
    assert model.config.decoder_start_token_id == 5000


def test_ids_in_settings_of_generation_are_kept_and_renumbered(tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_config(tiny_config("gpt2")), word_tokenizer(tmp_path, "gpt2")
    ids: dict[str, Any] = {"eos_token_id": [2, 70], "suppress_tokens": [80, 81], "bad_words_ids": [[90], [91, 92]]}
    model.generation_config = GenerationConfig(**ids, top_p=0.8)  # not of greedy search: only warned about
    done = cut_vocabulary(model, tokenizer, SIMPLE)
    model.save_pretrained(tmp_path / "new")
    new = GenerationConfig.from_pretrained(tmp_path / "new")
    assert done.kept[new.eos_token_id].tolist() == [2, 70]
    assert done.kept[new.suppress_tokens].tolist() == [80, 81]
    assert [done.kept[one].tolist() for one in new.bad_words_ids] == [[90], [91, 92]]
    model.generation_config.sequence_bias = [[[3], -10.0]]
    with pytest.raises(TicketError, match="have sequence_bias, whose ids of tokens cannot be renumbered"):
        cut_vocabulary(model, done.tokenizer, SIMPLE)


def test_positions_after_padding_are_counted_as_before(made: dict[str, Any]) -> None:
    model = model_for("bpe", made["bpe"])
    done = cut_vocabulary(model, made["bpe"], TEXTS)
    assert model.roberta.embeddings.padding_idx == model.config.pad_token_id == done.tokenizer.pad_token_id == 1
    assert done.kept[:2].tolist() == [0, 1]


def test_other_tokenizers_are_refused(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_for("wordpiece", made["wordpiece"])
    content = json.loads(made["wordpiece"].backend_tokenizer.to_str())
    content["model"]["type"] = "Other"
    with pytest.raises(
        TicketError, match=r"model is Other; its vocabulary can be cut for WordPiece, BPE, Unigram, Word"
    ):
        keep_entries(content, set())
    monkeypatch.setattr(BertTokenizer, "is_fast", False)
    with pytest.raises(
        TicketError, match=r"only the vocabulary of a fast tokenizer .* BertTokenizer; .*--vocabulary all"
    ):
        cut_vocabulary(model, made["wordpiece"], TEXTS)


def test_the_texts_that_are_named(tmp_path: Path) -> None:
    def task(form: Any, pair: Any = None, words: Any = None) -> Task:
        train, dev = (Split([text], pair and [pair], np.zeros(1), words=words and [words]) for text in ("a", "b"))
        return Task("t", (), (), train, dev, {"more": dev}, form)

    assert vocabulary_texts("all").texts is None
    assert vocabulary_texts("used", [task("sequence")]).texts == ["a", "b", "b"]
    assert vocabulary_texts("used", [task("spans", "c"), task("causal")]).texts == [
        ("a", "c"), ("b", "c"), ("b", "c"), "a\n", "b\n", "b\n"
    ]  # fmt: skip
    assert vocabulary_texts("used", [task("tokens", words=[("d", 0), ("e", 1)])]).texts == [["d", "e"]] * 3
    path = tmp_path / "corpus.txt"
    path.write_text("one text\n\nanother\n")
    found = vocabulary_texts("corpus", corpus=path)
    assert found.texts == ["one text", "another"]
    assert found.notices == ("corpus.txt: 3 lines read, of which 1 blank line left out.",)


@pytest.mark.parametrize(
    ("which", "corpus", "message"),
    [
        ("usde", None, "--vocabulary: unknown value 'usde'; did you mean 'used'"),
        ("used", None, "--vocabulary used needs the texts of a task"),
        ("corpus", None, "--vocabulary corpus has no file with it; expected --vocabulary corpus --corpus FILE"),
        ("all", "x.txt", "--vocabulary all takes no file, and x.txt was given"),
        ("corpus", "missing.txt", "missing.txt"),
    ],
)
def test_other_choices_are_refused(which: str, corpus: str | None, message: str) -> None:
    with pytest.raises(TicketError, match=message):
        vocabulary_texts(which, corpus=corpus)


def test_a_built_in_task(made: dict[str, Any]) -> None:
    texts = vocabulary_texts("used", [load_task(TaskSource(task="acceptability"))]).texts
    assert texts
    old = made["unigram"]
    done = cut_vocabulary(model_for("unigram", old), old, texts)
    assert texts_that_differ(old, done.tokenizer, texts).share == 0
    assert done.sentence.startswith(f"The vocabulary keeps {len(done.kept):,} of {len(old) + 5:,} rows: ")
