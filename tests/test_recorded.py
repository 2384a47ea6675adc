"""Recorded grids: what is in one is what the study said, and it is small; what cannot be recorded is refused."""

import json
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers.find_records import EXAMPLES, TARGETS, TASK, study
from supertickets.errors import TicketError
from supertickets.evidence.recorded import RecordedGrid, RecordedImportance, RecordedRun, record_runs
from supertickets.evidence.search.grid import grid_of
from supertickets.evidence.search.halving import Halving
from supertickets.evidence.search.replay import replay
from supertickets.studies.run import run_study
from supertickets.tasks.metrics import evaluate
from supertickets.tickets.drawing import normalise

SCRIPT = Path(__file__).parents[1] / "scripts" / "record_grid.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("record_grid", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_grid_says_what_the_study_said(tmp_path: Path) -> None:
    runs = study(control="none", kinds=("winning", "random"))
    record_runs(runs).save(tmp_path / "grid.safetensors")
    grid = RecordedGrid.load(tmp_path / "grid.safetensors")
    assert grid.levels == (0.1, 0.3, 0.4)
    assert grid.seeds == (0, 1, 2)
    assert np.array_equal(grid.targets, TARGETS)
    for run in runs.where():
        labels = run.step.labels
        (found,) = grid.where(kind=labels["kind"], level=labels["level"], seed=labels["seed"])
        outputs = run.result.predictions()["dev"]
        assert found.scores == tuple(epoch["score"] for epoch in run.result.epochs)
        assert np.array_equal(grid.right(found), outputs.argmax(axis=-1) == TARGETS)
        assert np.allclose(grid.contributions(found).mean(axis=1), found.scores)
        logits = outputs - outputs.max(axis=-1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(
            grid.losses[found.rows], -np.log(chances[:, np.arange(EXAMPLES), TARGETS]), rtol=2e-3
        )
        assert (found.heads, found.flops) == (run.result.trial.ticket.kept_heads, run.result.cost["flops"])
    (first, *_), (other, *_) = grid.where(level=0.1), grid.where(level=0.4)
    assert not np.array_equal(grid.right(first), grid.right(other))  # control


@pytest.mark.parametrize("metrics", [("accuracy", "f1"), ("matthews",), ("pearson", "spearman")])
def test_all_metrics_see_what_is_recorded(metrics: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = "pearson" in metrics
    targets = rng.normal(size=50).astype(np.float32) if numbers else rng.integers(0, 2, 50).astype(np.uint8)
    outputs = rng.normal(size=(2, 50, 1 if numbers else 2)).astype(np.float16).astype(np.float32)
    predicted = outputs[..., 0].astype(np.float16) if numbers else outputs.argmax(axis=-1).astype(np.uint8)
    run = RecordedRun("winning", 0.1, 0, 0, (1.0, 2.0), 2, 1, 1, None, 1.0, 0.0, 1.0)
    about = {"metrics": metrics, "classes": 0 if numbers else 2}
    RecordedGrid(about, (run,), targets, np.zeros((2, 50), np.float16), predicted).save(tmp_path / "grid")
    for epoch, said in zip(outputs, RecordedGrid.load(tmp_path / "grid").outputs(run), strict=True):
        assert evaluate(metrics, targets, said) == pytest.approx(evaluate(metrics, targets, epoch))


def test_a_whole_grid_is_small(tmp_path: Path) -> None:
    """8 levels, 3 kinds, 3 seeds, 1,000 dev examples, 4 epochs, importance after each of these over 5 shares."""
    rng, runs = np.random.default_rng(0), 3 * (1 + 8 * 3)
    kept = [RecordedRun("x", 0.1, 0, 4 * i, (50.123,) * 4, 1, 72, 6, None, 1e13, 1e12, 2e7) for i in range(runs)]
    scores = {"heads": rng.random((6, 12)), "ffns": rng.random(6)}
    importance = [RecordedImportance(seed, e, s, scores) for seed in range(3) for e in range(4) for s in range(5)]
    values = rng.random((4 * runs, 1000)).astype(np.float16)
    path = tmp_path / "grid"
    RecordedGrid({}, tuple(kept), rng.random(1000), values, values, tuple(importance)).save(
        path
    )  # numbers: the largest
    assert path.stat().st_size < 1.5e6


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    runs = study(control="none")
    with pytest.raises(TicketError, match="of tasks with one of at most 256 classes"):
        record_runs(replace(runs, tasks=(replace(TASK, metrics=("micro_f1",), targets=np.eye(2)[TARGETS]),)))
    with pytest.raises(TicketError, match="no winning ticket above level 0"):
        record_runs(study(control="none", kinds=("random",)))
    for content in (b"", b"no grid" * 10):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(TicketError, match="no recorded grid"):
            RecordedGrid.load(tmp_path / "other")
    grid = record_runs(runs)
    replace(grid, losses=grid.losses[:-1], predicted=grid.predicted[:-1]).save(tmp_path / "short")
    with pytest.raises(TicketError, match="damaged"):
        RecordedGrid.load(tmp_path / "short")


def test_importance_of_a_real_study(
    script: ModuleType, tiny_model: Path, words: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "task": "words", "model": str(tiny_model), "levels": (0.3, 0.6), "kinds": "winning", "seeds": 1, "epochs": 2,
        "batch_size": 16, "max_length": 16, "precision": "float32", "workers": 1, "device": "cpu", **words,
    }  # fmt: skip
    folder = run_study("find", asked, out=tmp_path / "study", dropout_masks="sequential").folder
    grid = script.record(folder, "cpu")
    assert [(one.epoch, one.share) for one in grid.importance] == [
        (epoch, share) for epoch in (1, 2) for share in (1.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
    ]
    (dense,) = grid.where(kind="dense")
    last, kept = grid.importance[5], grid.importance[5 * (dense.best_epoch - 1)]
    opened = script.open_study(folder).replay()
    stored = opened.where(kind="dense")[0].result.scores()
    assert all(np.array_equal(kept.scores[kind], stored[kind]) for kind in stored)
    assert not np.array_equal(grid.importance[0].scores["heads"], last.scores["heads"])
    assert not np.allclose(grid.importance[6].scores["heads"], last.scores["heads"])  # of four examples
    assert np.array_equal(last.normalised["heads"], normalise(last.scores)["heads"])
    asked |= {"score_examples": "settled", "levels": (0.3,)}
    early = run_study("find", asked, out=tmp_path / "settled", dropout_masks="sequential").folder
    assert grid.settled == {0: script.open_study(early).replay().where(kind="dense")[0].result.scored_share()}
    grid.save(tmp_path / "grid")
    again = RecordedGrid.load(tmp_path / "grid")
    assert again.settled == grid.settled
    assert np.array_equal(again.importance[7].scores["ffns"], grid.importance[7].scores["ffns"])
    replayed = replay(Halving(), grid_of(again, "words"), budget=1.0)
    assert [len(turn) for turn in replayed.asks] == [2]  # both levels, one epoch of two
    first, second = (again.where(kind="winning", level=level)[0].scores[0] for level in (0.3, 0.6))
    assert replayed.answer.level == int(second > first)
    texts = [json.loads(line)["text"] for line in words["dev_file"].read_text().splitlines()]
    content = (tmp_path / "grid").read_bytes()
    assert not any(text.encode() in content for text in [*texts, str(tmp_path)])

    def disturbing(trainer: Any, *more: Any) -> Any:
        next(iter(trainer.learners[0].model.parameters())).data.add_(1e-3)
        return score_now(trainer, *more)

    score_now = script.score_now
    monkeypatch.setattr(script, "score_now", disturbing)
    with pytest.raises(TicketError, match="trained again, the dense run of seed 0 has other"):
        script.record(folder, "cpu")
