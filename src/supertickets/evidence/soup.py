"""Soups: what the mean of several trainings' weights gains, and the barrier of the loss between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from supertickets.evidence.examples import BY_EXAMPLE, MeanOf
from supertickets.evidence.gains import GAIN, all_gains, compared, paired_gains, selected
from supertickets.evidence.labels import LINE, MEMBER, ON_LINE, SOUP
from supertickets.evidence.losses import mean_loss
from supertickets.evidence.runs import DENSE, Runs, TaskInfo
from supertickets.evidence.statistics import Paired

MEAN = "mean of trainings"
DENSE_SOUP = "dense soup"
AGAINST = (MEAN, DENSE, DENSE_SOUP)
"""What a ticket's soup is compared with: the mean score of its trainings, the dense run, and the dense model's soup."""
_BARRIERS = ("kind", "level", "seeds", "loss", "barrier", "barrier_std", "middle", "error_barrier", "error_std")


@dataclass(frozen=True)
class Soups:
    """What soups of `members` trainings show.

    `gains` has a row for each `kind` and `level` and what it is compared with (`against`, one of `AGAINST`); `pooled`
    are the same comparisons of winning tickets' soups, on average over the `light` levels. `barriers` has a row a kind
    and level: the mean `loss` of two trainings on the dev set; the `barrier`, which is the highest loss on the straight
    line between their weights minus that mean (Frankle et al., 2020, section 2; five points, both ends among them),
    with its standard deviation over `seeds`; the loss in the `middle` minus that mean; and the barrier of the error,
    100 minus the score. Losses are missing where outputs have none (see `evidence.losses`). `lines` has the points.
    Of the soups that are `asked` for, `missing` are not there.
    """

    members: int
    gains: pd.DataFrame
    barriers: pd.DataFrame
    lines: pd.DataFrame
    light: tuple[float, ...] = ()
    pooled: Mapping[str, Paired] = field(default_factory=dict)
    seeds: int = 0
    asked: int = 0
    missing: int = 0

    @property
    def has_loss(self) -> bool:
        """Whether losses are known."""
        return bool(self.barriers["barrier"].notna().any())

    def barrier(self, kind: str, level: float | None = None) -> float:
        """Return a kind's mean barrier (of the loss, or else of the error) at a level; None: at the light ones."""
        of = selected(self.barriers, {"kind": kind, "level": list(self.light) if level is None else level})
        return float(of["barrier" if self.has_loss else "error_barrier"].mean())


def soups(runs: Runs, light: Sequence[float]) -> Soups | None:
    """Return what the soups of a study of `find` show; None if it has none. `light` are its light levels."""
    members = int(runs.settings.get("soup") or 0)
    if not members or not runs.settings.get("kinds"):
        return None
    # Where nothing of a kind was wanted there is no such label.
    table = runs.table.reindex(columns=[*dict.fromkeys([*runs.table.columns, "stage", MEMBER, LINE])])
    scored, asked = _scored(table, members), runs.every(stage=SOUP, member=None, line=None)
    pooled, seeds = _pooled(scored, light)
    lines = _lines(table, runs.task)
    return Soups(
        members=members,
        gains=_gains(scored),
        barriers=_barriers(lines),
        lines=lines,
        light=tuple(light),
        pooled=pooled,
        seeds=seeds,
        asked=len(asked),
        missing=sum(not run.finished for run in asked),
    )


def _scored(table: pd.DataFrame, members: int) -> pd.DataFrame:
    """Return the rows that are compared: `what` is a soup, the mean of its trainings, or a dense run."""
    finished = table[table["status"] == "finished"]
    own, more = finished[finished["stage"].isna()], finished[finished["stage"] == SOUP]
    columns = ["kind", "level", "seed", "score", BY_EXAMPLE]
    soup = more[more[MEMBER].isna() & more[LINE].isna()][columns].assign(what=SOUP)
    rows = [soup, own[own["kind"] == DENSE][columns].assign(what=DENSE)]
    trained = pd.concat([own, more[more[MEMBER].notna()]])
    for _, one in soup.iterrows():
        of = selected(trained, {name: one[name] for name in ("kind", "level", "seed")})
        if len(of) == members:
            rows.append(pd.DataFrame([_averaged(of, MEAN, kind=one["kind"], level=one["level"], seed=one["seed"])]))
    return pd.concat(rows, ignore_index=True)


def _averaged(runs: pd.DataFrame, what: str, **labels: Any) -> dict[str, Any]:
    """Return the row of the mean of some runs' scores."""
    return {**labels, "what": what, "score": runs["score"].mean(), BY_EXAMPLE: MeanOf(tuple(runs[BY_EXAMPLE]))}


