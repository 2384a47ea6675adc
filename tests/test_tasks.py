import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef, mean_absolute_error, r2_score, root_mean_squared_error

from helpers.places import SHARED
from supertickets.errors import TicketError
from supertickets.tasks import TASKS, Task, TaskSource, load_task, loader_of
from supertickets.tasks.builtin import BUILTIN
from supertickets.tasks.glue import GLUE
from supertickets.tasks.metrics import evaluate

ROOT = Path(__file__).resolve().parents[1]

# A few lines of every official file, as GLUE ships them.
FILES = {
    "cola": {
        "CoLA/train.tsv": "gj04\t1\t\tOur friends won't buy \"this.\ngj04\t0\t*\tThe more pictures.\n",
        "CoLA/dev.tsv": "gj04\t1\t\tThe sailors rode.\n",
    },
    "sst2": {
        "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\nwith wit \t1\n",
        "SST-2/dev.tsv": "sentence\tlabel\nit 's a charming journey . \t1\n",
    },
    "mrpc": {
        "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t7\t8\tHe said "so.\tHe spoke.\r\n0\t9\t1\tA\tB\r\n',
        "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tYes.\tYes!\r\n",
    },
    "stsb": {
        "STS-B/train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tm\tf\t2012\t1\tn\tn\tA plane.\tAn air plane.\t5.000\n1\tm\tf\t2012\t4\tn\tn\tA man.\tA dog.\t0.25\n",
        "STS-B/dev.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tm\tf\t2012\t1\tn\tn\tA hat.\tA hard hat.\t4.750\n"
        "1\tm\tf\t2012\t1\tn\tn\tA cat.\tA dog.\t1.000\n",
    },
    "qqp": {
        "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "1\t2\t3\tWhy?\tHow?\t0\n4\t5\t6\tcut off\n"
        "7\t8\t9\tWhat?\tWhat so?\t1\n",
        "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n",
    },
    "mnli": {
        "MNLI/train.tsv": "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA\tB\tneutral\tneutral\n"
        "1\tC\tD\tneutral\tentailment\n2\tE\tF\tneutral\tcontradiction\n",
        "MNLI/dev_matched.tsv": "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
        "0\tA\tB\tneutral\tneutral\tentailment\n",
    },
    "qnli": {
        "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tQ?\tS.\tentailment\n1\tQ2?\tS2.\tnot_entailment\n",
        "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tQ?\tS.\tentailment\n",
    },
    "rte": {
        "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tS1\tS2\tnot_entailment\n1\tS3\tS4\tentailment\n",
        "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tS\tT\tentailment\n",
    },
    "wnli": {
        "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tS1\tS2\t1\n1\tS3\tS4\t0\n",
        "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tS\tT\t0\n",
    },
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.mark.parametrize("name", GLUE)
def test_reads_glue_files(name: str, tmp_path: Path) -> None:
    task = load_task(TaskSource(task=name, data=write(tmp_path, FILES[name])))
    assert len(task.train) == (3 if name == "mnli" else 2)
    assert len(task.dev) == (2 if name == "stsb" else 1)
    assert (task.train.pair is None) == (name in ("cola", "sst2"))
    assert task.is_regression == (name == "stsb")


def test_glue_labels_and_texts(tmp_path: Path) -> None:
    write(tmp_path, {path: text for files in FILES.values() for path, text in files.items()})
    load = lambda name: load_task(TaskSource(task=name, data=tmp_path))  # noqa: E731
    assert load("cola").train.text == ["Our friends won't buy \"this.", "The more pictures."]
    assert load("cola").train.targets.tolist() == [1, 0]
    assert load("mrpc").train.text[0] == 'He said "so.'
    assert load("mrpc").train.pair == ["He spoke.", "B"]  # no carriage return
    assert load("stsb").train.targets.tolist() == [5.0, 0.25]
    assert load("qqp").train.text == ["Why?", "What?"]  # the cut-off line is left out
    assert load("mnli").labels == ("contradiction", "neutral", "entailment")
    assert load("mnli").train.targets.tolist() == [1, 2, 0]
    assert load("rte").dev.targets.tolist() == [1]


def test_mnli_with_the_mismatched_set(tmp_path: Path) -> None:
    write(tmp_path, FILES["mnli"])
    assert list(load_task(TaskSource(task="mnli", data=tmp_path)).evaluations) == ["dev"]
    write(tmp_path, {"MNLI/dev_mismatched.tsv": FILES["mnli"]["MNLI/dev_matched.tsv"].replace("A\tB", "X\tY")})
    task = load_task(TaskSource(task="mnli", data=tmp_path))
    assert list(task.evaluations) == ["dev", "dev_mismatched"]
    assert task.evaluations["dev_mismatched"].text == ["X"]


def test_the_folder_may_be_named_otherwise(tmp_path: Path) -> None:
    expected = load_task(TaskSource(task="sst2", data=write(tmp_path / "a", FILES["sst2"]))).fingerprint()
    inside = write(tmp_path / "b", FILES["sst2"]) / "SST-2"
    assert load_task(TaskSource(task="SST-2", data=inside)).fingerprint() == expected
    inside.rename(tmp_path / "b" / "sst2")
    assert load_task(TaskSource(task="sst2", data=tmp_path / "b")).fingerprint() == expected


HUB = {
    # the hub's own label order, which is not always the one here
    "cola": (["unacceptable", "acceptable"], ["sentence"], [0, 1]),
    "mnli": (["entailment", "neutral", "contradiction"], ["premise", "hypothesis"], [2, 1]),
    "rte": (["entailment", "not_entailment"], ["sentence1", "sentence2"], [1, 0]),
    "wnli": (["not_entailment", "entailment"], ["sentence1", "sentence2"], [0, 1]),
    "mrpc": (["not_equivalent", "equivalent"], ["sentence1", "sentence2"], [0, 1]),
    "stsb": (None, ["sentence1", "sentence2"], [0.0, 1.0]),
}


@pytest.mark.parametrize("name", HUB)
def test_glue_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the hub's answer, of the hub's form."""
    import datasets

    names, texts, expected = HUB[name]
    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    features = datasets.Features({**{text: datasets.Value("string") for text in texts}, "label": label})
    rows = datasets.Dataset.from_dict({**{text: [text, "b"] for text in texts}, "label": [0, 1]}, features=features)
    splits = ["train", "validation"] if name != "mnli" else ["train", "validation_matched", "validation_mismatched"]
    answer = datasets.DatasetDict(dict.fromkeys(splits, rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, config: answer)
    task = load_task(TaskSource(task=name))
    assert task.train.text == [texts[0], "b"]
    assert (task.train.pair is None) == (len(texts) == 1)
    assert task.dev.targets.tolist() == expected
    assert len(task.evaluations) == (2 if name == "mnli" else 1)


def test_no_hub_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    class TimeoutOfClient(Exception):  # noqa: N818
        """An HTTP library's own, such as httpx's."""

    for error in (ConnectionError("no network"), datasets.exceptions.DatasetGenerationError(), TimeoutOfClient()):

        def offline(*asked: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", offline)
        said = rf"nyu-mll/glue could not be downloaded from the hub \({type(error).__name__}\).*--data"
        with pytest.raises(TicketError, match=said):
            load_task(TaskSource(task="cola"))


SIZES = {"cola": (8551, 1043), "sst2": (67349, 872), "stsb": (5749, 1500), "rte": (2490, 277), "wnli": (635, 71)}


@pytest.mark.skipif(not (SHARED / "data/glue").is_dir(), reason="the real GLUE files are not beside this checkout")
@pytest.mark.parametrize("name", [*SIZES, "qnli", "qqp", "mnli"])
def test_reads_the_real_files(name: str) -> None:
    task = load_task(TaskSource(task=name, data=SHARED / "data/glue"))
    if name in SIZES:
        assert (len(task.train), len(task.dev)) == SIZES[name]
    if not task.is_regression:
        assert set(task.train.targets) == set(range(len(task.labels)))


# --- a user's own files -----------------------------------------------------------------------------------------------

ROWS = [
    {"text": f'a {i}, "b"', "other": f"c {i}", "label": "yes" if i % 3 else "no", "value": i / 7} for i in range(12)
]


def save(path: Path, rows: list[dict] = ROWS) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:  # nothing is quoted, as in GLUE's files
        lines = [frame.columns, *frame.itertuples(index=False)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_reads_the_same(ending: str, tmp_path: Path) -> None:
    file = save(tmp_path / f"rows.{ending}")
    task = load_task(TaskSource(task="mine", train_file=file, dev_file=file, text_pair="other"))
    assert task.train.text == [row["text"] for row in ROWS]
    assert task.train.pair == [row["other"] for row in ROWS]
    assert task.labels == ("no", "yes")
    regression = load_task(TaskSource(task="mine", train_file=file, dev_file=file, label="value", regression=True))
    np.testing.assert_allclose(regression.train.targets, [row["value"] for row in ROWS])
    assert regression.metrics == ("pearson", "spearman", "r2", "mae", "rmse")


def test_a_dev_set_is_taken_from_the_training_file(tmp_path: Path) -> None:
    task = load_task(TaskSource(task="mine", train_file=save(tmp_path / "rows.csv"), dev_share=0.25))
    assert (len(task.train), len(task.dev)) == (9, 3)
    assert not set(task.train.text) & set(task.dev.text)


def test_number_labels_are_in_their_order(tmp_path: Path) -> None:
    file = save(tmp_path / "rows.csv", [{"text": "a", "label": label} for label in (10, 9, -1, 9)])
    assert load_task(TaskSource(task="mine", train_file=file, dev_file=file)).labels == ("-1", "9", "10")


def test_equal_numbers_are_one_label(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in (0, 1.0, 1, 0.0)))
    task = load_task(TaskSource(task="mine", train_file=file, dev_file=file))
    assert task.labels == ("0", "1")
    assert task.train.targets.tolist() == [0, 1, 1, 0]


def test_flags_of_own_files_need_files() -> None:
    with pytest.raises(TicketError, match=r"--regression describes your own files: name them with --train-file"):
        load_task(TaskSource(task="sentiment", regression=True))


def changed(**values: object) -> list[dict]:
    return [ROWS[0] | values, *ROWS[1:]]


BAD = {
    "no such column": (ROWS, {"text": "txt"}, r"unknown column.*'txt'.*did you mean 'text'"),
    "no such label column": (ROWS, {"label": "lable"}, r"did you mean 'label'"),
    "null texts": (changed(text=None), {}, r"'text' has no text in 1 of 12 examples, the first is example 1"),
    "all null texts": ([row | {"text": None} for row in ROWS], {}, r"'text' has no text in 12 of 12 examples"),
    "blank texts": ([row | {"text": " "} for row in ROWS], {}, "blank in every example"),
    "numbers for text": (ROWS, {"text": "value"}, "expected text"),
    "a missing label": (changed(label=None), {}, "no label in example 1"),
    "one class": ([row | {"label": "yes"} for row in ROWS], {}, "at least two classes"),
    "words for numbers": (ROWS, {"regression": True}, r"example 1 has target 'no', expected a finite number"),
    "NaN": (changed(value="nan"), {"label": "value", "regression": True}, "'nan', expected a finite number"),
    "infinity": (changed(value="inf"), {"label": "value", "regression": True}, "expected a finite number"),
    "NaN for a class": (changed(label=float("nan")), {}, "no label in example 1"),
    "one dev example": (ROWS[:1], {"label": "value", "regression": True}, "needs at least two dev examples"),
    "unknown metric": (ROWS, {"metrics": ("acuracy",)}, "did you mean 'accuracy'"),
    "errors as the metric": (
        ROWS,
        {"label": "value", "regression": True, "metrics": ("mae", "rmse")},
        "--metrics mae,rmse: error metrics cannot be the score",
    ),
    "metric of regression": (ROWS, {"metrics": ("pearson",)}, "metric for classes 'pearson'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_told_in_one_sentence(case: str, tmp_path: Path) -> None:
    rows, options, message = BAD[case]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TicketError, match=message) as caught:
        load_task(TaskSource(task="mine", train_file=file, dev_file=file, **options))
    assert str(file) in str(caught.value) or "metric" in case or "dev" in case
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "rows.csv", "no such file; .* has no files"),
        (b"", "rows.csv", "empty"),
        (b"text,label\n", "rows.csv", "no examples"),
        (b"text,label\na,1\nb,2,3\n", "rows.csv", r"line 3: 3 columns, expected 2 separated by commas"),
        (b"text,label,label\na,1,2\n", "rows.csv", "column 'label' twice"),
        (b"text,label\n\xff\xfe,1\n", "rows.csv", r"not UTF-8 \(byte 11\)"),
        (b'text,label\n"a,1\n', "rows.csv", "not well-formed CSV"),
        (b'{"text": "a"\n', "rows.jsonl", r"rows\.jsonl, line 1, column \d+: not JSON \("),
        (b"[1]\n", "rows.jsonl", "line 1: expected an object"),
        (b"junk", "rows.parquet", "not a Parquet file"),
        (b"a", "rows.xlsx", r"'\.xlsx'.*known are"),
    ],
)
def test_bad_files_are_told_in_one_sentence(content: bytes | None, name: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TicketError, match=message) as caught:
        load_task(TaskSource(task="mine", train_file=file, dev_file=file))
    assert str(file) in str(caught.value)


def test_the_file_that_was_meant(tmp_path: Path) -> None:
    save(tmp_path / "ok.csv")
    for number in range(9):
        (tmp_path / f"a{number}.txt").write_text("a")
    with pytest.raises(TicketError, match=r"okk\.csv: no such file; did you mean .*/ok\.csv\?$"):
        load_task(TaskSource(task="mine", train_file=tmp_path / "okk.csv"))
    with pytest.raises(TicketError, match=r"nothing\.tsv: no such file; .* has a0\.txt, a1\.txt"):
        load_task(TaskSource(task="mine", train_file=tmp_path / "nothing.tsv"))
    with pytest.raises(TicketError, match=rf"^{tmp_path}: that is a folder; expected a file\.$"):
        load_task(TaskSource(task="mine", train_file=tmp_path))


def test_a_dev_set_of_one_example_is_none(tmp_path: Path) -> None:
    train_file = save(tmp_path / "rows.csv", ROWS * 6)
    share = 1 / (6 * len(ROWS))
    with pytest.raises(TicketError, match=r"with at least two examples .* choose another --dev-share, or name a dev"):
        load_task(TaskSource(task="mine", train_file=train_file, dev_share=share))
    assert len(load_task(TaskSource(task="mine", train_file=train_file, dev_share=2 * share)).dev) == 2  # control


def test_a_dev_label_outside_the_label_set(tmp_path: Path) -> None:
    dev = save(tmp_path / "dev.csv", changed(label="maybe"))
    with pytest.raises(TicketError, match=r"dev\.csv: example 1 has label 'maybe', expected one of no, yes"):
        load_task(TaskSource(task="mine", train_file=save(tmp_path / "rows.csv"), dev_file=dev))


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ({}, "cola", "no folder CoLA"),
        ({"CoLA/train.tsv": FILES["cola"]["CoLA/train.tsv"]}, "cola", r"dev\.tsv: no such file"),
        ({**FILES["cola"], "CoLA/dev.tsv": "gj04\t7\t\tText.\n"}, "cola", "label '7', expected one of 0, 1"),
        ({**FILES["rte"], "RTE/dev.tsv": "index\tsentence1\tsentence2\n0\tS\tT\n"}, "rte", "unknown column"),
        ({**FILES["sst2"], "SST-2/dev.tsv": "sentence\tlabel\nonly text\n"}, "sst2", "line 2: 1 column, expected 2"),
        ({**FILES["sst2"], "SST-2/train.tsv": "sentence\tlabel\na\t1\nb\t1\n"}, "sst2", "one class"),
        ({}, "colla", "unknown task 'colla': did you mean 'cola'"),
    ],
)
def test_bad_glue_folders(files: dict[str, str], task: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message):
        load_task(TaskSource(task=task, data=write(tmp_path, files)))


def test_tasks_are_found_by_their_names() -> None:
    for name in TASKS:
        assert getattr(TASKS[name], "name", name) == name
    assert {name for name in TASKS if TASKS[name].built_in} == {*BUILTIN}
    assert {name: TASKS[name].form for name in ("squad", "mlm", "rte")} == {
        "squad": "spans", "mlm": "masked", "rte": "sequence",
    }  # fmt: skip
    assert loader_of("SST-2") is GLUE["sst2"]
    assert loader_of("mine") is None


# --- built-in tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_tasks(name: str) -> None:
    task = load_task(TaskSource(task=name))
    assert task.fingerprint() == load_task(TaskSource(task=name)).fingerprint()
    both = list(zip(task.train.text, task.train.pair or [""] * len(task.train), strict=True))
    dev = set(zip(task.dev.text, task.dev.pair or [""] * len(task.dev), strict=True))
    assert len(set(both)) == len(both)
    assert not dev & set(both)
    if task.is_regression:
        assert task.train.targets.min() >= 0
        assert task.train.targets.max() <= 5
        assert len(set(task.train.targets)) > 8
    else:
        shares = np.bincount(task.train.targets) / len(task.train)
        assert shares.min() > 0.8 / len(task.labels)


def test_builtin_tasks_are_what_their_grammars_give() -> None:
    from pyarrow import parquet

    script = spec_from_file_location("make_builtin_tasks", ROOT / "scripts" / "make_builtin_tasks.py")
    made = module_from_spec(script)
    script.loader.exec_module(made)
    assert parquet.read_table(made.PLACE).to_pylist() == list(made.examples())
    assert made.PLACE.stat().st_size < 150_000


@pytest.mark.parametrize("name", [name for name in BUILTIN if BUILTIN[name].labels])
def test_no_bag_of_words_solves_a_builtin_task(name: str) -> None:
    """What a label depends on is structure: naive Bayes over single words stays well below perfect."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    task: Task = load_task(TaskSource(task=name))
    texts = {
        part: [f"{a} {b}" for a, b in zip(split.text, split.pair or split.text, strict=True)]
        for part, split in (("train", task.train), ("dev", task.dev))
    }
    words = CountVectorizer().fit(texts["train"])
    model = MultinomialNB().fit(words.transform(texts["train"]), task.train.targets)
    assert model.score(words.transform(texts["dev"]), task.dev.targets) < 0.8


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_against_the_libraries_and_by_hand() -> None:
    targets, logits = np.array([0, 1, 1, 0, 1]), np.array([[2, 1], [0, 1], [3, 1], [0, 5], [1, 2.0]])
    predictions = logits.argmax(axis=1)  # 0 1 0 1 1
    found = evaluate(("accuracy", "f1", "matthews"), targets, logits)
    assert found["accuracy"] == pytest.approx(60.0)
    assert found["f1"] == pytest.approx(100 * f1_score(targets, predictions)) == pytest.approx(200 / 3)
    assert found["matthews"] == pytest.approx(100 * matthews_corrcoef(targets, predictions))
    assert found["score"] == pytest.approx(np.mean([found["accuracy"], found["f1"], found["matthews"]]))
    real = evaluate(("pearson", "spearman"), np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0], [9.0]]))
    assert real["spearman"] == pytest.approx(100.0)
    assert real["pearson"] == pytest.approx(100 * np.corrcoef([1, 2, 3], [1, 2, 9])[0, 1])
    assert evaluate(("pearson",), np.arange(3.0), np.ones((3, 1)))["score"] == 0.0
    assert evaluate(("matthews",), targets, np.zeros((5, 2)))["score"] == 0.0
    numbers, outputs = np.array([1.0, 2.0, 3.0, 9.0]), np.array([[2.0], [2.0], [5.0], [4.0]])
    off = evaluate(("r2", "mae", "rmse"), numbers, outputs)
    assert off["r2"] == pytest.approx(100 * r2_score(numbers, outputs[:, 0]))
    assert off["mae"] == pytest.approx(mean_absolute_error(numbers, outputs[:, 0]))  # not in percent
    assert off["rmse"] == pytest.approx(root_mean_squared_error(numbers, outputs[:, 0]))
    assert off["score"] == off["r2"]


