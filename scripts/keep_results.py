"""Keep what came out of finished studies, small enough for a repository: one folder each.

    python scripts/keep_results.py runs/sst2-narrow --out results

A folder has `settings.yaml` (without names of places), `results.csv`, `tables/`, `verdict.txt` as it was printed,
`report.pdf` (the study's page, printed by Chromium), and of `find` also `outcomes.safetensors`: the loss and prediction
of each dense run and ticket for each dev example at each epoch (see `supertickets.evidence.recorded`), where these can
be recorded. There are no texts and no weights in it.

    python scripts/keep_results.py runs/rte-taught --beside runs/rte --out results

also writes `tables/beside-rte.csv`: what each kind and level of tickets gains over the same seeds' of another study of
the task, which differs by a setting such as --teacher.

    python scripts/keep_results.py runs/rte-random --beside results/rte --out results

does so with a study that was kept here, of the same dense runs and other kinds of tickets: what its winning tickets
gain over this one's others at each level, and on average over the light levels (in the row without a level).

    python scripts/keep_results.py runs/rte --unfinished --out results/unfinished

keeps the trainings that a study has finished so far: copy the folder back to where studies are, and run the study's
command again with the copy as --out; these trainings are not repeated. Name model and data by relative paths in such a
study: each training notes them. Trainings that start from others, or learn from them, note absolute paths; studies with
such trainings are refused.
"""

import argparse
import html
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from record_grid import finished, tiny_study

from supertickets.errors import TicketError
from supertickets.evidence.examples import BY_EXAMPLE, plain
from supertickets.evidence.gains import paired_gains
from supertickets.evidence.phases import find_phases
from supertickets.evidence.recorded import RecordedGrid, RecordedRun, record_runs
from supertickets.evidence.runs import DENSE, TASKS
from supertickets.lab.outcome import OUTCOME, WEIGHTS, load_outcome
from supertickets.storage import write_atomically
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.inputs import open_study
from supertickets.studies.looks import LOOKS
from supertickets.studies.pages import REPORT, TABLES, as_csv, write_findings, write_tables
from supertickets.studies.study import INPUTS
from supertickets.studies.transfer import MASKS
from supertickets.tickets.drawing import KINDS

OUTCOMES = "outcomes.safetensors"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PLACES = ("out", "data", "train_file", "dev_file", "address", "track")
"""Settings that say where things are on a machine."""
OF_STUDIES = (TASKS, INPUTS, f"{LOOKS}/*.json", f"{MASKS}/*")
"""What a study's folder has beside its trials that decides these, or the verdict."""
_ABSOLUTE = re.compile(r'"(?:model|data|train_file|dev_file|folder|path)": "(/[^"]*)"')


def without_places(page: str, settings: dict[str, Any]) -> str:
    """Return a study's page without where things were on this machine: of absolute paths the last name stays."""
    for value in settings.values():
        for place in value if isinstance(value, list | tuple) else [value]:
            if isinstance(place, str | Path) and Path(place).is_absolute():
                page = page.replace(html.escape(str(place)), html.escape(Path(place).name))
    return page


