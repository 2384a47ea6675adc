"""The page about tickets that tasks share (a study of `share`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from supertickets.evidence.keepers import PATTERNS, panel
from supertickets.evidence.record import Record
from supertickets.evidence.sharing import Sharing, Sizes, names_in
from supertickets.report.figures_models import importance_panel, overlap_map, scores_by_task
from supertickets.report.html import GAINS, Grid, Study, grid, model_name, plot, write_html
from supertickets.report.maps import StructureMap
from supertickets.tickets import Ticket

_MATTER = {"even": "to all tasks alike", "one task": "mostly to one task", "two tasks": "mostly to two tasks"}
_OVERLAPS = dict.fromkeys(("kept", "pruned", "chance"), "{:.1%}")


@dataclass(frozen=True)
class Panel:
    """Structures whose importance is spread over tasks in one way: to whom they matter, how many there are."""

    matter: str
    caption: str
    plot: Markup


def write_sharing_report(
    path: Path,
    record: Record,
    seen: Sharing,
    tickets: Mapping[str, Ticket],
    command: str,
    sensitivity: Mapping[str, pd.DataFrame],
) -> None:
    """Write the page about a study of `share`.

    `tickets` are the tasks' super tickets by task, `command` repeats the study, `sensitivity` are further tables by
    title.
    """
    tasks = [subject.task for subject in record.subjects]
    model = model_name(record.subject.model)
    write_html(
        path,
        "shared.html.jinja",
        title=f"Tickets shared by {len(tasks)} tasks on {model}",
        model=model,
        subjects=record.subjects,
        study=Study.of(record, seen.sentences, seen.runs, command, sensitivity),
        table=grid(seen.table),
        theirs=any("published" in str(name) for name in seen.table.index),
        scores=plot(scores_by_task(seen.runs, names_in(seen.runs), tasks)) if seen.runs["score"].notna().any() else "",
        gains=grid(seen.gains, GAINS),
        sizes=_sizes(seen.sizes, tickets),
        together=StructureMap.shared("How many tasks keep each head and FFN", tickets),
        maps=[StructureMap.of(task, ticket) for task, ticket in tickets.items()],
        keepers=grid(seen.keepers),
        overlaps=grid(seen.overlaps, _OVERLAPS),
        overlap_map=plot(overlap_map(seen.overlaps, tasks)) if len(tasks) > 2 else "",
        panels=_panels(seen.importance, tasks),
    )


def _sizes(sizes: Sizes, tickets: Mapping[str, Ticket]) -> Grid:
    """Return what each task's ticket keeps, then the mean over tasks and what some task keeps."""
    union = reduce(or_, tickets.values())
    kept = {task: [ticket.kept_heads, ticket.kept_ffns, sizes.by_task[task]] for task, ticket in tickets.items()}
    rows = [[task, *numbers] for task, numbers in kept.items()]
    heads, ffns, _ = np.mean(list(kept.values()), axis=0)
    rows.append(["mean of the tasks", heads, ffns, sizes.mean])
    rows.append(["what some task keeps", union.kept_heads, union.kept_ffns, sizes.union])
    forms = {f"heads (of {union.heads.size})": "{:.4g}", f"FFNs (of {union.ffns.size})": "{:.4g}"}
    forms["share of parameters"] = "{:.1%}"
    return grid(pd.DataFrame(rows, columns=["", *forms]), forms)


def _panels(importance: pd.DataFrame, tasks: Sequence[str]) -> list[Panel]:
    """Return the panels of the paper's Figure 6 that have structures; none if there are no scores."""
    panels = []
    for pattern in PATTERNS if not importance.empty else ():
        shown, count = panel(importance, pattern), int((importance["pattern"] == pattern).sum())
        if count:
            more = f"; the {len(shown)} nearest are shown" if len(shown) < count else ""
            caption = f"{count} of {len(importance)} heads and FFNs are nearest to this pattern{more}."
            panels.append(Panel(_MATTER[pattern], caption, plot(importance_panel(shown, tasks))))
    return panels
