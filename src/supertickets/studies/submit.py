"""The test sets: predictions of super tickets, or of dense models, as a GLUE submission (paper, Table 2)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from supertickets.errors import TicketError
from supertickets.evidence.record import Record, load_subjects
from supertickets.evidence.table import DENSE, Role, Row, select_super
from supertickets.evidence.tables import table_2, why_not_averaged
from supertickets.lab.machine import check_device
from supertickets.models import find_model
from supertickets.storage import user_path
from supertickets.studies.config import settings_of
from supertickets.studies.find import FindStudy
from supertickets.studies.presets import task_name
from supertickets.studies.settings import FindSettings
from supertickets.studies.study import RESULTS, check_place, recall, with_weights
from supertickets.tasks import load_task
from supertickets.tasks.glue import GLUE, load_test_texts
from supertickets.tasks.submission import FILES, TestFile, write_submission
from supertickets.tickets.folder import MODEL_FOLDER, load_ticket

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Submission:
    """What `submit` leaves: the zip, the files that a model predicted, and those that were filled.

    `chosen` says which seed's models predict, `table_2` has what the paper printed (see `evidence.tables.table_2`).
    """

    path: Path
    predicted: tuple[str, ...]
    filled: tuple[str, ...]
    chosen: str
    table_2: pd.DataFrame


@dataclass(frozen=True)
class _Found:
    """A finished study of a GLUE task, and each seed's run that could predict: its role and its dev score."""

    study: FindStudy
    record: Record
    by_seed: Mapping[int, tuple[Role, float]]

    @classmethod
    def of(cls, folder: Path, settings: FindSettings, dense: bool) -> _Found:
        """Look into a folder; raises TicketError if its study has not ended, or has no run to predict with."""
        subjects = load_subjects(folder)
        if not subjects or not (folder / RESULTS).is_file():
            raise TicketError(f"{folder}: the study is not finished; run `supertickets find` to its end.")
        study = FindStudy(settings, subjects)
        record = recall(study)
        by_seed: dict[int, tuple[Role, float]] = {}
        for seed in study.seeds:
            runs = record.table[record.table["seed"] == seed]
            if dense:
                runs = runs[(runs["kind"] == DENSE) & (runs["status"] == "finished")]
            best = select_super(runs) if not dense else None if runs.empty else runs.iloc[0]
            if best is not None:
                by_seed[seed] = Role(str(best["kind"]), float(best["level"]), seed), float(best["score"])
        if not by_seed:
            what = "dense training" if dense else "winning ticket above level 0"
            raise TicketError(f"{folder}: no {what} of the study has finished, so there is nothing to predict with.")
        return cls(study, record, by_seed)

    @property
    def best(self) -> int:
        """The seed of its best run."""
        return max(self.by_seed, key=lambda seed: self.by_seed[seed][1])

    def row(self, seed: int) -> Row:
        """Return a seed's run."""
        return self.record.roles[self.by_seed[seed][0]]


def submit(
    folders: Sequence[Path | str],
    data: Path | str | None = None,
    out: Path | str = "submission.zip",
    fill: bool = False,
    device: str = "auto",
    dense: bool = False,
    *,
    quiet: bool = True,
) -> Submission:
    """Predict GLUE's test sets with the super tickets of finished studies, and write a checked submission.

    Where studies share seeds, every task is predicted by the best ticket of one seed, that with the best average of dev
    scores over tasks (paper, appendix A.1.3). `dense` takes dense models in place of tickets, chosen likewise. Weights
    that were not kept are trained again.

    `data` is the folder of GLUE's files; without it, each study's own. GLUE takes all eleven files or none: `fill`
    writes one and the same label for those that no study or no test file is there for. Raises TicketError before
    anything is written.
    """
    settings, path = _by_task([user_path(folder) for folder in folders]), user_path(out)
    check_place(path, file=True)
    if path.exists() and not zipfile.is_zipfile(path):
        raise TicketError(f"--out {path}: that file is no zip file, so no earlier submission; choose another name.")
    check_device(device)
    studies = {task: _Found.of(one.folder, one, dense) for task, one in settings.items()}
    texts: dict[str, tuple[list[str], list[str] | None]] = {}
    why: dict[str, str] = {}
    for name, file in FILES.items():
        if file.task not in studies:
            why[name] = f"no study of {file.task}"
            continue
        source = user_path(data) if data is not None else settings[file.task].data
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
    seeds, chosen = _choose(studies, "dense model" if dense else "super ticket")
    predictions = {}
    with TemporaryDirectory() as place:
        models = {
            task: _model(studies[task], seeds[task], Path(place) / task, quiet)
            for task in dict.fromkeys(FILES[name].task for name in texts)
        }
        for name, found in texts.items():
            task = FILES[name].task
            predictions[name] = _predicted(FILES[name], models[task], settings[task], found, device)
    constant = {name: [FILES[name].labels[0] if FILES[name].labels else "0.0"] * FILES[name].rows for name in why}
    write_submission(path, {**predictions, **constant})
    theirs = table_2([one.record.subject for one in studies.values()])
    return Submission(path, tuple(predictions), tuple(constant), chosen, theirs)


