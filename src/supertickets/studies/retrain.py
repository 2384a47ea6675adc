"""Repeating one training that a ticket folder records, and comparing it with the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from supertickets.errors import StudyError, TicketError
from supertickets.evidence.statistics import prediction_interval
from supertickets.export.evidence_file import Evidence, Outputs, Training, differences, outputs_digest
from supertickets.lab.environment import environment, repeats_bits
from supertickets.lab.lab import Lab
from supertickets.lab.machine import Machine, check_training_device
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Step
from supertickets.lab.trial import PLACES, TaskTicket, Trial
from supertickets.models import BaseModel
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.metrics import evaluate
from supertickets.tickets.folder import MODEL_FOLDER, TICKET_ARRAYS, SharedTicket
from supertickets.tickets.weights import WeightTicket

_ON_A_GPU = "on a GPU they may differ from run to run"
_SAME = 1e-9
"""How far two scores of the same outputs may be apart, in percent: sums may have another order."""


@dataclass(frozen=True)
class Rerun:
    """A recorded training, ready to be repeated: its trial with the places of model and examples, and its task."""

    folder: Path
    evidence: Evidence
    training: Training
    trial: Trial
    base: BaseModel
    task: Task
    device: str = "auto"


@dataclass(frozen=True)
class Retrained:
    """A training that was repeated: what was compared, its score and the recorded one, in percent.

    `compared` is `outputs` (bit for bit) or `score`, with the mean and standard deviation of the recorded seeds' scores
    and the 95 % prediction interval of one new training. `differences` are what of the environment is another one here:
    what was recorded, and what is here. `said` is the sentence.
    """

    verdict: Literal["agree", "disagree", "cannot be compared"]
    compared: Literal["outputs", "score"]
    seed: int
    score: float | None
    recorded: float
    seeds: int
    differences: Mapping[str, tuple[Any, Any]]
    said: str
    mean: float | None = None
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def prepare_rerun(
    folder: Path,
    shared: SharedTicket[Any],
    evidence: Evidence,
    base: BaseModel,
    seed: int | None,
    places: Mapping[str, Any],
    source: TaskSource | None,
    device: str,
) -> Rerun:
    """Return a recorded training ready to be repeated, by default that of the ticket's seed.

    `places` say where its examples are (see `lab.trial.PLACES`), `source` where a study has them. Raises TicketError
    for a seed that is not recorded, a training that needs more than the folder and the examples, and for examples or
    files of the base model that are not the recorded ones.
    """
    check_training_device(device)
    training = _of_seed(shared, evidence, seed)
    trial = training.trial
    if why := _why_not(trial, shared):
        raise TicketError(f"--retrain: the training of seed {trial.seed} cannot be repeated from this folder: {why}.")
    if trial.files_hash not in ("", base.files_hash):
        raise TicketError(
            f"--retrain: model {base.name!r} has the recorded weights, but another config or tokenizer than the "
            "ticket was trained with; expected the same files."
        )
    (own,) = trial.tasks
    found = _source(training, places, source)
    task = load_task(found)
    if task.fingerprint() != own.data_hash:
        where = {name.replace("_", "-"): getattr(found, name) for name in PLACES}
        named = " ".join(f"--{name} {path}" for name, path in where.items() if path is not None)
        raise TicketError(
            f"{named or '--retrain'}: these are not the examples that the ticket was trained on (their hash is "
            f"{task.fingerprint()[:12]}..., the recorded one {own.data_hash[:12]}...); expected the same files."
        )
    tasks = (TaskTicket(source=found, data_hash=own.data_hash, ticket=own.ticket, dropout=own.dropout),)
    mask = trial.mask and trial.mask.model_copy(update={"path": (folder / TICKET_ARRAYS).resolve()})
    return Rerun(folder, evidence, training, trial.but(model=base.name, tasks=tasks, mask=mask), base, task, device)


def _of_seed(shared: SharedTicket[Any], evidence: Evidence, seed: int | None) -> Training:
    """Return the training of a seed; None: the one that the ticket comes from."""
    if not evidence.trainings:
        raise TicketError("--retrain: the folder records no training that could be repeated.")
    by_seed = {training.seed: training for training in evidence.trainings}
    wanted = seed if seed is not None else shared.origin.get("seed")
    recorded = ", ".join(map(str, by_seed))
    if wanted is None:
        raise TicketError(f"--retrain: the ticket does not say its seed; add --seed, one of {recorded}.")
    if wanted not in by_seed:
        near = min(by_seed, key=lambda one: abs(one - wanted))
        raise TicketError(f"--seed {wanted}: expected a seed that the folder records ({recorded}), such as {near}.")
    return by_seed[wanted]


def _why_not(trial: Trial, shared: SharedTicket[Any]) -> str:
    """Return why a trial cannot be run with a ticket folder and its examples alone; nothing if it can."""
    if len(trial.tasks) > 1:
        return "it is of several tasks"
    if trial.starts:
        return "it starts from weights that another training ended with"
    if trial.teacher is not None:
        return "it learns from the outputs of another training"
    if (mask := trial.mask) is None or mask.digest is None:
        return ""
    own = isinstance(shared.ticket, WeightTicket) and mask.digest == shared.ticket.digest
    return "" if own else "the folder has the ticket of another seed"


def _source(training: Training, places: Mapping[str, Any], source: TaskSource | None) -> TaskSource:
    """Return where a training's examples are; raises TicketError where its own files are not named."""
    recorded = training.trial.tasks[0].source
    there = {} if source is None or places else {name: getattr(source, name) for name in PLACES}
    given = {**there, **places}
    lacking = [name for name in training.named if name != "data" and given.get(name) is None]
    if lacking:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in lacking)
        raise TicketError(f"--retrain: the ticket was trained on files of its user's own; name them with {flags}.")
    return TaskSource.model_validate(recorded.model_dump() | given)


