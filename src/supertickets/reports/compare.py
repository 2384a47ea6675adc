"""What the page of a study of `compare` says: the effect of each changed setting."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.compare import CompareFindings
from supertickets.evidence.runs import DENSE, Runs
from supertickets.reports.find import STYLES
from supertickets.reports.plots import GREY, bars, draw, laid_out, plain, short
from supertickets.reports.sections import WORDS, Block, Figure, Section, Table, Words, tested

_SAID = WORDS["compare"]


def compare_sections(findings: CompareFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `compare`."""
    known = findings.comparison[findings.comparison["difference"].notna()]
    figure: Block = Figure(differences(known), *_SAID["differences"]) if len(known) else Words(WORDS["all"]["none"])
    meaning = f"{_SAID['table']} {tested('with the change minus without', 'all rows')}"
    table = Table(findings.comparison, "effect of each changed setting")
    return [Section("Effect of each changed setting", [figure, table, Words(meaning, "quiet")])]


def differences(comparison: pd.DataFrame) -> go.Figure:
    """Return each choice's difference in score, with its interval: a row a choice, marks for kinds and levels."""
    figure, choices = go.Figure(), list(comparison["choice"].unique())
    levels = sorted(set(comparison["level"]))
    for (kind, level), rows in comparison.groupby(["kind", "level"], sort=False):
        place, style, x = levels.index(level), STYLES[str(kind)], rows["difference"]
        y = rows["choice"].map(choices.index) + 0.5 * ((place + 0.5) / len(levels) - 0.5)
        name = kind if kind == DENSE else f"{kind} {level:.0%}"
        hover = f"%{{customdata[0]}}<br>{name}: %{{x:+.2f}} (%{{customdata[1]}} seeds)"
        data = rows[["choice", "seeds"]].assign(choice=rows["choice"].map(plain))
        more = {"marker": {"symbol": style.symbol, "size": 7 + 3 * place, "color": style.colour}, "mode": "markers"}
        draw(figure, name, style, x, y, hover, data, error_x=bars(rows["high"] - x, x - rows["low"]), **more)
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    y_axis = {"tickvals": list(range(len(choices))), "ticktext": [short(choice) for choice in choices]}
    y_axis |= {"autorange": "reversed", "ticksuffix": " ", "zeroline": False}
    return laid_out(figure, {"title": "difference in score"}, y_axis, showlegend=True, height=150 + 44 * len(choices))