def _by_task(folders: Sequence[Path]) -> dict[str, FindSettings]:
    """Return studies' settings by GLUE task; raises TicketError for what is no study of one."""
    studies: dict[str, FindSettings] = {}
    for folder in folders:
        settings = settings_of(folder)
        task = task_name(settings.task) if isinstance(settings, FindSettings) else ""
        if not isinstance(settings, FindSettings) or settings.train_file is not None or task not in GLUE:
            raise TicketError(
                f"{folder}: expected a study of `find` on a GLUE task, this is one of `{settings.study}`: "
                f"{settings.title}."
            )
        if task in studies:
            raise TicketError(f"{folder}: {studies[task].folder} is a study of {task} too; name one for each task.")
        studies[task] = settings
    return studies


def _choose(studies: Mapping[str, _Found], what: str) -> tuple[dict[str, int], str]:
    """Return the seed whose run predicts each task, and a sentence that says which and why."""
    subjects = [one.record.subject for one in studies.values()]
    shared = sorted(set.intersection(*[set(one.by_seed) for one in studies.values()]))
    averages = {seed: float(np.mean([one.by_seed[seed][1] for one in studies.values()])) for seed in shared}
    alone = ""
    if not shared:
        alone = "The studies have no seed in common"
    elif len({subject.weight_hash for subject in subjects}) > 1:
        alone = "The studies have different base models"
    elif reason := why_not_averaged(subjects, list(studies)):
        alone = reason.rstrip(".")
    if alone:
        seeds = {task: one.best for task, one in studies.items()}
        said = ", ".join(f"{task} seed {seed}" for task, seed in seeds.items())
        return seeds, f"{alone}, so each task is predicted by its own best {what} on the dev set: {said}."
    best = max(shared, key=lambda seed: averages[seed])
    if len(studies) == 1:
        said, score = f"The {what} of seed {best} predicts {next(iter(studies))}", "its dev score"
    else:
        said, score = f"The {what}s of seed {best} predict all {len(studies)} tasks", "their average dev score"
    rest = f"the best of seeds {', '.join(map(str, shared))}" if len(shared) > 1 else "the only seed there is for all"
    return dict.fromkeys(studies, best), f"{said}: {score} is {averages[best]:.2f}, {rest}."


def _model(found: _Found, seed: int, place: Path, quiet: bool) -> Path:
    """Return the folder of a seed's trained model: the one that was shipped, or a new one in `place`."""
    row, settings = found.row(seed), found.study.settings
    assert row.trial is not None
    shipped = settings.folder / "super-ticket"
    with suppress(TicketError):  # none, or a damaged one
        if load_ticket(shipped).origin.get("trial") == row.trial.key and (shipped / MODEL_FOLDER).is_dir():
            return shipped / MODEL_FOLDER
    from supertickets.export.ship import save_trained_model

    base = find_model(settings.model)
    if base.weight_hash != found.record.subject.weight_hash:
        raise TicketError(f"model {settings.model!r} has other weights than when {settings.folder} was made.")
    outcome = with_weights(found.study, row, f"{settings.task}, {row.role}", base, quiet)
    save_trained_model(outcome, base, load_task(settings.source), place)
    return place


def _predicted(
    file: TestFile, model: Path, settings: FindSettings, texts: tuple[list[str], list[str] | None], device: str
) -> list[str]:
    from supertickets.export.predict import predict

    outputs = predict(model, *texts, settings.max_length, settings.recipe.precision, device)
    if not file.labels:
        return [f"{value:.4f}" for value in np.clip(outputs[:, 0], 0.0, 5.0)]
    return [file.labels[index] for index in outputs.argmax(axis=1)]
