"""How a process that trains asks its system for memory."""

import ctypes
import sys
from contextlib import suppress

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
