"""What a ticket folder says for others to check: the hashes of its files, and the trainings that its score comes from.

`evidence.json` has one training of the ticket's kind and size for each seed: its trial, without places of files, its
score, and the hash of its outputs on the dev set. So anybody with the same examples can train one again and compare
(`supertickets verify`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from supertickets.errors import TicketError
from supertickets.lab.outcome import Outcome
from supertickets.lab.trial import PLACES, SCHEMA, Trial
from supertickets.storage import digest, file_digest, write_atomically
from supertickets.tickets.folder import MODEL_FOLDER

EVIDENCE = "evidence.json"
FORMAT = 1


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Outputs(_Value):
    """What a model gives on the dev set, and where that was computed (see `lab.environment`).

    `predictions` is the SHA-256 of the float32 outputs' bytes, `[examples, outputs]`; the score is in percent.
    """

    predictions: str
    score: float
    environment: dict[str, Any]

    @classmethod
    def of(cls, outcome: Outcome, place: int = 0) -> Outputs:
        """Return what an outcome's model gives on the task at `place`, at the epoch whose weights it ended with."""
        outputs = outcome.best_outputs(place)
        score = outcome.by_task[place]["dev"]["score"]
        return Outputs(predictions=outputs_digest(outputs), score=score, environment=outcome.environment)


class Training(_Value):
    """One seed's training: its trial without places, what its model gives, its metrics on the dev set in percent.

    `named` says which of `PLACES` named the files of its examples.
    """

    key: str
    trial: Trial
    named: tuple[str, ...]
    best_epoch: int
    metrics: dict[str, float]
    outputs: Outputs

    @classmethod
    def of(cls, outcome: Outcome) -> Training:
        """Return that of a finished outcome of one task."""
        assert outcome.best_epoch is not None
        source = outcome.trial.tasks[0].source
        return cls(
            key=outcome.key,
            trial=outcome.trial.without_places(),
            named=tuple(name for name in PLACES if getattr(source, name) is not None),
            best_epoch=outcome.best_epoch,
            metrics=outcome.metrics["dev"],
            outputs=Outputs.of(outcome),
        )

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.trial.seed

    @property
    def score(self) -> float:
        """Its dev score in percent."""
        return self.outputs.score


class Evidence(_Value):
    """The content of `evidence.json`.

    `files` are the SHA-256 of the folder's other files by name, `model` is what the model in it gives (None if there is
    none, or if it is not known), `trainings` are those of the ticket's kind and size, one for each seed;
    `schema_of_keys` is that of their keys.
    """

    files: dict[str, str]
    trainings: tuple[Training, ...] = ()
    model: Outputs | None = None
    schema_of_keys: int = SCHEMA

    @property
    def scores(self) -> list[float]:
        """The dev scores of all seeds."""
        return [training.score for training in self.trainings]

    def save(self, folder: Path) -> None:
        """Write it into a ticket folder, with a hash of its own content."""
        content = {"format": FORMAT, **self.model_dump(mode="json")}
        content["digest"] = digest(content)
        write_atomically(folder / EVIDENCE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def but(self, **changes: Any) -> Self:
        """Return it with other values of some fields."""
        return self.model_copy(update=changes)


def load_evidence(folder: Path) -> Evidence | None:
    """Return what a ticket folder says for others to check, None if it has no such file.

    Raises TicketError if the file is not as it was written, or of a newer version.
    """
    path = folder / EVIDENCE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (number := content["format"]) > FORMAT:
            raise TicketError(f"{path}: format {number} is newer than this version reads ({FORMAT}).")
        if content.pop("digest") != digest(content):
            raise TicketError(f"{path}: its content is not what its own hash says.")
        del content["format"]
        return Evidence.model_validate(content)
    except FileNotFoundError:
        return None
    except TicketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TicketError(f"{path}: the file is damaged ({str(error).splitlines()[0]}).") from error


def write_evidence(folder: Path, trainings: Sequence[Training] = (), model: Outputs | None = None) -> None:
    """Write `evidence.json` into a ticket folder, with the hashes of the files that are in it now."""
    Evidence(files=hashes_of(folder), trainings=tuple(trainings), model=model).save(folder)


def update_evidence(folder: Path, trainings: Sequence[Training]) -> None:
    """See that a ticket folder's evidence has these trainings: a study may have grown by seeds.

    The hashes of files stay as they were recorded; of a folder without evidence they are taken now. Damaged evidence is
    left as it is, for `verify` to tell.
    """
    try:
        before = load_evidence(folder)
    except TicketError:
        return
    if before is None:
        write_evidence(folder, trainings)
    elif before.trainings != tuple(trainings):
        before.but(trainings=tuple(trainings), schema_of_keys=SCHEMA).save(folder)


def rehash(folder: Path) -> None:
    """Record the files of a ticket folder as they are now: of a copy to publish, with another README or no model.

    Nothing is written where there is no evidence. Raises TicketError if it is damaged.
    """
    if (before := load_evidence(folder)) is not None:
        model = before.model if (folder / MODEL_FOLDER).is_dir() else None
        before.but(files=hashes_of(folder), model=model).save(folder)


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a ticket folder by its name there, but for `evidence.json`.

    Files and folders whose names begin with a dot are passed over: hubs and desktops put theirs there.
    """
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    hidden = {name for name in names if any(part.startswith(".") for part in name.split("/"))}
    return {name: file_digest(path) for name, path in names.items() if name not in hidden | {EVIDENCE}}


def outputs_digest(outputs: NDArray[np.float32]) -> str:
    """Return the SHA-256 of outputs' bytes: float32, little-endian, row by row."""
    return hashlib.sha256(np.ascontiguousarray(outputs, "<f4").tobytes()).hexdigest()


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what of an environment (see `lab.environment`) is another one here: what was recorded, and what is here.

    >>> differences({"torch": "2.12.0", "numpy": "2.4.6"}, {"torch": "2.13.0", "numpy": "2.4.6"})
    {'torch': ('2.12.0', '2.13.0')}
    """
    names = [*here, *(name for name in recorded if name not in here)]
    return {name: (recorded.get(name), here.get(name)) for name in names if recorded.get(name) != here.get(name)}
