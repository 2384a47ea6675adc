"""A study's model, a ticket or any model, written in a format that others read."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.export import EXPORTERS
from supertickets.storage import atomic_folder, check_free, user_path
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.inputs import OpenStudy, open_study, shipped_in
from supertickets.tasks import Task, load_task

if TYPE_CHECKING:  # torch takes seconds to import, which no `--help` should
    from supertickets.export.source import Exported


def export_model(
    path: Path | str,
    to: str,
    out: Path | str | None = None,
    *,
    model: str | None = None,
    any_base: bool = False,
    int8: bool = False,
    vocabulary: str = "all",
    corpus: Path | str | None = None,
) -> dict[str, Any]:
    """Write what `path` names in the format `to`, into the folder `out` (default: `exported-FORMAT`).

    `path` is a finished study (its trained model of the super ticket), a ticket folder (its trained model; without one,
    the ticket on its pre-trained base model: `model`, if not the one that it names, and `any_base` one of other
    weights) or a model: a folder, an id on the hub, or `default`. Formats are in `supertickets.export.EXPORTERS`:
    `onnx` (with `int8` a file of 8-bit weights too), `dense`, `transformers`, `ticket`. `vocabulary` says which tokens
    the model keeps: `all`, those that the study's task has `used`, or those of the texts in the lines of the file
    `corpus` (see `export.vocabulary`).

    What is written is compared with the model before the folder is there. Returns the folder, what it is, its size in
    bytes, what the format says of it, and notices. Raises TicketError for an unknown format, for what a format cannot
    express, and if `out` is not empty; StudyError if what is written computes something else.
    """
    exporter, options = EXPORTERS[to], {"int8": True} if int8 else {}
    for name in options:
        if name not in inspect.signature(exporter).parameters:
            raise TicketError(f"--{name}: it does not apply to --to {to}; expected --to onnx.")
    out = user_path(f"exported-{to}" if out is None else out)
    check_free(out)
    if to == "ticket" and vocabulary != "all":
        raise TicketError(f"--vocabulary {vocabulary}: --to ticket writes no model whose vocabulary could be cut.")
    exported, said = _with_vocabulary(open_exported(path, model, any_base), vocabulary, corpus)
    with atomic_folder(out) as new:
        made = exporter(exported, new, **options)
        size = sum(one.stat().st_size for one in new.rglob("*") if one.is_file())
    made |= {"said": [*said, *made.get("said", [])], "notices": [*exported.notices, *made.get("notices", [])]}
    return {"folder": str(out), "format": to, "what": exported.what, "bytes": size, **made}


def _with_vocabulary(exported: Exported, which: str, corpus: Path | str | None) -> tuple[Exported, list[str]]:
    """Return a model with the tokens that its texts need, and what was left out, in sentences."""
    from supertickets.export.same import TEXTS, check_close, outputs_on
    from supertickets.export.vocabulary import cut_vocabulary, differences_elsewhere, encode_texts, vocabulary_texts

    tasks = [exported.examples()] if which == "used" and exported.examples is not None else []
    found = vocabulary_texts(which, tasks, corpus)
    if found.texts is None:
        return exported, []
    elsewhere = differences_elsewhere(exported.model, exported.tokenizer, found.texts)
    texts = [found.texts[row] for row in np.unique(np.linspace(0, len(found.texts) - 1, TEXTS).astype(int))]
    wanted = outputs_on(exported, encode_texts(exported.tokenizer, texts))
    made = cut_vocabulary(exported.model, exported.tokenizer, found.texts)
    got = outputs_on(replace(exported, model=made.model), encode_texts(made.tokenizer, texts))
    rows = made.kept if exported.form in ("masked", "causal") else slice(None)  # these have an output for each token
    pairs = zip(wanted, got, strict=True)
    check_close(((one[name][..., rows], other[name]) for one, other in pairs for name in one), "--vocabulary")
    said = [made.sentence]
    if elsewhere is not None:
        said.append(
            "On other texts of this kind (for which the vocabulary of one half of these is read on the other half), "
            f"{elsewhere.sentence}"
        )
    notices = (*exported.notices, *found.notices)
    return replace(exported, model=made.model, tokenizer=made.tokenizer, notices=notices), said


def open_exported(path: Path | str, model: str | None = None, any_base: bool = False) -> Exported:
    """Return what a path names (see `export_model`); raises TicketError if it is nothing that can be exported."""
    from supertickets.export.source import is_ticket, open_model, open_ticket

    folder = user_path(path)
    study = open_study(folder) if (folder / SETTINGS_FILE).is_file() else None
    place = folder if study is None else shipped_in(folder, "ticket or model")
    if is_ticket(place):
        found = open_ticket(place, model, any_base)
    elif model is not None or any_base:
        flag = "--any-base" if model is None else f"--model {model}"
        raise TicketError(f"{flag}: {path} is no ticket folder; to export a model, name it alone.")
    elif len(folder.parts) > 1 and not folder.exists() and folder.parent.is_dir():  # so it is no id on the hub
        raise TicketError(f"{path}: no such folder; expected a model, a ticket folder or a study's folder.")
    else:
        found = open_model(str(path if study is None else place))
    if study is None or len(study.tasks) != 1:
        return found
    if not is_ticket(place):  # a ticket says itself how much of a text its training read
        found = replace(found, max_length=study.settings.max_length)
    notices = found.notices
    if is_ticket(place) and found.form is None:
        notices = (f"{path}: no trained weights were kept (--keep none), so {found.what} is exported.", *notices)
    return replace(found, examples=cache(lambda: _examples(study)), notices=notices)


def _examples(study: OpenStudy) -> Task:
    """Return the examples of a study's task; raises TicketError where they are not those that it had."""
    (about,) = study.tasks
    task = load_task(about.source)
    if task.fingerprint() != about.data_hash:
        raise TicketError(f"{study.folder}: the examples of task {about.task} have changed since the study was made.")
    return task
