"""What a study of `find` shows: means with intervals, gains as the paper takes them and cross-fitted, phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supertickets.evidence.cells import with_std
from supertickets.evidence.choice import Choice, chosen_gain, halved
from supertickets.evidence.choice_alone import ChoiceAlone, choice_alone
from supertickets.evidence.control import TunedDense, tuned_dense
from supertickets.evidence.findings import Findings
from supertickets.evidence.gains import Gain, means
from supertickets.evidence.labels import RATES
from supertickets.evidence.learned import Learned, learned
from supertickets.evidence.narrow import Narrow
from supertickets.evidence.phases import Phases, find_phases
from supertickets.evidence.rates import SPREAD_SAID, spread_of_single
from supertickets.evidence.reached import Reached
from supertickets.evidence.resampling import Floats, bootstrap_weights, weighted_scores
from supertickets.evidence.runs import CONTROL, DENSE, Runs
from supertickets.evidence.sampling import Selection, seen_by_choice, selection_of
from supertickets.evidence.searched import Searched
from supertickets.evidence.selection import candidates, epochs_chosen, select_super
from supertickets.evidence.soup import Soups, soups
from supertickets.evidence.statistics import Paired, bootstrap_interval
from supertickets.evidence.taught import Taught, taught_gains
from supertickets.lab.steps import Label, Run
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import KINDS
from supertickets.tickets.kinds import NAMES, STRUCTURES, Structure
from supertickets.tickets.ticket import alike


@dataclass(frozen=True)
class FindFindings(Findings):
    """What a study of `find` shows.

    `means` has a row a kind and level with 95 % bootstrap intervals `low` and `high` over seeds and examples, and what
    its tickets keep (see `evidence.runs.runs_table`). `paper` is the gain as the paper reports it: each seed's best
    winning level, chosen on the examples of `selection`, scored on the dev set; `supers` are their rows, one a seed.
    `cross_fitted` is the cross-fitted gain, `choice` what choosing alone gives in such a study (None: there is nothing
    to choose). `chosen` is the row of the super ticket that is shipped: the best one on the whole dev set. `spread` has
    tables of that over seeds and learning rates (none: not asked for), `paper_tables` see `evidence.tables`. Where only
    the dense model is trained, `base_model` is the folder that it is saved in, and there are no `paper_tables`;
    `measure` is what scores are of. `tuned` compares with a dense model that was tuned with the same compute (None: not
    asked for). Of one level that was fixed beforehand, `narrow` has the gains of that. `learned` compares the dense
    model with always giving the same answer (None: not known). `target` says how a target was reached (None: tickets
    were drawn at levels), `taught` what a teacher gives, `soups` are means of several trainings' weights (None: not
    asked for). `scored` is the least and the largest share of the training examples that importance was measured on
    (None: on all, as no measure could stop early). With `last_epoch`, runs are scored at it and no epoch is chosen.
    Where a `search` trained a part of the grid only, it has the gain, and what the whole grid says is missing.
    """

    means: pd.DataFrame
    paper: Gain | None
    cross_fitted: Gain | None
    supers: pd.DataFrame
    selection: Selection
    choice: ChoiceAlone | None
    phases: Phases
    agreement: pd.DataFrame
    chosen: pd.Series | None
    spread: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    paper_tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    base_model: Path | None = None
    measure: str = "score"
    tuned: TunedDense | None = None
    narrow: Narrow | None = None
    learned: Learned | None = None
    target: Reached | None = None
    taught: Taught | None = None
    soups: Soups | None = None
    scored: tuple[float, float] | None = None
    last_epoch: bool = False
    search: Searched | None = None

    text = "find.txt.jinja"
    shown = SPREAD_SAID

    def printed(self) -> dict[str, pd.DataFrame]:
        """Return mean scores and standard deviations with a row a level and a column a kind."""
        cells = [with_std(mean, std, digits=2) for mean, std in self.means[["mean", "std"]].to_numpy()]
        wide = self.means.assign(cell=cells).pivot(index="level", columns="kind", values="cell")
        table = wide[list(dict.fromkeys(self.means["kind"]))].fillna("")
        table = table.join(self.kept.map("{:.1%}".format)).reset_index()
        return {"mean score by level (± standard deviation over seeds), and what is kept": table} | super().printed()

    @property
    def kept(self) -> pd.DataFrame:
        """What tickets keep of the dense model by level: heads, FFNs (or neurons), parameters, FLOPs; means of runs."""
        if self.means.empty:
            return pd.DataFrame()
        at, whole = self.means.set_index("level"), self.means[self.means["kind"] == DENSE]
        kind = next((kind for kind in KINDS if (at["kind"] == kind).any()), DENSE)
        of_level = pd.concat([at[at["kind"] == DENSE], at[at["kind"] == kind]])
        of_level = of_level[~of_level.index.duplicated()]
        # Of FFNs that all are whole or gone, neurons say the same.
        parts = of_level["neurons"] * whole["ffns"].max() != of_level["ffns"] * whole["neurons"].max()
        counted: tuple[Structure, ...] = ("heads", "neurons" if parts.any() else "ffns")
        found = {NAMES[kind]: of_level[kind] / whole[kind].max() for kind in counted}
        shares = {"remaining": "parameters", "inference": "FLOPs"}
        return pd.DataFrame(found | {title: of_level[name] for name, title in shares.items()})

    @property
    def grid(self) -> pd.DataFrame:
        """The runs of the study itself, without those of controls and other learning rates."""
        return self.runs[self.runs["stage"].isna()] if "stage" in self.runs else self.runs

    @property
    def dense(self) -> pd.Series:
        """The scores of the dense model's finished runs."""
        own = self.grid
        return own.loc[(own["kind"] == DENSE) & (own["status"] == "finished"), "score"]

    def has_asked(self, kind: str) -> bool:
        """Whether tickets of a kind were asked for, finished or not."""
        return bool((self.grid["kind"] == kind).any())

    @property
    def remaining(self) -> tuple[float, ...]:
        """Each seed's share of the dense model's parameters in its best winning ticket."""
        return tuple(self.supers["remaining"].astype(float)) if len(self.supers) else ()

    @property
    def levels(self) -> int:
        """How many levels the super ticket is chosen among."""
        return int(candidates(self.grid)["level"].nunique())

    @property
    def asked(self) -> bool:
        """Whether winning tickets above level 0 were asked for."""
        return bool(((self.runs["kind"] == "winning") & (self.runs["level"] > 0)).any())

    @property
    def main_test(self) -> Paired | None:
        """The test of the cross-fitted gain; with one level that was fixed beforehand, of its gain."""
        gain = self.cross_fitted if self.narrow is None else self.narrow.over.get(DENSE)
        gain = gain if self.search is None else self.search.over.get(DENSE)
        return None if gain is None else gain.test

    @property
    def tested(self) -> pd.DataFrame:
        """The finished winning tickets and dense runs of the seeds that are tested."""
        gain = self.cross_fitted if self.search is None else self.search.over.get(DENSE)
        if gain is None:
            return self.runs.iloc[:0]
        own = self.grid
        of = own["seed"].isin(gain.seeds) & own["kind"].isin([DENSE, "winning"])
        return own[of & (own["status"] == "finished")]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the means, the paper's tables, and those of what else may be asked for, without rows if it was not."""
        none = pd.DataFrame()
        more = {
            "equal budget": none if self.tuned is None else self.tuned.budgets,
            "taught": none if self.taught is None else self.taught.gains,
            "target": none if self.target is None else self.target.costs,
            "search": none if self.search is None else self.search.turns,
            "soups": none if self.soups is None else self.soups.gains,
            "barriers": none if self.soups is None else self.soups.barriers,
        }
        return {"means": self.means, **self.paper_tables, **dict.fromkeys(SPREAD_SAID, none), **self.spread, **more}


