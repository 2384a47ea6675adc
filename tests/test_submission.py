"""GLUE submissions: what GLUE takes is written, what it refuses is told."""

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoConfig

from helpers.models import save_tiny_model
from helpers.places import SHARED
from supertickets.anatomy import Shape
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.published import published, table_2
from supertickets.evidence.runs import Runs, TaskInfo
from supertickets.export.predict import predict
from supertickets.lab.outcome import load_outcome
from supertickets.lab.steps import Run, Step
from supertickets.studies.run import Result, run_study
from supertickets.studies.submit import _choose, _Found, submit
from supertickets.tasks import TaskSource, submission
from supertickets.tasks.glue import GLUE
from supertickets.tasks.submission import FILES, TestFile, read_submission, write_submission

OFFICIAL = {  # gluebenchmark.com's list of files, and the sizes of its test sets
    "AX": 1104, "CoLA": 1063, "MNLI-m": 9796, "MNLI-mm": 9847, "MRPC": 1725, "QNLI": 5463, "QQP": 390965, "RTE": 3000,
    "SST-2": 1821, "STS-B": 1379, "WNLI": 146,
}  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> dict[str, TestFile]:
    """The same files with three rows each."""
    files = {name: replace(file, rows=3) for name, file in FILES.items()}
    monkeypatch.setattr(submission, "FILES", files)
    monkeypatch.setattr("supertickets.studies.submit.FILES", files)
    return files


def constant(files: dict[str, TestFile]) -> dict[str, list[str]]:
    return {name: [file.labels[-1] if file.labels else "2.5"] * file.rows for name, file in files.items()}


def test_files_and_sizes_are_the_official_ones() -> None:
    assert {name: file.rows for name, file in FILES.items()} == OFFICIAL
    assert set(FILES["AX"].labels) == {"entailment", "neutral", "contradiction"}
    assert set(FILES["QNLI"].labels) == set(FILES["RTE"].labels) == {"entailment", "not_entailment"}
    assert FILES["STS-B"].labels == ()
    assert all(set(FILES[name].labels) == {"0", "1"} for name in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI"))


def test_what_is_written_can_be_read(short: dict[str, TestFile], tmp_path: Path) -> None:
    write_submission(tmp_path / "s.zip", constant(short))
    assert read_submission(tmp_path / "s.zip") == constant(short)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.read("RTE.tsv") == b"index\tprediction\n0\tentailment\n1\tentailment\n2\tentailment\n"
    first = (tmp_path / "s.zip").read_bytes()
    write_submission(tmp_path / "s.zip", constant(short))
    assert (tmp_path / "s.zip").read_bytes() == first


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD = b"index\tprediction\n0\tentailment\n1\tentailment\n2\tentailment\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("RTE.tsv", None, "there is no RTE.tsv in it; GLUE takes all 11 files"),
        ("rte.tsv", GOOD, "unknown file in .*'rte.tsv': did you mean 'RTE.tsv'"),
        ("RTE.tsv", GOOD.replace(b"prediction", b"label"), "line 1: expected the header"),
        ("RTE.tsv", GOOD.replace(b"2\tentailment\n", b""), "2 predictions, expected 3"),
        ("RTE.tsv", GOOD + b"3\tentailment\n", "4 predictions, expected 3"),
        ("RTE.tsv", GOOD.replace(b"1\tentailment", b"1\tneutral"), "line 3: prediction 'neutral', expected not_entail"),
        ("RTE.tsv", GOOD.replace(b"1\t", b"2\t"), "line 3: expected '1<TAB>prediction'"),
        ("RTE.tsv", GOOD.replace(b"1\t", b"1,"), "line 3: expected '1<TAB>prediction'"),
        ("RTE.tsv", GOOD[:-1], "the last line has no line break"),
        ("RTE.tsv", GOOD.replace(b"\n", b"\r\n"), "expected the header"),
        ("RTE.tsv", b"\xff" + GOOD, "not UTF-8"),
        ("STS-B.tsv", b"index\tprediction\n0\t5.1\n1\t0\n2\t0\n", "prediction '5.1', expected a number from 0 to 5"),
        ("STS-B.tsv", b"index\tprediction\n0\tnan\n1\t0\n2\t0\n", "prediction 'nan'"),
        ("CoLA.tsv", b"index\tprediction\n0\t1.0\n1\t0\n2\t0\n", "prediction '1.0', expected 0 or 1"),
    ],
)
def test_the_reader_is_strict(
    name: str, content: bytes | None, message: str, short: dict[str, TestFile], tmp_path: Path
) -> None:
    write_submission(tmp_path / "good.zip", constant(short))
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        files = {found: archive.read(found) for found in archive.namelist()}
    files.pop(name, None)
    if content is not None:
        files[name] = content
    (tmp_path / "bad.zip").write_bytes(packed(files))
    with pytest.raises(TicketError, match=message):
        read_submission(tmp_path / "bad.zip")


