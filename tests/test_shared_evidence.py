"""What sharing and adaptation show, against cases made by hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import parameters
from supertickets.evidence.adapt import analyse_adapt
from supertickets.evidence.keepers import keepers, overlaps, panel, pattern_of, task_shares
from supertickets.evidence.labels import MT_DNN, SHARED, TICKET_SHARE, TUNED
from supertickets.evidence.published import published
from supertickets.evidence.runs import Runs, TaskInfo, load_tasks, save_tasks
from supertickets.evidence.share import ALL, ShareFindings, analyse_share
from supertickets.lab.steps import Label, Run, Step
from supertickets.lab.trial import TaskTicket, Trial
from supertickets.studies.adapt import _fractions
from supertickets.studies.adapt_settings import AdaptSettings
from supertickets.tasks import Split, Task, TaskSource
from supertickets.tickets import Ticket
from supertickets.training.recipe import Recipe

SHAPE = Shape(2, 4, 8, 16)
HEAD, FFN = 2 * (4 * 8 + 3), 2 * 8 * 16 + 8 + 16
A = Ticket.from_pruned(2, 4, [(0, 0), (0, 1), (1, 3)], [0])
B = Ticket.from_pruned(2, 4, [(0, 0), (1, 0)], [0, 1])
C = Ticket.full(2, 4)


def info(task: str, metrics: tuple[str, ...] = ("accuracy",), shape: Shape = SHAPE, train: int = 10) -> TaskInfo:
    return TaskInfo(
        "m", "bert", "w", shape, task, f"data of {task} {train}", ("0", "1"), metrics, train, np.zeros(4, int),
        TaskSource(task=task),
    )  # fmt: skip


class Done:
    """An outcome of which only scores and size are known."""

    def __init__(self, trial: Trial, scores: Sequence[float], size: int) -> None:
        self.trial, self.key, self.finished, self.status = trial, trial.key, True, "finished"
        self.best_epoch, self.reason = 1, None
        self.cost = {"parameters": size, "tokens": 5, "flops": 7, "seconds": 1.0}
        self.by_task = [{"dev": {"score": score, "accuracy": score, "f1": score}} for score in scores]
        self.metrics, self.score = self.by_task[0], float(np.mean(scores))
        self.epochs = [{"epoch": 1, "score": self.score, "metrics": dict(enumerate(self.by_task))}]


def run(
    labels: Mapping[str, Label],
    tasks: Sequence[tuple[TaskInfo, Ticket]],
    scores: Sequence[float] | None,
    size: int = 1000,
) -> Run:
    """A run of tasks with their tickets; what has no scores is missing."""
    found = tuple(TaskTicket(source=one.source, data_hash=one.data_hash, ticket=ticket) for one, ticket in tasks)
    trial = Trial(model="m", weight_hash="w", tasks=found, recipe=Recipe(epochs=6), seed=int(labels["seed"]))
    outcome: Any = None if scores is None else Done(trial, scores, size)
    return Run(Step(labels, lambda done: trial), trial, outcome)


SCORES = {  # by model and stage: a row a seed, a column a task
    (MT_DNN, SHARED): [[50, 60], [52, 61], [54, 60]],
    (MT_DNN, TUNED): [[55, 65], [56, 64], [57, 66]],
    (TICKET_SHARE, SHARED): [[53, 62], [56, 62], [56, 64]],
    (TICKET_SHARE, TUNED): [[55, 66], [57, 64], [57, 68]],
}
AFTER = " + fine-tuning"
TICKETS = {"rte": A, "sst2": B}


def made_up(missing: tuple[str, str, int] | None = None, first: TaskInfo | None = None) -> Runs:
    tasks = (first or info("rte"), info("sst2"))
    runs = []
    for (model, stage), table in SCORES.items():
        tickets = (C, C) if model == MT_DNN else (A, B)
        both = list(zip(tasks, tickets, strict=True))
        for seed, row in enumerate(table):
            scores = None if missing == (model, stage, seed) else [float(score) for score in row]
            labels: dict[str, Label] = {"stage": stage, "kind": model}
            if stage == SHARED:
                size = 1000 if model == MT_DNN else 1000 - HEAD - FFN
                runs.append(run({**labels, "seed": seed}, both, scores, size))
                continue
            for place, (task, ticket) in enumerate(both):
                own = None if scores is None else [scores[place]]
                runs.append(run({**labels, "task": task.task, "seed": seed}, [(task, ticket)], own))
    return Runs(tasks, Path("x"), {}, runs, missing is None)


def seen_in(runs: Runs, tickets: Mapping[str, Ticket] | None = None) -> ShareFindings:
    named = dict(zip((task.task for task in runs.tasks), (tickets or TICKETS).values(), strict=True))
    return analyse_share(runs, named, {})


# --- sizes and set algebra --------------------------------------------------------------------------------------------


def test_parameters_of_structures_by_hand() -> None:
    assert parameters(SHAPE, A) == 5 * HEAD + FFN
    assert parameters(SHAPE, C) - parameters(SHAPE, A | B) == HEAD + FFN  # head (0, 0) and FFN 0 are nobody's


def test_sizes_by_hand() -> None:
    seen = seen_in(made_up())
    assert seen.sizes.by_task == pytest.approx(
        {"rte": (1000 - 3 * HEAD - FFN) / 1000, "sst2": (1000 - 2 * HEAD - 2 * FFN) / 1000}
    )
    assert seen.sizes.mean == pytest.approx((2000 - 5 * HEAD - 3 * FFN) / 2000)
    assert seen.sizes.union == pytest.approx((1000 - HEAD - FFN) / 1000)
    cells = seen.table.loc[TICKET_SHARE]
    assert cells["Mean size"] == f"{seen.sizes.mean:.1%}"
    assert cells["Union size"] == f"{seen.sizes.union:.1%}"
    assert seen.table.loc[MT_DNN, "Union size"] == "100%"


def test_who_keeps_what_by_hand() -> None:
    found = keepers({"a": A, "b": B, "c": C})
    assert found.to_dict("records") == [
        {"layer": 0, "heads of all": 2, "of several": 1, "of one": 1, "of none": 0, "FFN of": "c"},
        {"layer": 1, "heads of all": 2, "of several": 2, "of one": 0, "of none": 0, "FFN of": "a, c"},
    ]
    both = keepers({"a": A, "b": B})
    assert both["of none"].tolist() == [1, 0]
    assert both["FFN of"].tolist() == ["none", "a"]


def test_overlaps_by_hand() -> None:
    found = overlaps({"a": A, "b": B, "c": C})
    assert found[["task", "other"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    # a keeps 5 heads and 1 FFN, b 6 and 0; both keep heads (0,2), (0,3), (1,1), (1,2)
    assert found["kept"].tolist() == pytest.approx([4 / 8, 6 / 10, 6 / 10])
    # a prunes 3 heads and 1 FFN, b 2 and 2; both prune head (0,0) and FFN 0
    assert found["pruned"].tolist()[0] == pytest.approx(2 * 2 / 8)
    assert found["pruned"].tolist()[1:] == [0, 0]
    assert found["chance"].tolist()[0] == pytest.approx((2 * 3 * 2 / 8 + 2 * 1 * 2 / 2) / 8)
    assert np.isnan(overlaps({"c": C, "d": C})["pruned"][0])


# --- Table 3 and tests ------------------------------------------------------------------------------------------------


def test_table_3_and_gains_by_hand() -> None:
    seen = seen_in(made_up())
    assert list(seen.table.index) == [MT_DNN, MT_DNN + AFTER, TICKET_SHARE, TICKET_SHARE + AFTER]
    assert seen.table.loc[TICKET_SHARE, "RTE Acc"] == "55.0"
    assert seen.table.loc[TICKET_SHARE, "SST Acc"] == "62.7"
    assert seen.table.loc[TICKET_SHARE, "Average Score"] == f"{np.mean(SCORES[TICKET_SHARE, SHARED]):.2f}"
    rows = seen.gains.set_index(["stage", "task"])
    for stage in (SHARED, TUNED):
        ticket, dense = np.array(SCORES[TICKET_SHARE, stage]), np.array(SCORES[MT_DNN, stage])
        for column, task in enumerate(("rte", "sst2")):
            row = rows.loc[(stage, task)]
            assert row["difference"] == pytest.approx((ticket - dense)[:, column].mean())
            if (ticket - dense)[:, column].std() > 0:
                assert row["p"] == pytest.approx(stats.ttest_rel(ticket[:, column], dense[:, column]).pvalue)
        average = rows.loc[(stage, ALL)]
        expected = stats.ttest_rel(ticket.mean(axis=1), dense.mean(axis=1))
        assert average["p"] == pytest.approx(expected.pvalue)
        assert average["low"] == pytest.approx(expected.confidence_interval(0.95).low)
    p = [rows.loc[("shared", task)]["p"] for task in ("rte", "sst2")]
    assert rows.loc[("shared", "rte")]["p_holm"] == pytest.approx(
        2 * min(p) if p[0] == min(p) else max(2 * min(p), p[0])
    )
    assert f"{rows.loc[('shared', ALL)]['difference']:+.2f}" in seen.sentences[0]
    assert "these numbers are not corrected for that choice" in seen.verdict


def test_what_is_missing_counts_for_nothing() -> None:
    seen = seen_in(made_up((TICKET_SHARE, SHARED, 1)))
    rows = seen.gains.set_index(["stage", "task"])
    assert rows.loc[("shared", "rte")]["seeds"] == 2
    assert rows.loc[("shared", "rte")]["difference"] == pytest.approx((53 - 50 + 56 - 54) / 2)
    assert rows.loc[("fine-tuned", ALL)]["seeds"] == 3
    assert (seen.runs["status"] == "missing").sum() == 2
    step = Step({"stage": SHARED, "kind": MT_DNN, "seed": 0}, lambda done: None)
    empty = seen_in(Runs(made_up().tasks, Path("x"), {}, [Run(step)], False))
    assert np.isnan(empty.sizes.union)
    assert empty.table.loc[MT_DNN, "RTE Acc"] == "-"


def test_metrics_that_differ_do_not_average() -> None:
    seen = seen_in(made_up(first=info("mine", ("f1",))))
    assert seen.sentences[0].startswith(
        "Tasks with tickets of their own score higher than the dense model on 2 of 2 tasks"
    )
    assert "their metrics differ" in seen.sentences[1]


def test_published_rows_stand_beside_the_papers_model() -> None:
    base = Shape(12, 12, 768, 3072)
    full = Ticket.full(12, 12)
    tasks = (info("rte", shape=base), info("sst2", shape=base))
    runs = [run({"stage": SHARED, "kind": MT_DNN, "seed": 0}, [(task, full) for task in tasks], [1.0, 2.0])]
    seen = seen_in(Runs(tasks, Path("x"), {}, runs), {"rte": full, "sst2": full})
    theirs = seen.table.loc["Ticket-Share + fine-tuning (BERT-base, published)"]
    assert theirs.tolist() == ["83.0", "93.5", "85.6 (8 tasks)", "-", "92.9%", "-"]


def test_published_averages_of_table_3_are_those_of_their_rows() -> None:
    for size in ("base", "large"):
        for name, row in published()["table 3"][size].items():
            cells = [np.mean(value) for task, value in row.items() if task not in ("average", "compression")]
            assert len(cells) == 8
            assert abs(np.mean(cells) - row["average"]) < 0.36, (size, name)


# --- whose tickets matter to whom -------------------------------------------------------------------------------------


def test_task_shares_by_hand() -> None:
    heads_a = [[3.0, 4.0, 0, 0], [1.0, 1.0, 1.0, 1.0]]
    heads_b = [[6.0, 0.0, 8.0, 0], [2.0, 2.0, 2.0, 2.0]]
    scores = [
        {"heads": np.array(heads), "ffns": np.array(ffns)}
        for heads, ffns in ((heads_a, [3.0, 4.0]), (heads_b, [0.0, 5.0]))
    ]
    found = task_shares(["a", "b"], scores).set_index(["part", "layer", "head"])
    # layer 0: (.6, .8, 0, 0) and (.6, 0, .8, 0) after division by the layer's norm
    assert found.loc[("head", 0, 0), "importance"] == pytest.approx(0.6)
    assert found.loc[("head", 0, 0), ["share of a", "share of b"]].tolist() == pytest.approx([0.5, 0.5])
    assert found.loc[("head", 0, 1), ["share of a", "share of b"]].tolist() == pytest.approx([1, 0])
    assert found.loc[("head", 0, 3), ["share of a", "share of b"]].tolist() == [0.5, 0.5]  # nobody's: nothing to share
    assert found.loc[("head", 1, 2), "importance"] == pytest.approx(0.5)  # scale does not matter
    assert found.loc[("FFN", 0, -1), ["share of a", "share of b"]].tolist() == pytest.approx([1, 0])
    assert found.loc[("FFN", 1, -1), "importance"] == pytest.approx((0.8 + 1) / 2)
    assert found.loc[("head", 0, 1), "pattern"] == "one task"
    assert len(found) == 2 * 5
    nearest = panel(found.reset_index(), "one task", most=2)
    assert len(nearest) == 2
    assert nearest["distance"].is_monotonic_increasing
    assert task_shares(["a", "b"], [{}, {}]).empty


@pytest.mark.parametrize(
    ("share", "pattern"),
    [
        ([0.25, 0.25, 0.25, 0.25], "even"),
        ([0.3, 0.3, 0.3, 0.1], "even"),  # as SST-2 in the paper: shared by all but one
        ([0.9, 0.05, 0.03, 0.02], "one task"),
        ([0.45, 0.05, 0.45, 0.05], "two tasks"),
    ],
)
def test_patterns(share: list[float], pattern: str) -> None:
    assert pattern_of(np.array(share))[0] == pattern


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.randoms())
def test_patterns_do_not_depend_on_the_order_of_tasks(values: list[float], order: Any) -> None:
    share = np.array(values) / np.sum(values)
    shuffled = list(share)
    order.shuffle(shuffled)
    assert pattern_of(share)[1] == pytest.approx(pattern_of(np.array(shuffled))[1])
    assert pattern_of(share)[0] in ("even", "one task", "two tasks")


# --- adaptation -------------------------------------------------------------------------------------------------------


def adapted(scores: dict[str, dict[int, list[float]]], task: str = "snli", shape: Shape = SHAPE) -> Runs:
    counts = sorted({count for of in scores.values() for count in of})
    tasks = {count: info(task, train=count, shape=shape) for count in counts}
    runs = [
        run({"kind": model, "examples": count, "task": task, "seed": seed}, [(tasks[count], A)], [score])
        for model, of in scores.items()
        for count, by_seed in of.items()
        for seed, score in enumerate(by_seed)
    ]
    return Runs(tuple(tasks.values()), Path("x"), {"epochs": 6}, runs)


def test_table_4_by_hand() -> None:
    runs = adapted({"D": {10: [50, 52, 54], 100: [60, 61, 62]}, "T": {10: [53, 56, 57], 100: [60, 62, 61]}})
    seen = analyse_adapt(runs, [("T", "D")])
    assert seen.table.loc["D"].tolist() == ["52.0 ± 2.0", "61.0 ± 1.0"]
    assert list(seen.table.columns) == ["10 examples", "100 examples"]
    row = seen.gains.iloc[0]
    assert row["difference"] == pytest.approx(10 / 3)
    assert row["p"] == pytest.approx(stats.ttest_rel([53, 56, 57], [50, 52, 54]).pvalue)
    assert row["p_holm"] == pytest.approx(2 * row["p"])
    assert "+3.33 with 10 examples" in seen.verdict
    one = analyse_adapt(adapted({"D": {10: [50]}, "T": {10: [53]}}), [("T", "D")])
    assert one.table.loc["T"].tolist() == ["53.0"]
    assert "With one seed, intervals and p are over dev examples alone" in one.verdict


def test_published_rows_of_table_4() -> None:
    base = Shape(12, 12, 768, 3072)
    seen = analyse_adapt(adapted({"D": {549: [50], 700: [51]}}, shape=base), [])
    assert seen.table.loc["MNLI-SuperT (BERT-base, published)"].tolist() == ["82.9", "-"]
    assert not any("published" in name for name in analyse_adapt(adapted({"D": {549: [50]}}), []).table.index)


@pytest.mark.parametrize("name", ["snli", "scitail"])
def test_every_published_column_of_table_4_has_its_fraction(name: str) -> None:
    """The paper's fractions of a training set of the real size give the paper's numbers of examples."""
    theirs = published()["table 4"]["base"][name]
    size = theirs["examples"][-1]
    train = Split(["w1"] * size, ["w2"] * size, np.arange(size) % 2)
    whole = Task(name, ("a", "b"), ("accuracy",), train, Split(["w1"], ["w2"], np.zeros(1, int)), {})
    parts = _fractions(AdaptSettings(task=name), TaskSource(task=name), whole)
    counts = [len(task.train) for task in parts.values()]
    assert counts == theirs["examples"]
    base = Shape(12, 12, 768, 3072)
    seen = analyse_adapt(adapted({"D": {count: [50] for count in counts}}, name, base), [])
    assert seen.table.loc["MNLI-SuperT (BERT-base, published)"].tolist() == [f"{x:.1f}" for x in theirs["MNLI-SuperT"]]
    halves_up = [math.floor(fraction * size + 0.5) for fraction in (0.001, 0.01, 0.1)]
    assert halves_up != counts[:3]  # control


# --- what a study is about, on disk -----------------------------------------------------------------------------------


def test_what_a_study_is_about_survives_the_disk(tmp_path: Path) -> None:
    tasks = [info("rte"), replace(info("sst2", train=7), files_hash="f", description=("What was read.", "How."))]
    save_tasks(tmp_path, tasks)
    found = load_tasks(tmp_path)
    for one, other in zip(tasks, found, strict=True):
        assert {**vars(one), "targets": 0} == {**vars(other), "targets": 0}
        assert np.array_equal(one.targets, other.targets)
    assert load_tasks(tmp_path / "nowhere") == ()
