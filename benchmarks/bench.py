"""Measure what users wait for, beside what they would use instead, and write it down.

    python benchmarks/bench.py                 # all of it, into benchmarks/bench.json and docs/speed.md
    python benchmarks/bench.py step importance # only these; the others stay as they were

Each of benchmarks/arms is measured in a process of its own, with nothing beside it. What is compared takes turns in
one run, but where an arm says otherwise, so that other load slows all of it equally: only ratios carry over to other
machines. File and page are written after each arm; `--page` writes the page again from the file.
"""

import argparse
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arms
from figures import Figure, rounded

FOLDER = Path(__file__).resolve().parent
KEPT, PAGE = FOLDER / "bench.json", FOLDER.parent / "docs" / "speed.md"
ARMS = tuple(module.name for module in pkgutil.iter_modules(arms.__path__))
PACKAGES = ("supertickets", "torch", "transformers", "numpy")


def about() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    from supertickets.training.devices import describe_devices, device_name

    where = {"processor": device_name(torch.device("cpu")), "has": describe_devices()}
    return {"date": datetime.now(UTC).date().isoformat(), **where, **{name: version(name) for name in PACKAGES}}


def measured(names: Sequence[str], smallest: bool) -> dict[str, list[dict[str, Any]]]:
    """Measure arms in a process of their own; raises SystemExit where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [sys.executable, __file__, *names, "--into", str(result)]
        where = os.environ | ({"SUPERTICKETS_BENCH_MODEL": str(tiny_model(Path(folder)))} if smallest else {})
        done = subprocess.run([*command, *(["--smallest"] if smallest else [])], check=False, env=where)
        if done.returncode:
            raise SystemExit(f"{', '.join(names)}: measuring has failed (exit code {done.returncode}); see above.")
        found: dict[str, list[dict[str, Any]]] = json.loads(result.read_text(encoding="utf-8"))
    return found


def tiny_model(folder: Path) -> Path:
    """Save a tiny encoder with random weights."""
    sys.path.insert(0, str(FOLDER.parent / "tests"))
    from helpers.models import save_tiny_model

    return save_tiny_model(folder / "model")


def page(kept: dict[str, Any]) -> str:
    """The page that shows what was measured."""
    lines = [
        "# Speed",
        "",
        "`make bench` measured this on the machine below each table, which ran little else and whose speed varies:",
        "medians, with the quartiles of what was measured more than once. What is compared runs in turns, but where it",
        "says otherwise, so that ratios depend on the machine less than times do. A goal that was missed is marked",
        "**missed**.",
        "",
    ]
    if missing := [name for name in ARMS if name not in kept]:
        lines += [f"Not measured yet: `python benchmarks/bench.py {' '.join(missing)}`.", ""]
    for name in sorted(kept):
        arm, of = kept[name], kept[name]["about"]
        lines += [f"## {arm['title']}", "", *arm["text"], "", "| | median | quartiles | goal |", "|---|---|---|---|"]
        for one in (Figure(**values) for values in arm["figures"]):
            unit = {"": "", "x": " times"}.get(one.unit, f" {one.unit}")
            spread = "" if one.low is None or one.pairs < 2 else f"{rounded(one.low)} to {rounded(one.high)}"
            lines.append(f"| {one.name} | {rounded(one.value)}{unit} | {spread} | {_goal(one)} |")
        versions = ", ".join(f"{package} {of[package]}" for package in PACKAGES)
        lines += ["", f"{of['date']}; {of['processor']}, {of['has']}; {versions}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _goal(one: Figure) -> str:
    if one.met is None:
        return ""
    asked = f"at most {rounded(one.at_most)}" if one.at_most is not None else f"at least {rounded(one.at_least)}"
    return asked if one.met else f"**missed**: {asked}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"what to measure (default: all of {', '.join(ARMS)})")
    parser.add_argument("--out", type=Path, default=KEPT, help="the file of figures (default: benchmarks/bench.json)")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument(
        "--smallest", action="store_true", help="a tiny encoder, and as little as there can be, onto the screen"
    )
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        found = {name: import_module(f"arms.{name}").figures(options.smallest) for name in options.arms}
        told = {name: [figure.as_dict() for figure in figures] for name, figures in found.items()}
        options.into.write_text(json.dumps(told), encoding="utf-8")
        return
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; expected some of {', '.join(ARMS)}")
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() and not options.smallest else {}
    asked = () if options.page else options.arms or ARMS
    small = measured(asked, smallest=True) if options.smallest else {}  # all in one process
    shown = PAGE if options.out == KEPT else options.out.with_suffix(".md")
    for name in asked:
        title, _, text = (import_module(f"arms.{name}").__doc__ or "").strip().partition("\n\n")
        figures = small[name] if options.smallest else measured([name], smallest=False)[name]
        kept[name] = {"title": title.rstrip("."), "text": text.splitlines(), "about": about(), "figures": figures}
        for one in (Figure(**values) for values in figures):
            print(f"{name}: {one.name}: {rounded(one.value)} {one.unit} {_goal(one)}".rstrip(), flush=True)
        if not options.smallest:
            options.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            shown.write_text(page(kept), encoding="utf-8")
    if options.page and not options.smallest:
        shown.write_text(page(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
