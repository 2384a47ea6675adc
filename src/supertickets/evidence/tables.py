"""The paper's tables of several studies, in its layout, beside its own figures where model and task are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.conclusions import Conclusions
from supertickets.evidence.record import Record
from supertickets.evidence.statistics import Paired, holm, paired_t_test
from supertickets.evidence.table import select_super
from supertickets.storage import write_atomically
from supertickets.tasks.glue import GLUE

ORDER = ("rte", "mrpc", "cola", "sst2", "stsb", "qnli", "qqp", "mnli", "wnli")
"""The tasks' order in the paper's tables."""
_TITLES = {"sst2": "SST", "stsb": "STS-B", "cola": "CoLA", "mnli": "MNLI-m/mm"}
_METRICS = {"accuracy": "Acc", "f1": "F1", "matthews": "Mcc", "pearson": "P", "spearman": "S"}


@dataclass(frozen=True)
class Looked:
    """A study with its conclusions."""

    record: Record
    conclusions: Conclusions


@dataclass(frozen=True)
class Average:
    """The mean over tasks, seed by seed: gains as the paper reports them and cross-fitted, or why there is none."""

    seeds: tuple[int, ...] = ()
    dense: float = np.nan
    paper: Paired | None = None
    honest: Paired | None = None
    reason: str = ""

    def sentence(self) -> str:
        """Say it for people."""
        if self.paper is None or self.honest is None:
            return self.reason
        seeds = len(self.seeds)
        said = f"Average over tasks ({seeds} seed{'s' if seeds > 1 else ''}): dense {self.dense:.2f}"
        for name, test in (("the paper would report", self.paper), ("cross-fitted", self.honest)):
            said += f"; {name} {test.mean:+.2f}"
            if test.tested:
                said += f" (95 %: {test.low:+.2f} to {test.high:+.2f}, p = {test.p:.2g})"
        return said + ("." if seeds > 1 else ". One seed allows no test.")


@cache
def published() -> dict[str, Any]:
    """Return the figures that the paper printed (`published.json`)."""
    text = resources.files("supertickets.evidence").joinpath("published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def published_model(record: Record) -> str | None:
    """Return which of the paper's models (`base`, `large`) a study's has the architecture of, or None."""
    shape = record.subject.shape
    for size, model in published()["models"].items():
        if (record.subject.model_type, shape.layers, shape.heads, shape.hidden) == (
            model["model_type"], model["layers"], model["heads"], model["hidden"],
        ):  # fmt: skip
            return str(size)
    return None


def in_order(studies: Sequence[Looked]) -> list[Looked]:
    """Return studies in the order of the paper's tables, other tasks after them by name."""
    place = {task: i for i, task in enumerate(ORDER)}
    return sorted(
        studies,
        key=lambda one: (place.get(one.record.subject.task, len(ORDER)), one.record.name, str(one.record.folder)),
    )


def gains(studies: Sequence[Looked]) -> pd.DataFrame:
    """Return one row a study: dense and super scores (mean and standard deviation over seeds), gains, tests, size.

    `paper_*` is each seed's best winning ticket chosen on the dev set that scores it, `honest_*` the cross-fitted
    selection. `*_p` are of paired t-tests over seeds, `*_p_holm` corrected for the number of studies. What there is not
    is missing (NaN).
    """
    rows = []
    for one in in_order(studies):
        record, seen = one.record, one.conclusions
        entry: dict[str, Any] = {
            "task": record.name, "model": record.subject.model, "metrics": "/".join(record.subject.metrics),
        }  # fmt: skip
        if seen.paper is not None and seen.honest is not None:
            entry |= {"seeds": len(seen.paper.seeds)}
            entry |= {"dense": np.mean(seen.paper.dense), "dense_std": _std(seen.paper.dense)}
            entry |= {"super": np.mean(seen.paper.scores), "super_std": _std(seen.paper.scores)}
            for name, gain in (("paper", seen.paper), ("honest", seen.honest)):
                entry |= {f"{name}_gain": gain.mean, f"{name}_low": gain.test.low, f"{name}_high": gain.test.high}
                entry |= {f"{name}_p": gain.test.p}
            entry |= {"remaining": np.mean(seen.remaining), "remaining_std": _std(seen.remaining)}
        if seen.control is not None:
            entry |= {"control_gain": seen.control.paper, "control_honest_gain": seen.control.honest}
        rows.append(entry | {"transition": bool(seen.phases.seen)})
    frame = pd.DataFrame(rows)
    for name in ("paper", "honest"):
        if f"{name}_p" in frame:
            place = frame.columns.get_loc(f"{name}_p")
            frame.insert(int(place) + 1, f"{name}_p_holm", holm(frame[f"{name}_p"].tolist()))  # type: ignore[arg-type]
    return frame


