"""What pages say of super tickets: of a study of `find`, and of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from supertickets.evidence.cells import tested
from supertickets.evidence.find import FindFindings
from supertickets.evidence.gains import paired_gains
from supertickets.evidence.labels import TAUGHT
from supertickets.evidence.runs import CONTROL, DENSE, Runs
from supertickets.reports.equal_budget import equal_budget_section
from supertickets.reports.maps import StructureMap
from supertickets.reports.measured import measured_sections
from supertickets.reports.page import anchor
from supertickets.reports.plots import CHANCE, GREY, LEVELS, draw, draw_each, draw_level, laid_out, look, plain
from supertickets.reports.plots import DENSE as DENSE_STYLE
from supertickets.reports.search import search_section
from supertickets.reports.sections import WORDS, Block, Figure, Heading, Maps, Section, Table, Words, tables_section
from supertickets.reports.soup import soup_section
from supertickets.reports.target import target_section
from supertickets.reports.taught import taught_section
from supertickets.tickets.folder import SUPER_TICKET, TICKET_JSON
from supertickets.tickets.kinds import NAMES

STYLES = {kind: look(i) for i, kind in enumerate(("winning", "random", "losing", "super"))}
STYLES |= {DENSE: DENSE_STYLE, CONTROL: CHANCE, TAUGHT: look(4)}
PAPER = "tables"
"""The section of the paper's tables, which the page of several studies has once."""
_MEANS = {"std": "standard deviation", "low": "95 % low", "high": "95 % high"}
_SAID = WORDS["find"]