def compare_model(rerun: Rerun) -> tuple[Literal["ok", "wrong", "cannot be checked"], str]:
    """Return whether the folder's model gives the recorded outputs on the dev set, and why, in words."""
    from supertickets.export.reloaded import SCORES_APART, outputs_again
    from supertickets.training.devices import find_device

    recorded = rerun.evidence.model
    place = rerun.folder / MODEL_FOLDER
    if recorded is None:
        return "cannot be checked", "no outputs of a model are recorded"
    if not place.is_dir():
        return "cannot be checked", "the folder has no model"
    recipe, task = rerun.trial.recipe, rerun.task
    sizes = recipe.max_length, recipe.batch_size, recipe.precision, recipe.threads
    outputs = outputs_again(place, task, *sizes, device_name=rerun.device)
    score = evaluate(task.metrics, task.dev.targets, outputs)["score"]
    figures = f"score {score:.2f}, recorded {recorded.score:.2f}"
    if outputs_digest(outputs) == recorded.predictions:
        same = isclose(score, recorded.score, abs_tol=_SAME)
        return ("ok" if same else "wrong"), f"the recorded outputs bit for bit, {figures}"
    here = environment(find_device(rerun.device), recipe)
    other = differences(recorded.environment, here)
    if not other and repeats_bits(here):
        return "wrong", f"other outputs than recorded on the same kind of machine, {figures}"
    near = abs(score - recorded.score) <= SCORES_APART
    return ("ok" if near else "wrong"), f"{figures}; bits are not compared, since {in_words(other) or _ON_A_GPU}"


