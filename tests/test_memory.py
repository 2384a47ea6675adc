import os
import subprocess
import sys
from pathlib import Path

import pytest

from supertickets.lab.memory import free_memory, keep_freed_memory

FAULTS = """
import resource
import torch
from supertickets.lab.memory import keep_freed_memory
def step():
    for _ in range(5):  # above 32 MiB, where glibc stops learning
        torch.ones(10_000_000)
def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
left = faults()
assert keep_freed_memory()
print(left, faults())
"""


@pytest.mark.skipif(sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc only")
def test_large_arrays_get_the_same_memory_again() -> None:
    """The system hands out pages once, and before it was asked to keep them in every step (control)."""
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    left, kept = map(int, found.stdout.split())
    assert kept < 1000 < left  # 5 arrays of 40 MB are 48,828 pages of 4 KiB


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def _system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


AVAILABLE = {"proc/meminfo": "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    8000 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * 1024),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"}, 8000 * 1024),
        ({"sys/fs/cgroup/memory.max": "900000\n", "sys/fs/cgroup/memory.current": "500000\n"}, 400000),
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/job/memory.max": "900000\n",
                "sys/fs/cgroup/user/job/memory.current": "500000\n",
                "sys/fs/cgroup/user/job/memory.stat": "anon 7\ninactive_file 100000\n",
            },
            500000,
        ),
        (
            {  # of a job above the process's own group
                "proc/self/cgroup": "0::/job_7/step_0/user\n",
                "sys/fs/cgroup/job_7/step_0/user/memory.max": "max\n",
                "sys/fs/cgroup/job_7/memory.max": "900000\n",
                "sys/fs/cgroup/job_7/memory.current": "600000\n",
            },
            300000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/job\n3:cpu:/other\n0::/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "700000\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "900000\n",
            },
            0,
        ),
    ],
)
def test_free_memory_is_what_the_system_and_the_container_leave(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert free_memory(_system(tmp_path, AVAILABLE | files)) == expected


def test_a_system_that_does_not_tell_its_memory(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
def test_this_machine_has_free_memory() -> None:
    found = free_memory()
    assert found is not None
    assert 0 < found <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
