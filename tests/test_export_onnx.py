"""Models as ONNX: what onnxruntime gives in a process without torch, transformers and supertickets is what torch gives.

torch's exporter takes seconds even for tiny models, so these are slow tests.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import supertickets
from helpers.exported import LABELS, save_ticket
from helpers.models import pads_with_1, save_tiny_model
from helpers.optional import lack
from helpers.trials import write_words
from supertickets.errors import EXTRAS, StudyError
from supertickets.export import standalone, to_onnx
from supertickets.export.same import check_same, run_of
from supertickets.export.source import open_ticket
from supertickets.export.standalone import reads_alike
from supertickets.studies.exporting import export_model, open_exported

pytestmark = pytest.mark.slow

ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet", "albert")
ALONE = """
import runpy, sys
for name in ("supertickets", "transformers", "torch"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _packages() -> None:
    for name in EXTRAS["onnx"]:
        if find_spec(name) is None:
            lack(f"{name} is not installed")


def texts(count: int = 100) -> list[str]:
    """Texts of 1 to 34 words."""
    rng = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in rng.integers(0, 100, 1 + 7 * row % 34)) for row in range(count)]


def alone(folder: Path, some: list[str], *, at_once: int = 60) -> list[dict[str, Any]]:
    """What the folder's example prints in a process without our package, of batches with padding."""
    said = []
    for at in range(0, len(some), at_once):
        asked = [sys.executable, "-c", ALONE, str(folder / "example.py"), *some[at : at + at_once]]
        done = subprocess.run(asked, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        said += [json.loads(line) for line in done.stdout.splitlines()]
    return said


def in_torch(folder: Path, some: list[str]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(some, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.numpy()


def check_alone(folder: Path, ticket: Path, some: list[str]) -> None:
    said = alone(folder, some)
    assert [one["text"] for one in said] == some
    found = np.array([[one[label] for label in LABELS] for one in said])
    expected = in_torch(ticket / "model", some)
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(found - expected).max()) < 1e-4 * scale
    assert float(np.abs(found[::-1] - expected).max()) > 1e-2 * scale  # the control: other texts


@pytest.mark.parametrize("family", ENCODERS)
def test_a_cut_model_of_every_family(family: str, tmp_path: Path) -> None:
    """A layer without heads, one without an FFN, uneven ones."""
    save_ticket(tmp_path / "ticket", save_tiny_model(tmp_path / "model", family))
    made = export_model(tmp_path / "ticket", "onnx", tmp_path / "onnx")
    assert made["notices"] == []
    assert made["largest_difference"] < 1e-4
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert "quantization_config" not in config
    assert [config["id2label"][str(i)] for i in range(3)] == list(LABELS)
    check_alone(tmp_path / "onnx", tmp_path / "ticket", texts())
    assert pads_with_1(family) == ("pad_id=1" in (tmp_path / "onnx" / "example.py").read_text())


def test_the_default_encoder(tmp_path: Path) -> None:
    """With a layer without heads and one without an FFN; of English, 60 texts of different lengths."""
    from supertickets.tasks.builtin import sentences

    save_ticket(tmp_path / "ticket", "default", loud=False)
    made = export_model(tmp_path / "ticket", "onnx", tmp_path / "onnx", int8=True)
    assert made["dev"] is None
    assert "no dev set is known" in made["notices"][-1]
    told = sentences("train")
    some = [" ".join(told[9 * row : 9 * row + 1 + row % 9]) for row in range(60)]  # for one process
    program = tmp_path / "onnx" / "example.py"
    sizes = {name: (tmp_path / "onnx" / name).stat().st_size for name in (to_onnx.MODEL, to_onnx.INT8)}
    assert sizes[to_onnx.INT8] < 0.3 * sizes[to_onnx.MODEL]
    quantised = np.array([[one[label] for label in LABELS] for one in alone(tmp_path / "onnx", some)])
    program.write_text(program.read_text().replace(to_onnx.INT8, to_onnx.MODEL))
    found = np.array([[one[label] for label in LABELS] for one in alone(tmp_path / "onnx", some)])
    expected = in_torch(tmp_path / "ticket" / "model", some)
    assert float(np.abs(found - expected).max()) < 1e-4
    assert float(np.abs(found[::-1] - expected).max()) > 1e-3
    assert 1e-4 < float(np.abs(quantised - expected).max()) < 0.5


def test_a_dense_study_reads_as_much_of_a_text_as_its_training(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {
        "task": "words",
        "kinds": (),
        "seeds": 1,
        "workers": 1,
        "epochs": 1,
        "max_length": 5,
        **words,
    }
    study = supertickets.find(asked, model=str(tiny_model), out=tmp_path / "study")
    assert open_exported(study.folder).max_length == 5
    assert open_exported(study.shipped["model"]).max_length > 5  # control: which does not say so
    made = export_model(study.folder, "onnx", tmp_path / "onnx", int8=True)
    assert made["dev"][to_onnx.MODEL]["score"] == pytest.approx(study.table["score"].item())


def test_a_study_with_8_bits(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    files = {  # of which this model learns something: the first word decides, and each class has half of the examples
        name: write_words(tmp_path / f"{name}.jsonl", size, seed, lambda w: int(w[0] < 12))
        for seed, (name, size) in enumerate((("train_file", 256), ("dev_file", 200)))
    }
    asked: dict[str, Any] = {
        "task": "words", "levels": (0.4,), "kinds": ("winning",), "seeds": 1, "workers": 1, "epochs": 3,
        "batch_size": 8, "learning_rate": 3e-3, "max_length": 12, "model": str(model), **files,
    }  # fmt: skip
    result = supertickets.find(asked, out=tmp_path / "study")
    made = export_model(tmp_path / "study", "onnx", tmp_path / "onnx", int8=True)
    origin = json.loads((result.shipped["ticket"] / "ticket.json").read_text())["origin"]
    assert made["dev"][to_onnx.MODEL]["score"] == pytest.approx(origin["score"])
    assert origin["score"] > 70  # of a model that guesses: about 50
    assert abs(made["dev"][to_onnx.INT8]["score"] - origin["score"]) < 10
    readme = (tmp_path / "onnx" / "README.md").read_text()
    assert f"| {to_onnx.INT8} | " in readme
    assert readme.endswith('python example.py "a text"\n```\n')
    (tmp_path / "onnx" / "example.py").rename(tmp_path / "onnx" / "same.py")
    # Words that a tokenizers file alone reads otherwise are told, and no example is written.
    path = tmp_path / "onnx" / "tokenizer.json"
    exported = open_ticket(result.shipped["ticket"])
    assert reads_alike(exported, tmp_path / "onnx", (["w1 w2"], None))
    assert reads_alike(exported, tmp_path / "onnx", (["w1 w2"], ["w3"]))
    path.write_text(path.read_text().replace('"w2"', '"x2"'))
    assert not reads_alike(exported, tmp_path / "onnx", (["w1 w2"], None))
    assert "example.py" not in standalone.readme(exported, made, [to_onnx.MODEL], example=False)
    # The comparison with torch, with a graph of another model.
    other = open_ticket(result.shipped["ticket"])
    other.model.classifier.bias.data += 1.0
    session = to_onnx.session_of(tmp_path / "onnx" / to_onnx.MODEL)
    assert check_same(exported, run_of(exported.model, "sequence"), session, "it") < 1e-4
    with pytest.raises(StudyError, match="so it is not written"):
        check_same(other, run_of(other.model, "sequence"), session, "it")


def test_an_encoder_without_an_output_layer(tiny_model: Path, tmp_path: Path) -> None:
    made = export_model(tiny_model, "onnx", tmp_path / "onnx")
    assert made["largest_difference"] < 1e-4
    (said,) = alone(tmp_path / "onnx", ["w1 w2", "w3"])
    assert np.shape(said["last_hidden_state"]) == (2, 4, 32)


def test_an_exporter_that_fails_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(StudyError, match=r"cannot export a bert model to ONNX \(RuntimeError: no such operator\)"):
        export_model(tiny_model, "onnx", tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
