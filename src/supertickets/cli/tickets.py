"""Commands that take tickets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from supertickets.cli.printing import AS_JSON, FOLDER


@click.command()
@click.argument("ticket", type=FOLDER)
@click.option("--model", help="base model [default: the one named in the ticket]")
@click.option("--out", type=FOLDER, default=Path("small-model"), help="folder for the small model", show_default=True)
@click.option(
    "--any-base", is_flag=True, help="accept a base model whose weights differ from those the ticket was drawn from"
)
@AS_JSON
def apply(ticket: Path, model: str | None, out: Path, any_base: bool, as_json: bool) -> None:
    """Apply a ticket to its pre-trained base model and save the smaller encoder.

    TICKET is a ticket folder, or a repository on the hub (org/name or org/name@revision). A ticket of heads and FFNs
    gives a smaller model; a ticket of single weights gives a model of the same size in which the pruned weights are
    zero. `export` writes other formats, and trained models.
    """
    from supertickets.export.apply import apply_ticket

    made = apply_ticket(ticket, model, out, any_base)
    for notice in made["notices"]:
        click.echo(notice, err=True)
    if as_json:
        click.echo(json.dumps(made))
    else:
        kept, dense = made["parameters"], made["dense_parameters"]
        said = f"{kept:,} parameters, {kept / dense:.1%} of the dense model's."
        if made.get("zeros"):
            said = f"{kept:,} of {dense:,} parameters are not zero ({kept / dense:.1%})."
        click.echo(f"{made['folder']}: {said}")


@click.command()
@click.argument("path")
@click.option("--to", required=True, help="the format: onnx, dense, transformers or ticket")
@click.option("--out", type=FOLDER, help="folder to write [default: exported-FORMAT]")
@click.option("--model", help="base model of a ticket without a trained model [default: the one named in the ticket]")
@click.option(
    "--any-base", is_flag=True, help="accept a base model whose weights differ from those the ticket was drawn from"
)
@click.option("--int8", is_flag=True, help="with `--to onnx`: write a file with 8-bit weights too")
@click.option(
    "--vocabulary",
    default="all",
    show_default=True,
    help="tokens that the model keeps: all; those used by the study's task (used); or those of --corpus (corpus)",
)
@click.option("--corpus", type=FOLDER, help="text file with a text in each line, for `--vocabulary corpus`")
@AS_JSON
def export(path: str, to: str, as_json: bool, **options: Any) -> None:
    """Write a model in a format that runs elsewhere.

    PATH is a finished study's folder (its trained model of the super ticket), a ticket folder (its trained model, or
    without one the ticket on its pre-trained base model), or a model: a folder, a model id on the hub, or `default`.

    Formats: `onnx` (encoders only) is a model for onnxruntime with dynamic batch size and length, with tokenizer,
    labels and an example that needs neither transformers nor supertickets. `dense` has the dense model's shape with
    zeros for what the ticket lacks, so that transformers loads it without supertickets. `transformers` is the small
    model, which loads after `import supertickets`. `ticket` is the ticket folder without a model. Other packages can
    add formats.

    With `--vocabulary` embeddings of tokens that the texts do not need are left out: on these texts the model computes
    the same, and in others, words of which tokens are missing are split into shorter ones.

    The exported model's outputs on 100 texts are compared with the original's, and the folder is written only if they
    agree.
    """
    from supertickets.studies.exporting import export_model

    made = export_model(path, to, **options)
    for notice in made["notices"]:
        click.echo(notice, err=True)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"{made['folder']}: {made['what']}; {made['bytes'] / 1e6:,.1f} MB.")
    for sentence in made.get("said", []):
        click.echo(sentence)


@click.command()
@click.argument("study", type=FOLDER)
@click.option("--target", help="what the smaller model may cost at most, as for `find`: parameters=0.8, size=70MB, ...")
@click.option(
    "--latency-of", help="BATCHxTOKENS that --target latency is measured with, such as 1x128 [default: the study's]"
)
@click.option("--level", help="in place of --target, a level as for `find --levels`: 0.3, heads=0.1+neurons=0.2, ...")
@click.option("--structures", help="kinds of structures to prune [default: the study's]")
@click.option(
    "--seed", type=int, help="seed whose importance scores are used [default: the mean of all seeds that have them]"
)
@click.option("--out", type=FOLDER, default=Path("ticket"), help="ticket folder to write", show_default=True)
@AS_JSON
def draw(
    study: Path,
    target: str | None,
    latency_of: str | None,
    level: str | None,
    structures: str | None,
    seed: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Draw a ticket from a study's importance scores, without training.

    STUDY is the folder of a study of `find`. With `--target` the ticket keeps the most importance that the target
    allows, with `--level` it is the paper's winning ticket of that level. `apply` prunes the base model to this ticket,
    and `transfer` trains it.
    """
    from supertickets.studies.draw import draw_ticket, said_of

    made = draw_ticket(study, out, target or (), level, seed, structures or (), latency_of)
    ticket = made.pop("ticket")
    if as_json:
        click.echo(json.dumps(made | {"ticket": ticket.as_dict()}))
        return
    click.echo(f"{out}: {ticket!r} keeps {made['kept']:.1%} of the importance.")
    if made["without"]:
        there, not_there = (", ".join(map(str, made[name])) for name in ("seeds", "without"))
        click.echo(f"The scores are those of seeds {there}; the dense runs of seeds {not_there} have none.")
    for one in made["targets"]:
        click.echo(said_of(one))
    if made["gap"] is not None:
        best = "No ticket within this keeps more"
        click.echo(f"{best}." if not made["gap"] else f"{best} than {made['gap']:.2%} above that.")


