import os
import subprocess
import sys
from pathlib import Path

import pytest

from supertickets.lab.memory import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from supertickets.lab.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    for _ in range(20):  # above 32 MiB, where glibc stops learning
        torch.ones(10_000_000)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc only")
def test_large_arrays_get_the_same_memory_again(tmp_path: Path) -> None:
    """The system hands out pages once, and without it in every step (control)."""
    faults = {}
    for how in ("keep", "leave"):
        found = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(found.stdout)
    assert faults["keep"] < 1000 < faults["leave"]  # 20 arrays of 40 MB are 195,313 pages of 4 KiB


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
