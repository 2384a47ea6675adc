"""Whether the dense model has learned its task: against scikit-learn on constant answers, and in made-up studies."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from helpers.find_records import TARGETS, made, study
from supertickets.evidence.find import analyse_find
from supertickets.evidence.learned import constants
from supertickets.evidence.resampling import weighted_scores


def best(metric: str, targets: np.ndarray[Any, Any]) -> float:
    whole = np.ones((1, len(targets)))
    return max(float(weighted_scores([metric], targets, one, whole)[0]) for one in constants([metric], targets))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_best_constant_answer(classes: int) -> None:
    targets = np.random.default_rng(classes).choice(classes, 50, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    every = [np.full(50, one) for one in range(classes)]
    assert best("accuracy", targets) == pytest.approx(100 * max(np.mean(targets == one) for one in every))
    assert best("matthews", targets) == 0
    naive = max(sklearn_metrics.f1_score(targets, one, average="macro", zero_division=0.0) for one in every)
    assert best("macro_f1", targets) == pytest.approx(100 * naive)
    right = weighted_scores(["accuracy"], targets, np.eye(classes)[targets], np.ones((1, 50)))
    assert best("accuracy", targets) < right[0] == pytest.approx(100)  # control


def test_constant_numbers_and_labels() -> None:
    rng = np.random.default_rng(0)
    assert best("pearson", rng.normal(size=30)) == 0
    labels = (rng.random((40, 3)) < [0.2, 0.6, 0.9]).astype(int)
    always = np.tile([0, 1, 1], (40, 1))
    naive = [sklearn_metrics.f1_score(labels, one, average="micro") for one in (always, np.ones_like(always))]
    assert best("micro_f1", labels) == pytest.approx(100 * max(naive))


def test_a_study_that_learned_little_says_so() -> None:
    """Answers of chance: little. Dense runs that are right on 70 %: not a word."""
    often = max(np.bincount(TARGETS)) / len(TARGETS)
    for ability, little in ((often, True), (0.7, False)):
        runs = study(lambda trial, a=ability: made(trial, a, trial.recipe.epochs), control="none")
        findings = analyse_find(runs)
        assert findings.learned is not None
        assert findings.learned.same_answer == pytest.approx(100 * often)
        assert findings.learned.little is little
        assert ("has learned little of this task" in findings.verdict) is little
    assert findings.learned.over.mean == pytest.approx(70 - 100 * often, abs=3)


def test_it_is_of_all_dense_runs_as_the_score_beside_it() -> None:
    """Tickets of seed 0 alone have finished."""

    def outcome(trial: Any) -> Any:
        done = trial.ticket.is_full or trial.seed == 0
        return made(trial, 0.6 + 0.1 * trial.seed, trial.recipe.epochs) if done else None

    some, every = (analyse_find(study(of, control="none")).learned for of in (outcome, lambda trial: made(
        trial, 0.6 + 0.1 * trial.seed, trial.recipe.epochs)))  # fmt: skip
    assert some is not None
    assert every is not None
    assert some.over == every.over


def test_seeds_whose_dense_model_gives_one_answer_are_counted() -> None:
    """Seed 1's dense run says the same of all examples; the others are right on 70 %."""

    def outcome(trial: Any) -> Any:
        one = made(trial, 0.7, trial.recipe.epochs)
        if trial.seed == 1 and trial.ticket.is_full:
            one.said[...] = [0.3, 0.1]
        return one

    findings = analyse_find(study(outcome, control="none"))
    assert findings.learned is not None
    assert findings.learned.constant == 1
    assert "In 1 of 3 seeds, the dense model gives all examples the same answer." in findings.verdict
    none = analyse_find(study(control="none"))
    assert "the same answer" not in none.verdict
