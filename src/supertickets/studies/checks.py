"""Checks before a study's first training, so that misuse is reported before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from supertickets.anatomy import FAMILIES
from supertickets.errors import TicketError
from supertickets.evidence.runs import RESULTS, TaskInfo, load_tasks
from supertickets.lab.machine import RUNNERS, check_training_device
from supertickets.lab.on_slurm import check_no_jobs
from supertickets.lab.tracking import check_trackers
from supertickets.models import BaseModel
from supertickets.studies.config import EXAMPLES, SETTINGS_FILE, S, check_same, differences, load_settings, named_by
from supertickets.studies.settings import StudySettings
from supertickets.studies.study import Loaded
from supertickets.tasks.description import describe


def check_runner(settings: StudySettings) -> None:
    """Raise TicketError unless trainings can run and be tracked as asked for."""
    check_trackers(settings.track)
    check = getattr(RUNNERS[settings.backend], "check", None)
    if check is not None:
        check(settings.address)
    if settings.backend != "slurm":
        check_no_jobs(settings.folder, settings.backend)
    check_training_device(settings.device, settings.backend)


def check_tasks(
    settings: StudySettings, base: BaseModel, tasks: Loaded, lengths: Sequence[int] | None = None
) -> list[TaskInfo]:
    """Return what a study is about, and what was understood of its base model and data.

    `lengths` are the tasks' maximum input lengths, where each has its own.
    Raises TicketError where the model's files do not fit together, for a task that cannot be trained or scored, and for
    two that are one and the same.
    """
    infos, seen = [TaskInfo.of(base, source, task) for source, task in tasks.items()], dict[str, str]()
    for info in infos:
        if len(info.targets) < 2:
            raise TicketError(f"task {info.task!r} has one dev example; expected at least two.")
        if info.data_hash in seen:
            raise TicketError(f"tasks {seen[info.data_hash]!r} and {info.task!r} have the same examples.")
        seen[info.data_hash] = info.task
    if (known := _understood(settings.folder, infos)) is not None:
        return known
    from supertickets.models import ModelSource
    from supertickets.models.tokenizer import check_ends, check_rows
    from supertickets.training.objectives import check_task, describe_tokens

    model, found = ModelSource(base), list[TaskInfo]()
    for info, task, length in zip(infos, tasks.values(), lengths or [settings.max_length] * len(infos), strict=True):
        check_ends(base.name, base.folder, model.tokenizer, task)
        check_rows(base.name, base.folder, model.tokenizer, task)
        model.check(task.form, task.outputs)
        if task.standardised and not model.has_bias(task.form, task.outputs):
            raise TicketError(
                f"task {task.name!r}: its targets are standardized, and the output layer of model {base.name!r} "
                f"({base.config['model_type']}) has no bias by which it would predict them in their own units; use an "
                "encoder such as bert-base-uncased."
            )
        plain = getattr(settings, "score_attention", "fused") == "plain"
        if plain and not model.has_fused_attention(task.form, task.outputs):
            raise TicketError(
                f"--score-attention plain: model {base.name!r} ({base.config['model_type']}) computes attention "
                "without torch's kernel, so that this changes nothing; leave it out."
            )
        check_task(task, model.tokenizer, length)
        said = describe(task) + describe_tokens(task, model.tokenizer, length)
        found.append(replace(info, description=said))
    return [replace(info, notices=tuple(model.notices)) for info in found]


def _understood(folder: Path, infos: Sequence[TaskInfo]) -> list[TaskInfo] | None:
    """Return what a study that has ended in a folder understood of the same model and data, None if there is none.

    To load and run the model again would take most of the time in which a finished study is opened.
    """
    if not (folder / RESULTS).is_file():
        return None
    there: tuple[TaskInfo, ...] = ()
    with suppress(TicketError):  # a damaged one is written anew
        there = load_tasks(folder)
    if [one.identity for one in there] != [one.identity for one in infos]:
        return None
    return [
        replace(info, description=one.description, notices=one.notices) for info, one in zip(infos, there, strict=True)
    ]


def check_folder(settings: S, infos: Sequence[TaskInfo], weights: bool = True) -> S:
    """Return settings whose precision is settled; raises TicketError if the output folder is that of another study.

    Without `weights`, the model's weights may differ: they are yet to be trained.
    """
    folder = settings.folder
    check_place(folder)
    with named_by("--out"):
        before = load_settings(folder)
    if before is None and folder.exists() and [path for path in folder.iterdir() if not path.name.startswith(".")]:
        raise TicketError(f"--out {folder}: the folder is not empty and has no {SETTINGS_FILE}; choose another folder.")
    settled = settings.model_copy(update={"precision": settle_precision(settings, before, infos[0].model_type)})
    if before is None:
        return settled
    there: tuple[TaskInfo, ...] = ()
    with suppress(TicketError):  # a damaged one is written anew
        there = load_tasks(folder)
    check_same(settled, before, hashed=bool(there))
    hashes = [("examples", "data_hash", EXAMPLES)]
    if weights:
        of_model = frozenset({"model"})
        hashes += [("weights", "weight_hash", of_model), ("model files", "files_hash", of_model)]
    for what, attribute, named in hashes:
        if there and [getattr(one, attribute) for one in there] != [getattr(one, attribute) for one in infos]:
            said = differences(settled, before, named)
            said = f" ({said})" if said else ""
            raise TicketError(f"--out {folder}: this folder's study has different {what}{said}; choose another folder.")
    return settled


def check_place(path: Path, file: bool = False) -> None:
    """Raise TicketError unless a folder (or a `file`) is there or can be made; writes nothing."""
    if path.exists() and path.is_dir() == file:
        wrong, right = ("folder", "file") if file else ("file", "folder")
        raise TicketError(f"--out {path}: that is a {wrong}; expected a {right}, or a name for a new one.")
    above = next(up for up in (path.absolute(), *path.absolute().parents) if up.exists() or up.is_symlink())
    if above != path.absolute() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise TicketError(
            f"--out {path}: cannot be created, since {above} is not a writable folder; choose another one."
        )


def settle_precision(settings: StudySettings, before: StudySettings | None, model_type: str) -> str:
    """Return the precision to use: a folder's recorded one goes on, so that a study is never of two.

    Raises TicketError for one that the model's architecture does not compute in.
    """
    if settings.precision == "bfloat16" and not FAMILIES[model_type].in_bfloat16:
        raise TicketError(
            f"--precision bfloat16: the classes of transformers for model_type {model_type!r} do not compute in it; "
            "use float32, which auto chooses for them."
        )
    if settings.precision != "auto":
        return settings.precision
    if not FAMILIES[model_type].in_bfloat16:
        return "float32"
    if before is not None:
        return before.precision
    from supertickets.training.devices import choose_precision, find_device

    return choose_precision("auto", find_device(settings.device))
