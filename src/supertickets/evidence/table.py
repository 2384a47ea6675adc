"""Outcomes as a table: one row for each ticket that was rewound and for each dense run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import forward_flops
from supertickets.lab.outcome import Outcome
from supertickets.lab.trial import Trial
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import KINDS

DENSE = "dense"
CONTROL = "control"
"""Dense runs with other seeds than the study's: what choosing among seeds alone gives."""
_KIND_ORDER = {DENSE: 0, "super": 1, "winning": 2, "random": 3, "losing": 4, CONTROL: 5}


@dataclass(frozen=True)
class Role:
    """What a trial stands for in a study. Two roles may share one trial (two kinds that drew the same ticket).

    `variant` names what is otherwise than in the rest of the study, where something is.
    """

    kind: str
    level: float
    seed: int
    variant: str = ""

    def __str__(self) -> str:
        name = f"{self.kind} {self.level:g}" if self.level or self.kind in KINDS else self.kind
        return f"{name} seed {self.seed}" + (f", {self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Row:
    """A role, the trial that plays it (None: its ticket is not drawn yet) and its outcome (None: there is none)."""

    role: Role
    trial: Trial | None
    outcome: Outcome | None
    failed: bool = False

    @property
    def status(self) -> str:
        """`finished`, `diverged`, `failed`, or `missing` for what has not run."""
        return self.outcome.status if self.outcome is not None else "failed" if self.failed else "missing"

    @property
    def finished(self) -> bool:
        """Whether there is a score."""
        return self.outcome is not None and self.outcome.finished

    @property
    def ticket(self) -> Ticket | None:
        """The ticket that was trained."""
        return self.trial.ticket if self.trial is not None else None


def results_table(rows: Sequence[Row], shape: Shape) -> pd.DataFrame:
    """Return one row a role, by kind, level and seed. Scores and metrics are in percent; all times are in `seconds`.

    `status` is finished, diverged, failed or missing; what such a trial does not have is missing (NaN), never zero.
    `remaining` is the share of the dense model's parameters that stays, `inference` the share of its FLOPs for a text
    of 32 tokens.
    """
    dense = {row.outcome.cost["parameters"] for row in rows if row.role.kind == DENSE and row.outcome is not None}
    full = forward_flops(shape, Ticket.full(shape.layers, shape.heads), 1, 32)
    table = []
    for row in sorted(rows, key=lambda row: (_KIND_ORDER[row.role.kind], row.role.level, row.role.seed)):
        role, outcome = row.role, row.outcome
        entry: dict[str, Any] = {"kind": role.kind, "level": role.level, "seed": role.seed}
        entry |= {"variant": role.variant} if role.variant else {}
        entry |= {"status": row.status, "score": None}
        if outcome is not None and outcome.finished:
            entry["score"] = outcome.score
            for split, metrics in outcome.metrics.items():
                prefix = "" if split == "dev" else f"{split}_"
                entry |= {prefix + name: value for name, value in metrics.items() if prefix + name != "score"}
            entry["best_epoch"] = outcome.best_epoch
        if row.ticket is not None:
            inference = forward_flops(shape, row.ticket, 1, 32) / full
            entry |= {"heads": row.ticket.kept_heads, "ffns": row.ticket.kept_ffns, "inference": inference}
        if outcome is not None:
            parameters = outcome.cost["parameters"]
            entry |= {"parameters": parameters, "remaining": parameters / max(dense) if dense else None}
            entry |= {name: outcome.cost[name] for name in ("tokens", "flops", "seconds")}
        table.append(entry | {"trial": row.trial.key if row.trial is not None else None})
    return in_columns(table)


_FIRST = (
    "kind", "level", "sparsity", "source", "target", "model", "examples", "seed", "task", "variant", "status", "score",
)  # fmt: skip
_LAST = (
    "best_epoch", "heads", "ffns", "parameters", "remaining", "inference", "tokens", "flops", "seconds", "trial",
)  # fmt: skip


def in_columns(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return runs as a table: what each is and its score first, then its metrics, its size and cost last."""
    frame = pd.DataFrame(list(runs))
    columns = list(frame.columns)
    return frame[
        [name for name in _FIRST if name in columns]
        + [name for name in columns if name not in _FIRST + _LAST]
        + [name for name in _LAST if name in columns]
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


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished winning tickets that prune something: at level 0, or a level too low, it is the dense run."""
    winning = table[(table["kind"] == "winning") & (table["status"] == "finished") & (table["level"] > 0)]
    return winning[~(winning["remaining"].astype(float) >= 1)]


def select_super(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the super ticket: the winning ticket with the best score; ties go to the smaller one.

    None if no winning ticket that prunes something finished (paper, section 3).
    """
    found = candidates(table)
    if found.empty:
        return None
    return found.sort_values(["score", "parameters", "seed"], ascending=[False, True, True]).iloc[0]
