"""The most memory that a model takes, in a process that does nothing else."""

import multiprocessing as mp
import re
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from supertickets.errors import StudyError
from supertickets.lab.measured import Batch, Conditions
from supertickets.lab.workers import SPAWN, no_main

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(folder: Path, batch: Batch, conditions: Conditions) -> int | None:
    """Return how many bytes a fresh process takes at most to load a saved encoder and compute a batch.

    On a CPU it is resident memory beyond what the process has after its imports; on a GPU of CUDA what torch allocates
    there; None where the system does not tell. Raises StudyError if the process ends without an answer.
    """
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_tell, args=(theirs, folder, batch, conditions), daemon=True)
    with no_main():
        process.start()
    theirs.close()
    try:
        found: int | None = ours.recv()
    except EOFError as error:
        process.join()
        raise StudyError(
            f"the process that measures the memory of a batch of {batch.batch_size} x {batch.length} tokens ended with "
            f"exit code {process.exitcode}; the machine may have too little memory for it."
        ) from error
    finally:
        ours.close()
    process.join()
    return found


def _tell(answer: Connection, folder: Path, batch: Batch, conditions: Conditions) -> None:
    """Load, compute, and send the answer."""
    import torch
    from transformers import AutoConfig, AutoModel

    from supertickets.lab.forward import forward_of, prepared
    from supertickets.models import quiet_transformers
    from supertickets.training.devices import arithmetic

    assert mp.parent_process() is not None  # the numbers below are of this process, which must be a fresh one
    device = torch.device(conditions.device)
    torch.set_num_threads(conditions.threads)
    with quiet_transformers(), torch.device("meta"):
        AutoModel.from_config(AutoConfig.from_pretrained(folder))  # imports what the architecture needs
    with suppress(OSError):
        _RESET.write_text("5")  # the most so far is what imports took for a moment
    before = _resident("VmRSS")
    with quiet_transformers():
        model = prepared(AutoModel.from_pretrained(folder, dtype=torch.float32), conditions.device)
    with arithmetic(conditions.precision, device), torch.inference_mode():
        forward_of(model, batch)()
    if device.type == "cuda":
        answer.send(int(torch.cuda.max_memory_allocated(device)))
    elif device.type == "cpu" and before is not None:
        after = _resident("VmHWM")
        answer.send(None if after is None else max(0, after - before))
    else:
        answer.send(None)


def _resident(name: str) -> int | None:
    """Return one of the numbers that Linux keeps of this process's memory, in bytes; None on another system.

    `getrusage` would count the process that started this one.
    """
    if sys.platform != "linux":
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.M)
    return None if found is None else 1024 * int(found[1])
