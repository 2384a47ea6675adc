from dataclasses import dataclass

from transformers import PreTrainedModel

from supertickets.tickets import Ticket
from supertickets.training.batches import EncodedTask
from supertickets.training.objectives import Objective, objective_of


@dataclass
class Learner:
    """A task, the model that learns it, and the task's ticket.

    The model is a stock one, cut to the ticket; where several share an encoder, to the union of their tickets.
    """

    data: EncodedTask
    model: PreTrainedModel
    ticket: Ticket

    @property
    def objective(self) -> Objective:
        """What its task's form means in training."""
        return objective_of(self.data.task)
