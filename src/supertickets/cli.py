"""The command line: flags and YAML in, a study called, a sentence out. Exit code 2 for misuse, 1 for failure."""

import inspect
import json
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from supertickets.errors import StudyError, TicketError
from supertickets.studies.config import Asked, asked_for, flag, help_default, parse, read_value
from supertickets.studies.settings import AdaptSettings, CompareSettings, FindSettings, ShareSettings, StudySettings
from supertickets.studies.settings_weights import ImpSettings, PretrainSettings, TransferSettings

app = typer.Typer(
    name="supertickets",
    help="Find, train and ship lottery tickets in pre-trained transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flag_type(annotation: Any) -> Any:
    """Return what the command line takes for a setting: text, read where YAML is; lists are flags to be repeated."""
    if annotation is bool:
        return bool
    return list[str] if _is_list(annotation) else str


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(part) is tuple for part in (annotation, *typing.get_args(annotation)))


def _with_settings_flags(function: Callable[..., None], of: type[StudySettings]) -> Callable[..., None]:
    """Give a command a flag for every field of a study's settings; its `**settings` get those that were typed."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = of.model_fields
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(field.annotation) | None,
                typer.Option(
                    *_named(name), help=_help(of, name), show_default=False, metavar=_metavar(field.annotation)
                ),
            ],
        )
        for name, field in fields.items()
    ]

    def command(**values: Any) -> None:
        typed = {
            name: ",".join(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in fields and value not in (None, [])
        }
        function(**{name: value for name, value in values.items() if name not in fields}, **typed)

    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__doc__, command.__name__ = function.__doc__, function.__name__
    return command


def _named(name: str) -> list[str]:
    """Return a flag's names, where they are not those that the parser would give it."""
    if flag(name) == "--" + name.replace("_", "-"):
        return []
    return [flag(name)]


def _metavar(annotation: Any) -> str | None:
    """Return what stands for a flag's value in its help."""
    if annotation is bool:
        return None
    if _is_list(annotation):
        return "A,B,..."
    parts = [part for part in typing.get_args(annotation) or [annotation] if part is not type(None)]
    if len(parts) > 1:
        return "TEXT"
    return "PATH" if "Path" in str(parts[0]) else {int: "INTEGER", float: "FLOAT"}.get(parts[0], "TEXT")


def _help(of: type[StudySettings], name: str) -> str:
    """Return a flag's help: what it is, which values it has, what it is by default."""
    field, default = of.model_fields[name], help_default(of, name)
    values = [value for value in typing.get_args(field.annotation) if isinstance(value, str)]
    named = all(value in (field.description or "") for value in values)
    return (
        f"{field.description}"
        + ("" if named else f" ({' | '.join(values)})")
        + (f" \\[default: {default}]" if default else "")  # or it would be markup
    )


def _asked(kind: type[StudySettings], config: Path | None, settings: Mapping[str, Any]) -> Asked:
    """Return what was asked for, in a file or typed; a typing error is told before anything slow is imported."""
    asked = asked_for(kind, config, settings)
    parsed = parse(kind, asked)
    for name in {"levels", "sparsities", "fractions"} & asked.keys():
        given, taken = read_value(kind, name, asked[name]), getattr(parsed, name)
        if not any(isinstance(one, str) and ".." in one for one in given) and [*map(float, given)] != [*taken]:
            typer.echo(f"{flag(name)}: taken in order and once each: {', '.join(f'{n:g}' for n in taken)}.", err=True)
    return asked


def _number(value: float) -> float | None:
    """Return a number for JSON, which has none for what is missing."""
    return value if math.isfinite(value) else None


def _records(**tables: Any) -> dict[str, Any]:
    """Return tables as lists of rows, for JSON."""
    return {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}


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

    asked = _asked(FindSettings, config, settings)
    with _stoppable():
        result = find(asked, quiet=False)
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
    _tell_failures(result.failures)


app.command("find")(_with_settings_flags(_find, FindSettings))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Say how to go on when a study is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped. Run the same command again to go on; what is done is kept.", err=True)
        raise typer.Exit(130) from None


def _tell_failures(failures: Mapping[str, str]) -> None:
    if failures:
        raise StudyError(f"{len(failures)} trials failed: {', '.join(failures)}; the same command tries them again.")


