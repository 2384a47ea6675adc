"""Tickets from a finished study's scores, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supertickets.errors import TicketError
from supertickets.models import find_model
from supertickets.storage import atomic_folder, check_free, user_path
from supertickets.studies.config import called, parse, read_value
from supertickets.studies.draws import ByLevel, ForTarget
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.inputs import open_study
from supertickets.studies.study import full_ticket
from supertickets.studies.targets import OF_WHOLE, caps_of, measured
from supertickets.tasks import load_task
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket, base_entry
from supertickets.tickets.prices import amount
from supertickets.tickets.scoring import Scores

if TYPE_CHECKING:
    from supertickets.evidence.runs import Runs, TaskInfo


def draw_ticket(
    study: Path | str,
    out: Path | str,
    target: Sequence[str] | str = (),
    level: float | str | None = None,
    seed: int | None = None,
    structures: Sequence[str] | str = (),
    latency_of: str | None = None,
) -> dict[str, Any]:
    """Draw a winning ticket from the importance scores of a finished study of `find`, and write its folder.

    It keeps the most importance that `target` allows (see `tickets.targets`), or is the paper's at `level`. The scores
    are those of the dense run of `seed`, or else the mean over all seeds. `structures` are the kinds to prune; by
    default the study's; lists may be texts with commas. `latency_of` is the batch size and number of tokens that a
    target of latency is about (`1x128`); by default the study's. Nothing is trained: the ticket is one to train with
    `transfer`, or to cut with `apply`. Returns the folder, the ticket, the `seeds` whose scores were taken, those of
    the study that have none (`without`), for each target what it costs and what was allowed, and how much more
    importance the best ticket within it may keep at most (`gap`, a share; 0: none does; None for a level). Raises
    TicketError for a study without scores, a target that no ticket reaches, a base model that is no longer the
    study's, or a folder that is not empty.
    """
    given = {"target": target, "structures": structures}
    asked: dict[str, Any] = {
        name: read for name, value in given.items() if (read := read_value(FindSettings, name, value))
    }
    if ("target" in asked) == (level is not None):
        raise TicketError("expected either --target or --level, which say how much the ticket keeps.")
    asked |= {"levels": (level,)} if level is not None else {}
    asked |= {"latency_of": latency_of} if latency_of is not None else {}
    if latency_of is not None and not any(one.startswith("latency") for one in asked.get("target", ())):
        raise TicketError("--latency-of: there is no --target latency; leave it out.")
    with called("--levels", "--level"):
        return _draw(study, user_path(out), asked, seed)


def _draw(study: Path | str, out: Path, asked: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """Draw and write a ticket by the settings that are asked for; see `draw_ticket`."""
    from supertickets.evidence.reached import importance_kept

    settings, runs = _opened(study, asked)
    seeds, scores = scores_of(runs, seed)
    if lacking := [kind for kind in settings.structures if kind not in scores]:
        raise TicketError(
            f"{study}: there are no scores of {lacking[0]}; expected --structures of {', '.join(scores)}, or a study "
            f"with --structures {','.join(settings.structures)}."
        )
    check_free(out)
    ticket, targets, gap = _drawn(settings, runs.task, scores)
    _save(_shared(settings, runs.task, ticket, scores, asked | {"seed": seed, "seeds": seeds}), out)
    kept = importance_kept(scores, ticket, settings.structures)
    without = [] if seed is not None else [one for one in settings.all_seeds if one not in seeds]
    found = {"folder": str(out), "seeds": list(seeds), "without": without, "targets": targets, "kept": kept}
    return {**found, "gap": gap, "ticket": ticket}


def _opened(study: Path | str, asked: Mapping[str, Any]) -> tuple[FindSettings, Runs]:
    """Return a study's settings with those that are asked for in their place, and its runs.

    Raises TicketError for a study of another kind, and for values that are wrong.
    """
    opened = open_study(study)
    if not isinstance(opened.settings, FindSettings):
        raise TicketError(
            f"{study}: a study of `{opened.name}` has no importance scores to draw from; expected `find`."
        )
    checked = parse(FindSettings, asked)
    changed = {name: getattr(checked, name) for name in asked} | {"target": checked.target}
    kinds = changed.get("structures", opened.settings.structures)
    if isinstance(checked.levels[0] if checked.levels else 0.0, str) or set(kinds) != {"heads", "ffns"}:
        changed["counts"] = "share"  # the released code's counts are of one fraction of heads and FFNs alone
    return opened.settings.model_copy(update=changed), opened.replay()


def _drawn(settings: FindSettings, task: TaskInfo, scores: Scores) -> tuple[Ticket, list[dict[str, Any]], float | None]:
    """Return the winning ticket of the settings' target or level, what it costs of each target, and the draw's gap."""
    full = full_ticket(task)
    if not settings.target:
        by_level = ByLevel(settings, task.shape)
        (number,) = by_level.about
        return by_level.ranked("winning", number, scores, full), [], None
    base = find_model(settings.model, settings.layers)
    if base.weight_hash != task.weight_hash:
        raise TicketError(
            f"--target: model {base.called} has weights {base.weight_hash[:12]}..., but the study's had "
            f"{task.weight_hash[:12]}..., so its costs are not those of the ticket; put the old weights back."
        )
    whole = any(target.quantity in OF_WHOLE for target in settings.targets)
    caps = caps_of(settings, task.shape, measured(settings, base, load_task(task.source) if whole else None))
    draws = ForTarget(settings, task.shape, caps)
    drawn = draws.under(scores)
    costs = [
        {"target": cap.name, "unit": cap.prices.unit, "cost": cap.of(drawn.ticket), "at_most": cap.most} for cap in caps
    ]
    return drawn.ticket, costs, drawn.gap


def _shared(
    settings: FindSettings, task: TaskInfo, ticket: Ticket, scores: Scores, asked: Mapping[str, Any]
) -> SharedTicket[Ticket]:
    """Return a drawn ticket with where it comes from; `asked` says what was drawn, in settings and a seed."""
    from supertickets.lab.environment import versions

    drawn = {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
    origin = {
        "task": task.task,
        "data_hash": task.data_hash,
        "kind": "winning",
        "metrics": list(task.metrics),
        "preset": settings.preset,
        "recipe": settings.recipe.model_dump(),
        "drawn": {**drawn, "trained": False},
    }
    by_kind = {str(kind): values for kind, values in scores.items()}
    base = base_entry(task.model, task.weight_hash, task.model_type, task.layers)
    return SharedTicket(ticket, base, origin, versions(), by_kind)


def said_of(target: Mapping[str, Any]) -> str:
    """Return a sentence about one of the `targets` that `draw_ticket` returns."""
    cost, most = (amount(target[name], target["unit"]) for name in ("cost", "at_most"))
    return f"{target['target']}: the model takes {cost}, at most {most}."


def scores_of(runs: Runs, seed: int | None) -> tuple[tuple[int, ...], Scores]:
    """Return the importance that a seed's dense run measured, or the mean over all seeds' that have, with the seeds."""
    there = {int(run.step.labels["seed"]): run.result for run in runs.only(stage=None).where(kind="dense")}
    scored = {one: outcome.scores() for one, outcome in there.items() if outcome.trial.scoring is not None}
    if there and not scored:
        kinds = ",".join(runs.settings.get("kinds", ())) or "none"
        raise TicketError(
            f"{runs.folder}: importance was not measured, since no tickets were drawn from it (--kinds {kinds}); "
            "run `supertickets find` again with --kinds winning."
        )
    if not scored:
        raise TicketError(f"{runs.folder}: no dense run has finished with importance scores; run the study first.")
    if seed is not None and seed not in scored:
        near = min(scored, key=lambda one: abs(one - seed))
        raise TicketError(f"--seed {seed}: {runs.folder} has scores of {', '.join(map(str, scored))}; choose {near}.")
    chosen = {seed: scored[seed]} if seed is not None else scored
    found = [*chosen.values()]
    return tuple(chosen), {kind: np.mean([one[kind] for one in found], axis=0) for kind in found[0]}


def _save(shared: SharedTicket[Ticket], out: Path) -> None:
    from supertickets.export.card import ticket_card

    with atomic_folder(out) as new:
        shared.save(new, ticket_card(shared, with_model=False, form="sequence"))
