"""Options of sbatch that a study passes on as they are (`--slurm key=value,...`), checked by name."""

from collections.abc import Iterable

from supertickets.errors import nearest

OPTIONS = {
    "account", "acctg-freq", "begin", "comment", "constraint", "cores-per-socket", "cpu-freq",
    "cpus-per-gpu", "deadline", "dependency", "distribution", "exclude", "exclusive", "export",
    "extra-node-info", "gpu-bind", "gpu-freq", "gres", "gres-flags", "hint", "licenses", "mail-type",
    "mail-user", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "nodelist",
    "oversubscribe", "power", "prefer", "priority", "qos", "reservation", "sockets-per-node", "spread-job",
    "switches", "threads-per-core", "tmp", "wckey",
}  # fmt: skip
"""What may be passed on: all of sbatch's (25.05) that say where and when one process runs, by its long names."""
_ALONE = frozenset({"exclusive", "oversubscribe", "spread-job"})
"""Those that need no value."""
_OURS = {
    "partition": "use --partition",
    "time": "use --time-limit",
    "mem": "use --memory",
    "cpus-per-task": "use --cpus",
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task"), "use --gpus"),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "array"), "a training is one job of one process"),
    "clusters": "this cluster alone is asked about jobs; run supertickets on a login node of the other one",
    **dict.fromkeys(("output", "error", "open-mode", "job-name"), "jobs are found again by it"),
    **dict.fromkeys(("signal", "requeue", "no-requeue", "time-min"), "how jobs go on after their limit is settled"),
}
"""Those that are set otherwise, and why."""


def sbatch_options(parts: Iterable[str]) -> dict[str, str | bool]:
    """Return options by name, out of `key=value` each; a part without a key goes on with the value before it.

    Raises ValueError for a name that is none of sbatch's, or one that is set otherwise.

    >>> sbatch_options(["qos=high", "exclude=node1", "node2", "exclusive"])
    {'qos': 'high', 'exclude': 'node1,node2', 'exclusive': True}
    """
    found: dict[str, str | bool] = {}
    last = ""
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip().removeprefix("--").replace("_", "-")
        if not equals and name not in _ALONE and isinstance(found.get(last), str):
            found[last] = f"{found[last]},{part}"
            continue
        if name in _OURS:
            raise ValueError(f"{name} cannot be passed on: {_OURS[name]}")
        if name not in OPTIONS:
            raise ValueError(f"{nearest(name, OPTIONS)}{name!r} is not an option that can be passed on to sbatch")
        if not (value if equals else name in _ALONE) or not value.isprintable():
            raise ValueError(f"expected {name}=VALUE, got {part!r}")
        if name in found:
            raise ValueError(f"{name} is there twice")
        found[name], last = value if equals else True, name
    return found


def checked_options(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was asked for as it is; raises ValueError as `sbatch_options` does."""
    sbatch_options(parts)
    return parts
