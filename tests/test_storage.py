"""Files and folders: nothing that is not ours is deleted, and a crash leaves the old or the new one whole."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from supertickets import storage
from supertickets.errors import NoSpaceError, TicketError
from supertickets.storage import atomic_file, atomic_folder, check_free, clear_left_overs, user_path, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, text: str = "new", **more: str) -> None:
    with atomic_folder(folder) as new:
        for name, content in {"config.json": text, "weights": text, **more}.items():
            (new / name).write_text(content)


@pytest.mark.parametrize("name", ["small", "*", "[a]", "x?"])
def test_other_hidden_folders_beside_it_stay(tmp_path: Path, name: str) -> None:
    """Their names look like those of temporary folders: `.NAME.something`, or ours without our file in it."""
    theirs = [f".{name}.notes", ".git.bak", ".config.d", ".supertickets-0123456789abcdef0123456789abcdef"]
    for other in theirs:
        (tmp_path / other).mkdir()
        (tmp_path / other / "new").write_text("theirs")
    write(tmp_path / name)
    write(tmp_path / name, "newer")
    assert names(tmp_path) == sorted([name, *theirs])
    assert all((tmp_path / other / "new").read_text() == "theirs" for other in theirs)
    assert (tmp_path / name / "config.json").read_text() == "newer"


def test_files_that_others_put_into_a_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    (folder / "plots" / "a.png").write_text("mine too")
    write(folder, "newer")
    assert names(folder) == ["config.json", "notes.txt", "plots", "weights"]
    assert (folder / "plots" / "a.png").read_text() == "mine too"
    with atomic_folder(folder, ours=("weights",)) as new:  # what is ours and not written again goes
        (new / "config.json").write_text("newest")
    assert names(folder) == ["config.json", "notes.txt", "plots"]


def test_a_failure_leaves_what_there_was(tmp_path: Path) -> None:
    write(tmp_path / "model", "old")

    def fail() -> None:
        with atomic_folder(tmp_path / "model") as new:
            (new / "config.json").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "config.json").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "met", [lambda code: OSError(code, "full"), lambda code: SafetensorError(f"I/O error: full (os error {code})")]
)
def test_a_full_disk_and_a_full_quota_are_said_alike(
    tmp_path: Path, code: int, met: Callable[[int], Exception]
) -> None:
    with pytest.raises(NoSpaceError, match="no space left for weights"), atomic_file(tmp_path / "weights"):
        raise met(code)
    other = met(errno.EACCES)  # control
    with pytest.raises(type(other), match="full"), atomic_file(tmp_path / "weights"):
        raise other


# A process for each folder, which stops like a SIGKILL at the n-th system call that changes a name, exchanging in one
# step or in two.
CRASH = """
import json, os, sys
from pathlib import Path
from supertickets import storage
asked, one_step, into = json.loads(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
calls = 0
def counted(real, stop):
    def call(*args):
        global calls
        calls += 1
        if calls == stop:
            os._exit(9)
        return real(*args)
    return call
def write(folder, stop):
    if into == "here":
        os.chdir(folder)
    os.rename = counted(os.rename, stop)
    storage._rename_exchange = counted(storage._rename_exchange if one_step else lambda *names: False, stop)
    with storage.atomic_folder(Path(folder)) as new:
        for name in ("a", "config.json", "z"):
            (new / name).write_text("new")
codes = []
for folder, stop in asked:
    child = os.fork()
    if not child:
        try:
            write(folder, stop)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def crash(asked: list[tuple[Path, int]], one_step: bool, into: str = "beside") -> list[bool]:
    """Return of each folder whether its process was stopped, at that call, before it had finished."""
    told = json.dumps([(str(folder), stop) for folder, stop in asked])
    done = subprocess.run([sys.executable, "-c", CRASH, told, str(one_step), into], stdout=subprocess.PIPE, check=True)
    codes = json.loads(done.stdout)
    assert len(codes) == len(asked)
    assert set(codes) <= {0, 9}
    return [code == 9 for code in codes]


@pytest.mark.parametrize("one_step", [True, False])
def test_a_crash_anywhere_leaves_the_old_or_the_new_folder_whole(tmp_path: Path, one_step: bool) -> None:
    folders = [tmp_path / str(stop) / "model" for stop in range(1, 6)]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("a", "config.json", "notes"):
            (folder / name).write_text("old")
    stopped = sum(crash([(folder, stop) for stop, folder in enumerate(folders, 1)], one_step))
    for folder in folders:
        if one_step:  # never away, not even before anybody clears up
            assert folder.is_dir()
        clear_left_overs(folder)
        found = {path.name: path.read_text() for path in folder.iterdir()}
        old = {"a": "old", "config.json": "old", "notes": "old"}
        assert found in (old, {"a": "new", "config.json": "new", "z": "new", "notes": "old"})
        assert names(folder.parent) == ["model"]
    assert stopped >= (2 if one_step else 3)  # it was stopped before, between and after


def test_filling_the_working_directory_is_undone_when_cut_short(tmp_path: Path) -> None:
    folders = [tmp_path / str(stop) for stop in (1, 2, 3)]
    for folder in folders:
        folder.mkdir()
    assert crash([(folder, stop) for stop, folder in enumerate(folders, 1)], True, "here") == [True] * 3
    for folder in folders:
        assert "config.json" not in names(folder)  # it comes last: no half model can be loaded
        check_free(folder)  # clears up what was left, and finds the folder empty again
        assert names(folder) == []


def test_a_living_process_keeps_its_temporary_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as new:
        (new / "config.json").write_text("first")
        with atomic_folder(tmp_path / "model") as other:
            (other / "config.json").write_text("second")
        assert (new / "config.json").read_text() == "first"
    assert (tmp_path / "model" / "config.json").read_text() == "first"
    assert names(tmp_path) == ["model"]


def test_symbolic_links_the_working_directory_and_new_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "scratch").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "scratch")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "scratch" / "config.json").read_text() == "new"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    number = here.stat().st_ino
    write(Path("."))
    assert names(here) == ["config.json", "weights"]
    assert here.stat().st_ino == number  # the very folder that a shell stands in
    write(Path("a/b/c"))
    assert names(here / "a" / "b") == ["c"]


