"""Choosing among a seed's runs: the best epoch of the best run, its cross-fitted score, and what examples add to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supertickets.evidence.examples import contributions
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


def halved(outcome: Outcome, task: TaskInfo) -> Floats:
    """Return the scores of a finished training's epochs on all of the dev set and on halves (see `halved_scores`).

    They are those of every epoch that its recipe lets early stopping choose.
    """
    outputs = outcome.predictions()["dev"]
    allowed = outputs[-1:] if outcome.trial.recipe.keep_epoch == "last" else outputs
    return halved_scores(allowed, task.metrics, task.targets)
