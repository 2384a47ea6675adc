"""What is understood of a user's data files: every row is read, refused with its place, or counted as left out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supertickets.errors import TicketError
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.tables import read_table, read_tsv

# --- reading ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path: Path, dev: Path | None = None, **options: Any) -> Task:
    return load_task(TaskSource(task="mine", train_file=path, dev_file=dev or path, **options))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


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
        ('{"text": "a", "label": 1}, ', "line 2: not JSON"),
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
    with pytest.raises(TicketError, match=r"--dev-share 0.5 makes a part of --train-file the dev set"):
        load(path, dev_share=0.5)
    with pytest.raises(TicketError, match=r"--dev-share 0.5 makes"):
        load_task(TaskSource(task="sentiment", dev_share=0.5))
