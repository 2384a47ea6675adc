"""What was understood of a task's data, in sentences: shown before training, on the page and in the model card."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supertickets.tasks.tables import counted, shown
from supertickets.tasks.task import Split, Task

_NAMED = 20
"""How many classes a sentence names, the largest first."""


@dataclass(frozen=True)
class Description:
    """The sizes of a task's sets, its classes (label, training examples, dev examples) or its training targets' range,
    mean and standard deviation, and sentences on how files were read and on what may be a mistake in them.
    """

    train: int
    dev: int
    unit: str
    classes: tuple[tuple[str, int, int], ...]
    targets: tuple[float, float, float, float] | None
    notices: tuple[str, ...]

    def sentences(self) -> tuple[str, ...]:
        """Return all that as sentences."""
        found = [f"{self.train:,} training and {self.dev:,} dev {self.unit}."]
        if self.classes:
            largest = sorted(self.classes, key=lambda one: -one[1])[:_NAMED]
            more = f" and {len(self.classes) - _NAMED:,} more" if len(self.classes) > _NAMED else ""
            named = ", ".join(f"{shown(label)} ({train:,} + {dev:,})" for label, train, dev in largest)
            found.append(f"{len(self.classes):,} classes (training + dev examples): {named}{more}.")
        if self.targets:
            low, high, mean, deviation = self.targets
            found.append(
                f"Training targets are from {low:.6g} to {high:.6g}, with mean {mean:.6g} and standard deviation "
                f"{deviation:.6g}."
            )
        return (*found, *self.notices)


def describe(task: Task) -> Description:
    """Return what a task's data were understood to be."""
    classes: list[tuple[str, int, int]] = []
    if task.labels:
        train, dev = (np.bincount(part.targets, minlength=len(task.labels)) for part in (task.train, task.dev))
        classes = [(label, int(train[place]), int(dev[place])) for place, label in enumerate(task.labels)]
    real = task.train.targets
    return Description(
        train=len(task.train),
        dev=len(task.dev),
        unit={"masked": "lines", "spans": "questions", "sequence": "examples"}[task.form],
        classes=tuple(classes),
        targets=(float(real.min()), float(real.max()), float(real.mean()), float(real.std()))
        if task.is_regression
        else None,
        notices=(*dict.fromkeys(task.notices), *_positive(task), *_variation(task), *_texts(task), *_repeated(task)),
    )


def _positive(task: Task) -> list[str]:
    """Return which class F1 is of."""
    place = {"f1": 1, "f1_first": 0}
    return [f"Metric {name} is of class {shown(task.labels[place[name]])}." for name in task.metrics if name in place]


def _variation(task: Task) -> list[str]:
    """Return what the dev set says nothing on."""
    there = {*task.dev.targets.tolist()}
    missing = [shown(label) for place, label in enumerate(task.labels) if place not in there]
    if task.labels and len(there) == 1:
        return [
            f"Every dev example is of class {shown(task.labels[there.pop()])}, so that the dev score says nothing on "
            "other classes."
        ]
    if missing:
        what = "1 class has" if len(missing) == 1 else f"{len(missing):,} classes have"
        return [f"{what} no dev example: {_listed(missing)}."]
    return []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _texts(task: Task) -> list[str]:
    """Return how many texts have nothing in them, or characters that a text hardly means to have."""
    found = []
    for name, part in {"training": task.train, **task.evaluations}.items():
        texts = [*part.text, *(part.pair or [])]
        blank, nul = (sum(map(test, texts)) for test in (lambda text: not text.strip(), lambda text: "\0" in text))
        for number, what in ((blank, "empty or only white space"), (nul, "with a NUL character in it")):
            if number:
                found.append(f"{number:,} of {counted(len(texts), f'{name} text')} {what}.")
    return found


def _repeated(task: Task) -> list[str]:
    """Return how many examples of each evaluation set are in the training set too; lines of a corpus may well be."""
    if task.form == "masked":
        return []
    seen = set(_examples(task.train))
    found = {name: sum(one in seen for one in _examples(part)) for name, part in task.evaluations.items()}
    return [
        f"{number:,} of {counted(len(task.evaluations[name]), f'{name} example')} also in the training set."
        for name, number in found.items()
        if number
    ]


def _examples(part: Split) -> list[tuple[str, str]]:
    return list(zip(part.text, part.pair or [""] * len(part), strict=True))