# --- SNLI and SciTail -------------------------------------------------------------------------------------------------

SNLI_HEADER = "gold_label\tsentence1_binary_parse\tsentence1\tsentence2\tcaptionID\tlabel1"
SNLI_ROWS = [
    ("neutral", "A person on a horse.", 'He says "hi" there.'),
    ("-", "Nobody agreed.", "On this one."),
    ("contradiction", "A person on a horse.", "A person is at a diner."),
    ("entailment", "A person on a horse.", "A person is outdoors."),
]


def write_snli(folder: Path, form: str) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        if form == "jsonl":
            rows = [json.dumps({"gold_label": a, "sentence1": b, "sentence2": c}) for a, b, c in SNLI_ROWS]
            (folder / f"snli_1.0_{split}.jsonl").write_text("\n".join(rows) + "\n")
        else:
            rows = [f"{a}\t( x )\t{b}\t{c}\t1.jpg\t" for a, b, c in SNLI_ROWS]
            (folder / f"snli_1.0_{split}.txt").write_text("\n".join([SNLI_HEADER, *rows]) + "\n")


@pytest.mark.parametrize("form", ["jsonl", "txt"])
@pytest.mark.parametrize("below", ["", "snli_1.0"])
def test_snli_in_both_its_forms(form: str, below: str, tmp_path: Path) -> None:
    """The same examples either way; those without a gold label are left out; quotes stay quotes."""
    write_snli(tmp_path / "data" / below if below else tmp_path / "data", form)
    task = load_task(TaskSource(task="SNLI", data=tmp_path / "data"))
    assert task.labels == ("contradiction", "neutral", "entailment")
    assert task.train.targets.tolist() == [1, 0, 2]
    assert task.train.text == ["A person on a horse."] * 3
    assert task.train.pair == ['He says "hi" there.', "A person is at a diner.", "A person is outdoors."]
    assert len(task.dev) == 3


