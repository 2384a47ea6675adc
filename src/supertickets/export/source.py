"""What is exported: a model with its tokenizer and what is known of it, whichever way it was named."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.anatomy import Family, family_of
from supertickets.errors import TicketError
from supertickets.export.apply import applied, base_of
from supertickets.models import (
    STOCK_CLASSES,
    find_model,
    form_of_class,
    load_model,
    load_tokenizer,
    quiet_transformers,
)
from supertickets.models.checkpoint import as_misuse, outside_names
from supertickets.storage import read_json, user_path
from supertickets.tasks import Form, Task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, SHARED_JSON, TICKET_JSON, SharedTicket, load_any_ticket

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Exported:
    """A model to be written in some format, its tokenizer, and what is known of it.

    `model` is a stock class, perhaps cut to a ticket, in the precision of its file. `form` is that of its task, None
    for an encoder without an output layer; what its outputs mean is in its config. `what` says in words what it is;
    `shared` is the ticket with its provenance, where it is known. `max_length` is how many tokens of a text its
    training read, or the model can read. `examples` loads the task that it was trained on, where a study says which;
    it raises TicketError where the files are not what they were.
    """

    what: str
    model: "PreTrainedModel"
    tokenizer: Any
    form: Form | None
    max_length: int
    shared: SharedTicket[Any] | None = None
    notices: tuple[str, ...] = ()
    examples: Callable[[], Task] | None = None

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that its model was cut to; None for one in the dense model's shape."""
        cut = getattr(self.model.config, "quantization_config", None)
        return None if cut is None else Ticket.from_dict(cut.ticket)

    @property
    def family(self) -> Family:
        """The family of its architecture."""
        return family_of(self.model.config.model_type)

    @property
    def stock(self) -> str:
        """The class of transformers that loads it."""
        return "AutoModel" if self.form is None else STOCK_CLASSES[self.form]


def open_ticket(folder: Path, model: str | None = None, any_base: bool = False) -> Exported:
    """Return the trained model of a ticket folder; of one without a model, the ticket on its pre-trained base.

    `model` and `any_base` are as in `apply_ticket`. Raises TicketError if it is no ticket folder, if the ticket does
    not fit its base, and where `model` or `any_base` is given though there is a trained model.
    """
    shared = load_any_ticket(folder)
    if (folder / MODEL_FOLDER).is_dir():
        if model is not None or any_base:
            flag = "--any-base" if model is None else f"--model {model}"
            raise TicketError(
                f"{flag}: {folder} has its trained model in {MODEL_FOLDER}/, which is exported without another one; "
                "`supertickets apply` puts the ticket on its pre-trained base model."
            )
        found = open_model(str(folder / MODEL_FOLDER))
        recipe = shared.origin.get("recipe")
        length = recipe.get("max_length") if isinstance(recipe, dict) else None
        kept = length if isinstance(length, int) else found.max_length
        task = f" trained on {shared.origin['task']}" if "task" in shared.origin else ""
        return replace(found, what=f"the ticket's model{task}", shared=shared, max_length=kept)
    made = applied(shared, base_of(shared, model, any_base))
    return Exported(
        what=f"the ticket on its pre-trained base model {shared.base['name']}, without an output layer",
        model=made.model.eval(),
        tokenizer=made.tokenizer,
        form=None,
        max_length=made.tokenizer.model_max_length,
        shared=shared,
        notices=made.notices,
    )


def open_model(name: str) -> Exported:
    """Return a model, dense or cut to a ticket: a folder, a model id on the hub, or `default`.

    With its output layer, if its config names one of the classes in `STOCK_CLASSES`; else the encoder. Raises
    TicketError if there is none, or it is damaged.
    """
    folder = user_path(name)
    if (folder / SHARED_JSON).is_file():
        raise TicketError(
            f"{name}: this is a model of several tasks; name the ticket folder of one of them, in models/ of its study."
        )
    if folder.is_dir() and _is_cut(folder):
        return _cut_model(name, folder)
    base = find_model(name)
    fitted, form = load_tokenizer(base.name, base.folder), _form(base.config)
    loaded = load_model(base, _stock(form), "auto")
    outside = set(outside_names(loaded.model))
    if form is not None and (new := [one for one in loaded.new if one in outside]):
        raise TicketError(
            f"model {base.name!r}: its config says {base.config['architectures'][0]}, but its checkpoint lacks "
            f"{new[0]} of the output layer; expected a trained model."
        )
    notices = (*fitted.notices, *loaded.notices)
    return Exported(
        f"the model {name}", loaded.model.eval(), fitted.tokenizer, form, fitted.tokenizer.model_max_length,
        notices=notices,
    )  # fmt: skip


def _is_cut(folder: Path) -> bool:
    quantized = read_json(folder / "config.json").get("quantization_config")
    return isinstance(quantized, dict) and quantized.get("quant_method") == "supertickets"


def _cut_model(name: str, folder: Path) -> Exported:
    """Return a model that was cut to a ticket; whoever gets here has imported supertickets, which loads it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fitted, form = load_tokenizer(name, folder), _form(config)
    with quiet_transformers(), as_misuse(name, folder, "load the model"):
        model = _stock(form).from_pretrained(folder, local_files_only=True, dtype="auto")
    length = fitted.tokenizer.model_max_length
    return Exported(f"the model {name}", model.eval(), fitted.tokenizer, form, length, notices=fitted.notices)


def _form(config: dict[str, Any]) -> Form | None:
    """Return the form of tasks that a saved model's class is for; None for an encoder alone."""
    return form_of_class(str((config.get("architectures") or [""])[0]))


def _stock(form: Form | None) -> Any:
    import transformers

    return transformers.AutoModel if form is None else getattr(transformers, STOCK_CLASSES[form])


def is_ticket(folder: Path) -> bool:
    """Return whether a folder is a ticket's."""
    return (folder / TICKET_JSON).is_file()
