"""The paper's tables of several studies, in its layout, beside its own figures where model and task are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from supertickets.errors import named_twice
from supertickets.evidence.cells import joined_means, number
from supertickets.evidence.choice_alone import ChoiceAlone, choice_in_average
from supertickets.evidence.examples import joined
from supertickets.evidence.find import FindFindings
from supertickets.evidence.findings import interval
from supertickets.evidence.gains import Gain
from supertickets.evidence.published import (
    MISMATCHED,
    ORDER,
    column_title,
    published_model,
    published_rows,
    why_not_averaged,
)
from supertickets.evidence.runs import DENSE, Runs
from supertickets.evidence.selection import candidates
from supertickets.evidence.statistics import holm


@dataclass(frozen=True)
class AnalysedStudy:
    """A study of `find` with what it shows."""

    runs: Runs
    findings: FindFindings


@dataclass(frozen=True)
class Average:
    """The mean over tasks, seed by seed: gains as the paper reports them and cross-fitted, or why there is none.

    `choice` is what choosing alone gives, None where that is not known.
    """

    paper: Gain | None = None
    cross_fitted: Gain | None = None
    reason: str = ""
    choice: ChoiceAlone | None = None

    def sentence(self) -> str:
        """Say it for people."""
        if self.paper is None or self.cross_fitted is None:
            return self.reason
        seeds = len(self.paper.seeds)
        said = f"Average over tasks ({seeds} seed{'s' if seeds > 1 else ''}): dense {self.paper.dense_mean:.2f}"
        for name, gain in (("gain as in the paper", self.paper), ("cross-fitted gain", self.cross_fitted)):
            said += f"; {name} {gain.mean:+.2f}{interval(vars(gain.test))}"
            if gain is self.paper and self.choice is not None:
                said += f"; choosing the best alone would give {self.choice}"
            elif gain is self.cross_fitted and self.choice is not None and np.isfinite(self.choice.cross_fitted):
                said += f"; choosing alone, cross-fitted, would give {self.choice.cross_fitted:+.2f}"
        return said + ("." if seeds > 1 else ". With one seed, intervals and p are over dev examples alone.")


def in_order(studies: Sequence[AnalysedStudy]) -> list[AnalysedStudy]:
    """Return studies in the order of the paper's tables, other tasks after them by name."""
    place = {task: i for i, task in enumerate(ORDER)}
    return sorted(
        studies,
        key=lambda one: (place.get(one.runs.task.task, len(ORDER)), one.runs.name, str(one.runs.folder)),
    )


def names_of(studies: Sequence[AnalysedStudy]) -> list[str]:
    """Return a unique name for each study: the task, with the model where needed, or else the folder."""
    names = [one.runs.name for one in studies]
    for more in (lambda one: f" on {one.runs.task.called}", lambda one: f" in {one.runs.folder}"):
        names = [name + more(one) if names.count(name) > 1 else name for name, one in zip(names, studies, strict=True)]
    return names


def gains(studies: Sequence[AnalysedStudy]) -> pd.DataFrame:
    """Return one row a study: dense and super scores (mean and standard deviation over seeds), gains, tests, size.

    `paper_*` is each seed's best winning ticket, chosen on the dev set that scores it or on a sample of it (`chosen_on`
    says how many examples), `cross_fitted_*` the cross-fitted selection. `cross_fitted_p` is for new seeds and
    examples, `paper_p` of a paired t-test over seeds, `*_p_holm` corrected for the number of studies. `choice_*` is
    what choosing alone gives (`evidence.choice_alone`). The last row is the average over tasks, where there is one.
    What there is not is missing (NaN).
    """
    rows = []
    for name, one in zip(names_of(ordered := in_order(studies)), ordered, strict=True):
        runs, seen = one.runs, one.findings
        entry: dict[str, Any] = {"task": name, "model": runs.task.called}
        entry |= {"metrics": "/".join(runs.task.metrics), "chosen_on": seen.selection.size}
        entry |= _gain_cells(seen.paper, seen.cross_fitted, seen.choice)
        if seen.paper is not None:
            entry |= {"remaining": np.mean(seen.remaining), "remaining_std": _std(seen.remaining)}
        looked = {True: "yes", False: "no"}[seen.phases.seen] if seen.search is None else ""
        rows.append(entry | {"transition": looked})
    frame = pd.DataFrame(rows)
    frame["transition"] = frame.pop("transition")  # the last column
    for name in ("paper", "cross_fitted"):
        if f"{name}_p" in frame:
            corrected = holm(frame[f"{name}_p"].tolist())
            frame.insert(list(frame.columns).index(f"{name}_p") + 1, f"{name}_p_holm", corrected)
    average = task_average(studies)
    if average.paper is not None:
        last = {"task": "average", "model": "", "metrics": ""}
        last |= _gain_cells(average.paper, average.cross_fitted, average.choice)
        frame = pd.concat([frame, pd.DataFrame([last | {"transition": ""}])], ignore_index=True)
    whole = {name: "Int64" for name in ("chosen_on", "seeds") if name in frame}
    return frame.astype(whole)


