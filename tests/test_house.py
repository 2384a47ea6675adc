"""The house: imports point one way, files and functions are short, documents tell the truth."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "supertickets"

# What each room may import from, in functions and for type checkers as well; nothing imports cli.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "storage": {"errors"},
    "registry": {"errors"},
    "tickets": {"errors", "storage", "registry"},
    "anatomy": {"errors", "tickets", "registry"},
    "models": {"errors", "storage", "anatomy", "tasks", "tickets", "surgery"},
    "surgery": {"errors", "storage", "anatomy", "tickets"},
    "tasks": {"errors", "storage", "registry"},
    "training": {"errors", "storage", "anatomy", "tickets", "surgery", "tasks"},
    "lab": {"errors", "storage", "registry", "anatomy", "models", "tickets", "surgery", "tasks", "training"},
    "evidence": {"errors", "storage", "anatomy", "models", "tickets", "tasks", "lab"},
    "export": {"errors", "storage", "registry", "anatomy", "models", "tickets", "surgery", "tasks", "training", "lab"},
    "reports": {"storage", "tickets", "evidence", "lab"},
    "studies": {
        "errors", "storage", "anatomy", "models", "tickets", "tasks", "training", "lab", "evidence", "reports",
        "export", "registry",
    },
    "cli": {"errors", "studies", "evidence", "export", "lab", "registry", "tasks", "training"},
    "__main__": {"cli"},
    "__init__": {"errors", "export", "lab", "studies", "surgery", "tickets"},
}  # fmt: skip

LONGEST_FILE, LONGEST_FUNCTION = 400, 60

TOO_LONG: set[str] = set()
TOO_LONG_FUNCTIONS: set[str] = set()

NO_TORCH = (
    "tickets/ticket",
    "tickets/drawing",
    "tickets/folder",
    "tickets/released",
    "tickets/scoring",
    "tickets/weights",
    "evidence",
    "reports",
    "tasks",
    "cli",
)


def room(module: str) -> str:
    """The first part of a module's name inside the package; the package's own file is a room too."""
    return module.split(".")[1] if "." in module else "__init__"


parse = cache(ast.parse)  # every file is looked at several times


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package in a folder, by its full name."""
    return {
        ".".join([source.name, *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(source.rglob("*.py"))
    }


def imports(path: Path, name: str, known: Iterable[str] = ()) -> set[str]:
    """What a module imports, by full names, wherever it does: in functions and for type checkers as well.

    `from package import module` is an import of that module, and dots are counted from the module's own place.
    """
    found = set()
    for node in ast.walk(parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (path.name == "__init__.py")  # a package's dot is itself
            above = name.split(".")[: len(name.split(".")) - up] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {full if (full := f"{base}.{alias.name}") in known else base for alias in node.names}
    return found


def wrong_ways(source: Path, may_import: dict[str, set[str]]) -> list[str]:
    """Imports from a room into one that it may not know; a room that is not declared may know none."""
    every = modules(source)
    return [
        f"{name} imports {other}"
        for name, path in every.items()
        for other in sorted(imports(path, name, every))
        if other.split(".")[0] == source.name
        and room(other) not in {room(name), *may_import.get(room(name), set())} & set(may_import)
    ]


def circle(source: Path) -> list[str]:
    """Modules that import each other in a circle, if only in functions; empty if there are none."""
    every = modules(source)
    try:
        TopologicalSorter({name: imports(path, name, every) - {name} for name, path in every.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def long_files(source: Path) -> set[str]:
    """Files of more than LONGEST_FILE lines, by their paths in the package."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(source).values()}
    return {str(path.relative_to(source)) for path, count in lines.items() if count > LONGEST_FILE}


def long_functions(source: Path) -> set[str]:
    """Functions and methods of more than LONGEST_FUNCTION lines, decorators aside, as `path: Class.method`."""

    def inside(node: ast.AST, above: tuple[str, ...]) -> Iterable[str]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            here = (*above, child.name) if named else above
            if named and not isinstance(child, ast.ClassDef) and child.end_lineno - child.lineno >= LONGEST_FUNCTION:
                yield ".".join(here)
            yield from inside(child, here)

    return {
        f"{path.relative_to(source)}: {name}"
        for path in modules(source).values()
        for name in inside(parse(path.read_text(encoding="utf-8")), ())
    }


def test_imports_point_one_way() -> None:
    assert wrong_ways(SOURCE, MAY_IMPORT) == []
    TopologicalSorter(MAY_IMPORT).prepare()  # and the list itself has no circle
    with pytest.raises(CycleError):
        TopologicalSorter(MAY_IMPORT | {"errors": {"cli"}}).prepare()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(SOURCE) == []


def test_files_and_functions_are_short() -> None:
    """Equal sets: what has become short enough is an exception no more."""
    assert long_files(SOURCE) == TOO_LONG
    assert long_functions(SOURCE) == TOO_LONG_FUNCTIONS


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
        ("def f():\n    from house.low.two import x", True, False),
        ("if TYPE_CHECKING:\n    from house.low.two import x", True, False),
        (UP, True, True),
        (f"def f():\n    {UP}", True, True),
        (f"if TYPE_CHECKING:\n    {UP}", True, True),
        ("def f():\n    from ..high import top", True, True),
        ("def f():\n    from .. import high", False, True),
        ("from house import cellar", False, False),  # of the package's own file, which any room may know here
        ("from house.cellar import x", False, True),  # a room that nobody declared
    ],
)
def test_what_is_planted_is_found(planted: Callable[[str], Path], text: str, turns: bool, climbs: bool) -> None:
    source = planted(text)
    assert bool(circle(source)) == turns
    assert bool(wrong_ways(source, {"__init__": set(), "low": {"__init__"}, "high": {"low"}})) == climbs


def test_a_room_that_is_not_declared_may_know_nobody(planted: Callable[[str], Path]) -> None:
    assert wrong_ways(planted(""), {"__init__": set(), "low": set()}) == ["house.high.top imports house.low.two"]


def test_a_long_file_is_found(planted: Callable[[str], Path]) -> None:
    assert long_files(planted("x = 1\n" * LONGEST_FILE)) == set()
    assert long_files(planted("x = 1\n" * (LONGEST_FILE + 1))) == {"low/one.py"}


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("def f():", "f"),
        ("async def f():", "f"),
        ("@property\ndef f():", "f"),
        ("class A:\n def f():", "A.f"),
        ("class A:\n class B:\n  def f():", "A.B.f"),
        ("if x:\n def f():", "f"),
    ],
)
def test_a_long_function_is_found(planted: Callable[[str], Path], head: str, name: str) -> None:
    def body(lines: int) -> str:
        return head + "\n     x = 1" * lines

    assert long_functions(planted(body(LONGEST_FUNCTION - 1))) == set()
    assert long_functions(planted(body(LONGEST_FUNCTION))) == {f"low/one.py: {name}"}


def test_a_long_function_is_found_inside_another(planted: Callable[[str], Path]) -> None:
    text = "def f():\n def g():" + "\n  x = 1" * LONGEST_FUNCTION
    assert long_functions(planted(text)) == {"low/one.py: f", "low/one.py: f.g"}


@pytest.mark.parametrize("place", NO_TORCH)
def test_where_there_is_no_torch(place: str) -> None:
    paths = [path for path in SOURCE.rglob("*.py") if str(path.relative_to(SOURCE)).startswith(place)]
    assert paths
    for path in paths:
        found = {name.split(".")[0] for name in imports(path, "supertickets")}
        assert not found & {"torch", "transformers"}, path


def test_a_study_starts_without_torch() -> None:
    """What is remembered is walked through without it: half a second instead of five."""
    script = "import sys, supertickets.studies.find; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_pickle_and_no_remote_code() -> None:
    reads_tensors_of_pickles = {SOURCE / "tickets" / "mask_content.py", SOURCE / "models" / "checkpoint.py"}  # of users
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        loads = 1 if path in reads_tensors_of_pickles else 0
        assert text.count("torch.load(") == text.count("weights_only=True)") == loads, path
        assert not re.search(r"pickle\.(load|dump)|from pickle|trust_remote_code|torch\.save\(", text), path


def test_the_citation_names_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert [citation["version"], citation["license"]] == [project["version"], project["license"]]
    assert citation["title"].startswith(f"{project['name']}: ")


def test_the_rooms_are_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in SOURCE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in text, path.name
