"""Hashes of large files are remembered, and only as long as nothing about the file has changed."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.models import save_tiny_model
from supertickets.errors import NoSpaceError
from supertickets.models import digests, find_model
from supertickets.models.digests import remembered_digest
from supertickets.storage import file_digest


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file is large, none has just been changed; the names of files that are read for their hashes."""
    found: list[str] = []

    def counted(path: Path) -> str:
        found.append(path.name)
        return file_digest(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE", 0)
    monkeypatch.setattr(digests, "_SETTLED", -60.0)
    monkeypatch.setattr(digests, "_of_this_process", {})
    monkeypatch.setattr(digests, "file_digest", counted)
    return found


@pytest.fixture
def cache(read: list[str], tmp_path: Path) -> Path:
    return tmp_path / "cache" / "supertickets" / "digests.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(b"one")
    return tmp_path / "weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def forget() -> None:
    """What this process remembers is gone, as in another process."""
    digests._of_this_process.clear()


def test_a_file_is_read_once_by_all_processes(file: Path, read: list[str], cache: Path) -> None:
    for _ in range(3):
        assert remembered_digest(file) == sha256(b"one")
        forget()
    assert read == ["weights"]
    cache.unlink()  # the way to have everything read again, once no process remembers it
    assert remembered_digest(file) == sha256(b"one")
    cache.unlink()
    assert remembered_digest(file) == sha256(b"one")
    assert read == ["weights"] * 2


def rewritten(file: Path) -> None:
    file.write_bytes(b"two")


def rewritten_with_the_old_time(file: Path) -> None:
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # some systems' clocks tick every few milliseconds
        file.write_bytes(b"two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(file: Path) -> None:
    (file.parent / "other").write_bytes(b"two")
    (file.parent / "other").replace(file)


@pytest.mark.parametrize("change", [rewritten, rewritten_with_the_old_time, replaced])
def test_a_changed_file_of_the_same_size_is_read_again(
    file: Path, read: list[str], change: Callable[[Path], None]
) -> None:
    assert remembered_digest(file) == sha256(b"one")
    os.utime(file, ns=(1, 1))  # a new time alone, with a clock that stood still meanwhile
    assert remembered_digest(file) == sha256(b"one")
    assert len(read) == 2
    change(file)
    assert remembered_digest(file) == sha256(b"two")
    forget()
    assert remembered_digest(file) == sha256(b"two")
    assert len(read) == 3


def test_links_into_a_hubs_cache_are_their_blob(file: Path, read: list[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(file)
        assert remembered_digest(tmp_path / name) == sha256(b"one")
    assert read == ["weights"]
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to(tmp_path / "new")
    assert remembered_digest(tmp_path / "a") == sha256(b"two")


def test_what_has_just_been_changed_or_changes_meanwhile_is_not_remembered(
    file: Path, read: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 60.0)
    for _ in range(2):
        assert remembered_digest(file) == sha256(b"one")
    assert len(read) == 2
    monkeypatch.setattr(digests, "_SETTLED", -60.0)

    def grows(path: Path) -> str:
        found = file_digest(path)
        path.write_bytes(b"longer")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(digests, "file_digest", grows)
        assert remembered_digest(file) == sha256(b"one")
    assert remembered_digest(file) == sha256(b"longer")
    assert len(json.loads(cache.read_text())) == 1


def test_small_files_are_not_remembered(
    file: Path, read: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_LARGE", 4)
    assert [remembered_digest(file), remembered_digest(file)] == [sha256(b"one")] * 2
    assert len(read) == 2
    assert not cache.exists()


WRONG = "0" * 64


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: WRONG,
        lambda entry: [WRONG],
        lambda entry: None,
        lambda entry: {**entry, "sha256": None},
        lambda entry: {**entry, "sha256": 7},
        lambda entry: {**entry, "sha256": "no hash"},
        lambda entry: {**entry, "size": str(entry["size"]), "sha256": WRONG},
        lambda entry: {"sha256": WRONG},
        lambda entry: {**entry, "more": 1, "sha256": WRONG},
    ],
)
def test_an_entry_of_a_wrong_type_is_passed_over(
    file: Path, read: list[str], cache: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    remembered_digest(file)
    ((name, entry),) = json.loads(cache.read_text()).items()
    forget()
    cache.write_text(json.dumps({name: {**entry, "sha256": WRONG}}))
    assert remembered_digest(file) == WRONG  # the control: a whole entry is believed
    cache.write_text(json.dumps({"/other": 3, name: damage(entry)}))
    forget()
    assert remembered_digest(file) == sha256(b"one")
    assert json.loads(cache.read_text()) == {"/other": 3, name: entry}  # set right, and others' entries stay


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000, None])
def test_a_damaged_or_unwritable_cache_changes_nothing(
    file: Path, read: list[str], cache: Path, content: bytes | None
) -> None:
    cache.parent.parent.mkdir()
    if content is None:
        cache.parent.write_text("a file where the folder would be")
    else:
        cache.parent.mkdir()
        cache.write_bytes(content)
    assert remembered_digest(file) == sha256(b"one")
    assert remembered_digest(file) == sha256(b"one")
    assert len(read) == 1  # by this process at least
    forget()
    assert remembered_digest(file) == sha256(b"one")
    assert len(read) == (2 if content is None else 1)  # what was damaged is whole again


def test_a_full_disk_and_a_user_without_a_home(file: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> str:
        raise NoSpaceError("no space left")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as patch:
        patch.setattr(digests, "write_atomically", full)
        assert remembered_digest(file) == sha256(b"one")
    forget()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard tells to ignore
    monkeypatch.setattr(digests.Path, "home", no_home)
    assert remembered_digest(file) == sha256(b"one")
    assert not Path("relative").exists()


def test_the_cache_does_not_grow_without_bound(
    read: list[str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_MOST", 3)
    for number in range(5):
        (tmp_path / f"{number}").write_text(f"{number}")
        remembered_digest(tmp_path / f"{number}")
    assert [Path(name).name for name in json.loads(cache.read_text())] == ["2", "3", "4"]


def test_a_base_model_is_hashed_once(read: list[str], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    first = find_model(str(folder))
    assert "model.safetensors" in read
    read.clear()
    assert find_model(str(folder)) == first
    assert read == []


MANY = """
import sys
import time
from pathlib import Path
from supertickets.models import digests
digests._LARGE, digests._SETTLED = 0, -60.0
go = Path(sys.argv[1])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
for path in map(Path, sys.argv[2:]):
    digests.remembered_digest(path)
"""


def test_processes_that_write_at_once_leave_a_whole_cache(cache: Path, tmp_path: Path) -> None:
    """An entry may be lost to another process's; what is there is right."""
    files = [tmp_path / f"f{number}" for number in range(40)]
    for path in files:
        path.write_text(path.name)
    environment, go = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}, tmp_path / "go"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, go, *files[half::2]], env=environment, stdout=subprocess.PIPE, text=True
        )
        for half in (0, 1)
    ]
    assert [process.stdout.readline() for process in started if process.stdout] == ["ready\n", "ready\n"]
    go.touch()
    assert [(process.communicate(timeout=60), process.returncode) for process in started] == [(("", None), 0)] * 2
    entries = json.loads(cache.read_text())
    assert len(entries) >= 20
    assert all(entry["sha256"] == sha256(Path(name).name.encode()) for name, entry in entries.items())
    assert [path.name for path in cache.parent.iterdir()] == ["digests.json"]
