"""Trials and their outcomes: a trial has a key, under which its outcome is stored."""

from supertickets.lab.lab import Lab
from supertickets.lab.outcome import Outcome
from supertickets.lab.trial import Trial

__all__ = ["Lab", "Outcome", "Trial"]
