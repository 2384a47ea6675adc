"""Trials under `accelerate launch`: the leader runs the study, the others train every trial with it."""

from typing import Any

from supertickets.lab.in_process import run_job
from supertickets.lab.jobs import Job, NextJob, Send
from supertickets.training.team import Team


class TogetherRunner:
    """Runs jobs one after the other, each on all processes of the team."""

    side_by_side = 1

    def __init__(self, team: Team, options: dict[str, Any]) -> None:
        self._team, self._options = team, options
        self._bench: Any = None

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left."""
        from supertickets.lab.workbench import Workbench

        self._bench = self._bench or Workbench(**self._options)
        while (job := next_job()) is not None:
            self._team.tell(job)
            send(("started", job.trial.key, None))
            run_job(self._bench, job, send)

    def close(self) -> None:
        """Leave the others waiting: they may be needed again (see `dismiss`)."""


def follow(team: Team, options: dict[str, Any]) -> None:
    """Train along with the leader until it dismisses the team; writes nothing."""
    from supertickets.lab.workbench import Workbench

    bench = Workbench(**options)
    while (job := team.tell()) is not None:
        assert isinstance(job, Job)
        run_job(bench, job, lambda message: None)


def dismiss(team: Team) -> None:
    """End the others' `follow`."""
    if team.size > 1:
        team.tell(None)
