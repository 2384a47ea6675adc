"""What the page of a study of `imp` says: scores by sparsity, ways of rewinding, which weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from supertickets.evidence.imp import IMP, ROUND, RULES_SAID, START, ImpFindings
from supertickets.evidence.runs import DENSE, Runs
from supertickets.reports import sections as show
from supertickets.reports.plots import CHANCE, GREY, draw, draw_level, draw_scores, laid_out, look
from supertickets.reports.plots import DENSE as DENSE_STYLE
from supertickets.reports.sections import Block, Heading, Section, Table, Words, titled

_KINDS = {
    DENSE: "dense model",
    IMP: "IMP",
    "random": "random masks",
    "matched": "random masks, IMP's densities",
    "random-weights": "IMP's masks, random weights",
    "shuffled-layers": "IMP's masks, layers shuffled",
    "shuffled-elements": "IMP's masks, weights shuffled",
}
_SPARSITIES = {"title": "fraction of the prunable weights pruned", "tickformat": ".0%"}
_SAID = show.WORDS["imp"]


def imp_sections(findings: ImpFindings, runs: Runs) -> list[Section]:
    """Return what the page says of a study of `imp`."""
    title = f"Fraction of the weights kept at {100 * (findings.sparsity or 0):.4g} %"
    matrices = by_matrix(findings.densities, "fraction of the weights kept, by layer and matrix", "{:.1f}", 100.0)
    similarity = findings.similarity
    plot = [show.Figure(seeds_alike(similarity), *_SAID["similarity"])] if len(similarity) > 1 else []
    alike = [Table(similarity, "similarity of different seeds' tickets"), Words(_SAID["jaccard"], "quiet")]
    stays = [Heading(title), Words(_SAID["densities"], "key"), matrices]
    return [
        Section("", [Words(_SAID["about"], "quiet")]),
        Section("Scores by sparsity", _scores(findings, runs.task.measure)),
        *([Section("Kept weights by layer and matrix", stays)] if len(findings.densities) else []),
        *([Section("Agreement between seeds", [*plot, *alike])] if len(similarity) else []),
    ]


def _scores(findings: ImpFindings, measure: str) -> list[Block]:
    lines = _lines(findings)
    rewinding = findings.rewinding.dropna(subset=["difference"]).reset_index(drop=True)
    rewinding = rewinding.rename(columns={"rewind": "compared", "over": lines.get((IMP, ""), "first way")})
    alt, caption = _SAID["scores"]
    blocks: list[Block] = [show.of_seeds(scores_by_sparsity(findings, lines, measure), alt, caption)]
    if len(findings.means):
        rules = f"{show.tested('the ticket minus the dense model', 'all rows')} {_SAID['means'].format(findings.rule)}"
        blocks += [Table(_means(findings.means, lines), "mean scores"), Words(rules, "quiet")]
        blocks.append(show.Facts(RULES_SAID))
    meaning = show.tested("tickets in column compared minus those of the first rewind point (--rewind)", "all rows")
    return [
        *blocks,
        *titled("Table 2", Table(findings.table_2, "table 2"), _SAID["table"].format(show.beside(findings.table_2))),
        *titled("Effect of rewinding", Table(rewinding, "ways of rewinding"), meaning),
    ]


def _lines(findings: ImpFindings) -> dict[tuple[str, str], str]:
    """Return the name of what is trained beside the dense model, by kind and way of rewinding."""
    lines = {}
    for kind, rewind in dict.fromkeys(zip(findings.runs["kind"], findings.runs["rewind"], strict=True)):
        if kind not in (DENSE, ROUND, START):
            way = rewind or ("" if findings.first_way == "rewound" or kind != IMP else findings.first_way)
            name = _KINDS.get(kind, kind)
            lines[kind, rewind] = f"{name}, {way}" if way else name
    return lines


def _means(means: pd.DataFrame, lines: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Return the table of means, with what matches by which rule."""
    names = [lines.get(at, _KINDS[DENSE]) for at in zip(means["kind"], means["rewind"], strict=True)]
    trained = pd.Categorical(names, list(dict.fromkeys([_KINDS[DENSE], *lines.values()])), ordered=True)
    matching: Any = [_matching(row) for _, row in means[list(RULES_SAID)].iterrows()]
    columns = ["trained", "sparsity", "mean", "std", "runs", "difference", "low", "high", "p", "p_holm", "matches by"]
    shown = means.assign(trained=trained, **{"matches by": matching})[columns]
    return shown.sort_values(["trained", "sparsity"], ignore_index=True)