def test_what_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_text("index\tprediction\n")
    with pytest.raises(TicketError, match="not a zip file"):
        read_submission(tmp_path / "bad.zip")
    with pytest.raises(TicketError, match="no such file"):
        read_submission(tmp_path / "none.zip")


def test_nothing_is_written_that_could_not_be_read(short: dict[str, TestFile], tmp_path: Path) -> None:
    wrong = {**constant(short), "RTE": ["entails"] * 3}
    with pytest.raises(TicketError, match="prediction 'entails'"):
        write_submission(tmp_path / "s.zip", wrong)
    assert list(tmp_path.iterdir()) == []


# --- from studies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GLUE folder: RTE, STS-B and MNLI in the official files' form."""
    folder = tmp_path_factory.mktemp("glue")
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(f"w{word}" for word in rng.integers(0, 24, rng.integers(3, 8)))

    def write(path: str, columns: list[str], rows: int, last: Any) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        lines = ["\t".join(columns)]
        for row in range(rows):
            cells = [str(row), text(), text()] + ([last(row)] if last else [])
            lines.append("\t".join(cells))
        (folder / path).write_text("\n".join(lines) + "\n")

    pair = ["index", "sentence1", "sentence2"]
    for split, rows in (("train", 24), ("dev", 12)):
        write(f"RTE/{split}.tsv", [*pair, "label"], rows, lambda row: ("entailment", "not_entailment")[row % 2])
        write(f"STS-B/{split}.tsv", [*pair, "score"], rows, lambda row: f"{row % 11 / 2}")
    words = ("contradiction", "neutral", "entailment")
    write("MNLI/train.tsv", [*pair, "gold_label"], 24, lambda row: words[row % 3])
    write("MNLI/dev_matched.tsv", [*pair, "gold_label"], 12, lambda row: words[row % 3])
    for path in ("RTE/test", "STS-B/test", "MNLI/test_matched", "MNLI/test_mismatched", "AX/AX"):
        write(f"{path}.tsv", pair, 3, None)
    return folder


