"""Trials and their outcomes: what was asked is told by a key, what came out is kept under it."""

from supertickets.lab.lab import Lab
from supertickets.lab.outcome import Outcome
from supertickets.lab.trial import Trial

__all__ = ["Lab", "Outcome", "Trial"]
