"""What a study shows, in numbers and words: means with intervals, gains and what is left of them, phases, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.phases import Phases, find_phases
from supertickets.evidence.record import Record
from supertickets.evidence.resampling import Floats, bootstrap_weights, weighted_scores
from supertickets.evidence.selection import Selected, cross_fit, halved_scores
from supertickets.evidence.statistics import Paired, bootstrap_interval, paired_t_test
from supertickets.evidence.table import CONTROL, DENSE, Row, candidates, curves, select_super
from supertickets.tickets import Ticket


@dataclass(frozen=True)
class Gain:
    """What choosing a super ticket in each seed gains over that seed's dense run, judged one way.

    `scores` and `dense` have a value a seed, in percent; `test` compares them.
    """

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    dense: tuple[float, ...]
    test: Paired

    @classmethod
    def of(cls, seeds: Sequence[int], scores: Sequence[float], dense: Sequence[float]) -> Gain:
        """Compare scores with those of the dense runs, seed by seed."""
        return cls(tuple(seeds), tuple(scores), tuple(dense), paired_t_test(scores, dense))

    @property
    def mean(self) -> float:
        """The mean gain over seeds."""
        return self.test.mean


@dataclass(frozen=True)
class Conclusions:
    """What a study shows.

    `means` has a row a kind and level (see `curves`) with 95 % bootstrap intervals `low` and `high` over seeds and
    examples. `paper` is the gain as the paper reports it: each seed's best winning level, chosen on the dev set that
    scores it; `honest` is the cross-fitted one. `control` is what choosing among as many dense runs gives over the
    dense mean, both ways. `remaining` is each seed's share of parameters in its best winning ticket.
    """

    means: pd.DataFrame
    paper: Gain | None
    honest: Gain | None
    remaining: tuple[float, ...]
    control: Selected | None
    controls: int
    phases: Phases
    agreement: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the study shows, in words."""
        return " ".join(self.sentences)


def conclude(record: Record) -> Conclusions:
    """Look at all outcomes of a study; runs that did not finish are left out."""
    table = record.table
    phases = find_phases(table)
    halves = {
        kind: {row.role: _halved(record, row) for row in record.finished(kind)} for kind in (DENSE, "winning", CONTROL)
    }
    dense = {role.seed: scores for role, scores in halves[DENSE].items()}
    by_seed: dict[int, list[Floats]] = {}
    for role, scores in halves["winning"].items():
        ticket = record.roles[role].ticket
        if ticket is not None and not ticket.is_full:  # a full one is the dense run itself
            by_seed.setdefault(role.seed, []).append(scores)
    seeds = sorted(set(by_seed) & set(dense))
    paper = honest = control = None
    remaining: tuple[float, ...] = ()
    if seeds:
        chosen, own = [cross_fit(by_seed[seed]) for seed in seeds], [cross_fit([dense[seed]]) for seed in seeds]
        paper = Gain.of(seeds, [c.paper for c in chosen], [d.paper for d in own])
        honest = Gain.of(seeds, [c.honest for c in chosen], [d.honest for d in own])
        best = [select_super(table[table["seed"] == seed]) for seed in seeds]
        remaining = tuple(float(row["remaining"]) for row in best if row is not None)
        if halves[CONTROL]:
            among = cross_fit(list(halves[CONTROL].values()))
            control = Selected(
                among.paper - float(np.mean([d.paper for d in own])),
                among.honest - float(np.mean([d.honest for d in own])),
            )
    controls = len(halves[CONTROL])
    sentences = _sentences(table, paper, honest, control, controls, phases)
    return Conclusions(
        _means(record), paper, honest, remaining, control, controls, phases, agreement(record), sentences
    )


def _halved(record: Record, row: Row) -> Floats:
    """Return a run's scores on halves of the dev set, of every epoch that its recipe lets early stopping choose."""
    assert row.outcome is not None
    outputs = row.outcome.predictions()["dev"]
    if row.outcome.trial.recipe.keep_epoch == "last":
        outputs = outputs[-1:]
    return halved_scores(outputs, record.subject.metrics, record.subject.targets)


