"""Commands that read finished or unfinished studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from supertickets.cli.printing import AS_JSON, FOLDER, print_table, records
from supertickets.cli.study import stoppable


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option(
    "--out", type=FOLDER, help="folder for the page [default: the study's folder; for several studies runs/report]"
)
@AS_JSON
def report(folders: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one page about several studies, with the paper's tables.

    FOLDERS are the output folders of studies, finished or not; nothing is run. Several studies must be studies of
    `find`; the page then has their average over tasks, and for studies of one task on different fractions of its
    training set or numbers of layers (--fraction, --layers) a test whether gains differ by that. Tables are also
    written as CSV, Markdown and LaTeX.
    """
    from supertickets.studies.report import report as write

    made = write(folders, out)
    if as_json:
        said: dict[str, Any] = {"report": str(made.page), "average": made.average.sentence()}
        said |= {"verdicts": dict(made.verdicts), "trends": [trend.sentence() for trend in made.trends]}
        click.echo(json.dumps({**said, "tables": records(made.tables)}))
        return
    for name, verdict in made.verdicts.items():
        click.echo(f"{name}: {verdict}\n")
    if len(made.verdicts) > 1:
        click.echo(made.average.sentence())
    for trend in made.trends:
        click.echo(trend.sentence())
    click.echo(f"report: {made.page}")


@click.command()
@click.argument("folder", type=FOLDER)
@AS_JSON
def status(folder: Path, as_json: bool) -> None:
    """Show the progress of a study.

    Prints how many trainings are done, running and failed, the time left, and the disk space that FOLDER takes.
    """
    from supertickets.lab.progress import describe, describe_running, size
    from supertickets.studies.folder import status as look

    found = look(folder)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{folder}: {found['title']} on {found['model']}, {found['state']}; {size(found['bytes'])} on disk.")
    click.echo(describe(found))
    if found["standing"]:
        click.echo(found["standing"])
    for line in found["running"]:
        click.echo(f"  {line['name']}: {describe_running(line)}")
    for name, reason in found["failures"].items():
        click.echo(f"  {name} failed: {reason}")
    if found["jobs"]:
        on = "" if found["holder"] else "; the same command again attaches to those that still run"
        click.echo(f"Slurm jobs that have not told their end: {', '.join(found['jobs'])}{on}.")
    if found["holder"]:
        click.echo("It runs in process {pid} on {host} since {since}.".format(**found["holder"]))


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--dry-run", "dry", is_flag=True, help="print what would be deleted; delete nothing")
@AS_JSON
def clean(folder: Path, dry: bool, as_json: bool) -> None:
    """Delete trained weights and checkpoints that no later step needs.

    Results, tickets and shipped models in FOLDER stay.
    """
    from supertickets.lab.progress import size
    from supertickets.studies.folder import clean as sweep
    from supertickets.tasks.tables import counted

    found = sweep(folder, dry)
    if as_json:
        click.echo(json.dumps(found))
        return
    words = ("would delete", "free") if dry else ("deleted", "freed")
    counts = f"{words[0]} {counted(len(found['files']), 'file')} and {words[1]} {size(found['freed'])}"
    click.echo(f"{folder}: {counts}; {size(found['bytes'])} remain.")


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--data", type=FOLDER, help="folder with GLUE's TSV files [default: the --data of the studies]")
@click.option("--out", type=FOLDER, default=Path("submission.zip"), help="zip file to write", show_default=True)
@click.option("--fill", is_flag=True, help="write a constant label for test sets without a study or test file")
@click.option("--dense", is_flag=True, help="predict with dense models instead of super tickets")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...", show_default=True)
@AS_JSON
def submit(folders: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Predict GLUE's test sets and write a submission.

    FOLDERS are the output folders of finished studies of `find` on GLUE tasks. The submission is a zip file of eleven
    files, whose format is checked. If the studies share seeds, all tasks are predicted by the super tickets of the seed
    with the best average dev score (A.1.3). A model whose weights were not kept is trained again. GLUE's server scores
    the file; the paper's Table 2 is printed for comparison.
    """
    from supertickets.studies.submit import submit as predict

    with stoppable():
        made = predict(folders, quiet=False, **options)
    if as_json:
        said = {"path": str(made.path), "predicted": made.predicted, "filled": made.filled, "chosen": made.chosen}
        click.echo(json.dumps({**said, **records({"table 2": made.table_2})}))
        return
    click.echo(f"{made.path}: predicted {', '.join(made.predicted) or 'nothing'}.")
    click.echo(made.chosen)
    if not made.table_2.empty:
        print_table(made.table_2, "GLUE's test sets in the paper (Table 2)")
    if made.filled:
        click.echo(
            f"Filled with a constant label, so their scores on GLUE's server mean nothing: {', '.join(made.filled)}.",
            err=True,
        )
