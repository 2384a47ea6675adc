"""The SHA-256 of large files, remembered: a base model is read once for its hash, not by every process.

A remembered hash counts as long as the file's real path, size, inode and times of change are what they were. So a link
into a hub's cache is its blob, and what was changed, replaced or moved is read again. A change that alters none of
these goes unseen (a network drive with a wrong clock may do that): delete `digests.json` to have every file read again.
"""

import re
import time
from contextlib import suppress
from json import dumps
from pathlib import Path
from typing import Any

from supertickets.errors import NoSpaceError
from supertickets.storage import cache_folder, file_digest, read_json, write_atomically

_LARGE = 2**24
"""Bytes; smaller files are read in less than the time that a look into the cache saves."""
_SETTLED = 2.0
"""Seconds: a file that has just been changed may be changed again at what its file system takes for the same time."""
_MOST = 1000
"""How many files are remembered, those that were hashed last."""
_SHA256 = re.compile("[0-9a-f]{64}")

_of_this_process: dict[str, dict[str, Any]] = {}


def remembered_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex; of a large file that has not changed without reading it again.

    Hashes are kept in this process and in `supertickets/digests.json` in the user's cache folder (XDG_CACHE_HOME, or
    ~/.cache). A file that is damaged or cannot be written there changes nothing. Raises OSError if `path` cannot be
    read.
    """
    path = path.resolve()
    stamp, settled = _stamp(path), time.time() - _SETTLED
    if stamp["size"] < _LARGE:
        return file_digest(path)
    for remembered in (lambda: _of_this_process, _read):  # the file is read only if this process does not know
        entry = remembered().get(str(path))
        if isinstance(entry, dict) and entry == {**stamp, "sha256": entry.get("sha256")}:
            known = entry["sha256"]
            if isinstance(known, str) and _SHA256.fullmatch(known):
                return known
    found = file_digest(path)
    last_change = max(stamp["modified"], stamp["changed"]) / 1e9
    if last_change < settled and _stamp(path) == stamp:
        _remember(str(path), {**stamp, "sha256": found})
    return found


def _stamp(path: Path) -> dict[str, int]:
    """Return what of a file is another number once its content has changed; times are in nanoseconds."""
    status = path.stat()
    return {
        "size": status.st_size,
        "inode": status.st_ino,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,  # moves even where the other time is set back, as by `cp -p`
    }


def _file() -> Path:
    """Return where hashes are kept; raises RuntimeError for a user without a home."""
    return cache_folder() / "digests.json"


def _read() -> dict[str, Any]:
    """Return the hashes of all processes by path; nothing where there are none to read."""
    with suppress(RuntimeError):  # no home, or JSON that is too deep
        return read_json(_file())
    return {}


def _remember(path: str, entry: dict[str, Any]) -> None:
    """Keep a file's hash, beside those that other processes have kept meanwhile."""
    _of_this_process[path] = entry
    entries = {name: other for name, other in _read().items() if name != path} | {path: entry}
    with suppress(OSError, RuntimeError, NoSpaceError):
        write_atomically(_file(), dumps(dict(list(entries.items())[-_MOST:]), indent=0))
