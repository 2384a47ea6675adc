"""Commands about this installation."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click
from click.shell_completion import get_completion_class

from supertickets.registry import object_at

_LIBRARIES = ("supertickets", "torch", "transformers", "numpy", "pandas", "datasets", "accelerate", "ray")
_REGISTRIES = {
    "studies": "supertickets.studies:STUDIES",
    "tasks": "supertickets.tasks:TASKS",
    "measures": "supertickets.tickets.scoring:MEASURES",
    "families": "supertickets.anatomy.family:FAMILIES",
    "runners": "supertickets.lab.machine:RUNNERS",
    "exporters": "supertickets.export:EXPORTERS",
}


@click.command()
def env() -> None:
    """Print library versions and this machine's devices, for bug reports."""
    from supertickets.training.devices import describe_devices

    click.echo(f"python {platform.python_version()} on {platform.platform()}")
    for library in _LIBRARIES:
        try:
            click.echo(f"{library} {version(library)}")
        except PackageNotFoundError:
            click.echo(f"{library} is not installed")
    click.echo(describe_devices())
    for what, place in _REGISTRIES.items():
        registry = object_at(place)
        added = [f"{name} ({package})" for name in registry if (package := registry.package_of(name))]
        click.echo(f"{what}: {', '.join(registry)}" + (f"; of other packages: {', '.join(added)}" if added else ""))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell script that completes commands and flags.

    For bash, add this line to ~/.bashrc: eval "$(supertickets completion bash)"
    """
    from supertickets.cli.group import app

    kind = get_completion_class(shell)
    assert kind is not None  # SHELL is one that click knows
    click.echo(kind(app, {}, "supertickets", "_SUPERTICKETS_COMPLETE").source())
