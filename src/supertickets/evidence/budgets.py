"""What a seed's search for a super ticket cost, and what the dense model may still be tuned for at that price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supertickets.lab.outcome import Outcome


@dataclass(frozen=True)
class Budget:
    """The FLOPs of one seed's search, and what its equally tuned dense model has used of them.

    `dense` is the seed's dense training, which the search has scored; `winning` are its trainings of winning tickets
    and `tuned` those of the dense model with other settings, each of them finished or diverged. The dense training is
    the first of the tuned ones; the scoring that only the search needed is not charged to it. All numbers are measured
    FLOPs of whole trainings, evaluations included.
    """

    dense: Outcome
    winning: Sequence[Outcome]
    tuned: Sequence[Outcome] = ()

    @property
    def total(self) -> float:
        """What the search used; equal trials, such as level 0 and the dense model, were trained once."""
        return _flops((self.dense, *self.winning))

    @property
    def spent(self) -> float:
        """What the tuned dense model used, those of its trainings that diverged too."""
        return self.dense_training + _flops(self.tuned)

    @property
    def left(self) -> float:
        """What it has not used."""
        return self.total - self.spent

    @property
    def dense_training(self) -> float:
        """What the dense training took without its scoring, where it is known: earlier versions did not note it."""
        return _unscored(self.dense)

    @property
    def searched(self) -> float:
        """What the search used beyond the dense training."""
        return self.total - self.dense_training

    @property
    def tuning(self) -> float:
        """What the tuning used beyond the dense training."""
        return self.spent - self.dense_training

    def expected(self, epochs: int) -> float:
        """Return what another dense training takes if it is not stopped early.

        It is counted with the dearest epoch so far: batches of another size have more padding or less.
        """
        return epochs * max(_unscored(one) / len(one.epochs) for one in (self.dense, *self.tuned) if one.finished)

    def pays(self, epochs: int) -> bool:
        """Whether what is left pays for another dense training of so many epochs."""
        return self.expected(epochs) <= self.left


def _flops(outcomes: Iterable[Outcome]) -> float:
    return float(sum({one.key: one.cost["flops"] for one in outcomes}.values()))


def _unscored(outcome: Outcome) -> float:
    return float(outcome.cost["flops"] - outcome.cost.get("scoring_flops", 0))
