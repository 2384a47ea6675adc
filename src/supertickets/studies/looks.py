"""What a study's folder remembers of each analysis whose verdict was printed, so that growing it afterwards is told."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from supertickets.evidence.findings import Findings
from supertickets.evidence.looks import Look
from supertickets.storage import write_atomically

LOOKS = "looks"
"""In a study's folder: a file for each look, named after the runs that were tested."""
F = TypeVar("F", bound=Findings)


def with_looks(findings: F, folder: Path) -> F:
    """Return findings that know of the looks at other runs of the study in a folder, the smallest first."""
    now, found = Look.at(findings.tested), list[Look]()
    for path in (folder / LOOKS).glob("*.json") if now is not None else ():
        with suppress(OSError, ValueError, TypeError):  # a damaged one says nothing
            found.append(Look(**json.loads(path.read_text(encoding="utf-8"))))
    return replace(findings, looks=tuple(sorted(look for look in found if now is not None and look.key != now.key)))


def remember_look(findings: Findings, folder: Path) -> None:
    """Remember that a verdict on these runs is there to be seen; the same runs again are no new look."""
    now = Look.at(findings.tested)
    if now is None or (path := folder / LOOKS / f"{now.key}.json").is_file():
        return
    try:
        write_atomically(path, json.dumps(asdict(now)) + "\n")
    except OSError as error:  # no right to write, or a file system that is mounted read-only
        why = error.strerror or str(error)
        print(
            f"{folder}: this look at the study is not remembered, as its folder cannot be written: {why}.",
            file=sys.stderr,
        )
