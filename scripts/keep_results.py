"""Keep what came out of finished studies of `find`, small enough for a repository: one folder each.

    python scripts/keep_results.py runs/sst2-narrow --out results

A folder has `settings.yaml` (without names of places), `results.csv`, `verdict.txt` as it was printed, and
`outcomes.safetensors`: each run's loss and prediction for each dev example at each epoch (see
`supertickets.evidence.recorded`). There are no texts and no weights in it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from record_grid import finished, tiny_study

from supertickets.errors import TicketError
from supertickets.evidence.examples import plain
from supertickets.evidence.recorded import record_runs
from supertickets.storage import write_atomically
from supertickets.studies.pages import as_csv

PLACES = ("out", "data", "train_file", "dev_file", "address", "track")
"""Settings that say where things are on a machine."""


def keep(folder: Path, out: Path) -> list[Path]:
    """Write what a finished study shows; raises TicketError for one that is not finished or of another kind."""
    opened, runs = finished(folder)
    findings = opened.study.analyse(runs, opened.settings)
    said = {name: value for name, value in opened.settings.model_dump(mode="json").items() if name not in PLACES}
    write_atomically(out / "settings.yaml", yaml.safe_dump(said, sort_keys=False))
    write_atomically(out / "results.csv", as_csv(plain(findings.runs)))
    write_atomically(out / "verdict.txt", "\n".join(findings.sentences) + "\n")
    record_runs(runs).save(out / "outcomes.safetensors")
    return sorted(out.iterdir())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="folders of finished studies of `find`")
    parser.add_argument("--out", type=Path, help="folder for the results; each is named after its study's folder")
    parser.add_argument("--smallest", action="store_true", help="a tiny study, in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.smallest:
            options.studies, options.out = [tiny_study(Path(temporary))], Path(temporary) / "results"
        if not options.studies or options.out is None:
            parser.error("expected one STUDY or more, and --out")
        for folder in options.studies:
            try:
                files = keep(folder, options.out / folder.absolute().name)
            except TicketError as error:
                print(error, file=sys.stderr)
                return 2
            print(*(f"{path.name}: {path.stat().st_size / 1e6:.3f} MB" for path in files), sep=", ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
