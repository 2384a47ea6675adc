"""Soups: one ticket is trained several times, and the mean of the weights is evaluated, as one model.

Trainings that begin with the same weights, output layer included, often end in one basin of the loss, where their mean
is as good as they are, or better (Wortsman et al., "Model soups", ICML 2022). Whether they do is what the loss on the
straight line between two of them says (Frankle et al., "Linear mode connectivity", ICML 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from supertickets.anatomy.cost import BACKWARD
from supertickets.evidence.labels import LINE, MEMBER, ON_LINE, SOUP
from supertickets.lab.steps import Done, Label, Step
from supertickets.lab.trial import Mean, Trial
from supertickets.studies.study import trial_of

if TYPE_CHECKING:
    from supertickets.evidence.runs import TaskInfo
    from supertickets.studies.find_settings import FindSettings


def soup_steps(settings: FindSettings, task: TaskInfo, first: Step) -> Iterator[Step]:
    """Yield what makes a soup of a run: further trainings of its ticket, their mean, and the line between two of them.

    There is one of each dense run and each winning ticket, if soups are asked for; the run is the first training.
    """
    kind, level = first.labels["kind"], first.labels["level"]
    if not settings.soup or not (kind == "dense" or (kind == "winning" and level)):
        return
    labels = {"stage": SOUP, **first.labels}
    members, keep = [first], _kept(settings)
    for number in range(1, settings.soup):
        # They wait for what the first one waits for, so that a ticket's trainings follow each other.
        make = partial(_trained_again, first, number)
        members.append(Step({**labels, MEMBER: number}, make, needs=first.needs, keep=keep, cost=first.cost))
    yield from members[1:]
    evaluation = first.cost * len(task.targets) / (task.train * settings.epochs * (1 + BACKWARD))
    means: list[tuple[dict[str, Label], tuple[float, ...]]] = [({}, (1 / len(members),) * len(members))]
    means += [({LINE: share}, (1 - share, share)) for share in ON_LINE]
    for more, shares in means:
        of = tuple(members[: len(shares)])
        make_mean = partial(_mean, settings, task, of, shares)
        yield Step({**labels, **more}, make_mean, starts_from=of, keep=keep, cost=evaluation, evaluates=True)


def _kept(settings: FindSettings) -> Literal["no", "yes"]:
    return "yes" if settings.keep == "all" else "no"


def _trained_again(first: Step, number: int, done: Done) -> Trial | None:
    """Return the trial of a run's ticket with another order of batches and dropout; importance is measured once."""
    trial = first.make if isinstance(first.make, Trial) else first.make(done)
    return None if trial is None else trial.but(member=number, scoring=None, logits=False)


def _mean(
    settings: FindSettings, task: TaskInfo, members: Sequence[Step], shares: tuple[float, ...], done: Done
) -> Trial | None:
    """Return the evaluation of a mean of trained weights; None if a training diverged."""
    outcomes = [outcome for member in members if (outcome := done.get(member)) is not None]
    if len(outcomes) < len(members):
        return None
    first = outcomes[0].trial  # what it says of places was true when it ran
    mean = Mean(starts=tuple(outcome.start(0) for outcome in outcomes), shares=shares)
    return trial_of(settings, task, first.ticket, first.seed, mean=mean)
