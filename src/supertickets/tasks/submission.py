"""Test-set predictions in the format that GLUE's server takes: eleven files in one zip, and a strict reader of it.

Facts from gluebenchmark.com's guide: a header `index<TAB>prediction`, rows numbered from 0, label words of each task;
STS-B has real numbers from 0 to 5; the diagnostic set AX is predicted by the MNLI model.
"""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supertickets.errors import TicketError, unknown_name
from supertickets.storage import write_atomically
from supertickets.tasks.glue import GLUE

HEADER = "index\tprediction"


@dataclass(frozen=True)
class TestFile:
    """One file of a submission: the task whose model predicts it, how many rows it has, where its texts are.

    `sources` are places in a GLUE folder, the first that is there counts; `hub` is the hub's configuration and split.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    name: str
    task: str
    rows: int
    sources: tuple[str, ...]
    hub: tuple[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The words a prediction may be; none for real numbers."""
        return GLUE[self.task].labels


def _own(name: str, task: str, rows: int) -> TestFile:
    return TestFile(name, task, rows, (f"{name}/test.tsv",), (task, "test"))


FILES: dict[str, TestFile] = {
    file.name: file
    for file in (
        _own("CoLA", "cola", 1063),
        _own("SST-2", "sst2", 1821),
        TestFile("MRPC", "mrpc", 1725, ("MRPC/test.tsv", "MRPC/msr_paraphrase_test.txt"), ("mrpc", "test")),
        _own("STS-B", "stsb", 1379),
        _own("QQP", "qqp", 390965),
        TestFile("MNLI-m", "mnli", 9796, ("MNLI/test_matched.tsv",), ("mnli", "test_matched")),
        TestFile("MNLI-mm", "mnli", 9847, ("MNLI/test_mismatched.tsv",), ("mnli", "test_mismatched")),
        _own("QNLI", "qnli", 5463),
        _own("RTE", "rte", 3000),
        _own("WNLI", "wnli", 146),
        TestFile("AX", "mnli", 1104, ("AX/AX.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv"), ("ax", "test")),
    )
}
"""Every file of a submission, by name without ending."""


def is_submission(path: Path) -> bool:
    """Return whether a file is a zip of files that are called as a submission's, whatever is in them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist()) <= {f"{name}.tsv" for name in FILES}


def write_submission(path: Path, predictions: Mapping[str, Sequence[str]]) -> None:
    """Write predictions, by file name, as one zip. What is written is checked first, as `read_submission` does.

    Raises TicketError if a file is missing or not as GLUE takes it; nothing is written then.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in predictions.items():
            lines = [HEADER, *(f"{row}\t{value}" for row, value in enumerate(values))]
            entry = zipfile.ZipInfo(f"{name}.tsv", (1980, 1, 1, 0, 0, 0))  # the same predictions, the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, "\n".join(lines) + "\n")
    _read(str(path), packed)
    write_atomically(path, packed.getvalue())


def read_submission(path: Path) -> dict[str, list[str]]:
    """Return the predictions of a submission by file name; raises TicketError at the first thing GLUE would refuse."""
    if not path.is_file():
        raise TicketError(f"{path}: no such file.")
    return _read(str(path), io.BytesIO(path.read_bytes()))


def _read(where: str, packed: io.BytesIO) -> dict[str, list[str]]:
    try:
        archive = zipfile.ZipFile(packed)
        if (broken := archive.testzip()) is not None:
            raise TicketError(f"{where}: {broken} in it is damaged.")
    except zipfile.BadZipFile as error:
        raise TicketError(f"{where}: not a zip file.") from error
    with archive:
        expected = {f"{name}.tsv" for name in FILES}
        names = archive.namelist()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TicketError(f"{where}: {twice[0]} is in it twice.")
        for name in names:
            if name not in expected:
                raise unknown_name(f"file in {where}:", name, expected)
        if missing := sorted(expected - set(names)):
            raise TicketError(f"{where}: there is no {', '.join(missing)} in it; GLUE takes all {len(FILES)} files.")
        return {name: _predictions(where, file, archive.read(f"{name}.tsv")) for name, file in FILES.items()}


def _predictions(where: str, file: TestFile, content: bytes) -> list[str]:
    """Return one file's predictions, checked line by line."""
    where = f"{where}, {file.name}.tsv"
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TicketError(f"{where}: not UTF-8 (byte {error.start}).") from error
    if lines[0] != HEADER:
        raise TicketError(f"{where}, line 1: expected the header 'index<TAB>prediction', got {lines[0][:40]!r}.")
    if lines[-1] != "":
        raise TicketError(f"{where}: the last line has no line break.")
    rows = lines[1:-1]
    if len(rows) != file.rows:
        raise TicketError(f"{where}: {len(rows)} predictions, expected {file.rows}.")
    found = []
    for number, line in enumerate(rows):
        cells = line.split("\t")
        if len(cells) != 2 or cells[0] != str(number):
            raise TicketError(f"{where}, line {number + 2}: expected '{number}<TAB>prediction', got {line[:40]!r}.")
        if not _allowed(cells[1], file):
            wanted = " or ".join(file.labels) if file.labels else "a number from 0 to 5"
            raise TicketError(f"{where}, line {number + 2}: prediction {cells[1][:40]!r}, expected {wanted}.")
        found.append(cells[1])
    return found


def _allowed(value: str, file: TestFile) -> bool:
    if file.labels:
        return value in file.labels
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and 0 <= number <= 5
