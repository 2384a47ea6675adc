"""What a cut model says of itself wherever it is saved: the ticket, and that it does not load without supertickets."""

import json
import weakref
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from supertickets.storage import write_atomically
from supertickets.tickets import Ticket

METHOD = "supertickets"
IMPORT_FIRST = "`import supertickets` before loading this model, which was cut to a ticket"
"""The name of the weight file in config.json; transformers shows it in its error. With the import it is never read."""


@register_quantization_config(METHOD)
class TicketConfig(QuantizationConfigMixin):
    """What config.json says about a cut model: the ticket that was cut out."""

    def __init__(self, ticket: dict[str, Any], quant_method: str = METHOD, **unknown: Any) -> None:
        self.quant_method = cast(QuantizationMethod, quant_method)  # the enum has transformers' own methods only
        self.ticket = ticket


def mark_cut(model: PreTrainedModel, ticket: Ticket) -> None:
    """Let a model that was cut to `ticket` say so wherever it is saved: `save_pretrained` writes what reloads it."""
    if not ticket.is_full:
        mark_as(model, TicketConfig(ticket.as_dict()))


def mark_as(model: PreTrainedModel, config: TicketConfig) -> None:
    """Let a cut model, and models in it, say what `config` says wherever they are saved."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):  # an encoder may be saved without its output layer
            module.config.quantization_config = config
            vars(module)["save_pretrained"] = _SavePretrained(module)  # its own, before its class's


_HUB = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags",
        "max_shard_size")  # fmt: skip
"""What `save_pretrained` hands on to the hub."""


class _SavePretrained:
    """`save_pretrained` of a cut model: as transformers does it, and config.json gets what transformers leaves out.

    The reference is weak, so that a model's memory is free as soon as it is not used any more.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = weakref.ref(model)

    def __call__(self, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the model as `PreTrainedModel.save_pretrained` does."""
        model = self._model()
        assert model is not None
        to_hub = {name: kwargs[name] for name in _HUB if push_to_hub and name in kwargs}
        here = {
            name: value for name, value in kwargs.items() if name not in _HUB or name in ("token", "max_shard_size")
        }
        type(model).save_pretrained(model, save_directory, *args, **here)
        path = Path(save_directory) / "config.json"
        main = args[0] if args else kwargs.get("is_main_process", True)
        if main and path.is_file():  # where only adapters are saved there is none
            content = json.loads(path.read_text(encoding="utf-8")) | {"transformers_weights": IMPORT_FIRST}
            write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        if main and push_to_hub:
            model.push_to_hub(**{"repo_id": Path(save_directory).name, **to_hub})

    def __reduce__(self) -> Any:
        return _SavePretrained, (self._model(),)  # copied and pickled with its model
