"""The documents tell the truth: commands run as they are typed, links lead somewhere, Python blocks are Python."""

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

import supertickets
from helpers.models import save_tiny_model
from helpers.packages import REGISTRIES, packages_in
from helpers.stand_ins import make_stand_ins
from supertickets.anatomy import FAMILIES
from supertickets.cli import main
from supertickets.cli.flags import typed
from supertickets.cli.group import app
from supertickets.errors import TicketError
from supertickets.lab import latency
from supertickets.studies import STUDIES
from supertickets.studies.config import parse

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINKING = [*DOCUMENTS, ROOT / "results" / "README.md", ROOT / "benchmarks" / "grids" / "README.md"]
MANUALS = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "CONTRIBUTING.md")]


def place(path: Path) -> str:
    """Where a document is in the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    found = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if not target.startswith(("http://", "https://")):
            to = (path.parent / target).resolve() if target else path
            if not to.exists() or (anchor and anchor not in anchors(to)):
                found.append(f"{target}#{anchor}")
    return found


@pytest.mark.parametrize("path", LINKING, ids=place)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](docs/none.md), [b](docs/choices.md#no-such-heading), [c](docs/choices.md), [d](https://none.example)"
    assert broken_links(ROOT / "README.md", text) == ["docs/none.md#", "docs/choices.md#no-such-heading"]


# --- Python -----------------------------------------------------------------------------------------------------------


def unknown_names(source: str) -> list[str]:
    """What a block takes from this package that is not in it; raises SyntaxError where it is no Python."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "supertickets":
            module = importlib.import_module(str(node.module))
            found += [alias.name for alias in node.names if not hasattr(module, alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "supertickets":
            found += [] if hasattr(supertickets, node.attr) else [node.attr]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_python_blocks_are_python_and_take_what_there_is(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        assert unknown_names(block) == [], block


def test_wrong_python_is_found() -> None:
    assert unknown_names("import supertickets\nfrom supertickets import find, fnd\nsupertickets.fid()") == [
        "fnd",
        "fid",
    ]
    with pytest.raises(SyntaxError):
        unknown_names("from supertickets import\n")


# --- commands ---------------------------------------------------------------------------------------------------------

ONLY_PARSED = {
    "--backend ray": "needs a Ray cluster (tests/test_ray.py has one)",
    "--backend slurm": "needs Slurm (tests/test_slurm.py has a stand-in)",
    "--config study.yaml": "runs inside a Slurm job",
    "you/rte-ticket": "needs a hub (tests/test_hub.py has one)",
}
"""Commands that have this in them are parsed with all their flags, and not run."""

SMALL = "--epochs 1 --batch-size 16 --max-length 16 --seeds 1 --workers 1 --device cpu --precision float32"
MODEL = " --model bert-base-uncased"  # where none is named: the default one is larger
SHORT = {
    "find": f"{SMALL} --levels 0.3",
    "compare": f"{SMALL} --levels 0.3",
    "share": f"{SMALL} --fine-tune-epochs 1",
    "imp": f"{SMALL.replace('length 16', 'length 24')} --sparsities 0.1,0.7",  # a window of SQuAD takes more tokens
    "adapt": SMALL,
    "transfer": SMALL,
    "measure": "--repeats 2",
}
"""What is appended, so that a command takes seconds: of a flag that is there twice, the last one counts."""

EARLIER = {
    **{f"runs/{task}": f"find --task {task} --data glue" for task in ("rte", "cola", "stsb", "mnli")},
    "runs/rte-smaller": "find --task rte --data glue --target encoder-parameters=0.8 --out runs/rte-smaller",
    "runs/share-rte-cola-stsb": "share --tasks rte,cola,stsb --data glue",
    "runs/mlm-imp": "imp --task mlm --data wikitext-2",
    "runs/squad-imp": "imp --task squad --data squad",
    "runs/first": "find --task entailment --out runs/first",
}
"""Studies that a section takes from sections before it, and what makes them."""


def commands_of(path: Path) -> dict[str, list[str]]:
    """The commands of a document by section: lines of code blocks, and code in sentences."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M):
        title, _, text = section.partition("\n")
        text = text.replace("\\\n", " ")
        lines = re.findall(r"^supertickets (.+)$", text, re.M)
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        lines += re.findall(r"`supertickets ([a-z][^`]*)`", prose)
        found[title] = [" ".join(line.split()) for line in dict.fromkeys(lines)]
    return {title: lines for title, lines in found.items() if lines}


SECTIONS = [(place(path), title, lines) for path in MANUALS for title, lines in commands_of(path).items()]


def short(line: str) -> list[str]:
    """The words of a command, with what makes it short."""
    words = [word.replace("5%", "50%") for word in shlex.split(line)]  # a short training has few steps
    more = SHORT.get(words[0], "") if "--help" not in words else ""
    if {"--levels", "--kinds", "--sparsities", "--search", "--target"} & {*words}:  # lists, of which all parts count
        more = more.partition(" --levels")[0].partition(" --sparsities")[0]
    if "best-of-k" in words:
        more = f"{more.partition(' --levels')[0]} --levels 0.3,0.6 --out runs/best"  # of one level there is no best
    if words[0] == "compare" and "schedule" in " ".join(words):
        more = f"{more.partition(' --levels')[0]} --levels 0.3,0.6"  # of one level there is one schedule
    if words[0] == "imp" and any(".." in word for word in words):
        more += " --rate 0.6"  # of a range only its first sparsity and another
    if words[0] == "share" and "--tickets" not in words:
        more += " --find-epochs 1 --levels 0.3"
    if words[0] == "find" and ("entailment" in words or "--task" not in words) and "--help" not in words:
        more += " --fraction 0.1"  # the built-in task, which is also the default, has more examples than the stand-ins
    if words[0] in STUDIES and not {"--model", "--sources"} & {*words}:
        more += MODEL
    return [*words, *shlex.split(more)]


def same(line: str) -> str:
    """What a study's command runs when it is short, wherever it writes: of lines that have it in common one is run."""
    values = app.get_command(click.Context(app), line.split()[0]).make_context(line, short(line)[1:]).params
    return f"{line.split()[0]} {sorted((name, value) for name, value in values.items() if name != 'out')}"


def firsts(sections: list[tuple[str, str, list[str]]]) -> set[tuple[str, str, str]]:
    """The document, section and line of all commands but those of studies that an earlier line makes."""
    found, seen = set(), set[str]()
    for document, title, lines in sections:
        for line in lines:
            made = same(line) if line.split()[0] in STUDIES and "--help" not in line else f"{document} {title} {line}"
            if made not in seen:
                found.add((document, title, line))
                seen.add(made)
    return found


FIRSTS = firsts(SECTIONS)


class Earlier:
    """Studies that were made before a section, each once, in a folder of its own."""

    def __init__(self, folder: Path, stand_ins: Path) -> None:
        shutil.copytree(stand_ins, folder, dirs_exist_ok=True)
        self._folder = folder

    def bring(self, path: str) -> None:
        """Copy a study into the working directory, from where it was made."""
        there = self._folder / path
        if not there.exists():
            here = Path.cwd()
            os.chdir(self._folder)
            try:
                run(EARLIER[path], self)
            finally:
                os.chdir(here)
        if there != Path(path).absolute():
            shutil.copytree(there, path)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that sections begin with, to be copied."""
    folder = tmp_path_factory.mktemp("stand-ins")
    make_stand_ins(folder)
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, stand_ins: Path) -> Earlier:
    return Earlier(tmp_path_factory.mktemp("earlier"), stand_ins)


def run(line: str, earlier: Earlier) -> None:
    """Run a command; raises AssertionError where it does not end well."""
    for path in inputs_of(line):
        if not Path(path).exists():
            earlier.bring(path)
    if "--search" in line:  # of a dev set larger than the stand-ins'; tests/test_find_search.py runs it
        check_parses(line)
        return
    assert main(short(line)) == 0, line


def inputs_of(line: str) -> list[str]:
    """The output folders of studies that a command takes something from."""
    words = shlex.split(line)
    taken = [word for before, word in zip(["", *words], words, strict=False) if before != "--out"]
    paths = [part for word in taken for part in word.split(",") if part.startswith("runs/")]
    return list(dict.fromkeys("/".join(Path(path).parts[:2]) for path in paths))


def check_parses(line: str) -> None:
    """Raise click.UsageError or TicketError unless a command has these flags, and they take these values."""
    name, *words = shlex.split(line)
    command = app.get_command(click.Context(app), name)
    assert command is not None
    values = command.make_context(name, words).params
    if name in STUDIES:
        settings = STUDIES[name].settings
        parse(settings, typed({key: value for key, value in values.items() if key in settings.model_fields}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "title", "lines"), SECTIONS, ids=[f"{name}: {title}" for name, title, _ in SECTIONS]
)
def test_every_command_runs(
    document: str,
    title: str,
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stand_ins: Path,
    earlier: Earlier,
) -> None:
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # A fresh process takes seconds to start (tests/test_measured.py has it).
    monkeypatch.setattr(latency, "peak_memory", lambda folder, batch, conditions: 1000)
    for line in lines:
        if any(part in line for part in ONLY_PARSED) or (document, title, line) not in FIRSTS:
            check_parses(line)
        else:
            run(line, earlier)


def test_a_study_that_another_section_has_is_run_once() -> None:
    again = ["find --task rte --seeds 3 --out runs/x", "status runs/rte", "find --task rte --fraction 0.1"]
    sections = [("a", "one", ["find --task rte --seeds 5", "status runs/rte"]), ("a", "two", again)]
    left_out = {(document, title, line) for document, title, lines in sections for line in lines} - firsts(sections)
    assert left_out == {("a", "two", "find --task rte --seeds 3 --out runs/x")}


def test_every_command_parses() -> None:
    lines = [line for _, _, lines in SECTIONS for line in lines if "--help" not in line]
    assert len(lines) > 30
    assert all(any(part in line for line in lines) for part in ONLY_PARSED)
    for line in lines:
        check_parses(line)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("find --task rte --on ray", "No such option"),
        ("find --task rte --seed 5", "No such option"),
        ("find --task rte --backend rey", "did you mean 'ray'"),
        ("compare --choices absolut", "did you mean 'absolute'"),
        ("sensitivity runs/rte", "unknown command"),
        ("imp --seeds none", "--seeds"),
    ],
)
def test_a_wrong_command_is_found(wrong: str, message: str) -> None:
    with pytest.raises((click.UsageError, TicketError), match=message):
        check_parses(wrong)


def test_a_command_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: Earlier) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="find --task rte"):
        run("find --task rte --data glue", earlier)


# --- recipes for other packages ---------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """The package that CONTRIBUTING.md describes, as pip leaves it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    site = tmp_path / "site-packages"
    info = site / "my_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (points,) = blocks(text, "toml")
    groups = tomllib.loads(points)["project"]["entry-points"]
    lines = [line for group, entries in groups.items() for line in (f"[{group}]", *map(" = ".join, entries.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for block in blocks(text, "python"):
        place = block.partition("\n")[0].removeprefix("# ")
        (site / place).parent.mkdir(exist_ok=True)
        (site / place).write_text(block)
    with packages_in(site):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_recipes_for_other_packages_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(save_tiny_model(tmp_path / "layoutlm", family="layoutlm"))
    small = [*shlex.split(SMALL), "--model", model, "--task", "parity"]
    serial = [*shlex.split(SMALL.replace("--workers 1", "--backend serial")), *small[-4:]]
    assert main(["longer", *serial, "--factors", "1,2", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops"] > 0  # though its steps name no cost
    assert main(["longer", *serial, "--factors", "1,2"]) == 0
    assert "The best score is" in capsys.readouterr().out
    assert main(["status", "runs/parity-longer"]) == 0
    assert "2 of 2 trainings done" in capsys.readouterr().out
    assert main(["find", *small, "--importance", "depth", "--levels", "0.4", "--kinds", "winning"]) == 0
    assert main(["export", "runs/parity", "--to", "half", "--out", "half"]) == 0
    assert "Its weights have 16 bits." in capsys.readouterr().out
    runpy.run_module("my_package.check")
    attention = FAMILIES["layoutlm"].attention  # the control: heads are counted by another axis
    misread = replace(attention, parts=tuple(replace(part, axes="d h") for part in attention.parts))
    monkeypatch.setitem(FAMILIES._registered, "layoutlm", replace(FAMILIES["layoutlm"], attention=misread))
    with pytest.raises(AssertionError, match="not close"):
        runpy.run_module("my_package.check")
    assert main(["env"]) == 0
    assert capsys.readouterr().out.count("(my-package)") == len(REGISTRIES)
