"""The command line: flags and YAML in, a study called, a sentence out. Exit code 2 for misuse, 1 for failure."""

import inspect
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from supertickets.errors import StudyError, TicketError
from supertickets.studies.settings import FindSettings, parse, read_config

app = typer.Typer(
    name="supertickets",
    help="Find, train and ship lottery tickets in pre-trained transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flag_type(annotation: Any) -> Any:
    """Return what the parser takes for a settings field: lists, choices and `auto|N` come as text, checked later."""
    options = [part for part in typing.get_args(annotation) if part is not type(None)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = options[0] if len(options) == 1 else str
    if typing.get_origin(annotation) in (tuple, Literal):
        return str
    return annotation


def _flag_value(name: str, value: Any, annotation: Any) -> Any:
    """Turn a flag's text into what the settings take."""
    if "tuple" in str(annotation) and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if name == "workers" and value != "auto":
        return int(value) if str(value).lstrip("-").isdigit() else value
    if name == "patience" and value == 0:
        return None
    return value


def _with_settings_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every field of FindSettings; its `**settings` get those that were typed."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = FindSettings.model_fields
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(field.annotation) | None,
                typer.Option(help=_help(field.description, field.default), show_default=False),
            ],
        )
        for name, field in fields.items()
    ]

    def command(**values: Any) -> None:
        typed = {
            name: _flag_value(name, value, fields[name].annotation)
            for name, value in values.items()
            if name in fields and value is not None
        }
        function(**{name: value for name, value in values.items() if name not in fields}, **typed)

    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__doc__, command.__name__ = function.__doc__, function.__name__
    return command


def _help(description: str | None, default: Any) -> str:
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{description}" + ("" if shown is None or shown is False else f" [default: {shown}]")


def _find(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Find the super ticket of a model on a task.

    Fine-tunes the dense model, scores its heads and FFNs, draws winning, random and losing tickets at each level,
    rewinds and trains each, and names the best winning one. Run it again to go on where it stopped. Settings that no
    flag gives come from the preset for the model's size and the task.
    """
    from supertickets.studies.find import find
    from supertickets.studies.folder import disk_use

    asked = read_config(config) if config is not None else {}
    parse(asked | settings)  # a typing error is told before anything slow is imported
    if "levels" in asked | settings:
        _say_if_reordered((asked | settings)["levels"])
    try:
        result = find(asked, **settings, quiet=False)
    except KeyboardInterrupt:
        typer.echo("Stopped. Run the same command again to go on; what is done is kept.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "verdict": result.verdict,
                    "folder": str(result.folder),
                    "report": str(result.report),
                    "ticket": str(result.ticket_folder) if result.super_ticket is not None else None,
                    "failed": result.failures,
                    "results": json.loads(result.table.to_json(orient="records")),
                }
            )
        )
    else:
        _print_means(result.table)
        typer.echo(result.verdict)
        typer.echo(f"report: {result.report}")
        if result.super_ticket is not None:
            typer.echo(f"ticket: {result.ticket_folder}")
        typer.echo(f"disk: {_size(disk_use(result.folder))} in {result.folder}")
    if result.failures:
        raise StudyError(
            f"{len(result.failures)} trials failed: {', '.join(result.failures)}; the same command tries them again."
        )


def _say_if_reordered(levels: Sequence[Any]) -> None:
    numbers = [float(level) for level in levels]
    if numbers != sorted(set(numbers)):
        typer.echo(
            f"--levels: taken in order and once each: {', '.join(f'{n:g}' for n in sorted(set(numbers)))}.", err=True
        )


def _print_means(table: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from supertickets.evidence.table import curves

    means = curves(table)
    shown = Table("level", *means["kind"].unique(), title="mean score by level (± standard deviation over seeds)")
    for level in sorted(means["level"].unique()):
        cells = []
        for kind in means["kind"].unique():
            row = means[(means["kind"] == kind) & (means["level"] == level)]
            spread = "" if row.empty or row["std"].isna().all() else f" ± {row['std'].iloc[0]:.2f}"
            cells.append("" if row.empty else f"{row['mean'].iloc[0]:.2f}{spread}")
        shown.add_row(f"{level:g}", *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(shown)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="output folder of a study")],
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Show how far a study is: trials done, running and failed, time left, disk use."""
    from supertickets.lab.progress import describe, describe_running
    from supertickets.studies.folder import status as look

    found = look(folder)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{folder}: {found['task']} on {found['model']}, {found['state']}; {_size(found['bytes'])} on disk.")
    typer.echo(describe(found))
    for line in found["running"]:
        typer.echo(f"  {line['name']}: {describe_running(line)}")
    for name, reason in found["failures"].items():
        typer.echo(f"  {name} failed: {reason}")
    if found["holder"]:
        typer.echo("process {pid} on {host}, since {since}".format(**found["holder"]))


@app.command()
def clean(
    folder: Annotated[Path, typer.Argument(help="output folder of a study")],
    dry: Annotated[bool, typer.Option("--dry-run", help="say what would go, delete nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Delete trained weights and checkpoints that no later step needs; results and the super ticket stay."""
    from supertickets.studies.folder import clean as sweep

    found = sweep(folder, dry)
    if as_json:
        typer.echo(json.dumps(found))
        return
    word = "would free" if dry else "freed"
    typer.echo(f"{folder}: {len(found['files'])} files, {word} {_size(found['freed'])}; {_size(found['bytes'])} stay.")


def _size(count: float) -> str:
    units = ("bytes", "kB", "MB", "GB", "TB")
    step = min(int(math.log(max(count, 1), 1000)), len(units) - 1)
    return f"{count / 1000**step:.{0 if step < 2 else 1}f} {units[step]}"


@app.command()
def apply(
    ticket: Annotated[Path, typer.Argument(help="ticket folder")],
    model: Annotated[str | None, typer.Option(help="base model; default: the one the ticket names")] = None,
    out: Annotated[Path, typer.Option(help="folder for the small model")] = Path("small-model"),
    any_base: Annotated[
        bool, typer.Option("--any-base", help="take a base with other weights than the ticket's")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Cut a shared ticket out of its pre-trained base model and save the small encoder."""
    from supertickets.export.ship import apply_ticket

    made = apply_ticket(ticket, model, out, any_base)
    if as_json:
        typer.echo(json.dumps(made))
    else:
        share = made["parameters"] / made["dense_parameters"]
        typer.echo(f"{made['folder']}: {made['parameters']:,} parameters, {share:.1%} of the dense model's.")


app.command("find")(_with_settings_flags(_find))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as end:  # how typer ends, with 2 where the words were wrong
        return int(end.code or 0)
    except TicketError as error:
        typer.echo(f"Error: {error}", err=True)
        return 2
    except StudyError as error:
        typer.echo(f"Error: {error}", err=True)
        return 1
    return 0
