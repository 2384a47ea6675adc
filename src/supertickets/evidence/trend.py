"""Whether gains grow with less data or with a larger model: the slope of the gain over studies that differ in one size.

The paper sees larger gains on smaller training sets and with the larger model (section 5.4.3, Figure 5), and tests
neither. Here the slope on the logarithm of the size is one contrast of the studies' gains, by seed and by example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from supertickets.anatomy.cost import parameters
from supertickets.evidence.findings import interval, level
from supertickets.evidence.gains import Gain, by_example, selected
from supertickets.evidence.resampling import Floats
from supertickets.evidence.runs import DENSE, TaskInfo
from supertickets.evidence.selection import candidates
from supertickets.evidence.statistics import LEVEL, Paired, holm, paired_t_test, two_way_test
from supertickets.evidence.tables import AnalysedStudy, in_order, names_of
from supertickets.tasks.tables import counted
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing
from supertickets.tickets.scoring import ScoringSettings

SUPER = "super ticket, cross-fitted"


@dataclass(frozen=True)
class Size:
    """What studies differ in: `of` a study's task, in `words`; `less` and `more` say where gains are larger."""

    name: str
    words: str
    of: Callable[[TaskInfo], int]
    less: str
    more: str


SIZES = (
    Size("training examples", "size of the training set", lambda task: task.train, "with less training data", "with "
         "more training data"),
    Size("encoder parameters", "size of the model", lambda task: parameters(task.shape, Ticket.full(
        *task.shape.of_tickets)), "in smaller models", "in larger models"),
)  # fmt: skip


@dataclass(frozen=True)
class Trend:
    """How gains over the dense model change with one size, in studies of one task; or why that cannot be said.

    `points` has a row a gain and study: its sizes, the `dense` model's mean score, the mean `difference` with interval
    and p. `slopes` has a row a gain: points of the score for ten times the `size`. Both are of the `seeds` that all
    studies have finished; `left_out` counts a study's others. `others` are settings that differ too. `little` has the
    sizes at which the dense model has learned little of the task, and `without` the trend without these, if it can be.
    """

    task: str
    size: Size | None = None
    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    slopes: pd.DataFrame = field(default_factory=pd.DataFrame)
    others: tuple[str, ...] = ()
    reason: str = ""
    little: tuple[int, ...] = ()
    without: Trend | None = None

    def sentence(self) -> str:
        """Say it for people: the first gain decides, which was fixed before the studies ran."""
        if self.size is None:
            return f"No test of a trend for {self.task}: {self.reason}."
        of, slope = self.size, self.slopes.iloc[0]
        if np.isfinite(slope["p"]) and slope["p"] < LEVEL:
            said = f"Gains are significantly larger {of.more if slope['slope'] > 0 else of.less}"
        elif np.isfinite(slope["p"]):
            said = f"Gains do not differ significantly by {of.words}"
        else:
            said = f"Gains by {of.words} cannot be tested, since all differences are equal"
        points = self.points[self.points["gain"] == slope["gain"]]
        each = ", ".join(f"{row['difference']:+.2f} at {row[of.name]:,}" for _, row in points.iterrows())
        found = [
            f"{one['slope']:+.2f} points for ten times as many{interval(one)}" for _, one in self.slopes.iterrows()
        ]
        said += f" ({self.task}): the gain of {slope['gain']} is {each} {of.name}, and its slope {found[0]}."
        said += "".join(f" For the {SUPER}, the slope is {one}." for one in found[1:])
        if (seeds := int(slope["seeds"])) == 1:
            said += " With one seed, intervals and p are over dev examples alone."
        elif seeds == 2:
            said += " Two seeds may agree by chance, so intervals may be too narrow."
        if gone := int(slope["left_out"]):
            said += f" Left out: the runs of {counted(gone, 'seed')} that not all studies have finished."
        if self.little:
            at = " and ".join(f"{size:,}" for size in self.little)
            said += f" At {at} {of.name} the dense model has learned little, so the gain there says little of tickets"
            others = self.slopes.iloc[:0] if self.without is None else self.without.slopes
            of_it = others[others["gain"] == slope["gain"]] if len(others) else others  # without it, others may be left
            rest = [f"; without it the slope is {one['slope']:+.2f}{interval(one)}" for _, one in of_it.iterrows()]
            said += f"{''.join(rest)}."
        if self.others:
            said += f" The studies also differ in {', '.join(self.others)}."
        return said


