"""Trials on Slurm: each is a job, submitted by submitit. The study's folder is on a disk that the nodes share.

What is submitted is the name of a function and two texts (`lab.slurm_job.run`): submitit pickles that, and the
function's empty result. All else goes through JSON files. The function trains in submitit's own process, since a signal
that asks for a checkpoint must reach what trains.

This process alone decides what is submitted again (jobs are not requeued by Slurm), so that a trial is trained in one
place at a time. It may be killed: jobs run on, and it finds them again by the names in their files.
"""

import json
import math
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.errors import NoSpaceError, StudyError, TicketError, needs
from supertickets.lab.jobs import Job, Message, NextJob, Send
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import OUTCOME, PARTIAL
from supertickets.lab.slurm_job import (
    ENDED,
    JOB,
    PROGRESS,
    is_over,
    load_job,
    place_of,
    record_of,
    run,
    told,
    unfinished,
)
from supertickets.lab.slurm_options import sbatch_options
from supertickets.storage import write_atomically

_POLL = 2.0  # seconds between two looks at the files of jobs
_ASK = 30.0  # seconds between two questions to Slurm
_SIGNAL = 90  # seconds before the time limit
_TO_END = 180.0  # seconds that Slurm has to say why it stopped a job
_TO_ARRIVE = 60.0  # seconds that a shared disk has to show what a job has written
_LINES = 20  # of a log
_COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel")
_UNSURE = ("", "UNKNOWN", "SUSPENDED")  # sacct keeps no account here; submitit does not ask again of suspended jobs
_LIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "RESIZING", "READY", *_UNSURE)


def require_submitit() -> Any:
    """Return the submitit module; raises TicketError, saying what to install, if there is none."""
    needs("slurm", "--backend slurm")
    import submitit

    return submitit


def queued(name: str) -> str | None:
    """Return the id of the job of this name that waits or runs; None if there is none.

    Raises StudyError if Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--name", name, "--format", "%A"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise StudyError(f"whether earlier jobs still run is not known, as squeue failed: {said}") from error
    return next(iter(done.stdout.split()), None)


def check_no_jobs(folder: Path, backend: str) -> None:
    """Raise TicketError if jobs of the study in a folder still run on Slurm, where another backend is asked for."""
    if shutil.which("squeue") is None:
        return
    ids = [id for record in unfinished(folder) if (id := queued(record["name"])) is not None]
    if ids:
        shown = " ".join(ids)
        raise TicketError(
            f"--backend {backend}: jobs of this study are on Slurm ({shown}); use --backend slurm, or cancel them with "
            f"`scancel {shown}`."
        )


@dataclass
class _Running:
    """A job that was submitted: submitit's handle of it, and what it has told until now."""

    job: Job
    place: Path
    record: dict[str, Any]
    handle: Any
    started: bool = False
    event: Any = None
    gone: int = 0  # how often Slurm said that it has ended, while it had told nothing
    since: float | None = None  # when it was first seen to have told its end

    @property
    def key(self) -> str:
        return self.job.trial.key