def print_page(page: Path, out: Path) -> None:
    """Print a page as a PDF, which sites that host code show; without a browser, say that it is not kept."""
    if (browser := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        print(f"{out} is not written: this machine has none of {', '.join(BROWSERS)}.", file=sys.stderr)
        return
    printed = page.with_suffix(".pdf")
    # The sandbox does not start for root; the page is our own, and asks for nothing from elsewhere.
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    options += ["--no-pdf-header-footer", "--virtual-time-budget=10000", f"--print-to-pdf={printed}"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    if done.returncode or not printed.is_file():
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TicketError(f"{out} is not written, as {browser} ended with exit code {done.returncode}: {said}")
    write_atomically(out, printed.read_bytes())


def write_settings(settings: dict[str, Any], out: Path) -> None:
    """Write settings without those that say where things are; of other absolute paths the last name stays."""
    said = {name: _without_place(value) for name, value in settings.items() if name not in PLACES}
    write_atomically(out / SETTINGS_FILE, yaml.safe_dump(said, sort_keys=False))


def _without_place(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_place(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def gains_beside(folder: Path, other: Path) -> pd.DataFrame:
    """Return what a study's tickets gain over another's; raises TicketError if one is unfinished, or of other data."""
    both = [finished(one)[1].only(stage=None) for one in (folder, other)]
    if both[0].task.data_hash != both[1].task.data_hash or both[0].task.train != both[1].task.train:
        raise TicketError(
            f"{other}: its examples are others than those of {folder}; expected a study of the same task."
        )
    runs = pd.concat([runs.table.assign(study=which) for which, runs in enumerate(both)])
    return paired_gains(runs, {"study": 0, "kind": KINDS}, {"study": 1}, ("kind", "level"))


@dataclass(frozen=True)
class Kept:
    """What each dev example contributed to the score of a kept run."""

    values: Any

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples there are."""
        return (len(self.values),)


def same_predictions(grid: RecordedGrid, run: RecordedRun, outputs: Any) -> bool:
    """Return whether outputs predict after each epoch what a kept run does: the same classes, nearly the same numbers.

    Another processor's rounding moves numbers by less than 1 % of the targets' standard deviation; another training
    moves some of them by more than half of it.
    """
    kept = grid.predicted[run.rows]
    if grid.about["classes"]:
        return np.array_equal(kept, outputs.argmax(axis=-1))
    return kept.shape == outputs.shape[:2] and bool(np.abs(kept - outputs[..., 0]).max() < 0.01 * grid.targets.std())


def gains_of_kept(folder: Path, other: Path) -> pd.DataFrame:
    """Return what a kept study's winning tickets gain over those of a study that has the same dense runs."""
    grid, runs = RecordedGrid.load(other / OUTCOMES), finished(folder)[1].only(stage=None)
    rows = list[dict[str, Any]]()
    for one in grid.runs:
        place = one.best_epoch - 1
        values = Kept(grid.contributions(one)[place])
        rows.append({"kind": one.kind, "level": one.level, "seed": one.seed, "score": one.scores[place]})
        rows[-1][BY_EXAMPLE] = values
    for run in runs.where(kind=DENSE):
        was = grid.where(kind=DENSE, seed=run.step.labels["seed"])
        if not was or not same_predictions(grid, was[0], run.result.predictions()["dev"]):
            raise TicketError(
                f"{other}: its dense run of seed {run.step.labels['seed']} is another one than {folder}'s."
            )
    table = runs.table[runs.table["kind"].isin(set(KINDS) - {one.kind for one in grid.runs})]
    both = pd.concat([pd.DataFrame(rows), table[["kind", "level", "seed", "score", BY_EXAMPLE]]])
    kinds = list(dict.fromkeys(table["kind"]))
    by_level = [
        paired_gains(both, {"kind": "winning"}, {"kind": kind}, ("level",)).assign(over_kind=kind).query("seeds > 0")
        for kind in kinds
    ]
    light = [
        {"over_kind": kind, "difference": test.mean, "low": test.low, "high": test.high, "p": test.p}
        for kind, test in find_phases(both).over.items()
    ]
    return pd.concat([*by_level, pd.DataFrame(light)])


def keep(folder: Path, out: Path, other: Path | None = None) -> list[Path]:
    """Write what a finished study shows; raises TicketError for one that is not finished.

    A study of `find` of which no grid can be recorded is kept without one, and why is printed.
    """
    compared = gains_of_kept if other is not None and (other / OUTCOMES).is_file() else gains_beside
    beside = None if other is None else compared(folder, other)
    opened, runs = finished(folder, of_find=False)
    grid = None
    if opened.name == "find":
        try:
            grid = record_runs(runs)
        except TicketError as error:
            print(f"{error} It is kept without {OUTCOMES}.", file=sys.stderr)
    findings = opened.study.analyse(runs, opened.settings)
    settings = opened.settings.model_dump(mode="json")
    write_settings({"study": opened.name, **settings}, out)
    write_atomically(out / "results.csv", as_csv(plain(findings.runs)))
    write_atomically(out / "verdict.txt", "\n".join(findings.sentences) + "\n")
    write_tables(out / TABLES, findings.tables(), to_print=False)
    if other is not None and beside is not None:
        write_atomically(out / TABLES / f"beside-{other.absolute().name}.csv", as_csv(beside))
    if grid is not None:
        grid.save(out / OUTCOMES)
    with tempfile.TemporaryDirectory() as temporary:
        write_findings(opened.study, runs, findings, Path(temporary))
        page = Path(temporary) / REPORT
        page.write_text(without_places(page.read_text(encoding="utf-8"), settings), encoding="utf-8")
        print_page(page, out / Path(REPORT).with_suffix(".pdf"))
    return sorted(path for path in out.rglob("*") if path.is_file())


def keep_unfinished(folder: Path, out: Path) -> list[Path]:
    """Copy what a study has finished, without weights; raises TicketError if that names a place of this machine."""
    open_study(folder)
    wanted = [path for name in OF_STUDIES for path in sorted(folder.glob(name))]
    for path in sorted(folder.glob(f"trials/*/{OUTCOME}")):
        if (outcome := load_outcome(path.parent)) is not None:  # else it is damaged, and trained again
            wanted += [path, *(path.parent / name for name in outcome.files if name != WEIGHTS)]
    for path in wanted:
        if path.suffix == ".json" and (named := _ABSOLUTE.search(path.read_text(encoding="utf-8"))):
            raise TicketError(
                f"{path}: it names {named[1]}; expected a study whose model and data are named by relative paths, and "
                "whose trainings start from and learn from no others."
            )
    write_settings(yaml.safe_load((folder / SETTINGS_FILE).read_text(encoding="utf-8")), out)
    for path in wanted:
        place = out / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return [out / SETTINGS_FILE, *(out / path.relative_to(folder) for path in wanted)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="folders of finished studies")
    parser.add_argument("--out", type=Path, help="folder for the results; each is named after its study's folder")
    parser.add_argument(
        "--beside", type=Path, metavar="STUDY", help="compare with the same seeds of this finished study"
    )
    parser.add_argument("--unfinished", action="store_true", help="keep what there is, to go on from it elsewhere")
    parser.add_argument("--smallest", action="store_true", help="a tiny study, in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.smallest:
            options.studies, options.out = [tiny_study(Path(temporary))], Path(temporary) / "results"
            options.beside = options.studies[0]
        if not options.studies or options.out is None:
            parser.error("expected one STUDY or more, and --out")
        refused = False
        for folder in options.studies:
            try:
                out = options.out / folder.absolute().name
                files = keep_unfinished(folder, out) if options.unfinished else keep(folder, out, options.beside)
            except TicketError as error:
                print(error, file=sys.stderr)
                refused = True
                continue
            if options.unfinished:
                print(f"{folder.name}: {sum(path.stat().st_size for path in files) / 1e6:.3f} MB, {len(files)} files")
            else:
                print(*(f"{path.name}: {path.stat().st_size / 1e6:.3f} MB" for path in files), sep=", ")
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
