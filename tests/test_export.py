"""Exported models compute what the models do, in every format that needs no exporter; what cannot be is an error."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import supertickets
from helpers.exported import LABELS, hard_ticket, save_ticket
from helpers.models import FAMILIES, VOCABULARY, make_loud, pads_with_1, save_tiny_model, tiny_config
from supertickets.anatomy import FAMILIES as REGISTERED
from supertickets.cli import main
from supertickets.errors import StudyError, TicketError
from supertickets.export import EXPORTERS, vocabulary
from supertickets.export.formats import dense_model
from supertickets.export.same import check_same, run_of, texts_for
from supertickets.export.source import Exported, open_model, open_ticket
from supertickets.studies.exporting import export_model
from supertickets.surgery.cut import cut
from supertickets.tickets.folder import load_ticket

EMBEDDING = "bert.embeddings.word_embeddings.weight"
TEXTS = ["w1 w2 w3", "w4", "w9 w8 w7 w6 w5 w4 w3", "w30 w31"]


@pytest.fixture(scope="module")
def ticket(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ticket folder with a small model that has an output layer."""
    folder = tmp_path_factory.mktemp("exported") / "ticket"
    save_ticket(folder, tiny_model)
    return folder


def logits(folder: Path) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.numpy()


@pytest.mark.parametrize("to", ["dense", "transformers"])
def test_a_cut_vocabulary_computes_the_same_on_its_texts(ticket: Path, tmp_path: Path, to: str) -> None:
    corpus = tmp_path / "corpus.txt"
    too_long = "w1 w2 " * 100  # for the model, which is not asked about it
    corpus.write_text("".join(f"{text}\n" for text in [*TEXTS, too_long]))
    whole, small = tmp_path / "whole", tmp_path / "small"
    export_model(ticket, to, whole)
    made = export_model(ticket, to, small, vocabulary="corpus", corpus=corpus)
    np.testing.assert_array_equal(logits(small), logits(whole))
    sizes = [load_file(folder / "model.safetensors")[EMBEDDING].shape[0] for folder in (small, whole)]
    assert sizes[0] < sizes[1]
    assert f"The vocabulary keeps {sizes[0]} of {sizes[1]} rows" in made["said"][0]
    assert "On other texts of this kind" in made["said"][1]
    before, now = (AutoTokenizer.from_pretrained(folder) for folder in (whole, small))
    assert [before.tokenize(text) == now.tokenize(text) for text in ("w3 w1", "w33")] == [True, False]  # control
    with pytest.raises(TicketError, match="--vocabulary used needs the texts of a task"):
        export_model(ticket, to, tmp_path / "no", vocabulary="used")
    with pytest.raises(TicketError, match="--to ticket writes no model"):
        export_model(ticket, "ticket", tmp_path / "no", vocabulary="used")
    assert not (tmp_path / "no").exists()


