"""A narrow study: one level that was fixed beforehand, so that no choice of a level has to be corrected for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supertickets.evidence.choice import Choice, chosen_gain, halved
from supertickets.evidence.gains import Gain
from supertickets.evidence.runs import DENSE, Runs


@dataclass(frozen=True)
class Narrow:
    """What winning tickets gain at the one `level`: `over` dense runs and random tickets of the same seeds, by kind.

    The epoch of every run is chosen by cross-fitting.
    """

    level: float
    over: Mapping[str, Gain]


def narrow_gains(runs: Runs, level: float) -> Narrow:
    """Return what winning tickets gain at a level that was fixed beforehand; runs that did not finish are left out."""
    every = {
        kind: {run.step.labels["seed"]: run for run in runs.only(stage=None).where(kind=kind, level=at)}
        for kind, at in (("winning", level), (DENSE, 0.0), ("random", level))
    }
    winning = {seed: run for seed, run in every["winning"].items() if not run.result.trial.ticket.is_full}
    over = {}
    for kind in (DENSE, "random"):
        if seeds := sorted(int(str(seed)) for seed in winning.keys() & every[kind].keys()):
            over[kind] = chosen_gain(
                *(
                    {seed: Choice.among({of[seed]: halved(of[seed].result, runs.task)}, runs.task) for seed in seeds}
                    for of in (winning, every[kind])
                )
            )
    return Narrow(level, over)
