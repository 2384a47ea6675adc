"""Checking what somebody else shipped: files, base model, ticket and model; and one training repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from supertickets.errors import TicketError
from supertickets.export.apply import base_of
from supertickets.export.evidence_file import EVIDENCE, Evidence, Training, hashes_of, load_evidence
from supertickets.lab.lab import TRIALS
from supertickets.lab.outcome import OUTCOME, load_outcome
from supertickets.lab.trial import SCHEMA
from supertickets.models import find_model
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.inputs import open_study, shipped_in
from supertickets.studies.retrain import Retrained, compare_model, prepare_rerun, repeat
from supertickets.tasks import TaskSource
from supertickets.tasks.tables import counted
from supertickets.tickets import Ticket
from supertickets.tickets.folder import MODEL_FOLDER, TICKET_JSON, SharedTicket, load_any_ticket
from supertickets.tickets.hub import ticket_folder

Verdict = Literal["ok", "wrong", "cannot be checked"]


@dataclass(frozen=True)
class Check:
    """Something that was checked, what came out, and why, in words."""

    what: str
    verdict: Verdict
    said: str = ""

    def __str__(self) -> str:
        """The line that is printed."""
        return f"{self.what}: {self.verdict}" + (f" ({self.said})" if self.said else "")


_NOT_TRAINED = Check("training again", "cannot be checked", "not trained, since something is wrong already")


@dataclass(frozen=True)
class Verification:
    """What was checked of a ticket folder, and the training that was repeated, if one was."""

    folder: Path
    checks: tuple[Check, ...]
    retrained: Retrained | None = None

    @property
    def wrong(self) -> bool:
        """Whether something is wrong, or the repeated training disagrees."""
        disagrees = self.retrained is not None and self.retrained.verdict == "disagree"
        return disagrees or any(check.verdict == "wrong" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**asdict(self), "folder": str(self.folder), "wrong": self.wrong}


def verify(
    path: Path | str,
    *,
    model: str | None = None,
    retrain: bool = False,
    seed: int | None = None,
    data: Path | str | None = None,
    train_file: Path | str | None = None,
    dev_file: Path | str | None = None,
    device: str = "auto",
    quiet: bool = True,
) -> Verification:
    """Check a ticket folder, or the one of a finished study, against what it records of itself.

    The files must have the recorded hashes; the ticket must fit its base model, whose weights must be those it was
    drawn from; the saved model must load and have the ticket's shape; the recorded trainings must be those that
    `ticket.json` tells of; in a study, its own trainings too. With `retrain`, the ticket's training of one seed
    (default: that of the ticket) is repeated from the pre-trained weights and compared (see `studies.retrain`), unless
    something is wrong already. `data`, `train_file` and `dev_file` say where its examples are; of a study, they are by
    default where the study has them. `model` is the base model, if not the one that the ticket names.

    Files and folders whose names begin with a dot are passed over. Nothing is written into the folder.

    Raises TicketError for what is no ticket folder, for a seed or examples that are not the recorded ones, and where
    nothing recorded can be trained again; StudyError if the training fails.
    """
    given = {"seed": seed, "data": data, "train_file": train_file, "dev_file": dev_file}
    given["device"] = None if device == "auto" else device
    asked = [name for name, value in given.items() if value is not None]
    if asked and not retrain:
        name = asked[0]
        raise TicketError(f"--{name.replace('_', '-')} {given[name]} is used only with --retrain; add it.")
    folder = ticket_folder(path, with_model=True)
    source: TaskSource | None = None
    checks: list[Check] = []
    if (folder / SETTINGS_FILE).is_file():
        study, folder = folder, shipped_in(folder)
        tasks = open_study(study).tasks
        source = tasks[0].source if tasks else None
        checks += _study(study, folder)
    if not any((folder / name).is_file() for name in (TICKET_JSON, EVIDENCE)):
        raise TicketError(f"{path}: no ticket folder (no {TICKET_JSON}); expected one, or a finished study's folder.")
    evidence, shared, found = _folder(folder, model)
    checks = [*found, *checks]
    if not retrain:
        return Verification(folder, tuple(checks))
    if any(check.verdict == "wrong" for check in checks):
        return Verification(folder, (*checks, _NOT_TRAINED))
    places = {name: given[name] for name in ("data", "train_file", "dev_file") if given[name] is not None}
    if shared is None or evidence is None:
        raise TicketError(f"--retrain: {folder} has no {EVIDENCE}, which says how the ticket was trained.")
    base = base_of(shared, model, any_base=False)  # says what is wrong where there is none
    rerun = prepare_rerun(folder, shared, evidence, base, seed, places, source, device)
    checks.append(Check("outputs of the model", *compare_model(rerun)))
    if checks[-1].verdict == "wrong":
        return Verification(folder, (*checks, _NOT_TRAINED))
    return Verification(folder, tuple(checks), repeat(rerun, quiet))


def _folder(folder: Path, model: str | None) -> tuple[Evidence | None, SharedTicket[Any] | None, list[Check]]:
    """Return what a ticket folder says, None where it cannot be read, and what was checked of it."""
    evidence: Evidence | None = None
    shared: SharedTicket[Any] | None = None
    checks = []
    try:
        evidence = load_evidence(folder)
    except TicketError as error:
        checks.append(Check(EVIDENCE, "wrong", _reason(error, folder)))
    else:
        checks += _files(folder, evidence)
    try:
        shared = load_any_ticket(folder)
    except TicketError as error:
        checks.append(Check("ticket", "wrong", _reason(error, folder)))
        return evidence, None, checks
    checks.append(Check("ticket", "ok", repr(shared.ticket)))
    checks += [_base(shared, model), _model(folder, shared)]
    if evidence is not None:
        checks.append(_recorded(shared, evidence))
    return evidence, shared, checks


def _reason(error: TicketError, folder: Path) -> str:
    """Return what an error says, without the folder, which is known, and without the full stop."""
    return str(error).removeprefix(f"{folder}: ").rstrip(".")


def _files(folder: Path, evidence: Evidence | None) -> Iterator[Check]:
    """Compare the hashes of a folder's files with the recorded ones; files of which there is none are told."""
    if evidence is None:
        said = f"no {EVIDENCE}: the folder is of an earlier version; run its study's command again to add one"
        yield Check("files", "cannot be checked", said)
        return
    found = hashes_of(folder)
    right = [name for name, value in evidence.files.items() if found.get(name) == value]
    yield from (
        Check(name, "wrong", "its content is not the recorded one" if name in found else "the file is missing")
        for name in evidence.files
        if name not in right
    )
    yield (
        Check("files", "ok", f"{counted(len(right), 'file')} with the recorded hashes")
        if right
        else Check("files", "wrong", "none has its recorded hash")
    )
    for name in found.keys() - evidence.files.keys():
        read = name.startswith(f"{MODEL_FOLDER}/")  # what is beside a model may change what is loaded
        yield Check(name, "wrong" if read else "cannot be checked", f"{EVIDENCE} does not have it")


