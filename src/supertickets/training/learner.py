from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from supertickets.tickets import Ticket
from supertickets.training.batches import EncodedTask
from supertickets.training.objectives import Objective, distances, objective_of
from supertickets.training.orders import Rows
from supertickets.training.teacher import Lesson


@dataclass
class Learner:
    """A task, the model that learns it, the task's ticket, and what a teacher says of the training set, if it has one.

    The model is a stock one, cut to the ticket; where several share an encoder, to the union of their tickets.
    """

    data: EncodedTask
    model: PreTrainedModel
    ticket: Ticket
    teacher: Lesson | None = None

    @property
    def objective(self) -> Objective:
        """What its task's form means in training."""
        return objective_of(self.data.task)

    def losses(self, outputs: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        """Return the losses `[batch]` of the training examples at `rows`, from what `objective.forward` gave for them.

        With a teacher of weight w, each is (1 - w) of the example's own loss and w of the distance from the teacher's
        outputs (see `objectives.distances`).
        """
        own = self.objective.losses(outputs, targets)
        if self.teacher is None:
            return own
        weight, taught = self.teacher.weight, self.teacher.at(rows, outputs)
        return (1 - weight) * own + weight * distances(self.data.task, outputs, taught, self.teacher.temperature)
