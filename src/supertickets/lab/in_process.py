"""Running a job in the process that one is in, as all runners do in the end; and the runner that does only that."""

import time
import traceback
from typing import Any

from supertickets.errors import NoSpaceError, StoppedError, TicketError
from supertickets.lab.jobs import Job, NextJob, Send
from supertickets.lab.partial import Partial
from supertickets.lab.stopping import asked_to_stop, halted, heeding

_REPORT_EVERY = 0.3  # seconds between two progress messages of one trial


def run_job(bench: Any, job: Job, send: Send) -> None:
    """Run a job on a workbench and send what there is to tell; a failure is sent, not raised."""
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY:
            last = time.monotonic()
            send(("progress", job.trial.key, event))

    try:
        made = bench.run(job, report)
    except NoSpaceError as error:
        send(("halt", job.trial.key, str(error)))
    except StoppedError as error:
        send(("stopped", job.trial.key, str(error)))
    except TicketError as error:
        send(("refused", job.trial.key, str(error)))
    except Exception:
        send(("failed", job.trial.key, traceback.format_exc()))
    else:
        paused = isinstance(made, Partial)
        send(("partial", job.trial.key, made.fraction) if paused else ("done", job.trial.key, None))


class InProcess:
    """Runs jobs here, one after the other."""

    side_by_side = 1

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._bench: Any = None

    def run(self, next_job: NextJob, send: Send) -> None:
        """Run jobs until there is none left, or a signal asks to stop."""
        with heeding():
            while (job := next_job()) is not None:
                if self._bench is None:
                    from supertickets.lab.workbench import Workbench

                    self._bench = Workbench(**self._options)
                send(("started", job.trial.key, None))
                run_job(self._bench, job, send)
                if (why := asked_to_stop()) is not None:
                    send(("halt", job.trial.key, halted(why)))
                    return

    def close(self) -> None:
        """Nothing to end."""
