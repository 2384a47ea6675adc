"""What is understood of a user's data files: every row is read, refused with its place, or counted as left out."""

import csv
import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import supertickets
from supertickets.errors import TicketError
from supertickets.evidence.resampling import weighted_scores
from supertickets.evidence.runs import load_tasks
from supertickets.models import ModelSource, find_model
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.description import describe
from supertickets.tasks.metrics import evaluate
from supertickets.tasks.tables import read_table, read_text, read_tsv
from supertickets.training.objectives import describe_tokens, encode

# --- reading ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path: Path, dev: Path | None = None, **options: Any) -> Task:
    return load_task(TaskSource(task="mine", train_file=path, dev_file=dev or path, **options))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "train.csv", "text,label\na,b\n")

    def refused(path: Path, *how: Any, **more: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    for read in (read_table, read_text):
        with pytest.raises(TicketError, match=r"train.csv: cannot be read \(Permission denied\); expected a file that"):
            read(file)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that UTF-8 can hold: NUL, line ends, quotes, separators, U+2028 and the like."""


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_csv_that_python_writes_reads_back_the_same(tmp_path_factory: Any, rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("text", "label"), *rows])
    table = read_table(write(tmp_path_factory.getbasetemp() / "round.csv", file.getvalue()))
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows
    assert table.notices[0] == f"round.csv: {len(rows)} row{'s' if len(rows) > 1 else ''} read."


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_tsv_reads_back_what_has_no_tabs_and_line_ends(tmp_path_factory: Any, rows: list[tuple[str, str]]) -> None:
    whole = [tuple(cell.translate(dict.fromkeys(map(ord, "\t\r\n"), " ")) for cell in row) for row in rows]
    content = "".join("\t".join(row) + "\n" for row in [("text", "label"), *whole])
    table = read_tsv(write(tmp_path_factory.getbasetemp() / "round.tsv", content))
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({"text": TEXTS, "more": JSON}), min_size=1, max_size=5), st.booleans())
def test_jsonl_reads_back_the_same(tmp_path_factory: Any, rows: list[dict[str, Any]], escaped: bool) -> None:
    content = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    table = read_table(write(tmp_path_factory.getbasetemp() / "round.jsonl", content))
    assert [dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True)] == rows


def test_a_quote_in_tsv_is_a_character(tmp_path: Path) -> None:
    """As in GLUE's files: a quote that opens a text does not take the next line in; by CSV's rule it would."""
    content = 'text\tlabel\n"Good movie\t1\nbad one"\t0\n"fine"\t1\n'
    path = write(tmp_path / "a.tsv", content)
    task = load(path)
    assert task.train.text == ['"Good movie', 'bad one"', '"fine"']
    assert task.train.targets.tolist() == [1, 0, 1]
    quoted = list(csv.reader(io.StringIO(content), delimiter="\t"))
    assert len(quoted) == 3  # the control: with the header, one line fewer
    assert task.notices[0] == "a.tsv: 3 rows read."
    assert task.notices[1].startswith("a.tsv: 1 cell in quotation marks; they are part of the text in a .tsv file")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_cell_of_any_length(ending: str, tmp_path: Path) -> None:
    long = "a " * 70_000  # 140,000 characters; Python's csv stops at 131,072 if it is not told otherwise
    rows = [("good one", "1"), (long, "0")]
    if ending == "jsonl":
        path = jsonl(tmp_path / "a.jsonl", [{"text": text, "label": label} for text, label in rows])
    else:
        separator = "," if ending == "csv" else "\t"
        lines = [("text", "label"), *rows]
        path = write(tmp_path / f"a.{ending}", "".join(separator.join(row) + "\n" for row in lines))
    limit = csv.field_size_limit()
    assert load(path).train.text == ["good one", long]
    assert csv.field_size_limit() == limit == 131_072
    with pytest.raises(csv.Error, match="field larger than field limit"):  # the control
        list(csv.reader([f"{long},0"]))


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_blank_lines_are_counted(name: str, separator: str, tmp_path: Path) -> None:
    rows = [["", ""], ["text", "label"], ["a", "1"], ["", ""], ["b", "0"], ["", ""]]
    content = "".join((separator.join(row) if row[0] else "") + "\n" for row in rows)
    task = load(write(tmp_path / name, content))
    assert task.train.text == ["a", "b"]
    assert task.notices[0] == f"{name}: 2 rows read; 3 blank lines skipped."
    whole = load(write(tmp_path / name, f"text{separator}label\na{separator}1\nb{separator}0\n"))
    assert whole.notices[0] == f"{name}: 2 rows read."


def test_blank_lines_of_jsonl_and_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n\n  \n{"text": "b", "label": 0}\n')
    assert load(path).notices[0] == "a.jsonl: 2 rows read; 2 blank lines skipped."
    path = write(tmp_path / "a.txt", "one\n\n \ntwo\n")
    task = load_task(TaskSource(task="mlm", train_file=path, dev_file=path))
    assert task.notices[0] == "a.txt: 4 lines read, of which 2 blank lines left out."


def test_lines_that_glue_and_snli_leave_out_are_counted(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    train = write(tmp_path / "QQP/train.tsv", header + "1\t2\t3\tWhy?\tHow?\t0\n4\t5\tcut off\n7\t8\t9\tA?\tB?\t1\n")
    write(tmp_path / "QQP/dev.tsv", header + "1\t2\t3\tWhy?\tHow?\t0\n")
    notices = load_task(TaskSource(task="qqp", data=tmp_path)).notices
    assert notices == (
        "train.tsv: 2 rows read; 1 line with fewer than 6 cells skipped.",
        "dev.tsv: 1 row read.",
    )
    write(train, train.read_text() + "7\t8\t9\tA?\tB?\t1\tmore\n")
    with pytest.raises(TicketError, match=r"train.tsv, line 5: 7 columns, expected 6 separated by tabs"):
        load_task(TaskSource(task="qqp", data=tmp_path))
    for part in ("train", "dev"):
        rows = [{"gold_label": label, "sentence1": "a", "sentence2": "b"} for label in ("neutral", "-", "entailment")]
        jsonl(tmp_path / f"snli_1.0_{part}.jsonl", rows)
    notices = load_task(TaskSource(task="snli", data=tmp_path)).notices
    assert "snli_1.0_dev.jsonl: 3 rows read." in notices
    undecided = "snli_1.0_train.jsonl: 1 example with label '-' skipped: their annotators did not agree."
    assert undecided in notices


def test_names_in_the_header(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.csv", "text , label\na,1\nb,0\n"))
    assert task.train.text == ["a", "b"]
    assert task.notices[1] == "a.csv: spaces around names in the header are left out, as in 'text '."
    # pandas' index has no name, and a separator may end each line; such columns cannot be asked for
    assert load(write(tmp_path / "b.csv", ",text,label,\n0,a,1,\n1,b,0,\n")).train.text == ["a", "b"]
    for name, separator in (("c.csv", ","), ("c.tsv", "\t")):
        with pytest.raises(TicketError, match="the header has column 'label' twice"):
            load(write(tmp_path / name, separator.join(["text", "label", "label "]) + f"\na{separator}1{separator}1\n"))
        with pytest.raises(TicketError, match=rf"{name}, line 3: 3 columns, expected 2"):
            load(write(tmp_path / name, f"text{separator}label\na{separator}1\nb{separator}0{separator}\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "\\ud800 a", "label": 1}', r"line 2: \\ud800 is half of a character"),
        ('{"text": "a", "label": "\\uDC00"}', r"line 2: \\udc00 is half of a character"),
        ('{"text": "a", "text": "b", "label": 1}', r"line 2: not JSON \(one object has the key 'text' twice\)"),
        ('{"text": "a", "label": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: .*nested too deeply"),
        ('{"text": "a", "label": ' + "[" * 500 + "]" * 500 + "}", r"example 2 has label \[\[.*expected one value"),
        ('{"text": "a", "label": ' + "7" * 5000 + "}", r"line 2: not JSON \(Exceeds the limit .4300 digits."),
        ('{"text": 7, "label": 1}', "example 2 has 7 in column 'text', expected text"),
        ('{"text": NaN, "label": 1}', "'text' has no text in 1 of 2 examples, the first is example 2"),
        ('{"label": 1}', "'text' has no text in 1 of 2 examples, the first is example 2"),
        ('{"text": "a"}', "column 'label' has no label in example 2"),
        ('{"text": "a", "label": NaN}', "column 'label' has no label in example 2"),
        ('{"text": "a", "label": -Infinity}', "example 2 has label -inf, expected one value"),
        ('{"text": "a", "label": 1}, ', r"a\.jsonl, line 2, column 26: not JSON \(Extra data\)\."),
    ],
)
def test_json_that_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "b", "label": 0}\n' + line + "\n")
    with pytest.raises(TicketError, match=message) as told:
        load(path)
    assert len(str(told.value)) < 400
    assert "\n" not in str(told.value)


def test_json_that_is_read(tmp_path: Path) -> None:
    lines = ['{"text": "\\ud83d\\ude00 \\u0000", "label": 0, "score": NaN}', '{"label": 1, "text": "\\\\ud800"}']
    task = load(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert task.train.text == ["\U0001f600 \x00", "\\ud800"]
    task.fingerprint()


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    parquet.write_table(pa.table({"text": broken, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(TicketError, match="not a Parquet file that can be read"):
        load(tmp_path / "a.parquet")
    twice = pa.Table.from_arrays([pa.array(["a", "b"]), pa.array([0, 1]), pa.array([1, 0])], ["text", "label", "label"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(TicketError, match="column 'label' twice"):
        load(tmp_path / "b.parquet")


def test_places_of_examples_that_would_be_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,1\nb,0\n")
    with pytest.raises(TicketError, match=r"--data \S+ and --train-file \S+ were both given"):
        load(path, data=tmp_path)
    with pytest.raises(TicketError, match=r"--dev-share 0.5 is used only with a --train-file without --dev-file"):
        load(path, dev_share=0.5)
    with pytest.raises(TicketError, match=r"--dev-share 0.5 is used only with"):
        load_task(TaskSource(task="sentiment", dev_share=0.5))


# --- labels -----------------------------------------------------------------------------------------------------------


NO_LABELS = [([0, 1], r"\[0, 1\]"), ({"name": "neg"}, r"\{'name': 'neg'\}"), (float("inf"), "inf")]


@pytest.mark.parametrize(
    ("label", "shown", "ending"),
    [*((*one, ending) for one in NO_LABELS for ending in ("jsonl", "parquet")), (b"neg", "b'neg'", "parquet")],
)
def test_a_label_is_one_value(label: Any, shown: str, ending: str, tmp_path: Path) -> None:
    rows = [{"text": f"a {i}", "label": label} for i in range(4)]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        jsonl(path, rows)
    with pytest.raises(TicketError, match=f"example 1 has label {shown}, expected one value, such as a word"):
        load(path)


@pytest.mark.parametrize("label", ["", "  ", None, "\u00a0"])
def test_a_label_is_not_blank(label: str | None, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": label}])
    with pytest.raises(TicketError, match="column 'label' has no label in example 2"):
        load(path)


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    return path


WRITTEN = {
    "int": [0, 1, 1, 0], "float": [0.0, 1.0, 1.0, 0.0], "text": ["0", "1", "1", "0"],
    "float text": ["0.0", "1.00", "1.", "0.0"],
}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_one_number_is_one_label_however_it_is_written(kind: str, ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": list("abcd"), "label": WRITTEN[kind]})
    path = write_frame(tmp_path / f"dev.{ending}", frame)
    train = write(tmp_path / "train.csv", "text,label\na,0\nb,1\n")
    for first, second in ((train, path), (path, train)):
        task = load(first, second)
        assert task.labels == ("0", "1")
    assert load(train, path).dev.targets.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_truth_values_have_one_spelling(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": list("abcd"), "label": [True, False, True, False]})
    path = write_frame(tmp_path / f"dev.{ending}", frame)  # as CSV: True, False
    task = load(write(tmp_path / "train.csv", "text,label\na,true\nb,FALSE\n"), path)
    assert task.labels == ("false", "true")
    assert task.dev.targets.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "labels", [("Neg", "neg"), ("neg", "neg "), ("caf\u00e9", "cafe\u0301"), ("1", "+1"), ("7", "007"), ("1.5", "1.50")]
)
def test_labels_that_are_nearly_equal_are_told(labels: tuple[str, str], tmp_path: Path) -> None:
    rows = [{"text": f"a {i}", "label": label} for i, label in enumerate([*labels, labels[0], "other", "other"])]
    named = (*labels, "other")
    task = load(jsonl(tmp_path / "a.jsonl", rows), labels=named)
    assert task.labels == named  # apart, as they are written
    (told,) = [notice for notice in task.notices if "the labels" in notice]
    for label, number in zip(labels, ("2 examples", "1 example"), strict=True):
        assert f"{label!r} ({number})" in told
    assert "write them alike in the file" in told
    other = load(jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": "neg"}, {"text": "b", "label": "pos"}]))
    assert other.notices == ("b.jsonl: 2 rows read.",) * 2


def test_spaces_around_labels_are_told(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.csv", "text,label\na, x\nb, y\n"))
    assert task.labels == (" x", " y")
    assert task.notices[1] == "a.csv: spaces around labels are part of them, as in ' x'."


def test_the_word_nan_is_told(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.csv", "text,label\na,nan\nb,x\nc,nan\n"))
    assert task.notices[1].startswith("a.csv: 2 examples of class 'nan', a word that often stands for a missing value")


BINARY = "text,label\na,neg\nb,pos\nc,neg\nd,pos\n"


def test_the_order_of_classes_is_what_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", BINARY)
    assert load(path).labels == ("neg", "pos")
    task = load(path, labels=("pos", "neg"))
    assert task.labels == ("pos", "neg")
    assert task.train.targets.tolist() == [1, 0, 1, 0]
    assert task.fingerprint() != load(path).fingerprint()
    assert load(path, labels=("neg", "pos")).fingerprint() == load(path).fingerprint()
    path = write(tmp_path / "b.csv", "text,label\na,1.0\nb,0.0\n")
    as_in_yaml = {"task": "b", "train_file": path, "dev_file": path, "labels": [1, 0]}
    assert load_task(TaskSource.model_validate(as_in_yaml)).labels == ("1", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("neg", "pso")}, "unknown label of .* in --labels 'pso': did you mean 'pos'"),
        ({"labels": ("neg",)}, "--labels: .* also has the label 'pos'; name every class"),
        ({"labels": ("neg", "pos", "pos")}, "--labels: 'pos' is named twice"),
        ({"positive": "poss", "metrics": ("f1",)}, "unknown label in --positive 'poss': did you mean 'pos'"),
        ({"positive": "pos"}, "--positive chooses the class for metric f1; add --metrics f1"),
        ({"labels": ("neg", "pos"), "regression": True}, "--labels is for classes, --regression for real numbers"),
    ],
)
def test_classes_that_there_are_not(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message):
        load(write(tmp_path / "a.csv", BINARY), **options)
    for field, value in (("labels", ("0", "1")), ("positive", "1")):
        with pytest.raises(TicketError, match=f"--{field} describes your own files"):
            load_task(TaskSource.model_validate({"task": "sentiment", field: value}))


def test_f1_is_of_the_positive_class(tmp_path: Path) -> None:
    """By hand: 3 `neg` and 1 `pos`, all said to be `neg`: F1 of `neg` is 6/7, of `pos` 0."""
    path = write(tmp_path / "a.csv", "text,label\na,neg\nb,pos\nc,neg\nd,neg\n")
    outputs = {("neg", "pos"): np.array([[1.0, 0.0]] * 4), ("pos", "neg"): np.array([[0.0, 1.0]] * 4)}
    for order, said in outputs.items():
        for positive, expected in (("neg", 600 / 7), ("pos", 0.0)):
            task = load(path, labels=order, positive=positive, metrics=("f1",))
            assert evaluate(task.metrics, task.dev.targets, said)["score"] == pytest.approx(expected)
            drawn = weighted_scores(task.metrics, task.dev.targets, said, np.ones((1, 4)))
            assert drawn[0] == pytest.approx(expected)
        default = load(path, labels=order, metrics=("f1",))
        assert default.fingerprint() == load(path, labels=order, positive=order[1], metrics=("f1",)).fingerprint()
        assert default.fingerprint() != load(path, labels=order, positive=order[0], metrics=("f1",)).fingerprint()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([f"name {i}" for i in range(40)], "40 different labels in 40 examples.*name the classes' column with --label"),
        ([str(i) for i in range(40)], "40 different labels in 40 examples.*add --regression"),
        ([str(i % 10 / 4) for i in range(40)], "10 different labels in 40 examples.*add --regression"),
        ([f"name {i // 2 if i < 4 else i}" for i in range(104)], "102 different labels in 104 examples"),
    ],
)
def test_columns_that_are_no_classes(labels: list[str], message: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"a {i}", "label": label} for i, label in enumerate(labels)])
    with pytest.raises(TicketError, match=message):
        load(path)
    named = tuple(dict.fromkeys(labels))
    assert len(load(path, labels=named).labels) == len(named)  # the way round: name them all


# --- dev sets ---------------------------------------------------------------------------------------------------------


def drawn(path: Path, counts: list[int], share: float) -> tuple[list[int], list[int]]:
    """Return how many examples of each class the training and the dev set have, drawn from classes of some sizes."""
    rows = [{"text": f"a {kind} {i}", "label": f"c{kind:02}"} for kind, n in enumerate(counts) for i in range(n)]
    task = load_task(TaskSource(task="mine", train_file=jsonl(path, rows), dev_share=share))
    again = load_task(TaskSource(task="mine", train_file=path, dev_share=share))
    assert task.fingerprint() == again.fingerprint()
    assert sorted([*task.train.text, *task.dev.text]) == sorted(row["text"] for row in rows)
    return tuple(np.bincount(part.targets, minlength=len(counts)).tolist() for part in (task.train, task.dev))  # type: ignore[return-value]


def test_a_drawn_dev_set_has_each_class_in_proportion(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert drawn(path, [50, 30, 20], 0.1) == ([45, 27, 18], [5, 3, 2])
    assert drawn(path, [97, 3], 0.1)[1] == [10, 0]  # 9.7 and 0.3
    assert drawn(path, [90, 9, 1], 0.5) == ([45, 4, 1], [45, 5, 0])  # 45, 4.5 and 0.5, which one example cannot give
    train, dev = drawn(path, [2] * 77, 0.1)  # a few examples each of many classes are a task
    assert sum(dev) == 15
    assert min(train) == 1
    assert dev[:15] != [1] * 15  # not the alphabet's first
    assert drawn(path, [2, 2], 0.5) == ([1, 1], [1, 1])
    said = (
        "4 examples, too few for a dev set of --dev-share 0.7 with at least two examples that leaves an example of each"
    )
    with pytest.raises(TicketError, match=said):
        drawn(path, [2, 2], 0.7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.sampled_from([0.1, 0.25, 0.5]))
def test_drawn_dev_sets_are_within_one_of_their_share(tmp_path_factory: Any, counts: list[int], share: float) -> None:
    total, cut = sum(counts), round(share * sum(counts))
    if len(counts) == total or not 2 <= cut <= total - len(counts):
        return
    train, dev = drawn(tmp_path_factory.getbasetemp() / "drawn.jsonl", counts, share)
    assert sum(dev) == cut
    assert min(train) >= 1
    if min(counts) * (1 - share) >= 2:  # nothing had to stay behind
        assert all(abs(n - cut * count / total) < 1 for n, count in zip(dev, counts, strict=True))


def test_targets_without_variation(tmp_path: Path) -> None:
    same = write(tmp_path / "same.csv", "text,label\na,2.5\nb,2.5\nc,2.5\n")
    other = write(tmp_path / "other.csv", "text,label\na,2.5\nb,3\nc,1\n")
    with pytest.raises(TicketError, match=r"every training target is 2.5, so that nothing can be learnt"):
        load(same, other, regression=True)
    with pytest.raises(TicketError, match=r"every dev target is 2.5, so that no correlation with them is defined"):
        load(other, same, regression=True)
    assert load(other, other, regression=True).is_regression
    underscored = write(tmp_path / "underscored.csv", "text,label\na,1_000\nb,3\nc,1\n")  # a number to Python alone
    with pytest.raises(TicketError, match="example 1 has target '1_000', expected a finite number"):
        load(other, underscored, regression=True)


# --- SQuAD ------------------------------------------------------------------------------------------------------------

QUESTION = {"id": "q", "question": "Who ?", "context": "Ada wrote it", "answers": [{"answer_start": 0, "text": "Ada"}]}


def nested(path: Path, *questions: dict[str, Any]) -> Path:
    qas = [{name: value for name, value in one.items() if name != "context"} for one in questions]
    return write(path, json.dumps({"data": [{"paragraphs": [{"context": QUESTION["context"], "qas": qas}]}]}))


def squad(path: Path) -> Task:
    return load_task(TaskSource(task="squad", train_file=path, dev_file=path))


def test_a_question_may_say_that_it_is_possible(tmp_path: Path) -> None:
    task = squad(nested(tmp_path / "a.json", QUESTION | {"is_impossible": False}))
    assert task.fingerprint() == squad(nested(tmp_path / "b.json", QUESTION)).fingerprint()
    assert task.notices[0] == "a.json: 1 question read."
    impossible = [QUESTION | {"is_impossible": True}, QUESTION | {"answers": []}, QUESTION]
    with pytest.raises(TicketError, match=r"a.json: 2 of 3 questions without an answer, as in SQuAD v2; expected v1.1"):
        squad(nested(tmp_path / "a.json", *impossible))
    with pytest.raises(TicketError, match=r"see question 'q' .*is_impossible is 'no', expected true or false"):
        squad(nested(tmp_path / "a.json", QUESTION | {"is_impossible": "no"}))


ANSWERS: dict[str, dict[str, Any]] = {
    "the hub's": {"answers": {"text": ["Ada"], "answer_start": [0]}},
    "one of the hub's": {"answers": {"text": "Ada", "answer_start": 0}},
    "a list": {"answers": [{"text": "Ada", "answer_start": "0"}]},
    "alone": {"text": "Ada", "answer_start": 0.0},
}


@pytest.mark.parametrize("form", ["jsonl", "array", "data", "parquet"])
@pytest.mark.parametrize("answers", ANSWERS)
def test_a_question_a_row(form: str, answers: str, tmp_path: Path) -> None:
    row = {name: value for name, value in QUESTION.items() if name != "answers"} | ANSWERS[answers]
    expected = squad(nested(tmp_path / "nested.json", QUESTION, QUESTION)).fingerprint()
    path = tmp_path / ("a.json" if form in ("array", "data") else f"a.{form}")
    if form == "parquet":
        pd.DataFrame([row, row]).to_parquet(path)
    elif form == "jsonl":
        jsonl(path, [row, row])
    else:
        write(path, json.dumps([row, row] if form == "array" else {"data": [row, row]}))
    assert squad(path).fingerprint() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": {"text": ["Ada"], "answer_start": [0, 1]}},
            "see question 'q'.*a row a question",
        ),
        ({"answers": {"text": ["Ada"], "answer_start": [0.5]}}, "answer_start is 0.5, expected a whole number"),
        ({"answers": {"text": [], "answer_start": []}}, "1 of 1 question without an answer"),
        ({"answers": "Ada"}, "not in the format of SQuAD v1.1"),
        ({"context": None}, "expected text"),
        ({"answers": {"text": ["Ada"], "answer_start": [4]}}, "no answer 'Ada' at character 4; it is at 0"),
    ],
)
def test_rows_that_are_no_questions(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message):
        squad(jsonl(tmp_path / "a.jsonl", [QUESTION | change]))


def test_a_task_named_squad_may_be_of_labels(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "team": "r"}, {"text": "b", "label": "y", "team": "s"}]
    assert squad(jsonl(tmp_path / "a.jsonl", rows)).labels == ("x", "y")
    task = load_task(
        TaskSource(task="squad", train_file=tmp_path / "a.jsonl", dev_file=tmp_path / "a.jsonl", label="team")
    )
    assert task.labels == ("r", "s")


# --- what was understood, before training and afterwards --------------------------------------------------------------


def test_classes_are_shown_with_their_counts(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "text,label\na,pos\nb,neg\nc,neg\nd,new\n")
    dev = write(tmp_path / "dev.csv", "text,label\nc,neg\n ,neg\n")
    found = describe(load(train, dev))
    assert found == (
        "4 training and 2 dev examples.",
        "3 classes (training + dev examples): 'neg' (2 + 2), 'new' (1 + 0), 'pos' (1 + 0).",
        "train.csv: 4 rows read.",
        "dev.csv: 2 rows read.",
        "Every dev example is of class 'neg', so that the dev score says nothing on other classes.",
        "1 of 2 dev texts empty or only white space.",
        "1 of 2 dev examples also in the training set.",
    )
    dev = write(tmp_path / "dev.csv", "text,label\nx,neg\ny,new\n")
    assert describe(load(train, dev))[4:] == ("1 class has no dev example: 'pos'.",)
    assert describe(load(train, train, metrics=("macro_f1",)))[3:] == ("4 of 4 dev examples also in the training set.",)
    two = write(tmp_path / "two.csv", BINARY)
    for positive in ("neg", "pos"):
        said = describe(load(two, metrics=("f1",), positive=positive))
        assert any(sentence.endswith(f"is of class '{positive}'.") for sentence in said)


def test_many_classes_are_shown_in_part(tmp_path: Path) -> None:
    rows = [{"text": f"a {i}", "label": f"c{i % 30:02}"} for i in range(60)]
    (named,) = [one for one in describe(load(jsonl(tmp_path / "a.jsonl", rows))) if "classes" in one]
    assert named.startswith("30 classes (training + dev examples): 'c00' (2 + 2), ")
    assert named.endswith("'c19' (2 + 2) and 10 more.")


def test_targets_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,1\nb,2\nc,6\n")
    found = describe(load(path, regression=True))
    assert found[1] == "Training targets are from 1 to 6, with mean 3 and standard deviation 2.16025."


def test_what_is_cut_and_unknown_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    """Inputs of 4 and 7 words, with two tokens more each; one word of eleven is none of the tokenizer's."""
    tokenizer = ModelSource(find_model(str(tiny_model))).tokenizer
    path = write(tmp_path / "a.csv", "text,label\nw1 w2 w3 w4,a\nw1 w2 w3 w4 w5 w6 other,b\n")
    unknown = "9.1 % of the tokens of training texts are unknown to the model's tokenizer."
    cut = "50.0 % of training texts are longer than 8 tokens and are cut (--max-length)."
    assert describe_tokens(load(path), tokenizer, 8) == (cut, unknown)
    assert describe_tokens(load(path), tokenizer, 9)[0] == "None of 2 training texts is longer than 9 tokens."
    known = write(path, path.read_text().replace("other", "w7"))
    assert len(describe_tokens(load(known), tokenizer, 8)) == 1
    pair = write(tmp_path / "b.csv", "text,pair,label\nw1 w2,w3,a\nw1,w2,b\n")
    task = load(pair, text_pair="pair")
    assert describe_tokens(task, tokenizer, 5)[0].startswith("50.0 % of training texts are longer than 5 tokens")
    lengths = [len(ids) for ids in encode(task, tokenizer, 40).train.ids]
    assert sum(length > 5 for length in lengths) == 1  # as the training's own encoding has it


def test_it_is_shown_on_the_terminal_the_page_and_the_card(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "<b>*x*</b>"
    rows = [{"text": f"w{i % 9} w{i % 7}", "label": bad if i % 2 else "neg"} for i in range(24)]
    options: dict[str, Any] = {"model": str(tiny_model), "train_file": jsonl(tmp_path / "a.jsonl", rows)}
    options |= {"levels": (0.5,), "seeds": 1, "epochs": 1, "workers": 1, "kinds": ("winning",), "max_length": 16}
    done = supertickets.find(out=tmp_path / "out", quiet=False, **options)
    said = capsys.readouterr().err
    assert f"2 classes (training + dev examples): '{bad}' (11 + 1), 'neg' (11 + 1)." in said
    assert "a.jsonl: 24 rows read." in said
    assert "None of 22 training texts is longer than 16 tokens." in said
    page = (done.folder / "report.html").read_text()
    assert "a.jsonl: 24 rows read.</li>" in page
    assert bad not in page
    assert "&lt;b&gt;*x*&lt;/b&gt;&#39; (11 + 1)" in page
    card = (done.shipped["ticket"] / "README.md").read_text()
    assert "- a.jsonl: 24 rows read." in card
    assert bad not in card
    assert r"'\<b\>\*x\*\</b\>' (11 + 1)" in card
    supertickets.find(out=tmp_path / "quiet", quiet=True, **options)
    assert "rows read" not in capsys.readouterr().err
    assert load_tasks(done.folder)[0].description == load_tasks(tmp_path / "quiet")[0].description
