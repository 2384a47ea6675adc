"""What tickets of weights are worth at each sparsity: matching tickets, controls, rewinding (Chen et al., 2020)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from supertickets.evidence.record import Record
from supertickets.evidence.statistics import holm, paired_t_test
from supertickets.evidence.table import DENSE, in_columns
from supertickets.lab.outcome import MASK
from supertickets.lab.trial import WeightMask
from supertickets.tickets.weights import WeightTicket

IMP, ROUND, START = "imp", "round", "start"
"""Kinds of roles: a ticket as it is judged, a round of the search that is not, a training up to a rewinding point."""
RULES = ("sub_std", "full_std", "strict")
RULES_SAID = {
    "sub_std": "the mean is at most one standard deviation of the ticket's own runs below the full model's",
    "full_std": "the mean is at most one standard deviation of the full model's runs below the full model's",
    "strict": "the mean is at least the full model's",
}


@cache
def published_weights() -> dict[str, Any]:
    """Return the figures that Chen et al. printed (`published_weights.json`), for BERT-base."""
    text = resources.files("supertickets.evidence").joinpath("published_weights.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@dataclass(frozen=True)
class Magnitude:
    """What a study of `imp` shows.

    `runs` has a row a run. `means` has a row a kind, way of rewinding and sparsity: mean, standard deviation (over
    seeds, n - 1), runs, the difference to the dense runs with its paired t-test, and whether it matches by each rule.
    `highest` is the highest matching sparsity of each way of rewinding (None: none matches) by `rule`, `shown` that of
    the first way, or the highest there is: `table_2`, in the paper's layout, and `densities`, the kept shares by layer
    and matrix, are of it. `rewinding` compares the ways of rewinding, `similarity` the tickets of different seeds.
    """

    runs: pd.DataFrame
    means: pd.DataFrame
    highest: Mapping[str, float | None]
    rule: str
    shown: float | None
    table_2: pd.DataFrame
    rewinding: pd.DataFrame
    densities: pd.DataFrame
    similarity: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the study shows, in words."""
        return " ".join(self.sentences)


def conclude_magnitude(record: Record, rule: str) -> Magnitude:
    """Look at all outcomes of a study of `imp`; `rule` says when a ticket matches the full model."""
    found = magnitude_runs(record)
    means = compared_means(found)
    of_imp = means[means["kind"] == IMP]
    asked, rule = rule, rule if of_imp[rule].notna().any() else "strict"  # single runs have no standard deviation
    highest: dict[str, float | None] = {}
    for variant, rows in of_imp.groupby("variant", sort=False):
        matching = rows[rows[rule].eq(True)]
        highest[str(variant)] = float(matching["sparsity"].max()) if len(matching) else None
    first = of_imp[of_imp["variant"] == ""]
    main = highest.get("")
    shown = main if main is not None else (float(first["sparsity"].max()) if len(first) else None)
    ticket = ticket_at(record, shown) if shown is not None else None
    rewinding = _rewinding(found)
    return Magnitude(
        runs=found,
        means=means,
        highest=highest,
        rule=rule,
        shown=shown,
        table_2=_table_2(record, means, shown),
        rewinding=rewinding,
        densities=densities(ticket) if ticket is not None else pd.DataFrame(),
        similarity=_similarity(record, found),
        sentences=(*_sentences(means, highest, asked, rule, rewinding, first_way(record)), *_starved(record)),
    )


def first_way(record: Record) -> str:
    """Return how the tickets of a study's first way of rewinding came about, in words (others' say it themselves)."""
    first = str((record.settings.get("rewind") or ("0",))[0])
    if first == "none":
        return "not rewound"
    return f"rewound to {first}" if float(first.removesuffix("%")) else "rewound"