def _sides(against: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which rows are compared: soups of a kind, with the same tickets or with the dense model."""
    over: dict[str, Any] = {"what": MEAN, "kind": kind}
    if against != MEAN:
        over = {"what": DENSE if against == DENSE else SOUP, "kind": DENSE, "level": 0.0}
    return {"what": SOUP, "kind": kind}, over


def _gains(scored: pd.DataFrame) -> pd.DataFrame:
    """Return what soups gain by kind and level, all rows' p corrected together."""
    frames = []
    for kind, against in (*(("winning", against) for against in AGAINST), (DENSE, MEAN), (DENSE, DENSE)):
        frames.append(paired_gains(scored, *_sides(against, kind), by=("level",)).assign(kind=kind, against=against))
    return all_gains(frames)[["kind", "against", "level", *GAIN, "p_holm"]]


def _pooled(scored: pd.DataFrame, light: Sequence[float]) -> tuple[dict[str, Paired], int]:
    """Compare winning tickets' soups, each seed's mean over the light levels; seeds that lack one are left out."""
    rows = []
    for what in (SOUP, MEAN):
        of = selected(scored, {"what": what, "kind": "winning", "level": list(light)})
        rows += [_averaged(own, what, seed=seed) for seed, own in of.groupby("seed") if len(own) == len(light)]
    rows += [
        {"what": name, "seed": row["seed"], "score": row["score"], BY_EXAMPLE: row[BY_EXAMPLE]}
        for name, what in ((DENSE, DENSE), (DENSE_SOUP, SOUP))
        for _, row in selected(scored, {"what": what, "kind": DENSE}).iterrows()
    ]
    by = {what: of.set_index("seed") for what, of in pd.DataFrame(rows).groupby("what")} if rows else {}
    if any(what not in by for what in (SOUP, *AGAINST)):
        return {}, 0
    seeds = sorted(set.intersection(*(set(frame.index) for frame in by.values())))
    if not seeds:
        return {}, 0
    return {against: compared(by[SOUP].loc[seeds], by[against].loc[seeds]) for against in AGAINST}, len(seeds)


def _lines(table: pd.DataFrame, task: TaskInfo) -> pd.DataFrame:
    """Return loss and score on the line between the first two trainings of each ticket: at both ends and between."""
    finished = table[table["status"] == "finished"]
    of_soups = finished[finished["stage"] == SOUP]
    points = of_soups[of_soups[LINE].notna()]
    places = points.groupby(["kind", "level", "seed"], sort=False)[LINE].count()
    rows = []
    for kind, level, seed in places[places == len(ON_LINE)].index:
        labels = {"kind": kind, "level": level, "seed": seed}
        ends = (finished[finished["stage"].isna()], of_soups[of_soups[MEMBER] == 1])
        runs = pd.concat([*(selected(end, labels).assign(**{LINE: float(at)}) for at, end in enumerate(ends)),
                          selected(points, labels)]).sort_values(LINE)  # fmt: skip
        for _, run in runs.iterrows():
            outcome = run[BY_EXAMPLE].outcome
            loss = mean_loss(task.metrics, task.targets, outcome.best_outputs())
            rows.append({**labels, LINE: run[LINE], "loss": loss, "score": run["score"]})
    return pd.DataFrame(rows, columns=["kind", "level", "seed", LINE, "loss", "score"])


def _barriers(lines: pd.DataFrame) -> pd.DataFrame:
    """Return barriers by kind and level (see `Soups`)."""
    if lines.empty:
        return pd.DataFrame(columns=_BARRIERS)
    rows = []
    for (kind, level, seed), line in lines.groupby(["kind", "level", "seed"], sort=False):
        ends = line[line[LINE].isin([0.0, 1.0])][["loss", "score"]].mean()
        middle = line.loc[line[LINE] == 0.5, "loss"].mean() - ends["loss"]
        barrier, error = line["loss"].max() - ends["loss"], ends["score"] - line["score"].min()
        values = {"loss": ends["loss"], "barrier": barrier, "middle": middle, "error_barrier": error}
        rows.append({"kind": kind, "level": level, "seed": seed, **values})
    frame = pd.DataFrame(rows, columns=["kind", "level", "seed", "loss", "barrier", "middle", "error_barrier"])
    grouped = frame.groupby(["kind", "level"], sort=False)
    found = grouped[["loss", "barrier", "middle", "error_barrier"]].mean()
    deviations = grouped[["barrier", "error_barrier"]].std(ddof=1)
    found = found.assign(
        seeds=grouped["seed"].count(), barrier_std=deviations["barrier"], error_std=deviations["error_barrier"]
    )
    return found.reset_index()[list(_BARRIERS)]
