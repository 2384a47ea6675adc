"""A trial as a job of a cluster with a shared disk: its files, all JSON, and what runs on the node.

    DIR/slurm/ROOM/KEY/job.json        what to run, of the trial in DIR/ROOM/KEY; which job of the cluster it is
    DIR/slurm/ROOM/KEY/progress.json   its last report
    DIR/slurm/ROOM/KEY/ended.json      its last message
    DIR/slurm/ID/                      what submitit writes of the job with this id (see `lab.on_slurm`)

A submission has a token of its own, which is in all three files: what another submission left counts for nothing, and a
job that starts when another has taken its place does nothing.
"""

import json
import time
from pathlib import Path
from typing import Any

from supertickets.lab.in_process import run_job
from supertickets.lab.jobs import Job, Message
from supertickets.lab.memory import keep_freed_memory
from supertickets.lab.outcome import forget
from supertickets.lab.stopping import heeding
from supertickets.lab.trial import Trial
from supertickets.storage import read_json, write_atomically

JOBS, JOB, PROGRESS, ENDED = "slurm", "job.json", "progress.json", "ended.json"
SCHEMA = 1
"""Of job.json; one with another is not read."""
_TELL_EVERY = 2.0  # seconds between two writes of progress.json


def place_of(folder: Path) -> Path:
    """Return where the files of a trial's job are, for the trial's own folder."""
    return folder.parent.parent / JOBS / folder.parent.name / folder.name


def record_of(job: Job, options: dict[str, Any], token: str) -> dict[str, Any]:
    """Return what job.json says of a job that is to be submitted, with the options of its workbench."""
    return {
        "schema": SCHEMA,
        "token": token,
        "name": f"supertickets-{token}",
        "id": None,
        "trial": job.trial.model_dump(mode="json"),
        "folder": str(job.folder.resolve()),
        "keep_weights": job.keep_weights,
        "label": job.label,
        "until": job.until,
        "options": options,
    }


def load_job(place: Path) -> dict[str, Any]:
    """Return what job.json says; nothing if there is none, or one of another schema."""
    found = read_json(place / JOB)
    return found if found.get("schema") == SCHEMA and isinstance(found.get("token"), str) else {}


def told(place: Path, name: str, token: str) -> dict[str, Any]:
    """Return what a submission's progress.json or ended.json says; nothing until there is one."""
    found = read_json(place / name)
    return found if found.get("token") == token else {}


def unfinished(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a study's jobs that were submitted and have left no last message, as far as is known."""
    places = [path.parent for path in sorted(folder.glob(f"{JOBS}/*/*/{JOB}"))]
    records = [(place, load_job(place)) for place in places]
    return [record for place, record in records if not is_over(place, record)]


def may_run(folder: Path) -> bool:
    """Return whether a job that was submitted may be at work in a trial's folder, as far as its files say."""
    place = place_of(folder)
    return not is_over(place, load_job(place))


def is_over(place: Path, record: dict[str, Any]) -> bool:
    """Return whether a submission has left a last message, or is known to have ended without; also if there is none."""
    return not record or "over" in record or bool(told(place, ENDED, record["token"]))


def run(place: str, token: str) -> None:
    """Run a job on the node that the cluster chose; this is what is submitted."""
    with heeding():
        record = load_job(here := Path(place))
        if record.get("token") != token:
            print(f"{place}: another job has taken the place of this one; it does nothing.", flush=True)
            return
        keep_freed_memory()
        trial = Trial.model_validate(record["trial"])
        job = Job(trial, Path(record["folder"]), record["keep_weights"], record["label"], record["until"])
        last = 0.0

        def send(message: Message) -> None:
            nonlocal last
            what, _, detail = message
            if what != "progress":
                _tell(here / ENDED, token, what=what, detail=detail)
            elif time.monotonic() - last >= _TELL_EVERY:
                last = time.monotonic()
                _tell(here / PROGRESS, token, event=detail)

        _tell(here / PROGRESS, token, event=None)
        forget(job.folder)
        from supertickets.lab.workbench import Workbench

        run_job(Workbench(**record["options"]), job, send)


def _tell(path: Path, token: str, **said: Any) -> None:
    write_atomically(path, json.dumps({"token": token, **said}))
