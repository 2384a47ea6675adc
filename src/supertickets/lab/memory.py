"""Memory of the machine: how much there is, and how a process that trains asks for it."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_REQUEST, _NEVER = 1 << 30, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for what it needs next; return whether it will.

    A training asks for the same large arrays in every step. glibc gives each back to the system and gets pages anew,
    which have to be filled with zeros: on a CPU that is an eighth to a fifth of a step. The most that is in use at a
    time stays the same. It cannot be undone, so it is for processes of our own. Only glibc has it.
    """
    if sys.platform != "linux":
        return False
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_REQUEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    return False


def free_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process and its children may still take; None where the system does not tell.

    It is what Linux can give without swapping, or less where a container's limit is less (of this process's control
    group and those above it, version 2 or 1). `root` is where the system's files are.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if found is None:
        return None
    groups = dict(re.findall(r"^\d+:(|memory):(/.*)$", _read(root / "proc/self/cgroup"), re.MULTILINE))
    rooms = [int(found[1]) * 1024]
    for kind, most, taken in (("", "memory.max", "memory.current"), ("memory", *_VERSION_1)):
        mounted = root / "sys/fs/cgroup" / kind
        own = mounted / groups.get(kind, "/").lstrip("/")
        # A group above may have the limit, as a Slurm job's has; in a container the group's own folder is what is
        # mounted.
        for folder in (own, *(above for above in own.parents if above.is_relative_to(mounted))):
            limit, used = _read(folder / most).strip(), _read(folder / taken).strip()
            cached = re.search(r"^inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            if limit.isdigit() and used.isdigit():
                # Files that were read count as used, but are given up when memory is asked for.
                rooms.append(max(int(limit) - int(used) + int(cached[1] if cached else 0), 0))
    return min(rooms)


_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes"


def _read(path: Path) -> str:
    """Return a file's text; nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
