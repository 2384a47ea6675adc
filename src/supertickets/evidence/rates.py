"""How much models depend on seed and learning rate (paper, Tables 5 and 8, appendix A.4)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from supertickets.evidence.runs import DENSE

MODELS = {DENSE: "ST-DNN", "super": "SuperT"}
"""The models of a study of `find` as the paper calls them."""


SPREAD = ("spread over seeds", "spread over learning rates")
"""The tables of standard deviations over seeds (Table 5) and over learning rates (Table 8), a row a model."""
SPREAD_SAID = dict(zip(SPREAD, ("spread over seeds (Table 5)", "spread over learning rates (Table 8)"), strict=True))
"""How these tables are called where they are printed."""


def spread_over(runs: pd.DataFrame, by: Sequence[str], over: str, mean: str) -> pd.Series:
    """Return the standard deviation over one column of the mean over another, by `by`; NaN for fewer than two values.

    What lacks a run of the mean is left out.
    """
    whole = runs.pivot_table(index=[*by, over], columns=mean, values="score").dropna()
    return whole.mean(axis=1).groupby(list(by)).std(ddof=1)


def spread_of_single(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the spreads of the dense model and the super ticket from their runs by `learning_rate` and `seed`.

    Table 5 has the standard deviation over seeds at each learning rate, and their mean; Table 8 the mean over seeds at
    each learning rate, and the standard deviation of these.
    """
    grouped = runs[runs["status"] == "finished"].groupby(["kind", "learning_rate"])["score"]
    means, deviations = grouped.mean().unstack(), grouped.std().unstack()
    kinds = [kind for kind in MODELS if kind in means.index]
    over_seeds = deviations.rename(columns="learning rate {:g}".format).assign(mean=deviations.mean(axis=1))
    over_rates = means.rename(columns="mean at {:g}".format).assign(**{"standard deviation": means.std(axis=1)})
    both = (
        table.loc[kinds].rename(index=MODELS).rename_axis(index=None, columns=None)
        for table in (over_seeds, over_rates)
    )
    return dict(zip(SPREAD, both, strict=True))
