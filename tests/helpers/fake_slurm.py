"""Slurm's commands as shell scripts: a job is a process of this machine, and its state a file."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

COMMANDS = {
    "sbatch": r"""
id=$(($(cat "$FAKE_SLURM/count" 2>/dev/null || echo 0) + 1))
echo $id > "$FAKE_SLURM/count"
cp "$1" "$FAKE_SLURM/$id.sh"
sed -n 's/^#SBATCH --job-name=//p' "$1" > "$FAKE_SLURM/$id.name"
echo RUNNING > "$FAKE_SLURM/$id.state"
export SLURM_JOB_ID=$id
setsid bash -c '
    setsid bash "$FAKE_SLURM/$SLURM_JOB_ID.sh" &
    echo $! > "$FAKE_SLURM/$SLURM_JOB_ID.pid"
    wait $!; code=$?
    if [ "$(cat "$FAKE_SLURM/$SLURM_JOB_ID.state")" = RUNNING ]; then
        if [ $code = 0 ]; then said=COMPLETED; else said=FAILED; fi
        echo $said > "$FAKE_SLURM/$SLURM_JOB_ID.state"
    fi' >/dev/null 2>&1 </dev/null &
echo "Submitted batch job $id"
""",
    "srun": r"""
while [[ $1 == --* ]]; do
    if [ "$1" = --output ]; then out=$2; shift; fi
    shift
done
out=${out//%j/$SLURM_JOB_ID}
echo $$ > "$FAKE_SLURM/$SLURM_JOB_ID.step"
exec "$@" > "${out//%t/0}" 2>&1
""",
    "squeue": r"""
for file in "$FAKE_SLURM"/*.name; do
    id=$(basename "$file" .name)
    if [ "$(cat "$file")" = "$3" ] && [ "$(cat "$FAKE_SLURM/$id.state")" = RUNNING ]; then echo "$id"; fi
done
""",
    "sacct": r"""
echo "JobID|State|NodeList"
for file in "$FAKE_SLURM"/*.state; do echo "$(basename "$file" .state)|$(cat "$file")|here"; done
""",
    "scancel": r"""
echo "CANCELLED by 0" > "$FAKE_SLURM/$1.state"
kill -TERM -- "-$(cat "$FAKE_SLURM/$1.pid")"
""",
}


class FakeSlurm:
    """A cluster of one node in a folder; its commands are the first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "state"
        self.folder.mkdir(parents=True)
        for name, script in COMMANDS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{script}")
            path.chmod(0o755)
        monkeypatch.setenv("FAKE_SLURM", str(self.folder))
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")

    @property
    def count(self) -> int:
        """How many jobs were submitted."""
        path = self.folder / "count"
        return int(path.read_text()) if path.exists() else 0

    def script(self, id: int) -> str:
        """What sbatch was given."""
        return (self.folder / f"{id}.sh").read_text()

    def send(self, id: int, number: signal.Signals) -> None:
        """Send a signal to a job's step, as Slurm does before the time limit."""
        os.kill(int((self.folder / f"{id}.step").read_text()), number)

    def wait(self, id: int, state: str, seconds: float = 60.0) -> None:
        """Wait until a job has a state."""
        until = time.monotonic() + seconds
        while (self.folder / f"{id}.state").read_text().strip() != state:
            assert time.monotonic() < until, f"job {id} did not become {state}"
            time.sleep(0.05)

    def end(self) -> None:
        """Kill what still runs."""
        for path in self.folder.glob("*.pid"):
            if path.with_suffix(".state").read_text().strip() == "RUNNING":
                with suppress(ProcessLookupError):
                    os.killpg(int(path.read_text()), signal.SIGKILL)
