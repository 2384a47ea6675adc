"""Successive halving over levels (Jamieson and Talwalkar, AISTATS 2016): the better ones are trained on."""

from dataclasses import dataclass

import numpy as np

from supertickets.evidence.search.known import Known
from supertickets.evidence.search.looks import Looks


@dataclass(frozen=True)
class Halving(Looks):
    """Train all levels a little, then the best 1 / `eta` of them longer, and so on: to more epochs, then in more seeds.

    Nothing is tested: half of the levels go, however alike they are.
    """

    eta: float = 2.0

    def stay(self, known: Known, ranked: list[int], look: tuple[int, int]) -> list[int]:
        """Return the best of the levels."""
        return ranked[: int(np.ceil(len(ranked) / self.eta - 1e-9))]
