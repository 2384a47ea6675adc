"""Cut models in stock transformers: `AutoModel...from_pretrained` rebuilds the layers once supertickets is imported.

transformers lets a package register a quantisation method; its hook gets the model on the meta device before the
weights arrive. config.json carries the ticket under `quantization_config`. A method that is not registered is only
warned about, so config.json also names a weight file that cannot be one: without the import every stock class refuses
to load the folder, with a message that says what to import, whatever sizes it is told to ignore.
"""

import json
import weakref
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from supertickets.tickets import Ticket

METHOD = "supertickets"
IMPORT_FIRST = "`import supertickets` before loading this model, which was cut to a ticket"
"""The name of the weight file in config.json; transformers shows it in its error. With the import it is never read."""


@register_quantization_config(METHOD)
class TicketConfig(QuantizationConfigMixin):
    """What config.json says about a cut model: the ticket that was cut out."""

    def __init__(self, ticket: dict[str, Any], quant_method: str = METHOD, **unknown: Any) -> None:
        self.quant_method = quant_method
        self.ticket = ticket


@register_quantizer(METHOD)
class TicketQuantizer(HfQuantizer):
    """Cuts a freshly built stock model to its ticket before transformers loads the weights into it."""

    requires_calibration = False

    def update_attn_implementation(self, config: Any) -> Any:
        """Let transformers look for the weights under their usual name (this hook comes before it does)."""
        config.transformers_weights = None
        return config

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        # Imported late: this module loads while transformers does, perhaps because surgery.cut asked for it.
        from supertickets.surgery.cut import cut

        cut(model, Ticket.from_dict(self.quantization_config.ticket))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        # Nothing is quantised: without this, transformers refuses .half() and training. The entry in the config stays,
        # so that the model saves and loads again.
        self.remove_quantization_config(model)
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.is_quantized = False
        _mark(model, self.quantization_config)
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        """Return True: the weights are ordinary tensors."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: the layers are ordinary linears."""
        return True


def mark_cut(model: PreTrainedModel, ticket: Ticket) -> None:
    """Let a model that was cut to `ticket` say so wherever it is saved: `save_pretrained` writes what reloads it."""
    if not ticket.is_full:
        _mark(model, TicketConfig(ticket.as_dict()))


def save_cut_model(model: PreTrainedModel, ticket: Ticket, folder: Path) -> None:
    """Save a model that was cut to `ticket` as a Hugging Face folder, however it was cut."""
    mark_cut(model, ticket)
    model.save_pretrained(folder)


def _mark(model: PreTrainedModel, config: TicketConfig) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):  # an encoder may be saved without its output layer
            module.config.quantization_config = config
            module.save_pretrained = _SavePretrained(module)


class _SavePretrained:
    """`save_pretrained` of a cut model: as transformers does it, and config.json gets what transformers leaves out.

    The reference is weak, so that a model's memory is free as soon as nobody uses it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = weakref.ref(model)

    def __call__(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the model as `PreTrainedModel.save_pretrained` does."""
        model = self._model()
        assert model is not None
        target = {name: kwargs.pop(name) for name in ("repo_id", "commit_message") if push_to_hub and name in kwargs}
        type(model).save_pretrained(model, save_directory, *args, **kwargs)
        path = Path(save_directory) / "config.json"
        if path.is_file():  # where only adapters are saved there is none
            content = json.loads(path.read_text(encoding="utf-8")) | {"transformers_weights": IMPORT_FIRST}
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if push_to_hub:
            model.push_to_hub(**{"repo_id": Path(save_directory).name, **target})

    def __reduce__(self) -> Any:
        return _SavePretrained, (self._model(),)  # copied and pickled with its model