def test_rows_of_a_vocabulary_that_went_wrong_are_seen(
    ticket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    right = vocabulary._keep_rows

    def wrong(model: Any, kept: Any, whole: int) -> None:
        right(model, kept, whole)
        words = model.get_input_embeddings().weight
        words.data = words.data.roll(1, 0)

    monkeypatch.setattr(vocabulary, "_keep_rows", wrong)
    with pytest.raises(StudyError, match="--vocabulary: its outputs differ from the model's by up to"):
        export_model(ticket, "dense", tmp_path / "no", vocabulary="corpus", corpus=tmp_path / "corpus.txt")
    assert not (tmp_path / "no").exists()


# --- dense ------------------------------------------------------------------------------------------------------------

OTHERS = ("albert", "bart", "deberta-v2", "gemma2", "gpt2", "gpt_neox", "llama", "modernbert", "mpnet", "olmo2", "phi3",
          "t5")  # fmt: skip


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_zeros_compute_what_the_cut_model_does(family: str) -> None:
    """In float64; the control is the same model without its zeros."""
    config = tiny_config(family, num_labels=2)
    model = make_loud(AutoModelForSequenceClassification.from_config(config).double()).eval()
    whole = sum(parameter.numel() for parameter in model.parameters())
    cut(model, hard_ticket(model))
    exported = Exported("a model", model, None, "sequence", 40)
    dense = dense_model(exported)
    assert type(dense) is type(model)
    assert dense.dtype == torch.float64
    assert sum(parameter.numel() for parameter in dense.parameters()) == whole
    assert getattr(dense.config, "quantization_config", None) is None
    ids = torch.randint(5, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2  # the end of a text, by which decoders beside encoders find it
    assert not (ids[:, :-1] == int(pads_with_1(family))).any()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(ids).logits
        scale = float(expected.abs().max())
        torch.testing.assert_close(dense(ids).logits, expected, atol=1e-10 * max(1.0, scale), rtol=0)
        for parameter in dense.parameters():
            parameter[parameter == 0] += 0.3 * torch.randn(int((parameter == 0).sum()), dtype=parameter.dtype)
        assert float((dense(ids).logits - expected).abs().max()) > 1e-6 * scale


@pytest.mark.slow
def test_a_dense_folder_needs_no_supertickets(ticket: Path, tmp_path: Path) -> None:
    made = export_model(ticket, "dense", tmp_path / "dense")
    small = AutoModelForSequenceClassification.from_pretrained(ticket / "model")
    assert made["parameters"] - made["zeros"] == small.num_parameters()
    assert made["zeros"] > 0
    assert made["largest_difference"] < 1e-5
    np.testing.assert_allclose(logits(tmp_path / "dense"), logits(ticket / "model"), atol=1e-4)
    assert list(AutoConfig.from_pretrained(tmp_path / "dense").id2label.values()) == list(LABELS)
    script = """
import sys
sys.modules["supertickets"] = None
from transformers import AutoModelForSequenceClassification
print(AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).num_parameters())
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "dense"], capture_output=True, text=True)
    assert done.stdout.split() == [str(made["parameters"])], done.stderr


# --- transformers, ticket ---------------------------------------------------------------------------------------------


def test_a_small_model_stays_what_it_is(ticket: Path, tmp_path: Path) -> None:
    made = export_model(ticket, "transformers", tmp_path / "small")
    assert "import supertickets" in made["said"][0]
    np.testing.assert_array_equal(logits(tmp_path / "small"), logits(ticket / "model"))


def test_of_a_ticket_without_a_model_the_pretrained_encoder_is_exported(
    ticket: Path, tiny_model: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    assert export_model(ticket, "ticket", alone)["said"]
    assert sorted(path.name for path in alone.iterdir()) == ["README.md", "ticket.json", "ticket.safetensors"]
    assert load_ticket(alone).ticket == load_ticket(ticket).ticket
    assert "reloaded" not in load_ticket(alone).origin  # of the model that stays behind
    assert "pre-trained" in export_model(alone, "transformers", tmp_path / "small")["what"]
    supertickets.apply_ticket(alone, None, tmp_path / "applied")
    small, applied = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("small", "applied"))
    assert all(torch.equal(small[name], applied[name]) for name in applied)


def test_models_are_exported_as_they_are(tiny_model: Path, ticket: Path, tmp_path: Path) -> None:
    assert open_model(str(tiny_model)).form is None
    head = AutoModelForSequenceClassification.from_config(tiny_config("bert", num_labels=3))
    head.save_pretrained(tmp_path / "head")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "head")
    made = export_model(tmp_path / "head", "dense", tmp_path / "dense")
    assert made["zeros"] == 0
    np.testing.assert_array_equal(logits(tmp_path / "dense"), logits(tmp_path / "head"))
    found = open_model(str(ticket / "model"))
    assert found.form == "sequence"
    assert found.ticket == load_ticket(ticket).ticket
    assert open_ticket(ticket).max_length == 16  # that of its training


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_and_decoder_without_an_output_layer_are_exported(family: str, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", family)
    made = export_model(base, "dense", tmp_path / "dense")
    assert made["zeros"] == 0
    before, after = (AutoModel.from_pretrained(folder).state_dict() for folder in (base, tmp_path / "dense"))
    assert all(torch.equal(after[name], before[name]) for name in before)
    model = AutoModel.from_pretrained(base)
    assert check_same(open_model(str(base)), run_of(model, None), run_of(model, None), "a model") == 0.0
    with torch.no_grad():
        next(iter(model.decoder.parameters())).mul_(1.5)
    other = run_of(AutoModel.from_pretrained(base), None)
    with pytest.raises(StudyError, match="its outputs differ"):
        check_same(open_model(str(base)), other, run_of(model, None), "a model")


def test_no_class_of_a_family_here_reads_per_layer_config() -> None:
    """If one does some day, a small model of that family could load without supertickets; elsewhere it must not be
    written, since BERT's classes then fail or build a dense model."""
    families = [name for name in REGISTERED if name in CONFIG_MAPPING]
    assert len(families) > 30
    for name in families:
        place = Path(str(sys.modules[CONFIG_MAPPING[name].__module__].__file__))
        for path in place.parent.glob("modeling_*.py"):
            assert "per_layer_config" not in path.read_text(encoding="utf-8"), path
    config = tiny_config("bert", per_layer_config={0: {"intermediate_size": 8}})
    with pytest.raises(Exception, match=r"per.layer"):
        AutoModel.from_config(config)


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_another_model_is_not_written(ticket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = open_ticket(ticket)
    first, second = texts_for(exported)
    assert second is None
    assert len(first) == 100
    assert len({len(text.split()) for text in first}) > 30
    same = run_of(exported.model, exported.form)
    assert check_same(exported, same, same, "it") == 0.0
    other = copy.deepcopy(exported.model)
    other.classifier.bias.data[0] += 1.0
    with pytest.raises(StudyError, match="it: its outputs differ from the model's by up to"):
        check_same(exported, same, run_of(other, exported.form), "it")
    other.classifier.bias.data[0] = torch.nan
    with pytest.raises(StudyError, match="inf of the largest"):
        check_same(exported, same, run_of(other, exported.form), "it")
    monkeypatch.setattr("supertickets.export.formats.dense_model", lambda of: other)
    with pytest.raises(StudyError):
        export_model(ticket, "dense", tmp_path / "dense")
    assert list(tmp_path.iterdir()) == []


# --- errors -----------------------------------------------------------------------------------------------------------


def test_misuse(ticket: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    decoder = str(save_tiny_model(tmp_path / "llama", "llama"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "shared.json").touch()
    for asked, more, message in (
        ((ticket, "onyx"), {}, "did you mean 'onnx'"),
        ((ticket, "dense"), {"int8": True}, "--int8: it does not apply to --to dense; expected --to onnx"),
        ((ticket, "dense"), {"model": "bert-base-uncased"}, "--model bert-base-uncased: .* has its trained model"),
        ((tiny_model, "dense"), {"any_base": True}, "--any-base: .* is no ticket folder"),
        ((tmp_path / "none", "dense"), {}, "no such folder"),
        ((tmp_path / "shared", "dense"), {}, "a model of several tasks"),
        ((tiny_model, "ticket"), {}, "--to ticket: the model .* since it has none"),
        ((ticket / "model", "ticket"), {}, "does not say from which base model"),
        ((decoder, "onnx"), {}, r"is a decoder \(llama\); encoders such as BERT"),
    ):
        with pytest.raises(TicketError, match=message):
            export_model(*asked, out, **more)
        assert not out.exists()
    with pytest.raises(TicketError, match="the folder is not empty"):
        export_model(ticket, "dense", tmp_path / "full")
    monkeypatch.setattr("supertickets.errors.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(TicketError, match=r"--to onnx needs the package onnxscript, .*\[onnx\]"):
        export_model(ticket, "onnx", out)


def test_an_output_layer_that_is_missing_is_not_made_up(tiny_model: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(TicketError, match="its checkpoint lacks classifier"):
        open_model(str(folder))


def test_the_command(ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(ticket), "--to", "dense", "--out", str(tmp_path / "dense")]) == 0
    assert "supertickets is not needed" in capsys.readouterr().out
    assert main(["export", str(ticket), "--to", "ticket", "--out", str(tmp_path / "t"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["format"] == "ticket"
    assert made["bytes"] == sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    assert main(["export", str(ticket), "--to", "dense", "--out", str(tmp_path / "t")]) == 2
    assert set(EXPORTERS) >= {"onnx", "dense", "transformers", "ticket"}


def test_a_study(tiny_model: Path, words: dict[str, Path], tmp_path: Path) -> None:
    """Its trained model is exported, its dev set known as long as its files are what they were."""
    asked: dict[str, Any] = {
        "task": "words", "levels": (0.4,), "kinds": ("winning",), "seeds": 1, "workers": 1, "epochs": 1,
        "batch_size": 16, "max_length": 12, "model": str(tiny_model), "dev_file": words["dev_file"],
    }  # fmt: skip
    train = tmp_path / "train.jsonl"
    train.write_text(words["train_file"].read_text())
    result = supertickets.find(asked, train_file=train, out=tmp_path / "study")
    made = export_model(tmp_path / "study", "dense", tmp_path / "dense")
    assert made["what"] == "the ticket's model trained on words"
    np.testing.assert_allclose(logits(tmp_path / "dense"), logits(result.shipped["ticket"] / "model"), atol=1e-4)
    from supertickets.studies.exporting import open_exported

    found = open_exported(tmp_path / "study")
    assert found.examples is not None
    assert texts_for(found)[0] == found.examples().dev.text
    train.write_text(train.read_text().replace("w1 ", "w2 "))
    with pytest.raises(TicketError, match="the examples of task words have changed"):
        open_exported(tmp_path / "study").examples()  # type: ignore[misc]
    assert texts_for(open_exported(tmp_path / "study"))[0] != found.examples().dev.text
    (tmp_path / "dense").rename(tmp_path / "gone")
    (tmp_path / "study" / "super-ticket").rename(tmp_path / "elsewhere")
    with pytest.raises(TicketError, match="shipped no ticket or model; see `supertickets status"):
        export_model(tmp_path / "study", "dense", tmp_path / "dense")
    for name in ("one", "two"):
        save_ticket(tmp_path / "study" / "models" / name, tiny_model)
    with pytest.raises(TicketError, match=r"it has several; name one of .*one, .*two"):
        export_model(tmp_path / "study", "dense", tmp_path / "dense")
