"""What a study of `find` can detect, in a table and in words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from supertickets.evidence.power import GainVariance, gain_seen, smallest_gain
from supertickets.tasks.metrics import scored
from supertickets.tasks.tables import counted

_SHOWN = (2, 3, 5, 10, 20, 50)
_OF_MEANS = {"accuracy", "answer_f1"}
"""Metrics that are means over examples, as the assumed variance is."""


@dataclass(frozen=True)
class Design:
    """What a study can detect: of `seeds` and `examples` of a dev set, scored by `metrics`, with gains that vary so.

    `light` is how many light levels the phase test has; none with one level that is fixed beforehand. `gain` is the
    one that is asked for, None if none is, and `needed` how many seeds see it.
    """

    seeds: int
    examples: int
    metrics: tuple[str, ...]
    variance: GainVariance
    light: int
    gain: float | None = None
    needed: int | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The gain that is seen in 80 % of studies, by the number of seeds: by the test of the gain, and of phases."""
        seeds = sorted({*_SHOWN, max(self.seeds, 2)})
        table = pd.DataFrame({"seeds": seeds, "gain": [self._seen(number) for number in seeds]})
        if self.light:
            of_phases = [self._seen(number, self.light) for number in seeds]
            table[f"gain at one of {counted(self.light, 'light level')}"] = of_phases
        return table

    def sentence(self) -> str:
        """Say what the study detects."""
        dev = f"{self.examples:,} dev examples"
        if self.seeds < 2:
            return f"A study of one seed and {dev} cannot detect a gain for other seeds; expected two seeds or more."
        seen = self._seen(self.seeds)
        return f"A study of {self.seeds} seeds and {dev} detects a gain of {seen:.1f} points in 80 % of such studies."

    def sentences(self) -> tuple[str, ...]:
        """Say also what its phase test detects, what a gain needs, and where the variance is from."""
        said = [self.sentence()]
        if self.light and self.seeds > 1:
            seen = self._seen(self.seeds, self.light)
            said.append(f"Its phase test detects a gain of {seen:.1f} points at one light level as often.")
        if self.gain is not None:
            said.append(f"A gain of {self.gain:g} points needs {self.needed} seeds.")
        least = smallest_gain(self.variance, self.examples)
        said.append(f"Gains below {least:.1f} points are not detected so often with any number of seeds.")
        if not self.variance.of_study and not _OF_MEANS.issuperset(scored(self.metrics)):
            said.append(f"The score is {' and '.join(scored(self.metrics))}, which may vary otherwise than assumed.")
        return (*said, self.variance.source)

    def _seen(self, seeds: int, levels: int = 0) -> float:
        return gain_seen(self.variance, seeds, self.examples, levels)
