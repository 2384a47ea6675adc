"""Ticket folders: a ticket that can be shared, in the manner of a peft adapter.

`ticket.json` says what the ticket belongs to and where it comes from, `ticket.safetensors` has the ticket and the
scores it was drawn from, `README.md` is for people. A trained model may lie beside them in `model/`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supertickets.errors import TicketError
from supertickets.storage import read_json, user_path, write_atomically
from supertickets.tickets.hub import ticket_folder
from supertickets.tickets.ticket import Ticket
from supertickets.tickets.weights import WeightTicket

FORMAT = 2
"""Of ticket.json: 1 has heads and FFNs, or weights, 2 has neurons too."""
WEIGHTS_KIND = "weights"
_SIZES = ("layers", "heads", "attentions")
"""What the numbers of a ticket's shape are called."""
TICKET_JSON, TICKET_ARRAYS, MODEL_FOLDER = "ticket.json", "ticket.safetensors", "model"
UNNAMED_BASE = "(a local folder)"
"""What a published ticket calls a base model that has no name on the hub."""
SUPER_TICKET = "super-ticket"
"""The ticket folder that a study of `find` ships."""
SHARED_MODEL, SHARED_JSON = "shared-model", "shared.json"
"""A shared encoder with the tickets and output layers of all its tasks (see `export.shared`)."""


T = TypeVar("T", Ticket, WeightTicket)
V = TypeVar("V")


