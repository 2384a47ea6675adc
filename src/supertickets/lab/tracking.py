"""Experiment trackers (TensorBoard, MLflow, W&B, trackio, ...) through accelerate: each trial is a run."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from supertickets.errors import TicketError, needs, unknown_name
from supertickets.lab.jobs import Job

_LOG_EVERY = 10  # steps


def check_trackers(names: Sequence[str]) -> None:
    """Raise TicketError unless accelerate knows these trackers and their packages are installed."""
    if not names:
        return
    needs("trackers", "--track")
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = [str(getattr(name, "value", name)) for name in LOGGER_TYPE_TO_CLASS]
    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise unknown_name("tracker", name, known)
        if name not in available:
            raise TicketError(f"tracker {name!r} is not installed: `pip install {name}`.")


def _be_the_main_process() -> None:
    """Tell accelerate, whose trackers log on the main process alone, that this one is."""
    from accelerate import PartialState
    from accelerate.utils import patch_environment

    with patch_environment(local_rank=-1):  # accelerate takes this number alone for a launch, and waits for others
        PartialState()


class Tracking(AbstractContextManager["Tracking"]):
    """Passes a training's reports on and logs them to trackers; as a context manager it ends their runs.

    Raises what a tracker raises that cannot begin; those that had begun are ended.
    """

    def __init__(self, names: Sequence[str], job: Job, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._trackers: list[Any] = []
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        _be_the_main_process()
        folder = job.folder.parent.parent / "tracking"
        run = f"{job.label.replace(' ', '-')}-{job.trial.key[:8]}"
        configuration = {
            **{field: value if value is not None else "" for field, value in job.trial.recipe.model_dump().items()},
            "seed": job.trial.seed,
            "heads": job.trial.ticket.kept_heads,
            "ffns": job.trial.ticket.kept_ffns,
            **({} if (kept := job.trial.ticket.kept_neurons) is None else {"neurons": kept}),
            "trial": job.trial.key,
        }
        try:
            for name in names:
                kind = LOGGER_TYPE_TO_CLASS[name]
                tracker = kind(run, str(folder)) if kind.requires_logging_directory else kind(run)
                self._trackers.append(tracker)
                if hasattr(tracker, "start"):
                    tracker.start()
                tracker.store_init_configuration(configuration)
        except BaseException:
            self._tell("finish")
            raise

    def __exit__(self, *exception: object) -> None:
        self._tell("finish")

    def __call__(self, event: dict[str, Any]) -> None:
        """Take a report of the training."""
        self._report(event)
        if "metrics" in event:
            several = len(event["metrics"]) > 1
            values = {
                f"{task}/{split}/{name}" if several else f"{split}/{name}": value
                for task, splits in event["metrics"].items()
                for split, found in splits.items()
                for name, value in found.items()
            }
            self._tell("log", values, step=event["step"])
        elif event["step"] % _LOG_EVERY == 0:
            self._tell("log", {"train/loss": event["loss"], "train/epoch": event["epoch"]}, step=event["step"])

    def _tell(self, what: str, *values: Any, **more: Any) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, what)(*values, **more)
            except Exception as error:  # whatever a tracker raises, a training is worth more than its log
                self._trackers.remove(tracker)
                warnings.warn(f"tracker {tracker.name} stopped: {error}", stacklevel=2)
                with suppress(Exception):  # a run that stays open would take the next trial's
                    tracker.finish()
