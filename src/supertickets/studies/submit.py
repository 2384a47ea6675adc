"""The test sets: predictions of super tickets, or of dense models, as a GLUE submission (paper, Table 2)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.evidence.published import table_2, why_not_averaged
from supertickets.evidence.runs import DENSE, RESULTS, Runs
from supertickets.lab.lab import Lab
from supertickets.lab.lock import hold
from supertickets.lab.machine import check_training_device
from supertickets.lab.steps import Run
from supertickets.models import find_model
from supertickets.storage import user_path
from supertickets.studies.checks import check_place
from supertickets.studies.exchange import is_shipped
from supertickets.studies.find import TICKET, best_run
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.inputs import OpenStudy, open_study
from supertickets.studies.run import machine_of
from supertickets.tasks import load_task, task_name
from supertickets.tasks.glue import GLUE, load_test_texts
from supertickets.tasks.submission import FILES, TestFile, is_submission, write_submission
from supertickets.tickets.folder import MODEL_FOLDER

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Submission:
    """What `submit` leaves: the zip, the files that a model predicted, and those that were filled.

    `chosen` says which seed's models predict, `table_2` has what the paper printed (see `evidence.published.table_2`).
    """

    path: Path
    predicted: tuple[str, ...]
    filled: tuple[str, ...]
    chosen: str
    table_2: pd.DataFrame


@dataclass(frozen=True)
class _Found:
    """A finished study of a GLUE task, and each seed's run that could predict, with its dev score."""

    runs: Runs
    settings: FindSettings
    by_seed: Mapping[int, Run]

    @classmethod
    def of(cls, study: OpenStudy, dense: bool) -> _Found:
        """Look into a study; raises TicketError if it has not ended, or has no run to predict with."""
        settings: Any = study.settings
        if not study.begun or not (study.folder / RESULTS).is_file():
            raise TicketError(f"{study.folder}: the study is not finished; run `supertickets find` to its end.")
        runs = study.replay().only(stage=None)
        seeds = {seed: runs.only(seed=seed) for seed in settings.all_seeds}
        found = {seed: next(iter(of.where(kind=DENSE)), None) if dense else best_run(of) for seed, of in seeds.items()}
        by_seed = {seed: run for seed, run in found.items() if run is not None}
        if not by_seed:
            what = "dense training" if dense else "winning ticket above level 0"
            raise TicketError(
                f"{study.folder}: no {what} of the study has finished, so there is nothing to predict with."
            )
        return cls(runs, settings, by_seed)

    def score(self, seed: int) -> float:
        """The dev score of a seed's run."""
        return self.by_seed[seed].result.score

    @property
    def best(self) -> int:
        """The seed of its best run."""
        return max(self.by_seed, key=self.score)


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
    opened, path = _by_task([user_path(folder) for folder in folders]), user_path(out)
    check_place(path, file=True)
    if path.exists() and not is_submission(path):
        raise TicketError(f"--out {path}: the file exists and is not a submission; choose another name.")
    check_training_device(device)
    studies = {task: _Found.of(one, dense) for task, one in opened.items()}
    texts, why = _test_texts(studies, user_path(data) if data is not None else None)
    if why and not fill:
        said = "; ".join(f"{name} ({reason})" for name, reason in why.items())
        raise TicketError(f"a submission needs all {len(FILES)} files; missing: {said}. Add them, or use --fill.")
    seeds, chosen = _choose(studies, "dense model" if dense else "super ticket")
    predictions = {}
    with TemporaryDirectory() as place:
        models = {
            task: _model(studies[task], seeds[task], Path(place) / task, device, quiet)
            for task in dict.fromkeys(FILES[name].task for name in texts)
        }
        for name, found in texts.items():
            file, settings = FILES[name], studies[FILES[name].task].settings
            predictions[name] = _predicted(file, models[file.task], settings, found, device)
    constant = {name: [FILES[name].labels[0] if FILES[name].labels else "0.0"] * FILES[name].rows for name in why}
    write_submission(path, {**predictions, **constant})
    theirs = table_2([one.runs.task for one in studies.values()])
    return Submission(path, tuple(predictions), tuple(constant), chosen, theirs)


Texts = tuple[list[str], list[str] | None]


