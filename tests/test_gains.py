"""The one test of gains, against loops over lists of runs."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from supertickets.evidence.gains import GAIN, all_gains, gain, means, paired_gains, selected
from supertickets.evidence.statistics import holm

Row = dict[str, Any]
LABELS = ("kind", "level", "task", "seed")
PLACES = [("dense", 0.0), *product(("winning", "random"), (0.1, 0.2))]
"""Kinds and levels that runs may have: the dense model has one level."""

CASES: list[tuple[Mapping[str, Any], Mapping[str, Any], tuple[str, ...]]] = [
    ({"kind": ("winning", "random")}, {"kind": "dense", "level": ...}, ("kind", "level", "task")),
    ({"kind": "winning"}, {"kind": "random"}, ("level", "task")),
    ({"kind": "winning"}, {"kind": "random", "level": 0.2}, ("task", "level")),
    ({"kind": {"winning", "random"}, "level": 0.2}, {"kind": "dense", "level": 0.0, "task": "x"}, ("task", "kind")),
    ({"kind": "winning", "level": 0.1, "task": "y"}, {"kind": "random", "level": 0.1, "task": "y"}, ()),
    ({"kind": ..., "task": ["x"]}, {"kind": "dense", "level": ...}, ("kind", "level", "task")),
]
"""What is compared with what, by what: `of`, `over`, `by`."""


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Runs in any order: some are missing, some have no score; scores are coarse, so that gains may be equal."""
    all_labels = [(kind, level, task, seed) for kind, level in PLACES for task in "xy" for seed in range(4)]
    there = draw(st.lists(st.sampled_from(all_labels), unique=True, min_size=1))
    scores = st.one_of(st.just(np.nan), st.integers(200, 300).map(lambda quarter: quarter / 4))
    return [dict(zip(LABELS, labels, strict=True), score=draw(scores)) for labels in there]


def matches(row: Row, where: Mapping[str, Any]) -> bool:
    for name, wanted in where.items():
        if wanted is ... or (isinstance(wanted, tuple | list | set) and row[name] in wanted) or row[name] == wanted:
            continue
        return False
    return True


def naive(rows: Sequence[Row], of: Mapping[str, Any], over: Mapping[str, Any], by: Sequence[str]) -> list[Row]:
    """`paired_gains` as its description says it, in loops."""
    chosen = [row for row in rows if matches(row, of)]
    groups = list(dict.fromkeys(tuple(row[name] for name in by) for row in chosen)) if by else [()]
    found = []
    for values in groups:
        labels = dict(zip(by, values, strict=True))
        agreeing = {name: value for name, value in labels.items() if name not in over}
        pairs = [
            (one["score"], other["score"])
            for one in chosen
            for other in rows
            if matches(one, labels) and matches(other, over) and matches(other, agreeing)
            if one["seed"] == other["seed"] and np.isfinite(one["score"]) and np.isfinite(other["score"])
        ]
        entry: Row = {**labels, "seeds": len(pairs), **dict.fromkeys(GAIN[1:], np.nan)}
        if pairs:
            first, second = np.array(pairs).T
            entry |= {"score": first.mean(), "over": second.mean(), "difference": (first - second).mean()}
            if len(pairs) > 1 and (first - second).std() > 0:
                test = stats.ttest_rel(first, second)
                interval = test.confidence_interval(0.95)
                entry |= {"low": interval.low, "high": interval.high, "p": test.pvalue}
        found.append(entry)
    tested = sorted((row for row in found if np.isfinite(row["p"])), key=lambda row: float(row["p"]))
    largest = 0.0
    for place, row in enumerate(tested):  # Holm (1979): the smallest times how many there are, and so on
        largest = max(largest, min(1.0, row["p"] * (len(tested) - place)))
        row["p_holm"] = largest
    return [{"p_holm": np.nan, **row} for row in found]


def frame_of(rows: Sequence[Row], by: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*by, *GAIN, "p_holm"])


