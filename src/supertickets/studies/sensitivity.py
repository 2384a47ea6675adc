"""How much models depend on seed and learning rate (paper, Tables 5 and 8, appendix A.4).

A further look at a study of `find` (super ticket and dense model) or of `share` (both shared models, fine-tuned on each
task): it runs in that study's folder, and what the study trained already is not trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from supertickets.errors import TicketError
from supertickets.evidence.record import Record, Subject, load_subjects
from supertickets.evidence.sharing import MODELS
from supertickets.evidence.table import DENSE, Role
from supertickets.evidence.tables import published, published_label, published_model, write_tables
from supertickets.lab import Outcome, Trial
from supertickets.lab.outcome import WEIGHTS
from supertickets.models import find_model
from supertickets.storage import user_path
from supertickets.studies.config import flag, parse, settings_of
from supertickets.studies.pages import SENSITIVITY
from supertickets.studies.report import report
from supertickets.studies.settings import FindSettings, ShareSettings
from supertickets.studies.share import ShareStudy
from supertickets.studies.study import RESULTS, Study, check_some_finished, conduct, write_results
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, load_ticket

SUPER = "super"
RATE = "learning rate "


class SensitivityStudy(Study):
    """Dense and super ticket, each with every learning rate and seed."""

    def __init__(
        self,
        settings: FindSettings,
        subjects: Sequence[Subject],
        shared: SharedTicket,
        rates: Sequence[float],
        seeds: int,
    ) -> None:
        super().__init__(settings, subjects)
        self.seeds = range(settings.first_seed, settings.first_seed + seeds)
        self.ticket, self.rates, self._find = shared.ticket, rates, settings
        self._level = float(shared.origin["level"])

    def expected(self) -> list[Role]:
        """Return dense and super roles by learning rate and seed."""
        return [
            Role(kind, 0.0 if kind == DENSE else self._level, seed, f"{RATE}{rate:.10g}")
            for kind in (DENSE, SUPER)
            for rate in self.rates
            for seed in self.seeds
        ]

    def opening(self) -> list[Trial]:
        """Return all trials; none waits for another."""
        trials = []
        for role in self.expected():
            rate = float(role.variant.removeprefix(RATE))
            recipe = self._find.recipe.model_copy(update={"learning_rate": rate})
            own = role.kind == DENSE and rate == self._find.learning_rate  # the study scored its dense runs
            ticket = Ticket.full(self.layers, self.heads) if role.kind == DENSE else self.ticket
            trials.append(self.trial(role, ticket, self._find.scoring if own else None, recipe))
        return trials


class TuningStudy(ShareStudy):
    """Both shared models of a study's first seed, fine-tuned on each task with every learning rate and seed."""

    def __init__(
        self,
        settings: ShareSettings,
        subjects: Sequence[Subject],
        tickets: Sequence[SharedTicket],
        rates: Sequence[float],
        seeds: int,
    ) -> None:
        super().__init__(settings, subjects, tickets)
        self.seeds = range(settings.first_seed, settings.first_seed + 1)  # of the shared models
        self.tuned = range(settings.first_seed, settings.first_seed + seeds)
        self.rates = rates

    def expected(self) -> list[Role]:
        """Return the shared models, then each one's fine-tuning by task, learning rate and seed."""
        shared = [Role(model, 0.0, seed) for seed in self.seeds for model in MODELS]
        return shared + [role for role, _, _ in self._tunings(MODELS)]

    def _tunings(self, models: Sequence[str]) -> list[tuple[Role, int, float]]:
        return [
            (Role(model, 0.0, seed, f"{subject.task}, {RATE}{rate:.10g}"), place, rate)
            for model in models
            for place, subject in enumerate(self.subjects)
            for rate in self.rates
            for seed in self.tuned
        ]

    def then(self, trial: Trial, outcome: Outcome) -> list[Trial]:
        """Return a shared model's fine-tunings."""
        if len(trial.tasks) == 1 or WEIGHTS not in outcome.files:
            return []
        more = []
        for role, place, rate in self._tunings([role.kind for role in self.played_by(trial)]):
            recipe = self.settings.fine_tuning(self.subjects[place].task)
            more.append(self.fine_tuned(role, place, outcome, recipe.model_copy(update={"learning_rate": rate})))
        return more

    def expected_cost(self) -> float:
        """Return the cost of all trials there will be: about as many fine-tunings as there are rates and seeds."""
        shared = super().expected_cost()
        return shared * (1 + len(self.rates) * len(self.tuned)) / 2


