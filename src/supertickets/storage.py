"""Files and folders: written atomically, identified by their hashes; only this package's own files are ever deleted."""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import AfterValidator

from supertickets.errors import NoSpaceError, TicketError


def user_path(path: Path | str) -> Path:
    """Return a path as a user gives it, `~` expanded; raises TicketError for the home of a user that there is not."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise TicketError(f"{path}: there is no user of that name on this machine.") from error


def cache_folder() -> Path:
    """Return this package's folder among the user's caches; raises RuntimeError for a user without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "supertickets"


UserPath = Annotated[Path, AfterValidator(user_path)]
"""A path as a user gives it in settings: `~` is the home folder, whoever passed it (a shell, YAML or Python)."""


_TEMPORARY = ".supertickets-"
_TEMPORARY_FILE = re.compile(re.escape(_TEMPORARY) + r"[0-9a-f]{32}\.tmp")
_OWNER, _LOCK, _NEW, _OLD = "made-by-supertickets.json", "lock", "new", "old"
"""In a temporary folder: what it is for, whether its process lives, what is being written, what it replaced."""


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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if the file is not there or is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def write_atomically(path: Path, content: str | bytes) -> str:
    """Write `content` to `path` so that a reader finds the old file or the whole new one; return its SHA-256.

    A symbolic link stays one: the file that it names is written. Raises NoSpaceError if the disk is full; nothing of
    the new file stays then.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which becomes `path` if all went well (see `write_atomically`)."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(16)}.tmp")
    with _full_disk_as_no_space(path):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary  # who opens it gives it the rights that the user's umask leaves
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_left_over(path: Path) -> bool:
    """Return whether a file in a folder of our own is what `write_atomically` left when its process was killed."""
    return _TEMPORARY_FILE.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


@contextmanager
def atomic_folder(folder: Path, ours: Collection[str] = ()) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` if all went well; otherwise `folder` stays as it was.

    An existing folder is exchanged for the new one, so that a crash leaves the old or the new one whole; files in it
    that the new one does not have are kept, but for those that match a pattern of `ours`. A symbolic link stays one.
    An empty folder that cannot be exchanged (a mount point, the working directory) is filled, and emptied again by the
    next call if that was cut short. Raises NoSpaceError if the disk is full, TicketError if the folder can be neither
    exchanged nor filled.
    """
    target = Path(os.path.realpath(folder))
    clear_left_overs(target)
    with _full_disk_as_no_space(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        fill = target.is_dir() and not any(target.iterdir()) and _stays_in_place(target)
        with _temporary_folder(target if fill else target.parent, target.name) as temporary:
            new = temporary / _NEW
            new.mkdir()
            yield new
            _to_disk(new)
            if fill:
                _fill(target, temporary)
            else:
                _exchange(target, temporary, ours)


def check_free(folder: Path) -> None:
    """Raise TicketError unless `folder` is a name for a new folder, or an empty one."""
    clear_left_overs(Path(os.path.realpath(folder)))
    if folder.exists() and not folder.is_dir():
        raise TicketError(f"--out {folder}: that is a file; expected a name for a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise TicketError(f"--out {folder}: the folder is not empty; choose another folder.")


def clear_left_overs(target: Path) -> None:
    """Undo what a process that was killed in `atomic_folder(target)` left; a folder that it had moved aside comes back.

    A temporary folder is ours if the file in it says so and names the target, and its process is gone.
    """
    places = (target.parent, target)
    found = [path for place in places if place.is_dir() for path in place.glob(f"{_TEMPORARY}*") if path.is_dir()]
    for temporary in found:
        owner = _owner(temporary)
        if owner is None or owner["target"] != target.name:
            continue
        lock = FileLock(temporary / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # its process lives
        try:
            if (temporary / _OLD).is_dir() and not target.exists():
                os.rename(temporary / _OLD, target)
            moved = [name for name in owner.get("filling", []) if not (temporary / _NEW / name).exists()]
            if temporary.parent == target and len(moved) < len(owner.get("filling", [])):
                for name in moved:
                    _delete(target / name)
        finally:
            lock.release()
            _delete_temporary(temporary)


@contextmanager
def _temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a new folder of our own below `parent` for writing a folder called `name`; it is gone afterwards."""
    temporary = parent / f"{_TEMPORARY}{secrets.token_hex(16)}"
    temporary.mkdir()
    lock = FileLock(temporary / _LOCK)
    try:
        with lock:
            (temporary / _OWNER).write_text(json.dumps({"made_by": "supertickets", "target": name}), encoding="utf-8")
            yield temporary
    finally:
        _delete_temporary(temporary)


def _owner(temporary: Path) -> dict[str, Any] | None:
    """Return what a temporary folder's own file says, None for a folder that is not ours."""
    found = read_json(temporary / _OWNER)
    return found if found.get("made_by") == "supertickets" and isinstance(found.get("target"), str) else None


def _delete_temporary(temporary: Path) -> None:
    """Delete what we made in a temporary folder, and the folder if nothing else is in it.

    A folder that was moved aside is deleted only if the new one has taken its place.
    """
    if (temporary / _OLD).exists() and (temporary / _NEW).exists():
        return
    for name in (_NEW, _OLD, _LOCK, _OWNER):
        _delete(temporary / name)
    with suppress(OSError):
        temporary.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """Make sure that a folder's files are on the disk before their names are."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _stays_in_place(target: Path) -> bool:
    """Whether a folder cannot be renamed (a mount point), or a shell would lose it (the working directory)."""
    return os.path.ismount(target) or Path(os.path.realpath(os.curdir)).is_relative_to(target)


def _exchange(target: Path, temporary: Path, ours: Collection[str]) -> None:
    """Put the new folder in the place of `target`; the old one is in the temporary folder afterwards, as `_OLD`."""
    new, old = temporary / _NEW, temporary / _OLD
    if not target.exists():
        os.rename(new, target)
        return
    _keep(target, new, "", ours)
    if _rename_exchange(new, target):
        os.rename(new, old)
    else:
        try:
            os.rename(target, old)
            os.rename(new, target)
        except BaseException as error:
            if old.exists() and not target.exists():
                os.rename(old, target)
            if isinstance(error, OSError):
                left = f"; its former content is in {old}" if old.exists() else ""
                raise TicketError(
                    f"{target}: the folder cannot be replaced ({error.strerror}){left}; choose another one."
                ) from error
            raise


def _keep(old: Path, new: Path, place: str, ours: Collection[str]) -> None:
    """Copy what an old folder has and a new one has not into the new one, but for files of our own."""
    for path in old.iterdir():
        name = f"{place}{path.name}"
        if path.is_dir() and not path.is_symlink():
            if not (new / path.name).is_file():
                _keep(path, new / path.name, f"{name}/", ours)
        elif not (new / path.name).exists() and not any(PurePosixPath(name).match(pattern) for pattern in ours):
            new.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; return False where the system cannot (renameat2 is Linux's)."""
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)


_LAST = ("config.json", "ticket.json", "shared.json")
"""The files that make a folder a model or a ticket."""


def _fill(target: Path, temporary: Path) -> None:
    """Move the new folder's entries into an empty one, those last that make it whole."""
    names = sorted((path.name for path in (temporary / _NEW).iterdir()), key=lambda name: (name in _LAST, name))
    owner = {"made_by": "supertickets", "target": target.name, "filling": names}
    (temporary / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
    for name in names:
        os.rename(temporary / _NEW / name, target / name)


@contextmanager
def _full_disk_as_no_space(path: Path) -> Iterator[None]:
    """Raise NoSpaceError where a full disk is what went wrong, whichever library met it."""
    try:
        yield
    except Exception as error:
        codes = errno.ENOSPC, errno.EDQUOT
        full = isinstance(error, OSError) and error.errno in codes
        if full or any(f"(os error {code})" in str(error) for code in codes):  # as safetensors says it
            raise NoSpaceError(
                f"no space left for {path.name} on the disk of {path.parent}; free some and run the same command "
                "again: finished trainings are kept."
            ) from error
        raise
