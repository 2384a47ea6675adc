"""Dense models with a new output layer, made from one base model; and which of its weights may be pruned."""

import copy
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.models.base import BaseModel
from supertickets.models.checkpoint import Loaded, as_misuse, load_model, outside_names, read_config, tensor_shapes
from supertickets.models.tokenizer import load_tokenizer
from supertickets.tasks import Form
from supertickets.tasks.task import CORPORA
from supertickets.tickets.weights import Pruning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

STOCK_CLASSES: dict[Form, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "spans": "AutoModelForQuestionAnswering",
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "tokens": "AutoModelForTokenClassification",
}
"""What transformers calls models of each form of tasks."""


def form_of_class(name: str) -> Form | None:
    """Return the form of tasks that a class of transformers is for; None for an encoder without an output layer.

    >>> form_of_class("BertForTokenClassification"), form_of_class("BertModel")
    ('tokens', None)
    """
    return next((form for form, stock in STOCK_CLASSES.items() if name.endswith(stock.removeprefix("AutoModel"))), None)


def prunable_weights(base: BaseModel, pruning: Pruning) -> "dict[str, NDArray[np.floating]]":
    """Return the weights of a base model that may be pruned (see `surgery.masks.prunable`), float32 arrays by name.

    They are the encoder's own, whatever output layer is put on it: a pooler too that the output layer does without.
    """
    import torch
    from transformers import AutoModel

    return _prunable(load_model(base, AutoModel, torch.float32), pruning)


def _prunable(loaded: Loaded, pruning: Pruning) -> "dict[str, NDArray[np.floating]]":
    from supertickets.surgery.masks import prunable

    return {
        name: parameter.detach().numpy()
        for name, parameter in prunable(loaded.model, pruning).items()
        if name not in loaded.new  # such a pooler is not pre-trained
    }


def prunable_shapes(base: BaseModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a base model that some ticket of weights may have a mask of."""
    everything = Pruning.model_validate({"embeddings": True})
    return {name: values.shape for name, values in prunable_weights(base, everything).items()}


class ModelSource:
    """Builds dense models with a new output layer from one base model, keeping its weights in memory.

    They are a second copy beside the model that is trained: the encoder's weights in float32, once for all forms and
    numbers of outputs, so that each training starts from them without reading a file. Of a float32 safetensors file
    they are the file itself, mapped into memory, which all processes share.

    `tokenizer` fits the model; `notices` are sentences about what of the model was set, is new or is not used (of its
    weights once they are loaded). Raises TicketError for a tokenizer that does not fit.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        fitted = load_tokenizer(base.name, base.folder)
        self.tokenizer = fitted.tokenizer
        self.notices: list[str] = list(fitted.notices)
        self._dense: dict[tuple[Form, int], Loaded] = {}
        self._bare: Loaded | None = None
        self._encoder: dict[str, Tensor] = {}

    def build(self, outputs: int, dropout: float, seed: int, form: Form = "sequence") -> "PreTrainedModel":
        """Return a stock model of a task's form in float32: pre-trained encoder, new output layer.

        `...ForSequenceClassification`, `...ForQuestionAnswering`, `...ForTokenClassification`, or `...ForMaskedLM` and
        `...ForCausalLM` with the checkpoint's own output layer where it has one (see `has_head`). `outputs` numbers
        come out (of a corpus' token one for each entry of the vocabulary), `dropout` is applied before the output
        layer, `seed` decides the new weights: N(0, initializer_range), biases zero. The weights do not depend on any
        ticket cut out afterwards.
        """
        import torch

        loaded = self.load(form, outputs)
        model = copy.deepcopy(loaded.model)
        generator = torch.Generator().manual_seed(seed)
        parameters = dict(model.named_parameters())
        # Of a corpus what there is of the checkpoint's own output layer stays; any other is new.
        new = loaded.new if form in CORPORA else {*loaded.new, *outside_names(model)}
        spread = self.base.family.spread(model.config.to_dict())
        for name in sorted(new):
            if name.endswith("bias") or parameters[name].ndim < 2:
                torch.nn.init.constant_(parameters[name], 0.0 if name.endswith("bias") else 1.0)
            else:
                parameters[name].data.normal_(0.0, spread, generator=generator)
        for module in new_modules(model):
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        if self.base.family.task_dropout is not None:
            setattr(model.config, self.base.family.task_dropout, dropout)
        if self.base.family.causal:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        return model

    def load(self, form: Form, outputs: int) -> Loaded:
        """Return the pre-trained encoder in a form's stock class, loaded once; raises TicketError if it is no fit."""
        import torch

        if self.base.family.decoder is not None and form != "sequence":
            raise TicketError(
                f"model {self.base.name!r}: its architecture ({self.base.config['model_type']}) has a decoder beside "
                "the encoder, and is supported for tasks with a label or a number for each text; use an encoder such "
                "as bert-base-uncased."
            )
        if form == "causal" and not self.base.family.causal:
            raise TicketError(
                f"model {self.base.name!r}: its architecture ({self.base.config['model_type']}) reads a text in both "
                "directions, and causal language modelling (--task clm) needs a decoder such as gpt2; use --task mlm."
            )
        key = form, 0 if form in CORPORA else outputs  # of tokens of a corpus the vocabulary says how many
        if key not in self._dense:
            loaded = self._share(load_model(self.base, _stock_class(form, self.base), torch.float32, key[1] or None))
            self._dense[key] = loaded
            if form in ("sequence", "tokens") and not any(
                isinstance(one, torch.nn.Dropout) for one in new_modules(loaded.model)
            ):
                self.notices.append(f"Model {self.base.name} has no dropout before its output layer: none is applied.")
            self.notices += [notice for notice in loaded.notices if notice not in self.notices]
        return self._dense[key]

    def check(self, form: Form, outputs: int) -> None:
        """Raise TicketError unless a model of a form can be built and gives finite numbers for a text."""
        import torch

        with as_misuse(self.base.name, self.base.folder, "run the model"), torch.inference_mode():
            model = self.build(outputs, 0.0, 0, form).eval()
            ids = torch.tensor([self.tokenizer("a")["input_ids"][: self.base.max_length] or [0]])
            found = model(input_ids=ids)
            if not all(bool(value.isfinite().all()) for value in found.to_tuple() if isinstance(value, torch.Tensor)):
                raise TicketError(f"model {self.base.name!r}: its outputs are NaN or infinite.")

    def has_bias(self, form: Form, outputs: int) -> bool:
        """Return whether the last matrix of a form's output layer has a bias, which gives numbers their own units."""
        from supertickets.surgery.output_layer import output_linear

        return output_linear(self.load(form, outputs).model)[1].bias is not None

    def has_fused_attention(self, form: Form, outputs: int) -> bool:
        """Return whether a form's model computes attention by torch's kernel; some have products of their own."""
        return bool(self.load(form, outputs).model.config._attn_implementation == "sdpa")

    def check_start(self, form: Form, how: str) -> None:
        """Raise TicketError where a model of a form cannot start with other weights in a way (`surgery.initial`)."""
        from supertickets.surgery.initial import check_start

        check_start(_blank(self.base, form), how)

    def has_head(self, form: Form) -> bool:
        """Return whether the checkpoint has a whole output layer of a form, such as its own masked-token head.

        Reads names and shapes of tensors only. `build` uses one of the `CORPORA` alone; others are new for each task.
        """
        model = _blank(self.base, form)
        there, parameters = tensor_shapes(self.base), dict(model.named_parameters())
        # Norms have had other names than today's, and biases may be missing where they are zero: matrices tell.
        matrices = {name: parameters[name] for name in outside_names(model) if parameters[name].ndim >= 2}
        return all(there.get(name) == tuple(matrix.shape) for name, matrix in matrices.items())

    def encoder_weights(self, pruning: Pruning) -> "dict[str, NDArray[np.floating]]":
        """Return the pre-trained weights that may be pruned, as `prunable_weights` does; they are not to be changed."""
        import torch
        from transformers import AutoModel

        if self._bare is None:
            self._bare = self._share(load_model(self.base, AutoModel, torch.float32))
        return _prunable(self._bare, pruning)

    def _share(self, loaded: Loaded) -> Loaded:
        """Let a model's pre-trained encoder have the weights that are in memory already."""
        encoder, new = loaded.model.base_model, set(loaded.new)
        prefix = "" if encoder is loaded.model else f"{loaded.model.base_model_prefix}."
        for name, parameter in encoder.named_parameters():
            if f"{prefix}{name}" not in new:
                parameter.data = self._encoder.setdefault(name, parameter.data)
        return loaded


def dense_size(base: BaseModel, form: Form, outputs: int) -> tuple[int, int]:
    """Return how many parameters a dense model of a form has, and about how many bytes its float32 weight file takes.

    No weights are read. The bytes have 128 for the name of each tensor, which is more than most names need.
    """
    model = _blank(base, form, outputs)
    tensors = model.state_dict()
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})  # written once
    size = sum(4 * one.numel() + 128 for name, one in tensors.items() if name not in tied)
    return sum(parameter.numel() for parameter in model.parameters()), size