@dataclass(frozen=True)
class SensitivityResult:
    """What `sensitivity` leaves: every run, the spread over seeds (Table 5) and over learning rates (Table 8)."""

    folder: Path
    runs: pd.DataFrame
    over_seeds: pd.DataFrame
    over_learning_rates: pd.DataFrame
    failures: dict[str, str]


def sensitivity(
    folder: Path | str,
    learning_rates: Sequence[float] = (),
    seeds: int = 5,
    workers: int | str | None = None,
    device: str | None = None,
    quiet: bool = True,
) -> SensitivityResult:
    """Train a finished study's models with several seeds and learning rates.

    Of `find` these are the super ticket and the dense model; of `share` the shared models of its first seed, fine-tuned
    on each task. `learning_rates` default to the study's own; seeds follow the study's first. Everything else is as the
    study had it; results go to `sensitivity/` in its folder. Raises TicketError for misuse before anything is written.
    """
    folder = user_path(folder)
    settings = settings_of(folder)
    if not isinstance(settings, FindSettings | ShareSettings):
        raise TicketError(f"{folder}: expected a study of `find` or `share`, this is one of `{settings.study}`.")
    wrong = [rate for rate in learning_rates if not (rate > 0 and np.isfinite(rate))]
    if wrong:
        raise TicketError(f"--learning-rates: expected numbers above 0, got {wrong[0]:g}.")
    if seeds < 1:
        raise TicketError(f"--seeds: expected at least 1, got {seeds}.")
    if seeds < 2 and len(set(learning_rates)) < 2:
        raise TicketError("--seeds 1: one seed and one learning rate have no spread; expected two of either.")
    machine = {name: value for name, value in {"workers": workers, "device": device}.items() if value is not None}
    settings = parse(type(settings), {**settings.model_dump(), **machine})
    for name in settings.without_effect(machine).keys() & machine:
        raise TicketError(f"{flag(name)}: it would change nothing, since {settings.without_effect(machine)[name]}.")
    rates = sorted(set(learning_rates))
    if isinstance(settings, ShareSettings):
        own = settings.fine_tune_learning_rate or settings.learning_rate
        return _of_shared(folder, settings, rates or [own], seeds, quiet)
    return _of_single(folder, settings, rates or [settings.learning_rate], seeds, quiet)


def _of_single(
    folder: Path, settings: FindSettings, rates: Sequence[float], seeds: int, quiet: bool
) -> SensitivityResult:
    """Look further at a study of `find`."""
    if not (folder / "super-ticket").is_dir():
        raise TicketError(f"{folder}: there is no super ticket in it yet; run `supertickets find` to its end first.")
    shared = load_ticket(folder / "super-ticket")
    return conduct(
        lambda settled, subjects: SensitivityStudy(settled, subjects, shared, rates, seeds),
        settings,
        find_model(settings.model),
        {settings.source: load_task(settings.source)},
        quiet,
        lambda study, record: _conclude(folder, record, record.table, *spreads(record)),
        further=True,
    )


def _of_shared(
    folder: Path, settings: ShareSettings, rates: Sequence[float], seeds: int, quiet: bool
) -> SensitivityResult:
    """Look further at a study of `share`."""
    study = ShareStudy.remembered(settings, load_subjects(folder))
    if study is None or not (folder / RESULTS).is_file():
        raise TicketError(f"{folder}: the study is not finished; run `supertickets share` to its end first.")
    return conduct(
        lambda settled, subjects: TuningStudy(settled, subjects, study.tickets, rates, seeds),
        settings,
        find_model(settings.model),
        {subject.source: load_task(subject.source) for subject in study.subjects},
        quiet,
        lambda tuning, record: _conclude_tuning(folder, settings, record),
        further=True,
    )