@pytest.fixture(scope="module")
def studies(glue: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    base = tmp_path_factory.mktemp("studies")
    model = str(save_tiny_model(base / "model"))
    asked = {
        "model": model, "data": glue, "levels": (0.5,), "kinds": ("winning",), "seeds": 1, "epochs": 2, "workers": 1,
        "batch_size": 8, "learning_rate": 1e-2, "max_length": 20, "precision": "float32",
    }  # fmt: skip
    return {task: run_study("find", asked, task=task, out=base / task) for task in ("rte", "stsb", "mnli")}


PATHS = {
    "RTE": "RTE/test.tsv", "STS-B": "STS-B/test.tsv", "MNLI-m": "MNLI/test_matched.tsv",
    "MNLI-mm": "MNLI/test_mismatched.tsv", "AX": "AX/AX.tsv",
}  # fmt: skip


def pairs(path: Path) -> tuple[list[str], list[str]]:
    """The first and the second sentences of a test file, read by hand."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [row[1] for row in rows], [row[2] for row in rows]


def answers(model: Path, text: list[str], pair: list[str] | None, length: int) -> list[str]:
    """What a model says of texts, as GLUE takes it: the likeliest class by name, or a number from 0 to 5."""
    outputs, config = predict(model, text, pair, length), AutoConfig.from_pretrained(model)
    if config.num_labels == 1:
        return [f"{min(max(value, 0.0), 5.0):.4f}" for value in outputs[:, 0].tolist()]
    return [config.id2label[int(row.argmax())] for row in outputs]


def test_super_tickets_predict_the_test_sets(
    studies: dict[str, Result], glue: Path, short: dict[str, TestFile], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folders = [str(one.folder) for one in studies.values()]
    assert main(["submit", *folders, "--fill", "--out", str(tmp_path / "s.zip")]) == 0
    said = capsys.readouterr()
    assert "predicted STS-B, MNLI-m, MNLI-mm, RTE, AX." in said.out
    assert "scores on GLUE's server mean nothing: CoLA, SST-2, MRPC, QQP, QNLI, WNLI" in said.err
    found = read_submission(tmp_path / "s.zip")
    assert found["CoLA"] == ["0"] * 3
    for name, path in PATHS.items():
        done = studies[short[name].task]
        model, length = done.shipped["ticket"] / "model", done.settings.max_length
        assert found[name] == answers(model, *pairs(glue / path), length), name
    assert len({value for name in PATHS.keys() - {"STS-B"} for value in found[name]}) > 1  # control
    assert len({float(value) for value in found["STS-B"]}) == 3  # real numbers, not the released code's zeros


def test_another_zip_is_not_overwritten(studies: dict[str, Result], tmp_path: Path, capsys: Any) -> None:
    np.savez(tmp_path / "precious.npz", numbers=np.arange(3))  # a zip too
    before = (tmp_path / "precious.npz").read_bytes()
    assert main(["submit", str(studies["rte"].folder), "--fill", "--out", str(tmp_path / "precious.npz")]) == 2
    assert "the file exists and is not a submission" in capsys.readouterr().err
    assert (tmp_path / "precious.npz").read_bytes() == before


def test_predictions_are_those_of_the_training(studies: dict[str, Result], glue: Path) -> None:
    """The shipped model, asked for the dev set, says what its training said."""
    from supertickets.tasks.tables import read_tsv

    for done in studies.values():
        settings = done.settings
        name, stem = {"rte": ("RTE", "dev"), "stsb": ("STS-B", "dev"), "mnli": ("MNLI", "dev_matched")}[settings.task]
        table = read_tsv(glue / name / f"{stem}.tsv")
        outputs = predict(
            done.shipped["ticket"] / "model",
            table.columns["sentence1"],
            table.columns["sentence2"],
            settings.max_length,
        )
        (key,) = done.table[done.table["kind"] == "winning"]["trial"]
        outcome = load_outcome(done.folder / "trials" / key)
        expected = outcome.predictions()["dev"][outcome.best_epoch - 1]
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        assert np.std(expected) > 1e-3


def made_up(task: str, by_seed: dict[int, float], weights: str = "w") -> _Found:
    """A study of which only each seed's score is known."""
    shape, source = Shape(12, 12, 768, 3072), TaskSource(task=task)
    info = TaskInfo("m", "bert", weights, shape, task, task, (), GLUE[task].metrics, 9, np.zeros(2), source)
    runs: dict[int, Any] = {
        seed: Run(
            Step({"kind": "winning", "level": 0.1, "seed": seed}, lambda done: None), None, SimpleNamespace(score=score)
        )
        for seed, score in by_seed.items()
    }
    return _Found(Runs((info,), Path(task), {}, list(runs.values())), None, runs)  # type: ignore[arg-type]


def test_one_seed_predicts_all_tasks() -> None:
    """That with the best average over tasks (A.1.3), not each task's own best; by hand."""
    rte, cola = made_up("rte", {0: 70.0, 1: 60.0, 2: 66.0, 5: 90.0}), made_up("cola", {0: 50.0, 1: 57.0, 2: 55.0})
    seeds, said = _choose({"rte": rte, "cola": cola}, "super ticket")
    assert seeds == {"rte": 2, "cola": 2}  # 60.0, 58.5, 60.5; seed 5 has no CoLA
    assert said == (
        "The super tickets of seed 2 predict all 2 tasks: their average dev score is 60.50, the best of seeds 0, 1, 2."
    )
    assert (rte.best, cola.best) == (5, 1)  # control: each task's own best
    seeds, said = _choose({"rte": rte}, "dense model")
    assert seeds == {"rte": 5}
    assert said == "The dense model of seed 5 predicts rte: its dev score is 90.00, the best of seeds 0, 1, 2, 5."


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (made_up("cola", {7: 50.0, 8: 51.0}), "The studies have no seed in common"),
        (made_up("cola", {0: 50.0, 8: 51.0}, "v"), "The studies have different base models"),
    ],
)
def test_where_seeds_cannot_be_compared_each_task_has_its_own(other: _Found, reason: str) -> None:
    seeds, said = _choose({"rte": made_up("rte", {0: 70.0, 1: 71.0}), "cola": other}, "super ticket")
    assert seeds == {"rte": 1, "cola": 8}
    assert (
        said
        == f"{reason}, so each task is predicted by its own best super ticket on the dev set: rte seed 1, cola seed 8."
    )


