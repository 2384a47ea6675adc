"""What was understood of a task's data, in sentences: shown before training, on the page and in the model card."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from supertickets.tasks.tables import counted, shown
from supertickets.tasks.task import CORPORA, Form, Split, Task

_NAMED = 20
"""How many classes a sentence names, the largest first."""


def describe(task: Task) -> tuple[str, ...]:
    """Return what a task's data were understood to be: the sizes of its sets, its classes or its targets' range.

    Sentences follow on how files were read and on what may be a mistake in them.
    """
    units: dict[Form, str] = {"masked": "lines", "causal": "lines", "spans": "questions", "tokens": "sentences"}
    unit = units.get(task.form, "examples")
    found = [f"{len(task.train):,} training and {len(task.dev):,} dev {unit}."]
    if task.labels:
        what, names, (train, dev) = _labelled(task)
        largest = np.argsort(-train, kind="stable")
        named = [f"{shown(names[i])} ({train[i]:,} + {dev[i]:,})" for i in largest]
        found.append(f"{len(names):,} {what}: {_listed(named)}.")
    if task.multi_label:
        without = [int((~part.targets.any(axis=1)).sum()) for part in (task.train, task.dev)]
        found.append(f"Examples without any label (training + dev): {without[0]:,} + {without[1]:,}.")
    if task.is_regression:
        real = task.train.targets
        found.append(
            f"Training targets are from {real.min():.6g} to {real.max():.6g}, with mean {real.mean():.6g} and standard "
            f"deviation {real.std():.6g}."
        )
    notices = dict.fromkeys(task.notices)
    return (*found, *notices, *_positive(task), *_variation(task), *_texts(task), *_repeated(task))


def _labelled(task: Task) -> tuple[str, Sequence[str], list[NDArray[np.int64]]]:
    """Return what is counted of a task's labels, in words, their names, and counts in the training and the dev set."""
    if task.form == "tokens":
        types = [label.removeprefix("B-") for label in task.labels if label.startswith("B-")]
        begin = [i for i, label in enumerate(task.labels) if label.startswith("B-")]
        tags = [[tag for words in part.words or [] for _, tag in words] for part in (task.train, task.dev)]
        return "types of entities (training + dev entities)", types, [_counts(one, task)[begin] for one in tags]
    targets = [part.targets for part in (task.train, task.dev)]
    if task.multi_label:
        return "labels (training + dev examples that have them)", task.labels, [one.sum(axis=0) for one in targets]
    return "classes (training + dev examples)", task.labels, [_counts(one, task) for one in targets]


def _counts(places: Sequence[int] | NDArray[np.int64], task: Task) -> NDArray[np.int64]:
    return np.bincount(places, minlength=len(task.labels))


def _positive(task: Task) -> list[str]:
    """Return which class F1 is of."""
    place = {"f1": 1, "f1_first": 0}
    return [f"Metric {name} is of class {shown(task.labels[place[name]])}." for name in task.metrics if name in place]


def _variation(task: Task) -> list[str]:
    """Return what the dev set says nothing on."""
    if not task.labels:
        return []
    _, names, (train, dev) = _labelled(task)
    there = np.flatnonzero(dev)
    if task.classes and len(there) == 1:
        return [
            f"Every dev example is of class {shown(names[there[0]])}, so that the dev score says nothing on other "
            "classes."
        ]
    one, many, of = ("1 class has", "classes have", "example")
    if task.form == "tokens":
        one, many, of = ("1 type of entities has", "types of entities have", "entity")
    elif task.multi_label:
        one, many = ("1 label has", "labels have")
    sets = [("dev", dev)] if task.classes else [("training", train), ("dev", dev)]
    found = []
    for part, counts in sets:
        if missing := [shown(name) for name, number in zip(names, counts, strict=True) if not number]:
            what = one if len(missing) == 1 else f"{len(missing):,} {many}"
            found.append(f"{what} no {part} {of}: {_listed(missing)}.")
    return found


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
    if task.form in CORPORA:
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
