"""Looking into a study's folder from outside: how far it is, what it takes up, what may go."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from supertickets.lab.lab import replay
from supertickets.lab.lock import hold, holder
from supertickets.lab.outcome import BORROWED, CHECKPOINT, OUTCOME, PARTIAL, PARTIAL_PREDICTIONS, WEIGHTS, load_outcome
from supertickets.lab.progress import PROGRESS
from supertickets.lab.slurm_job import may_run, unfinished
from supertickets.storage import is_left_over
from supertickets.studies.inputs import open_study
from supertickets.studies.run import RESULTS, runs_of


def status(folder: Path) -> dict[str, Any]:
    """Return how far a study is; raises TicketError if the folder holds none.

    `state` is running, finished or stopped; `total` and `done` count trainings, and `failed` those that failed (names
    and reasons are under `failures`); while it runs, `running`, `seconds_left` and `holder` tell more. `bytes` is what
    the folder takes up, `standing` a sentence on what is known so far (of a search), `jobs` the ids of Slurm jobs that
    have not told their end.
    """
    study = open_study(folder)
    folder, who = study.folder, holder(study.folder)
    steps = study.study.steps(study.settings, study.tasks) if study.begun else []
    execution = replay(steps, folder)
    done = {run.order.id for run in execution.runs if run.came and not run.step.evaluates}
    failures = {str(run.step): run.failure for run in execution.runs if run.failure is not None}
    failed = len({run.trial.key for run in execution.runs if run.failure is not None and run.trial is not None})
    ended = study.begun and execution.complete and (folder / RESULTS).is_file()
    found: dict[str, Any] = {
        "folder": str(folder),
        "title": study.settings.title,
        "model": study.settings.called,
        "state": "running" if who else "finished" if ended else "stopped",
        "total": execution.total,
        "done": len(done),
        "failed": failed,
        "failures": {name: reason.strip().splitlines()[-1] for name, reason in failures.items()},
        "running": [],
        "seconds_left": None,
        "holder": who,
        "bytes": disk_use(folder),
        "standing": "",
        "jobs": [record["id"] for record in unfinished(folder) if record["id"] is not None],
    }
    if study.begun:
        runs = runs_of(study.study, study.settings, study.tasks, execution)
        found["standing"] = study.study.standing(runs, study.settings)
    if who:
        with suppress(FileNotFoundError):  # it has just begun, or just ended
            found |= json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return found


def disk_use(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a running study renames and deletes
            total += path.stat().st_size if path.is_file() else 0
    return total


def clean(folder: Path, dry: bool = False) -> dict[str, Any]:
    """Delete what no later step needs, and return what went: trained weights and checkpoints of finished trials,
    and files that a killed process had begun.

    The super ticket's model stays in `super-ticket/model`; metrics, predictions and scores all stay. Of a study that
    is not finished, or has not shipped its super ticket, all trained weights stay; of one of `share`, the shared
    models', which later studies start from. What a Slurm job may be at work on is left alone. Raises TicketError if the
    folder holds no study or is in use.
    """
    study = open_study(folder)
    folder = study.folder
    with hold(folder):
        before = disk_use(folder)
        trials = [path.parent for path in (folder / "trials").glob(f"*/{OUTCOME}")]
        gone = [trial / name for trial in trials for name in (CHECKPOINT, PARTIAL, PARTIAL_PREDICTIONS)]
        complete = study.begun and study.replay().complete
        if complete:  # trainings that a search has stopped
            gone += [path for path in folder.glob(f"trials/*/{CHECKPOINT}") if path not in gone]
        gone += [path for path in folder.glob("trials/*/.*") if is_left_over(path)]
        if complete and study.study.has_shipped(folder):
            gone += [trial / name for trial in trials if not _is_shared(trial) for name in (WEIGHTS, BORROWED)]
        gone = [path for path in gone if path.is_file() and not may_run(path.parent)]
        freed = sum(path.stat().st_size for path in gone)
        if not dry:
            for path in gone:
                path.unlink()
    return {"folder": str(folder), "files": [str(path) for path in gone], "freed": freed, "bytes": before - freed}


def _is_shared(trial: Path) -> bool:
    """Whether a trial's model is of several tasks."""
    outcome = load_outcome(trial)
    return outcome is not None and len(outcome.trial.tasks) > 1
