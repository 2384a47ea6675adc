"""One training on several processes, as `accelerate launch` starts them: each takes its share of every batch."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BY_LAUNCHERS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and `accelerate launch` set besides WORLD_SIZE."""


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

    def seed(self, seed: int) -> int:
        """Return this process's seed of random numbers in a training with `seed`: the leader's is `seed` itself.

        Others' are mixed from both numbers, so that no process repeats what one of another seed draws.
        """
        return int(np.random.SeedSequence((seed, self.rank)).generate_state(1, np.uint64)[0]) if self.rank else seed

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
    if not _launched():
        return Team()
    state = process_state()
    return Team(state.process_index, state.num_processes)


def process_state() -> Any:
    """Return accelerate's state of this process, which joins the others if a launcher started several."""
    from accelerate import PartialState
    from accelerate.utils import patch_environment

    if not _launched():
        with patch_environment(local_rank=-1):  # accelerate takes this number alone for a launch, and waits for others
            return PartialState()
    return PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"))


def _launched() -> bool:
    """Whether a launcher started several processes; clusters and notebooks may set WORLD_SIZE without one."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size in ("0", "1"):
        return False
    if lacking := [name for name in _BY_LAUNCHERS if not os.environ.get(name, "").strip()]:
        _say_alone(f"{', '.join(lacking)}, which torchrun and `accelerate launch` set as well, cannot be found there")
    elif not size.isdecimal():
        _say_alone("it is not a number of processes")
    else:
        return True
    return False


@cache
def _say_alone(why: str) -> None:
    """Say once why WORLD_SIZE is ignored; worker processes leave it to the first."""
    if multiprocessing.parent_process() is None:
        size = os.environ["WORLD_SIZE"]
        print(
            f"WORLD_SIZE={size} in the environment is ignored because {why}: each training runs on one process.",
            file=sys.stderr,
        )
