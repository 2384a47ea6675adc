"""Choosing among a seed's runs: the best epoch of the best run, its cross-fitted score, and what examples add to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from supertickets.evidence.examples import contributions
from supertickets.evidence.gains import Gain
from supertickets.evidence.resampling import Floats
from supertickets.evidence.runs import TaskInfo
from supertickets.evidence.selection import Selected, chosen_contributions, cross_fit, halved_scores
from supertickets.lab.outcome import Outcome
from supertickets.lab.steps import Run


@dataclass(frozen=True)
class Choice:
    """The scores of what is chosen, both ways, and each dev example's contribution to the cross-fitted one."""

    selected: Selected
    by_example: Floats

    @classmethod
    def among(cls, runs: Mapping[Run, Floats], task: TaskInfo) -> Choice:
        """Choose among runs with their scores by epoch and half (see `halved`)."""
        selected = cross_fit([*runs.values()])
        candidates = [(run, epoch - len(scores)) for run, scores in runs.items() for epoch in range(len(scores))]

        def contributions_of(candidate: int) -> Floats:
            run, epoch = candidates[candidate]
            return contributions(task.metrics, task.targets, run.result.predictions()["dev"][epoch])

        return cls(selected, chosen_contributions(selected, contributions_of))


def chosen_gain(of: Mapping[int, Choice], over: Mapping[int, Choice]) -> Gain:
    """Return the cross-fitted gain of what is chosen in each seed over what else is, tested by example."""
    scores, others = ([choice.selected.cross_fitted for choice in choices.values()] for choices in (of, over))
    return Gain.of([*of], scores, others, np.stack([of[seed].by_example - over[seed].by_example for seed in of]))


def halved(outcome: Outcome, task: TaskInfo) -> Floats:
    """Return the scores of a finished training's epochs on all of the dev set and on halves (see `halved_scores`).

    They are those of every epoch that its recipe lets early stopping choose.
    """
    outputs = outcome.predictions()["dev"]
    allowed = outputs[-1:] if outcome.trial.recipe.keep_epoch == "last" else outputs
    return halved_scores(allowed, task.metrics, task.targets)
