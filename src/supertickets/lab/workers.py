"""Worker processes that run trials: each keeps a workbench, takes one trial at a time and reports progress."""

import multiprocessing as mp
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError
from supertickets.lab.trial import Trial

Job = tuple[Trial, Path, bool]
"""A trial, its folder, and whether its weights are kept."""
Message = tuple[str, str, Any]
"""(what, trial key, detail): `started` and `done` with None, `progress` with a report, `failed` with a text."""
NextJob = Callable[[], Job | None]
Send = Callable[[Message], None]

_REPORT_EVERY = 0.3  # seconds between two progress messages of a worker
_SPAWN = mp.get_context("spawn")  # fork would copy a process whose torch has threads


def run_job(bench: Any, job: Job, send: Send) -> None:
    """Run a job on a workbench and send what there is to tell; a failure is sent, not raised."""
    trial, folder, keep_weights = job
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY:
            last = time.monotonic()
            send(("progress", trial.key, event))

    try:
        bench.run(trial, folder, keep_weights, report)
    except TicketError as error:
        send(("failed", trial.key, str(error)))
    except Exception:
        send(("failed", trial.key, traceback.format_exc()))
    else:
        send(("done", trial.key, None))


def _serve(jobs: Connection, device: str) -> None:
    """A worker's life: take a job, run it, tell; ends when the parent closes the pipe."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    from supertickets.lab.workbench import Workbench

    bench = Workbench(device)
    with suppress(EOFError, BrokenPipeError):
        while True:
            trial, folder, keep_weights = jobs.recv()
            run_job(bench, (Trial.model_validate_json(trial), folder, keep_weights), jobs.send)


class _Worker:
    def __init__(self, device: str) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, device), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def start(self, job: Job) -> None:
        self.job = job
        self.pipe.send((job[0].model_dump_json(), job[1], job[2]))

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(timeout=0.2)
        self.process.kill()
        self.process.join()


class WorkerPool:
    """Runs jobs in `count` processes. A worker that dies takes its trial's try with it and is replaced."""

    def __init__(self, count: int, device: str) -> None:
        self._device = device
        self._workers = [_Worker(device) for _ in range(count)]

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left; `next_job` is asked whenever a worker is free."""
        while True:
            for worker in self._workers:
                if worker.job is None and (job := next_job()) is not None:
                    worker.start(job)
                    send(("started", job[0].key, None))
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe in ready:
                    send(self._receive(worker))

    def _receive(self, worker: _Worker) -> Message:
        assert worker.job is not None
        key = worker.job[0].key
        try:
            message: Message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=5)
            code = worker.process.exitcode
            self._workers[self._workers.index(worker)] = _Worker(self._device)
            return ("failed", key, f"the worker process died (exit code {code})")
        if message[0] != "progress":
            worker.job = None
        return message

    def close(self) -> None:
        """End all workers, busy ones too."""
        for worker in self._workers:
            worker.stop()


class InProcess:
    """Runs jobs here, one after the other: no processes, the same messages."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._bench: Any = None

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left."""
        while (job := next_job()) is not None:
            if self._bench is None:
                from supertickets.lab.workbench import Workbench

                self._bench = Workbench(self._device)
            send(("started", job[0].key, None))
            run_job(self._bench, job, send)

    def close(self) -> None:
        """Nothing to end."""
