"""Ticket folders by name: a folder of this machine, or a repository on the hub, which is downloaded."""

import re
from pathlib import Path
from typing import NamedTuple

from supertickets.errors import TicketError
from supertickets.storage import user_path

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?", re.A)
_OF_TICKETS = ("ticket.json", "ticket.safetensors", "evidence.json", "README.md")
_OF_MODELS = tuple(f"model/*.{ending}" for ending in ("json", "safetensors", "txt", "jinja", "model", "codes"))
_NOT_WANTED = ("*/*/*",)
"""Of a repository only files of these names and endings are downloaded: no code, and no pickle."""


class HubName(NamedTuple):
    """A repository on the hub, `org/name`, and perhaps a revision of it: a branch, a tag or a commit."""

    repository: str
    revision: str | None = None


def hub_name(name: str | Path) -> HubName | None:
    """Return the repository that `org/name` or `org/name@revision` is the name of; None for any other text.

    >>> hub_name("org/name@v1")
    HubName(repository='org/name', revision='v1')
    >>> hub_name("runs/rte/super-ticket") is None
    True
    """
    found = _NAME.fullmatch(str(name))
    return None if found is None else HubName(found["repository"], found["revision"])


def on_hub(name: str | Path) -> HubName | None:
    """Return the repository on the hub that a name means; None where it means a folder of this machine.

    Of a name such as `runs/rte`, without a revision, is a folder `runs` here, so it is taken for a folder's.
    """
    folder, asked = user_path(name), hub_name(name)
    if asked is None or folder.exists() or (asked.revision is None and folder.parent.is_dir()):
        return None
    return asked


def ticket_folder(name: str | Path, with_model: bool = False) -> Path:
    """Return the local folder that `name` means: one that exists, or a repository on the hub, which is downloaded.

    `org/name` is the repository's main branch, `org/name@revision` a branch, a tag or a commit of it (see `on_hub`).
    The files that a ticket folder has are downloaded into the cache of huggingface_hub, those of the trained model only
    `with_model`; where the hub cannot be asked, what is in the cache is used.

    Raises TicketError if there is neither such a folder nor such a repository, or revision, or no ticket in it.
    """
    folder = user_path(name)
    if folder.exists():
        return folder
    asked = on_hub(name)
    if asked is None:
        hint = "a folder"
        if hub_name(name) is None:
            hint += ", or a repository on the hub as org/name or org/name@revision"
        else:
            hint += f" (there is a folder {folder.parent} here; for a repository on the hub write {name}@main)"
        raise TicketError(f"{name}: no such folder; expected {hint}.")
    found = _downloaded(str(name), asked, (*_OF_TICKETS, *(_OF_MODELS if with_model else ())))
    if not (found / _OF_TICKETS[0]).is_file():
        raise TicketError(f"{name}: the repository on the hub has no ticket (no {_OF_TICKETS[0]} in it).")
    return found


def _downloaded(name: str, asked: HubName, patterns: tuple[str, ...]) -> Path:
    """Return the folder in the cache with a repository's files; raises TicketError where there are none."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                asked.repository,
                revision=asked.revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(_NOT_WANTED),
                library_name="supertickets",
            )
        )
    except RevisionNotFoundError as error:
        raise TicketError(
            f"{name}: the repository on the hub has no revision {asked.revision or 'main'!r}; expected a branch, a tag "
            "or a commit of it."
        ) from error
    except GatedRepoError as error:
        raise TicketError(
            f"{name}: the repository on the hub is gated; ask for access on its page, and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise TicketError(
            f"{name}: there is neither a folder of this name here nor a repository on the hub that you may read; check "
            "the name, and for a private repository log in with `hf auth login`."
        ) from error
    except Exception as error:  # the client lets errors of its HTTP library through, which are of many kinds
        raise TicketError(
            f"{name}: there is no folder of this name here, and no repository of this name could be downloaded from "
            f"the hub ({type(error).__name__}); expected a folder, or org/name or org/name@revision with a connection "
            "to the hub."
        ) from error