def trends(studies: Sequence[AnalysedStudy]) -> list[Trend]:
    """Return the trend over each task's studies, for tasks that have several."""
    by_task: dict[str, list[tuple[str, AnalysedStudy]]] = {}
    ordered = in_order(studies)
    for name, one in zip(names_of(ordered), ordered, strict=True):
        by_task.setdefault(one.runs.task.task, []).append((name, one))
    return [_trend(task, among) for task, among in by_task.items() if len(among) > 1]


def slope_weights(sizes: Sequence[float]) -> Floats:
    """Return what least squares multiplies values with to get their slope on log10 of the sizes.

    >>> slope_weights([100, 1000]).tolist()
    [-1.0, 1.0]
    """
    at = np.log10(np.asarray(sizes, float))
    return np.asarray((at - at.mean()) / ((at - at.mean()) ** 2).sum())


def slope_test(gains: Sequence[Gain], sizes: Sequence[float]) -> Paired:
    """Test the slope of gains on log10 of sizes, for new seeds and new examples, as one contrast of the studies.

    All gains are of the same seeds, in their order. Each seed and example has its own slope, and these are the matrix
    that `statistics.two_way_test` takes; where a gain is not known by example, seeds alone are.
    """
    weights = slope_weights(sizes)
    by_seed = sum(w * np.subtract(one.scores, one.dense) for w, one in zip(weights, gains, strict=True))
    matrices = [one.differences for one in gains]
    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) < len(matrices):
        return paired_t_test([float(one) for one in by_seed], [0.0] * len(gains[0].seeds))
    found = np.asarray(sum(w * matrix for w, matrix in zip(weights, known, strict=True)))
    return two_way_test(found, float(np.mean(by_seed)))


def _trend(task: str, among: Sequence[tuple[str, AnalysedStudy]]) -> Trend:
    if reason := next(_why_not(among), ""):
        return Trend(task, reason=reason)
    infos = [one.runs.task for _, one in among]
    differ = [size for size in SIZES if len({size.of(info) for info in infos}) > 1]
    if len(differ) != 1:
        what = "both their training sets and their models" if differ else "neither in their training set nor in layers"
        return Trend(task, reason=f"the studies differ in {what}" + ("" if differ else ", as a trend needs"))
    (size,) = differ
    sizes = [size.of(info) for info in infos]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    equal = [(a, b) for a, b in pairwise(order) if sizes[a] == sizes[b]]
    if equal:
        first, second = (among[place][0] for place in equal[0])
        return Trend(task, reason=f"{first} and {second} have the same {size.words}")
    studies = [among[place][1] for place in order]
    asked = [_dense_seeds(one) for one in studies]
    points, slopes, lacking = [], [], "no winning level and no super ticket"
    for name, gains in _gains(studies):
        shared = sorted(set.intersection(*[set(gain.seeds) for gain in gains]))
        if not shared:
            lacking = f"no seed in common that has finished ({name})"
            continue
        kept = [_of_seeds(gain, shared) for gain in gains]
        for one, gain, seeds in zip(studies, kept, asked, strict=True):
            points.append(_point(name, one.runs.task, gain, len(seeds)))
        test = slope_test(kept, [size.of(one.runs.task) for one in studies])
        found = {"slope": test.mean, "low": test.low, "high": test.high, "p": test.p}
        found["left_out"] = len(set.union(*asked) - set(shared))
        slopes.append({"gain": name, "task": task, "size": size.name, "seeds": len(shared), **found})
    if not slopes:
        return Trend(task, reason=f"the studies have {lacking}")
    frame = pd.DataFrame(slopes)
    frame = frame.assign(p_holm=holm(frame["p"].tolist()))
    taught = [(name, one) for name, one in among if not (of := one.findings.learned) or not of.little]
    little = tuple(sizes[place] for place in order if among[place] not in taught)
    without = _trend(task, taught) if little and len(taught) > 1 else None
    return Trend(task, size, pd.DataFrame(points), frame, tuple(_other_settings(studies)), "", little, without)