@pytest.fixture(scope="module")
def both(studies: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Studies of two tasks, with two seeds and two levels each."""
    base = tmp_path_factory.mktemp("both")
    asked = studies["rte"].settings.model_dump() | {"seeds": 2, "levels": (0.3, 0.5), "selection": "whole"}
    asked = {name: value for name, value in asked.items() if name not in ("out", "task", "first_seed")}
    return {task: run_study("find", asked, task=task, out=base / task) for task in ("rte", "stsb")}


@pytest.mark.parametrize("dense", [False, True])
def test_the_seeds_models_predict(
    dense: bool, glue: Path, both: dict[str, Result], short: dict[str, TestFile], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of each task the chosen seed's run, trained again where its weights are gone, says what it said in training."""
    from supertickets.tasks.tables import read_tsv

    folders = {task: shutil.copytree(one.folder, tmp_path / task) for task, one in both.items()}
    kind = "dense" if dense else "winning"
    scores = [one.table[one.table["kind"] == kind].groupby("seed")["score"].max() for one in both.values()]
    best = int((sum(scores) / 2).idxmax())
    said: dict[str, np.ndarray] = {}
    answered: dict[str, list[str]] = {}

    def watched(model: Path, text: Any, pair: Any, *how: Any) -> np.ndarray:
        task = "stsb" if AutoConfig.from_pretrained(model).num_labels == 1 else "rte"
        table = read_tsv(glue / {"rte": "RTE", "stsb": "STS-B"}[task] / "dev.tsv")
        said[task] = predict(model, table.columns["sentence1"], table.columns["sentence2"], *how)
        answered[task] = answers(model, text, pair, both[task].settings.max_length)
        return predict(model, text, pair, *how)

    monkeypatch.setattr("supertickets.export.predict.predict", watched)
    flags = ["--dense"] if dense else []
    arguments = [*map(str, folders.values()), *flags, "--fill", "--out", str(tmp_path / "s.zip")]
    assert main(["submit", *arguments]) == 0
    shown = capsys.readouterr()
    assert f"of seed {best} predict all 2 tasks" in shown.out
    trained_again = f"rte, dense seed {best}: its trained weights were not kept; it is trained again."
    assert (trained_again in shown.err) == dense
    assert set(said) == set(both)
    found = read_submission(tmp_path / "s.zip")
    assert (found["RTE"], found["STS-B"]) == (answered["rte"], answered["stsb"])
    for task, outputs in said.items():
        table = both[task].table
        runs = table[(table["kind"] == kind) & (table["seed"] == best)].sort_values(
            ["score", "parameters"], ascending=[False, True]
        )
        outcome = load_outcome(folders[task] / "trials" / runs["trial"].iloc[0])
        assert outcome is not None
        expected = outcome.predictions()["dev"][outcome.best_epoch - 1]
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        others = table[table["trial"] != outcome.key]["trial"].unique()
        for key in others:  # control: no other run says the same
            other = load_outcome(folders[task] / "trials" / key)
            assert np.abs(other.predictions()["dev"][other.best_epoch - 1] - expected).max() > 1e-3
    if not dense:
        assert main(["submit", *arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["table 2"] == []  # not the paper's model


def test_the_papers_test_results_stand_beside() -> None:
    tasks = [made_up(task, {0: 1.0}).runs.task for task in ("cola", "mnli", "rte", "wnli")]
    table = table_2(tasks)
    assert list(table.columns) == ["RTE Acc", "CoLA Mcc", "MNLI-m/mm Acc", "Average Score", "Average Compression"]
    assert table.loc["ST-DNN (BERT-base, published)"].tolist() == [
        "66.4",
        "52.1",
        "84.6/83.4",
        "79.6 (8 tasks)",
        "100.0%",
    ]
    assert table.loc["SuperT (BERT-base, published)"].tolist() == [
        "69.6",
        "54.3",
        "84.6/83.8",
        "80.4 (8 tasks)",
        "86.8%",
    ]
    large = [replace(one, shape=Shape(24, 16, 1024, 4096)) for one in tasks]  # which the paper did not submit
    assert table_2(large).empty
    for row in published()["table 2"]["base"].values():  # its averages are of nine figures
        figures = [value for values in row.values() if isinstance(values, list) for value in values]
        assert len(figures) == 9
        assert np.mean(figures) == pytest.approx(row["average"], abs=0.051)


def test_a_submission_that_is_not_whole_is_refused(
    studies: dict[str, Result], short: dict[str, TestFile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(studies["rte"].folder), "--out", str(tmp_path / "s.zip")]) == 2
    said = capsys.readouterr().err
    assert "a submission needs all 11 files; missing: CoLA (no study of cola)" in said
    assert not (tmp_path / "s.zip").exists()


def test_test_sets_are_found_where_training_sets_are(glue: Path, tmp_path: Path) -> None:
    from supertickets.tasks.glue import load_test_texts

    shutil.copytree(glue / "STS-B", tmp_path / "stsb")
    file = FILES["STS-B"]
    for data in (tmp_path, tmp_path / "stsb"):
        if data.name == "stsb":
            data = data.rename(tmp_path / "STS-B")
        found = load_test_texts(file.task, file.sources, file.hub, data)
        assert found == pairs(glue / "STS-B" / "test.tsv")


def test_wrong_submissions(
    studies: dict[str, Result], short: dict[str, TestFile], tmp_path: Path, words: dict[str, Path]
) -> None:
    rte = studies["rte"].folder
    with pytest.raises(TicketError, match="is also a study of rte"):
        submit([rte, rte], out=tmp_path / "s.zip")
    with pytest.raises(TicketError, match="there is no study in it"):
        submit([tmp_path], out=tmp_path / "s.zip")
    with pytest.raises(TicketError, match="that is a folder; expected a file, or a name for a new one"):
        submit([rte], out=tmp_path, fill=True)
    with pytest.raises(TicketError, match="this machine has no such device"):
        submit([rte], out=tmp_path / "s.zip", fill=True, device="cuda:9")
    with pytest.raises(TicketError, match="--data nowhere: no such folder"):
        submit([rte], data="nowhere", out=tmp_path / "s.zip", fill=True)
    mine = shutil.copytree(rte, tmp_path / "mine")
    settings = yaml.safe_load((mine / "settings.yaml").read_text()) | {"task": "train", "data": None}
    settings |= {name: str(path) for name, path in words.items()}
    (mine / "settings.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(TicketError, match="on a GLUE task; its task is 'train'"):
        submit([mine], out=tmp_path / "s.zip")


def test_a_test_file_of_another_size(studies: dict[str, Result], tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="RTE: its test file has 3 examples, GLUE's has 3000"):
        submit([studies["rte"].folder], out=tmp_path / "s.zip", fill=True)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the real GLUE files in ../shared/data")
def test_the_real_test_files_have_the_official_sizes() -> None:
    from supertickets.tasks.glue import load_test_texts

    found = {}
    for name, file in FILES.items():
        texts = load_test_texts(file.task, file.sources, file.hub, SHARED / "data" / "glue")
        if texts is not None:
            found[name] = len(texts[0])
    assert set(found) == {"CoLA", "SST-2", "STS-B", "QNLI", "RTE", "WNLI"}
    assert found == {name: OFFICIAL[name] for name in found}
