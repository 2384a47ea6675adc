"""Draw the scores of kept studies by level, for the README and the site: an SVG for light pages, one for dark ones.

    python scripts/draw_results.py results/sst2-500-all-controls results/cola-8-levels --out docs/assets/phases

Points are means over seeds, bars their standard deviation; the line and the band are the dense model's. No number is
written by hand: they are those of each folder's `results.csv`, whose hash is noted in the SVG.
"""

import argparse
import hashlib
import re
import tempfile
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from supertickets.evidence.recorded import RecordedGrid
from supertickets.tickets.kinds import NAMES

ROOT = Path(__file__).resolve().parents[1]
STYLES = {"winning": ("#1f77b4", "o", "-"), "random": ("#7f7f7f", "s", "--"), "losing": ("#d62728", "^", ":")}
TASKS = {"sst2": "SST-2", "cola": "CoLA", "rte": "RTE", "stsb": "STS-B", "qnli": "QNLI", "mnli": "MNLI"}
MEASURED = {"matthews": "Matthews correlation", "accuracy": "accuracy", "pearson": "Pearson and Spearman, mean"}
INK = {"light": "#222222", "dark": "#dddddd"}


def draw(folder: Path, axes: Axes, ink: str) -> None:
    """Draw one study."""
    runs, about = pd.read_csv(folder / "results.csv"), RecordedGrid.load(folder / "outcomes.safetensors").about
    if "stage" in runs:  # soups, other learning rates, what a search has looked at
        runs = runs[runs.stage.isna()]
    dense = runs[runs.kind == "dense"].score
    axes.axhspan(dense.mean() - dense.std(), dense.mean() + dense.std(), color=ink, alpha=0.08, lw=0)
    axes.axhline(dense.mean(), color=ink, lw=1, label="dense")
    for place, (kind, (colour, marker, line)) in enumerate(STYLES.items()):
        if not (of_kind := runs[runs.kind == kind]).empty:
            found = of_kind.groupby("level").score.agg(["mean", "std"])
            axes.errorbar(
                found.index * 100 + place - 1,  # beside each other
                found["mean"],
                found["std"],
                color=colour,
                marker=marker,
                ls=line,
                lw=1.4,
                ms=4,
                capsize=2,
                elinewidth=0.8,
                label=kind,
            )
    title = f"{TASKS.get(about['task'], about['task'])}, {about['train']:,} training examples, {len(dense)} seeds"
    axes.set_title(title, fontsize=9, color=ink)
    axes.set_xlabel(f"{' and '.join(NAMES[kind] for kind in about['structures'])} pruned (%)", fontsize=8, color=ink)
    axes.set_ylabel(f"{MEASURED.get(about['metrics'][0], about['metrics'][0])} on dev", fontsize=8, color=ink)
    axes.tick_params(labelsize=8, colors=ink)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.legend(fontsize=7, frameon=False, labelcolor=ink, loc="lower left")


def digest(folder: Path) -> str:
    """Return the hash of a study's results, by which a picture is known to be of them."""
    return hashlib.sha256((folder / "results.csv").read_bytes()).hexdigest()


def figure(folders: list[Path], theme: str) -> Figure:
    """Return the studies side by side, three in a row."""
    columns = min(len(folders), 3)
    rows = -(-len(folders) // columns)
    made = Figure(figsize=(4.2 * columns, 3 * rows), layout="constrained")
    places = made.subplots(rows, columns, squeeze=False).ravel()
    for folder, axes in zip(folders, places, strict=False):
        axes.patch.set_alpha(0)
        draw(folder, axes, INK[theme])
    for axes in places[len(folders) :]:
        axes.set_axis_off()
    made.patch.set_alpha(0)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="RESULT", help="folders of scripts/keep_results.py")
    parser.add_argument("--out", type=Path, help="the files' name, without -light.svg and -dark.svg")
    parser.add_argument("--smallest", action="store_true", help="one study, into a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.smallest:
            options.studies, options.out = [ROOT / "results" / "sst2-500-all-controls"], Path(temporary) / "phases"
        if not options.studies or options.out is None:
            parser.error("expected one RESULT or more, and --out")
        source = "; ".join(f"{folder.name} {digest(folder)}" for folder in options.studies)
        for theme in INK:
            path = options.out.with_name(f"{options.out.name}-{theme}.svg")
            # Without a date and with fixed names, so that the same studies give the same bytes.
            with mpl.rc_context({"svg.hashsalt": "supertickets", "svg.fonttype": "none", "font.family": "sans-serif"}):
                figure(options.studies, theme).savefig(path, metadata={"Date": None, "Source": source})
            drawn = len(re.findall(r'id="LineCollection_', path.read_text(encoding="utf-8")))
            print(f"{path.name}: {drawn} lines with bars, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
