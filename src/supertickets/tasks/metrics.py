"""Metrics: GLUE's, errors of numbers, those of SQuAD, masked tokens and entities, for many resamples at once.

`weights` `[resamples, examples]` say how often each example counts in each resample; a row of ones is the set itself.
Thousands of resamples of every run would take minutes with scikit-learn and scipy; matrix products give them at once.
Tests hold the results equal to those libraries'.

What a model says of a masked block, a question or a sentence's words is judged where it is computed
(`training.masked`, `.spans`, `.tokens`); outputs are the judgements then, which are small, and a metric of any resample
is a ratio of sums:

- masked, causal: `[blocks, 3]`, how many tokens were predicted, how many of them were right, the sum of their losses;
- spans: `[questions, 4]`, exact match (0 or 1), F1 (0 to 1), the answer's first character and the one after its last;
- tokens: `[sentences, 5]`, how many words there are, how many of them have the right tag; how many entities there are,
  how many were predicted, how many of those are right.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Weighted counts of examples: all `[resamples]`; by class `[resamples, classes]` of targets, of predictions, and
    of examples where both are that class.
    """

    total: Floats
    actual: Floats
    predicted: Floats
    right: Floats


def _counts(targets: NDArray[Any], predicted: NDArray[Any], classes: int, weights: Floats) -> Counts:
    every = np.arange(max(classes, int(targets.max()) + 1))
    actual, said = ((values[:, None] == every).astype(np.float64) for values in (targets, predicted))
    return Counts(weights.sum(axis=1), *np.hsplit(weights @ np.hstack([actual, said, actual * said]), 3))


def _label_counts(targets: NDArray[Any], predicted: NDArray[np.bool_], weights: Floats) -> Counts:
    """Return counts where an example has any number of labels; both arrays are `[examples, labels]`."""
    actual, said = targets.astype(np.float64), predicted.astype(np.float64)
    return Counts(weights.sum(axis=1), *np.hsplit(weights @ np.hstack([actual, said, actual * said]), 3))


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, 0 where below is 0, as the libraries do."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _accuracy(counts: Counts) -> Floats:
    return _ratio(counts.right.sum(axis=1), counts.total)


def _f1_by_class(counts: Counts) -> Floats:
    return _ratio(2 * counts.right, counts.actual + counts.predicted)


def _micro_f1(counts: Counts) -> Floats:
    return _ratio(2 * counts.right.sum(axis=1), (counts.actual + counts.predicted).sum(axis=1))


def _macro_f1(counts: Counts) -> Floats:
    """Return the mean F1 of the classes that occur among targets or predictions."""
    return _ratio(_f1_by_class(counts).sum(axis=1), (counts.actual + counts.predicted > 0).sum(axis=1).astype(float))


