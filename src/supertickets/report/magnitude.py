"""The page about tickets of single weights (a study of `imp`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supertickets.evidence.magnitude import IMP, ROUND, RULES_SAID, START, Magnitude, first_way
from supertickets.evidence.record import Record
from supertickets.evidence.table import DENSE
from supertickets.report.figures_weights import scores_by_sparsity, similarity_by_sparsity
from supertickets.report.html import GAINS, Grid, Study, grid, model_name, plot, write_html
from supertickets.report.shades import Shades, matrix_names

_KINDS = {
    DENSE: "full model",
    IMP: "IMP",
    "one-shot": "one-shot",
    "random": "random masks",
    "matched": "random masks, IMP's densities",
    "random-weights": "IMP's masks, random weights",
    "shuffled-layers": "IMP's masks, layers shuffled",
    "shuffled-elements": "IMP's masks, weights shuffled",
}
_RULES = {"sub_std": "own std", "full_std": "full std", "strict": "mean"}


def write_magnitude_report(path: Path, record: Record, seen: Magnitude, command: str) -> None:
    """Write the page about a study of `imp`; `command` repeats it."""
    subject, lines = record.subject, _lines(record, seen)
    model = model_name(subject.model)
    similarity = seen.similarity.rename(columns={"by tensor": "averaged over tensors"})
    write_html(
        path,
        "magnitude.html.jinja",
        title=f"Tickets of weights of {model} on {record.name}",
        model=model,
        subject=subject,
        study=Study.of(record, seen.sentences, seen.runs, command),
        scores=(
            plot(scores_by_sparsity(seen.runs, seen.means, lines, subject.measure, seen.highest.get("")))
            if len(seen.means)
            else ""
        ),
        means=_means(seen, lines),
        rules={_RULES[rule]: said for rule, said in RULES_SAID.items()},
        rule=_RULES[seen.rule],
        shown=f"{100 * seen.shown:.4g} %" if seen.shown is not None else "",
        table_2=grid(seen.table_2),
        theirs=any("published" in str(name) for name in seen.table_2.columns),
        rewinding=grid(
            seen.rewinding[seen.rewinding["difference"].notna()].rename(columns={"first way": lines[IMP, ""]}),
            _percent("sparsity") | GAINS,
        ),
        densities=Shades.of(100 * seen.densities, "{:.1f}", 100.0, matrix_names(seen.densities)),
        similar=plot(similarity_by_sparsity(seen.similarity)) if len(seen.similarity) > 1 else "",
        similarity=grid(similarity, _percent("sparsity", "jaccard", "averaged over tensors", "chance")),
    )


def _percent(*columns: str) -> dict[str, str]:
    return dict.fromkeys(columns, "{:.1%}")


def _lines(record: Record, seen: Magnitude) -> dict[tuple[str, str], str]:
    """Return what is trained beside the full model, by kind and way of rewinding, under the name it has on the page."""
    first, lines = first_way(record), {}
    for kind, variant in dict.fromkeys(zip(seen.runs["kind"], seen.runs["variant"], strict=True)):
        if kind not in (DENSE, ROUND, START):
            way = variant or ("" if first == "rewound" or kind != IMP else first)
            lines[kind, variant] = f"{_KINDS[kind]}, {way}" if way else _KINDS[kind]
    return lines


def _means(seen: Magnitude, lines: dict[tuple[str, str], str]) -> Grid:
    """Return the table of means, with what matches by which rule."""
    names = [lines.get(at, _KINDS[DENSE]) for at in zip(seen.means["kind"], seen.means["variant"], strict=True)]
    shown = seen.means.assign(trained=names)
    shown["matches by"] = [_matching(row) for row in seen.means[list(_RULES)].to_dict("records")]
    columns = ["trained", "sparsity", "mean", "std", "runs", "difference", "low", "high", "p", "p_holm", "matches by"]
    return grid(shown[columns], _percent("sparsity") | GAINS | {"runs": "{:.0f}"})


def _matching(by_rule: Mapping[Any, Any]) -> str | None:
    """Say by which rules a ticket matches; None where none can be applied."""
    if all(value is None or value != value for value in by_rule.values()):
        return None
    return ", ".join(name for rule, name in _RULES.items() if by_rule[rule] is True) or "no rule"
