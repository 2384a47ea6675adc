"""The README of a ticket folder."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from supertickets.errors import TicketError
from supertickets.models import DEFAULT_MODEL, STOCK_CLASSES
from supertickets.storage import user_path
from supertickets.tasks import Form
from supertickets.tasks.metrics import scored
from supertickets.tickets.folder import MODEL_FOLDER, TICKET_JSON, UNNAMED_BASE, SharedTicket
from supertickets.tickets.weights import WeightTicket


@dataclass(frozen=True)
class Row:
    """A line of the table of scores: what was trained, by its labels, the mean score and each seed's with its seed."""

    labels: tuple[str, ...]
    mean: float
    seeds: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """What the card of a repository on the hub says beside that of a ticket folder.

    `repository` is its name, `place` that with a revision, `what` it has: ticket, model or both. `sentences` are the
    study's verdict, `rows` every seed's score by the labels in `columns`. `metrics` are the shipped training's by name,
    in percent; `dataset` is the hub's name of the dataset and its configuration, None for examples of one's own.
    """

    repository: str
    place: str
    what: str
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: tuple[str, str] | None = None


_ON_HUB = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""What the hub calls metrics where the name is another one."""
_PIPELINES: dict[Form, str] = {
    "sequence": "text-classification",
    "spans": "question-answering",
    "masked": "fill-mask",
    "causal": "text-generation",
    "tokens": "token-classification",
}


def ticket_card(
    shared: SharedTicket[Any], with_model: bool, form: Form = "sequence", published: Published | None = None
) -> str:
    """Return the model card: what was kept, how it scored, how to load it; `form` is that of the model's task.

    `published`: the card of a repository on the hub, with metadata that the hub shows. Raises TicketError for a ticket
    that does not say what its card needs.
    """
    base = shared.base
    more = {} if published is None else _metadata(shared, form, published)
    header = ModelCardData(
        library_name="supertickets",
        base_model=base["name"] if is_on_hub(base) else None,
        tags=["supertickets", "lottery-ticket", "pruning"],
        **more,
    )
    # Markdown for people, no HTML, whoever wrote ticket.json: names are put in code spans, without backticks.
    environment = Environment(loader=PackageLoader("supertickets.export"), undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"code": _code, "plain": _plain, "spans": _spans, "quote": _quote, "scored": scored}
    template = "weights.md.jinja" if isinstance(shared.ticket, WeightTicket) else "card.md.jinja"
    model_at = f'"{MODEL_FOLDER}"'
    if published is not None:
        model_at = f'"{published.repository}"' + ("" if published.what == "model" else f', subfolder="{MODEL_FOLDER}"')
        revision = published.place.partition("@")[2]
        model_at += f', revision="{revision}"' if revision else ""
    try:
        card = environment.get_template(template).render(
            vars(shared),
            header=header.to_yaml(),
            with_model=with_model,
            with_ticket=published is None or published.what != "model",
            place="." if published is None else published.place,
            model_at=model_at,
            published=published,
            unnamed=UNNAMED_BASE,
            stock_class=STOCK_CLASSES[form],
        )
    except UndefinedError as error:
        lacking = str(error).rpartition("attribute ")[2]
        raise TicketError(
            f"the ticket's {TICKET_JSON} lacks {lacking}, which its card needs; expected a ticket as a study writes it."
        ) from error
    return f"{card}\n"


def is_on_hub(base: Mapping[str, Any]) -> bool:
    """Return whether a base model's name is one on the hub: not `default`, and no folder's, here or where it was."""
    name = str(base["name"])
    if name == DEFAULT_MODEL or base.get("folder") or user_path(name).is_dir():
        return False
    return _HUB_ID.fullmatch(name) is not None


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.A)


def _metadata(shared: SharedTicket[Any], form: Form, published: Published) -> dict[str, Any]:
    """Return what the hub shows beside tags and base model: dataset, metrics, results."""
    from huggingface_hub import EvalResult

    task, pipeline = str(shared.origin.get("task", "task")), _PIPELINES[form]
    dataset, configuration = published.dataset or (task, None)
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=dataset,
            dataset_name=task,
            dataset_config=configuration,
            dataset_split="validation" if published.dataset else None,
            metric_type=_ON_HUB.get(name, name),
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in published.metrics.items()
    ]
    return {
        "pipeline_tag": None if published.what == "ticket" else pipeline,
        "datasets": [published.dataset[0]] if published.dataset else None,
        "metrics": [_ON_HUB.get(name, name) for name in published.metrics] or None,
        "model_name": published.repository.partition("/")[2],
        "eval_results": results or None,
    }


_MARKDOWN = re.compile(r"([\\`*\[\]<>&~$|#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//))")  # not in entity_f1


def _code(name: Any) -> str:
    return f"`{' '.join(str(name).replace('`', '').split())}`"


def _quote(name: Any) -> str:
    return shlex.quote(" ".join(str(name).split()))


def _plain(sentence: Any) -> str:
    """Return a sentence on one line, in which names from data files are neither Markdown nor HTML nor links."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(sentence).split()))


def _spans(sentence: str) -> str:
    """Return a sentence as `_plain` does, but for its code spans."""
    parts = re.split(r"(`[^`]+`)", " ".join(sentence.split()))
    return "".join(part if i % 2 else _MARKDOWN.sub(r"\\\1", part) for i, part in enumerate(parts))
