"""How much models depend on seed and learning rate (paper, Tables 5 and 8, appendix A.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from supertickets.evidence.runs import DENSE

MODELS = {DENSE: "ST-DNN", "super": "SuperT"}
"""The models of a study of `find` as the paper calls them."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations over seeds (Table 5) and over learning rates (Table 8), a row a model."""

    over_seeds: pd.DataFrame
    over_learning_rates: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return both, to be written."""
        return {"spread over seeds": self.over_seeds, "spread over learning rates": self.over_learning_rates}


def spread_over(runs: pd.DataFrame, by: Sequence[str], over: str, mean: str) -> pd.Series:
    """Return the standard deviation over one column of the mean over another, by `by`; NaN for fewer than two values.

    What lacks a run of the mean is left out.
    """
    whole = runs.pivot_table(index=[*by, over], columns=mean, values="score").dropna()
    return whole.mean(axis=1).groupby(list(by)).std(ddof=1)


def spread_of_single(runs: pd.DataFrame) -> Spread:
    """Return the spreads of the dense model and the super ticket from their runs by `learning_rate` and `seed`.

    Table 5 has the standard deviation over seeds at each learning rate, and their mean; Table 8 the mean over seeds at
    each learning rate, and the standard deviation of these.
    """
    finished = runs[runs["status"] == "finished"]
    grouped = finished.groupby(["kind", "learning_rate"])["score"]
    means, deviations = grouped.mean().unstack(), grouped.std().unstack()
    over_seeds, over_rates = {}, {}
    for kind, name in MODELS.items():
        if kind not in means.index:
            continue
        at = deviations.loc[kind]
        over_seeds[name] = {f"learning rate {rate:g}": value for rate, value in at.items()}
        over_seeds[name]["mean"] = at.mean() if at.notna().any() else np.nan
        over_rates[name] = {f"mean at {rate:g}": value for rate, value in means.loc[kind].items()}
        over_rates[name]["standard deviation"] = means.loc[kind].std(ddof=1)
    return Spread(*(pd.DataFrame.from_dict(rows, orient="index") for rows in (over_seeds, over_rates)))
