"""Worker processes: each keeps a workbench (base weights, token ids) and takes one trial at a time."""

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from types import ModuleType
from typing import Any

from supertickets.lab.in_process import run_job
from supertickets.lab.jobs import Job, Message, NextJob, Send
from supertickets.lab.memory import keep_freed_memory
from supertickets.lab.stopping import asked_to_stop, halted, heeding

SPAWN = mp.get_context("spawn")  # fork would copy a process whose torch has threads


@cache
def _context(device: str) -> SpawnContext | ForkServerContext:
    """Return how a worker of a device starts.

    On a CPU it is a copy of a process that has imported what all workers need and computes nothing itself: a further
    worker starts at once and shares the libraries' memory. Where a library may have asked for GPUs, no copy could use
    them; on macOS, system libraries do not survive copying.
    """
    if sys.platform != "linux" or device not in ("auto", "cpu"):  # `auto` names no GPU: see `Machine.devices`
        return SPAWN
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["supertickets.lab.workbench"])
    return context


def _serve(jobs: Connection, options: dict[str, Any], environ: dict[str, str]) -> None:
    """A worker's life: take a job, run it, tell. It ends when its pipe does, with the parent or as it wishes.

    A signal that asks to stop ends it after its job. `environ` are the parent's variables, which may have changed since
    the process that this one is a copy of began.
    """
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    with heeding(), suppress(EOFError, BrokenPipeError):
        from supertickets.lab.workbench import Workbench

        bench = Workbench(**options)
        while asked_to_stop() is None:
            run_job(bench, jobs.recv(), jobs.send)


def _end_with_parent() -> None:
    """End this process when its parent ends, however that happens: another study may use the folder then."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def no_main() -> Iterator[None]:
    """Let a new process start without running the user's script again, which need not be guarded against that."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let a new process start with Ctrl-C blocked, from its first instruction on: it is this process's to handle."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it comes with the first process, and when it starts it lets Ctrl-C in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        context = _context(options["device"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, options, dict(os.environ)), daemon=True)
        with no_main():
            if isinstance(context, ForkServerContext):
                with _deaf_to_ctrl_c():
                    forkserver.ensure_running()  # copies of it are deaf, too; waiting for them is not
                self.process.start()
            else:
                with _deaf_to_ctrl_c():
                    self.process.start()
        theirs.close()
        self.job: Job | None = None

    def start(self, job: Job) -> None:
        self.job = job
        self.pipe.send(job)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


class WorkerPool:
    """Runs jobs in processes, one for each entry of `devices`.

    A worker that dies takes one try of one trial with it and is replaced. A signal that asks to stop goes to all.
    """

    def __init__(self, devices: Sequence[str], options: dict[str, Any]) -> None:
        self._workers = [_Worker({**options, "device": device}) for device in devices]
        self.side_by_side = len(devices)

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left, or a signal asks to stop.

        `next_job` is asked whenever a worker is free.
        """
        with heeding(self._tell):
            self._run(next_job, send)
            if (why := asked_to_stop()) is not None:
                send(("halt", "", halted(why)))

    def _run(self, next_job: NextJob, send: Send) -> None:
        while True:
            for i, worker in enumerate(self._workers):
                if worker.job is None and asked_to_stop() is None and (job := next_job()) is not None:
                    if not worker.process.is_alive():
                        self._workers[i] = worker = _Worker(worker.options)
                    with suppress(BrokenPipeError):  # it died just now: its pipe's end will say so
                        worker.start(job)
                    send(("started", job.trial.key, None))
            busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                send(self._receive(busy[pipe]))  # type: ignore[index]

    def _receive(self, worker: _Worker) -> Message:
        assert worker.job is not None
        key = worker.job.trial.key
        try:
            message: Message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=5)
            code = worker.process.exitcode
            self._workers[self._workers.index(worker)] = _Worker(worker.options)
            return ("failed", key, f"the worker process died (exit code {code})")
        if message[0] != "progress":
            worker.job = None
        if message[0] == "stopped" and asked_to_stop() is None:  # the signal was for this worker, which ends
            worker.stop()
            self._workers[self._workers.index(worker)] = _Worker(worker.options)
        return message

    def _tell(self, number: int) -> None:
        """Send a signal to all workers; one that has just got a job, too."""
        for pid in [worker.process.pid for worker in self._workers]:
            if pid is not None:
                with suppress(OSError):
                    os.kill(pid, number)

    def close(self) -> None:
        """End all workers, busy ones too."""
        for worker in self._workers:
            worker.stop()