def repeat(rerun: Rerun, quiet: bool = True) -> Retrained:
    """Train a recorded training again, in a folder that is gone afterwards, and compare.

    Raises StudyError if it fails.
    """
    from rich.console import Console

    from supertickets.lab.progress import ProgressDisplay

    with TemporaryDirectory(prefix="supertickets-") as place:
        folder = Path(place)
        display = ProgressDisplay(Console(stderr=True, quiet=quiet), folder)
        machine = Machine(
            device=rerun.device,
            threads=rerun.trial.recipe.threads,
            models={rerun.base.weight_hash: rerun.base},
            tasks={rerun.task.fingerprint(): rerun.task},
        )
        with Lab(folder, machine, display) as lab, display:
            (run,) = lab.run([Step({"kind": "again", "seed": rerun.trial.seed}, rerun.trial)]).runs
        if run.outcome is None:
            raise StudyError(f"the training failed: {str(run.failure).strip().splitlines()[-1]}")
        return compared(rerun.training, rerun.evidence.scores, run.outcome)


def compared(recorded: Training, scores: Sequence[float], made: Outcome) -> Retrained:
    """Return whether a repeated training agrees with the recorded one.

    Equal outputs on the dev set, bit for bit, agree wherever they were computed, if they also have the recorded score.
    Others disagree on a CPU where machine and versions are the recorded ones. Elsewhere the score must lie in the
    interval that has one new training's in 95 of 100 cases, by the recorded seeds' spread; with one seed there is none.
    """
    seed, was, n = recorded.seed, recorded.score, len(scores)
    other = differences(recorded.outputs.environment, made.environment)
    if not made.finished:
        said = f"trained again, seed {seed} diverged ({made.reason}); the recorded score is {was:.2f}."
        return Retrained("disagree", "outputs", seed, None, was, n, other, said)
    outputs, metrics = Outputs.of(made), made.metrics["dev"]
    score = outputs.score
    figures = f"score {score:.2f}, recorded {was:.2f}"
    if outputs.predictions == recorded.outputs.predictions:
        recorded_figures = {**recorded.metrics, "score": was}
        if wrong := [name for name, value in metrics.items() if not _equal(value, recorded_figures.get(name))]:
            said = f"trained again, seed {seed} gave the recorded outputs, but not the recorded {wrong[0]}: {figures}."
            return Retrained("disagree", "outputs", seed, score, was, n, other, said)
        said = f"trained again, seed {seed} gave the recorded outputs on the dev set bit for bit: {figures}."
        return Retrained("agree", "outputs", seed, score, was, n, other, said)
    if not other and repeats_bits(made.environment):
        said = (
            f"trained again on the same kind of machine with the same versions, seed {seed} gave other outputs on the "
            f"dev set than recorded: {figures}."
        )
        return Retrained("disagree", "outputs", seed, score, was, n, other, said)
    why = f"Bits are not compared, since {in_words(other) or _ON_A_GPU}."
    low, high = prediction_interval(scores)
    if isnan(low):
        neither = "one seed is recorded, so no spread" if n < 2 else f"the {n} recorded seeds all score the same"
        said = f"trained again, seed {seed}: {figures}. {why} Scores neither: {neither}."
        return Retrained("cannot be compared", "score", seed, score, was, n, other, said)
    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    inside = low - _SAME <= score <= high + _SAME
    said = (
        f"trained again, seed {seed}: {figures}. {why} By the spread of the {n} recorded seeds (mean {mean:.2f}, "
        f"standard deviation {deviation:.2f}), one new training scores between {low:.2f} and {high:.2f} "
        "in 95 of 100 cases."
    )
    verdict: Literal["agree", "disagree"] = "agree" if inside else "disagree"
    return Retrained(verdict, "score", seed, score, was, n, other, said, mean, deviation, low, high)


def _equal(value: float, recorded: float | None) -> bool:
    """Return whether a metric is the recorded one."""
    return recorded is not None and isclose(value, recorded, abs_tol=_SAME)


def in_words(other: Mapping[str, tuple[Any, Any]]) -> str:
    """Return what of an environment is another one here, in words.

    >>> in_words({"torch": ("2.12.0", "2.13.0"), "processor": (None, "a CPU")})
    'torch is 2.13.0 here and was 2.12.0, processor is a CPU here and was not recorded'
    """
    return ", ".join(
        f"{name} is {here} here and was {'not recorded' if was is None else was}" for name, (was, here) in other.items()
    )