def _gain_cells(paper: Gain | None, cross_fitted: Gain | None, choice: ChoiceAlone | None) -> dict[str, Any]:
    if paper is None or cross_fitted is None:
        return {}
    cells: dict[str, Any] = {"seeds": len(paper.seeds)}
    cells |= {"dense": np.mean(paper.dense), "dense_std": _std(paper.dense)}
    cells |= {"super": np.mean(paper.scores), "super_std": _std(paper.scores)}
    for name, gain in (("paper", paper), ("cross_fitted", cross_fitted)):
        cells |= {f"{name}_gain": gain.mean, f"{name}_low": gain.test.low, f"{name}_high": gain.test.high}
        cells |= {f"{name}_p": gain.test.p}
        if gain is paper and choice is not None:
            cells |= {"choice_gain": choice.gain, "choice_spread": choice.spread}
            cells |= {"choice_significant": choice.significant, "choice_cross_fitted": choice.cross_fitted}
    return cells


def _std(values: Sequence[float]) -> float:
    return round(float(np.std(values, ddof=1)), 12) if len(values) > 1 else np.nan


def task_average(studies: Sequence[AnalysedStudy]) -> Average:
    """Average over tasks within each seed, and test over seeds; says why where tasks do not average.

    Scores in percent average as GLUE does: each task with GLUE's own metrics. Other tasks average only if all have the
    same metrics.
    """
    if len(studies) < 2:
        return Average(reason="One task has no average.")
    tasks = [one.runs.task for one in studies]
    names = [one.runs.name for one in studies]
    if (twice := named_twice([task.task for task in tasks])) is not None:
        return Average(reason=f"No average over tasks: {twice} is there more than once.")
    if len({task.weight_hash for task in tasks}) > 1:
        return Average(reason="No average over tasks: the studies have different base models.")
    if len({one.runs.settings.get("fraction", 1.0) for one in studies}) > 1:
        return Average(reason="No average over tasks: the studies train on different fractions of their training sets.")
    if len({tuple(one.runs.settings.get("target", ())) for one in studies}) > 1:
        return Average(reason="No average over tasks: the studies have different targets (--target).")
    if len({one.findings.taught is None for one in studies}) > 1:
        return Average(reason="No average over tasks: tickets are taught (--teacher) in some of the studies only.")
    if reason := why_not_averaged(tasks, names):
        return Average(reason=reason)
    if any(one.findings.search is not None for one in studies):
        return Average(
            reason="No average over tasks: some of the studies trained a part of the levels only (--search)."
        )
    unfinished = [name for name, one in zip(names, studies, strict=True) if one.findings.paper is None]
    if unfinished:
        return Average(reason=f"No average over tasks: no winning ticket of {', '.join(unfinished)} finished.")
    both = [(one.findings.paper, one.findings.cross_fitted) for one in studies]
    seeds = sorted(set.intersection(*[set(paper.seeds) for paper, _ in both if paper is not None]))
    if not seeds:
        return Average(reason="No average over tasks: the studies have no seed in common.")

    def averaged(which: int, what: str) -> list[float]:
        columns = []
        for pair in both:
            gain = pair[which]
            assert gain is not None
            columns.append([getattr(gain, what)[gain.seeds.index(seed)] for seed in seeds])
        return [float(value) for value in np.mean(columns, axis=0)]

    paper, cross_fitted = ((averaged(which, "scores"), averaged(which, "dense")) for which in (0, 1))
    honest = [gain for _, gain in both if gain is not None]
    parts = [of.differences[[of.seeds.index(one) for one in seeds]] for of in honest if of.differences is not None]
    by_example = (joined(parts), [part.shape[1] for part in parts]) if len(parts) == len(honest) else ()
    alone = choice_in_average([one.findings.choice for one in studies], len(seeds))
    return Average(Gain.of(seeds, *paper), Gain.of(seeds, *cross_fitted, *by_example), choice=alone)