def _conclude(
    folder: Path, record: Record, runs: pd.DataFrame, over_seeds: pd.DataFrame, over_rates: pd.DataFrame
) -> SensitivityResult:
    check_some_finished(record)
    out = folder / SENSITIVITY
    write_results(out, runs)
    write_tables(out, {"table 5": over_seeds, "table 8": over_rates})
    report([folder])  # its page shows these tables too
    return SensitivityResult(out, runs, over_seeds, over_rates, dict(record.failures))


def _conclude_tuning(folder: Path, settings: ShareSettings, record: Record) -> SensitivityResult:
    found = _conclude(folder, record, tunings(record), *tuning_spreads(record))
    for row in record.rows:
        if settings.keep == "none" and row.outcome is not None:
            row.outcome.drop_weights()
    return found


def tunings(record: Record) -> pd.DataFrame:
    """Return one row a fine-tuning of a shared model: task, learning rate, seed, status and score in percent."""
    rows = []
    for role, row in record.roles.items():
        if role.variant:
            task, rate = role.variant.rsplit(f", {RATE}", 1)
            entry = {"model": role.kind, "task": task, "rate": float(rate), "seed": role.seed, "status": row.status}
            score = row.outcome.score if row.finished and row.outcome is not None else np.nan
            rows.append({**entry, "score": score, "trial": row.trial.key if row.trial is not None else None})
    return pd.DataFrame(rows)


def tuning_spreads(record: Record) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return shared models' spreads in fine-tuning, a row a model and a column a task, beside the paper's own.

    First the standard deviation over seeds of the mean over learning rates (Table 5), then that over learning rates of
    the mean over seeds (Table 8); missing (NaN) for fewer than two.
    """
    scores = tunings(record)
    found = []
    for name, over, mean in (("table 5, multi-task", "seed", "rate"), ("table 8", "rate", "seed")):
        whole = scores.pivot_table(index=["model", "task", over], columns=mean, values="score").dropna()
        spread = whole.mean(axis=1).groupby(["model", "task"]).std(ddof=1).unstack("task")
        table = spread.reindex(index=MODELS, columns=[subject.task for subject in record.subjects])
        size = published_model(record.subject)
        theirs = published()[name].get(size, {}) if size is not None else {}
        for model, row in theirs.items():
            table.loc[published_label(model, str(size))] = [
                row.get(subject.task, np.nan) for subject in record.subjects
            ]
        found.append(table.rename_axis(index=None, columns=None))
    return found[0], found[1]


def spreads(record: Record) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the standard deviation over seeds for each learning rate, and over learning rates of the mean over seeds.

    One row a model. The first is the paper's Table 5, the second its Table 8; NaN for fewer than two finished runs.
    """
    runs = record.table[record.table["status"] == "finished"]
    runs = runs.assign(rate=runs["variant"].str.removeprefix(RATE).astype(float))
    grouped = runs.groupby(["kind", "rate"])["score"]
    mean, std = grouped.mean().unstack(), grouped.std().unstack()
    names = {DENSE: "ST-DNN", SUPER: "SuperT"}
    rows_seeds, rows_rates = {}, {}
    for kind, name in names.items():
        if kind not in mean.index:
            continue
        own = {f"learning rate {rate:g}": std.loc[kind, rate] for rate in std.columns}
        rows_seeds[name] = {
            **own,
            "mean": np.nanmean(std.loc[kind].to_numpy(float)) if std.loc[kind].notna().any() else np.nan,
        }
        of_rates = {f"mean at {rate:g}": mean.loc[kind, rate] for rate in mean.columns}
        rows_rates[name] = {**of_rates, "standard deviation": pd.Series(mean.loc[kind]).std(ddof=1)}
    return pd.DataFrame.from_dict(rows_seeds, orient="index"), pd.DataFrame.from_dict(rows_rates, orient="index")