class SlurmRunner:
    """Runs jobs on Slurm, `workers` at a time. A trial takes the machine's `cpus_each`, `gpus` and `memory`.

    Raises TicketError if submitit is not installed.
    """

    cluster = "slurm"

    def __init__(self, machine: Machine) -> None:
        self._submitit = require_submitit()
        self._machine = machine
        self.side_by_side = machine.side_by_side or 1
        self._running: dict[str, _Running] = {}
        self._waits: Job | None = None  # one that Slurm did not take, while others run
        self._asked = self._refused = -_ASK  # when Slurm was asked, and when it did not take a job

    @staticmethod
    def check(address: str | None) -> None:
        """Raise TicketError unless there are submitit and Slurm's commands."""
        require_submitit()
        missing = [name for name in _COMMANDS if shutil.which(name) is None]
        if missing:
            raise TicketError(
                f"--backend slurm: `{missing[0]}` is not in PATH; run supertickets where jobs are submitted to Slurm, "
                "or use --backend local."
            )

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left."""
        while True:
            self._fill(next_job, send)
            if not self._running:
                return
            time.sleep(_POLL)
            self._look(send)

    def close(self) -> None:
        """Cancel what still runs; Slurm's SIGTERM makes it leave a checkpoint."""
        for one in self._running.values():
            with suppress(NoSpaceError, OSError):  # a full disk may be why the study ends
                _write(one.place, one.record | {"cancelled": True})
            one.handle.cancel(check=False)
        self._running.clear()

    def _fill(self, next_job: NextJob, send: Send) -> None:
        while len(self._running) < self.side_by_side:
            if self._waits and self._running and time.monotonic() - self._refused < _ASK:
                return
            job, self._waits = self._waits or next_job(), None
            if job is None:
                return
            try:
                one = self._begun(job)
            except (RuntimeError, OSError) as error:  # what submitit raises for what sbatch says
                if isinstance(error, StudyError):
                    raise
                if not self._running:
                    send(("halt", job.trial.key, f"Slurm did not take a job: {_last(str(error))}"))
                    return
                self._waits, self._refused = job, time.monotonic()  # a limit of jobs, say
                return
            self._running[one.key] = one

    def _begun(self, job: Job) -> _Running:
        """Return a trial's job that still runs, or else submit one."""
        place = place_of(job.folder)
        record = load_job(place)
        if not is_over(place, record) and (id := self._queued(record["name"])) is not None:
            _write(place, record := record | {"id": id})
            folder = place.parent.parent.resolve() / "%j"
            return _Running(job, place, record, self._submitit.SlurmJob(folder=folder, job_id=id))
        record = record_of(job, {**self._machine.options, "device": self._machine.device}, secrets.token_hex(8))
        for name in (PROGRESS, ENDED):
            (place / name).unlink(missing_ok=True)
        _write(place, record)
        try:
            with self._submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
                handle = self._executor(place.parent.parent, record["name"]).submit(
                    run, str(place.resolve()), record["token"]
                )
        except (RuntimeError, OSError):
            (place / JOB).unlink()
            raise
        _write(place, record := record | {"id": handle.job_id})
        return _Running(job, place, record, handle)

    def _has_left(self, name: str) -> bool:
        """Return whether a job is in the queue no more, as far as Slurm answers."""
        with suppress(StudyError):
            return self.cluster == "slurm" and queued(name) is None
        return False

    def _queued(self, name: str) -> str | None:
        return queued(name) if self.cluster == "slurm" else None

    def _executor(self, folder: Path, name: str) -> Any:
        machine = self._machine
        more = {"signal": f"USR1@{_SIGNAL}", "no-requeue": True, **sbatch_options(machine.slurm)}
        executor = self._submitit.AutoExecutor(folder / "%j", cluster=self.cluster)
        executor.update_parameters(
            name=name,
            timeout_min=math.ceil(machine.time_limit),
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=max(1, math.ceil(machine.cpus_each)),
            gpus_per_node=math.ceil(machine.gpus) or None,
            mem_gb=machine.memory,
            stderr_to_stdout=True,
            slurm_partition=machine.partition,
            slurm_additional_parameters=more,
        )
        return executor

    def _look(self, send: Send) -> None:
        """Pass on what jobs have told, and see to those that have ended."""
        ask = time.monotonic() - self._asked >= _ASK
        for one in list(self._running.values()):
            ended = told(one.place, ENDED, one.record["token"])
            if not ended:
                self._progress(one, send)
            elif one.since is None:
                one.since = time.monotonic()
            if ended and (ended["what"], ended["detail"]) != ("stopped", "SIGTERM"):
                if _has_arrived(one, ended["what"]):
                    self._end(one, (ended["what"], one.key, ended["detail"]), send)
            elif ask:  # one question is about all jobs
                state = _state(one.handle, "force" if time.monotonic() - self._asked >= _ASK else "cache")
                self._asked = time.monotonic()
                if state in _UNSURE and self._has_left(one.record["name"]):
                    state = "GONE"
                self._judge(one, state, bool(ended), send)

    def _judge(self, one: _Running, state: str, stopped: bool, send: Send) -> None:
        """End a job that Slurm has ended: stopped by SIGTERM, or without a word."""
        if stopped and one.since is not None:
            if state in _LIVE and time.monotonic() - one.since < _TO_END:
                return
        elif state in _LIVE:
            one.gone = 0
            return
        else:
            one.gone += 1
            if one.gone < 2:  # its last message may be on its way through the shared disk
                return
        if one.record.get("cancelled") or (stopped and state != "CANCELLED"):
            self._end(one, ("stopped", one.key, "SIGTERM"), send)
            return
        what, why = explain(state, one.record["id"], self._machine, log_end(one.handle))
        self._end(one, (what, one.key, why), send)

    def _progress(self, one: _Running, send: Send) -> None:
        said = told(one.place, PROGRESS, one.record["token"])
        if said and not one.started:
            one.started = True
            send(("started", one.key, None))
        if said.get("event") not in (None, one.event):
            one.event = said["event"]
            send(("progress", one.key, one.event))

    def _end(self, one: _Running, message: Message, send: Send) -> None:
        del self._running[one.key]
        _write(one.place, one.record | {"over": message[0]})
        if message[0] == "partial" and one.record["until"] != one.job.until:
            # It was submitted before the study was asked for more than this part, and goes on from there.
            message = ("stopped", one.key, "it had been asked for a part of its steps")
        send(message)


