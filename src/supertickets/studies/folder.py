"""Looking into a study's folder from outside: how far it is, what it takes up, what may go."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from supertickets.evidence.record import Subject, load_subjects
from supertickets.lab.lock import hold, holder
from supertickets.lab.outcome import CHECKPOINT, OUTCOME, WEIGHTS, load_outcome
from supertickets.lab.progress import PROGRESS
from supertickets.storage import is_left_over, user_path
from supertickets.studies.adapt import AdaptStudy
from supertickets.studies.compare import CompareStudy
from supertickets.studies.config import settings_of
from supertickets.studies.find import FindStudy
from supertickets.studies.imp import ImpStudy
from supertickets.studies.pretrain import PretrainStudy
from supertickets.studies.settings import AdaptSettings, CompareSettings, FindSettings, ShareSettings
from supertickets.studies.settings_weights import ImpSettings, PretrainSettings, TransferSettings
from supertickets.studies.share import FOUND, ShareStudy
from supertickets.studies.study import RESULTS, Study, Walk, walk
from supertickets.studies.transfer import TransferStudy
from supertickets.tickets.folder import MODEL_FOLDER


def status(folder: Path) -> dict[str, Any]:
    """Return how far a study is; raises TicketError if the folder holds none.

    `state` is running, finished or stopped; `trials` has `total`, `done` and `failed` (names and reasons under
    `failures`); while it runs, `running`, `seconds_left` and `holder` tell more. `first` are the folders of studies
    that this one needs the results of and has not got yet. `bytes` is what the folder takes up.
    """
    folder = user_path(folder)
    settings = settings_of(folder)
    who = holder(folder)
    study = open_study(folder)
    seen = walk(study) if study is not None else Walk({}, {}, [], [])
    names = study.names() if study is not None else {}
    ended = study is not None and not seen.waiting and (folder / RESULTS).is_file()
    done, failed = len(seen.outcomes), len(seen.failures)
    found: dict[str, Any] = {
        "folder": str(folder),
        "title": settings.title,
        "model": settings.model,
        "state": "running" if who else "finished" if ended else "stopped",
        "total": done + failed if ended else study.total() if study is not None else 0,
        "done": done,
        "failed": failed,
        "failures": {names[key]: reason.strip().splitlines()[-1] for key, reason in seen.failures.items()},
        "first": sorted(map(str, folder.glob(f"{FOUND}/*"))) if study is None else [],
        "running": [],
        "seconds_left": None,
        "holder": who,
        "bytes": disk_use(folder),
    }
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
    has not shipped its super ticket, all trained weights stay; of one of `share`, the shared models', which later
    studies start from. Raises TicketError if the folder holds no study or is in use.
    """
    folder = user_path(folder)
    settings = settings_of(folder)
    with hold(folder):
        before = disk_use(folder)
        trials = [path.parent for path in (folder / "trials").glob(f"*/{OUTCOME}")]
        gone = [trial / CHECKPOINT for trial in trials]
        gone += [path for path in folder.glob("trials/*/.*") if is_left_over(path)]
        if not isinstance(settings, FindSettings) or (folder / "super-ticket" / MODEL_FOLDER).is_dir():
            gone += [trial / WEIGHTS for trial in trials if not _is_shared(trial)]
        gone = [path for path in gone if path.is_file()]
        freed = sum(path.stat().st_size for path in gone)
        if not dry:
            for path in gone:
                path.unlink()
    return {"folder": str(folder), "files": [str(path) for path in gone], "freed": freed, "bytes": before - freed}


def _is_shared(trial: Path) -> bool:
    """Whether a trial's model is of several tasks."""
    outcome = load_outcome(trial)
    return outcome is not None and len(outcome.trial.tasks) > 1


def open_study(folder: Path) -> Study | None:
    """Return the study in a folder, to walk through what it remembers; None if it stopped before it began."""
    settings, subjects = settings_of(folder), load_subjects(folder)
    return _STUDIES[settings.study](settings, subjects) if subjects else None


_STUDIES: dict[str, Callable[[Any, Sequence[Subject]], Study | None]] = {
    FindSettings.study: FindStudy,
    CompareSettings.study: CompareStudy,
    ShareSettings.study: ShareStudy.remembered,
    AdaptSettings.study: AdaptStudy.remembered,
    ImpSettings.study: ImpStudy,
    PretrainSettings.study: PretrainStudy,
    TransferSettings.study: TransferStudy.remembered,
}
