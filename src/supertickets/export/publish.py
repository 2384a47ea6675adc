"""A ticket folder as it is published: of what it says, only what is meant for others, and no place on this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from supertickets.errors import StudyError, TicketError
from supertickets.export.card import Published, is_on_hub, ticket_card
from supertickets.export.evidence_file import EVIDENCE, rehash
from supertickets.models import DEFAULT_MODEL, form_of_class, own_files
from supertickets.tasks import Form
from supertickets.tickets.folder import MODEL_FOLDER, TICKET_ARRAYS, TICKET_JSON, UNNAMED_BASE, SharedTicket

_ORIGIN = (
    "task", "data_hash", "data", "kind", "level", "target", "sparsity", "seed", "score", "metrics", "best_epoch",
    "trial", "preset", "recipe", "scores", "teacher", "reloaded", "shared_with", "drawn", "why", "rewind", "sha256",
    "notes",
)  # fmt: skip
"""What of a ticket's origin is published; the name of a file of masks is not."""
_OF_A_FILE = re.compile(r"[^:]*\.\w{1,8}(\.gz)?: ")
"""How sentences on how a file was read begin: with its name."""
_PLACES = ("_name_or_path", "name_or_path")
"""What in JSON files of models and tokenizers says where they were loaded from."""
PATTERNS = (
    TICKET_JSON, TICKET_ARRAYS, EVIDENCE, f"{MODEL_FOLDER}/*",
    *(pattern.partition("/")[2] for pattern in own_files(MODEL_FOLDER)),
)  # fmt: skip
"""The files that any version of a published folder has: of those the next one replaces or deletes what is there."""


def for_others(shared: SharedTicket[Any], base: str | None = None) -> SharedTicket[Any]:
    """Return a ticket as it is published; `base` is its base model's id on the hub where the ticket names a folder.

    Of the sentences on its data, those that begin with the name of a file are left out, and so is what a newer version
    may know of its origin and this one does not.
    """
    name = str(shared.base["name"])
    public = base or (name if name == DEFAULT_MODEL or is_on_hub(shared.base) else UNNAMED_BASE)
    entry = {key: value for key, value in shared.base.items() if key != "folder"}
    origin = {key: value for key, value in shared.origin.items() if key in _ORIGIN}
    for key in ("data", "notes"):
        if key in origin:
            origin[key] = [one for one in origin[key] if not _OF_A_FILE.match(one)]
    return replace(shared, base={**entry, "name": public}, origin=origin)


def write_published(
    new: Path, folder: Path, shared: SharedTicket[Any], published: Published, private: Collection[str]
) -> None:
    """Write into `new` what of a ticket folder is published: `shared` (see `for_others`), its model, or both.

    A model alone lies at the top, where stock transformers looks for it. Raises StudyError, so that nothing is
    published, if a file has any of the texts in `private`: paths of this machine.
    """
    if published.what != "ticket":
        _copy_model(folder / MODEL_FOLDER, new if published.what == "model" else new / MODEL_FOLDER, shared)
    card = ticket_card(shared, published.what != "ticket", form_of(folder), published)
    if published.what == "model":
        (new / "README.md").write_text(card, encoding="utf-8")
    else:
        if (folder / EVIDENCE).is_file():
            shutil.copyfile(folder / EVIDENCE, new / EVIDENCE)
        shared.save(new, card)
        rehash(new)
    _check_private(new, private)


def form_of(folder: Path) -> Form:
    """Return the form of the tasks that a ticket folder's model is for, `sequence` where it has none."""
    path = folder / MODEL_FOLDER / "config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("architectures") if path.is_file() else None
    return form_of_class((named or [""])[0]) or "sequence"


def _copy_model(old: Path, new: Path, shared: SharedTicket[Any]) -> None:
    """Copy the files that saving a model and its tokenizer writes, without the places that they were loaded from."""
    new.mkdir(exist_ok=True)
    patterns = [pattern.partition("/")[2] for pattern in own_files(MODEL_FOLDER)]
    for path in sorted({path for pattern in patterns for path in old.glob(pattern) if path.is_file()}):
        content = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
        named = [key for key in _PLACES if isinstance(content, dict) and content.get(key) not in (None, "")]
        if isinstance(content, dict) and any(content[key] != shared.base["name"] for key in named):
            content = {key: value for key, value in content.items() if key not in named}
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (new / path.name).write_text(f"{text}\n", encoding="utf-8")
        else:
            shutil.copyfile(path, new / path.name)


def _check_private(folder: Path, private: Collection[str]) -> None:
    """Raise StudyError if a file has one of some texts, as it is or as JSON writes it."""
    forms = {form.encode() for text in private for form in (text, json.dumps(text)[1:-1])}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(form in content for form in forms):
            raise StudyError(
                f"{path.relative_to(folder)} has a path of this machine in it, so nothing is published; please report "
                "this."
            )


def with_model(what: str | None, folder: Path) -> str:
    """Return what to publish of a ticket folder: what is asked for, by default all that it has.

    Raises TicketError if a model is asked for and there is none.
    """
    there = (folder / MODEL_FOLDER / "config.json").is_file()
    if what in ("model", "both") and not there:
        raise TicketError(
            f"--what {what}: {folder} has no trained model ({MODEL_FOLDER}/); use --what ticket, or run the study "
            "again with --keep super (of `imp`: --keep matching)."
        )
    return what or ("both" if there else "ticket")
