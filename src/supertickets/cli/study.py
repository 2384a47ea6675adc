"""The command of a study: run it, or say what it would run; print what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supertickets.cli.flags import SettingsCommand, options, typed
from supertickets.cli.printing import AS_JSON, FOLDER, print_table, records
from supertickets.errors import StudyError
from supertickets.studies import STUDIES
from supertickets.studies.config import Overrides, flag, merge_overrides, sorted_lists
from supertickets.studies.settings import StudySettings

if TYPE_CHECKING:
    from supertickets.studies.run import Result


def study_command(name: str) -> click.Command:
    """Return the command of a registered study."""
    kind = STUDIES[name]

    @click.command(name, cls=SettingsCommand, params=[*options(kind.settings)], help=kind.__doc__)
    @click.option(
        "--config",
        type=FOLDER,
        help="YAML file of settings; its keys are the names of the flags, and flags override it",
    )
    @click.option(
        "--dry-run",
        is_flag=True,
        help="print the number of trainings, the FLOPs, time and disk space needed; run nothing",
    )
    @AS_JSON
    def run(config: Path | None, as_json: bool, dry_run: bool, **settings: Any) -> None:
        overrides = merge_overrides(kind.settings, config, typed(settings))
        _say_what_was_sorted(kind.settings, overrides)
        if dry_run:
            _print_plan(name, overrides, as_json)
            return
        from supertickets.lab.memory import keep_freed_memory
        from supertickets.studies.run import run_study

        keep_freed_memory()
        with stoppable():
            result = run_study(name, overrides, quiet=False)
        _print_json(result) if as_json else _print(result)
        tell_failures(result.failures)

    return run


def _say_what_was_sorted(kind: type[StudySettings], overrides: Overrides) -> None:
    """Print which lists of numbers were sorted; misuse is reported before anything slow."""
    for name, taken in sorted_lists(kind, overrides).items():
        said = ", ".join(one if isinstance(one, str) else f"{one:g}" for one in taken)
        click.echo(f"{flag(name)} was sorted, without duplicates: {said}.", err=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Say how to go on when a study is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted. Run the same command again to resume; finished trainings are kept.", err=True)
        raise click.exceptions.Exit(130) from None


def tell_failures(failures: Mapping[str, str]) -> None:
    """Raise StudyError, naming them, if trials failed."""
    if failures:
        from supertickets.tasks.tables import counted

        count = counted(len(failures), "training")
        raise StudyError(f"{count} failed: {', '.join(failures)}; run the same command to retry them.")


def _print(result: Result) -> None:
    from supertickets.lab.progress import size
    from supertickets.studies.folder import disk_use

    for title, table in result.findings.printed().items():
        print_table(table, title)
    click.echo(result.verdict)
    click.echo(f"report: {result.report}")
    for what, path in result.shipped.items():
        click.echo(f"{what}: {path}")
    click.echo(f"disk: {size(disk_use(result.folder))} in {result.folder}")


def _print_json(result: Result) -> None:
    content = {
        "verdict": result.verdict,
        "folder": str(result.folder),
        "report": str(result.report),
        "shipped": {what: str(path) for what, path in result.shipped.items()},
        "failed": dict(result.failures),
        "tables": records(result.findings.tables()),
        "results": records({"results": result.table})["results"],
    }
    click.echo(json.dumps(content))


def _print_plan(name: str, overrides: Overrides, as_json: bool) -> None:
    from supertickets.studies.plan import plan_study

    plan = plan_study(name, overrides, quiet=as_json)
    if as_json:
        click.echo(json.dumps({**plan.as_dict(), **records({"steps": plan.steps})}))
        return
    print_table(plan.steps.replace({"choice": {"": "(unchanged)"}}), f"steps of `{name}`")
    click.echo(plan.sentence())