def paper_tables(studies: Sequence[AnalysedStudy]) -> dict[str, pd.DataFrame]:
    """Return `gains` and the paper's Tables 1, 5, 6 and 7 of these studies, with its own figures where they match.

    Cells are text in the paper's layout: metrics joined by `/`, `-` for what there is not.
    """
    ordered = in_order(studies)
    titles = [
        column_title(one.runs.task, name, MISMATCHED in one.runs.table)
        for name, one in zip(names_of(ordered), ordered, strict=True)
    ]

    def row(cells: Iterable[str]) -> dict[str, str]:
        return dict(zip(titles, cells, strict=True))

    average, means = task_average(studies), [np.nan] * 3
    if average.paper is not None and average.cross_fitted is not None:
        means = [average.paper.dense_mean, average.paper.super_mean, average.cross_fitted.super_mean]
    remaining = [one.findings.remaining for one in ordered]
    sizes_left = [np.mean(shares) for shares in remaining if shares]
    left = f"{np.mean(sizes_left):.1%}" if sizes_left else "-"
    cross_fitted = ("-" if (gain := one.findings.cross_fitted) is None else f"{gain.super_mean:.1f}" for one in ordered)
    scores = {
        "ST-DNN": row(_scores(one, False) for one in ordered),
        "SuperT": row(_scores(one, True) for one in ordered),
        "SuperT (cross-fitted)": row(cross_fitted),
    }
    for cells, mean, compression in zip(scores.values(), means, ("100%", left, left), strict=True):
        cells |= {"Average Score": number(mean), "Average Compression": compression}
    spread = _spread([one.findings for one in ordered], row)
    left_of = {
        "SuperT (Mean)": row(number(float(np.mean(shares or (np.nan,)))) for shares in remaining),
        "SuperT (Std Dev)": row(number(_std(shares)) for shares in remaining),
    }
    tables = {"table 1": scores, "table 5": spread, "table 6": {"SuperT": spread["SuperT"]}, "table 7": left_of}
    columns = dict(zip(titles, (one.runs.task for one in ordered), strict=True))
    sizes = sorted({size for one in ordered if (size := published_model(one.runs.task)) is not None})
    found = {"gains": gains(studies)}
    for title, rows in tables.items():
        for size in sizes:
            rows |= published_rows(title, size, columns)
        found[title] = pd.DataFrame.from_dict(rows, orient="index")
    return found


def _spread(findings: Sequence[FindFindings], row: Callable[[Iterable[str]], dict[str, str]]) -> dict[str, Any]:
    """Return standard deviations over seeds (Table 5), and what becomes of them by choosing the best level alone."""
    dense, supers, by_level, ratios, alone = [], [], [], [], []
    for one in findings:
        dense.append(np.nan if one.paper is None else _std(one.paper.dense))
        supers.append(np.nan if one.paper is None else _std(one.paper.scores))
        # As of one level: variances, not standard deviations, average without bias.
        by_level.append(float(np.sqrt(candidates(one.grid).groupby("level")["score"].var().mean())))
        ratios.append(supers[-1] / dense[-1] if dense[-1] > 0 else np.nan)
        alone.append(np.nan if one.choice is None else one.choice.ratio)
    rows = {"ST-DNN": dense, "SuperT": supers, "winning tickets of one level (mean over levels)": by_level}
    rows |= {"SuperT / ST-DNN": ratios, "the same by choosing alone": alone}
    return {name: row(map(number, values)) for name, values in rows.items()}


def _scores(one: AnalysedStudy, of_super: bool) -> str:
    """Return the mean over seeds of each metric, of dense runs or of each seed's best winning ticket."""
    table, gain = one.findings.grid, one.findings.paper
    finished = table[table["status"] == "finished"]
    if of_super:
        chosen = one.findings.supers
    else:
        chosen = finished[finished["kind"] == DENSE]
        chosen = chosen[chosen["seed"].isin(gain.seeds)] if gain is not None else chosen
    return joined_means(chosen, [*one.runs.task.metrics, *([MISMATCHED] if MISMATCHED in table else [])])
