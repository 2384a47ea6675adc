"""The command that measures what models cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from supertickets.cli.printing import AS_JSON, FOLDER, print_table
from supertickets.studies.measure import BATCH_SIZES, REPEATS


class Numbers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers; fails for anything else."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,32", param, ctx)


@click.command()
@click.argument("path")
@click.option("--model", help="base model of a ticket [default: the one named in the ticket]")
@click.option(
    "--any-base", is_flag=True, help="accept a base model whose weights differ from those the ticket was drawn from"
)
@click.option(
    "--batch-sizes",
    type=Numbers(),
    default=",".join(map(str, BATCH_SIZES)),
    help="numbers of texts in a batch",
    show_default=True,
)
@click.option(
    "--lengths",
    type=Numbers(),
    help="numbers of tokens in a text [default: 16,128, or as many as the model can read]",
)
@click.option("--threads", type=int, default=1, help="number of CPU threads", show_default=True)
@click.option("--device", default="auto", help="auto, cpu, cuda, ...", show_default=True)
@click.option(
    "--precision",
    help="precision of the forward pass: float32 or bfloat16 [default: that of the ticket's training; float32 for a "
    "model]",
)
@click.option(
    "--repeats", type=int, default=REPEATS, help="number of times that each model computes a batch", show_default=True
)
@click.option("--out", type=FOLDER, help="JSON file to write")
@AS_JSON
def measure(path: str, as_json: bool, out: Path | None, **options: Any) -> None:
    """Measure the time, memory and size of a model and of its ticket.

    PATH is a model (a folder, a model id on the hub, or `default`), a ticket (a folder, or org/name or
    org/name@revision on the hub), or the folder of a finished study of `find`. For a ticket, the dense encoder and the
    one that is cut to the ticket take turns, so that other load on the machine slows both; medians and quartiles are
    printed, and the quartiles of the ratio of each pair. Texts have random tokens and no padding; there is no output
    layer. Memory is the peak of a new process that loads the model and computes the largest batch, without what it uses
    after its imports. For a study, the result is also written into its folder (measured.json) and shown in its report.
    """
    from supertickets.evidence.measured import size_table, throughput_table, time_table
    from supertickets.lab.measured import MEASURED
    from supertickets.studies.measure import measure as take

    made = take(path, out=out, **options)
    if as_json:
        click.echo(made.as_json(), nl=False)
        return
    print_table(time_table(made), "a forward pass")
    print_table(throughput_table(made), "throughput")
    print_table(size_table(made), "size")
    click.echo(made.machine())
    if out is not None:
        click.echo(f"written: {out}")
    elif made.trial is not None and (Path(path).expanduser() / MEASURED).is_file():
        click.echo(f"written: {Path(path) / MEASURED}")