def _has_arrived(one: _Running, what: str) -> bool:
    """Return whether what a job has left is there to be read, or too long on its way."""
    name = {"done": OUTCOME, "partial": PARTIAL}.get(what)
    late = one.since is not None and time.monotonic() - one.since >= _TO_ARRIVE
    return late or name is None or (one.job.folder / name).is_file()


def explain(state: str, id: str, machine: Machine, log: Sequence[str]) -> tuple[str, str]:
    """Return what a job's end means for its trial, as the first and the last part of a message (see `lab.jobs`).

    `state` is what Slurm says of a job that has told nothing; `log` the last lines that it wrote.
    """
    if state == "PREEMPTED":
        return "stopped", "PREEMPTED"
    if state == "CANCELLED":
        return "refused", f"Slurm job {id} was cancelled (CANCELLED); run the same command again to train it again."
    memory = "the cluster's default" if machine.memory is None else f"{machine.memory:g} GB"
    sentences = {
        "OUT_OF_MEMORY": f"Slurm killed job {id} for memory (OUT_OF_MEMORY); it had {memory}: give --memory more.",
        "TIMEOUT": f"Slurm ended job {id} at its time limit (TIMEOUT) of {machine.time_limit:g} minutes, {_SIGNAL} "
        "seconds after it was asked for a checkpoint, and there was none: give --time-limit more.",
        "NODE_FAIL": f"Slurm job {id} lost its node (NODE_FAIL).",
    }
    if state in sentences:
        return "failed", "\n".join([*log, sentences[state]])
    said = [f"Slurm job {id} ended ({state}) without a result; its log ends with:", *log]
    return "failed", "\n".join(said if log else [f"Slurm job {id} ended ({state}) without a result or a log."])


def log_end(handle: Any) -> list[str]:
    """Return the last lines of a job's log."""
    try:
        text: str = handle.paths.stdout.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rstrip().splitlines()[-_LINES:]


def _state(handle: Any, mode: str) -> str:
    """Return the first word of what Slurm says of a job (`CANCELLED by 1000`)."""
    said = handle.get_info(mode=mode)
    state = str(said.get("State") or said.get("jobState") or "")  # of Slurm, and of submitit's own local jobs
    return next(iter(state.upper().replace("+", " ").split()), "")


def _last(text: str) -> str:
    return next(iter(text.strip().splitlines()[-1:]), "no reason was given")


def _write(place: Path, record: dict[str, Any]) -> None:
    write_atomically(place / JOB, json.dumps(record, indent=1))