def _dense_seeds(one: AnalysedStudy) -> set[int]:
    table = one.runs.only(stage=None).table
    return set(table[table["kind"] == DENSE]["seed"].astype(int))


def _point(name: str, task: TaskInfo, gain: Gain, asked: int) -> dict[str, Any]:
    row: dict[str, Any] = {"gain": name, "task": task.task, "model": task.called}
    row |= {size.name: size.of(task) for size in SIZES}
    row |= {
        "layers": task.shape.layers,
        "seeds": len(gain.seeds),
        "left_out": asked - len(gain.seeds),
        "dense": gain.dense_mean,
    }
    return row | {"difference": gain.mean, "low": gain.test.low, "high": gain.test.high, "p": gain.test.p}


def _why_not(among: Sequence[tuple[str, AnalysedStudy]]) -> Iterator[str]:
    """Yield why studies of one task cannot be compared, with the names of the two that show it."""
    (first, one), *others = among
    reference = one.runs.task
    for name, other in others:
        task = other.runs.task
        if task.metrics != reference.metrics:
            yield f"{first} and {name} have different metrics"
        elif not np.array_equal(task.targets, reference.targets):
            yield f"{first} and {name} have different dev examples"
        elif (task.of_weights or task.weight_hash) != (reference.of_weights or reference.weight_hash):
            yield f"{first} and {name} have different base models, none of which is the first layers of the other"
        elif (one.findings.taught is None) != (other.findings.taught is None):
            yield f"only one of {first} and {name} has taught tickets (--teacher)"


def _gains(studies: Sequence[AnalysedStudy]) -> Iterator[tuple[str, list[Gain]]]:
    """Yield the gains that all studies have, by name: at the lightest level of all, and of cross-fitted tickets."""
    own = [one.runs.only(stage=None).table for one in studies]
    asked = [table[(table["kind"] == "winning") & (table["level"] > 0)] for table in own]
    light = set.intersection(*[set(table.loc[~(table["remaining"].astype(float) >= 1), "level"]) for table in asked])
    if light:
        at = min(light)
        yield f"winning tickets at {level(at)}", [_at_level(table, at) for table in own]
    crossed = [one.findings.cross_fitted for one in studies]
    found = [gain for gain in crossed if gain is not None]
    if len(found) == len(crossed):
        yield SUPER, found


def _at_level(table: pd.DataFrame, at: float) -> Gain:
    """Return what a study's winning tickets of a level gain over the dense runs of their seeds."""
    winning = selected(candidates(table), {"level": at}).set_index("seed", drop=False)
    dense = selected(table, {"kind": DENSE, "status": "finished"}).set_index("seed", drop=False)
    seeds = sorted(set(winning.index) & set(dense.index))
    of, over = winning.loc[seeds], dense.loc[seeds]
    if not seeds:
        return Gain((), (), (), Paired(np.nan))
    return Gain.of(seeds, of["score"].tolist(), over["score"].tolist(), by_example(of, over))


def _of_seeds(gain: Gain, seeds: Sequence[int]) -> Gain:
    places = [gain.seeds.index(seed) for seed in seeds]
    scores, dense = ([values[place] for place in places] for values in (gain.scores, gain.dense))
    return Gain.of(seeds, scores, dense, None if gain.differences is None else gain.differences[places])


def _other_settings(studies: Sequence[AnalysedStudy]) -> Iterator[str]:
    """Yield which other settings of training and drawing are not the same in all studies, with their values."""
    recipe = next(run.trial.recipe for run in studies[0].runs.runs if run.trial is not None)
    more = ("fraction_seed", "teacher_weight", "teacher_temperature", "target")
    for name in (*more, *recipe.model_dump(), *Drawing.model_fields, *ScoringSettings.model_fields):
        values = list(dict.fromkeys(_typed(one.runs.settings.get(name)) for one in studies))
        if len(values) > 1 and name != "threads":
            yield f"--{name.replace('_', '-')} ({', '.join(values)})"


def _typed(value: Any) -> str:
    """Return a setting's value about as it is typed."""
    return (",".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)
