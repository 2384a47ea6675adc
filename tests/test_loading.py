"""How much memory it takes to load a base model: its weights once, in one file or in several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from helpers.models import save_tiny_model
from supertickets.errors import TicketError
from supertickets.models import ModelSource, find_model, load_model
from supertickets.tickets.weights import Pruning

WEIGHTS = "model.safetensors"

# Prints the peaks of several processes above what each took before, as multiples of the weight files. They are forked
# from one that has imported everything, so that each peak is its own: it starts at what the process takes then. A tiny
# model of the same kind is loaded in each before, since pages of code are not handed on.
PEAKS = """
import os, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from supertickets.models import find_model, load_model

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))

def measure(tiny, folder, how):
    load_model(find_model(tiny), AutoModel, "auto")
    base = find_model(folder)
    files = [base.folder / name for name in base.weights]
    before = memory("VmRSS")
    if how == "naive":
        state = {}
        for path in files:
            state |= load_file(path)
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()}, strict=False)
    else:
        model = load_model(base, AutoModel, "auto" if how == "auto" else torch.float32).model
        total = sum(float(parameter.sum()) for parameter in model.parameters())  # every page has been read
    print((memory("VmHWM") - before) / sum(path.stat().st_size for path in files), flush=True)

torch.set_num_threads(1)  # a forked process has no others
tiny, *asked = sys.argv[1:]
load_model(find_model(tiny), AutoModel, "auto")
for one in asked:
    if (child := os.fork()) == 0:
        measure(tiny, *one.rsplit("=", 1))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, one
"""
MEASURED = ("whole=auto", "whole=float32", "shards=auto", "shards=float32", "shards=naive")


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny decoder, and one of about 250 MB of random bfloat16 weights in one file and in shards."""
    folder = tmp_path_factory.mktemp("decoders")
    config = AutoConfig.for_model(
        "llama", hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=4, vocab_size=16_000, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="60MB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 3
    return {"tiny": save_tiny_model(folder / "tiny", "llama"), **{n: folder / n for n in ("whole", "shards")}}


@pytest.fixture(scope="module")
def peaks(decoders: dict[str, Path]) -> dict[str, float]:
    """The peak of each way to load each."""
    asked = [f"{decoders[name]}={how}" for name, how in (one.split("=") for one in MEASURED)]
    command = [sys.executable, "-c", PEAKS, str(decoders["tiny"]), *asked]
    environment = {**os.environ, "XDG_CACHE_HOME": str(decoders["tiny"].parent)}  # hashes of these files are nobody's
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(zip(MEASURED, map(float, done.stdout.split()), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["whole", "shards"])
def test_a_decoder_takes_little_more_memory_than_its_file(peaks: dict[str, float], name: str) -> None:
    assert 0.5 < peaks[f"{name}=auto"] <= 1.3
    assert 1.5 < peaks[f"{name}=float32"] <= 2.3  # twice the bytes of bfloat16


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_control_takes_more(peaks: dict[str, float]) -> None:
    """A model that is made first, and filled from all tensors of the files."""
    assert peaks["shards=naive"] > 1.5


@pytest.mark.parametrize("pickled", [False, True])
def test_halves_are_widened_to_the_same_numbers(tmp_path: Path, pickled: bool) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama")
    stored = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    if pickled:
        torch.save(stored, folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    found = load_model(find_model(str(folder)), AutoModel, torch.float32).model.state_dict()
    assert found.keys() == stored.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float())


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_each_number_that_is_not_finite_is_found(tmp_path: Path, number: float, dtype: torch.dtype) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama")
    stored = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    load_model(find_model(str(folder)), AutoModel, "auto")  # the control
    stored["layers.1.mlp.up_proj.weight"][3, 5] = number
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(TicketError, match=r"weights of layers.1.mlp.up_proj.weight are NaN or infinite"):
        load_model(find_model(str(folder)), AutoModel, "auto")


def test_a_source_has_the_encoder_once_for_all_its_models(tmp_path: Path) -> None:
    """Whatever comes out of them; what is built has weights of its own, and changes none of the source's."""
    folder = save_tiny_model(tmp_path / "model", auto=AutoModelForMaskedLM, mask=True)
    stored = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    source = ModelSource(find_model(str(folder)))
    loaded = [source.load("sequence", 2), source.load("sequence", 3), source.load("spans", 2), source.load("masked", 9)]
    name = "encoder.layer.1.output.dense.weight"
    weights = [one.model.base_model.get_parameter(name) for one in loaded]
    arrays = [source.encoder_weights(Pruning.model_validate({"embeddings": value}))[name] for value in (True, False)]
    assert len({weight.data_ptr() for weight in weights} | {array.ctypes.data for array in arrays}) == 1
    poolers = [one.model.base_model.pooler.dense.weight for one in loaded[:2]]  # the checkpoint has none
    assert len({pooler.data_ptr() for pooler in poolers}) == 2
    for outputs, form in ((2, "sequence"), (3, "sequence"), (2, "spans"), (9, "masked")):
        built = source.build(outputs, 0.1, 0, form)
        built.base_model.get_parameter(name).data.zero_()
    assert torch.equal(weights[0], stored[f"bert.{name}"].float())
