from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from supertickets.storage import digest
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.recipe import Recipe

SCHEMA = 1
"""Goes into every key: raise it when the same trial would give another outcome, or an outcome file changes its form."""

TicketField = Annotated[
    Ticket,
    BeforeValidator(lambda value: Ticket.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(Ticket.as_dict),
]


class Trial(BaseModel):
    """Take pre-trained weights, keep a ticket of them, train on a task by a recipe with a seed, see what comes out.

    `model` and `source` say where weights and examples are found, `weight_hash` and `data_hash` what they must be: the
    hashes are part of the key, the places are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: str
    weight_hash: str
    source: TaskSource
    data_hash: str
    ticket: TicketField
    recipe: Recipe
    seed: int
    scoring: ScoringSettings | None = None

    @cached_property
    def key(self) -> str:
        """A hash of all that can change the outcome; recipe fields at their defaults are left out."""
        return digest(self.content())[:24]

    def content(self) -> dict[str, Any]:
        """Return what the key is a hash of."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "weights": self.weight_hash,
            "data": self.data_hash,
            "recipe": self.recipe.model_dump(exclude_defaults=True),
            "seed": self.seed,
        }
        if not self.ticket.is_full:
            content["ticket"] = self.ticket.as_dict()
        if self.scoring is not None:
            content["scoring"] = self.scoring.model_dump(exclude_defaults=True)
        return content