def _matching(rules: pd.Series) -> str | None:
    """Return the rules by which tickets match; None where none can be applied."""
    matching = ", ".join(rule for rule in RULES_SAID if rules[rule] is True)
    return matching or "no rule" if rules.notna().any() else None


def by_matrix(table: pd.DataFrame, name: str, form: str, most: float | None = None) -> show.HeatMap:
    """Return shares by layer and matrix, in percent, under shorter names: `query` for `attention.self.query`."""
    short = [str(column).replace("attention.self.", "").removesuffix(".dense") for column in table.columns]
    shown = 100 * table.set_axis(short, axis=1)
    return show.HeatMap(shown, name, form, shades=show.strength(shown, most))


def scores_by_sparsity(findings: ImpFindings, lines: Mapping[tuple[str, str], str], measure: str) -> go.Figure | None:
    """Return mean scores by sparsity, every seed's beside them, the dense model's as a line with a band; or None."""
    figure, runs, full = go.Figure(), findings.runs, findings.full
    most, highest = float(runs["sparsity"].max()), findings.highest.get("")
    names = [lines.get(at, "") for at in zip(runs["kind"], runs["rewind"], strict=True)]
    rows = runs.assign(name=names, x=runs["sparsity"], at=[f"{100 * sparsity:.4g} %" for sparsity in runs["sparsity"]])
    draw_scores(figure, rows, {name: look(i) for i, name in enumerate(lines.values())})
    if full is not None:
        mean, std = full["mean"], full["std"]
        label = f"dense model {mean:.2f}" + ("" if pd.isna(std) else f" ± {std:.2f}")
        draw_level(figure, label, mean, most, mean - std, mean + std)
        single = runs[(runs["kind"] == DENSE) & runs["score"].notna()]
        hover, x = "dense model, seed %{customdata}: %{y:.2f}", [0.0] * len(single)
        marker = {"symbol": "circle-open", "size": 6, "color": GREY}
        more = {"mode": "markers", "showlegend": False, "marker": marker}
        draw(figure, "dense model", DENSE_STYLE, x, single["score"], hover, single["seed"], **more)
    if highest is not None:
        said = {"text": "highest matching sparsity", "font": {"size": 11}, "yanchor": "bottom", "showarrow": False}
        place = "bottom left" if highest > 0.5 else "bottom right"
        line = {"color": GREY, "dash": "dot", "width": 1}
        figure.add_vline(highest, line=line, annotation=said, annotation_position=place)
    x_axis, height = _SPARSITIES | {"range": [-0.04 * most, 1.04 * most]}, 420 + 14 * max(len(lines) - 4, 0)
    found = len(findings.means) > 0
    return laid_out(figure, x_axis, f"dev {measure} (%)", showlegend=True, height=height) if found else None


def seeds_alike(similarity: pd.DataFrame) -> go.Figure:
    """Return which fraction of the kept weights the tickets of two seeds have in common, and its value by chance."""
    figure, x = go.Figure(), similarity["sparsity"]
    named = {"jaccard": ("tickets of two seeds", look(0)), "chance": ("chance", CHANCE)}
    for column, (name, style) in named.items():
        draw(figure, name, style, x, similarity[column], f"{name} %{{x:.0%}}: %{{y:.1%}}")
    y = {"title": "fraction in common", "tickformat": ".0%", "range": [0, 1.05]}
    return laid_out(figure, _SPARSITIES, y, height=340)