def _base(shared: SharedTicket[Any], model: str | None) -> Check:
    """Compare the base model's weights with those that the ticket was drawn from, and its shape with the ticket's."""
    try:
        find_model(model if model is not None else str(shared.base["name"]))
    except TicketError as error:
        if model is not None:
            raise
        return Check("base model", "cannot be checked", f"{str(error).rstrip('.')}; name it with --model")
    try:
        base = base_of(shared, model, any_base=False)
    except TicketError as error:
        return Check("base model", "wrong", str(error).rstrip("."))
    return Check(
        "base model", "ok", f"{base.called} has the recorded weights {base.weight_hash[:12]}..., the ticket fits"
    )


def _model(folder: Path, shared: SharedTicket[Any]) -> Check:
    """Load the saved model, if there is one."""
    from supertickets.export.reloaded import fault_of_model

    if not (folder / MODEL_FOLDER).is_dir():
        return Check("model", "cannot be checked", f"there is no {MODEL_FOLDER}/ in the folder")
    fault = fault_of_model(folder / MODEL_FOLDER, shared.ticket)
    return Check("model", "wrong", fault) if fault else Check("model", "ok", "it loads and has the ticket's shape")


def _recorded(shared: SharedTicket[Any], evidence: Evidence) -> Check:
    """Compare the recorded trainings with each other and with `ticket.json`."""
    what = "recorded trainings"
    if not evidence.trainings:
        return Check(what, "cannot be checked", "there are none: the score comes without evidence")
    if evidence.schema_of_keys != SCHEMA:
        return Check(what, "cannot be checked", "their keys are those of another version of supertickets")
    fault = next(_faults(shared, evidence), "")
    return Check(what, "wrong", fault) if fault else Check(what, "ok", counted(len(evidence.trainings), "seed"))


def _faults(shared: SharedTicket[Any], evidence: Evidence) -> Iterator[str]:
    """Yield what of recorded trainings contradicts something else, in words."""
    trainings, origin = evidence.trainings, shared.origin
    for one in trainings:
        if one.trial.key != one.key:
            yield f"the training of seed {one.seed} is not the one that its key is of"
        if one.metrics.get("score") != one.score:
            yield f"seed {one.seed} has two different scores"
        if (one.trial.recipe, one.trial.examples) != (trainings[0].trial.recipe, trainings[0].trial.examples):
            yield f"seeds {trainings[0].seed} and {one.seed} have different recipes or examples"
        if one.trial.weight_hash != shared.base["weight_hash"]:
            yield f"seed {one.seed} was trained from other weights than those in {TICKET_JSON}"
    if len({one.seed for one in trainings}) < len(trainings):
        yield "a seed is recorded twice"
    own = next((one for one in trainings if one.key == origin.get("trial")), None)
    if own is None:
        yield f"none is the training that {TICKET_JSON} names"
        return
    trial = own.trial
    is_own = trial.ticket == shared.ticket
    if not isinstance(shared.ticket, Ticket):
        is_own = trial.mask is not None and trial.mask.digest in (None, shared.ticket.digest)
    if not is_own:
        yield f"the ticket is not the one that seed {own.seed} was trained with"
    told = {
        "score": own.score,
        "best_epoch": own.best_epoch,
        "seed": own.seed,
        "recipe": trial.recipe.model_dump(),
        "data_hash": trial.tasks[0].data_hash,
    }
    yield from (f"{TICKET_JSON} has another {name}" for name, value in told.items() if origin.get(name) != value)


def _study(study: Path, folder: Path) -> Iterator[Check]:
    """Check that a study's trainings are as they were written, and that the ticket's evidence is theirs."""
    places = sorted(path.parent for path in (study / TRIALS).glob(f"*/{OUTCOME}"))
    outcomes = {place.name: load_outcome(place) for place in places}
    for key, outcome in outcomes.items():
        if outcome is None or outcome.damaged:
            yield Check(f"{TRIALS}/{key}", "wrong", "its files are not as they were written")
    yield Check("trainings of the study", "ok", f"{counted(len(outcomes), 'outcome')} read")
    with suppress(TicketError):  # told of the ticket folder
        evidence = load_evidence(folder)
        for one in evidence.trainings if evidence is not None else ():
            ours = outcomes.get(one.key)
            if ours is None or Training.of(ours) != one:
                yield Check(f"{TRIALS}/{one.key}", "wrong", f"{EVIDENCE} says something else of seed {one.seed}")
