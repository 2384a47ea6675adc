"""The page about trained models on a new task with few examples (a study of `adapt`)."""

from pathlib import Path

from supertickets.evidence.adaptation import Adaptation
from supertickets.evidence.record import Record
from supertickets.report.figures_models import scores_by_examples
from supertickets.report.html import GAINS, Study, grid, model_name, plot, write_html


def write_adaptation_report(path: Path, record: Record, seen: Adaptation, command: str) -> None:
    """Write the page about a study of `adapt`; `command` repeats it."""
    subject = record.subject
    models = list(dict.fromkeys(seen.runs["model"]))
    write_html(
        path,
        "adapted.html.jinja",
        title=f"Tickets of {model_name(subject.model)} adapted to {subject.task}",
        models=models,
        subject=subject,
        counts=[f"{one.train:,}" for one in record.subjects],
        study=Study.of(record, seen.sentences, seen.runs, command),
        table=grid(seen.table),
        theirs=any("published" in str(name) for name in seen.table.index),
        scores=plot(scores_by_examples(seen.runs, models, subject.measure)) if len(seen.means) else "",
        gains=grid(seen.gains, GAINS),
    )
