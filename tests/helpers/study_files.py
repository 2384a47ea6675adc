"""A study's folder as bytes that can be compared, without what says how long something took, or where; its ticket."""

import json
from pathlib import Path

import pandas as pd

from supertickets.studies.run import Result
from supertickets.tickets import Ticket
from supertickets.tickets.folder import load_ticket


def _without_times(path: Path) -> bytes:
    if path.name == "results.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv().encode()
    if path.name == "outcome.json":
        content = json.loads(path.read_text())
        del content["cost"]["seconds"], content["digest"]  # the digest covers the time
        (content["trial"]["start"] or {}).pop("folder", None)
        (content["trial"]["mask"] or {}).pop("path", None)
        for start in (content["trial"].get("mean") or {}).get("starts", ()):
            start.pop("folder")
        return json.dumps(content).encode()
    return path.read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Return each file's bytes by name; what names the folder or the machine is left out."""
    left_out = {"settings.yaml", "machine.json", "report.html"}
    return {
        str(path.relative_to(folder)): _without_times(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out and not path.name.startswith(".")
    }


def super_ticket(result: Result) -> Ticket:
    """Return the super ticket that a study has shipped."""
    return load_ticket(result.shipped["ticket"]).ticket