def _compare(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Show how much each choice changes tickets and scores on a task.

    Where the paper's text and its code differ, or another measure of importance could be taken: each choice in turn is
    put otherwise, all else staying, and its tickets and scores are set beside the usual ones.
    """
    from supertickets.studies.compare import compare

    with _stoppable():
        result = compare(_asked(CompareSettings, config, settings), quiet=False)
    if as_json:
        rows = json.loads(result.comparison.to_json(orient="records"))
        typer.echo(json.dumps({"folder": str(result.folder), "failed": dict(result.failures), "comparison": rows}))
    else:
        _print_table(result.comparison, "what each choice changes (overlap: of what is pruned; difference: of scores)")
        typer.echo(f"tables: {result.folder}/comparison.csv, .md, .tex")
    _tell_failures(result.failures)


app.command("compare")(_with_settings_flags(_compare, CompareSettings))


def _share(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Train several tasks together, each its own super ticket of one encoder.

    Takes each task's super ticket from finished studies (--tickets), or finds them first; cuts away what no task keeps
    and trains so that a step of a task changes only that task's ticket. Beside it, the full model is trained the same
    way (MT-DNN), and both are fine-tuned on each task. Run it again to go on where it stopped.
    """
    from supertickets.studies.share import share

    with _stoppable():
        result = share(_asked(ShareSettings, config, settings), quiet=False)
    seen = result.sharing
    if as_json:
        places = {"folder": result.folder, "report": result.report, "model": result.model_folder}
        typer.echo(
            json.dumps(
                {
                    "verdict": seen.verdict,
                    **{name: str(path) for name, path in places.items()},
                    "models": {task: str(path) for task, path in result.task_folders.items()},
                    "failed": dict(result.failures),
                    "sizes": {
                        "mean": _number(seen.sizes.mean),
                        "union": _number(seen.sizes.union),
                        "tasks": {task: _number(size) for task, size in seen.sizes.by_task.items()},
                    },
                    **_records(table_3=seen.table.reset_index(names="model"), gains=seen.gains, results=seen.runs),
                }
            )
        )
    else:
        _print_table(seen.table.reset_index(names="model"), "mean dev scores (Table 3)")
        typer.echo(seen.verdict)
        typer.echo(f"report: {result.report}")
        if result.model_folder.is_dir():
            typer.echo(f"shared model: {result.model_folder}, each task's own: {result.folder}/models")
    _tell_failures(result.failures)


app.command("share")(_with_settings_flags(_share, ShareSettings))


def _adapt(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Adapt trained models, with their tickets, to a new task with few examples.

    Takes the super ticket and the dense model of a study of `find`, or MT-DNN and Ticket-Share of one of `share`
    (--from, several with commas), gives them a new output layer and trains them on growing parts of the new task's
    training set. Run it again to go on where it stopped.
    """
    from supertickets.studies.adapt import adapt

    with _stoppable():
        result = adapt(_asked(AdaptSettings, config, settings), quiet=False)
    seen = result.adaptation
    if as_json:
        found = _records(table_4=seen.table.reset_index(names="model"), gains=seen.gains, results=seen.runs)
        said = {"verdict": seen.verdict, "folder": str(result.folder), "report": str(result.report)}
        typer.echo(json.dumps({**said, "failed": dict(result.failures), **found}))
    else:
        _print_table(seen.table.reset_index(names="model"), f"mean dev scores: {seen.table.index.name} (Table 4)")
        typer.echo(seen.verdict)
        typer.echo(f"report: {result.report}")
    _tell_failures(result.failures)


app.command("adapt")(_with_settings_flags(_adapt, AdaptSettings))


def _imp(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Find tickets of single weights by iterative magnitude pruning.

    Trains the model, removes the smallest weights, puts the others back to their pre-trained values, and again, up to
    the last sparsity; trains controls beside it, and says up to which sparsity tickets match the full model. Run it
    again to go on where it stopped.
    """
    from supertickets.studies.imp import imp

    with _stoppable():
        result = imp(_asked(ImpSettings, config, settings), quiet=False)
    seen = result.seen
    if as_json:
        tables = {"means": seen.means, "rewinding": seen.rewinding, "similarity": seen.similarity, "results": seen.runs}
        places = {"folder": str(result.folder), "report": str(result.report), "ticket": str(result.ticket_folder)}
        said = {"verdict": seen.verdict, **places, "highest": seen.highest, "rule": seen.rule}
        typer.echo(json.dumps({**said, "failed": dict(result.failures), **_records(**tables)}))
    else:
        _print_table(seen.means[["kind", "variant", "sparsity", "mean", "std", "runs", "difference"]], "mean scores")
        _print_table(seen.table_2.reset_index(names="model"), "Table 2")
        typer.echo(seen.verdict)
        typer.echo(f"report: {result.report}")
        if result.ticket_folder.is_dir():
            typer.echo(f"ticket: {result.ticket_folder}")
    _tell_failures(result.failures)


app.command("imp")(_with_settings_flags(_imp, ImpSettings))


def _transfer(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Train tickets of some tasks on others: the source x target matrix.

    Takes each study's ticket (of `imp` that of one sparsity, of `find` the super ticket), puts it back to the
    pre-trained weights and trains it on every target, beside the dense model and tickets of no task. Run it again to
    go on where it stopped.
    """
    from supertickets.studies.transfer import transfer

    with _stoppable():
        result = transfer(_asked(TransferSettings, config, settings), quiet=False)
    seen = result.transfer
    if as_json:
        tables = {"gains": seen.gains.reset_index(), "means": seen.means, "overlaps": seen.overlaps}
        said = {"verdict": seen.verdict, "folder": str(result.folder), "report": str(result.report)}
        typer.echo(json.dumps({**said, "failed": dict(result.failures), **_records(**tables, results=seen.runs)}))
    else:
        _print_table(seen.gains.reset_index(), "gains over the dense model, by source and target")
        typer.echo(seen.verdict)
        typer.echo(f"report: {result.report}")
    _tell_failures(result.failures)


app.command("transfer")(_with_settings_flags(_transfer, TransferSettings))


def _pretrain(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file; every flag is a key in it, flags win")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    **settings: Any,
) -> None:
    """Train the dense model on a task and save it as a base model for other studies.

    An encoder without an output layer for masked tokens gets one so, before tickets of it are looked for.
    """
    from supertickets.studies.pretrain import pretrain

    with _stoppable():
        result = pretrain(_asked(PretrainSettings, config, settings), quiet=False)
    if as_json:
        said = {"verdict": result.verdict, "folder": str(result.folder), "model": str(result.model)}
        typer.echo(json.dumps({**said, "metrics": dict(result.metrics)}))
    else:
        typer.echo(result.verdict)


app.command("pretrain")(_with_settings_flags(_pretrain, PretrainSettings))


def _print_table(frame: Any, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from supertickets.evidence.tables import shown

    table = Table(*map(str, frame.columns), title=title)
    for row in frame.itertuples(index=False):
        table.add_row(*(shown(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@app.command()
def sensitivity(
    folder: Annotated[Path, typer.Argument(help="output folder of a finished `find` or `share`")],
    learning_rates: Annotated[str, typer.Option(help="learning rates, by commas; default: the study's")] = "",
    seeds: Annotated[int, typer.Option(help="how many seeds, from the study's first")] = 5,
    workers: Annotated[str | None, typer.Option(help="trainings side by side: a number or auto")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Show how much models depend on seed and learning rate (the paper's Tables 5, 8).

    Of a study of `find` the super ticket and the dense model, of one of `share` both shared models, fine-tuned.
    """
    from supertickets.studies.sensitivity import sensitivity as measure

    try:
        rates = [float(rate) for rate in learning_rates.split(",") if rate.strip()]
    except ValueError as error:
        raise TicketError(f"--learning-rates: expected numbers with commas between, got {learning_rates!r}.") from error
    with _stoppable():
        result = measure(folder, rates, seeds, workers, device, quiet=False)
    if as_json:
        tables = {"over_seeds": result.over_seeds, "over_learning_rates": result.over_learning_rates}
        found = {name: json.loads(table.to_json(orient="index")) for name, table in tables.items()}
        typer.echo(json.dumps({"folder": str(result.folder), "failed": result.failures, **found}))
    else:
        _print_table(result.over_seeds.reset_index(names="model"), "standard deviation over seeds (Table 5)")
        _print_table(result.over_learning_rates.reset_index(names="model"), "over learning rates (Table 8)")
        typer.echo(f"tables: {result.folder}")
    _tell_failures(result.failures)


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
def report(
    folders: Annotated[list[Path], typer.Argument(help="output folders of studies")],
    out: Annotated[Path | None, typer.Option(help="folder for the page; default: the study's, or runs/report")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write one page about several studies, with the paper's tables and the average over tasks.

    Runs nothing; studies need not be finished. The tables are written as CSV, Markdown and LaTeX too.
    """
    from supertickets.studies.report import report as write

    made = write(folders, out)
    if as_json:
        tables = {name: json.loads(table.to_json(orient="split")) for name, table in made.tables.items()}
        typer.echo(json.dumps({"report": str(made.page), "average": made.average.sentence(), "tables": tables}))
        return
    for name, verdict in made.verdicts.items():
        typer.echo(f"{name}: {verdict}\n")
    if len(made.verdicts) > 1:
        typer.echo(made.average.sentence())
    typer.echo(f"report: {made.page}")


@app.command()
def submit(
    folders: Annotated[list[Path], typer.Argument(help="output folders of finished studies of GLUE tasks")],
    data: Annotated[Path | None, typer.Option(help="folder of GLUE's TSV files; default: the studies' own")] = None,
    out: Annotated[Path, typer.Option(help="zip file to write")] = Path("submission.zip"),
    fill: Annotated[bool, typer.Option("--fill", help="write one label where no study or test file is there")] = False,
    dense: Annotated[bool, typer.Option("--dense", help="predict with dense models in place of super tickets")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Predict GLUE's test sets with super tickets and write a submission: eleven files, zipped and checked.

    Where studies share seeds, every task is predicted by the best ticket of one seed, that with the best average of dev
    scores over tasks (A.1.3). A model whose weights were not kept is trained again. GLUE's server scores the file; what
    the paper printed (Table 2) is shown beside it.
    """
    from supertickets.studies.submit import submit as predict

    with _stoppable():
        made = predict(folders, data, out, fill, device, dense, quiet=False)
    if as_json:
        said = {"path": str(made.path), "predicted": made.predicted, "filled": made.filled, "chosen": made.chosen}
        typer.echo(json.dumps({**said, "table 2": json.loads(made.table_2.to_json(orient="index"))}))
        return
    typer.echo(f"{made.path}: predicted {', '.join(made.predicted) or 'nothing'}.")
    typer.echo(made.chosen)
    if not made.table_2.empty:
        _print_table(made.table_2.reset_index(names="model"), "GLUE's test sets in the paper (Table 2)")
    if made.filled:
        typer.echo(f"Filled with one label each, so their scores mean nothing: {', '.join(made.filled)}.", err=True)


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
    """Put a shared ticket on its pre-trained base model and save the encoder: smaller, or with zeros.

    A ticket of heads and FFNs is cut out of it; one of single weights leaves a plain model with zeros in it.
    """
    from supertickets.export.apply import apply_ticket

    made = apply_ticket(ticket, model, out, any_base)
    for notice in made["notices"]:
        typer.echo(notice, err=True)
    if as_json:
        typer.echo(json.dumps(made))
    else:
        share = made["parameters"] / made["dense_parameters"]
        typer.echo(f"{made['folder']}: {made['parameters']:,} parameters, {share:.1%} of the dense model's.")


@app.command("import-masks")
def import_masks(
    masks: Annotated[
        Path, typer.Argument(help="file with masks, such as a state dict: .pt, .pth, .bin, .ckpt, .safetensors, .npz")
    ],
    task: Annotated[str, typer.Option(help="the task that they were found on")],
    model: Annotated[str, typer.Option(help="the base model that they are of; such files do not say")],
    out: Annotated[Path, typer.Option(help="ticket folder to write")] = Path("ticket"),
    zeros: Annotated[
        bool, typer.Option("--zeros", help="if there are no masks in the file, take the zeros of its weights as pruned")
    ] = False,
) -> None:
    """Make a ticket folder of a file of masks: torch.nn.utils.prune's, nni's, or 0 and 1 under the weights' names.

    A checkpoint may have them at any depth and under any prefix. What is not used is listed, and nothing is run.
    """
    from supertickets.export.weights import import_masks as make

    made = make(masks, model, task, out, zeros)
    ticket = made.ticket
    typer.echo(f"{out}: {ticket.kept:,} of {ticket.total:,} weights stay in {len(ticket.masks)} matrices; "
               f"{ticket.sparsity:.2%} are pruned.")  # fmt: skip
    for note in made.notes:
        typer.echo(note)


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
    typer.echo(f"{folder}: {found['title']} on {found['model']}, {found['state']}; {_size(found['bytes'])} on disk.")
    if found["first"]:
        typer.echo(f"It finds its tickets first: see `supertickets status` of {', '.join(found['first'])}.")
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
