"""One training on several processes, as `accelerate launch` starts them: each takes its share of every batch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Team:
    """This process among those that train together; alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """Return this process's part of a batch, or of a list of batches."""
        return items[self.rank :: self.size]

    def sum_gradients(self, parameters: Sequence[Any]) -> None:
        """Add up each parameter's gradient over the team; one that some process has not counts as zero there."""
        if self.size == 1:
            return
        import torch

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def sum_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of an array over the team."""
        if self.size == 1:
            return array
        import torch
        from accelerate import PartialState

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(PartialState().device)
        torch.distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def tell(self, value: Any = None) -> Any:
        """Return the leader's value in every process."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def find_team() -> Team:
    """Return this process's team: alone, unless `accelerate launch` (or torchrun) started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"))
    return Team(state.process_index, state.num_processes)