def _std(values: Sequence[float]) -> float:
    return round(float(np.std(values, ddof=1)), 12) if len(values) > 1 else np.nan


def task_average(studies: Sequence[Looked]) -> Average:
    """Average over tasks within each seed, and test over seeds; says why where tasks do not average.

    Scores in percent average as GLUE does: each task with GLUE's own metrics. Other tasks average only if all have the
    same metrics.
    """
    if len(studies) < 2:
        return Average(reason="One task has no average.")
    subjects = [one.record.subject for one in studies]
    names = [one.record.name for one in studies]
    if len({subject.task for subject in subjects}) < len(subjects):
        return Average(reason=f"No average over tasks: {_twice([s.task for s in subjects])} is there more than once.")
    if len({subject.weight_hash for subject in subjects}) > 1:
        return Average(reason="No average over tasks: the studies have different base models.")
    as_glue = [subject.task in GLUE and subject.metrics == GLUE[subject.task].metrics for subject in subjects]
    if not all(as_glue) and len({subject.metrics for subject in subjects}) > 1:
        said = "; ".join(f"{name}: {', '.join(s.metrics)}" for name, s in zip(names, subjects, strict=True))
        return Average(reason=f"No average over tasks: their metrics differ ({said}) and are not all GLUE's own.")
    unfinished = [name for name, one in zip(names, studies, strict=True) if one.conclusions.paper is None]
    if unfinished:
        return Average(reason=f"No average over tasks: no winning ticket of {', '.join(unfinished)} finished.")
    both = [(one.conclusions.paper, one.conclusions.honest) for one in studies]
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

    tests = [paired_t_test(averaged(which, "scores"), averaged(which, "dense")) for which in (0, 1)]
    return Average(tuple(seeds), float(np.mean(averaged(0, "dense"))), tests[0], tests[1])


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if list(names).count(name) > 1)