def analyse_find(runs: Runs) -> FindFindings:
    """Look at all outcomes of a study of `find`; runs that did not finish are left out."""
    all_runs, everything, runs = runs, runs.table, runs.only(stage=None)
    table, (halves, resampled) = runs.table, _scored(runs)
    dense = {_seed(run): {run: scores} for run, scores in halves[DENSE].items()}
    by_seed: dict[int, dict[Run, Floats]] = defaultdict(dict)
    for run, scores in halves["winning"].items():
        if run.trial is not None and not run.trial.ticket.is_full:  # a full one is the dense run itself
            by_seed[_seed(run)][run] = scores
    selection, best = selection_of(runs), dict[int, pd.Series]()
    for seed in sorted(set(by_seed) & set(dense)):
        seen = {key: float(ways[0]) for key, ways in seen_by_choice([*by_seed[seed]], runs, selection).items()}
        if (row := select_super(table[table["trial"].isin(seen)], seen)) is not None:
            best[seed] = row
    paper = cross_fitted = choice = None
    every_dense = {seed: Choice.among(of, runs.task) for seed, of in dense.items()}
    best_tickets = {seed: Choice.among(by_seed[seed], runs.task) for seed in best}
    own_dense = {seed: every_dense[seed] for seed in best}
    if best:
        of_super = [float(row["score"]) for row in best.values()]
        paper = Gain.of([*best], of_super, [own.selected.paper for own in own_dense.values()])
        cross_fitted = chosen_gain(best_tickets, own_dense)
        choice = _choice(runs, selection, len(best), halves[DENSE] | halves[CONTROL])
    phases = find_phases(table)
    return FindFindings(
        runs=everything,
        means=_means(table, resampled),
        paper=paper,
        cross_fitted=cross_fitted,
        supers=pd.DataFrame([*best.values()]),
        selection=selection,
        choice=choice,
        phases=phases,
        agreement=agreement(runs),
        chosen=select_super(table),
        spread=_spread(everything),
        tuned=tuned_dense(all_runs, best_tickets, own_dense),
        learned=learned(runs.task, [*every_dense.values()], [run.result.best_outputs() for run in halves[DENSE]]),
        taught=taught_gains(runs, best_tickets, every_dense),
        soups=soups(all_runs, phases.light),
        scored=_scored_shares(runs),
        last_epoch=runs.settings.get("keep_epoch") == "last",
    )


