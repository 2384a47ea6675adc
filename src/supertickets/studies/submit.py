"""The test sets: super tickets' predictions as a GLUE submission (paper, Table 2)."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError
from supertickets.lab.machine import check_device
from supertickets.storage import user_path
from supertickets.studies.config import settings_of
from supertickets.studies.presets import task_name
from supertickets.studies.settings import FindSettings
from supertickets.studies.study import check_place
from supertickets.tasks.glue import GLUE, load_test_texts
from supertickets.tasks.submission import FILES, TestFile, write_submission
from supertickets.tickets.folder import MODEL_FOLDER


@dataclass(frozen=True)
class Submission:
    """What `submit` leaves: the zip, the files that a model predicted, and those that were filled."""

    path: Path
    predicted: tuple[str, ...]
    filled: tuple[str, ...]


def submit(
    folders: Sequence[Path | str],
    data: Path | str | None = None,
    out: Path | str = "submission.zip",
    fill: bool = False,
    device: str = "auto",
) -> Submission:
    """Predict GLUE's test sets with the super tickets of finished studies, and write a checked submission.

    `data` is the folder of GLUE's files; without it, each study's own. GLUE takes all eleven files or none: `fill`
    writes one and the same label for those that no study or no test file is there for. Raises TicketError before
    anything is written.
    """
    studies, path = _by_task([user_path(folder) for folder in folders]), user_path(out)
    check_place(path, file=True)
    if path.exists() and not zipfile.is_zipfile(path):
        raise TicketError(f"--out {path}: that file is no zip file, so no earlier submission; choose another name.")
    check_device(device)
    texts: dict[str, tuple[list[str], list[str] | None]] = {}
    why: dict[str, str] = {}
    for name, file in FILES.items():
        if file.task not in studies:
            why[name] = f"no study of {file.task}"
            continue
        source = user_path(data) if data is not None else studies[file.task][1].data
        if source is not None and not source.is_dir():
            raise TicketError(f"--data {source}: no such folder.")
        found = load_test_texts(file.task, file.sources, file.hub, source)
        if found is None:
            why[name] = f"no {' or '.join(file.sources)} in {source}"
        elif len(found[0]) != file.rows:
            raise TicketError(f"{name}: its test file has {len(found[0])} examples, GLUE's has {file.rows}.")
        else:
            texts[name] = found
    if why and not fill:
        said = "; ".join(f"{name} ({reason})" for name, reason in why.items())
        raise TicketError(f"GLUE takes all {len(FILES)} files; missing are {said}. Add them, or --fill them.")
    predictions = {name: _predicted(FILES[name], *studies[FILES[name].task], texts[name], device) for name in texts}
    constant = {name: [FILES[name].labels[0] if FILES[name].labels else "0.0"] * FILES[name].rows for name in why}
    write_submission(path, {**predictions, **constant})
    return Submission(path, tuple(predictions), tuple(constant))


def _by_task(folders: Sequence[Path]) -> Mapping[str, tuple[Path, FindSettings]]:
    """Return studies by GLUE task; raises TicketError for what is no finished study of one."""
    studies: dict[str, tuple[Path, FindSettings]] = {}
    for folder in folders:
        settings = settings_of(folder)
        task = task_name(settings.task) if isinstance(settings, FindSettings) else ""
        if not isinstance(settings, FindSettings) or settings.train_file is not None or task not in GLUE:
            raise TicketError(
                f"{folder}: expected a study of `find` on a GLUE task, this is one of `{settings.study}`: "
                f"{settings.title}."
            )
        if not (folder / "super-ticket" / MODEL_FOLDER).is_dir():
            raise TicketError(f"{folder}: there is no super ticket's model in it; run `supertickets find` to its end.")
        if task in studies:
            raise TicketError(f"{folder}: {studies[task][0]} is a study of {task} too; name one for each task.")
        studies[task] = folder, settings
    return studies


def _predicted(
    file: TestFile, folder: Path, settings: FindSettings, texts: tuple[list[str], list[str] | None], device: str
) -> list[str]:
    from supertickets.export.predict import predict

    model = folder / "super-ticket" / MODEL_FOLDER
    outputs = predict(model, *texts, settings.max_length, settings.recipe.precision, device)
    if not file.labels:
        return [f"{value:.4f}" for value in np.clip(outputs[:, 0], 0.0, 5.0)]
    return [file.labels[index] for index in outputs.argmax(axis=1)]
