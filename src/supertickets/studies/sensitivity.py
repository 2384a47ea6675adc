"""How much super ticket and dense model depend on seed and learning rate (paper, Tables 5 and 8, appendix A.4).

A further look at a study of `find`: it runs in that study's folder, and what the study trained already is not trained
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from supertickets.errors import StudyError, TicketError
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.table import DENSE, Role
from supertickets.evidence.tables import write_tables
from supertickets.lab import Trial
from supertickets.models import find_model
from supertickets.studies.folder import settings_of
from supertickets.studies.pages import SENSITIVITY
from supertickets.studies.report import report
from supertickets.studies.settings import FindSettings, parse
from supertickets.studies.study import Study, conduct, write_results
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
    """Train a finished study's super ticket and dense model with several seeds and learning rates.

    `learning_rates` default to the study's own; seeds follow the study's first. Everything else is as the study had it;
    results go to `sensitivity/` in its folder. Raises TicketError for misuse before anything is written.
    """
    folder = Path(folder)
    settings = settings_of(folder)
    if not isinstance(settings, FindSettings):
        raise TicketError(f"{folder}: expected a study of `find`, this is one of `{settings.study}`.")
    if not (folder / "super-ticket").is_dir():
        raise TicketError(f"{folder}: there is no super ticket in it yet; run `supertickets find` to its end first.")
    wrong = [rate for rate in learning_rates if not (rate > 0 and np.isfinite(rate))]
    if wrong:
        raise TicketError(f"--learning-rates: expected numbers above 0, got {wrong[0]:g}.")
    if seeds < 1:
        raise TicketError(f"--seeds: expected at least 1, got {seeds}.")
    rates = sorted(set(learning_rates)) or [settings.learning_rate]
    machine = {name: value for name, value in {"workers": workers, "device": device}.items() if value is not None}
    settings = parse(FindSettings, {**settings.model_dump(), **machine})
    base, tasks = find_model(settings.model), {settings.source: load_task(settings.source)}
    shared = load_ticket(folder / "super-ticket")
    return conduct(
        lambda settled, subjects: SensitivityStudy(settled, subjects, shared, rates, seeds),
        settings,
        base,
        tasks,
        quiet,
        lambda study, record: _conclude(folder, record),
        further=True,
    )


def _conclude(folder: Path, record: Record) -> SensitivityResult:
    if not any(row.finished for row in record.rows):
        raise StudyError(f"no training finished: {record.first_trouble()}")
    over_seeds, over_rates = spreads(record)
    out = folder / SENSITIVITY
    write_results(out, record.table)
    write_tables(out, {"table 5": over_seeds, "table 8": over_rates})
    report([folder])  # its page shows these tables too
    return SensitivityResult(out, record.table, over_seeds, over_rates, dict(record.failures))


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
