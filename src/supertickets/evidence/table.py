"""Outcomes as a table: one row for each ticket that was rewound and for each dense run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from supertickets.lab.outcome import Outcome
from supertickets.lab.trial import Trial

DENSE = "dense"
_KIND_ORDER = {DENSE: 0, "winning": 1, "random": 2, "losing": 3}


@dataclass(frozen=True)
class Role:
    """What a trial stands for in a study. Two roles may share one trial (two kinds that drew the same ticket)."""

    kind: str
    level: float
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} seed {self.seed}" if self.kind == DENSE else f"{self.kind} {self.level:g} seed {self.seed}"


def results_table(rows: Sequence[tuple[Role, Trial, Outcome | None]]) -> pd.DataFrame:
    """Return one row a role, by kind, level and seed. Scores and metrics are in percent; all times are in `seconds`.

    `status` is finished, diverged or failed; what such a trial does not have is missing (NaN), never zero. `remaining`
    is the share of the dense model's parameters that stays.
    """
    dense = {outcome.cost["parameters"] for role, _, outcome in rows if role.kind == DENSE and outcome is not None}
    table = []
    for role, trial, outcome in sorted(rows, key=lambda row: (_KIND_ORDER[row[0].kind], row[0].level, row[0].seed)):
        entry: dict[str, Any] = {
            "kind": role.kind,
            "level": role.level,
            "seed": role.seed,
            "status": outcome.status if outcome is not None else "failed",
            "score": None,
        }
        if outcome is not None and outcome.finished:
            entry["score"] = outcome.score
            for split, metrics in outcome.metrics.items():
                prefix = "" if split == "dev" else f"{split}_"
                entry |= {prefix + name: value for name, value in metrics.items() if prefix + name != "score"}
            entry["best_epoch"] = outcome.best_epoch
        entry |= {"heads": trial.ticket.kept_heads, "ffns": trial.ticket.kept_ffns}
        if outcome is not None:
            parameters = outcome.cost["parameters"]
            entry |= {"parameters": parameters, "remaining": parameters / max(dense) if dense else None}
            entry |= {name: outcome.cost[name] for name in ("tokens", "flops", "seconds")}
        table.append(entry | {"trial": trial.key})
    frame = pd.DataFrame(table)
    order = ["heads", "ffns", "parameters", "remaining", "tokens", "flops", "seconds", "trial"]
    return frame[
        [name for name in frame.columns if name not in order] + [name for name in order if name in frame.columns]
    ]


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation (over seeds, n - 1) and number of finished runs by kind and level."""
    finished = table[table["status"] == "finished"]
    grouped = finished.groupby(["kind", "level"], sort=False)["score"]
    return grouped.agg(mean="mean", std="std", runs="count").reset_index()


def by_seed(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a kind's scores with a row a seed and a column a level; runs that did not finish are missing (NaN)."""
    of_kind = table[table["kind"] == kind]
    return of_kind.pivot(index="seed", columns="level", values="score").astype(float)


def select_super(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the super ticket: the winning ticket with the best score; ties go to the smaller one.

    None if no winning ticket finished (paper, section 3).
    """
    winning = table[(table["kind"] == "winning") & (table["status"] == "finished")]
    if winning.empty:
        return None
    return winning.sort_values(["score", "parameters", "seed"], ascending=[False, True, True]).iloc[0]


def dense_mean(table: pd.DataFrame) -> float | None:
    """Return the mean score of the dense runs that finished."""
    scores = table[(table["kind"] == DENSE) & (table["status"] == "finished")]["score"]
    return float(scores.mean()) if len(scores) else None


def verdict(table: pd.DataFrame) -> str:
    """Say in a sentence or two what came out, with the caution it needs."""
    chosen, dense = select_super(table), dense_mean(table)
    if "winning" not in set(table["kind"]):
        return "No super ticket: no winning tickets were asked for."
    if chosen is None or dense is None:
        return "No super ticket: no winning ticket finished its training."
    same_seed = table[(table["kind"] == DENSE) & (table["seed"] == chosen["seed"]) & (table["status"] == "finished")]
    own = float(same_seed["score"].iloc[0])
    gain = chosen["score"] - own
    word = "better than" if gain > 0 else "worse than" if gain < 0 else "the same as"
    seeds = int(((table["kind"] == DENSE) & (table["status"] == "finished")).sum())
    by = f" by {abs(gain):.2f}" if gain else ""
    return (
        f"The super ticket is the winning ticket at level {chosen['level']:g} of seed {chosen['seed']}: it keeps "
        f"{chosen['heads']} heads, {chosen['ffns']} FFNs and {chosen['remaining']:.1%} of the parameters. It scores "
        f"{chosen['score']:.2f}, {word} the dense model of the same seed ({own:.2f}){by}; the dense mean over {seeds} "
        f"seed{'s' if seeds > 1 else ''} is {dense:.2f}. It was chosen on the same dev set that this score comes from, "
        "which flatters it."
    )
