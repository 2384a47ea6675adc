"""Studies: one file each, found by name."""

from typing import Any

from supertickets.registry import Registry

SUMMARIES = {
    "find": "Find the super ticket of a model on a task.",
    "share": "Train several tasks on one encoder, each with its own super ticket.",
    "adapt": "Adapt trained models and their tickets to a new task with few examples.",
    "imp": "Find tickets of single weights by iterative magnitude pruning.",
    "transfer": "Train the tickets of some tasks on other tasks.",
    "compare": "Ablation: change one setting at a time and report ticket overlap and score difference.",
}
"""The first line of what each of our studies says of itself, so that `--help` need not import it."""

STUDIES: Registry[Any] = Registry(
    "study", "studies", {name: f"supertickets.studies.{name}:{name.capitalize()}" for name in SUMMARIES}
)
"""The classes of studies (see `studies.study.Study`), by the names of their commands."""
