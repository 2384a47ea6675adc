from functools import cached_property, reduce
from math import isclose
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from supertickets.storage import digest
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Recipe, Sharing, Span

SCHEMA = 3
"""Goes into every key: raise it when the same trial would give another outcome."""

PLACES = ("data", "train_file", "dev_file")
"""What of a task's source says where its files lie."""

TicketField = Annotated[
    Ticket,
    BeforeValidator(lambda value: Ticket.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(Ticket.as_dict),
]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class TaskTicket(_Value):
    """A task of a trial and the ticket that it trains.

    `source` says where the examples are found, `data_hash` what they must be. `dropout` is that of the task's output
    layer where it is not the recipe's.
    """

    source: TaskSource
    data_hash: str
    ticket: TicketField
    dropout: float | None = None


Rewound = Literal["nothing", "prunable", "encoder"]


class Start(_Value):
    """Another trial's trained weights, to start from in place of the pre-trained ones.

    `folder` is that trial's, `weights` the SHA-256 its weight file must have, `ticket` what its model was cut to.
    `output_layer` is the place of the task whose output layer goes on too; None: a new one. `rewound` says what of the
    encoder is put back to its pre-trained weights all the same: nothing, the prunable tensors, or all of it.
    """

    trial: str
    folder: Path
    weights: str
    ticket: TicketField
    output_layer: int | None = None
    rewound: Rewound = "nothing"


class Teacher(_Value):
    """Another trial's outputs on the training set, which a training fits beside its targets (`training.teacher`).

    `folder` is that trial's, `logits` the SHA-256 its file of outputs must have. Their share of the loss is `weight`;
    `temperature` softens the outputs of classes, those of the student too.
    """

    trial: str
    folder: Path
    logits: str
    weight: float = Field(gt=0, le=1)
    temperature: float = Field(gt=0)


class Mean(_Value):
    """A mean of several trainings' weights, to evaluate in place of a training (Wortsman et al., 2022, "Model soups").

    `starts` are the trainings, cut to the ticket of the trial; `shares` what each one's weights count, 1 in all.
    """

    starts: tuple[Start, ...] = Field(min_length=2)
    shares: tuple[float, ...]

    @model_validator(mode="after")
    def _shares_of_all(self) -> Self:
        if len(self.shares) != len(self.starts) or not isclose(sum(self.shares), 1.0):
            raise ValueError(f"expected a share for each of {len(self.starts)} trainings, 1 in all: {self.shares}")
        return self


class WeightMask(_Value):
    """Which single weights a trial keeps: a ticket in a file, or one that a rule draws.

    It is named, by hash or by rule, since a bit for each weight is too much for a trial's JSON.

    `how`: `file` (the ticket in `path`, whose SHA-256 is `digest`), `magnitude` (by the pre-trained weights, one-shot),
    `random`, or `matched` (random, with the density in each tensor of the ticket in the file, or else of the one-shot
    one). Rules draw at `sparsity`, among what `pruning` says; random ones by `seed`.
    """

    how: Literal["file", "magnitude", "random", "matched"]
    path: Path | None = None
    digest: str | None = None
    sparsity: float | None = Field(None, ge=0, lt=1)
    pruning: Pruning | None = None
    seed: int | None = None


class Prune(_Value):
    """What to do with trained weights at the end: draw the ticket that lacks the smallest, up to a sparsity."""

    sparsity: float = Field(ge=0, lt=1)
    pruning: Pruning


class Trial(_Value):
    """Take weights, keep a ticket of them for each task, train by a recipe with a seed, see what comes out.

    `model` says where the pre-trained weights are found, `layers` how many of its first layers are taken (None: all),
    `weight_hash` what they must be and `files_hash` what config and tokenizer must be (see `models.BaseModel`): hashes
    are part of the key (of first layers alone, that of the weights is another), places are not. Several tasks train one
    encoder, as `sharing` says. With `start` the encoder's weights are those
    that another trial ended with; `initial` says which are taken in place of the pre-trained ones otherwise. Of the
    weights `mask` names a ticket; `prune` draws the next one from the trained weights. Both are for one task, not cut.
    `span` says which part of the recipe's training it is. With `logits` it stores its outputs on its training set when
    it has ended; a `teacher` is another trial that did so, with the same examples. Trials that differ in `member` alone
    have the same initial weights, and other orders of batches and dropout. With a `mean` nothing is trained: that is
    evaluated, by the recipe.
    """

    model: str
    layers: int | None = None
    weight_hash: str
    files_hash: str = ""
    tasks: tuple[TaskTicket, ...] = Field(min_length=1)
    recipe: Recipe
    seed: int
    scoring: ScoringSettings | None = None
    sharing: Sharing | None = None
    start: Start | None = None
    initial: Literal["pretrained", "random", "shuffled-layers", "shuffled-elements"] = "pretrained"
    mask: WeightMask | None = None
    prune: Prune | None = None
    span: Span = Span.model_validate({})
    logits: bool = False
    teacher: Teacher | None = None
    member: int = Field(0, ge=0)
    mean: Mean | None = None

    @model_validator(mode="after")
    def _weights_of_one_dense_model(self) -> Self:
        if (self.mask or self.prune) and (len(self.tasks) > 1 or not self.ticket.is_full):
            raise ValueError("tickets of weights are trained on one task, in a model that is not cut")
        return self

    @model_validator(mode="after")
    def _taught_on_one_task(self) -> Self:
        if self.teacher is not None and len(self.tasks) > 1:
            raise ValueError("a teacher's outputs are those on one task's training set")
        return self

    @model_validator(mode="after")
    def _a_mean_is_of_trainings(self) -> Self:
        if self.mean is None:
            return self
        apart = (self.scoring, self.start, self.mask, self.prune, self.teacher)
        trains = (
            len(self.tasks) > 1 or self.member or self.initial != "pretrained" or self.span != Span.model_validate({})
        )
        if trains or self.logits or any(part is not None for part in apart):
            raise ValueError("a mean of weights is evaluated on one task, and nothing else is done with it")
        if any(start.ticket != self.ticket for start in self.mean.starts):
            raise ValueError("a mean of weights is one of trainings of the trial's own ticket")
        return self

    @property
    def starts(self) -> tuple[Start, ...]:
        """The trained weights of other trials that it starts from, or evaluates the mean of."""
        return (*(() if self.start is None else (self.start,)), *(() if self.mean is None else self.mean.starts))

    @property
    def course_seed(self) -> int:
        """The seed of all that is random while it trains (batches, dropout, masked tokens): each member has its own.

        `seed` alone decides the initial weights, and is both for the first member.
        """
        if not self.member:
            return self.seed
        return int(np.random.SeedSequence((self.seed, self.member)).generate_state(1)[0])

    def but(self, **changes: Any) -> Self:
        """Return this trial with other values of some fields, and its own key (which `model_copy` would keep)."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def found_in(self, trials: Path) -> Self:
        """Return this trial with what it needs of other trials in a folder of trials, as far as it is there.

        Paths are not part of the key: a study's folder may have been moved since the trial ran.
        """

        def here(one: Any) -> Any:
            there = trials / one.trial if one is not None else None
            return one if there is None or not there.is_dir() else one.model_copy(update={"folder": there.resolve()})

        mask = self.mask
        if mask is not None and mask.path and (moved := trials / mask.path.parent.name / mask.path.name).is_file():
            mask = mask.model_copy(update={"path": moved.resolve()})
        return self.but(start=here(self.start), teacher=here(self.teacher), mask=mask)

    def without_places(self) -> Self:
        """Return this trial without saying where its model, examples and other trials' files lie; its key is the same.

        So it can be shown to others. Where it is to be trained again, `but` says where they are.
        """
        nowhere = {"folder": Path()}
        tasks = (
            task.model_copy(update={"source": task.source.model_copy(update=dict.fromkeys(PLACES))})
            for task in self.tasks
        )
        mean = self.mean
        return self.but(
            model="",
            tasks=tuple(tasks),
            start=self.start and self.start.model_copy(update=nowhere),
            teacher=self.teacher and self.teacher.model_copy(update=nowhere),
            mask=self.mask and self.mask.model_copy(update={"path": None}),
            mean=mean
            and mean.model_copy(update={"starts": tuple(one.model_copy(update=nowhere) for one in mean.starts)}),
        )

    @property
    def ticket(self) -> Ticket:
        """What its model keeps: the union of its tasks' tickets."""
        return reduce(or_, (task.ticket for task in self.tasks))

    @property
    def examples(self) -> tuple[str, ...]:
        """The hashes of what it is trained on, task by task."""
        return tuple(task.data_hash for task in self.tasks)

    def dropout(self, place: int) -> float:
        """Return the dropout before the output layer of the task at `place`."""
        own = self.tasks[place].dropout
        return self.recipe.dropout if own is None else own

    @cached_property
    def key(self) -> str:
        """A hash of all that can change the outcome, whatever the defaults are when it is computed."""
        return digest(self.content())[:24]

    def content(self) -> dict[str, Any]:
        """Return what the key is a hash of."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "weights": self.weight_hash,
            "files": self.files_hash,
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
        }
        tasks = [_task_content(task) for task in self.tasks]
        content |= tasks[0] if len(tasks) == 1 else {"tasks": tasks}
        parts = {"scoring": self.scoring, "sharing": self.sharing, "prune": self.prune, "span": self.span}
        content |= {name: part.model_dump() for name, part in parts.items() if part is not None}
        if self.scoring is not None and not self.scoring.of_neurons:
            content["scoring"].pop("structures")  # heads and FFNs always are scored
        for name, usual in (("score_examples", "all"), ("score_attention", "fused")):  # newer than most keys
            if self.scoring is not None and getattr(self.scoring, name) == usual:
                content["scoring"].pop(name)
        if self.start is not None:
            content["start"] = {"weights": self.start.weights, "output_layer": self.start.output_layer}
            if self.start.rewound != "nothing":
                content["start"]["rewound"] = self.start.rewound
        if self.initial != "pretrained":
            content["initial"] = self.initial
        if self.mask is not None:
            content["mask"] = self.mask.model_dump(exclude={"path"}, exclude_none=True)
        if self.logits:
            content["logits"] = True
        if self.teacher is not None:
            content["teacher"] = self.teacher.model_dump(include={"logits", "weight", "temperature"})
        if self.member:
            content["member"] = self.member
        if self.mean is not None:
            content["mean"] = {"weights": [start.weights for start in self.mean.starts], "shares": self.mean.shares}
        return content


def _task_content(task: TaskTicket) -> dict[str, Any]:
    content: dict[str, Any] = {"data": task.data_hash}
    if not task.ticket.is_full:
        content["ticket"] = task.ticket.as_dict()
    if task.dropout is not None:
        content["dropout"] = task.dropout
    return content