def _means(record: Record) -> pd.DataFrame:
    """Return means by kind and level with bootstrap intervals over seeds and examples."""
    subject = record.subject
    weights = cache(bootstrap_weights)  # one and the same for all runs
    resampled: dict[tuple[str, float], list[Floats]] = {}
    seen: dict[str, Floats] = {}
    for row in record.rows:
        if not row.finished:
            continue
        assert row.outcome is not None
        if row.outcome.key not in seen:
            epoch = [entry["epoch"] for entry in row.outcome.epochs].index(row.outcome.best_epoch)
            outputs = row.outcome.predictions()["dev"][epoch]
            seen[row.outcome.key] = weighted_scores(subject.metrics, subject.targets, outputs, weights(len(outputs)))
        resampled.setdefault((row.role.kind, row.role.level), []).append(seen[row.outcome.key])
    means = curves(record.table)
    intervals = [
        bootstrap_interval(np.stack(resampled[kind, level]))
        for kind, level in zip(means["kind"], means["level"], strict=True)
    ]
    return means.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])


def agreement(record: Record) -> pd.DataFrame:
    """Return, for each level, how far different seeds' winning tickets prune the same heads and FFNs.

    `heads` and `ffns` are shares of what one seed pruned that another pruned too, averaged over pairs of seeds;
    `*_chance` is what random tickets of that size share (the pruned share itself); `pairs` is how many there were.
    """
    rows = []
    tickets: dict[float, list[Ticket]] = {}
    for row in record.finished("winning"):
        if row.role.level and row.ticket is not None:
            tickets.setdefault(row.role.level, []).append(row.ticket)
    for level, found in sorted(tickets.items()):
        pairs = list(combinations([~ticket for ticket in found], 2))
        if not pairs:
            continue
        entry: dict[str, float] = {"level": level, "pairs": len(pairs)}
        for part in ("heads", "ffns"):
            alike = [shared(getattr(one, part), getattr(other, part)) for one, other in pairs]
            chance = float(np.mean([getattr(~ticket, part).mean() for ticket in found]))
            entry |= {part: float(np.mean(alike)), f"{part}_chance": chance}
        rows.append(entry)
    return pd.DataFrame(rows, columns=["level", "pairs", "heads", "heads_chance", "ffns", "ffns_chance"])


def shared(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return twice what two sets share over their sizes' sum (1.0 for two empty sets)."""
    size = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / size if size else 1.0


def _sentences(
    table: pd.DataFrame,
    paper: Gain | None,
    honest: Gain | None,
    control: Selected | None,
    controls: int,
    phases: Phases,
) -> tuple[str, ...]:
    """Say what came out: what the paper would report, what remains of it, what seeds alone would have given."""
    if table[(table["kind"] == "winning") & (table["level"] > 0)].empty:
        return ("No super ticket: no winning tickets above level 0 were asked for.",)
    chosen = select_super(table)
    if chosen is None or paper is None or honest is None:
        return ("No super ticket: no winning ticket that prunes anything finished its training.",)
    levels = candidates(table)["level"].nunique()
    seeds, choice = len(paper.seeds), "level" if levels == 1 else f"best of {levels} levels"
    parts = [
        f"The paper would report super tickets at {np.mean(paper.scores):.2f} against {np.mean(paper.dense):.2f} for "
        f"the dense model: {paper.mean:+.2f} ({'one seed' if seeds == 1 else f'mean of {seeds} seeds'}, each with its "
        f"{choice} and best epoch, chosen on the dev set that scores it{_p(paper.test)}).",
        f"When that choice is paid for (cross-fitted), {honest.mean:+.2f} remains{_interval(honest.test)}.",
    ]
    if control is not None:
        parts.append(
            f"Choosing the best of {controls} dense runs with other seeds would have given {control.paper:+.2f}, and "
            f"{control.honest:+.2f} when paid for."
        )
    if seeds == 1:
        parts.append("One seed allows no test.")
    parts.append(
        f"The best single ticket is the winning one at level {chosen['level']:g} of seed {chosen['seed']}: "
        f"{chosen['heads']:.0f} heads, {chosen['ffns']:.0f} FFNs, {chosen['remaining']:.1%} of the parameters, "
        f"{chosen['score']:.2f}."
    )
    return (*parts, phases.sentence())


def _p(test: Paired) -> str:
    return f"; paired t-test p = {test.p:.2g}" if test.tested else ""


def _interval(test: Paired) -> str:
    return f" (95 %: {test.low:+.2f} to {test.high:+.2f}, p = {test.p:.2g})" if test.tested else ""