def test_a_mount_point_is_filled(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mounted)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        write(mounted)
        assert names(mounted) == ["config.json", "weights"]
        with pytest.raises(TicketError, match="cannot be replaced"):
            write(mounted)  # not empty any more, and no other folder can take its name
        assert names(mounted) == ["config.json", "weights"]
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_files_get_the_users_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "private" / "a", "content")
        write(tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "private" / "a").stat().st_mode & 0o777 == file
    assert (tmp_path / "model").stat().st_mode & 0o777 == folder
    assert (tmp_path / "model" / "config.json").stat().st_mode & 0o777 == file


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.zip").write_text("old")
    (tmp_path / "link.zip").symlink_to("real.zip")
    write_atomically(tmp_path / "link.zip", "new")
    assert (tmp_path / "link.zip").is_symlink()
    assert (tmp_path / "real.zip").read_text() == "new"
    assert names(tmp_path) == ["link.zip", "real.zip"]


def test_what_is_free(tmp_path: Path) -> None:
    check_free(tmp_path / "nothing")
    check_free(tmp_path)
    (tmp_path / "a").write_text("x")
    with pytest.raises(TicketError, match="not empty"):
        check_free(tmp_path)
    with pytest.raises(TicketError, match="that is a file"):
        check_free(tmp_path / "a")


def test_without_exchange_the_fallback_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_rename_exchange", lambda *names: False)
    write(tmp_path / "model", "old")
    write(tmp_path / "model", "newer")
    assert (tmp_path / "model" / "config.json").read_text() == "newer"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("failing", [{2}, {2, 3}])
def test_the_fallback_loses_no_folder_when_renaming_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[int]
) -> None:
    """The second rename puts the new folder in place, the third one the old one back; either may fail."""
    rename, calls = os.rename, iter(range(1, 9))

    def sometimes(source: Path, target: Path) -> None:
        if next(calls) in failing:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    write(tmp_path / "model", "old")
    with monkeypatch.context() as during:
        during.setattr(storage, "_rename_exchange", lambda *names: False)
        during.setattr(os, "rename", sometimes)
        with pytest.raises((TicketError, PermissionError)):
            write(tmp_path / "model", "new")
    clear_left_overs(tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_what_others_put_below_a_folder_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    for name in ("onnx/model.onnx", "model-2.safetensors", "notes"):
        (tmp_path / "model" / name).write_text("theirs")
    with atomic_folder(tmp_path / "model", ours=("*.safetensors",)) as new:
        (new / "config.json").write_text("new")
    assert names(tmp_path / "model") == ["config.json", "notes", "onnx"]  # a shard of an earlier model is ours
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "theirs"


def test_a_home_of_nobody_is_a_ticket_error() -> None:
    with pytest.raises(TicketError, match="nobody-of-this-name"):
        user_path("~nobody-of-this-name/x")


def test_home_is_expanded_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In settings of every study (typed, YAML, Python) and in functions that take a folder."""
    from pydantic import TypeAdapter

    from supertickets.studies.config import STUDIES, parse
    from supertickets.studies.folder import status

    monkeypatch.setenv("HOME", str(tmp_path))
    seen = set()
    for kind in STUDIES.values():
        for name, field in kind.settings.model_fields.items():
            if "Path" in str(field.annotation):
                value = ["~/x"] if "tuple" in str(field.annotation) else "~/x"
                found = getattr(parse(kind.settings, {name: value}), name)
                assert (list(found) if isinstance(found, tuple) else [found]) == [tmp_path / "x"]
                seen.add(name)
    assert seen == {"data", "train_file", "dev_file", "out", "tickets", "sources"}
    assert TypeAdapter(Path).validate_python("~/x") == Path("~/x")  # the control: a plain Path keeps it
    with pytest.raises(TicketError, match=str(tmp_path / "x")):
        status(Path("~/x"))
