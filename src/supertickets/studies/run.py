"""Running a study of any kind: checked, run in its folder, analysed, written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supertickets.errors import TicketError
from supertickets.evidence.examples import plain
from supertickets.evidence.runs import RESULTS, Runs, TaskInfo, save_tasks, understood
from supertickets.lab.lab import Lab
from supertickets.lab.lock import hold
from supertickets.lab.machine import Machine
from supertickets.lab.steps import Execution
from supertickets.models import BaseModel
from supertickets.storage import write_atomically
from supertickets.studies import STUDIES
from supertickets.studies.checks import check_folder, check_runner, check_tasks
from supertickets.studies.config import merge_overrides, save_settings
from supertickets.studies.exchange import Shipping
from supertickets.studies.looks import remember_look, with_looks
from supertickets.studies.pages import REPORT, as_csv, write_findings
from supertickets.studies.settings import StudySettings
from supertickets.studies.study import Loaded, Request, Study
from supertickets.tasks.tables import counted

if TYPE_CHECKING:
    import pandas as pd

    from supertickets.lab.progress import ProgressDisplay


@dataclass(frozen=True)
class Result:
    """What a study leaves: its folder, what it shows, why trials failed, and where what it shipped lies, by name."""

    folder: Path
    settings: Any
    findings: Any
    failures: Mapping[str, str] = field(default_factory=dict)
    shipped: Mapping[str, Path] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """One row a run (see `evidence.runs.runs_table`)."""
        return plain(self.findings.runs)

    @property
    def verdict(self) -> str:
        """What came out, in words."""
        return str(self.findings.verdict)

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / REPORT


def run_study(
    name: str, config: Mapping[str, Any] | str | Path | None = None, *, quiet: bool = True, **settings: Any
) -> Result:
    """Run a study, or go on with it; the Python call behind its command.

    `name` is the study's (`find`, `share`, ... or one of another package). Takes its settings by name: in `config` (a
    mapping or a YAML file), as keywords, or both (keywords win). What the output folder remembers is not run again.
    Raises TicketError for misuse before anything is written, and StudyError when no training finished.

    >>> result = run_study("find", task="cola", data="glue", levels=(0.1, 0.2), seeds=1)  # doctest: +SKIP
    >>> result.table[["kind", "level", "score"]]  # doctest: +SKIP
    """
    kind = STUDIES[name]
    return conduct(kind, kind.prepare(merge_overrides(kind.settings, config, settings), quiet), quiet)


def conduct(kind: type[Study[Any]], request: Request, quiet: bool) -> Result:
    """Run a prepared study in its folder, and write down what it shows."""
    from rich.console import Console

    from supertickets.lab.progress import ProgressDisplay

    settings, base, tasks = request.settings, request.base, request.tasks
    infos = check_request(kind, request)
    with hold(settings.folder, "--out"):
        settled = check_folder(settings, infos)
        save_settings(settled)
        save_tasks(settled.folder, infos)
        if request.inputs is not None:
            request.inputs.save(settled.folder)
        study = kind(request.inputs)
        machine = machine_of(settled, base, {**request.more_tasks, **tasks})
        display = ProgressDisplay(Console(stderr=True, quiet=quiet), settled.folder)
        runs = _run(study, settled, infos, machine, display, request.note)
        findings = with_looks(study.analyse(runs, settled), settled.folder)
        write_atomically(settled.folder / RESULTS, as_csv(plain(findings.runs)))
        runs.check_some_finished()
        shipped = study.ship(Shipping(runs, findings, settled, base, tasks, machine, display))
        write_findings(study, runs, findings)
        remember_look(findings, settled.folder)
        return Result(settled.folder, settled, findings, runs.failures, shipped)


def check_request(kind: type[Study[Any]], request: Request) -> list[TaskInfo]:
    """Return what a study is about; raises TicketError if it cannot run, or not in its folder. Writes nothing."""
    infos = check_tasks(request.settings, request.base, request.tasks, request.lengths)
    check_runner(request.settings)
    folder = request.settings.folder
    check_folder(request.settings, infos)
    if request.inputs is not None:
        before = type(request.inputs).load(folder)
        if before is not None and (what := request.inputs.difference(before)):
            raise TicketError(f"--out {folder}: this folder was created with different {what}; choose another folder.")
    return infos


def _run(
    study: Study[Any],
    settings: StudySettings,
    infos: Sequence[TaskInfo],
    machine: Machine,
    display: ProgressDisplay,
    note: str,
) -> Runs:
    """Run all steps that the folder does not remember, and show how far the study is."""
    steps = list(study.steps(settings, infos))
    with Lab(settings.folder, machine, display) as lab, display:
        count = counted(Execution(steps).total, "training")
        display.say(f"{study.describe(settings, infos)}: {count} in {settings.precision}.")
        for sentence in [*([note] if note else []), *understood(infos)]:
            display.say(sentence)
        execution = lab.run(steps)
        if lacking := [
            run for run in execution.runs if run.step.keep == "yes" and run.finished and not run.result.has_weights
        ]:
            display.say(
                f"--keep {getattr(settings, 'keep', '')}: {counted(len(lacking), 'training')} had finished before "
                f"without keeping weights, the first is {lacking[0].step}, and {'is' if len(lacking) == 1 else 'are'} "
                "not trained again for them."
            )
        return runs_of(study, settings, infos, execution)


def runs_of(study: Study[Any], settings: StudySettings, infos: Sequence[TaskInfo], execution: Execution) -> Runs:
    """Return the runs of a study with what they are about."""
    shown = {"study": study.name, **settings.model_dump(mode="json")}
    return Runs(tuple(infos), settings.folder, shown, execution.runs, execution.complete)


def machine_of(settings: StudySettings, base: BaseModel, tasks: Loaded) -> Machine:
    """Return where a study's trials run; `tasks` are those that they name."""
    return Machine(
        backend=settings.backend,
        workers=settings.workers,
        device=settings.device,
        threads=settings.threads,
        address=settings.address,
        cpus=settings.cpus,
        gpus=settings.gpus,
        partition=settings.partition,
        time_limit=settings.time_limit,
        memory=settings.memory,
        slurm=settings.slurm,
        trackers=settings.track,
        checkpoint_every=60 * settings.checkpoint_every,
        models={base.weight_hash: base},
        tasks={task.fingerprint(): task for task in tasks.values()},
    )
