"""Which batches a training has, in which order: tasks shuffled together, and a part of a whole training."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from supertickets.training.batches import ORDERS, batches_by_task
from supertickets.training.recipe import Recipe, Sharing

Rows = NDArray[np.int64]
Orders = list[list[tuple[int, Rows]]]
"""Every epoch's batches: which task each is of, and its examples' rows."""


def all_batches(lengths: Sequence[NDArray[np.int64]], recipe: Recipe, sharing: Sharing, seed: int) -> Orders:
    """Return every epoch's batches of tasks whose training examples have these lengths.

    Tasks are shuffled together, each as often as the sampling says. A task's batches go round: in each round all of
    them, in a new order. Sampled in proportion to its size, a task has a round an epoch.
    """

    def round_of(task: int, number: int) -> list[Rows]:
        return ORDERS[recipe.order](lengths[task], recipe.batch_size, seed, number)

    def rounds(task: int) -> Iterator[Rows]:
        for number in count():
            yield from round_of(task, number)

    queues = [rounds(task) for task in range(len(lengths))]
    sizes = [len(round_of(task, 0)) for task in range(len(lengths))]
    orders = []
    for epoch in range(recipe.epochs):
        counts = batches_by_task(sizes, sharing.sampling, epoch, recipe.epochs)
        tasks = np.repeat(np.arange(len(sizes)), counts)
        np.random.default_rng([seed, epoch, 1]).shuffle(tasks)
        orders.append([(int(task), next(queues[task])) for task in tasks])
    return orders


def part_of(orders: Orders, first: int, last: int) -> tuple[Orders, int]:
    """Return the epochs' batches from `first` to before `last`, one at least, and how many are left out before them."""
    last = max(last, 1)
    first = min(first, last - 1)
    kept, position = [], 0
    for order in orders:
        kept.append(order[max(first - position, 0) : max(last - position, 0)])
        position += len(order)
    return [order for order in kept if order], first
