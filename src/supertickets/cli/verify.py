"""The command that checks somebody's ticket."""

from __future__ import annotations

import json
from typing import Any

import click

from supertickets.cli.printing import AS_JSON, FOLDER


@click.command()
@click.argument("folder")
@click.option("--retrain", is_flag=True, help="also train the ticket again, with one seed, and compare")
@click.option("--seed", type=int, help="with --retrain: seed to train again [default: that of the ticket]")
@click.option("--data", type=FOLDER, help="with --retrain: folder with the task's files, as for `find`")
@click.option(
    "--train-file",
    type=FOLDER,
    help="with --retrain: the training file, if the ticket was trained on files of your own",
)
@click.option("--dev-file", type=FOLDER, help="with --retrain: the dev file, if there was one")
@click.option("--model", help="base model [default: the one named in the ticket]")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...", show_default=True)
@AS_JSON
@click.pass_context
def verify(ctx: click.Context, folder: str, as_json: bool, **options: Any) -> None:
    """Check a ticket, and train it again to compare scores.

    FOLDER is a ticket folder, a repository on the hub (org/name or org/name@revision), or the folder of a finished
    study of `find` or `imp`. Each check is one line: files against their recorded hashes, the ticket, the base model's
    weights, the saved model, the recorded trainings. With `--retrain` the ticket is trained again from the pre-trained
    weights, on the same examples. On the same kind of CPU with the same versions, its outputs on the dev set must be
    the recorded ones bit for bit; elsewhere, and on GPUs, its score must lie within the spread of the recorded seeds.
    The exit code is 1 if anything is wrong or disagrees.
    """
    from supertickets.studies.verify import verify as check

    found = check(folder, quiet=as_json, **options)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        for one in found.checks:
            click.echo(str(one))
        if (again := found.retrained) is not None:
            click.echo(f"{again.verdict}: {again.said}")
    ctx.exit(1 if found.wrong else 0)