@pytest.mark.parametrize(("of", "over", "by"), CASES)
@given(rows=tables())
@settings(max_examples=30, deadline=None)
def test_gains_are_those_of_a_naive_loop(
    of: Mapping[str, Any], over: Mapping[str, Any], by: tuple[str, ...], rows: list[Row]
) -> None:
    found, expected = paired_gains(pd.DataFrame(rows), of, over, by), frame_of(naive(rows, of, over, by), by)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-9)


def whole(seeds: int = 4, noise: float = 1.0) -> list[Row]:
    """Every run there could be; each seed and task has a level of skill, and winning tickets gain a point."""
    rng = np.random.default_rng(0)
    skill = {at: rng.normal(0, 10) for at in product("xy", range(seeds))}
    return [
        {
            "kind": kind,
            "level": level,
            "task": task,
            "seed": seed,
            "score": 70 + skill[task, seed] + (kind == "winning") + noise * rng.normal(),
        }
        for kind, level in PLACES
        for task in "xy"
        for seed in range(seeds)
    ]


def test_the_naive_loop_would_see_a_wrong_pairing() -> None:
    """Controls: other seeds, other tasks, or no correction do not pass for right."""
    of, over, by = CASES[0]
    rows = whole()
    expected = frame_of(naive(rows, of, over, by), by)
    assert expected["p"].notna().all()
    pd.testing.assert_frame_equal(paired_gains(pd.DataFrame(rows), of, over, by), expected, check_dtype=False)
    turned = [{**row, "seed": (row["seed"] + 1) % 4} if row["kind"] == "dense" else row for row in rows]
    swapped = [{**row, "task": {"x": "y", "y": "x"}[row["task"]]} if row["kind"] == "dense" else row for row in rows]
    for wrong in (turned, swapped):
        other = paired_gains(pd.DataFrame(wrong), of, over, by)
        assert (other["p"] - expected["p"]).abs().min() > 1e-3
    assert (expected["p_holm"] - expected["p"]).max() > 1e-3
    pooled = paired_gains(pd.DataFrame(rows), of, {**over, "task": "x"}, by)  # named: it need not agree
    of_x = expected["task"] == "x"
    assert np.allclose(pooled["p"][of_x], expected["p"][of_x])
    assert not np.isclose(pooled["difference"][~of_x], expected["difference"][~of_x]).any()


def test_pairing_takes_out_what_seeds_have_in_common() -> None:
    """A gain of one point among seeds that differ by ten: seen in pairs, not without them."""
    rows = pd.DataFrame(whole(seeds=8, noise=0.3))
    found = paired_gains(rows, {"kind": "winning"}, {"kind": "dense", "level": ...}, ("level", "task"))
    assert (found["p_holm"] < 0.05).all()
    assert found["difference"].between(0.5, 1.5).all()
    assert ((found["low"] < 1) & (found["high"] > 1)).all()
    own = rows[rows["task"] == "x"].set_index("kind")["score"]
    assert stats.ttest_ind(own["winning"], own["dense"]).pvalue > 0.5
    nothing = paired_gains(rows, {"kind": "random"}, {"kind": "dense", "level": ...}, ("level", "task"))  # control
    assert (nothing["p_holm"] > 0.05).all()


