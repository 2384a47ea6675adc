"""Asked to stop by a signal: a training makes a checkpoint after its step, and goes on from it another time.

SIGTERM is what `kill`, service managers and a cluster that needs the machine send before they kill; SIGUSR1 is what a
Slurm job asks for some time before its limit. One place for all runners: whatever process trains, trains within
`heeding`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(found for name in ("SIGTERM", "SIGUSR1") if (found := getattr(signal, name, None)) is not None)
"""The signals that ask for it, as far as the system has them."""
_asked: list[signal.Signals] = []  # of this process
_depth = 0


@contextmanager
def heeding(tell: Callable[[int], None] = lambda number: None) -> Iterator[None]:
    """Within the context these signals do not end the process: they are remembered, for trainings to see.

    `tell` is called with a signal's number when it comes. May be nested; the outermost forgets. Changes nothing outside
    the main thread, where Python has no signal handlers.
    """
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        _asked.append(signal.Signals(number))
        tell(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _asked.clear()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def asked_to_stop() -> str | None:
    """Return the name of the signal that asked this process's trainings to stop; None if none did."""
    return _asked[0].name if _asked else None


def halted(why: str) -> str:
    """Return the sentence with which a study ends that a signal stopped."""
    return f"{why} stopped the study; trainings made a checkpoint. Run the same command again to go on from there."
