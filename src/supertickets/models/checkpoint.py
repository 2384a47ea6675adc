"""A checkpoint against the architecture that its config names: what is missing, unused or new is an error, or is said.

transformers draws what a checkpoint lacks at random and passes over what it does not know, with a log line at most. An
output layer and a pooler may be new; anything else of the encoder may not.
"""

import math
import pickle
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.models.base import BaseModel, counted_layers

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

_BUFFERS = ("position_ids", "token_type_ids")
"""What older versions of transformers saved beside the weights: constants."""


@dataclass(frozen=True)
class Loaded:
    """A stock model with a checkpoint's weights. `new` names the parameters that are none of the checkpoint's.

    `notices` are sentences about what of the checkpoint is not used, and what of the encoder is new.
    """

    model: "PreTrainedModel"
    new: tuple[str, ...]
    notices: tuple[str, ...]


def load_model(base: BaseModel, kind: Any, dtype: Any, outputs: int | None = None) -> Loaded:
    """Load a base model as a stock class such as `AutoModel`, with `outputs` labels where it has an output layer.

    Of a base model of first layers alone, the whole checkpoint is checked before the other layers go.
    `dtype` is torch's, or `auto` for the checkpoint's own. Raises TicketError where the checkpoint lacks weights of the
    encoder, has others than the architecture uses, in other shapes, or not finite; an output layer and a pooler may be
    new. Nothing in a pickle is run.

    There is no second copy in memory. At its peak, loading takes at most 1.3 times the size of the weight files with
    `auto`, and in float32 little more than their tensors take in float32, however many files there are.
    """
    import torch

    random = torch.get_rng_state()
    config = read_config(base.name, base.folder, **({} if outputs is None else {"num_labels": outputs}))
    _check_shapes(base, tensor_shapes(base))
    with quiet_transformers(), as_misuse(base.name, base.folder):
        config.return_dict = True  # a checkpoint's may ask for tuples
        config.chunk_size_feed_forward = 0  # or FFNs are computed in pieces, which batches must be multiples of
        positions = getattr(config, "position_embedding_type", None)
        if positions is not None and positions not in base.family.positions:
            raise TicketError(
                f"model {base.name!r}: its config has position_embedding_type {positions}, which transformers no "
                f"longer supports for {config.model_type}; expected {' or '.join(base.family.positions)}."
            )
        _check_unread(base, config.to_dict())
        state = read_state(base, dtype if isinstance(dtype, torch.dtype) else None)
        with torch.device("meta"):
            empty = kind.from_config(config)
        _untie(state, config)
        _check_sizes(base, empty, {name: tuple(tensor.shape) for name, tensor in state.items()})
        model, info = type(empty).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # a checkpoint's own output layer may have other sizes; it is replaced
            output_loading_info=True,
        )
        _read_generation(model, base.folder)
    mismatched = [entry[0] for entry in info["mismatched_keys"]]
    missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    names = set(state)
    del state  # what the model does without is freed
    _check_encoder(base, model, names, missing, mismatched, unused)
    if base.layers is not None:
        _keep_first_layers(base, model, base.layers)
    torch.set_rng_state(random)  # the caller's process goes on as if nothing had been drawn for what is new
    outside = set(outside_names(model))
    every = dict(model.named_parameters())  # a tied one is missing under both its names and here under one
    new = {name for name in (*missing, *mismatched) if name in every}
    return Loaded(model, tuple(sorted(new)), tuple(_notices(base, new - outside, unused)))


def read_config(name: str, folder: Path, **changed: Any) -> Any:
    """Return a model folder's config as transformers reads it; raises TicketError where it does not."""
    from transformers import AutoConfig

    with as_misuse(name, folder):
        return AutoConfig.from_pretrained(folder, local_files_only=True, **changed)


def _check_unread(base: BaseModel, config: Mapping[str, Any]) -> None:
    """Raise TicketError where a config says something that transformers does not read, and computes otherwise."""
    for field, own in base.family.unread:
        value = config
        for name in own.split("."):
            value = value[name]
        if config.get(field) is not None and config[field] != value:
            raise TicketError(
                f"model {base.name!r}: its config has {field} {config[field]}, which transformers does not read, and "
                f"would compute with {own} {value}; expected a config.json that says {own}."
            )


def _read_generation(model: "PreTrainedModel", folder: Path) -> None:
    """Give a model that can generate text its folder's settings for it, which come with no state dict."""
    from transformers import GenerationConfig

    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)


