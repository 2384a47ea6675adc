"""The command that says what a study can detect before it is run."""

from __future__ import annotations

import json
from typing import Any

import click

from supertickets.cli.flags import SettingsCommand, options, typed
from supertickets.cli.printing import AS_JSON, FOLDER, print_table, records
from supertickets.studies.design import ASKED
from supertickets.studies.design import design as what_is_seen
from supertickets.studies.find_settings import FindSettings

_OF_FIND: list[click.Parameter] = [one for one in options(FindSettings) if one.name in ASKED]


@click.command(cls=SettingsCommand, params=_OF_FIND)
@click.option("--dev-size", type=int, help="number of dev examples, instead of a task")
@click.option("--metric", help="with --dev-size: the metric of the score [default: accuracy, or that of --pilot]")
@click.option("--gain", type=float, help="also print how many seeds detect this gain, in points, in 80 % of studies")
@click.option("--pilot", type=FOLDER, help="folder of a study of `find`, finished or not, that says how gains vary")
@AS_JSON
def design(as_json: bool, **asked: Any) -> None:
    """Say what gain a study of `find` can detect, and how many seeds a gain needs.

    A study detects a gain if its test is significant at 5 %. Seeds and dev examples both vary, so that a small dev set
    hides small gains from any number of seeds. Nothing is run.
    """
    own: dict[str, Any] = {name: asked.pop(name) for name in ("dev_size", "metric", "gain", "pilot")}
    made = what_is_seen(**own, **typed(asked))
    if as_json:
        content = {"sentences": made.sentences(), "seeds_needed": made.needed, **records({"gains": made.table})}
        click.echo(json.dumps(content))
        return
    print_table(made.table, "gain detected in 80 % of studies")
    click.echo(" ".join(made.sentences()))
