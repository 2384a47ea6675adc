"""The command line: flags and YAML in, a study called, sentences out. Exit code 2 for misuse, 1 for failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from supertickets.cli.group import app
from supertickets.errors import StudyError, TicketError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        code = app.main(arguments, prog_name="supertickets", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except TicketError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    except StudyError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    return code if isinstance(code, int) else 0  # click returns the code of an exit