def test_noise_rarely_shows_any_gain() -> None:
    """Eight gains at once, sixty times: corrected, one in twenty times some may be found by chance; raw, far more."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        [dict(zip(LABELS, (k, lv, t, s), strict=True)) for k, lv in PLACES for t in "xy" for s in range(5)]
    )
    found, raw = 0, 0
    for _ in range(60):
        gains = paired_gains(frame.assign(score=rng.normal(size=len(frame))), *CASES[0])
        assert len(gains) == 8
        found += bool((gains["p_holm"] < 0.05).any())
        raw += bool((gains["p"] < 0.05).any())
    assert found <= stats.binom.ppf(0.999, 60, 0.05)
    assert raw > found


def test_what_cannot_be_had_is_missing() -> None:
    rows = pd.DataFrame(
        {
            "kind": ["dense", "dense", "dense", "one", "two", "two", "same", "same", "gone", "else"],
            "seed": [0, 1, 2, 0, 0, 1, 0, 1, 0, 9],
            "score": [50.0, 52.0, np.nan, 53.0, 51.0, 55.0, 51.0, 53.0, np.nan, 60.0],
        }
    )
    found = paired_gains(rows, {"kind": ...}, {"kind": "dense"}, ("kind",)).set_index("kind")
    assert found["seeds"].to_dict() == {"dense": 2, "one": 1, "two": 2, "same": 2, "gone": 0, "else": 0}
    assert found["difference"].dropna().to_dict() == {"dense": 0.0, "one": 3.0, "two": 2.0, "same": 1.0}
    assert found[["score", "over", "low", "high", "p", "p_holm"]].loc[["gone", "else"]].isna().all(axis=None)
    assert list(found["p"].dropna().index) == ["two"]  # one seed, or equal differences, allow no test
    assert found.loc["two", "p_holm"] == found.loc["two", "p"]  # what was not tested does not count
    assert found.loc["one", "over"] == 50.0  # of the seeds that both have
    assert paired_gains(rows, {"kind": "none such"}, {"kind": "dense"}, ("kind",)).empty
    (nobody,) = paired_gains(rows, {"kind": "none such"}, {"kind": "dense"}).to_dict("records")
    assert nobody["seeds"] == 0
    assert np.isnan(nobody["difference"])


def test_missing_labels_agree_with_each_other() -> None:
    """A column that some runs have no label for is NaN there."""
    rows = pd.DataFrame(
        [
            {"kind": kind, "rate": rate, "seed": seed, "score": score + bonus * (kind == "super")}
            for rate, score, bonus in ((np.nan, 50.0, 1.0), (0.1, 60.0, 2.0))
            for kind in ("dense", "super")
            for seed in (0, 1)
        ]
    )
    found = paired_gains(rows, {"kind": "super"}, {"kind": "dense"}, ("rate",))
    assert found["seeds"].tolist() == [2, 2]
    assert found["difference"].tolist() == [1.0, 2.0]
    assert selected(rows, {"rate": np.nan})["score"].tolist() == [50.0, 50.0, 51.0, 51.0]


def test_several_tables_are_corrected_as_one() -> None:
    rows = pd.DataFrame(whole())
    parts = [
        paired_gains(rows, {"kind": kind}, {"kind": "dense", "level": ...}, ("level", "task"))
        for kind in ("winning", "random")
    ]
    together = all_gains(parts)
    p = [*parts[0]["p"], *parts[1]["p"]]
    assert together["p"].tolist() == p
    assert together["p_holm"].tolist() == holm(p)
    assert (together["p_holm"] >= [*parts[0]["p_holm"], *parts[1]["p_holm"]]).all()
    assert all_gains([]).empty
    assert list(all_gains([]).columns) == [*GAIN, "p_holm"]


def test_means_are_of_finished_runs() -> None:
    rows = pd.DataFrame(
        {
            "kind": ["b", "b", "b", "a", "c"],
            "status": ["finished", "finished", "diverged", "finished", "missing"],
            "score": [1.0, 3.0, np.nan, 5.0, np.nan],
        }
    )
    found = means(rows, ["kind"])
    assert found["kind"].tolist() == ["b", "a"]
    assert found[["mean", "runs"]].to_numpy().tolist() == [[2.0, 2], [5.0, 1]]
    assert found["std"].tolist()[0] == pytest.approx(np.sqrt(2))
    assert np.isnan(found["std"].tolist()[1])


def test_one_gain_by_hand() -> None:
    ours = pd.DataFrame({"seed": [3, 1, 2], "score": [6.0, 2.0, 4.0]})
    theirs = pd.DataFrame({"seed": [1, 2, 3, 4], "score": [1.0, 2.0, 3.0, 99.0]})
    found = gain(ours, theirs)  # differences 1, 2, 3
    assert (found["seeds"], found["score"], found["over"], found["difference"]) == (3, 4.0, 2.0, 2.0)
    assert found["p"] == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), 2))
