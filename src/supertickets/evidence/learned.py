"""Whether the dense model has learned its task: its score against that of always giving the same answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.choice import Choice
from supertickets.evidence.examples import contributions
from supertickets.evidence.resampling import weighted_scores
from supertickets.evidence.runs import TaskInfo
from supertickets.evidence.statistics import LEVEL, Paired, two_way_test
from supertickets.tasks.metrics import JUDGED, REGRESSION


@dataclass(frozen=True)
class Learned:
    """The score of always giving the same answer (the best one), and what dense runs score over it, cross-fitted.

    The test is one-sided: are they better, for new seeds and new examples? It is of the mean over seeds; `constant`
    says how many of the runs give all examples the same answer.
    """

    same_answer: float
    over: Paired
    constant: int = 0

    @property
    def little(self) -> bool:
        """Whether the dense model is not significantly better, so that tickets have little to keep."""
        return not self.over.p < LEVEL


def learned(task: TaskInfo, dense: Sequence[Choice], outputs: Sequence[NDArray[np.float32]]) -> Learned | None:
    """Compare dense runs with the best constant answer; None where answers are not of a few kinds, or without runs.

    `outputs` are those of the runs' best epochs on the dev set, `[examples, outputs]` each.

    >>> import numpy as np
    >>> max(float(np.mean(one.argmax(axis=1) == [0, 0, 1])) for one in constants(("accuracy",), np.array([0, 0, 1])))
    0.6666666666666666
    """
    if not dense or all(name in JUDGED for name in task.metrics):
        return None
    whole = np.ones((1, len(task.targets)))

    def score(outputs: NDArray[np.float64]) -> float:
        return float(weighted_scores(task.metrics, task.targets, outputs, whole)[0])

    best = max(constants(task.metrics, task.targets), key=score)
    own, same = np.stack([run.by_example for run in dense]), contributions(task.metrics, task.targets, best)
    mean = float(np.mean([run.selected.cross_fitted for run in dense])) - score(best)
    answers = [_answers(task, of_run) for of_run in outputs]
    alike = sum(bool((of_run == of_run[0]).all()) for of_run in answers)
    return Learned(score(best), two_way_test(own - same, mean, "greater"), alike)


def _answers(task: TaskInfo, outputs: NDArray[np.float32]) -> NDArray[Any]:
    """Return what each example is taken for: a class, labels, or a number."""
    if all(name in REGRESSION for name in task.metrics):
        return outputs
    return outputs > 0 if task.targets.ndim == 2 else outputs.argmax(axis=-1)


def constants(metrics: Sequence[str], targets: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield outputs `[examples, outputs]` that are the same for all examples: each class, or the mean number.

    Of several labels: those that most examples have, and all.
    """
    if all(name in REGRESSION for name in metrics):
        yield np.full((len(targets), 1), float(np.mean(targets)))
    elif targets.ndim == 2:
        yield np.tile(np.where(targets.mean(axis=0) > 0.5, 1.0, -1.0), (len(targets), 1))
        yield np.ones(targets.shape)
    else:
        for answer in np.eye(max(2, int(targets.max()) + 1)):
            yield np.tile(answer, (len(targets), 1))
