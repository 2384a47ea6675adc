"""The equal-budget control: in each seed, the dense model is tuned for the FLOPs that the ticket search has used.

The paper tunes neither side (section 5.2 names a grid); a search over levels that is compared with one dense training
has had more compute. Here the dense model gets as much, for other learning rates, batch sizes, epochs and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, product

import numpy as np

from supertickets.errors import TicketError
from supertickets.evidence.budgets import Budget
from supertickets.evidence.labels import BUDGET, OF_SEED, TUNING
from supertickets.evidence.runs import TaskInfo
from supertickets.lab.steps import Done, Label, Step
from supertickets.lab.trial import Trial
from supertickets.studies.settings import TicketSettings
from supertickets.studies.study import full_ticket, training_flops, trial_of
from supertickets.training.recipe import Recipe

RATES, BATCH_SIZES, EPOCHS = (0.5, 1.0, 2.0), (16, 32), (1.0, 1.5)
"""What is tried: learning rates and epochs in parts of the recipe's, and batch sizes."""
_ROUND = 1_000_000
"""How far apart the seeds of two rounds are: those of a later round are no other run's."""
_SLACK = 1.25
"""How much more the search may cost than estimated, compared with a dense training, before steps could be lacking."""


def recipes(recipe: Recipe) -> list[Recipe]:
    """Return the recipes that are tried: all combinations, epochs rounded (halves up)."""
    epochs = dict.fromkeys(int(share * recipe.epochs + 0.5) for share in EPOCHS)
    return [
        recipe.model_copy(update={"learning_rate": share * recipe.learning_rate, "batch_size": size, "epochs": number})
        for share, size, number in product(RATES, BATCH_SIZES, epochs)
    ]


def in_order(recipe: Recipe, seed: int) -> Iterator[tuple[int, Recipe]]:
    """Yield seeds and recipes in the order in which they are tried, without end.

    The first round has the study's seed, and leaves out the study's recipe with it, which is the dense run; each
    further round has a seed of its own. The seed shuffles them too.
    """
    for number in count():
        own = seed + number * _ROUND
        tried = [one for one in recipes(recipe) if number or one != recipe]
        for place in np.random.default_rng([seed, number]).permutation(len(tried)):
            yield own, tried[place]


def tuned_steps(
    settings: TicketSettings, task: TaskInfo, seed: int, dense: Step, winning: Sequence[Step]
) -> Iterator[Step]:
    """Yield the dense trainings of a seed's control, each after those before it, since it spends what they have left.

    `dense` and `winning` are the steps of the seed's search. A training is wanted only if what is left pays for all its
    epochs; there are as many steps as could be paid for if all trainings stopped as early as they may. Those that the
    budget does not pay for if none stops early are spare ones.
    """
    full, before = full_ticket(task), list[Step]()
    epoch = training_flops(task, full, 1)
    budget = (dense.cost + sum(step.cost for step in winning if step.labels["level"])) / epoch  # in epochs
    left = budget - settings.epochs
    shortest = min(settings.epochs, (settings.patience or settings.epochs) + 1)
    of_shortest = int((_SLACK * budget - shortest) / shortest)
    for own, recipe in in_order(settings.recipe, seed):
        if of_shortest < 1:
            return
        of_shortest -= recipe.epochs == settings.epochs
        spare = recipe.epochs > left
        left -= 0 if spare else recipe.epochs
        labels: dict[str, Label] = {"stage": BUDGET, "kind": TUNING, "level": 0.0, "seed": own, OF_SEED: seed}
        labels |= {name: getattr(recipe, name) for name in ("learning_rate", "batch_size", "epochs")}
        trial = trial_of(settings, task, full, own, recipe=recipe)
        step = Step(
            labels,
            partial(_if_paid, trial, dense, winning, tuple(before)),
            needs=(dense, *winning, *before),
            cost=training_flops(task, full, recipe.epochs),
            spare=spare,
        )
        yield step
        before.append(step)


def _if_paid(trial: Trial, dense: Step, winning: Sequence[Step], before: Sequence[Step], done: Done) -> Trial | None:
    """Return a trial if what is left of the budget pays for it."""
    searched, tuned = ([out for step in of if (out := done.ended(step)) is not None] for of in (winning, before))
    return trial if Budget(done[dense], searched, tuned).pays(trial.recipe.epochs) else None


def check_pays(
    levels: Sequence[float | str], others: Sequence[float], epochs: int, share: Callable[[float | str], float]
) -> None:
    """Raise TicketError where a search of these levels surely costs too little for another dense training.

    `share` gives what a level's winning ticket costs, in dense trainings; `others` are levels to propose.
    """
    costs = sum(map(share, levels))
    scoring = 1 / epochs  # at most: one pass over the training set
    if costs and costs + scoring >= 1:
        return
    proposed = [*([level] for level in sorted(others, reverse=True)), sorted(others)]
    more = next((some for some in proposed if costs + sum(map(share, some)) >= 1), [])
    wider = f"add {_listed(more)} to --levels, or " if more else ""
    raise TicketError(
        f"--control equal-budget: the winning tickets at --levels {_listed(levels)} take {costs:.0%} of the FLOPs of a "
        f"dense training, which pays for no further one; {wider}use --control none."
    )


def _listed(levels: Sequence[float | str]) -> str:
    return ",".join(level if isinstance(level, str) else f"{level:g}" for level in levels)