def magnitude_runs(record: Record) -> pd.DataFrame:
    """Return one row a run: what it is, its score after the last step and at its best, its metrics and cost."""
    rows = []
    for row in record.rows:
        role, outcome = row.role, row.outcome
        entry: dict[str, Any] = {"kind": role.kind, "sparsity": role.level, "variant": role.variant, "seed": role.seed}
        entry |= {"status": row.status, "score": np.nan}
        if outcome is not None and outcome.finished:
            entry["score"] = outcome.score
            for split, metrics in outcome.metrics.items():
                prefix = "" if split == "dev" else f"{split}_"
                entry |= {prefix + name: value for name, value in metrics.items() if prefix + name != "score"}
            scores = [epoch["score"] for epoch in outcome.epochs]
            entry |= {"last_step": scores[-1], "best_of_epochs": max(scores), "best_epoch": outcome.best_epoch}
        if outcome is not None:
            entry |= {name: outcome.cost[name] for name in ("parameters", "tokens", "flops", "seconds")}
        rows.append(entry | {"trial": row.trial.key if row.trial is not None else None})
    return in_columns(rows)


def compared_means(found: pd.DataFrame) -> pd.DataFrame:
    """Return means by kind, way of rewinding and sparsity, beside the dense runs' (see `Magnitude.means`)."""
    judged = found[~found["kind"].isin([ROUND, START])]
    dense = judged[judged["kind"] == DENSE].set_index("seed")["score"].astype(float).dropna()
    rows = []
    for (kind, variant, sparsity), runs in judged.groupby(["kind", "variant", "sparsity"], sort=False):
        scores = runs.set_index("seed")["score"].astype(float).dropna()
        if not len(scores):
            continue
        both = scores.index.intersection(dense.index)
        test = paired_t_test(scores[both].tolist(), dense[both].tolist())
        entry = {"kind": kind, "variant": variant, "sparsity": sparsity, "mean": scores.mean()}
        entry |= {"std": scores.std(ddof=1) if len(scores) > 1 else np.nan, "runs": len(scores)}
        if kind != DENSE:
            entry |= {"difference": test.mean, "low": test.low, "high": test.high, "p": test.p}
            entry |= {rule: matches(scores.tolist(), dense.tolist(), rule) for rule in RULES}
        rows.append(entry)
    columns = ["kind", "variant", "sparsity", "mean", "std", "runs", "difference", "low", "high", "p", *RULES]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=holm(frame["p"].astype(float).tolist()))


def matches(ticket: Sequence[float], full: Sequence[float], rule: str) -> bool | None:
    """Return whether a ticket's scores match the full model's by a rule; None if the rule needs more runs.

    The paper speaks of "one standard deviation"; its Table 2 agrees with the ticket's own (spec section 5.1).
    """
    if not len(ticket) or not len(full):
        return None
    spread = {"strict": [0.0, 0.0], "sub_std": ticket, "full_std": full}[rule]
    if len(spread) < 2:
        return None
    return bool(np.mean(ticket) + np.std(spread, ddof=1) >= np.mean(full) - 1e-9)


def mask_at(record: Record, sparsity: float, seed: int | None = None, variant: str = "") -> WeightMask | None:
    """Return the mask of a sparsity that a study found, in its first seed or another; None if there is none yet.

    It is named where it lies in the study's folder, wherever that is now.
    """
    for row in record.rows:
        role = row.role
        found = role.kind == IMP and role.variant == variant and abs(role.level - sparsity) < 1e-9
        if found and seed in (None, role.seed) and row.trial is not None and row.trial.mask is not None:
            mask = row.trial.mask
            if mask.how != "file" or mask.path is None:
                return mask
            return mask.model_copy(update={"path": record.folder.resolve() / "trials" / mask.path.parent.name / MASK})
    return None


def ticket_at(record: Record, sparsity: float, seed: int | None = None, variant: str = "") -> WeightTicket | None:
    """Return the ticket of such a mask, if its file is there."""
    mask = mask_at(record, sparsity, seed, variant)
    if mask is None or mask.path is None or not mask.path.is_file():
        return None
    return WeightTicket.from_bytes(mask.path.read_bytes(), str(mask.path))


def place_of(name: str) -> tuple[str, str]:
    """Return where a prunable tensor is: its layer (`layer 0`, or what it is called) and which matrix of it it is."""
    parts = name.removesuffix(".weight").split(".")
    layers = [i for i, part in enumerate(parts) if part.isdigit()]
    if not layers:
        return parts[0], ".".join(parts[1:])
    return f"layer {parts[layers[0]]}", ".".join(parts[layers[0] + 1 :])


