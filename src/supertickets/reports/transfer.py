"""What the page of a study of `transfer` says: gains by source and task, overlap of tickets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.cells import with_std
from supertickets.evidence.published import published_weights
from supertickets.evidence.runs import DENSE, Runs
from supertickets.evidence.transfer import TransferFindings, own_tickets
from supertickets.reports.imp import by_matrix
from supertickets.reports.sections import WORDS, Block, Heading, HeatMap, Section, Table, Words, strength, titled

_TESTS = ["source", "task", "mean", "std", "runs", "gain", "low", "high", "p", "p_holm", "to_same", "p_same", "dark"]
_TITLES = {"to_same": "over own", "p_same": "p own", "dark": "as good"}
_MATRIX = "gains over the dense model, by source and task"
_SAID = WORDS["transfer"]


def transfer_sections(findings: TransferFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `transfer`."""
    return [
        Section("", [Words(_SAID["about"].format(", ".join(findings.sources)), "quiet")]),
        Section("Gains over the dense model", _gains(findings)),
        *([Section("Overlap of tickets", _overlaps(findings))] if len(findings.overlaps) else []),
    ]


def _gains(findings: TransferFindings) -> list[Block]:
    blocks: list[Block] = [Words(WORDS["all"]["none"])]
    if len(findings.means):
        tests = findings.means[findings.means["source"] != DENSE][_TESTS].rename(columns=_TITLES)
        tested = Table(tests.reset_index(drop=True), "gains and tests")
        blocks = [Words(_SAID["gains"], "key"), _matrix(findings), Words(_SAID["beside"], "quiet")]
        blocks += titled("Scores", _scores(findings), _SAID["scores"]) + titled("Tests", tested, _SAID["tests"])
    if findings.published.size:
        blocks += [Heading("The paper's Figure 2"), Words(_SAID["published"], "key"), _published(findings.published)]
    return blocks


def _matrix(findings: TransferFindings) -> HeatMap:
    """Return the matrix of gains over the dense model, with the means beside it."""
    own, runs = own_tickets(findings.sources), findings.runs.groupby(["source", "task"])["score"]
    of = pd.MultiIndex.from_product([findings.sources, findings.targets], names=["source", "task"])
    cells = findings.means.set_index(["source", "task"]).reindex(of)
    cells = cells.assign(done=runs.count(), seeds=runs.size()).reset_index()
    cells["mark"] = [
        "own" if own.get(task) == source else "same-task" if findings.sources[source] == task else ""
        for source, task in zip(cells["source"], cells["task"], strict=True)
    ]
    cells["as_good"] = cells["dark"].eq(True) & (cells["mark"] != "own")
    cells["said"] = [
        f"{row['source']} on {row['task']}, {row['done']:.0f} of {row['seeds']:.0f} seeds: {_in_words(row)}"
        for _, row in cells.iterrows()
    ]
    aside = {"other tasks": findings.gains["other tasks"], "● of them": findings.gains["as good as own"]}
    return _heat_map(cells, _MATRIX, list(findings.sources), list(findings.targets), aside)


def _published(published: pd.DataFrame) -> HeatMap:
    """Return the paper's matrix in the same way."""
    theirs: Mapping[str, Mapping[str, float]] = published_weights()["figure 2"]
    cells = published.rename_axis("source").reset_index().melt("source", var_name="task", value_name="gain")
    own = cells["source"] == cells["task"]
    cells["mark"], cells["said"] = np.where(own, "own", ""), cells["source"] + " on " + cells["task"]
    cells["as_good"] = ~own & (cells["gain"] >= cells["task"].map(lambda task: theirs[task][task]))
    return _heat_map(cells, f"the paper's {_MATRIX}", list(published.index), list(published.columns))


def _heat_map(
    cells: pd.DataFrame, name: str, sources: list[str], targets: list[str], aside: Mapping[str, Any] | None = None
) -> HeatMap:
    """Return gains by source and task as a heat map, with columns beside it."""
    good, missing = cells["as_good"], cells["gain"].isna()
    numbers = cells["gain"].map("{:+.2f}".format, na_action="ignore").astype(object)
    cells["text"] = numbers.where(~good, "● " + numbers)
    cells["mark"] += np.where(good, " as-good", "") + np.where(missing, " missing", "")
    cells["said"] += np.where(good, "; at least as good as the task's own ticket", "")
    text, mark, said, gains = (
        cells.pivot(index="source", columns="task", values=value).reindex(index=sources, columns=targets)
        for value in ("text", "mark", "said", "gain")
    )
    for title, column in (aside or {}).items():
        text[title], mark[title], said[title] = column, "aside", title
    text = text.rename_axis(index=None, columns=None)
    # By the square root: one task that loses much would else leave all other cells without a colour.
    return HeatMap(text, name, shades=strength(gains, power=0.5), marks=mark, says=said)


def _scores(findings: TransferFindings) -> Table:
    """Return mean scores with standard deviations, the dense model's first; cells sort by the mean."""
    said = findings.means.assign(said=[with_std(*scores) for scores in findings.means[["mean", "std"]].to_numpy()])
    matrix = said.pivot(index="source", columns="task", values="said")
    matrix = matrix.reindex(index=[DENSE, *findings.sources], columns=list(findings.targets))
    return Table(matrix.rename_axis(index="source", columns=None), "scores by source and task")


def _in_words(row: Any) -> str:
    if pd.isna(row["gain"]):
        return "nothing to compare yet"
    interval = f"; 95 % from {row['low']:+.2f} to {row['high']:+.2f}, p = {row['p']:.2g}"
    return with_std(row["mean"], row["std"]) + (interval if np.isfinite(row["p"]) else "")


def _overlaps(findings: TransferFindings) -> list[Block]:
    places = findings.by_place
    meaning = _SAID["overlaps"].format(_SAID["tensors"] if len(places) else "")
    blocks: list[Block] = [Table(findings.overlaps, "overlaps of tickets"), Words(meaning, "quiet")]
    if len(places):
        table = by_matrix(places, "overlap above chance, by layer and matrix", "{:+.1f}")
        blocks += [Heading("By layer and matrix"), Words(_SAID["places"], "key"), table]
    return blocks
