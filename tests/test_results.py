"""Every number that the README and results/ print of a study is in that study's files."""

import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", RESULTS / "README.md"]
_NUMBER = re.compile(r"(?<![\d.,])[-+]?\d+\.\d+(?!\d|\.\d)")
_LINK = re.compile(r"\]\((?:results/)?([a-z0-9-]+(?:\.txt)?)/?\)")


@cache
def said_of(name: str) -> set[str]:
    """The numbers of a study: its verdicts, means and deviations over seeds of its runs, gains over another study."""
    place = RESULTS / name
    texts = [place] if place.is_file() else sorted(place.glob("*.txt"))
    found = {one.lstrip("+") for path in texts for one in _NUMBER.findall(path.read_text(encoding="utf-8"))}
    if (place / "results.csv").is_file():
        runs = pd.read_csv(place / "results.csv")
        same = [name for name in ("stage", "kind", "level", "sparsity", "rewind", "member", "line") if name in runs]
        for _, scores in runs.groupby(same, dropna=False).score:
            found |= {f"{scores.mean():.2f}", f"{scores.std():.2f}"}
    for path in place.glob("tables/beside-*.csv"):
        gains = pd.read_csv(path)[["difference", "low", "high"]]
        found |= {f"{round(value, 2) + 0.0:.2f}" for value in gains.to_numpy().ravel()}  # not -0.00
    return found


def blocks(text: str) -> list[str]:
    """Paragraphs, and rows of tables by themselves; code is left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    found = []
    for block in text.split("\n\n"):
        found += block.splitlines() if block.lstrip().startswith("|") else [block]
    return found


def untraced(page: str) -> list[str]:
    """The numbers of blocks that link to studies which none of these has."""
    missing = []
    for block in blocks(page):
        names = [name for name in _LINK.findall(block) if (RESULTS / name).exists()]
        if names:
            known = set.union(*map(said_of, names))
            missing += [f"{one} ({', '.join(names)})" for one in _NUMBER.findall(block) if one.lstrip("+") not in known]
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_number_is_in_the_files_it_links_to(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert _LINK.search(text)
    assert untraced(text) == []
    (wrong,) = untraced("| [CoLA](results/cola-8-levels) | 26.80 | 26.81 |")
    assert wrong == "26.81 (cola-8-levels)"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "assets").glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_of_the_results_that_are_kept(path: Path) -> None:
    """Draw it again with scripts/draw_results.py where this fails."""
    drawn = re.findall(r"([a-z0-9-]+) ([0-9a-f]{64})", path.read_text(encoding="utf-8"))
    assert drawn
    for name, digest in drawn:
        assert sha256((RESULTS / name / "results.csv").read_bytes()).hexdigest() == digest, name


def test_each_kept_study_is_on_the_page() -> None:
    there = {path.name for path in RESULTS.iterdir() if path.is_dir()} - {"unfinished"}
    assert set(_LINK.findall((RESULTS / "README.md").read_text(encoding="utf-8"))) >= there
    for name in there:
        files = {path.name for path in (RESULTS / name).iterdir()}
        assert files >= {"settings.yaml", "results.csv", "verdict.txt"}, name
        settings = yaml.safe_load((RESULTS / name / "settings.yaml").read_text(encoding="utf-8"))
        is_grid = settings.get("study", "find") == "find" and "winning" in settings["kinds"]
        assert ("outcomes.safetensors" in files) == is_grid, name
