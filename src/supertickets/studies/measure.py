"""What a model, a ticket or a finished study's super ticket costs on this machine, measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError, unknown_value
from supertickets.export.apply import base_of
from supertickets.lab.machine import check_device
from supertickets.lab.measured import MEASURED, Batch, Conditions, Measured
from supertickets.models import BaseModel, find_model
from supertickets.storage import read_json, user_path, write_atomically
from supertickets.studies.checks import check_place
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.exchange import FoundTicket, ticket_in
from supertickets.studies.inputs import open_study
from supertickets.tickets import Ticket
from supertickets.tickets.folder import TICKET_JSON
from supertickets.tickets.hub import on_hub, ticket_folder

BATCH_SIZES, LENGTHS, REPEATS = (1, 32), (16, 128), 20
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class _Subject:
    """What is measured: a base model and perhaps a ticket of it; `study` is the folder of the study that has it."""

    base: BaseModel
    found: FoundTicket | None = None
    study: Path | None = None

    @property
    def ticket(self) -> Ticket | None:
        return None if self.found is None or not isinstance(self.found.ticket, Ticket) else self.found.ticket

    @property
    def precision(self) -> str:
        """The precision that the ticket was trained with, as its recipe says."""
        shared = None if self.found is None else self.found.shared
        recipe = {} if shared is None else shared.origin.get("recipe")
        asked = recipe.get("precision") if isinstance(recipe, dict) else None
        return asked if asked in ("auto", *PRECISIONS) else "float32"

    @property
    def trial(self) -> str | None:
        """The key of the training that the ticket comes from."""
        shared = None if self.found is None else self.found.shared
        trial = None if shared is None else shared.origin.get("trial")
        return trial if isinstance(trial, str) else None


def measure(
    path: Path | str,
    *,
    model: str | None = None,
    any_base: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] | None = None,
    threads: int = 1,
    device: str = "auto",
    precision: str | None = None,
    repeats: int = REPEATS,
    out: Path | str | None = None,
) -> Measured:
    """Measure what a dense encoder costs on this machine and, beside it, what a ticket leaves of it.

    `path` is a model (folder, id on the hub, `default`), a ticket (a folder, or org/name or org/name@revision on the
    hub), or the folder of a finished study that ships one (`find`); `model` is the ticket's base model, if not the one
    that it names (`any_base`: one of other weights too). Every batch size is measured with every length (default: 16
    and 128 tokens, or as many as the model can read); the models' passes take turns. `precision` is by default that of
    the ticket's training, for models float32. The result is written to `out`, and for a study also into its folder,
    whose page is built again.

    Raises TicketError for a device that is not there, a length that the model cannot read, numbers below 1, a ticket of
    single weights, and a study without a ticket; StudyError where a model needs more memory than there is.
    """
    _check_numbers({"--batch-sizes": batch_sizes, "--threads": [threads], "--repeats": [repeats]})
    if precision is not None and precision not in PRECISIONS:
        raise unknown_value("--precision", precision, PRECISIONS)
    check_device(device)
    place = None if out is None else user_path(out)
    if place is not None:
        check_place(place, file=True)
        if place.is_file() and "peak_of" not in read_json(place):
            raise TicketError(f"--out {place}: the file exists and is not of `measure`; choose another name.")
    subject = _opened(path, model, any_base)
    made = _measured(str(path), subject, list(batch_sizes), lengths, (threads, device, precision), repeats)
    if place is not None:
        write_atomically(place, made.as_json())
    if subject.study is not None:
        from supertickets.studies.report import report

        write_atomically(subject.study / MEASURED, made.as_json())
        report([subject.study])
    return made


def _check_numbers(asked: dict[str, Sequence[int]]) -> None:
    for flag, numbers in asked.items():
        for number in numbers:
            if number < 1:
                raise TicketError(f"{flag} {number}: expected a whole number of at least 1.")
        if not numbers:
            raise TicketError(f"{flag}: expected at least one number.")


def _opened(path: Path | str, model: str | None, any_base: bool) -> _Subject:
    """Return what a path names; raises TicketError if it is nothing that can be measured."""
    folder = _folder(path, ticket=model is not None or any_base)
    study = folder if (folder / SETTINGS_FILE).is_file() else None
    if study is None and not (folder / TICKET_JSON).is_file():
        if model is not None or any_base:
            flag = "--any-base" if model is None else f"--model {model}"
            raise TicketError(
                f"{flag}: {path} is neither a ticket folder nor a study; to measure a model, name it alone."
            )
        if len(folder.parts) > 1 and not folder.exists() and folder.parent.is_dir():  # so it is no id on the hub
            raise TicketError(f"{path}: no such folder; expected a model, a ticket folder or a study's folder.")
        return _Subject(find_model(str(path)))
    found = ticket_in(folder) if study is None else open_study(study).tickets()[0]
    if not isinstance(found.ticket, Ticket) or found.shared is None:
        raise TicketError(
            f"{path}: a ticket of single weights leaves zeros in a model of the same size, which costs what the dense "
            "model does; expected a ticket of heads, FFNs or neurons."
        )
    return _Subject(base_of(found.shared, model, any_base), found, study)


def _folder(path: Path | str, ticket: bool) -> Path:
    """Return the folder that a path names: one of this machine, or that of a ticket on the hub, which is downloaded.

    A name on the hub may be a model's too, which is a folder to come; not so if it has a revision or must be a
    `ticket`.
    """
    folder, asked = user_path(path), on_hub(path)
    if asked is None:
        return folder
    if ticket or asked.revision is not None:
        return ticket_folder(path)
    with suppress(TicketError):  # if it is no model either, that is told
        return ticket_folder(path)
    return folder


def _measured(
    path: str,
    subject: _Subject,
    batch_sizes: Sequence[int],
    lengths: Sequence[int] | None,
    where: tuple[int, str, str | None],
    repeats: int,
) -> Measured:
    """Return what is measured of a subject; `where` is the number of threads, the device and the precision asked."""
    from supertickets.lab.environment import versions
    from supertickets.lab.latency import WARM_UP, check_lengths, dense_and_cut, measure_passes, measure_sizes
    from supertickets.training.devices import choose_precision, device_name, find_device

    base, ticket, (threads, asked, precision) = subject.base, subject.ticket, where
    if lengths is None:
        lengths = list(dict.fromkeys(min(length, base.max_length) for length in LENGTHS))
    check_lengths(base, lengths)
    device = find_device(asked)
    chosen = choose_precision(precision or subject.precision, device)  # type: ignore[arg-type]
    conditions = Conditions(threads=threads, precision=chosen, device=str(device))
    batches = [Batch(batch_size=size, length=length) for size in batch_sizes for length in lengths]
    began: dict[str, Any] = {"load": _load(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    models, largest = dense_and_cut(base, ticket), Batch(batch_size=max(batch_sizes), length=max(lengths))
    return Measured(
        path=path,
        model=base.name,
        layers=base.layers,
        weight_hash=base.weight_hash,
        ticket=None if ticket is None else ticket.as_dict(),
        trial=subject.trial,
        conditions=conditions,
        device_name=device_name(device),
        cores=os.cpu_count(),
        **began,
        versions=versions(),
        repeats=repeats,
        warm_up=WARM_UP,
        sizes=measure_sizes(base, models, ticket, largest, conditions),
        peak_of=largest,
        passes=measure_passes(base, models, ticket, batches, conditions, repeats),
    )


def _load() -> float | None:
    """Return the machine's load average, None where the system does not tell."""
    with suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None