@click.command()
@click.argument("model")
@click.option("--out", type=FOLDER, default=Path("unshared-model"), help="folder for the model", show_default=True)
@AS_JSON
def unshare(model: str, out: Path, as_json: bool) -> None:
    """Save a model such as ALBERT with weights of its own in each layer.

    MODEL is a folder or a model id on the hub. ALBERT applies the same layers several times, and a ticket of it prunes
    a head each time; in the model that is saved each layer is pruned and trained by itself. It computes the same as
    MODEL, and transformers loads it. Use it with `--model`.
    """
    from supertickets.export.unshare import unshare as save

    folder = save(model, out)
    click.echo(json.dumps({"folder": str(folder)}) if as_json else f"{folder}: a model of layers that share nothing.")


@click.command("import-masks")
@click.argument("masks", type=FOLDER)
@click.option("--task", required=True, help="task that the masks were found on")
@click.option("--model", required=True, help="base model of the masks; mask files do not name it")
@click.option("--out", type=FOLDER, default=Path("ticket"), help="ticket folder to write", show_default=True)
@click.option(
    "--zeros", is_flag=True, help="the file has a pruned model's weights instead of masks: treat zeros as pruned"
)
@AS_JSON
def import_masks(masks: Path, task: str, model: str, out: Path, zeros: bool, as_json: bool) -> None:
    """Convert a file of pruning masks into a ticket folder.

    MASKS is a file such as a state dict (.pt, .pth, .bin, .ckpt, .safetensors, .npz, .npy) with masks from
    torch.nn.utils.prune or nni, or with 0 and 1 under the names of the weights, at any depth and under any prefix.
    Entries of the file that are not used are listed. No code in the file is run.
    """
    from supertickets.export.weights import import_masks as make

    made = make(masks, model, task, out, zeros)
    ticket = made.ticket
    if as_json:
        counts = {"kept": ticket.kept, "weights": ticket.total, "matrices": len(ticket.masks)}
        click.echo(json.dumps({"ticket": str(out), **counts, "sparsity": ticket.sparsity, "notes": made.notes}))
        return
    click.echo(
        f"{out}: the ticket keeps {ticket.kept:,} of {ticket.total:,} weights in {len(ticket.masks)} matrices; "
        f"{ticket.sparsity:.2%} are pruned."
    )
    for note in made.notes:
        click.echo(note)
