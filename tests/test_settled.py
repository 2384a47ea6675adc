"""Importance that is measured on as many examples as the tickets need: where it stops, and where it may not."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.find_records import study
from helpers.trials import make_trial
from supertickets.cli import main
from supertickets.evidence.find import analyse_find
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import load_outcome
from supertickets.lab.workbench import Workbench
from supertickets.studies.compare import CompareSettings
from supertickets.studies.run import run_study
from supertickets.tickets.drawing import draw_ranked, normalise, order_of_pruning
from supertickets.tickets.importance import Scores, sensitivity, settled
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.batches import in_random_parts
from supertickets.training.scoring import score_now

EXAMPLES, BATCH = 1600, 20
KEPT = {"heads": np.ones((6, 12), bool), "ffns": np.ones(6, bool)}


def made_up(spread: float, seed: int = 0, gap: float = 1.0) -> Scores:
    """Return |dL/dxi| of every example: means that differ by about `gap`, around which examples vary by `spread`."""
    rng = np.random.default_rng(seed)
    found = {}
    for kind, kept in KEPT.items():
        means = 1.0 + gap * rng.permutation(kept.size).reshape(kept.shape) / kept.size
        found[kind] = means * rng.gamma(1 / spread**2, spread**2, size=(EXAMPLES, *kept.shape))
    return found


def mean_of(values: Scores, monkeypatch: pytest.MonkeyPatch, order_seed: int = 0) -> tuple[Scores, int]:
    """Return the mean over examples that a measure takes, and of how many it was."""
    parts = in_random_parts(np.arange(EXAMPLES) % 30, BATCH, order_seed)
    seen = 0

    def derivatives(measured: Any) -> Iterator[Scores]:
        nonlocal seen
        for part in parts:
            for rows in part:
                seen += len(rows)
                yield {kind: of[rows] for kind, of in values.items()}

    monkeypatch.setattr(sensitivity, "mask_derivatives", derivatives)
    ends = np.cumsum([sum(map(len, part)) for part in parts]).tolist()
    found = sensitivity.mean_over_examples(SimpleNamespace(kept=KEPT, parts=tuple(ends), seed=0), 1)
    return found, seen


def test_it_stops_early_only_where_the_ranking_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen = mean_of(made_up(spread=0.005), monkeypatch)
    assert seen == EXAMPLES // 16
    close = made_up(spread=2.0)
    found, seen = mean_of(close, monkeypatch)
    assert seen == EXAMPLES
    whole = {kind: of.mean(axis=0) for kind, of in close.items()}
    for kind in KEPT:
        np.testing.assert_allclose(found[kind], whole[kind], rtol=1e-12)
        assert not np.allclose(close[kind][: EXAMPLES // 2].mean(axis=0), whole[kind], rtol=1e-4)  # control
    assert mean_of(made_up(spread=0.1, gap=4.0), monkeypatch)[1] == EXAMPLES // 4


def test_what_changes_sides_is_as_little_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the tickets of all examples; control: stopping after a sixteenth of them changes more."""
    moved: dict[str, list[float]] = {"settled": [], "at once": []}
    for seed in range(12):
        values = made_up(spread=0.3, seed=seed, gap=4.0)
        whole = {kind: of.mean(axis=0) for kind, of in values.items()}
        found, seen = mean_of(values, monkeypatch, seed)
        assert seen > EXAMPLES // 16
        first = {kind: of[: EXAMPLES // 16].mean(axis=0) for kind, of in values.items()}
        moved["settled"].append(settled.displaced(found, [whole], KEPT))
        moved["at once"].append(settled.displaced(first, [whole], KEPT))
    # The largest of all cuts of one study is above what each is expected to be.
    assert np.mean(moved["settled"]) < 3 * settled.ERROR < np.mean(moved["at once"])


def test_the_order_of_pruning_is_that_of_tickets() -> None:
    rng = np.random.default_rng(0)
    there = {kind: rng.random(kept.shape) < 0.8 for kind, kept in KEPT.items()}
    there["heads"][:, 0] = True
    scores = normalise({kind: rng.random(kept.shape) * there[kind] for kind, kept in KEPT.items()})
    for kind in ("winning", "losing"):
        order = order_of_pruning(scores["heads"], "heads", kind)
        for count in (1, 20, 66):
            ticket = draw_ranked(scores, {"heads": count}, kind)
            assert set(np.flatnonzero(~ticket.heads)) == set(order[:count])
        first = order_of_pruning(scores["heads"], "heads", kind, there["heads"])[: (~there["heads"]).sum()]
        assert set(first) == set(np.flatnonzero(~there["heads"]))
    assert len(order) == 66  # a head a layer stays


@pytest.mark.parametrize("examples", [3, 15, 100, 1000])
def test_random_parts_have_every_example_once(examples: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 40, examples)
    parts = in_random_parts(lengths, 8, 0)
    every = np.concatenate([rows for part in parts for rows in part])
    assert sorted(every) == [*range(examples)]
    done = np.cumsum([sum(map(len, part)) for part in parts])
    assert done.tolist() == sorted({examples // share for share in (16, 8, 4, 2, 1)} - {0})
    for part in parts:
        assert all(len(rows) == 8 for rows in part[:-1])
        assert (np.diff(lengths[np.concatenate(part)]) <= 0).all()  # little padding
    assert examples < 9 or any(
        (rows != other).any() for rows, other in zip(parts[-1], in_random_parts(lengths, 8, 1)[-1], strict=True)
    )


def test_only_what_is_set_enters_the_key(tiny_model: Path, words: dict[str, Path]) -> None:
    trial = make_trial(tiny_model, words)
    usual, early = (
        trial.model_copy(update={"scoring": ScoringSettings(score_examples=how)}) for how in ("all", "settled")
    )
    assert "score_examples" not in usual.content()["scoring"]
    assert early.content()["scoring"]["score_examples"] == "settled"
    assert usual.key != early.key
    plain = trial.model_copy(update={"scoring": ScoringSettings(score_attention="plain")})
    assert "score_attention" not in usual.content()["scoring"]
    assert plain.content()["scoring"]["score_attention"] == "plain"
    assert len({usual.key, early.key, plain.key}) == 3


def test_plain_attention_gives_the_same_scores_without_the_kernel(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path
) -> None:
    trial, bench, found = make_trial(tiny_model, words), Workbench("cpu"), {}
    for how in ("fused", "plain"):
        asked = trial.but(scoring=ScoringSettings(score_attention=how))
        trainer = bench.trainer(Job(asked, tmp_path / how, False, "x"))
        with torch.profiler.profile() as seen:
            scores = score_now(trainer, asked.scoring, lambda: None)  # type: ignore[arg-type, return-value]
        found[how] = scores, any("flash_attention" in event.key for event in seen.key_averages())
    assert (found["fused"][1], found["plain"][1]) == (True, False)
    for kind, values in found["fused"][0].items():
        np.testing.assert_allclose(found["plain"][0][kind], values, rtol=1e-4)
        assert (values > 0).all()


def test_sums_with_decay_refuse_it(tmp_path: Path, words: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train-file", str(words["train_file"]), "--out", str(tmp_path / "out")]
    assert main(["find", *flags, "--score-examples", "settled", "--accumulation", "decaying"]) == 2
    assert "use --accumulation mean or --score-examples all" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert ScoringSettings(importance="fisher", accumulation="decaying", score_examples="settled").read()  # not read
    assert ScoringSettings(importance="magnitude", score_examples="settled").read() == ScoringSettings(
        importance="magnitude"
    )
    settings = CompareSettings(score_examples="settled", choices=("accumulation", "counts"))
    assert settings.idle == ["accumulation"]


def test_the_share_is_noted_and_said(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Path]
) -> None:
    monkeypatch.setattr(settled, "ERROR", 1.0)  # anything is settled enough, once there are enough examples
    monkeypatch.setattr(settled, "LEAST", 16)
    asked = {
        "task": "words", "model": str(tiny_model), "levels": 0.5, "kinds": "winning", "seeds": 1, "epochs": 1,
        "batch_size": 8, "max_length": 16, "precision": "float32", "workers": 1, **words,
    }  # fmt: skip
    result = run_study("find", asked, out=tmp_path / "out", score_examples="settled")
    outcomes = {key: load_outcome(result.folder / "trials" / key) for key in result.table["trial"]}
    shares = [one.scored_share() for one in outcomes.values()]
    assert sorted(shares, key=str) == [0.25, None]  # the dense run's 16 of 64 examples
    assert "Importance was measured on 25 % of the training examples, since more would hardly" in result.verdict
    assert "Importance was measured" not in analyse_find(study(control="none")).verdict  # control: of all examples
    (dense,) = (one for one in outcomes.values() if one.scored_share() is not None)
    trial = dense.trial.but(scoring=dense.trial.scoring.model_copy(update={"score_examples": "all"}))
    whole = Workbench("cpu").run(Job(trial, tmp_path / "whole", False, "x"), lambda event: None)
    assert dense.cost["flops"] < whole.cost["flops"]
    assert whole.scored_share() is None
    assert "scored_on" not in str(dense.cost)