def _matthews(counts: Counts) -> Floats:
    total = counts.total
    covariance = counts.right.sum(axis=1) * total - (counts.actual * counts.predicted).sum(axis=1)
    spread = (total**2 - (counts.actual**2).sum(axis=1)) * (total**2 - (counts.predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


CLASSIFICATION: dict[str, Callable[[Counts], Floats]] = {
    "accuracy": _accuracy,
    "f1": lambda counts: _f1_by_class(counts)[:, 1],
    "f1_first": lambda counts: _f1_by_class(counts)[:, 0],  # of the first of two classes, where `--positive` names it
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}

MULTI_LABEL: dict[str, Callable[[Counts], Floats]] = {
    "micro_f1": _micro_f1,
    "macro_f1": lambda counts: _f1_by_class(counts).mean(axis=1),  # of every label, as scikit-learn's of such targets
}


def _mean(values: Floats, weights: Floats) -> Floats:
    return _ratio((weights * values).sum(axis=1), weights.sum(axis=1))


def _centred(values: Floats, weights: Floats) -> Floats:
    """Return `[examples]` or `[resamples, examples]` less their means `[resamples, 1]`; zeros where all are equal."""
    drawn = weights > 0
    least, most = np.where(drawn, values, np.inf).min(axis=1), np.where(drawn, values, -np.inf).max(axis=1)
    # Not by the differences: the mean of equal floats may be the float beside them.
    return np.where((most > least)[:, None], values - _mean(values, weights)[:, None], 0.0)


def _pearson(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Return the correlation, 0 where targets or predictions are all equal: they correlate with nothing."""
    x, y = _centred(targets, weights), _centred(predicted, weights)
    spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    return np.clip(_ratio((weights * x * y).sum(axis=1), np.sqrt(spread)), -1.0, 1.0)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of each value among those drawn, `[resamples, examples]`; equal values share theirs."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    drawn = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, place]


def _spearman(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    return _pearson(_ranks(targets, weights), _ranks(predicted, weights), weights)


def _r2(targets: Floats, predicted: Floats, weights: Floats) -> Floats:
    spread = _mean(_centred(targets, weights) ** 2, weights)
    return np.where(spread > 0, 1.0 - _ratio(_mean((targets - predicted) ** 2, weights), spread), 0.0)


OfNumbers = Callable[[Floats, Floats, Floats], Floats]
ERRORS: dict[str, OfNumbers] = {
    "mae": lambda targets, predicted, weights: _mean(np.abs(predicted - targets), weights),
    "rmse": lambda targets, predicted, weights: np.sqrt(_mean((predicted - targets) ** 2, weights)),
}
"""Mean absolute error and root mean squared error, in the targets' units. No correlation sees these, or an offset:
`r2`, the share of the targets' variance that predictions explain, is what makes a score see them."""
REGRESSION: dict[str, OfNumbers] = {"pearson": _pearson, "spearman": _spearman, "r2": _r2, **ERRORS}


@dataclass(frozen=True)
class Judged:
    """A metric of judged outputs: a ratio of sums over examples and some columns; none `below` counts the examples.

    A column named twice counts twice. `shown` turns the ratio into what is reported: percent, unless it says otherwise.
    """

    above: tuple[int, ...]
    below: tuple[int, ...] = ()
    shown: Callable[[Any], Any] = lambda ratio: 100.0 * ratio

    def of(self, outputs: NDArray[Any], weights: Floats) -> Floats:
        """Return the metric for each row of `weights`."""
        found = outputs.astype(np.float64)
        above = weights @ found[:, self.above].sum(axis=1)
        below = weights @ found[:, self.below].sum(axis=1) if self.below else weights.sum(axis=1)
        return np.asarray(self.shown(_ratio(above, below)))


def _perplexity(loss: Floats) -> Floats:
    return np.exp(np.minimum(loss, 700.0))  # beyond it is infinite, which JSON has no word for


JUDGED: dict[str, Judged] = {
    "token_accuracy": Judged((1,), below=(0,)),
    "perplexity": Judged((2,), below=(0,), shown=_perplexity),
    "answer_f1": Judged((1,)),
    "exact_match": Judged((0,)),
    "entity_f1": Judged((4, 4), below=(2, 3)),
    "entity_precision": Judged((4,), below=(3,)),
    "entity_recall": Judged((4,), below=(2,)),
    "tag_accuracy": Judged((1,), below=(0,)),
}
UNSCORED = frozenset({"perplexity", "exact_match", "entity_precision", "entity_recall", "tag_accuracy", *ERRORS})
"""Metrics that are reported and are no part of the score: lower perplexity and errors are better, the paper scores
SQuAD by F1 alone (Chen et al., The Lottery Ticket Hypothesis for Pre-trained BERT Networks, Table 2), and F1 is how
CoNLL-2003 compares systems (Tjong Kim Sang and De Meulder)."""


def scored(names: Iterable[str]) -> list[str]:
    """Return the metrics whose mean is the score."""
    return [name for name in names if name not in UNSCORED]


def resampled(names: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any], weights: Floats) -> dict[str, Floats]:
    """Return each metric in percent (perplexity and errors as they are) for each row of `weights`.

    `outputs` are logits `[examples, outputs]`, or judgements (see above), for which `targets` are not read. Where
    `targets` are `[examples, labels]`, a label is predicted where its logit is above 0.
    """
    if all(name in JUDGED for name in names):
        return {name: JUDGED[name].of(outputs, weights) for name in names}
    if all(name in REGRESSION for name in names):
        numbers = (np.asarray(targets, np.float64), outputs[:, 0].astype(np.float64), weights)
        return {name: (1.0 if name in ERRORS else 100.0) * REGRESSION[name](*numbers) for name in names}
    if targets.ndim == 2:
        of_labels = _label_counts(targets, outputs > 0, weights)
        return {name: 100.0 * MULTI_LABEL[name](of_labels) for name in names}
    counts = _counts(targets, outputs.argmax(axis=1), outputs.shape[1], weights)
    return {name: 100.0 * CLASSIFICATION[name](counts) for name in names}


def told_apart(names: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> NDArray[Any]:
    """Return what metrics see of each example, `[examples, numbers]`: examples that are alike there count alike."""
    if all(name in JUDGED for name in names):
        return outputs
    if all(name in REGRESSION for name in names):
        return np.column_stack([targets, outputs[:, 0]])
    return np.column_stack([targets, outputs > 0 if targets.ndim == 2 else outputs.argmax(axis=1)])


def evaluate(names: Sequence[str], targets: NDArray[Any], outputs: NDArray[Any]) -> dict[str, float]:
    """Return each metric of a whole set (see `resampled`), and the scored ones' mean as `score`."""
    found = resampled(names, targets, outputs, np.ones((1, len(outputs))))
    values = {name: float(value[0]) for name, value in found.items()}
    return {**values, "score": float(np.mean([values[name] for name in scored(values)]))}


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and superfluous white space.

    Source: the official evaluate-v1.1.py.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def judge_answer(answer: str, gold: Iterable[str]) -> tuple[float, float]:
    """Return exact match (0 or 1) and F1 over words (0 to 1) of an answer: the best against any gold answer.

    All are normalised already.
    """
    words = Counter(answer.split())
    exact = f1 = 0.0
    for other in gold:
        exact = max(exact, float(answer == other))
        others = Counter(other.split())
        shared = (words & others).total()
        if shared:
            f1 = max(f1, 2 * shared / (words.total() + others.total()))
    return exact, f1


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return a sentence's entities by its words' tags: each one's type, its first word and the one after its last.

    A word tagged I-X goes on with an entity only after one of type X; elsewhere it begins one, as B-X does. So tags of
    IOB1 and IOB2 are read alike, as conlleval and seqeval by default do.
    """
    found, begin = set(), 0
    for place, tag in enumerate([*tags, "O"]):
        before = tags[place - 1] if place else "O"
        if tag[:1] == "I" and before[1:] == tag[1:]:
            continue
        if before != "O":
            found.add((before[2:], begin, place))
        begin = place
    return found


def judge_tags(predicted: Sequence[str | None], gold: Sequence[str]) -> tuple[int, int, int, int, int]:
    """Return the columns of the form `tokens` for a sentence (see above); None are words that the model did not see.

    Such a word is in no predicted entity, and its tag is not right.
    """
    there, said = entities(gold), entities([tag or "O" for tag in predicted])
    right = sum(tag == other for tag, other in zip(predicted, gold, strict=True))
    return len(gold), right, len(there), len(said), len(there & said)
