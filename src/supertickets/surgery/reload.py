"""Cut models in stock transformers: `AutoModel...from_pretrained` rebuilds the layers once supertickets is imported.

transformers lets a package register a quantisation method; its hook gets the model on the meta device before the
weights arrive. config.json carries the ticket under `quantization_config`. A method that is not registered is only
warned about, so config.json also names a weight file that cannot be one: without the import every stock class refuses
to load the folder, with a message that says what to import, even with `ignore_mismatched_sizes`.
"""

from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from supertickets.surgery.saving import METHOD, TicketConfig, mark_as
from supertickets.tickets import Ticket


@register_quantizer(METHOD)
class TicketQuantizer(HfQuantizer):
    """Cuts a freshly built stock model to its ticket before transformers loads the weights into it."""

    requires_calibration = False
    quantization_config: TicketConfig

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
                vars(module)["is_quantized"] = False
        mark_as(model, self.quantization_config)
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        """Return True: the weights are ordinary tensors."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: the layers are ordinary linears."""
        return True