@dataclass(frozen=True)
class SharedTicket(Generic[T]):
    """A ticket with its provenance. `base` names the model it was drawn from (see `base_entry`).

    `origin` has task, level or sparsity, kind, seed, score, trial and how the scores were made; `scores` are the
    importances `heads` `[layers, heads]`, `ffns` `[layers]` and perhaps `neurons` `[layers, neurons]` that ranked it,
    where it was ranked.
    """

    ticket: T
    base: Mapping[str, Any]
    origin: Mapping[str, Any]
    versions: Mapping[str, str]
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def save(self, folder: Path, readme: str) -> None:
        """Write the ticket folder, `ticket.json` last: with it the folder is one."""
        kind: dict[str, Any] = {"kind": WEIGHTS_KIND} if isinstance(self.ticket, WeightTicket) else {}
        arrays, about = self._content()
        content = {
            # Earlier versions read what they know.
            "format": FORMAT if len(about.get("shape", {})) > 2 else 1,
            **kind,
            "base": dict(self.base),
            **about,
            "sha256": hashlib.sha256(arrays).hexdigest(),
            "origin": dict(self.origin),
            "versions": dict(self.versions),
        }
        write_atomically(folder / TICKET_ARRAYS, arrays)
        write_atomically(folder / "README.md", readme)
        write_atomically(folder / TICKET_JSON, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _content(self) -> tuple[bytes, dict[str, Any]]:
        """Return the file of the ticket, and what `ticket.json` says of it."""
        from safetensors.numpy import save

        ticket = self.ticket
        if isinstance(ticket, WeightTicket):
            about = {"tensors": len(ticket.masks), "weights": ticket.total, "kept": ticket.kept}
            return ticket.to_bytes(), {**about, "sparsity": ticket.sparsity}
        arrays: dict[str, NDArray[Any]] = {"heads": ticket.heads.astype(np.uint8), "ffns": ticket.ffns.astype(np.uint8)}
        shape = dict(zip(_SIZES, ticket.shape, strict=False))
        kept = {"heads": ticket.kept_heads, "ffns": ticket.kept_ffns}
        if ticket.neurons is not None:
            arrays["neurons"], kept["neurons"] = ticket.neurons.astype(np.uint8), int(ticket.neurons.sum())
            shape["neurons"] = ticket.neurons.shape[1]
        arrays |= {f"scores.{name}": np.ascontiguousarray(values) for name, values in self.scores.items()}
        return save(arrays), {"shape": shape, "kept": kept}


class _Entries(BaseModel):
    """Entries of an object in `ticket.json`; newer versions may write more."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Base(_Entries):
    name: str
    weight_hash: str
    model_type: str = ""
    layers: Annotated[int, Field(ge=1)] | None = None
    folder: bool = False


class _Drawn(_Entries):
    seeds: list[int]
    target: list[str] = []
    levels: list[float | str] = []


class _Reloaded(_Entries):
    float32: dict[str, float] = {}


class _Origin(_Entries):
    task: str = ""
    kind: str = ""
    trial: str = ""
    why: str = ""
    file: str = ""
    sha256: str = ""
    data: list[str] = []
    metrics: list[str] = []
    notes: list[str] = []
    shared_with: list[str] = []
    target: list[str] = []
    level: float | str | None = None
    rewind: float | str = "0"
    seed: int = 0
    score: float = 0.0
    recipe: dict[str, Any] = {}
    drawn: _Drawn | None = None
    reloaded: _Reloaded | None = None


class _About(_Entries):
    """What of `ticket.json` is shown and compared; what is not there has a default here, and stays not there."""

    base: _Base
    origin: _Origin
    versions: dict[str, str]


def _check(content: Mapping[str, Any]) -> None:
    """Raise ValueError for an entry of another type than it has to have."""
    try:
        _About.model_validate(content)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        named = ".".join(str(name) for name in where[:2])  # behind that, which of several types it is not
        raise ValueError(f"{TICKET_JSON} has a wrong entry {named!r}") from error


def base_entry(name: str, weight_hash: str, model_type: str, layers: int | None = None) -> dict[str, Any]:
    """Return what a ticket folder says of its base model; `layers`: that it is so many first layers of that model.

    `folder` says of a name that it is a folder's on the machine where the ticket was made: elsewhere it could be taken
    for one on the hub.
    """
    entry: dict[str, Any] = {"name": name, "weight_hash": weight_hash, "model_type": model_type}
    if user_path(name).is_dir():
        entry["folder"] = True
    return entry if layers is None else entry | {"layers": layers}


def load_ticket(folder: Path | str) -> SharedTicket[Ticket]:
    """Read a ticket folder, or the one in a repository on the hub (`org/name`, `org/name@revision`; `tickets.hub`).

    Raises TicketError if there is none, or if it is damaged or was written by a newer version.
    """
    folder = ticket_folder(folder)
    if is_of_weights(folder):
        raise TicketError(f"{folder}: this is a ticket of single weights; expected one of heads and FFNs.")
    return load_any_ticket(folder)


def load_weight_ticket(folder: Path | str) -> SharedTicket[WeightTicket]:
    """Read a folder with a ticket of weights, or a repository on the hub, as `load_ticket` does.

    Raises TicketError if there is none, or if it is damaged.
    """
    folder = ticket_folder(folder)
    if not is_of_weights(folder):
        raise TicketError(f"{folder}: not a ticket of single weights (it has no {TICKET_JSON} that says so).")
    return load_any_ticket(folder)


def load_any_ticket(folder: Path | str) -> SharedTicket[Any]:
    """Read a ticket folder of either kind; raises TicketError if it is none, is damaged, or of a newer version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = user_path(folder)
    if not (folder / TICKET_JSON).is_file():
        inside = folder / SUPER_TICKET
        hint = f"; did you mean {inside}?" if (inside / TICKET_JSON).is_file() else ""
        raise TicketError(f"{folder}: not a ticket folder (no {TICKET_JSON}){hint or '.'}")
    try:
        content = json.loads((folder / TICKET_JSON).read_text(encoding="utf-8"))
        if _entry(content, "format", int) > FORMAT:
            raise TicketError(
                f"{folder}: ticket format {content['format']} is newer than this version reads ({FORMAT}); "
                "upgrade supertickets."
            )
        found = (folder / TICKET_ARRAYS).read_bytes()
        ticket: Ticket | WeightTicket
        scores = {}
        of_weights = content.get("kind") == WEIGHTS_KIND
        # Earlier versions wrote none for heads and FFNs.
        if (of_weights or "sha256" in content) and hashlib.sha256(found).hexdigest() != _entry(content, "sha256", str):
            raise TicketError(f"{folder}: the checksum of {TICKET_ARRAYS} does not match {TICKET_JSON}.")
        if of_weights:
            ticket = WeightTicket.from_bytes(found, str(folder / TICKET_ARRAYS))
        else:
            arrays = load(found)
            neurons = arrays["neurons"].astype(bool) if "neurons" in arrays else None
            ticket = Ticket(arrays["heads"].astype(bool), arrays["ffns"].astype(bool), neurons)
            shape, width = _entry(content, "shape", dict), None if neurons is None else neurons.shape[1]
            sizes = dict(zip(_SIZES, ticket.shape, strict=False)) | ({} if width is None else {"neurons": width})
            if sizes != shape:
                raise TicketError(f"{folder}: the shape of {TICKET_ARRAYS} does not match {TICKET_JSON}.")
            scores = {name.removeprefix("scores."): arrays[name] for name in arrays if name.startswith("scores.")}
        base, origin, made_by = (_entry(content, name, dict) for name in ("base", "origin", "versions"))
        if not {"name", "weight_hash"} <= base.keys():
            raise TicketError(f"{folder}: {TICKET_JSON} does not say which base model the ticket is of.")
        _check(content)
        return SharedTicket(ticket, base, origin, made_by, scores)
    except TicketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        said = f"{TICKET_ARRAYS} has no entry {error}" if isinstance(error, KeyError) else error
        raise TicketError(f"{folder}: the ticket folder is damaged ({said}).") from error


def _entry(content: Any, name: str, kind: type[V]) -> V:
    """Return an entry of `ticket.json`; raises ValueError where there is none of this kind."""
    if not isinstance(content, dict):
        raise ValueError(f"{TICKET_JSON} is not an object")
    if not isinstance(value := content.get(name), kind):
        raise ValueError(f"{TICKET_JSON} has {'a wrong' if name in content else 'no'} entry {name!r}")
    return value


def is_of_weights(folder: Path) -> bool:
    """Return whether a ticket folder has a ticket of single weights."""
    return read_json(folder / TICKET_JSON).get("kind") == WEIGHTS_KIND


def shipped_trial(folder: Path) -> str | None:
    """Return the key of the trial whose shared model is in a folder; None if there is none."""
    return read_json(folder / SHARED_JSON).get("trial")
