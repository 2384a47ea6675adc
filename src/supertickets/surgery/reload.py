"""Cut models in stock transformers: `AutoModel...from_pretrained` rebuilds the layers once supertickets is imported.

transformers lets a package register a quantisation method; its hook gets the model on the meta device before the
weights arrive. config.json carries the ticket under `quantization_config`. Without the import the stock loader fails
loudly.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from supertickets.tickets import Ticket

METHOD = "supertickets"


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
        model.config.quantization_config = self.quantization_config
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        """Return True: the weights are ordinary tensors."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: the layers are ordinary linears."""
        return True


def save_cut_model(model: PreTrainedModel, ticket: Ticket, folder: Path) -> None:
    """Save a model that was cut to `ticket` as a Hugging Face folder (config.json, model.safetensors)."""
    model.config.quantization_config = TicketConfig(ticket.as_dict())
    model.save_pretrained(folder)
