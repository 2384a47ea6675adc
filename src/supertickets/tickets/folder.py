"""Ticket folders: a ticket that can be shared, in the manner of a peft adapter.

`ticket.json` says what the ticket belongs to and where it comes from, `ticket.safetensors` has the ticket and the
scores it was drawn from, `README.md` is for people. A trained model may lie beside them in `model/`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.storage import user_path, write_atomically
from supertickets.tickets.ticket import Ticket
from supertickets.tickets.weights import WeightTicket

FORMAT = 1
WEIGHTS_KIND = "weights"
TICKET_JSON, TICKET_ARRAYS, MODEL_FOLDER = "ticket.json", "ticket.safetensors", "model"
SHARED_MODEL, SHARED_JSON = "shared-model", "shared.json"
"""A shared encoder with the tickets and output layers of all its tasks (see `export.shared`)."""


@dataclass(frozen=True)
class SharedTicket:
    """A ticket with its provenance. `base` names the model it was drawn from: name, weight_hash, model_type.

    `origin` has task, level, kind, seed, score, trial and how the scores were made; `scores` are the importances
    `heads` `[layers, heads]` and `ffns` `[layers]` that ranked it, where it was ranked.
    """

    ticket: Ticket
    base: Mapping[str, Any]
    origin: Mapping[str, Any]
    versions: Mapping[str, str]
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def save(self, folder: Path, readme: str) -> None:
        """Write the ticket folder, `ticket.json` last."""
        from safetensors.numpy import save

        arrays = {"heads": self.ticket.heads.astype(np.uint8), "ffns": self.ticket.ffns.astype(np.uint8)}
        arrays |= {f"scores.{name}": np.ascontiguousarray(values) for name, values in self.scores.items()}
        layers, heads = self.ticket.shape
        content = {
            "format": FORMAT,
            "base": dict(self.base),
            "shape": {"layers": layers, "heads": heads},
            "kept": {"heads": self.ticket.kept_heads, "ffns": self.ticket.kept_ffns},
            "origin": dict(self.origin),
            "versions": dict(self.versions),
        }
        _write(folder, save(arrays), readme, content)


def _write(folder: Path, arrays: bytes, readme: str, content: Mapping[str, Any]) -> None:
    """Write a ticket folder's files, `ticket.json` last: with it the folder is one."""
    write_atomically(folder / TICKET_ARRAYS, arrays)
    write_atomically(folder / "README.md", readme)
    write_atomically(folder / TICKET_JSON, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _read(folder: Path) -> dict[str, Any]:
    """Return what a ticket folder's JSON says; raises TicketError if a newer version wrote it."""
    content: dict[str, Any] = json.loads((folder / TICKET_JSON).read_text(encoding="utf-8"))
    if content["format"] > FORMAT:
        raise TicketError(
            f"{folder}: ticket format {content['format']} is newer than this version reads ({FORMAT}); "
            "upgrade supertickets."
        )
    return content


def load_ticket(folder: Path | str) -> SharedTicket:
    """Read a ticket folder; raises TicketError if it is none, is damaged, or was written by a newer version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = user_path(folder)
    if not (folder / TICKET_JSON).is_file():
        inside = folder / "super-ticket"
        hint = f"; did you mean {inside}?" if (inside / TICKET_JSON).is_file() else ""
        raise TicketError(f"{folder}: not a ticket folder (no {TICKET_JSON}){hint or '.'}")
    if is_of_weights(folder):
        raise TicketError(f"{folder}: this is a ticket of single weights; expected one of heads and FFNs.")
    try:
        content = _read(folder)
        arrays = load_file(folder / TICKET_ARRAYS)
        ticket = Ticket(arrays["heads"].astype(bool), arrays["ffns"].astype(bool))
        if not {"name", "weight_hash"} <= content["base"].keys():
            raise TicketError(f"{folder}: {TICKET_JSON} does not say which base model the ticket is of.")
        if ticket.shape != (content["shape"]["layers"], content["shape"]["heads"]):
            raise TicketError(f"{folder}: the shape of {TICKET_ARRAYS} does not match {TICKET_JSON}.")
        scores = {name.removeprefix("scores."): values for name, values in arrays.items() if name.startswith("scores.")}
        return SharedTicket(ticket, content["base"], content["origin"], content["versions"], scores)
    except TicketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TicketError(f"{folder}: the ticket folder is damaged ({error}).") from error


@dataclass(frozen=True)
class SharedWeightTicket:
    """A ticket of weights with its provenance; `base`, `origin` and `versions` are as in `SharedTicket`."""

    ticket: WeightTicket
    base: Mapping[str, Any]
    origin: Mapping[str, Any]
    versions: Mapping[str, str]

    def save(self, folder: Path, readme: str) -> None:
        """Write the ticket folder, `ticket.json` last."""
        content = {
            "format": FORMAT,
            "kind": WEIGHTS_KIND,
            "base": dict(self.base),
            "tensors": len(self.ticket.masks),
            "weights": self.ticket.total,
            "kept": self.ticket.kept,
            "sparsity": self.ticket.sparsity,
            "sha256": self.ticket.digest,
            "origin": dict(self.origin),
            "versions": dict(self.versions),
        }
        _write(folder, self.ticket.to_bytes(), readme, content)


def load_any_ticket(folder: Path | str) -> SharedTicket | SharedWeightTicket:
    """Read a ticket folder of either kind; raises TicketError as the two others do."""
    folder = user_path(folder)
    return load_weight_ticket(folder) if is_of_weights(folder) else load_ticket(folder)


def is_of_weights(folder: Path) -> bool:
    """Return whether a ticket folder has a ticket of single weights."""
    try:
        return bool(json.loads((folder / TICKET_JSON).read_text(encoding="utf-8")).get("kind") == WEIGHTS_KIND)
    except (OSError, ValueError, AttributeError):
        return False


def load_weight_ticket(folder: Path | str) -> SharedWeightTicket:
    """Read a folder with a ticket of weights; raises TicketError if it is none, or is damaged."""
    folder = user_path(folder)
    if not is_of_weights(folder):
        raise TicketError(f"{folder}: not a ticket of single weights (it has no {TICKET_JSON} that says so).")
    try:
        content = _read(folder)
        arrays = (folder / TICKET_ARRAYS).read_bytes()
        if hashlib.sha256(arrays).hexdigest() != content["sha256"]:
            raise TicketError(f"{folder}: the checksum of {TICKET_ARRAYS} does not match {TICKET_JSON}.")
        ticket = WeightTicket.from_bytes(arrays, str(folder / TICKET_ARRAYS))
        if not {"name", "weight_hash"} <= content["base"].keys():
            raise TicketError(f"{folder}: {TICKET_JSON} does not say which base model the ticket is of.")
        return SharedWeightTicket(ticket, content["base"], content["origin"], content["versions"])
    except TicketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TicketError(f"{folder}: the ticket folder is damaged ({error}).") from error


def shipped_trial(folder: Path) -> str | None:
    """Return the key of the trial whose shared model is in a folder; None if there is none."""
    try:
        return str(json.loads((folder / SHARED_JSON).read_text(encoding="utf-8"))["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
