"""The site: it is built without a warning, every public name is explained, and the notebooks do what they show."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import supertickets
from supertickets.cli.group import OWN
from supertickets.studies import STUDIES, SUMMARIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "scripts" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the reference ----------------------------------------------------------------------------------------------------


def explained(name: str) -> Any:
    """What a public name stands for: a study's is that of its class."""
    return STUDIES[name] if name in SUMMARIES else getattr(supertickets, name)


def bare(thing: Any) -> list[str]:
    """The public parts of a thing, and itself, that have no docstring of their own."""
    found = [] if (thing.__doc__ or "").strip() else [thing.__name__]
    members = vars(thing) if inspect.isclass(thing) else {}
    for name, member in members.items():
        code = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(code) and not (code.__doc__ or "").strip():
            found.append(f"{thing.__name__}.{name}")
    return found


def test_every_public_name_is_in_the_reference_and_explained() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.M))
    things = [explained(name) for name in supertickets.__all__]
    assert {f"{thing.__module__}.{thing.__qualname__}" for thing in things} == shown
    assert [name for thing in things for name in bare(thing)] == []


def test_what_is_not_explained_is_found() -> None:
    class Bare:
        def method(self) -> None: ...

        @property
        def value(self) -> None:
            """Explained."""

    assert bare(Bare) == ["Bare", "Bare.method"]


# --- pages ------------------------------------------------------------------------------------------------------------


def named(entry: Any) -> list[str]:
    """The pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in named(part)]


def test_the_navigation_has_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert sorted(named(nav)) == sorted([*pages, *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)])


def test_help_of_every_command_is_on_a_page(hooks: ModuleType) -> None:
    text = hooks.all_help()
    for name in [*SUMMARIES, *OWN]:
        assert f"## {name}\n" in text
        assert f"Usage: supertickets {name}" in text
    assert "\n  --rate-seeds" in text


def test_links_out_of_the_documents_lead_into_the_repository(hooks: ModuleType) -> None:
    config = type("Config", (), {"repo_url": "https://example.org/us/"})

    def rewritten(source: str, text: str) -> str:
        page = type("Page", (), {"file": type("File", (), {"src_uri": source})})
        return str(hooks.on_page_markdown(text, page, config, None))

    assert rewritten("a.md", "[x](../README.md#y)") == "[x](https://example.org/us/blob/main/README.md#y)"
    assert rewritten("howto/a.md", "[x](../../README.md)") == "[x](https://example.org/us/blob/main/README.md)"
    assert rewritten("howto/a.md", "[x](../data.md)") == "[x](../data.md)"
    assert rewritten("a.md", "[x](data.md)") == "[x](data.md)"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<title>A report</title>")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "SUPERTICKETS_SITE_REPORT": str(report), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "example-report.html").read_text() == report.read_text()
    page = (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "Put a shared ticket on its pre-trained base model" in page
    outside = re.compile(r'(<script|<img|<link rel="stylesheet")[^>]*(src|href)="https?://')
    assert outside.search('<script src="https://example.org/a.js">')
    for path in (tmp_path / "site").rglob("*.html"):
        assert not outside.search(path.read_text("utf-8")), path  # nothing is loaded from elsewhere


# --- notebooks --------------------------------------------------------------------------------------------------------


def execute(notebook: Any, folder: Path) -> None:
    """Run a notebook in a folder; raises CellExecutionError where a cell fails."""
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for path in NOTEBOOKS:  # in one folder: the second finds the first one's study finished
        notebook = nbformat.read(path, as_version=4)
        (asks,) = (cell for cell in notebook.cells if "seeds=1," in cell.source)
        for asked, less in (("seeds=1,", "seeds=1, fraction=0.02, epochs=1,"), ("(0.2, 0.5)", "(0.5,)")):
            assert asked in asks.source
            asks.source = asks.source.replace(asked, less)  # in less time
        execute(notebook, tmp_path)
        if path.stem == "use":
            said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
            assert "(3, 384)" in said
            assert "import supertickets" in said
    wrong = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(CellExecutionError):
        execute(wrong, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_was_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]  # once, from a fresh start
    for cell in cells:
        assert all(output.get("name") == "stdout" for output in cell.outputs), (
            "no warnings, bars and paths of a machine"
        )
