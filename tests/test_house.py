"""The house: imports point one way, documents tell the truth."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
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
    "surgery": {"errors", "storage", "anatomy", "tickets"},
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


def room(module: str) -> str:
    """The first part of a module's name inside the package; the package's own file is a room too."""
    return module.split(".")[1] if "." in module else "__init__"


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package in a folder, by its full name."""
    return {
        ".".join([source.name, *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(source.rglob("*.py"))
    }


def at_import(statement: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no functions' bodies, and nothing that is for type checkers alone."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    yield statement
    children: Iterable[ast.AST] = ast.iter_child_nodes(statement)
    if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
        children = statement.orelse
    for child in children:
        yield from at_import(child)


def imports(path: Path, name: str, known: Iterable[str] = (), everywhere: bool = True) -> set[str]:
    """What a module imports, by full names; `everywhere`: in functions and for type checkers as well.

    `from package import module` is an import of that module, and dots are counted from the module's own place.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else at_import(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (path.name == "__init__.py")  # a package's dot is itself
            above = name.split(".")[: len(name.split(".")) - up] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {full if (full := f"{base}.{alias.name}") in known else base for alias in node.names}
    return found


def wrong_ways(source: Path, may_import: dict[str, set[str]]) -> list[str]:
    """Imports from a room into one that it may not know, wherever they stand in the file."""
    every = modules(source)
    return [
        f"{name} imports {other}"
        for name, path in every.items()
        for other in sorted(imports(path, name, every))
        if other.split(".")[0] == source.name and room(other) not in {room(name), *may_import[room(name)]}
    ]


def circle(source: Path) -> list[str]:
    """Modules that import each other in a circle when they are imported; empty if there are none."""
    every = modules(source)
    graph = {name: imports(path, name, every, everywhere=False) - {name} for name, path in every.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_one_way() -> None:
    assert wrong_ways(SOURCE, MAY_IMPORT) == []
    TopologicalSorter(MAY_IMPORT).prepare()  # and the list itself has no circle


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(SOURCE) == []


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[str], Path]:
    """A package of two rooms, `low` and `high`; the module `low.one` is what a test plants."""

    def plant(text: str) -> Path:
        files = {"low/one": text, "low/two": "from house.low.one import x", "high/top": "from house.low import two"}
        for name, content in {**files, "__init__": "", "low/__init__": "", "high/__init__": ""}.items():
            path = tmp_path / "house" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / "house"

    return plant


UP = "from house.high.top import x"


@pytest.mark.parametrize(
    ("text", "turns", "climbs"),
    [
        ("", False, False),
        ("from house.low.two import x", True, False),
        ("from house.low import two", True, False),
        ("from .two import x", True, False),
        ("from . import two", True, False),
        ("try:\n    import house.low.two\nexcept ImportError:\n    pass", True, False),
        ("class A:\n    import house.low.two", True, False),
        ("def f():\n    from house.low.two import x", False, False),
        ("if TYPE_CHECKING:\n    from house.low.two import x", False, False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from house.low.two import x", True, False),
        (UP, True, True),
        (f"def f():\n    {UP}", False, True),
        (f"if TYPE_CHECKING:\n    {UP}", False, True),
        ("def f():\n    from ..high import top", False, True),
        ("def f():\n    from .. import high", False, True),
    ],
)
def test_what_is_planted_is_found(planted: Callable[[str], Path], text: str, turns: bool, climbs: bool) -> None:
    source = planted(text)
    assert bool(circle(source)) == turns
    assert bool(wrong_ways(source, {"__init__": set(), "low": set(), "high": {"low"}})) == climbs


@pytest.mark.parametrize("place", NO_TORCH)
def test_where_there_is_no_torch(place: str) -> None:
    for path in SOURCE.rglob("*.py"):
        if str(path.relative_to(SOURCE)).startswith(place):
            found = {name.split(".")[0] for name in imports(path, "supertickets")}
            assert not found & {"torch", "transformers"}, path


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
