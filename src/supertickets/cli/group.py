"""All commands: one for each registered study, and our own. Commands are imported when they are used."""

from __future__ import annotations

import importlib

import click

from supertickets.errors import TicketError, unknown_name
from supertickets.studies import STUDIES, SUMMARIES

OWN = {
    "design": ("Say what gain a study of `find` can detect, and how many seeds a gain needs.", "design"),
    "report": ("Write one page about several studies, with the paper's tables.", "results"),
    "status": ("Show the progress of a study.", "results"),
    "clean": ("Delete trained weights and checkpoints that no later step needs.", "results"),
    "submit": ("Predict GLUE's test sets and write a submission.", "results"),
    "draw": ("Draw a ticket from a study's importance scores, without training.", "tickets"),
    "apply": ("Apply a ticket to its pre-trained base model and save the smaller encoder.", "tickets"),
    "export": ("Write a model in a format that runs elsewhere.", "tickets"),
    "unshare": ("Save a model such as ALBERT with weights of its own in each layer.", "tickets"),
    "measure": ("Measure the time, memory and size of a model and of its ticket.", "measure"),
    "verify": ("Check a ticket, and train it again to compare scores.", "verify"),
    "push": ("Publish a ticket and its trained model on the hub.", "push"),
    "import-masks": ("Convert a file of pruning masks into a ticket folder.", "tickets"),
    "env": ("Print library versions and this machine's devices, for bug reports.", "system"),
    "completion": ("Print a shell script that completes commands and flags.", "system"),
}
"""Commands that are no studies: what they do, and the module below `cli` that has them."""
_PANELS = {
    "design": "Studies",
    "results": "Results",
    "tickets": "Tickets and models",
    "measure": "Tickets and models",
    "verify": "Tickets and models",
    "push": "Tickets and models",
    "system": "Help",
}


class Commands(click.Group):
    """Looks commands up by name, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*STUDIES, *OWN]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command; raises UnknownNameError, with the nearest one, for a name that is none."""
        if name in OWN:
            module = importlib.import_module(f"supertickets.cli.{OWN[name][1]}")
            command: click.Command = getattr(module, name.replace("-", "_"))
            return command
        if name in STUDIES:
            from supertickets.cli.study import study_command

            return study_command(name)
        raise click.UsageError(str(unknown_name("command", name, [*STUDIES, *OWN])))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in panels."""
        panels: dict[str, list[tuple[str, str]]] = {"Studies": [(name, _summary(name)) for name in STUDIES]}
        for name, (summary, module) in OWN.items():
            panels.setdefault(_PANELS[module], []).append((name, summary))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _summary(name: str) -> str:
    """Return the first line of what a study says of itself."""
    if name in SUMMARIES:
        return SUMMARIES[name]
    try:
        return (STUDIES[name].__doc__ or "").strip().splitlines()[0]
    except (TicketError, IndexError) as error:
        return f"({error or 'no description'})"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="supertickets")
def app() -> None:
    """Find, train and ship lottery tickets in pre-trained transformers."""
