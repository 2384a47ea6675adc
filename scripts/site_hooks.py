"""What the site has that no file of docs/ has: help texts, notebooks, links into the repository, a finished report.

mkdocs calls these functions by their names (mkdocs.yml, `hooks`).
"""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import click
import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path(os.environ.get("SUPERTICKETS_SITE_REPORT", ROOT / "build" / "example" / "report.html"))
"""The page of a study, which `make docs` runs where there is none."""
HELP = "<!-- help of all commands -->"


def on_files(files: Any, config: Any) -> Any:
    """Add the report, and each notebook as a page."""
    if not REPORT.exists():
        raise PluginError(f"{REPORT} is missing: `make docs` runs the study that writes it.")
    files.append(File.generated(config, "example-report.html", abs_src_path=str(REPORT)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        name = str(path.relative_to(ROOT / "docs").with_suffix(".md"))
        files.append(File.generated(config, name, content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put in help texts, and let links that leave docs/ lead into the repository."""
    if HELP in markdown:
        markdown = markdown.replace(HELP, all_help())
    depth = page.file.src_uri.count("/")
    out = re.escape("../" * (depth + 1))
    return re.sub(rf"\]\({out}(?!\.)([^)]*)\)", rf"]({config.repo_url.rstrip('/')}/blob/main/\1)", markdown)


def all_help() -> str:
    """Return the help of every command, as Markdown."""
    from supertickets.cli.group import app

    found = []
    above = click.Context(app, info_name="supertickets")
    for name in app.list_commands(above):
        command = app.get_command(above, name)
        if command is not None:
            with click.Context(command, info_name=name, parent=above, max_content_width=100) as context:
                found.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(found)


def notebook_page(path: Path) -> str:
    """Return a notebook's texts, code and what it prints as Markdown."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        if said:
            # Sentences would have to be scrolled to the right; tables are narrower.
            lines = [textwrap.fill(line, 76) if len(line) > 120 else line for line in said.rstrip().splitlines()]
            parts.append("\n".join(["```text", *lines, "```"]))
    where = f"The notebook: [docs/notebooks/{path.name}](../../docs/notebooks/{path.name})."
    return "\n\n".join([*parts, where]) + "\n"
