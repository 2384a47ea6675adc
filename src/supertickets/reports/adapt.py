"""What the page of a study of `adapt` says: scores of trained models on a new task with few examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.adapt import AdaptFindings
from supertickets.evidence.runs import Runs
from supertickets.reports.plots import draw_scores, laid_out, look
from supertickets.reports.sections import WORDS, Heading, Section, Table, Words, beside, of_seeds, tested, titled

_APART = 0.035
"""How far models stand from each other at the same number of examples, as a part of the least step between two."""
_SAID = WORDS["adapt"]


def adapt_sections(findings: AdaptFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `adapt`."""
    models, measure = list(findings.runs["kind"].unique()), runs.task.measure
    layout = _SAID["table"].format(beside(findings.table))
    plot, alt = (
        scores_by_examples(findings.runs, measure),
        "Mean dev score of each model by number of examples",
    )
    gains = Table(findings.gains, "gains of tickets over dense models")
    meaning = tested("the ticket minus the dense model in column over", "all rows")
    scores = [
        *titled("Table 4", Table(findings.table, "table 4"), layout),
        Heading("Score by number of examples"),
        of_seeds(plot, alt, "Bars are standard deviations."),
        *titled("Gains over the dense models", gains, meaning),
    ]
    about = Words(_SAID["about"].format(", ".join(models), runs.task.task), "quiet")
    return [Section("", [about]), Section("Scores", scores)]


def scores_by_examples(runs: pd.DataFrame, measure: str) -> go.Figure | None:
    """Return each model's mean score by number of examples, with its deviation and every seed's; None without any."""
    if not runs["score"].notna().any():
        return None
    figure, counts, models = go.Figure(), sorted(set(runs["examples"])), list(runs["kind"].unique())
    apart = min(np.diff(np.log(counts)), default=0.3) * _APART
    place = runs["kind"].map({model: i - (len(models) - 1) / 2 for i, model in enumerate(models)})
    at = runs["examples"].map("{:,} examples".format)
    rows = runs.assign(name=runs["kind"], x=runs["examples"] * np.exp(place * apart), at=at)
    draw_scores(figure, rows, {model: look(i) for i, model in enumerate(models)}, bar=True)
    x = {"title": "training examples", "type": "log", "tickvals": counts, "ticktext": [f"{n:,}" for n in counts]}
    return laid_out(figure, x, f"dev {measure} (%)", showlegend=True)