def _check_shapes(base: BaseModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise TicketError unless a checkpoint has the layers that its config says, before anything large is built."""
    numbers = base.family.layers_of(base.config) if base.of_layers is None else [base.of_layers]
    for stack, expected in zip(base.family.stacks, numbers, strict=True):
        layer = re.compile(rf"(?:^|\.){re.escape(stack.layers)}\.(\d+)\.")
        layers = {name: int(found[1]) for name in shapes if (found := layer.search(name))}
        last = max(layers.values(), default=-1)
        extra = [name for name, number in layers.items() if number >= expected]
        if extra or (layers and last + 1 < expected):
            what = f"{extra[0]} is not used" if extra else f"{stack.layers}.{last + 1} is missing"
            raise TicketError(
                f"model {base.name!r}: its config says {expected} layers, its checkpoint has {last + 1}: {what}."
            )


def _check_sizes(base: BaseModel, model: "PreTrainedModel", shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise TicketError where a tensor of the encoder has another shape than the config says.

    `model` has no memory yet: a config of a billion words must not ask for it.
    """
    for name, parameter in model.base_model.named_parameters():
        for there in (name, f"{model.base_model_prefix}.{name}"):
            if there in shapes and shapes[there] != tuple(parameter.shape):
                raise TicketError(
                    f"model {base.name!r}: its weights do not match its config: {there} has shape "
                    f"{list(shapes[there])}, expected {list(parameter.shape)}."
                )


def _check_encoder(
    base: BaseModel,
    model: "PreTrainedModel",
    names: Collection[str],
    missing: Iterable[str],
    mismatched: Iterable[str],
    unused: Iterable[str],
) -> None:
    """Raise TicketError where a checkpoint's encoder is not the one that its config describes, or is not finite."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    lacking = [name for name in missing if name.startswith(prefix) and not _is_pooler(name, prefix)]
    if lacking:
        raise TicketError(
            f"model {base.name!r}: its checkpoint lacks {len(lacking)} of the encoder's tensors, such as {lacking[0]}, "
            f"which would be random; it has tensors such as {min(names, default='(none)')}."
        )
    wrong = [name for name in mismatched if name.startswith(prefix)]
    if wrong:  # under a name that transformers translates
        raise TicketError(
            f"model {base.name!r}: its weights do not match its config: {wrong[0]} has a different shape."
        )
    own = f"{model.base_model_prefix}."
    whole = any(name.startswith(own) for name in names)
    parts = {name for name, _ in model.base_model.named_children()}
    extra = [
        name
        for name in unused
        if (name.startswith(own) if whole else name.split(".")[0] in parts)
        and not _is_pooler(name, own if whole else "")
        and not name.endswith(_BUFFERS)
    ]
    if extra:
        raise TicketError(
            f"model {base.name!r}: its checkpoint has {len(extra)} tensors of the encoder, such as {extra[0]}, that a "
            f"{model.config.model_type} model with its config does not use; expected the config that the checkpoint "
            "was saved with."
        )
    for name, parameter in model.base_model.named_parameters():
        if not _is_finite(parameter):
            raise TicketError(f"model {base.name!r}: the weights of {name} are NaN or infinite.")


def _keep_first_layers(base: BaseModel, model: "PreTrainedModel", layers: int) -> None:
    """Take all but a loaded model's first layers away, and let its config say so.

    Raises TicketError where a stock model with so many layers has other parameters than what is left.
    """
    import torch
    from transformers import PreTrainedModel

    above, _, name = base.family.layers.rpartition(".")
    parent = model.base_model.get_submodule(above)
    setattr(parent, name, getattr(parent, name)[:layers])
    for config in {id(one.config): one.config for one in model.modules() if isinstance(one, PreTrainedModel)}.values():
        for field, value in base.family.first_layers(config.to_dict(), layers).items():
            setattr(config, field, value)
    with torch.device("meta"):
        stock = type(model)(model.config)
    expected, found = ({name: value.shape for name, value in of.named_parameters()} for of in (stock, model))
    if differ := [name for name in {**expected, **found} if expected.get(name) != found.get(name)]:
        raise TicketError(
            f"--layers {layers}: model {base.name!r} ({base.config['model_type']}) cannot be cut to its first layers, "
            f"since {differ[0]} depends on how many there are; expected a model such as BERT or Llama."
        )


def _is_finite(tensor: "Tensor") -> bool:
    """Whether all numbers are finite; `isfinite` would need memory for two more tensors of that size."""
    import torch

    return not tensor.numel() or all(math.isfinite(end) for end in torch.aminmax(tensor.detach()))  # of a NaN: NaN


def _is_pooler(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}pooler.")


def _notices(base: BaseModel, new: Iterable[str], unused: Iterable[str]) -> Iterator[str]:
    if base.layers is not None:
        yield f"Model {base.name} is cut to its first {counted_layers(base.layers)} of {base.of_layers} (--layers)."
    if base.is_pickled:
        yield f"{base.weights[0]} of model {base.name} is a pickle: only tensors are read, no code in it is run."
    if new := sorted(new):
        yield f"Model {base.name} has no weights for {', '.join(new)}: they are initialized randomly."
    tops: dict[str, int] = {}
    for name in unused:
        if not name.endswith(_BUFFERS):
            top = name.split(".")[0]
            tops[top] = tops.get(top, 0) + 1
    if tops:
        counted = ", ".join(f"{top} ({count} tensors)" for top, count in tops.items())
        yield f"Unused weights in the checkpoint of model {base.name}: {counted}."


def outside_names(model: "PreTrainedModel") -> list[str]:
    """Return the names of the output layer's parameters, but for those that are the encoder's too."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}  # some families name a tied one outside
    return [name for name, parameter in model.named_parameters() if id(parameter) not in inside]


def read_state(base: BaseModel, dtype: "torch.dtype | None" = None) -> "dict[str, Tensor]":
    """Return all tensors of a base model's weight files by name; raises TicketError for a damaged or unsafe file.

    Tensors of safetensors are the file itself, mapped into memory: the system reads a page when it is used, and has it
    once for all processes. Those that have to be widened to `dtype` are read one by one, so that there is never more
    than one of them in both types.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in base.weights:
        path = base.folder / file
        try:
            pickled = base.is_pickled
            content = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
        except (SafetensorError, OSError) as error:
            raise TicketError(f"model {base.name!r}: {path} is damaged ({error}).") from error
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise TicketError(
                f"model {base.name!r}: {path} cannot be read as plain tensors ({type(error).__name__}), and no code "
                "in a pickle is run; save the model as safetensors with transformers."
            ) from error
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise TicketError(f"model {base.name!r}: {path} has something other than named tensors in it.")
        for name, tensor in content.items():
            if _widens(tensor.dtype, dtype):
                content[name] = tensor.float() if pickled else _widened(path, name)
        found |= content
    return found


def _widens(stored: "torch.dtype", dtype: "torch.dtype | None") -> bool:
    """Whether 16-bit numbers are wanted in float32, which rounds nothing; other changes are left to transformers."""
    import torch

    return dtype == torch.float32 and stored in (torch.bfloat16, torch.float16)


def _widened(path: Path, name: str) -> "Tensor":
    """Return one tensor of a file in float32, and let go of the file's pages that it was read from."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name).float()


def tensor_shapes(base: BaseModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's tensors by name; of safetensors only the headers are read."""
    from safetensors import SafetensorError, safe_open

    if base.is_pickled:
        return {name: tuple(tensor.shape) for name, tensor in read_state(base).items()}
    found: dict[str, tuple[int, ...]] = {}
    for name in base.weights:
        try:
            with safe_open(base.folder / name, framework="numpy") as file:
                found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise TicketError(f"model {base.name!r}: {base.folder / name} is damaged ({error}).") from error
    return found


def _untie(state: "dict[str, Tensor]", config: Any) -> None:
    """Give a tensor that was saved under one of two tied names its other name too.

    safetensors' `save_model` keeps one of them: of a RoBERTa the output layer's, so that the embeddings seem to be
    missing.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    if not getattr(config, "tie_word_embeddings", True):
        return
    saved = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    stock = (AutoModelForMaskedLM, AutoModelForCausalLM, AutoModelForSeq2SeqLM)
    if saved is None and (kind := next((one for one in stock if type(config) in one._model_mapping), None)):
        with torch.device("meta"):
            saved = type(kind.from_config(config))
    tied = getattr(saved, "_tied_weights_keys", None) or {}
    for name, embeddings in tied.items() if isinstance(tied, dict) else ():
        if name in state and embeddings not in state:
            state[embeddings] = state[name]


@contextmanager
def as_misuse(name: str, folder: Path, what: str = "build it") -> Iterator[None]:
    """Raise TicketError where transformers cannot do something with a folder: its fault, whatever is raised."""
    try:
        yield
    except (TicketError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # what its Rust libraries raise when they panic is no Exception
        said = " ".join(str(error).split())[:300]
        raise TicketError(
            f"model {name!r}: transformers cannot {what} from {folder} ({type(error).__name__}: {said})."
        ) from error


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
