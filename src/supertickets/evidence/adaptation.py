"""What adapting trained models to a new task with few examples shows: the paper's Table 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.record import Record
from supertickets.evidence.statistics import holm, paired_t_test
from supertickets.evidence.table import in_columns
from supertickets.evidence.tables import column_title, published, published_label, published_model


@dataclass(frozen=True)
class Compared:
    """A model with a ticket and the dense model that it is compared with, by name."""

    ticket: str
    dense: str


@dataclass(frozen=True)
class Adaptation:
    """What a study of `adapt` shows.

    `runs` has a row a model, number of examples and seed (see `runs`); `means` a row a model and number of examples;
    `table` is the paper's Table 4, `gains` compares each ticket with its dense model.
    """

    runs: pd.DataFrame
    means: pd.DataFrame
    table: pd.DataFrame
    gains: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the study shows, in words."""
        return " ".join(self.sentences)


def conclude_adaptation(record: Record, pairs: Sequence[Compared]) -> Adaptation:
    """Look at all outcomes of a study of `adapt`; `pairs` are the models to compare."""
    found = runs(record)
    averaged = means(found)
    compared = gains(found, pairs)
    return Adaptation(found, averaged, table_4(record, averaged), compared, _sentences(record, compared))


def runs(record: Record) -> pd.DataFrame:
    """Return one row a model, number of training examples and seed: status, dev score and metrics in percent, size."""
    rows = []
    for role, row in record.roles.items():
        entry: dict[str, Any] = {"model": role.kind, "examples": int(role.variant.split()[0]), "seed": role.seed}
        entry |= {"status": row.status, "score": np.nan}
        if row.outcome is not None and row.finished:
            entry["score"] = row.outcome.score
            entry |= {name: value for name, value in row.outcome.metrics["dev"].items() if name != "score"}
            entry["best_epoch"] = row.outcome.best_epoch
        if row.ticket is not None:
            entry |= {"heads": row.ticket.kept_heads, "ffns": row.ticket.kept_ffns}
        if row.outcome is not None:
            entry |= {name: row.outcome.cost[name] for name in ("parameters", "tokens", "flops", "seconds")}
        rows.append(entry | {"trial": row.trial.key if row.trial is not None else None})
    return in_columns(rows)


def means(found: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation (over seeds, n - 1) and number of finished runs by model and examples."""
    grouped = found[found["status"] == "finished"].groupby(["model", "examples"], sort=False)["score"]
    return grouped.agg(mean="mean", std="std", runs="count").reset_index()


def table_4(record: Record, averaged: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's Table 4: mean dev score and standard deviation by model and number of training examples.

    Rows of the paper's own figures follow where the model has its architecture and the task is one of its two. Cells
    are text.
    """
    counts = [subject.train for subject in record.subjects]
    of = {(row["model"], row["examples"]): row for _, row in averaged.iterrows()}
    names = list(dict.fromkeys(role.kind for role in record.roles))
    cells = {name: {_count(n): _cell(of.get((name, n))) for n in counts} for name in names}
    model = published_model(record.subject)
    theirs = published()["table 4"].get(model, {}).get(record.subject.task) if model is not None else None
    if theirs is not None:
        at = dict(zip(theirs["examples"], range(len(theirs["examples"])), strict=True))
        for name in theirs:
            if name != "examples":
                shown = [f"{theirs[name][at[n]]:.1f}" if n in at else "-" for n in counts]
                cells[published_label(name, str(model))] = dict(zip(map(_count, counts), shown, strict=True))
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index.name = column_title(record.subject, record.subject.task, False)
    return frame


def _count(examples: int) -> str:
    return f"{examples:,} examples"


def _cell(row: Any) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.1f}" + (f" ± {row['std']:.1f}" if np.isfinite(row["std"]) else "")


def gains(found: pd.DataFrame, pairs: Sequence[Compared]) -> pd.DataFrame:
    """Return what each ticket gains over its dense model at each number of examples, paired over seeds.

    `p_holm` is corrected for all rows.
    """
    rows = []
    for pair in pairs:
        for examples in sorted(set(found["examples"])):
            scores = found[found["examples"] == examples].pivot(index="seed", columns="model", values="score")
            both = scores.astype(float)[[pair.ticket, pair.dense]].dropna()
            test = paired_t_test(both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist())
            rows.append(
                {
                    "ticket": pair.ticket, "over": pair.dense, "examples": examples, "seeds": len(both),
                    "difference": test.mean, "low": test.low, "high": test.high, "p": test.p,
                }
            )  # fmt: skip
    frame = pd.DataFrame(rows, columns=["ticket", "over", "examples", "seeds", "difference", "low", "high", "p"])
    return frame.assign(p_holm=holm(frame["p"].tolist()))


def _longer(record: Record) -> list[str]:
    """Say where trainings had more epochs than asked for, because of the least number of steps."""
    if not record.settings.get("least_steps"):
        return []
    usual, least = record.settings["epochs"], record.settings["least_steps"]
    epochs = {int(role.variant.split()[0]): row.trial.recipe.epochs for role, row in record.roles.items() if row.trial}
    return [
        f"With {examples:,} examples trainings had up to {count} epochs in place of {usual}, for {least} update steps "
        "at least."
        for examples, count in sorted(epochs.items())
        if count != usual
    ]


def _sentences(record: Record, compared: pd.DataFrame) -> tuple[str, ...]:
    said = []
    for (ticket, dense), rows in compared.groupby(["ticket", "over"], sort=False):
        known = rows[rows["difference"].notna()]
        if known.empty:
            continue
        parts = [f"{row['difference']:+.2f} with {row['examples']:,} examples" for _, row in known.iterrows()]
        said.append(f"{ticket} against {dense} on {record.subject.task}: {', '.join(parts)}.")
    tested = compared["p"].notna().any()
    if said and not tested:
        said.append("One seed allows no test." if compared["seeds"].max() == 1 else "There is no test of these.")
    elif said:
        beyond = compared[compared["p_holm"] < 0.05]
        said.append(
            f"Beyond chance (5 %, corrected for {int(compared['p'].notna().sum())} comparisons) "
            + ("is none of these." if beyond.empty else "are "
               + ", ".join(f"{row['ticket']} at {row['examples']:,}" for _, row in beyond.iterrows()) + ".")
        )  # fmt: skip
    return (*(said or ["No pair of models has runs to compare yet."]), *_longer(record))
