"""Studies of `find --search` that are run: stopped and gone on with, grown into whole grids, shown by the commands."""

import json
from pathlib import Path
from typing import Any

import pytest

import supertickets
from helpers.study_files import contents
from supertickets.cli import main
from supertickets.lab.outcome import CHECKPOINT, PARTIAL
from supertickets.lab.workbench import Workbench
from supertickets.studies.folder import clean, status
from supertickets.studies.plan import plan_study

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    return {"model": str(tiny_model), "task": "words", "epochs": 2, "batch_size": 16, "learning_rate": 1e-2,
            "max_length": 16, "precision": "float32", "workers": 1, "seeds": 1, "levels": (0.1, 0.34, 0.67),
            "kinds": ("winning", "random"), **words}  # fmt: skip


SEARCH: dict[str, Any] = {"search": "halving", "budget": "0.95"}


def results(folder: Path) -> dict[str, Any]:
    """Everything that is not about time: of partly trained trials, what they say."""
    found: dict[str, Any] = {}
    for name, content in contents(folder).items():
        if name.endswith(PARTIAL):
            said = json.loads(content)
            found[name] = said["epochs"], said["files"], said["fraction"]
        elif not name.endswith((CHECKPOINT, "progress.json")):
            found[name] = content
    return found


def test_a_killed_search_ends_with_the_same_bytes_and_grows_into_the_grid(
    tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = supertickets.find(out=tmp_path / "whole", **SEARCH, **asked)
    assert whole.findings.search.ended
    assert len(whole.findings.search.turns) == 2
    stopped, run, left = tmp_path / "stopped", Workbench.run, [5]  # dense, three levels, one of the second turn

    def stopping(self: Workbench, *job: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return run(self, *job)

    monkeypatch.setattr(Workbench, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        supertickets.find(out=stopped, **SEARCH, **asked)
    monkeypatch.undo()
    capsys.readouterr()
    assert main(["status", str(stopped)]) == 0
    assert "the best level so far is" in capsys.readouterr().out
    assert main(["report", str(stopped)]) == 0
    assert "goes on with it" in capsys.readouterr().out
    again = supertickets.find(out=stopped, **SEARCH, **asked)
    assert again.verdict.split(" This study was looked at")[0] == whole.verdict
    first, second = results(tmp_path / "whole"), results(stopped)
    assert {name for name in first if not name.startswith("looks")} == {
        name for name in second if not name.startswith("looks")
    }
    assert all(second[name] == of for name, of in first.items() if not name.startswith("looks"))

    found, plan = status(stopped), plan_study("find", out=stopped, **SEARCH, **asked)
    assert found["state"] == "finished"
    assert found["done"] == found["total"] == plan.done == plan.trainings > 0  # also those stopped early
    before = {path: path.read_bytes() for path in (stopped / "trials").glob("*/outcome.json")}
    assert any(path.endswith(CHECKPOINT) for path in clean(stopped, dry=True)["files"])
    clean(stopped)
    grid = supertickets.find(out=stopped, **asked)
    assert grid.findings.search is None
    assert grid.findings.paper is not None
    assert all(path.read_bytes() == content for path, content in before.items())
    trials = {path.parent.name for path in before}
    assert trials < set(grid.table["trial"])
    alone = supertickets.find(out=tmp_path / "grid", **asked)
    columns = ["kind", "level", "seed", "score", "trial"]
    assert grid.table[columns].equals(alone.table[columns])  # also those that went on without a checkpoint


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--levels", "0.3"], "at least two levels"),
        (["--budget", "2days"], "of hours of training"),
        (["--budget", "0.01"], "expected at least"),
        (["--search", "half"], "halving"),
    ],
)
def test_misuse_is_told_before_anything_is_written(
    tmp_path: Path, flags: list[str], said: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["find", "--search", "halving", "--model", str(tiny_model), "--task", "entailment", "--out"]
    assert main([*common, str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_small_dev_set_is_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(Path(asked["dev_file"]).read_text().splitlines(keepends=True)[:8]))
    with pytest.raises(supertickets.TicketError, match="at least 20 dev examples, got 8"):
        supertickets.find(out=tmp_path / "out", **SEARCH, **{**asked, "dev_file": few})