def _blank(base: BaseModel, form: Form, outputs: int | None = None) -> "PreTrainedModel":
    """Return a model of a form's stock class without memory for its weights."""
    import torch

    changed: dict[str, Any] = {} if outputs is None or form in CORPORA else {"num_labels": outputs}
    if base.layers is not None and outputs is not None:
        changed |= base.family.first_layers(base.config, base.layers)
    config = read_config(base.name, base.folder, **changed)
    with torch.device("meta"):
        model: PreTrainedModel = _stock_class(form, base).from_config(config)
    return model


def _stock_class(form: Form, base: BaseModel) -> Any:
    """Return the class of transformers for models of a form; raises TicketError if a base model has none."""
    import transformers

    config = read_config(base.name, base.folder)
    classes = {name: getattr(transformers, name) for name in STOCK_CLASSES.values()}
    there = [name for name, of in classes.items() if type(config) in of._model_mapping]
    if STOCK_CLASSES[form] not in there:
        raise TicketError(
            f"model {base.name!r}: transformers has no {STOCK_CLASSES[form]} of its architecture (model_type "
            f"{config.model_type!r}), which the task needs; it has {', '.join(there) or 'none for any task'}."
        )
    found = classes[STOCK_CLASSES[form]]
    stock: Any = found._model_mapping[type(config)]
    bare: Any = transformers.AutoModel._model_mapping[type(config)]
    if stock.base_model_prefix != bare.base_model_prefix:  # so it is with Llama and Qwen for question answering
        raise TicketError(
            f"model {base.name!r}: {stock.__name__} of transformers does not read its checkpoint, as it calls the "
            f"encoder {stock.base_model_prefix!r} and not {bare.base_model_prefix!r}; use an encoder for this task."
        )
    return found


def new_modules(model: "PreTrainedModel") -> list[Any]:
    """Return the modules outside the encoder: the output layer and the dropout before it."""
    inside = set(model.base_model.modules())
    return [module for module in model.modules() if module is not model and module not in inside]