def _test_texts(studies: Mapping[str, _Found], data: Path | None) -> tuple[dict[str, Texts], dict[str, str]]:
    """Return the texts of GLUE's test files by the name of the file to predict, and why others are missing."""
    texts: dict[str, Texts] = {}
    why: dict[str, str] = {}
    for name, file in FILES.items():
        if file.task not in studies:
            why[name] = f"no study of {file.task}"
            continue
        source = data if data is not None else studies[file.task].settings.data
        if source is not None and not source.is_dir():
            raise TicketError(f"--data {source}: no such folder.")
        found = load_test_texts(file.task, file.sources, file.hub, source)
        if found is None:
            why[name] = f"no {' or '.join(file.sources)} in {source}"
        elif len(found[0]) != file.rows:
            raise TicketError(f"{name}: its test file has {len(found[0])} examples, GLUE's has {file.rows}.")
        else:
            texts[name] = found
    return texts, why


def _by_task(folders: Sequence[Path]) -> dict[str, OpenStudy]:
    """Return studies by GLUE task; raises TicketError for what is no study of one."""
    studies: dict[str, OpenStudy] = {}
    for folder in folders:
        study = open_study(folder)
        settings: Any = study.settings
        task = task_name(settings.task) if study.name == "find" else ""
        if task not in GLUE or settings.train_file is not None:
            other = f"its task is {settings.task!r}" if study.name == "find" else f"this is one of `{study.name}`"
            other += " from your own files" if task in GLUE else ""
            raise TicketError(f"{folder}: expected a study of `find` on a GLUE task; {other}.")
        if task in studies:
            raise TicketError(f"{folder}: {studies[task].folder} is also a study of {task}; name one study per task.")
        studies[task] = study
    return studies


def _choose(studies: Mapping[str, _Found], what: str) -> tuple[dict[str, int], str]:
    """Return the seed whose run predicts each task, and a sentence that says which and why."""
    tasks = [one.runs.task for one in studies.values()]
    shared = sorted(set.intersection(*[set(one.by_seed) for one in studies.values()]))
    averages = {seed: float(np.mean([one.score(seed) for one in studies.values()])) for seed in shared}
    if not shared:
        alone = "The studies have no seed in common"
    elif len({task.weight_hash for task in tasks}) > 1:
        alone = "The studies have different base models"
    else:
        alone = why_not_averaged(tasks, list(studies)).rstrip(".")
    if alone:
        seeds = {task: one.best for task, one in studies.items()}
        said = ", ".join(f"{task} seed {seed}" for task, seed in seeds.items())
        return seeds, f"{alone}, so each task is predicted by its own best {what} on the dev set: {said}."
    best = max(averages, key=averages.__getitem__)
    if len(studies) == 1:
        said, score = f"The {what} of seed {best} predicts {next(iter(studies))}", "its dev score"
    else:
        said, score = f"The {what}s of seed {best} predict all {len(studies)} tasks", "their average dev score"
    rest = (
        f"the best of seeds {', '.join(map(str, shared))}" if len(shared) > 1 else "the only seed that all studies have"
    )
    return dict.fromkeys(studies, best), f"{said}: {score} is {averages[best]:.2f}, {rest}."


def _model(found: _Found, seed: int, place: Path, device: str, quiet: bool) -> Path:
    """Return the folder of a seed's trained model: the one that was shipped, or a new one in `place`.

    It is trained again on `device`, or where the study was (`auto`).
    """
    run, settings, folder = found.by_seed[seed], found.settings, found.runs.folder
    outcome = run.result
    if is_shipped(folder / TICKET, outcome.trial, with_model=True):
        return folder / TICKET / MODEL_FOLDER
    from supertickets.export.ship import save_trained_model

    base, task = find_model(settings.model, settings.layers), load_task(settings.source)
    if base.weight_hash != found.runs.task.weight_hash:
        raise TicketError(f"the weights of model {settings.model!r} have changed since {folder} was made.")
    if task.fingerprint() != found.runs.task.data_hash:
        raise TicketError(
            f"{folder}: the weights of {settings.task}, {run.step} were not kept, so it must be trained again, but the "
            "examples of the task have changed; restore its files."
        )
    if not quiet and not outcome.has_weights:
        print(f"{settings.task}, {run.step}: its trained weights were not kept; it is trained again.", file=sys.stderr)
    if device != "auto":
        settings = settings.model_copy(update={"device": device})
    with hold(folder), Lab(folder, machine_of(settings, base, {settings.source: task})) as lab:
        save_trained_model(lab.with_weights(outcome.trial), base, task, place)
    return place


def _predicted(file: TestFile, model: Path, settings: FindSettings, texts: Texts, device: str) -> list[str]:
    from supertickets.export.predict import predict

    outputs = predict(model, *texts, settings.max_length, settings.recipe.precision, device)
    if not file.labels:
        return [f"{value:.4f}" for value in np.clip(outputs[:, 0], 0.0, 5.0)]
    return [file.labels[index] for index in outputs.argmax(axis=1)]