def paper_tables(studies: Sequence[Looked]) -> dict[str, pd.DataFrame]:
    """Return the paper's Tables 1, 5, 6 and 7 of these studies by name, with its own figures where they match.

    Cells are text in the paper's layout: metrics joined by `/`, `-` for what there is not.
    """
    ordered = in_order(studies)
    columns = [_column(one.record) for one in ordered]
    average = task_average(studies)

    def table(rows: Mapping[str, Sequence[str]], extra: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
        cells = {name: dict(zip(columns, values, strict=True)) for name, values in rows.items()}
        frame = pd.DataFrame.from_dict(cells, orient="index", columns=None)[list(dict.fromkeys(columns))]
        for name, values in (extra or {}).items():
            frame[name] = list(values)
        return frame

    sizes = sorted({size for one in ordered if (size := published_model(one.record)) is not None})
    one_rows = {"ST-DNN": [_scores(one, False) for one in ordered], "SuperT": [_scores(one, True) for one in ordered]}
    one_rows["SuperT (cross-fitted)"] = [_honest(one) for one in ordered]
    means = [average.dense, average.dense + average.paper.mean if average.paper else np.nan, np.nan]
    if average.honest is not None:
        means[2] = average.dense + average.honest.mean
    remaining = np.mean([np.mean(one.conclusions.remaining or (np.nan,)) for one in ordered])
    extra = {
        "Average Score": [_number(mean) for mean in means],
        "Average Compression": ["100%", f"{remaining:.1%}", f"{remaining:.1%}"],
    }
    for size in sizes:
        for name, row in published()["table 1"][size].items():
            one_rows[f"{name} ({_model(size)}, published)"] = [_published(row, one, size) for one in ordered]
            extra["Average Score"].append(f"{row['average']:.1f} (8 tasks)")
            extra["Average Compression"].append(f"{row['compression']:.1f}%")
    gain = [(one.conclusions.paper, one) for one in ordered]
    spread = {
        "ST-DNN": [_number(_std(found.dense)) if found else "-" for found, _ in gain],
        "SuperT": [_number(_std(found.scores)) if found else "-" for found, _ in gain],
    }
    size_rows = {
        "SuperT (Mean)": [_number(np.mean(one.conclusions.remaining or (np.nan,))) for one in ordered],
        "SuperT (Std Dev)": [_number(_std(one.conclusions.remaining)) for one in ordered],
    }
    tables = {"table 5": dict(spread), "table 6": {"SuperT": spread["SuperT"]}, "table 7": size_rows}
    names = {"mean": "SuperT (Mean)", "std": "SuperT (Std Dev)"}
    for title, rows in tables.items():
        for size in sizes:
            for name, row in published()[title].get(size, {}).items():
                cells = [_published(row, one, size) for one in ordered]
                rows[f"{names.get(name, name)} ({_model(size)}, published)"] = cells
    return {"table 1": table(one_rows, extra), **{title: table(rows) for title, rows in tables.items()}}


def _model(size: str) -> str:
    return str(published()["models"][size]["name"])


def _column(record: Record) -> str:
    task = record.subject.task
    title = _TITLES.get(task, task.upper() if task in GLUE else record.name)
    if record.name != task:
        title = record.name
    return f"{title} {'/'.join(_METRICS.get(name, name) for name in record.subject.metrics)}"


def _scores(one: Looked, of_super: bool) -> str:
    """Return the mean over seeds of each metric, of dense runs or of each seed's best winning ticket."""
    table = one.record.table
    gain = one.conclusions.paper
    if gain is None:
        return "-"
    rows = []
    for seed in gain.seeds:
        of_seed = table[table["seed"] == seed]
        row = select_super(of_seed) if of_super else of_seed[of_seed["kind"] == "dense"].iloc[0]
        assert row is not None
        rows.append([float(row[name]) for name in one.record.subject.metrics])
    return "/".join(f"{value:.1f}" for value in np.mean(rows, axis=0))


def _honest(one: Looked) -> str:
    gain = one.conclusions.honest
    return "-" if gain is None else f"{np.mean(gain.scores):.1f}"


def _published(row: Mapping[str, Any], one: Looked, size: str) -> str:
    found = row.get(one.record.subject.task)
    if found is None or published_model(one.record) != size or one.record.settings.get("fraction", 1.0) != 1.0:
        return "-"
    return "/".join(f"{value:.1f}" for value in found) if isinstance(found, list) else f"{found:.2f}"


def _number(value: Any) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as CSV, Markdown and LaTeX."""
    for name, table in tables.items():
        stem = folder / name.replace(" ", "-")
        named = not isinstance(table.index, pd.RangeIndex)
        text = table.map(shown)
        markdown = text.map(lambda cell: cell.replace("|", "\\|"))
        write_atomically(stem.with_suffix(".csv"), table.to_csv(index=named, float_format="%.10g"))
        write_atomically(stem.with_suffix(".md"), markdown.to_markdown(index=named, disable_numparse=True) + "\n")
        write_atomically(stem.with_suffix(".tex"), text.to_latex(index=named, escape=True))


def shown(value: Any) -> str:
    """Return a cell as text: two decimals, more for small numbers, `-` for what there is not."""
    if isinstance(value, float):
        return "-" if not np.isfinite(value) else f"{value:.3g}" if -0.1 < value < 0.1 else f"{value:.2f}"
    return str(value)