def densities(ticket: WeightTicket) -> pd.DataFrame:
    """Return the share of weights that stays, with a row a layer and a column a matrix of it."""
    table: dict[str, dict[str, float]] = {}
    for name, mask in ticket.masks.items():
        layer, matrix = place_of(name)
        table.setdefault(layer, {})[matrix] = float(mask.mean())
    return pd.DataFrame.from_dict(table, orient="index")


_STARVED = 0.01
"""A tensor that keeps less than this share hands on next to nothing."""


def _starved(record: Record) -> tuple[str, ...]:
    """Say from which sparsity on some tensor has next to no weights left, as an untrained pooler soon has."""
    for sparsity in sorted({row.role.level for row in record.rows if row.role.kind == IMP}):
        ticket = ticket_at(record, sparsity)
        kept = {} if ticket is None else {name: float(mask.mean()) for name, mask in ticket.masks.items()}
        least = min(kept, key=lambda name: kept[name], default="")
        if least and kept[least] < _STARVED:
            advice = " --no-pooler leaves it whole." if least.startswith("pooler.") else ""
            return (
                f"From {sparsity:.0%} on {least} keeps less than {_STARVED:.0%} of its weights, so that what it feeds "
                f"learns from next to nothing.{advice}",
            )
    return ()


def _similarity(record: Record, found: pd.DataFrame) -> pd.DataFrame:
    """Return how much tickets of different seeds overlap: Jaccard index of survivors, and what chance gives."""
    rows = []
    of_imp = found[(found["kind"] == IMP) & (found["variant"] == "")]
    for sparsity in sorted(set(of_imp["sparsity"])):
        seeds = sorted(set(of_imp["seed"]))
        tickets = [ticket for seed in seeds if (ticket := ticket_at(record, sparsity, seed)) is not None]
        pairs = list(combinations(tickets, 2))
        if pairs:
            jaccard = float(np.mean([one.overlap(other) for one, other in pairs]))
            by_tensor = float(np.mean([one.overlap(other, "tensors") for one, other in pairs]))
            chance = float(np.mean([one.chance(other) for one, other in pairs]))
            rows.append({"sparsity": sparsity, "pairs": len(pairs), "jaccard": jaccard, "by tensor": by_tensor,
                         "chance": chance})  # fmt: skip
    return pd.DataFrame(rows, columns=["sparsity", "pairs", "jaccard", "by tensor", "chance"])


def _rewinding(found: pd.DataFrame) -> pd.DataFrame:
    """Compare every way of rewinding with the first one at each sparsity, paired over seeds (the paper's Table 3)."""
    of_imp = found[found["kind"] == IMP]
    rows = []
    for variant in [name for name in dict.fromkeys(of_imp["variant"]) if name]:
        for sparsity in sorted(set(of_imp["sparsity"])):
            at = of_imp[of_imp["sparsity"] == sparsity].pivot(index="seed", columns="variant", values="score")
            both = at.astype(float)[[variant, ""]].dropna()
            test = paired_t_test(both[variant].tolist(), both[""].tolist())
            rows.append({"compared": variant, "sparsity": sparsity, "seeds": len(both), "score": both[variant].mean(),
                         "first way": both[""].mean(), "difference": test.mean, "low": test.low, "high": test.high,
                         "p": test.p})  # fmt: skip
    frame = pd.DataFrame(
        rows, columns=["compared", "sparsity", "seeds", "score", "first way", "difference", "low", "high", "p"]
    )
    return frame.assign(p_holm=holm(frame["p"].tolist()))


_ROWS = {
    DENSE: "Full model",
    IMP: "f(x, m_IMP . theta_0)",
    "one-shot": "f(x, m_one-shot . theta_0)",
    "random": "f(x, m_RP . theta_0)",
    "matched": "f(x, m_RP, IMP's densities . theta_0)",
    "random-weights": "f(x, m_IMP . theta_0')",
    "shuffled-layers": "f(x, m_IMP . theta_0''), layers",
    "shuffled-elements": "f(x, m_IMP . theta_0''), within tensors",
}
_THEIRS = {DENSE: "full", IMP: "imp", "random": "random", "random-weights": "random weights",
           "shuffled-layers": "shuffled"}  # fmt: skip


