"""Turn finished studies of `find` into recorded grids, one small file each, to try search methods on.

    python scripts/record_grid.py runs/rte runs/cola --out benchmarks/grids

A grid has every run's scores, and its loss and prediction for each dev example at each epoch (see
`supertickets.evidence.recorded`); texts and weights are not in it. The importance of heads and FFNs is recorded too,
after each epoch and over shares of the training examples, and with which share `--score-examples settled` would have
ended: for that each dense model is trained once more, and its predictions and final scores must equal the stored ones
in every bit, or nothing is written. Use the same device as the study, or --no-importance.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from supertickets.errors import TicketError
from supertickets.evidence.recorded import RecordedGrid, RecordedImportance, record_runs
from supertickets.evidence.runs import DENSE, Runs
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import Outcome
from supertickets.lab.workbench import Workbench
from supertickets.studies.inputs import OpenStudy, open_study
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.devices import undisturbed
from supertickets.training.loop import Trainer
from supertickets.training.scoring import parts_of, score, score_now

ROOT = Path(__file__).resolve().parents[1]


def importance_of(outcome: Outcome, bench: Workbench) -> tuple[list[RecordedImportance], float | None]:
    """Return a dense run's importance after each epoch, over shares of the training examples and over all of them.

    The number is the share after which it is settled; None for measures that are no means over examples. Trains the
    model again; raises TicketError if that does not come to the same predictions and scores.
    """
    trial, found = outcome.trial, list[RecordedImportance]()
    assert trial.scoring is not None
    with tempfile.TemporaryDirectory() as folder, undisturbed(trial.recipe.threads):
        job = Job(trial, Path(folder), False, "dense")

        def start() -> PreTrainedModel:
            return bench.trainer(job).learners[0].model

        trainer = bench.trainer(job)
        an_epoch = trainer.total // trial.recipe.epochs
        for event in trainer.steps():
            if "metrics" not in event and event["step"] % an_epoch == 0:
                found += _after_epoch(trainer, trial.scoring, start, trial.seed, event["step"] // an_epoch)
        final = score(trainer, trial.scoring, start)
        settled = None if trial.scoring.never_settles else _settled(trainer, trial.scoring, start)
        (outputs,) = (np.stack(splits["dev"]) for splits in trainer.result.predictions.values())
    same = all(np.array_equal(final[kind], stored) for kind, stored in outcome.scores().items())
    if not same or not np.array_equal(outputs, outcome.predictions()["dev"]):
        what = "scores" if not same else "predictions"
        raise TicketError(
            f"{outcome.folder}: trained again, the dense run of seed {trial.seed} has other {what}; record the grid on "
            "the device and with the versions that the study ran with, or with --no-importance."
        )
    return found, settled


def _settled(trainer: Trainer, settings: ScoringSettings, start: Callable[[], PreTrainedModel]) -> float:
    score(trainer, settings.model_copy(update={"score_examples": "settled"}), start)
    assert trainer.result.scored_on is not None
    used, there = trainer.result.scored_on
    return used / there


def _after_epoch(
    trainer: Trainer, settings: ScoringSettings, start: Callable[[], PreTrainedModel], seed: int, epoch: int
) -> list[RecordedImportance]:
    whole = settings.model_copy(update={"score_examples": "all"})
    found = [RecordedImportance(seed, epoch, 1.0, score_now(trainer, whole, start))]
    if settings.is_mean:
        ends = [*accumulate(sum(map(len, part)) for part in parts_of(trainer))]
        for parts, end in enumerate(ends[:-1], start=1):
            scores = score_now(trainer, whole, start, parts)
            found.append(RecordedImportance(seed, epoch, end / ends[-1], scores))
    return found


def finished(folder: Path, of_find: bool = True) -> tuple[OpenStudy, Runs]:
    """Return a finished study with its runs; raises TicketError if it is not finished, or, `of_find`, not of `find`."""
    opened = open_study(folder)
    if of_find and opened.name != "find":
        raise TicketError(f"{folder}: a study of `{opened.name}` has no grid; expected one of `find`.")
    runs = opened.replay()
    if not runs.complete:
        raise TicketError(f"{folder}: the study is not finished; run its command again first.")
    return opened, runs


def record(folder: Path, device: str, importance: bool = True) -> RecordedGrid:
    """Return the grid of a finished study; raises TicketError if there is none, or if it is not finished."""
    _, runs = finished(folder)
    # Without checkpoints: a second model of the same training, to measure its beginning, would go on from one.
    bench = Workbench(device, checkpoint_every=math.inf)
    found, settled = list[RecordedImportance](), dict[int, float]()
    for outcome in _dense(runs) if importance else []:
        measured, share = importance_of(outcome, bench)
        found += measured
        settled |= {} if share is None else {outcome.trial.seed: share}
    return record_runs(runs, found, settled)


def _dense(runs: Runs) -> list[Outcome]:
    return [run.result for run in runs.only(stage=None).where(kind=DENSE) if run.result.trial.scoring is not None]


def tiny_study(folder: Path) -> Path:
    """Run a study of a tiny random model and return its folder."""
    sys.path.insert(0, str(ROOT / "tests"))
    import supertickets
    from helpers.models import save_tiny_model
    from helpers.trials import write_words

    files = {
        f"{name}_file": write_words(folder / f"{name}.jsonl", 48, seed) for seed, name in enumerate(("train", "dev"))
    }
    asked = {"levels": "0.3,0.6", "seeds": 1, "epochs": 2, "batch_size": 8, "max_length": 16, "precision": "float32"}
    model = str(save_tiny_model(folder / "model"))
    supertickets.find(asked, **files, model=model, workers=1, device="cpu", out=folder / "study")
    return folder / "study"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="folders of finished studies of `find`")
    parser.add_argument("--out", type=Path, help="folder for the grids; each is named after its study's folder")
    parser.add_argument("--device", default="auto", help="where dense models are trained again (default: auto)")
    parser.add_argument("--no-importance", action="store_true", help="train nothing, record no importance")
    parser.add_argument(
        "--smallest", action="store_true", help="a tiny study, which is run first, in a temporary folder"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.smallest:
            options.studies, options.device = [tiny_study(Path(temporary))], "cpu"
            options.out = options.out or Path(temporary) / "grids"
        if not options.studies or options.out is None:
            parser.error("expected one STUDY or more, and --out")
        names = [folder.absolute().name for folder in options.studies]
        if len(set(names)) < len(names):
            parser.error(f"two studies are in folders of the same name, after which their grids are named: {names}")
        options.out.mkdir(parents=True, exist_ok=True)
        for name, folder in zip(names, options.studies, strict=True):
            try:
                grid = record(folder, options.device, not options.no_importance)
            except TicketError as error:
                print(error, file=sys.stderr)
                return 2
            path = options.out / f"{name}.safetensors"
            grid.save(path)
            print(
                f"{path}: {len(grid.runs)} runs, {len(grid.importance)} measurements of importance, "
                f"{path.stat().st_size / 1e6:.2f} MB"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
