"""The command that publishes tickets and models."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from supertickets.cli.printing import AS_JSON


@click.command()
@click.argument("run")
@click.argument("repository")
@click.option("--what", help="ticket, model or both [default: both, or ticket where there is no trained model]")
@click.option("--private", is_flag=True, help="make a private repository, if there is none yet")
@click.option("--revision", help="branch to commit to, made if there is none [default: main]")
@click.option("--message", help="message of the commit")
@click.option("--base", help="id on the hub of the base model, in place of `default` or a folder")
@AS_JSON
def push(run: str, repository: str, as_json: bool, **options: Any) -> None:
    """Publish a ticket and its trained model on the hub.

    RUN is a finished study of `find` or `imp`, or a ticket folder; REPOSITORY is org/name, and is made if there is
    none. The ticket folder is published with its model in `model/`; with `--what model` the model alone, at the top.
    The card has every seed's score, the verdict and the recipe. The names of task, labels and columns are published;
    paths and examples are not. Log in first with `hf auth login`. `apply`, `measure`, `verify`, `transfer`,
    `share` and `adapt` take org/name, or org/name@revision.
    """
    from supertickets.studies.push import push as publish

    made = publish(run, repository, **options)
    for notice in made.notices:
        click.echo(notice, err=True)
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    click.echo(f"{made.address}: {', '.join(made.files)}; base model {made.base}.")
