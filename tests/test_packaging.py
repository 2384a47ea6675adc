"""The package as it is installed: what it needs, what its extras add, and what is said where one is missing."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import supertickets
from supertickets.errors import EXTRAS, TicketError, needs
from supertickets.lab.on_ray import require_ray
from supertickets.lab.tracking import check_trackers
from supertickets.tasks import builtin
from supertickets.tasks.loader import ask_hub
from supertickets.tasks.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "supertickets"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"huggingface-hub": "huggingface_hub", "pyyaml": "yaml", "python-dateutil": "dateutil"}
COMES_ALONG = {"markupsafe": "jinja2", "pydantic_core": "pydantic", "tokenizers": "transformers"}
"""Packages that the source imports and pyproject.toml does not name, and what they come with at all times."""


def module(requirement: str) -> str:
    """What a requirement is imported as."""
    name = re.split(r"[\[<>=;~! ]", requirement)[0].lower()
    return MODULES.get(name, name)


BASE = {module(requirement) for requirement in PROJECT["dependencies"]}
OPTIONAL = {name for names in EXTRAS.values() for name in names}


def imported(source: str, everywhere: bool) -> set[str]:
    """The packages that a file imports when it is imported itself, or everywhere in it."""
    tree = ast.parse(source)
    typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    nodes = ast.walk(tree) if everywhere else iter([node for node in tree.body if node not in typing])
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"supertickets"}


FILES = {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}


def test_what_is_imported_is_asked_for() -> None:
    for name, text in FILES.items():
        assert imported(text, everywhere=True) <= BASE | OPTIONAL | set(COMES_ALONG), name
    assert set(COMES_ALONG.values()) <= BASE
    assert imported("def f():\n    import colour.red", everywhere=True) == {"colour"}  # the control


def test_only_studies_and_their_pages_need_more_than_the_base() -> None:
    """What is imported at once by a file outside of these is there in every installation."""
    for name, text in FILES.items():
        if not name.startswith(("evidence/", "reports/", "studies/")):
            assert imported(text, everywhere=False) <= BASE | set(COMES_ALONG), name
    assert imported("import a\nif TYPE_CHECKING:\n    import b", everywhere=False) == {"a"}


def test_extras_are_those_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        assert {module(requirement) for requirement in extras[extra]} == set(modules), extra
    for whole, left_out in {"train": set(EXTRAS) - {"report", "data"}, "all": set()}.items():
        reached, more = set(), [whole]
        while more:  # an extra may consist of others
            for requirement in extras[more.pop()]:
                if inner := re.match(r"supertickets\[(.*)\]", requirement):
                    more += inner[1].split(",")
                    reached |= set(inner[1].split(","))
        assert set(EXTRAS) - reached == left_out, whole


def test_every_package_that_is_asked_for_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    asked = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[\[<>=;~! ]", requirement)[0].lower().replace("_", "-") for requirement in asked}
    assert names - {"supertickets"} - pinned == set()


def test_the_version_is_in_one_place() -> None:
    assert supertickets.__version__ == PROJECT["version"]
    text = "".join(FILES.values())
    assert f'"{PROJECT["version"]}"' not in text
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)


def parquet(folder: Path) -> None:
    read_table(folder / "train.parquet")


WANTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a report": ("report", lambda folder: needs("report", "A report")),
    "a data set of the hub": ("data", lambda folder: ask_hub("rte", "nyu-mll/glue", "rte", files="the folder")),
    "a Parquet file": ("data", parquet),
    "a built-in task": ("data", lambda folder: builtin._examples.__wrapped__()),
    "Ray": ("ray", lambda folder: require_ray()),
    "trackers": ("trackers", lambda folder: check_trackers(["tensorboard"])),
    "Slurm": ("slurm", lambda folder: needs("slurm", "--backend slurm")),
    "ONNX": ("onnx", lambda folder: needs("onnx", "--to onnx")),
}


@pytest.mark.parametrize("what", WANTED)
def test_a_missing_extra_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra, use = WANTED[what]
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    for name in EXTRAS[extra]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TicketError, match=rf'needs .* installed: `pip install "supertickets\[{extra}\]"`\.$'):
        use(tmp_path)


def test_one_missing_package_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("report", "A report")  # the control: all are there
    monkeypatch.setitem(sys.modules, "plotly", None)
    expected = 'A report needs the package plotly, which is not installed: `pip install "supertickets[report]"`.'
    with pytest.raises(TicketError, match=f"^{re.escape(expected)}$"):
        needs("report", "A report")


def test_without_extras_commands_of_studies_say_so_and_others_work(tmp_path: Path) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))"
    script = f"{hide}; from supertickets.cli import main; print([main(line.split()) for line in sys.argv[1:]])"
    lines = ["--help", "find --help", f"status {tmp_path}", f"apply {tmp_path} --model {tmp_path}"]
    done = subprocess.run([sys.executable, "-c", script, *lines], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 2, 2, 2]"
    first, second, third = done.stderr.splitlines()
    assert first == second
    assert first.endswith('`pip install "supertickets[report]"`.')
    assert "not a ticket folder" in third


def test_the_oldest_versions_are_the_floors() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    floors = dict(match.groups() for one in asked if (match := re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", one)))
    assert set(oldest) <= set(floors)
    for name, version in oldest.items():
        assert re.fullmatch(rf"{re.escape(floors[name])}(\.0)*", version), name
