"""The page about tickets of some tasks on others (a study of `transfer`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.magnitude import published_weights
from supertickets.evidence.record import Record
from supertickets.evidence.table import DENSE
from supertickets.evidence.transfer import Transfer, own_tickets
from supertickets.report.html import Grid, Study, grid, model_name, write_html
from supertickets.report.shades import Shade, Shades, matrix_names, most_of, strength_of

_OWN, _SAME_TASK, _AS_GOOD, _MISSING, _ASIDE = "own", "same-task", "as-good", "missing", "aside"
_TESTS = ["source", "target", "mean", "std", "runs", "gain", "low", "high", "p", "p_holm", "to_same", "p_same", "dark"]
_TITLES = {"to_same": "over own", "p_same": "p own", "dark": "as good"}
_SIGNED = dict.fromkeys(("gain", "low", "high", "over own"), "{:+.2f}")


def write_transfer_report(path: Path, record: Record, seen: Transfer, command: str) -> None:
    """Write the page about a study of `transfer`; `command` repeats it."""
    model = model_name(record.subject.model)
    tests = seen.means[seen.means["source"] != DENSE][_TESTS].rename(columns=_TITLES)
    write_html(
        path,
        "transfer.html.jinja",
        title=f"Tickets of {model} on other tasks",
        model=model,
        sources=list(seen.sources),
        subjects=record.subjects,
        study=Study.of(record, seen.sentences, seen.runs, command),
        started=bool(len(seen.means)),
        gains=_gains(seen),
        scores=_scores(seen),
        tests=grid(tests.reset_index(drop=True), _SIGNED | {"runs": "{:.0f}"}),
        published=_published(seen.published),
        overlaps=grid(seen.overlaps, dict.fromkeys(("jaccard", "by tensor", "chance"), "{:.1%}")),
        by_place=Shades.of(100 * seen.by_place, "{:+.1f}", None, matrix_names(seen.by_place)),
    )


def _gains(seen: Transfer) -> Shades:
    """Return the matrix of gains over the dense model as shades, with the means beside it."""
    means, own = _by_cell(seen), own_tickets(seen.sources)
    most, rows = most_of(seen.gains[list(seen.targets)]), []
    beside = seen.gains.to_dict("index")
    for source, task in seen.sources.items():
        cells = []
        for target in seen.targets:
            marks = (_OWN,) if own.get(target) == source else (_SAME_TASK,) if task == target else ()
            at = seen.runs[(seen.runs["source"] == source) & (seen.runs["target"] == target)]
            name = f"{source} on {target}, {at['score'].notna().sum()} of {len(at)} seeds"
            row = means.get((source, target))
            if row is None or np.isnan(row["gain"]):
                cells.append(Shade("-", f"{name}: nothing to compare yet", marks=(*marks, _MISSING)))
                continue
            as_good = row["dark"] is True and _OWN not in marks
            cells.append(_gain(row["gain"], most, f"{name}: {_with_std(row)}{_interval(row)}", marks, as_good))
        for column, form in (("other tasks", "{:+.2f}"), ("as good as own", "{:.0f}")):
            value = beside[source][column]
            cells.append(Shade("-" if pd.isna(value) else form.format(value), marks=(_ASIDE,)))
        rows.append((source, cells))
    return Shades([*seen.targets, "other tasks", "● of them"], rows)


def _by_cell(seen: Transfer) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["source"], row["target"]): dict(row) for _, row in seen.means.astype(object).iterrows()}


def _gain(gain: float, most: float, said: str, marks: tuple[str, ...], as_good: bool) -> Shade:
    # By the square root: one task that loses much would else leave all other cells without a colour.
    text = f"{gain:+.2f}"
    return Shade(
        f"● {text}" if as_good else text,
        f"{said}; at least as good as the target's own ticket" if as_good else said,
        strength_of(gain, most, 0.5),
        gain < 0,
        (*marks, _AS_GOOD) if as_good else marks,
    )


def _published(published: pd.DataFrame) -> Shades:
    """Return the paper's matrix in the same way."""
    theirs: Mapping[str, Mapping[str, float]] = published_weights()["figure 2"]
    most, rows = most_of(published), []
    for source, values in published.to_dict("index").items():
        cells = []
        for target, gain in values.items():
            marks = (_OWN,) if source == target else ()
            as_good = source != target and gain >= theirs[str(target)][str(target)]
            cells.append(_gain(gain, most, f"{source} on {target}", marks, as_good))
        rows.append((str(source), cells))
    return Shades([str(name) for name in published.columns], rows)


def _scores(seen: Transfer) -> Grid:
    """Return mean scores with standard deviations, the dense model's first; cells sort by the mean."""
    means, rows = _by_cell(seen), []
    for source in (DENSE, *seen.sources):
        found = [means.get((source, target)) for target in seen.targets]
        cells: list[tuple[str, Any]] = [("-", "") if row is None else (_with_std(row), row["mean"]) for row in found]
        rows.append([(source, source), *cells])
    return Grid(["source", *seen.targets], rows)


def _with_std(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.1f}" + (f" ± {row['std']:.1f}" if np.isfinite(row["std"]) else "")


def _interval(row: Mapping[str, Any]) -> str:
    return f"; 95 % from {row['low']:+.2f} to {row['high']:+.2f}, p = {row['p']:.2g}" if np.isfinite(row["p"]) else ""