def find_sections(findings: FindFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `find`."""
    own, measure, means = runs.only(stage=None), runs.task.measure, findings.means
    table = means[["kind", "level", "mean", "std", "low", "high", "runs"]].rename(columns=_MEANS)
    shares = findings.kept.rename(columns="{} kept".format)
    table = table.join(shares, on="level") if len(table) else table
    agreement = findings.agreement
    figures = {
        "Scores of all runs": Figure(score_distribution(own.table, measure), *_SAID["distribution"]),
        "Score and cost": Figure(cost_against_score(own.table, measure), *_SAID["cost"]),
    }
    several = findings.search is None and findings.levels > 1
    curves = [Figure(phase_curves(means, measure), *_SAID["phases"])] if several else []
    sections = [
        Section("Gain over the dense model", _remains(findings)),
        *([] if findings.search is None else [search_section(findings.search)]),
        *([] if findings.taught is None else [taught_section(findings.taught, findings.cross_fitted)]),
        *([] if findings.tuned is None else [equal_budget_section(findings.tuned)]),
        *([] if findings.target is None else [target_section(findings.target)]),
        *([] if findings.soups is None else [soup_section(findings.soups)]),
        Section("Phases" if curves else "Mean scores", [*curves, Table(table, "mean scores")]),
        *(Section(title, [figure]) for title, figure in figures.items()),
        Section("Heads and FFNs kept by winning tickets", _maps(findings, own)),
        Section(
            "Agreement between seeds", [Figure(seeds_alike(agreement), *_SAID["agreement"])] if len(agreement) else []
        ),
    ]
    sections += measured_sections(runs.folder, runs.folder / SUPER_TICKET / TICKET_JSON)
    if findings.spread:
        sections.append(tables_section(findings.spread, "Sensitivity", _SAID["spread"]))
    if findings.paper_tables:
        sections.append(paper_section(findings.paper_tables))
    return [section for section in sections if section.blocks]


def paper_section(tables: Mapping[str, pd.DataFrame]) -> Section:
    """Return the section of the paper's tables."""
    shown = {name: table for name, table in tables.items() if name != "gains"}
    return tables_section(shown, "The paper's tables", _SAID["tables"], PAPER)


def overview(names: Sequence[str], findings: Sequence[FindFindings], gains: pd.DataFrame, average: str) -> Section:
    """Return what the page of several studies says of all: their verdicts, gains by level, tests."""
    link = Markup('<a href="#{}"><strong>{}</strong></a>: {}')
    verdicts = [one.verdict for one in findings]
    said = [Words(link.format(anchor(i), names[i], verdict)) for i, verdict in enumerate(verdicts)]
    plot = gains_by_level({name: one.grid for name, one in zip(names, findings, strict=True)})
    blocks = [Words(average, "verdict"), *said, Figure(plot, *_SAID["gains"]), Heading("Gains and tests")]
    tests = Table(gains, "gains and tests of all studies")
    return Section("Overview", [*blocks, tests, Words(_SAID["tests"], "quiet")], "overview")


def _remains(findings: FindFindings) -> list[Block]:
    """Return what super tickets gain, judged in several ways."""
    rows = []
    if (narrow := findings.narrow) is not None:
        for kind, gain in narrow.over.items():
            how = f"level {narrow.level:.3g}, fixed beforehand, over {kind}"
            rows.append((how, f"{gain.mean:+.2f}", *tested(gain.test)))
    elif (search := findings.search) is not None:
        for kind, gain in search.over.items():
            how = f"level {search.level:.3g}, found by a search, over {kind}, on examples that it did not see"
            rows.append((how, f"{gain.mean:+.2f}", *tested(gain.test)))
    elif findings.paper is not None and findings.cross_fitted is not None:
        on, choice = findings.selection, findings.choice
        sampled = on.sampled and findings.levels > 1  # of one level, the epoch alone is chosen
        where = f"a random sample of the dev set, {on.size} examples" if sampled else "the dev set that scores it"
        how = f"best score on {where}" + (" (as in the paper)" if sampled else "")
        for name, gain in ((how, findings.paper), ("cross-fitting", findings.cross_fitted)):
            rows.append((name, f"{gain.mean:+.2f}", *tested(gain.test)))
        if choice is not None and choice.known:
            often = f"below 0.05 in {choice.significant:.0%} of studies" if choice.seeds > 1 else "-"
            name = f"choosing alone: best of {choice.among} dense runs (± standard deviation of studies)"
            rows.insert(1, (name, f"{choice.gain:+.2f} ± {choice.spread:.2f}", "-", often))
            rows.append(("choosing alone, cross-fitted", f"{choice.cross_fitted:+.2f}", "-", "-"))
    first = "super ticket chosen by" if narrow is None and findings.search is None else "winning tickets"
    table = pd.DataFrame(rows, columns=[first, "gain", "95 % interval", "p"])
    words = _SAID["remains" if findings.search is None else "found"]
    return [Table(table, "gain over the dense model", wrap=True), Words(words, "quiet")] if rows else []


def _maps(findings: FindFindings, runs: Runs) -> list[Block]:
    """Return the winning tickets as drawings, level by level."""
    best = None if findings.chosen is None else (findings.chosen["level"], findings.chosen["seed"])
    levels: dict[float, list[StructureMap]] = {}
    for run in runs.every(kind="winning"):
        level, name = float(run.step.labels["level"]), f"seed {run.step.labels['seed']}"
        if level and run.trial is not None:
            chosen = (level, run.step.labels["seed"]) == best
            drawn = StructureMap.of(name, run.trial.ticket, f"{_pruned(findings, level)}, {name}", chosen)
            levels.setdefault(level, []).append(drawn)
    blocks = [(Heading(_pruned(findings, level)), Maps(maps)) for level, maps in sorted(levels.items())]
    return [Words(_SAID["maps"], "key"), *(block for pair in blocks for block in pair)] if blocks else []


def _pruned(findings: FindFindings, level: float) -> str:
    """Return how much tickets of a level lack, or what they keep to."""
    target = findings.target
    return f"{100 * level:.3g}% pruned" if target is None else f"within {' and '.join(target.names)}"


def phase_curves(means: pd.DataFrame, measure: str) -> go.Figure:
    """Return the phase-transition plot (paper, Figure 4): mean score by level for each kind, with its interval."""
    figure, tickets = go.Figure(), {kind: STYLES[kind] for kind in ("winning", "random", "losing")}
    hover = (
        "%{x:.0%}<br>mean %{y:.2f} (95 %: %{customdata[0]:.2f} to %{customdata[1]:.2f})<br>standard deviation "
        "%{customdata[2]:.2f}<br>%{customdata[3]} runs"
    )
    draw_each(figure, means, tickets, "level", "mean", hover, ["low", "high", "std", "runs"])
    for _, row in means[means["kind"] == DENSE].head(1).iterrows():
        label = f"dense {row['mean']:.2f}"
        draw_level(figure, label, row["mean"], float(means["level"].max()), row["low"], row["high"])
    return laid_out(figure, LEVELS, f"dev {measure} (%)")


def score_distribution(table: pd.DataFrame, measure: str) -> go.Figure:
    """Return every run's score as a point, by kind and level: what the means are made of."""
    figure, finished = go.Figure(), table[table["status"] == "finished"]
    aside = finished["kind"].map({"winning": -0.012, "losing": 0.012, CONTROL: 0.012, TAUGHT: -0.012}).fillna(0.0)
    hover = "%{customdata[0]:.0%}, seed %{customdata[1]}<br>%{y:.2f}"
    rows, data = finished.assign(x=finished["level"] + aside), ["level", "seed"]
    draw_each(figure, rows, STYLES, "x", "score", hover, data, mode="markers", opacity=0.75)
    return laid_out(figure, LEVELS, f"dev {measure} (%)")


def cost_against_score(table: pd.DataFrame, measure: str) -> go.Figure:
    """Return mean score against cost, with the Pareto front."""
    figure, finished = go.Figure(), table[(table["status"] == "finished") & (table["kind"] != CONTROL)]
    points = finished.groupby(["kind", "level"], sort=False)[["inference", "remaining", "score"]].mean().reset_index()
    hover = "%{customdata[0]:.0%}<br>%{y:.2f} at %{x:.0%} of the FLOPs, %{customdata[1]:.0%} of the parameters"
    draw_each(figure, points, STYLES, "inference", "score", hover, ["level", "remaining"], mode="markers")
    ordered = points.sort_values(["inference", "score"], ascending=[True, False])
    front = ordered[ordered["score"] > ordered["score"].cummax().shift(fill_value=-np.inf)]
    line, x, y = {"color": "#009E73", "shape": "hv", "width": 1.5}, front["inference"], front["score"]
    draw(figure, "Pareto front", DENSE_STYLE, x, y, "", mode="lines", line=line, hoverinfo="skip")
    return laid_out(
        figure,
        {"title": "forward FLOPs, fraction of the dense model's", "tickformat": ".0%"},
        f"mean dev {measure} (%)",
    )


def seeds_alike(agreement: pd.DataFrame) -> go.Figure:
    """Return how far the winning tickets of different seeds prune the same structures, with what chance gives."""
    figure, level = go.Figure(), agreement["level"]
    kinds = [kind for kind in NAMES if kind in agreement and agreement[kind].notna().any()]
    for part, style in zip(kinds, (STYLES["winning"], STYLES["random"]), strict=False):
        name = NAMES[part]
        hover = f"%{{x:.0%}}: %{{y:.0%}} of the {name} pruned are the same; chance %{{customdata:.0%}}"
        chance = agreement[f"{part}_chance"]
        draw(figure, f"{name} pruned by both seeds", style, level, agreement[part], hover, chance)
        said = f"{name}: chance %{{y:.0%}}"
        draw(figure, f"chance, {name}", replace(CHANCE, colour=style.colour), level, chance, said, mode="lines")
    return laid_out(figure, LEVELS, {"title": "fraction in common", "tickformat": ".0%", "range": [0, 1.05]})


def gains_by_level(runs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Return, for several studies, the winning tickets' mean gain over the same seeds' dense runs at each level."""
    figure = go.Figure()
    for i, (name, of) in enumerate(runs.items()):
        found = paired_gains(of, {"kind": "winning"}, {"kind": DENSE, "level": ...}, ("level",))
        found = found[found["difference"].notna()].sort_values("level")
        if len(found):
            hover = f"{plain(name)}<br>%{{x:.0%}}: %{{y:+.2f}}"
            draw(figure, name, look(i), found["level"], found["difference"], hover)
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    return laid_out(figure, LEVELS, "mean gain over the dense model", showlegend=True)
