"""What a task is, wherever its examples come from."""

import hashlib
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError, nearest
from supertickets.storage import canonical_json

Form = Literal["sequence", "spans", "masked", "causal", "tokens"]
"""What a model gives: outputs for a whole text, an answer's first and last token, the tokens that were masked, the next
token at each place, or a tag for each word."""
CORPORA: tuple[Form, ...] = ("masked", "causal")
"""The forms of language modelling: examples are the lines of a corpus."""


@dataclass(frozen=True)
class Split:
    """Examples: one text each or two, and targets: class indices `[examples]`, or real numbers in regression.

    Where an example may have any number of labels, they are 0 or 1 `[examples, labels]`.

    Of the form `spans`, texts are questions, second texts the contexts, and `answers` every gold answer of each: its
    first character in the context and its text. Of the `CORPORA`, texts are the lines of a corpus, in order. Of the
    form `tokens`, `words` are each sentence's words with their tags by index, and texts the words with spaces between.
    There targets are zeros that nothing reads.
    """

    text: list[str]
    pair: list[str] | None
    targets: NDArray[Any]
    answers: list[list[tuple[int, str]]] | None = None
    words: list[list[tuple[str, int]]] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: NDArray[np.int64]) -> "Split":
        """Return the examples at `rows`, in that order."""
        pair = None if self.pair is None else [self.pair[row] for row in rows]
        answers = None if self.answers is None else [self.answers[row] for row in rows]
        words = None if self.words is None else [self.words[row] for row in rows]
        return Split([self.text[row] for row in rows], pair, self.targets[rows], answers, words)


@dataclass(frozen=True)
class Task:
    """A task to fine-tune on. `labels` are the class names in the order of their indices; none means regression.

    Of the form `tokens` they are the tags of IOB2; other forms have none. In a `multi_label` task an example may have
    any number of them.

    `dev` is what early stopping and selection look at; `extra` are further evaluation sets (MNLI's mismatched one).
    `score` of an evaluation is the mean of the task's metrics, in percent, as GLUE averages them (but see
    `metrics.UNSCORED`). Models learn `standardised` targets by the training set's mean and standard deviation, and are
    judged and shipped in the targets' own units: a user's may have any. STS-B and the built-in tasks are trained on raw
    targets, as published. `notices` are sentences on how its files were read.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: Split
    dev: Split
    extra: dict[str, Split]
    form: Form = "sequence"
    notices: tuple[str, ...] = ()
    standardised: bool = False
    multi_label: bool = False

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets where they are standardised, else 0 and 1."""
        if not self.standardised:
            return 0.0, 1.0
        return float(np.mean(self.train.targets)), float(np.std(self.train.targets))

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels where each example has one of them, its target; else none."""
        return self.labels if self.form == "sequence" and not self.multi_label else ()

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.form == "sequence" and not self.labels

    @property
    def problem(self) -> str | None:
        """What transformers calls the kind of problem in a config's `problem_type`; None of other forms than texts'."""
        if self.form != "sequence":
            return None
        if self.multi_label:
            return "multi_label_classification"
        return "single_label_classification" if self.labels else "regression"

    @property
    def outputs(self) -> int:
        """How many numbers the output layer gives: a text, or of the forms `spans` (2) and `tokens` a token.

        Of the `CORPORA` it gives one for each entry of the model's vocabulary, whatever this says.
        """
        return 2 if self.form == "spans" else len(self.labels) or 1

    @property
    def evaluations(self) -> dict[str, Split]:
        """Every evaluation set by name, `dev` first."""
        return {"dev": self.dev, **self.extra}

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that can change a result: labels, metrics, every text and target.

        Neither the name nor the notices.
        """
        form: list[str] = [] if self.form == "sequence" else [self.form]
        form += [name for name in ("standardised", "multi_label") if getattr(self, name)]
        sha = hashlib.sha256(canonical_json([self.labels, self.metrics, *form]).encode())
        for name, split in {"train": self.train, **self.evaluations}.items():
            more = [part for part in (split.answers, split.words) if part is not None]
            targets = split.targets.tolist()
            if self.multi_label:
                targets = [np.flatnonzero(row).tolist() for row in split.targets]
            sha.update(canonical_json([name, split.text, split.pair, targets, *more]).encode())
        return sha.hexdigest()


def class_targets(where: str, values: Sequence[object], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each value in `labels`; raises TicketError naming the first value that is not one of them."""
    index = {label: i for i, label in enumerate(labels)}
    return np.array([_place(where, row, value, index) for row, value in enumerate(values)], np.int64)


def label_targets(where: str, values: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.int8]:
    """Return which of `labels` each example has, 0 or 1 `[examples, labels]`.

    Raises TicketError naming the first label that is not one of them.
    """
    index = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(values), len(labels)), np.int8)
    for row, one in enumerate(values):
        targets[row, [_place(where, row, value, index) for value in one]] = 1
    return targets


def _place(where: str, row: int, value: object, index: Mapping[str, int]) -> int:
    if str(value) in index:
        return index[str(value)]
    labels = list(index)
    known = ", ".join(labels[:8]) + (f" (and {len(labels) - 8} more)" if len(labels) > 8 else "")
    near = nearest(value, labels) if len(labels) > 8 else ""
    raise TicketError(f"{where}: example {row + 1} has label {str(value)[:60]!r}, {near}expected one of {known}.")


def real_targets(where: str, values: Sequence[object]) -> NDArray[np.float64]:
    """Return the values as numbers; raises TicketError naming the first that is none, or is NaN or infinite."""
    targets = np.empty(len(values), np.float64)
    for row, value in enumerate(values):
        try:
            targets[row] = math.nan if "_" in str(value) else float(str(value))  # Python would read 1_000 as 1000
        except ValueError:
            targets[row] = math.nan
        if not math.isfinite(targets[row]):
            raise TicketError(f"{where}: example {row + 1} has target {reprlib.repr(value)}, expected a finite number.")
    return targets