@pytest.mark.parametrize("form", ["tsv_format", "snli_format"])
def test_scitail_in_both_its_forms(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "SciTailV1.1" / form
    folder.mkdir(parents=True)
    rows = [("Pluto rotates once.", "Pluto turns.", "entails"), ("Rocks form.", "Rocks sing.", "neutral")]
    for split in ("train", "dev"):
        if form == "tsv_format":
            text = "".join("\t".join(row) + "\n" for row in rows)
            (folder / f"scitail_1.0_{split}.tsv").write_text(text)
        else:
            words = {"entails": "entailment", "neutral": "neutral"}
            lines = [{"sentence1": a, "sentence2": b, "gold_label": words[c]} for a, b, c in rows]
            (folder / f"scitail_1.0_{split}.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = load_task(TaskSource(task="scitail", data=tmp_path))
    assert task.labels == ("neutral", "entails")
    assert task.train.targets.tolist() == [1, 0]
    assert task.train.pair == ["Pluto turns.", "Rocks sing."]


def test_wrong_nli_folders(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="name the folder of its files with --data"):
        load_task(TaskSource(task="snli"))
    with pytest.raises(TicketError, match=r"there is no snli_1.0_train.jsonl or snli_1.0_train.txt or train.tsv in it"):
        load_task(TaskSource(task="snli", data=tmp_path))
    write_snli(tmp_path / "data", "jsonl")
    (tmp_path / "data" / "snli_1.0_dev.jsonl").unlink()
    with pytest.raises(TicketError, match=r"snli_1.0_dev.jsonl: no such file"):
        load_task(TaskSource(task="snli", data=tmp_path / "data"))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the real SNLI files in ../shared/data")
def test_reads_the_real_snli_sample() -> None:
    task = load_task(TaskSource(task="snli", data=SHARED / "data"))
    assert (len(task.train), len(task.dev)) == (29_620, 9_842)
