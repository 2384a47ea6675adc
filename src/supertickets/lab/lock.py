"""One study at a time in a folder."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from supertickets.errors import TicketError
from supertickets.storage import read_json, write_atomically

_LOCK, _HOLDER = ".lock", ".holder.json"


@contextmanager
def hold(folder: Path, flag: str | None = None) -> Iterator[None]:
    """Hold a folder while the context lasts; raises TicketError, naming the holder, if another process has it.

    `flag` is the one that has named the folder, where another may be named. The system lets go when a process ends,
    however it ends.
    """
    named, or_choose = (f"{flag} {folder}", "; choose another folder") if flag else (str(folder), "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TicketError(f"{named}: the folder cannot be created ({error.strerror}){or_choose}.") from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=1)  # somebody may just be looking who holds it
    except Timeout:
        who = holder(folder) or {"pid": "?", "host": "?", "since": "?"}
        raise TicketError(
            f"{named}: process {who['pid']} on {who['host']} has been working in this folder since "
            f"{who['since']}; wait for it{', or choose another folder' if flag else ''}."
        ) from None
    except OSError as error:
        raise TicketError(f"{named}: the folder is not writable ({error.strerror}){or_choose}.") from error
    try:
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_atomically(folder / _HOLDER, json.dumps(mine))
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> dict[str, Any] | None:
    """Return who works in a folder (pid, host, since), or None."""
    lock = FileLock(folder / _LOCK)
    if not (folder / _LOCK).exists():
        return None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return {"pid": "?", "host": "?", "since": "?"} | read_json(folder / _HOLDER)
    except OSError:  # a folder that others may only read
        return None
    lock.release()
    return None
