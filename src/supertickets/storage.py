"""Files: written whole or not at all, and told apart by what is in them."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supertickets.errors import NoSpaceError


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN. Equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of `value`'s canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex (the number model hubs show for large files)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> str:
    """Write `content` to `path` so that a reader finds the old file or the whole new one; return its SHA-256.

    Raises NoSpaceError if the disk is full; nothing of the new file stays then.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    with _told_of_full_disk(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise
    return hashlib.sha256(data).hexdigest()


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of `folder` if all went well and is gone if not.

    Raises NoSpaceError if the disk is full.
    """
    with _told_of_full_disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_over in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _told_of_full_disk(path: Path) -> Iterator[None]:
    """Raise NoSpaceError where a full disk is what went wrong, whichever library met it."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or f"(os error {errno.ENOSPC})" in str(error):  # as safetensors says it
            raise NoSpaceError(
                f"no space left for {path.name} on the disk of {path.parent}; make room and run the same command "
                "again: what is done is kept."
            ) from error
        raise
