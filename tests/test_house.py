"""The house: imports point one way, documents tell the truth."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "supertickets"

# What each room may import from; nothing imports cli.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "storage": {"errors"},
    "tickets": {"errors", "storage"},
    "anatomy": {"errors", "tickets"},
    "models": {"errors", "storage", "anatomy", "tasks", "tickets", "surgery"},
    "surgery": {"errors", "anatomy", "tickets"},
    "tasks": {"errors", "storage"},
    "training": {"errors", "storage", "anatomy", "tickets", "surgery", "tasks"},
    "lab": {"errors", "storage", "anatomy", "models", "tickets", "surgery", "tasks", "training"},
    "evidence": {"errors", "storage", "anatomy", "models", "tickets", "tasks", "lab"},
    "export": {"errors", "storage", "models", "tickets", "surgery", "tasks", "training", "lab"},
    "report": {"storage", "tickets", "evidence"},
    "studies": {
        "errors", "storage", "anatomy", "models", "tickets", "tasks", "training", "lab", "evidence", "report", "export",
    },
    "cli": {"errors", "studies", "evidence", "export", "lab"},
    "__main__": {"cli"},
    "__init__": {"errors", "export", "studies", "surgery", "tickets"},
}  # fmt: skip

NO_TORCH = (
    "tickets/ticket",
    "tickets/drawing",
    "tickets/folder",
    "tickets/released",
    "tickets/weights",
    "evidence",
    "report",
    "tasks",
    "cli",
)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path, inside_functions: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    mine = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "supertickets" and len(parts) > 1 and parts[1] != mine:
            assert parts[1] in MAY_IMPORT[mine], f"{mine} must not import {name}"


def test_the_rooms_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        free = {name for name, needs in MAY_IMPORT.items() if name not in done and needs <= done}
        assert free, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= free


@pytest.mark.parametrize("place", NO_TORCH)
def test_where_there_is_no_torch(place: str) -> None:
    for path in SOURCE.rglob("*.py"):
        if str(path.relative_to(SOURCE)).startswith(place):
            assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}, path


def test_a_study_starts_without_torch() -> None:
    """What is remembered is walked through without it: half a second instead of five."""
    script = "import sys, supertickets.studies.find; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_pickle_and_no_remote_code() -> None:
    reads_tensors_of_pickles = {SOURCE / "tickets" / "mask_files.py", SOURCE / "models" / "checkpoint.py"}  # of users
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        loads = 1 if path in reads_tensors_of_pickles else 0
        assert text.count("torch.load(") == text.count("weights_only=True)") == loads, path
        assert not re.search(r"pickle\.(load|dump)|from pickle|trust_remote_code|torch\.save\(", text), path


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


def test_every_command_in_the_documents_is_one() -> None:
    """Every `supertickets ...` line names a command and flags that exist."""
    from typer.main import get_command

    from supertickets.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        line
        for path in DOCUMENTS
        for line in re.findall(r"^(?:\$ )?supertickets (.+)$", path.read_text(encoding="utf-8"), re.M)
    ]
    assert lines
    for line in lines:
        words = line.split()
        command = commands[words[0]]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("--") and word != "--help"} <= flags, line


def test_the_rooms_are_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in SOURCE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in text, path.name
