"""What adapting trained models to a new task with few examples shows: the paper's Table 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from supertickets.evidence.cells import number, with_std
from supertickets.evidence.findings import Findings
from supertickets.evidence.gains import GAIN, all_gains, means, paired_gains
from supertickets.evidence.published import column_title, published, published_label, published_model
from supertickets.evidence.runs import Runs


@dataclass(frozen=True)
class AdaptFindings(Findings):
    """What a study of `adapt` shows.

    `table` is the paper's Table 4; `gains` compares each ticket with its dense model (`over`). `longer` has the epochs
    of trainings that had more than asked for, by number of examples, `epochs` and `least_steps` what was asked for.
    `compares` is whether there is a dense model to compare with.
    """

    task: str
    table: pd.DataFrame
    gains: pd.DataFrame
    longer: Mapping[int, int]
    epochs: int
    least_steps: int
    compares: bool = True

    text = "adapt.txt.jinja"
    shown = {"table 4": "mean dev scores (Table 4)"}  # noqa: RUF012

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return Table 4 and the gains."""
        return {"table 4": self.table, "gains": self.gains}


def analyse_adapt(runs: Runs, pairs: Sequence[tuple[str, str]]) -> AdaptFindings:
    """Look at all outcomes of a study of `adapt`; `pairs` are the models with tickets and the dense ones to compare."""
    epochs = int(runs.settings["epochs"])
    had = {int(run.step.labels["examples"]): run.trial.recipe.epochs for run in runs.runs if run.trial is not None}
    return AdaptFindings(
        runs=runs.table,
        task=runs.task.task,
        table=table_4(runs, means(runs.table, ["kind", "examples"])),
        gains=gains(runs.table, pairs),
        longer={examples: count for examples, count in sorted(had.items()) if count != epochs},
        epochs=epochs,
        least_steps=int(runs.settings.get("least_steps") or 0),
        compares=bool(pairs),
    )


def table_4(runs: Runs, averaged: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's Table 4: mean dev score and standard deviation by model and number of training examples.

    Rows of the paper's own figures follow where the model has its architecture and the task is one of its two. Cells
    are text.
    """
    counts = [task.train for task in runs.tasks]
    of = {
        (kind, n): with_std(mean, std)
        for kind, n, mean, std in averaged[["kind", "examples", "mean", "std"]].to_numpy()
    }
    rows = {kind: [of.get((kind, n), "-") for n in counts] for kind in runs.table["kind"].unique()}
    model = published_model(runs.task)
    theirs = dict(published()["table 4"].get(model, {}).get(runs.task.task, {}))
    there = theirs.pop("examples", ())
    for name, scores in theirs.items():
        score_at = dict(zip(there, scores, strict=True))
        rows[published_label(name, str(model))] = [number(score_at.get(n, np.nan), "{:.1f}") for n in counts]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[f"{n:,} examples" for n in counts])
    frame.index.name = column_title(runs.task, runs.task.task, False)
    return frame


def gains(found: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return what each ticket gains over its dense model at each number of examples; `p_holm` is over all rows."""
    of_pairs = (
        paired_gains(found, {"kind": ticket}, {"kind": dense}, ("kind", "examples")).assign(over=dense)
        for ticket, dense in pairs
    )
    frame = all_gains([of_pair.sort_values("examples") for of_pair in of_pairs]).rename(columns={"kind": "ticket"})
    return frame.reindex(columns=["ticket", "over", "examples", "seeds", *GAIN[3:], "p_holm"])
