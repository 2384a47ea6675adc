"""A model folder against what its architecture needs: whatever is missing, unused or new is an error, or is said."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file, save_model
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from helpers.hub import hub, use_hub
from helpers.models import FAMILIES, HEADS, LAYERS, VOCABULARY, save_tiny_model
from supertickets import anatomy
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.export.formats import dense_model
from supertickets.export.predict import outputs_of
from supertickets.export.source import Exported
from supertickets.export.vocabulary import cut_vocabulary
from supertickets.models import STOCK_CLASSES, ModelSource, find_model, load_model, load_tokenizer
from supertickets.models.base import _NOT_NEEDED
from supertickets.models.tokenizer import check_rows
from supertickets.surgery.cut import cut
from supertickets.tasks import Form, Split, Task
from supertickets.tickets import Ticket
from supertickets.tickets.weights import Pruning
from supertickets.training.batches import check_texts, encode_split

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    """Return the sentence with which a folder is refused, however it is opened."""
    with pytest.raises(TicketError) as refused:
        embeddings(folder)
    return str(refused.value)


def embeddings(folder: Path, **how: object) -> torch.Tensor:
    model = ModelSource(find_model(str(folder))).build(2, 0.1, **{"seed": 0, **how})  # type: ignore[arg-type]
    return model.get_input_embeddings().weight


# --- the checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.2.attention.self.query.weight",
        "encoder.layer.0.output.LayerNorm.weight",
    ],
)
def test_an_encoder_weight_that_is_missing_is_named(folder: Path, name: str) -> None:
    change_weights(folder, lambda found: {key: value for key, value in found.items() if key != name})
    assert name in refusal(folder)
    with pytest.raises(TicketError, match="would be random"):
        load_model(find_model(str(folder)), AutoModel, torch.float32)


@pytest.mark.parametrize(
    "extra",
    [
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.3.output.dense.weight",
        "encoder.layer.0.output.adapters.a.down.weight",
        "embeddings.rotary.weight",
    ],
)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_an_encoder_weight_that_is_not_used_is_named(folder: Path, extra: str, prefix: str) -> None:
    def change(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {prefix + key: value for key, value in {**found, extra: torch.ones(3)}.items()}

    change_weights(folder, change)
    assert extra in refusal(folder)


def test_an_output_layer_and_a_pooler_may_be_new_or_unused_and_are_said(folder: Path) -> None:
    source = ModelSource(find_model(str(folder)))
    source.load("sequence", 2)
    assert source.notices == []  # the control: everything is used

    def change(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {f"bert.{key}": value for key, value in found.items() if not key.startswith("pooler.")}
        return kept | {"cls.predictions.bias": torch.ones(3), "bert.embeddings.position_ids": torch.arange(40)[None]}

    change_weights(folder, change)
    source = ModelSource(find_model(str(folder)))
    loaded = source.load("sequence", 2)
    new, unused = source.notices
    assert "bert.pooler.dense.weight" in new
    assert new.endswith("they are initialized randomly.")  # also of `apply`, which has no seed
    assert unused == f"Unused weights in the checkpoint of model {folder}: cls (1 tensors)."
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= set(loaded.new)


def test_more_or_fewer_layers_than_the_config_says(folder: Path) -> None:
    change_config(folder, num_hidden_layers=2)
    assert "encoder.layer.2" in refusal(folder)
    change_config(folder, num_hidden_layers=4)
    assert "encoder.layer.3" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": VOCABULARY + 1}, "do not match its config"),
        ({"max_position_embeddings": 39}, "do not match its config"),
        ({"intermediate_size": 47}, "do not match its config"),
        ({"type_vocab_size": 3}, "do not match its config"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type relative_key"),
        ({"num_attention_heads": 5}, "divisible by the number of heads"),
        ({"num_attention_heads": 0}, "division|at least 1"),
        ({"num_hidden_layers": "three"}, "does not define the size"),
        ({"vocab_size": None}, "does not define the size"),
        ({"hidden_act": "no-such"}, "cannot build it"),
        ({"model_type": "bertt"}, "is not supported; supported are albert, bart"),
        ({"quantization_config": {}}, "is quantized; expected full-precision weights"),
        ({"quantization_config": {"quant_method": "supertickets"}}, "is already pruned to a ticket; expected a dense"),
    ],
)
def test_a_config_that_is_not_the_checkpoints(folder: Path, change: dict[str, object], said: str) -> None:
    change_config(folder, **change)
    with pytest.raises(TicketError, match=said):
        ModelSource(find_model(str(folder))).load("sequence", 2)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_a_file_that_may_not_be_read(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.open

    def refused(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *how, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(TicketError, match=rf"{name} cannot be read \(Permission denied\); expected files that you may"):
        find_model(str(folder))


def test_weights_that_are_not_finite(folder: Path) -> None:
    change_weights(folder, lambda found: found | {"pooler.dense.bias": torch.full((32,), torch.nan)})
    assert "pooler.dense.bias are NaN" in refusal(folder)


def test_the_config_of_a_nomic_bert_by_its_makers(tmp_path: Path) -> None:
    """transformers reads none of its sizes: they must be those that it has for such a model."""
    folder = save_tiny_model(tmp_path / "model", "nomic_bert")
    theirs = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_inner": 48, "max_trained_positions": 40}
    change_config(folder, **theirs, rotary_emb_base=1000)
    expected = find_model(str(folder)).shape
    assert load_model(find_model(str(folder)), AutoModel, torch.float32).model.config.hidden_size == 32
    both = json.loads((folder / "config.json").read_text())
    names = {"num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "max_position_embeddings"}
    (folder / "config.json").write_text(json.dumps({name: both[name] for name in both.keys() - names}))
    base = find_model(str(folder))
    assert (base.shape, base.max_length) == (expected, 40)
    with pytest.raises(TicketError, match=r"has n_layer 3, which transformers does not read.*num_hidden_layers 12"):
        load_model(base, AutoModel, torch.float32)


@pytest.mark.parametrize("family", ["nomic_bert", "gte", "jina_embeddings_v3"])
def test_positions_that_are_rotary_may_be_called_so(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", family)
    for name in ("rope", "rotary"):
        change_config(folder, position_embedding_type=name)
        load_model(find_model(str(folder)), AutoModel, torch.float32)
    change_config(folder, position_embedding_type="absolute")
    with pytest.raises(TicketError, match=r"position_embedding_type absolute.*expected rope or rotary"):
        load_model(find_model(str(folder)), AutoModel, torch.float32)


def test_settings_of_generation_stay_with_a_model(tmp_path: Path) -> None:
    """Also those that transformers only warns about: so it is with published ones."""
    folder = save_tiny_model(tmp_path / "model", "gpt2", auto=AutoModelForCausalLM)
    settings = {"eos_token_id": [2, 7], "repetition_penalty": 1.1, "top_p": 0.8}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = ModelSource(find_model(str(folder))).build(VOCABULARY, 0.1, 0, "causal")
    cut(model, Ticket.from_pruned(LAYERS, HEADS, pruned_heads=[(0, 1)]))
    for one in (model, dense_model(Exported("a model", model, None, "causal", 40))):
        one.save_pretrained(tmp_path / "saved")
        assert settings.items() <= json.loads((tmp_path / "saved" / "generation_config.json").read_text()).items()


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_weights_saved_under_one_name_are_found(family: str, tmp_path: Path) -> None:
    """safetensors' own `save_model` keeps one of two tied names, in some families the output layer's."""
    folder = save_tiny_model(tmp_path / "model", family, auto=AutoModelForMaskedLM, mask=True)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    expected = model.get_input_embeddings().weight
    for seed in (0, 1):
        assert torch.equal(embeddings(folder, seed=seed), expected)
    change_config(folder, tie_word_embeddings=False)  # the control: then the names are of two tensors
    if "roberta" in family:
        assert "word_embeddings" in refusal(folder)


@pytest.mark.parametrize(("family", "named"), [("gpt2", None), ("t5", ["MyModel"])])
def test_a_config_need_not_name_a_class_of_transformers(family: str, named: Any, tmp_path: Path) -> None:
    """Nor need there be one for masked language modelling."""
    folder = save_tiny_model(tmp_path / "model", family)
    expected = embeddings(folder)
    change_config(folder, architectures=named)
    assert torch.equal(embeddings(folder), expected)


def test_pickled_weights_are_read_as_tensors_hashed_and_said(folder: Path, tmp_path: Path) -> None:
    safe = find_model(str(folder))
    expected = embeddings(folder)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    assert find_model(str(folder)) == safe  # safetensors win
    (folder / WEIGHTS).unlink()
    base = find_model(str(folder))
    assert base.weights == ("pytorch_model.bin",)
    assert base.weight_hash != safe.weight_hash
    source = ModelSource(base)
    assert torch.equal(source.build(2, 0.1, 0).get_input_embeddings().weight, expected)
    assert "is a pickle" in source.notices[0]
    assert source.encoder_weights(Pruning.model_validate({})).keys()

    class Runs:
        def __reduce__(self) -> object:
            return Path.write_text, (tmp_path / "ran", "")

    torch.save({"a": Runs()}, folder / "pytorch_model.bin")
    assert "no code in a pickle is run" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_which_weight_files_count(folder: Path) -> None:
    """Those that transformers would load; another variant beside them changes nothing."""
    before = find_model(str(folder))
    shutil.copy(folder / WEIGHTS, folder / "model.fp16.safetensors")
    assert find_model(str(folder)) == before
    found = load_file(folder / WEIGHTS)
    names = sorted(found)
    for number, part in enumerate((names[:5], names[5:]), start=1):
        save_file(
            {name: found[name] for name in part}, folder / f"model-{number}.safetensors", metadata={"format": "pt"}
        )
    weight_map = {name: f"model-{1 if name in names[:5] else 2}.safetensors" for name in names}
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    base = find_model(str(folder))
    assert base.weights == ("model-1.safetensors", "model-2.safetensors")
    assert torch.equal(embeddings(folder), found["embeddings.word_embeddings.weight"])
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors" in refusal(folder)
    (folder / f"{WEIGHTS}.index.json").unlink()
    assert "it has model-1.safetensors" in refusal(folder)


def test_a_truncated_file_and_adapters(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter files" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:size])
        assert "is damaged" in refusal(folder)


def test_a_config_one_folder_down_is_pointed_at(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    folder.rename(tmp_path / "st" / "0_Transformer")
    with pytest.raises(TicketError, match=r"there is one in .*0_Transformer"):
        find_model(str(tmp_path / "st"))


def test_from_the_hub_all_tokenizer_files_and_no_other_weights() -> None:
    needed = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
        "special_tokens_map.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model",
        "bpe.codes", "sentence_bert_config.json",
    ]  # fmt: skip
    left = [
        "onnx/model.onnx", "checkpoints/1/model.safetensors", "model.fp16.safetensors", "tf_model.h5",
        "pytorch_model.bin", "flax_model.msgpack", "rust_model.ot", "model.onnx", "model.gguf",
        "0_Transformer/config.json",
    ]  # fmt: skip
    assert list(filter_repo_objects(needed + left, ignore_patterns=[*_NOT_NEEDED, "*.bin"])) == needed


@pytest.mark.parametrize(
    ("model_type", "form", "has"),
    [
        ("phi", "masked", "AutoModelForSequenceClassification, AutoModelForCausalLM, AutoModelForTokenClassification"),
        ("granite", "sequence", "AutoModelForCausalLM"),
    ],
)
def test_a_task_that_transformers_has_no_class_for(
    model_type: str, form: Form, has: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(anatomy.FAMILIES._registered, "granite", anatomy.FAMILIES["llama"])
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", model_type))))
    with pytest.raises(TicketError) as refused:
        source.build(2, 0.1, 0, form)
    assert f"{STOCK_CLASSES[form]} of its architecture (model_type '{model_type}')" in str(refused.value)
    assert f"which the task needs; it has {has}." in str(refused.value)


def test_ffns_in_pieces_are_computed_whole(folder: Path) -> None:
    """A config may ask for FFNs in pieces of so many tokens, of which every text must then have a multiple."""
    change_config(folder, chunk_size_feed_forward=7)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="multiple of the chunk size"):  # the control
        AutoModel.from_pretrained(folder)(ids)
    found = load_model(find_model(str(folder)), AutoModel, torch.float32).model.eval()(ids).last_hidden_state
    change_config(folder, chunk_size_feed_forward=0)
    torch.testing.assert_close(found, AutoModel.from_pretrained(folder)(ids).last_hidden_state)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_from_a_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool) -> None:
    """The real client and a server: every file of the tokenizer comes, other weights and subfolders do not."""
    for name in ("sentencepiece.bpe.model", "added_tokens.json", "onnx/model.onnx", "old/model.safetensors", "tf.h5"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}" + " " * len(name))  # one blob a file: the client fetches equal ones once
    if pickled:
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    else:
        (folder / "pytorch_model.bin").write_bytes(b"never read")
    expected = find_model(str(folder)), AutoTokenizer.from_pretrained(folder)("w1 w2")["input_ids"]
    with hub({"me/tiny": folder}) as (address, fetched):
        use_hub(monkeypatch, address, tmp_path / "cache", token=None)
        base = find_model("me/tiny")
        ids = ModelSource(base).tokenizer("w1 w2")["input_ids"]
    weights = "pytorch_model.bin" if pickled else WEIGHTS
    assert (base.weight_hash, ids) == (expected[0].weight_hash, expected[1])
    assert base.folder.is_relative_to(tmp_path / "cache")
    assert set(fetched) == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model", "added_tokens.json",
        weights,
    }  # fmt: skip


# --- the tokenizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_saved_without_its_tokenizer_is_refused(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", family)
    load_tokenizer("x", folder)  # the control
    for path in folder.iterdir():
        if path.name not in ("config.json", WEIGHTS):
            path.unlink()
    said = refusal(folder)
    assert "tokenizer" in said
    assert str(folder) in said


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_half_a_tokenizer(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    assert "tokenizer" in refusal(folder)


def edit_tokenizer(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_entries_against_embedding_rows_both_ways(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<url>", "<user>"])
    tokenizer.save_pretrained(folder)
    assert "'<user>' has id 121, but the model has 120 embedding rows" in refusal(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < VOCABULARY]
    for words, said in ((110, "10 rows are never used"), (50, "belong to another model")):
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {word: i for word, i in vocabulary.items() if i < words}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        if words == 110:
            assert said in load_tokenizer("x", folder).notices[0]
        else:
            assert said in refusal(folder)


def add_special(folder: Path, token: str, **names: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token], special_tokens=True)
    tokenizer.add_special_tokens(names)
    tokenizer.save_pretrained(folder)


def test_a_special_token_without_an_embedding_row(folder: Path, tmp_path: Path) -> None:
    """As Gemma 3's image token, and the mask token of BART's summarization models."""
    padded = Path(shutil.copytree(folder, tmp_path / "padded"))
    add_special(padded, "<end>", pad_token="<end>")
    assert "'<end>' has id 120, but the model has 120 embedding rows" in refusal(padded)
    add_special(folder, "<image>")
    fitted = load_tokenizer("x", folder)
    assert fitted.notices == (
        "The tokenizer of model x has special tokens without an embedding row (<image>): a text must not have them.",
    )
    embeddings(folder)

    def task(text: str, form: Form = "sequence") -> Task:
        train, dev = Split(["w1", "w2"], None, np.arange(2)), Split(["w3", "w4"], ["w5", text], np.arange(2))
        return Task("t", ("a", "b"), ("accuracy",), train, dev, {}, form)

    check_rows("x", folder, fitted.tokenizer, task("w6"))
    with pytest.raises(TicketError, match=r"'t': dev example 2 has '<image>' in its text, a special token for which"):
        check_rows("x", folder, fitted.tokenizer, task("w6 <image>"))
    with pytest.raises(TicketError, match=r"'t': masked language modelling may show any .* row for '<image>'; resize"):
        check_rows("x", folder, fitted.tokenizer, task("w6", "masked"))
    with pytest.raises(TicketError, match="no embedding row for its tokenizer's '<image>'; leave it whole"):
        cut_vocabulary(AutoModel.from_pretrained(folder), fitted.tokenizer, ["w1"])
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    outputs_of(network, fitted.tokenizer, ["w1"], None, 9)
    with pytest.raises(TicketError, match="text 2 has '<image>', a special token for which the model has no embedding"):
        outputs_of(network, fitted.tokenizer, ["w1", "w1 <image>"], None, 9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<image>", "task 'words': training example 1 has '<image>' in its text, a special token"),
        ("", "the tokenizer produces no tokens for 1 of 58 texts, the first is example 1: ''; remove such examples."),
    ],
)
def test_a_text_that_the_model_cannot_read_is_refused_before_anything_is_written(
    text: str, said: str, folder: Path, words: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer adds no special tokens, as those of many decoders."""
    add_special(folder, "<image>")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    lines = words["train_file"].read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"text": text})
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    asked = ["--model", str(folder), "--task", "words", "--train-file", str(tmp_path / "train.jsonl")]
    assert main(["find", *asked, "--max-length", "16", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_texts_without_any_token_are_refused(folder: Path) -> None:
    tokenizer = load_tokenizer("x", folder).tokenizer
    part = Split(["", " ", "!", "w1", ""], ["w2", "", "", "w4", " "], np.zeros(5))
    check_texts(part, tokenizer)  # the control: special tokens are around each text
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    for check in (check_texts, lambda *of: encode_split(*of, 16)):
        with pytest.raises(TicketError, match=r"no tokens for 2 of 5 texts, the first is example 2: ' '; remove such"):
            check(part, tokenizer)
    check_texts(part.take(np.array([0, 2, 3])), tokenizer)


def test_no_padding_token_and_padding_on_the_left(folder: Path) -> None:
    edit_tokenizer(folder, lambda content: content.update(padding_side="left"))
    fitted = load_tokenizer("x", folder)
    assert fitted.tokenizer.padding_side == "right"
    assert "pads on the left" in fitted.notices[0]
    fitted.tokenizer.save_pretrained(folder)
    assert load_tokenizer("x", folder).notices == ()  # what is saved fits
    edit_tokenizer(folder, lambda content: content.update(pad_token=None))
    assert "no padding token" in refusal(folder)


def test_long_texts_are_cut_on_the_right(folder: Path) -> None:
    edit_tokenizer(folder, lambda content: content.update(truncation_side="left"))
    fitted = load_tokenizer("x", folder)
    assert fitted.notices == (
        "The tokenizer of model x cuts long texts on the left; it is changed to cut them on the right.",
    )
    whole = fitted.tokenizer("w1 w2 w3 w4")["input_ids"]
    assert fitted.tokenizer("w1 w2 w3 w4", truncation=True, max_length=4)["input_ids"] == [*whole[:3], whole[-1]]
    fitted.tokenizer.save_pretrained(folder)
    assert load_tokenizer("x", folder).notices == ()  # what is saved fits


@pytest.mark.parametrize("wrong", [0, -1, True, float("nan")])
def test_the_tokenizers_longest_text_is_a_number(folder: Path, wrong: object) -> None:
    edit_tokenizer(folder, lambda content: content.update(model_max_length=float("inf")))  # the control
    positions = load_tokenizer("x", folder).tokenizer.model_max_length
    edit_tokenizer(folder, lambda content: content.update(model_max_length=wrong))
    assert f"expected a number of tokens, such as {positions}." in refusal(folder)


def test_segment_ids_are_left_out_where_the_model_has_one_segment(tmp_path: Path) -> None:
    """Also by what is saved with the model; a stock class would run past its one segment."""
    folder = save_tiny_model(tmp_path / "model", "roberta")
    edit_tokenizer(folder, lambda content: content.update(model_input_names=["input_ids", "token_type_ids"]))
    assert load_tokenizer("x", folder).notices == ()  # the control: a model with two
    change_config(folder, type_vocab_size=1)
    name = "embeddings.token_type_embeddings.weight"
    change_weights(folder, lambda found: found | {name: found[name][:1].clone()})
    assert max(AutoTokenizer.from_pretrained(folder)("w1", "w2")["token_type_ids"]) == 1
    fitted = load_tokenizer("x", folder)
    assert "segment ids (token_type_ids) are ignored" in fitted.notices[-1]
    fitted.tokenizer.save_pretrained(folder)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(folder)("w1", "w2")


def test_positions_that_are_really_there(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "roberta")
    assert find_model(str(folder)).max_length == 38
    change_config(folder, pad_token_id=3)
    assert find_model(str(folder)).max_length == 36
    fitted = load_tokenizer("x", folder)
    assert fitted.tokenizer.model_max_length == 36
    assert "has padding id 3 in its config and 1 in its tokenizer" in fitted.notices[0]