def _table_2(record: Record, means: pd.DataFrame, sparsity: float | None) -> pd.DataFrame:
    """Return the paper's Table 2 for the study's task, beside its own column (BERT-base). Cells are text."""
    task = record.subject.task
    theirs = published_weights()["table 2"].get(task)
    ours_title = f"{task} at {sparsity:.0%}" if sparsity is not None else task
    rows = {}
    for kind, title in _ROWS.items():
        at = means[(means["kind"] == kind) & (means["variant"] == "")]
        at = at if kind == DENSE else at[np.isclose(at["sparsity"], sparsity if sparsity is not None else -1.0)]
        cells = {ours_title: _cell(at["mean"].iloc[0], at["std"].iloc[0]) if len(at) else "-"}
        if theirs is not None:
            cells[f"{task} at {theirs['sparsity']:.0%} (BERT-base, published)"] = _published(
                theirs.get(_THEIRS.get(kind))
            )
        if any(cell != "-" for cell in cells.values()):
            rows[title] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


def _published(values: Any) -> str:
    if values is None:
        return "-"
    return _cell(*values) if isinstance(values, list) else _cell(values, np.nan)


def _cell(mean: float, std: float) -> str:
    return f"{mean:.1f}" + (f" ± {std:.1f}" if np.isfinite(std) else "")


def _sentences(
    means: pd.DataFrame,
    highest: Mapping[str, float | None],
    asked: str,
    rule: str,
    rewinding: pd.DataFrame,
    first: str,
) -> tuple[str, ...]:
    """Say which tickets match, what controls reach there, whether rewinding matters."""
    dense = means[means["kind"] == DENSE]
    if dense.empty or not highest:
        return ("No ticket has been trained yet.",)
    seeds = int(dense["runs"].iloc[0])
    several = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    parts = [f"The full model scores {_cell(dense['mean'].iloc[0], dense['std'].iloc[0])} ({several})."]
    said = f" ({RULES_SAID[rule]})"  # once
    for variant, sparsity in highest.items():
        name = f"tickets {variant}" if variant else "tickets"
        at = means[(means["kind"] == IMP) & (means["variant"] == variant)]
        if at[rule].isna().all():
            parts.append(f"Whether {name} match it cannot be told from so few runs.")
            continue
        if sparsity is None:
            ends = [f"{row['mean']:.1f} at {row['sparsity']:.0%}" for _, row in at.iloc[[0, -1]].iterrows()]
            parts.append(f"No sparsity of the {name} matches it{said}: {', '.join(dict.fromkeys(ends))}.")
            said = ""
            continue
        row = at[at["sparsity"] == sparsity].iloc[0]
        parts.append(
            f"The highest sparsity at which {name} match it is {sparsity:.0%}{said}: "
            f"{_cell(row['mean'], row['std'])}, {row['difference']:+.2f}{_interval(row)}."
        )
        said = ""
        below = at[(at["sparsity"] < sparsity) & at[rule].eq(False)]["sparsity"]
        if len(below):
            parts.append(f"Below it, {', '.join(f'{s:.0%}' for s in below)} do not match.")
        controls = means[~means["kind"].isin([DENSE, IMP]) & (means["sparsity"] == sparsity)]
        if not variant and len(controls):
            reached = ", ".join(f"{row['kind']} {row['mean']:.1f}" for _, row in controls.iterrows())
            parts.append(f"Controls at that sparsity: {reached}.")
    for compared, rows in rewinding.groupby("compared", sort=False):
        if rows["difference"].notna().any():
            mean = rows["difference"].mean()
            beyond = int((rows["p_holm"] < 0.05).sum())
            tested, compared_at = int(rows["p"].notna().sum()), int(rows["difference"].notna().sum())
            parts.append(
                f"Tickets {compared} differ from those {first} by {mean:+.2f} on average over {compared_at} sparsities"
                + (f"; beyond chance (5 %, corrected) at {beyond} of {tested}." if tested else "; no test is possible.")
            )
    if rule != asked:
        parts.append("A single run has no standard deviation, so a ticket matches if it is at least as good.")
    return tuple(parts)


def _interval(row: Any) -> str:
    return f" (95 %: {row['low']:+.2f} to {row['high']:+.2f}, p = {row['p']:.2g})" if np.isfinite(row["p"]) else ""