def without_grid(findings: FindFindings, search: Searched) -> FindFindings:
    """Return findings of a search: without what only the whole grid says, which are the paper's gain and phases."""
    none = find_phases(findings.runs.iloc[:0])
    left_out: dict[str, Any] = dict.fromkeys(("paper", "cross_fitted", "choice", "taught", "soups", "tuned"))
    return replace(findings, **left_out, phases=none, supers=findings.supers.iloc[:0], search=search)


def _scored_shares(runs: Runs) -> tuple[float, float] | None:
    """Return on which share of the training examples importance was measured, the least and the largest of all runs."""
    if runs.settings.get("score_examples") != "settled":
        return None
    shares = [share for run in runs.where() if (share := run.result.scored_share()) is not None]
    return (min(shares), max(shares)) if shares else None


def _spread(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return how much scores vary with learning rates and seeds, where trainings were made for that."""
    of_rates = table[table["stage"] == RATES] if "stage" in table else table[:0]
    return spread_of_single(of_rates) if len(of_rates) else {}


def _choice(runs: Runs, selection: Selection, seeds: int, dense: Mapping[Run, Floats]) -> ChoiceAlone | None:
    """Return what choosing alone gives, from all dense runs with their scores on halves of the dev set."""
    ways = seen_by_choice([*dense], runs, selection)
    halves = [epochs_chosen(scores) for scores in dense.values()]
    return choice_alone(
        among=_different(candidates(runs.table)),
        seeds=seeds,
        scores=np.array([run.result.score for run in dense]),
        seen=np.stack([ways[run.result.key] for run in dense]),
        halves=(np.stack([one for one, _ in halves]), np.stack([other for _, other in halves])),
    )


def _different(tickets: pd.DataFrame) -> int:
    """Return how many different tickets a seed has: levels that are close, or of few structures, may have one."""
    return int(tickets.groupby("seed")["trial"].nunique().max()) if len(tickets) else 0


def _seed(run: Run) -> int:
    return int(run.step.labels["seed"])


def _scored(runs: Runs) -> tuple[dict[str, dict[Run, Floats]], dict[tuple[Label, Label], list[Floats]]]:
    """Return runs' scores on halves of the dev set by kind, and on bootstrap resamples of it by kind and level.

    The first are those of every epoch that a run's recipe lets early stopping choose, the others of the best epoch.
    """
    task, weights = runs.task, cache(bootstrap_weights)  # one and the same for all runs
    halves: dict[str, dict[Run, Floats]] = defaultdict(dict)
    resampled: dict[tuple[Label, Label], list[Floats]] = defaultdict(list)
    seen: dict[str, tuple[Floats, Floats]] = {}
    for run in runs.where():
        outcome, labels = run.result, run.step.labels
        if outcome.key not in seen:
            best = outcome.best_outputs()
            drawn = weighted_scores(task.metrics, task.targets, best, weights(len(best)))
            seen[outcome.key] = halved(outcome, task), drawn
        halves[str(labels["kind"])][run], drawn = seen[outcome.key]
        resampled[labels["kind"], labels["level"]].append(drawn)
    return halves, resampled


def _means(table: pd.DataFrame, resampled: Mapping[tuple[Label, Label], Sequence[Floats]]) -> pd.DataFrame:
    """Return means by kind and level with bootstrap intervals over seeds and examples."""
    found = means(table, ["kind", "level"])
    at = zip(found["kind"], found["level"], strict=True)
    intervals = [bootstrap_interval(np.stack(resampled[kind, level])) for kind, level in at]
    found = found.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])
    kept = table[table["status"] == "finished"].groupby(["kind", "level"])[list(_KEPT)].mean()
    return found.join(kept, on=["kind", "level"])


_KEPT = ("heads", "ffns", "neurons", "encoder", "remaining", "inference")
"""The columns of what tickets keep."""


def agreement(runs: Runs) -> pd.DataFrame:
    """Return, for each level, how far different seeds' winning tickets prune the same heads and FFNs.

    `heads` and `ffns` (or `neurons`) are shares of what one seed pruned that another pruned too, averaged over pairs of
    seeds (NaN where none of that kind is pruned); `*_chance` is what random tickets of that size share (the pruned
    share itself); `pairs` is how many there were.
    """
    rows = []
    tickets: dict[float, list[Ticket]] = {}
    for run in runs.where(kind="winning"):
        if run.step.labels["level"] and run.trial is not None:
            tickets.setdefault(float(run.step.labels["level"]), []).append(run.trial.ticket)
    for level, found in sorted(tickets.items()):
        pairs = list(combinations(alike(*found), 2))
        if not pairs:
            continue
        entry: dict[str, float] = {"level": level, "pairs": len(pairs)}
        for kind in pairs[0][0]:
            gone = [(~one[kind], ~other[kind]) for one, other in pairs]
            both = [shared(*two) for two in gone if any(one.any() for one in two)] or [np.nan]
            chance = float(np.mean([1 - kept[kind].mean() for kept in alike(*found)]))
            entry |= {kind: float(np.mean(both)), f"{kind}_chance": chance}
        rows.append(entry)
    kinds = [kind for kind in STRUCTURES if any(kind in row for row in rows)] or ["heads", "ffns"]
    columns = [name for kind in kinds for name in (kind, f"{kind}_chance")]
    return pd.DataFrame(rows, columns=["level", "pairs", *columns])


def shared(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return twice what two sets share over their sizes' sum (1.0 for two empty sets)."""
    size = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / size if size else 1.0
