"""The pages about tickets of weights and their transfer, of made-up studies; in a real browser where there is one.

At the end real ones: `supertickets report` of tiny studies, finished and not.
"""

import html
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

import supertickets
from helpers.browser import check_contrast, requests, set_screen
from helpers.pages import without_names
from helpers.weight_records import imp_runs, random_ticket, transfer_runs
from supertickets.cli import main
from supertickets.evidence.imp import analyse_imp
from supertickets.evidence.transfer import AnyTicket, analyse_transfer
from supertickets.reports.imp import imp_sections
from supertickets.reports.page import write_page
from supertickets.reports.sections import HeatMap, strength
from supertickets.reports.transfer import transfer_sections
from supertickets.studies.report import report
from supertickets.tickets import Ticket

HOSTILE = "<b>x</b>"
RUNGS = (0.3, 0.5, 0.7)
WAYS = {("imp", ""): 4.0, ("imp", "not rewound"): 3.0, ("one-shot", ""): 2.0, ("random", ""): 0.5}


def imp_page(path: Path, seeds: int = 3, finished: int = 99, task: str = "cola", **settings: Any) -> str:
    """The page of a study whose first runs are finished: tickets get worse with sparsity."""
    rng = np.random.default_rng(0)
    scores: dict[tuple[str, str, float], list[float | None]] = {("dense", "", 0.0): [], ("round", "", 0.3): []}
    scores |= {(*way, rung): [] for way in WAYS for rung in RUNGS}
    for run, (_, of_seeds) in enumerate(one for one in scores.items() for _ in range(seeds)):
        of_seeds.append(0.0 if run < finished else None)
    for (kind, variant, rung), of_seeds in scores.items():
        base = 54.0 * (1 - rung ** WAYS.get((kind, variant), 9.0))
        of_seeds[:] = [None if score is None else base + rng.normal() for score in of_seeds]
    tickets = {(rung, seed): random_ticket(seed, (1 - rung, 0.9 - rung)) for rung in RUNGS for seed in range(seeds)}
    runs = imp_runs(scores, path.with_suffix(""), task, tickets if finished else {}, **settings)
    seen, title = analyse_imp(runs, "sub_std"), f"Tickets of weights of {runs.task.model} on {runs.name}"
    write_page(path, title, imp_sections(seen, runs), runs, seen, "supertickets imp --config it.yaml")
    return path.read_text(encoding="utf-8")


def transfer_page(path: Path, finished: int = 999, structured: bool = False) -> str:
    """The page of three targets, five sources and three seeds; the last source is not finished on the last target."""
    rng = np.random.default_rng(1)
    targets = ["cola", "mlm", HOSTILE]
    sources: dict[str, str | None] = {"cola": "cola", "mlm": "mlm", "mlm (not rewound)": "mlm", HOSTILE: HOSTILE}
    sources |= {"one-shot": None}
    gains = {"dense": 0.0, "mlm": 1.0, "one-shot": -20.0}
    scores: dict[tuple[str, str], list[float | None]] = {}
    for source in ("dense", *sources):
        for target in targets:
            own = 3.0 if source == target else 0.0
            scores[source, target] = [70.0 + gains.get(source, -4.0) + own + 0.3 * rng.normal() for _ in range(3)]
            scores[source, target] = [s if len(scores) * 3 - 3 < finished else None for s in scores[source, target]]
    scores["one-shot", HOSTILE] = [None] * 3
    scores["one-shot", "mlm"][0] = None
    runs = transfer_runs(scores, targets)
    tickets: dict[str, AnyTicket] = {name: random_ticket(i) for i, name in enumerate(sources)}
    if structured:
        tickets = {name: Ticket.from_pruned(2, 4, [(0, i % 4)], [i % 2]) for i, name in enumerate(sources)}
    seen, title = analyse_transfer(runs, sources, tickets, 0.7), f"Tickets of {runs.task.model} on other tasks"
    write_page(path, title, transfer_sections(seen, runs), runs, seen, "supertickets transfer --config it.yaml")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    """Each page's text, less plotly; they lie in `folder` under these names."""
    made = {
        "imp": imp_page(folder / "imp.html"),
        "hostile": imp_page(folder / "hostile.html", task=HOSTILE, rewind=("none", "0"), fraction=0.25),
        "single": imp_page(folder / "single.html", seeds=1),
        "pruning": imp_page(folder / "pruning.html", finished=11),
        "begun": imp_page(folder / "begun.html", finished=0),
        "transfer": transfer_page(folder / "transfer.html"),
        "structured": transfer_page(folder / "structured.html", structured=True),
        "transferring": transfer_page(folder / "transferring.html", finished=10),
        "to transfer": transfer_page(folder / "to transfer.html", finished=0),
    }
    return {name: text[: text.index("<script>")] + text[text.index("</head>") :] for name, text in made.items()}


# --- what they say ----------------------------------------------------------------------------------------------------


def test_the_page_of_tickets_of_weights(pages: dict[str, str]) -> None:
    page = pages["imp"]
    for said in (
        "<title>Tickets of weights of bert-base-uncased on cola</title>",
        "cola: 8,551 training and 1,043 dev examples; score: matthews.",
        "The highest sparsity at which tickets match it is",
        "the summary above uses the rule sub_std",
        "<dt>full_std</dt><dd>the mean is at most one standard deviation of the dense model&#39;s runs below",
        "IMP, not rewound",
        "random masks",
        ">no rule</td>",
        ">sub_std, full_std</td>",
        "<h3>Table 2</h3>",
        "cola at 50% (BERT-base, published)",
        ">53.8 ± 0.9</td>",
        "Effect of rewinding",
        "Fraction of the weights kept at",
        '<th scope="col">attention.output</th>',
        '<th scope="row">pooler</th>',
        "Agreement between seeds",
        "by tensor: the same for each tensor",
        "supertickets imp --config it.yaml",
        "<dt>rewind</dt><dd>0</dd>",
        "<dt>torch</dt><dd>2.6</dd>",
    ):
        assert said in page, said
    assert "not finished" not in page
    assert ">nan<" not in page


def test_a_first_way_that_does_not_rewind_is_named(pages: dict[str, str]) -> None:
    page = pages["hostile"]
    assert "Tickets of weights of bert-base-uncased on &lt;b&gt;x&lt;/b&gt; (0.25 of its training set)" in page
    assert page.count(">IMP, not rewound<") >= len(RUNGS)
    assert "published" not in page  # the paper has no such task


def test_a_single_seed_has_no_similarity(pages: dict[str, str]) -> None:
    page = pages["single"]
    assert "Agreement between seeds" not in page
    assert "A single run has no standard deviation" in page
    assert "uses the rule strict" in page
    assert "Effect of rewinding" in page


def test_unfinished_studies_say_so(pages: dict[str, str]) -> None:
    assert "This study is not finished: 31 of 42 runs are missing." in pages["pruning"]
    assert "This study is not finished: 42 of 42 runs are missing." in pages["begun"]
    assert "This study is not finished: 42 of 54 runs are missing." in pages["transferring"]
    for page in ("begun", "to transfer"):
        assert "No training has finished yet." in pages[page]
        assert ">nan<" not in pages[page]
    assert "Effect of rewinding" not in pages["pruning"]


def cells(page: str, label: str) -> dict[tuple[str, str], tuple[str, str, float]]:
    """The cells of a heat map by row and column: what they show, their marks, how deep their colour is.

    Blue is above zero, orange below.
    """
    found, table = {}, page[page.index(f'aria-label="{escape(label)}"') :]
    table = table[: table.index("</table>")]
    depths = {}
    for cells, r, g, b, depth in re.findall(
        r"(#T_[^{]*)\{\s*background-color: rgba\((\d+),(\d+),(\d+),([\d.]+)", table
    ):
        side = {("0", "114", "178"): 1, ("213", "94", "0"): -1}[r, g, b]
        depths |= {cell: side * float(depth) for cell in re.findall(r"#(T_\w+)", cells)}
    columns = [html.unescape(name) for name in re.findall(r'<th scope="col">(.*?)</th>', table)]
    for line in re.findall(r'<tr><th scope="row">(.*)</tr>', table):
        name, rest = line.split("</th>", 1)
        parts = re.findall(r"<td([^>]*)>(.*?)</td>", rest)
        for column, (attributes, shown) in zip(columns, parts, strict=True):
            of = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
            marks = " ".join(mark for mark in of.get("class", "").split() if mark != "text")
            found[html.unescape(name), column] = (shown, marks, depths.get(of.get("id", ""), 0.0))
    return found


GAINS = "gains over the dense model, by source and task"


def test_the_matrix_of_gains(pages: dict[str, str]) -> None:
    found = cells(pages["transfer"], GAINS)
    assert found["cola", "cola"][1] == found["mlm", "mlm"][1] == "own"
    assert found["cola", "cola"][2] < 0 < found["mlm", "mlm"][2]
    assert "same-task" in found["mlm (not rewound)", "mlm"][1]
    assert found["one-shot", HOSTILE] == ("-", "missing", 0.0)
    assert found["mlm", "cola"][0].startswith("● +")  # better than cola's own: a mark beside the colour
    assert found["mlm", "cola"][1] == "as-good"
    assert found["one-shot", "cola"][0].startswith("-")
    assert found["one-shot", "cola"][1] == ""
    assert -found["one-shot", "cola"][2] > 2 * found["mlm", "cola"][2] > 0
    assert found["mlm", "other tasks"][0].startswith("+")
    assert found["mlm", "● of them"][0] == "2"
    assert "one-shot on mlm, 2 of 3 seeds" in pages["transfer"]


def test_the_page_of_transfer(pages: dict[str, str]) -> None:
    page = pages["transfer"]
    for said in (
        "<title>Tickets of bert-base-uncased on other tasks</title>",
        "Tickets of cola, mlm, mlm (not rewound), &lt;b&gt;x&lt;/b&gt;, one-shot, rewound to the pre-trained weights",
        "mlm: 2,000 training and 1,043 dev examples; score: matthews.",
        "This study is not finished: 4 of 54 runs are missing.",
        "over own: gain over the task",
        "BERT-base at 70 %",
        "overlaps of tickets",
        "By layer and matrix",
        "supertickets transfer --config it.yaml",
    ):
        assert said in page, said
    theirs = cells(page, f"the paper's {GAINS}")
    assert {row for row, _ in theirs} == {"cola", "mlm", "one-shot"}
    assert theirs["cola", "cola"][:2] == ("-15.62", "own")
    assert theirs["mlm", "cola"][:2] == ("● -7.36", "as-good")
    assert theirs["one-shot", "cola"][:2] == ("-22.30", "")
    assert all(shade < 0 for _, _, shade in theirs.values())
    assert ">nan<" not in page


def test_the_page_of_structured_tickets(pages: dict[str, str]) -> None:
    page = pages["structured"]
    assert "overlaps of tickets" in page
    assert "Figure 2</h3>" not in page
    assert "By layer and matrix" not in page
    assert "by tensor" not in page


def test_missing_cells_are_missing(pages: dict[str, str]) -> None:
    for page, there in (("transferring", 1), ("to transfer", 0)):
        if not there:
            assert f'aria-label="{GAINS}"' not in pages[page]
            continue
        found = cells(pages[page], GAINS)
        of_targets = [cell for (_, target), cell in found.items() if target in ("cola", "mlm", HOSTILE)]
        assert sum("missing" in marks for _, marks, _ in of_targets) == len(of_targets) - there
        assert all(shown == "-" for shown, marks, _ in of_targets if "missing" in marks)


def test_a_hostile_name_is_escaped_everywhere(pages: dict[str, str]) -> None:
    for name in ("hostile", "transfer", "structured", "transferring", "to transfer"):
        assert "&lt;b&gt;x&lt;/b&gt;" in pages[name]
        assert HOSTILE not in pages[name]
    assert all("Content-Security-Policy" in page for page in pages.values())


def test_heat_maps() -> None:
    table = pd.DataFrame({"a": [2.0, -4.0], "<b>": [np.nan, 0.0]}, index=["x", "y"])
    page = HeatMap(table, "m", "{:+.1f}", shades=strength(table)).__html__()
    assert cells(page, "m") == {
        ("x", "a"): ("+2.0", "", 0.325), ("x", "<b>"): ("-", "", 0.0),
        ("y", "a"): ("-4.0", "", -0.6), ("y", "<b>"): ("+0.0", "", 0.0),
    }  # fmt: skip
    assert 'title="y, a"' in page
    numbers = pd.DataFrame({"a": [-1.0, 9.0, 0.0]})
    assert strength(numbers, 4.0, 0.5)["a"].tolist() == [-0.5, 1.0, 0.0]
    assert strength(numbers, 0.0)["a"].tolist() == [-1.0, 1.0, 0.0]
    assert strength(pd.DataFrame()).empty


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(pages: dict[str, str], driver: Any) -> Any:
    """The browser, when the pages lie in their folder."""
    return driver


PLOTS = {"imp": 2, "hostile": 2, "single": 1, "pruning": 2, "begun": 0, "transfer": 0, "transferring": 0}


@pytest.mark.parametrize("page", PLOTS)
def test_it_works_with_no_network(page: str, folder: Path, driver: Any) -> None:
    driver.get_log("browser"), requests(driver)
    url = (folder / f"{page}.html").as_uri()
    driver.get(url)
    plots = driver.find_elements("css selector", ".js-plotly-plot")
    assert len(plots) == PLOTS[page]
    for plot in plots:
        assert plot.find_elements("css selector", ".points path")
        assert plot.size["height"] > 200
    assert driver.find_elements("css selector", "main b, header b") == []
    assert driver.get_log("browser") == []
    assert requests(driver) == [url]


def test_lines_means_seeds_and_the_dense_model_are_drawn(folder: Path, driver: Any) -> None:
    driver.get((folder / "imp.html").as_uri())
    plot = driver.find_element("css selector", ".js-plotly-plot")
    names = [one.text for one in plot.find_elements("css selector", ".legendtext")]
    assert names[:4] == ["IMP", "IMP, not rewound", "one-shot", "random masks"]
    assert names[4].startswith("dense model 5")
    means, seeds = len(WAYS) * len(RUNGS), 3 * (len(WAYS) * len(RUNGS) + 1)
    assert len(plot.find_elements("css selector", ".points path")) == means + seeds
    assert plot.find_elements("css selector", ".shapelayer path")  # the band, and what matches
    driver.execute_script("Plotly.Fx.hover(arguments[0], [{curveNumber: 2, pointNumber: 0}])", plot)
    assert "IMP, not rewound" in driver.execute_script("return document.querySelector('.hoverlayer').textContent")


@pytest.mark.parametrize("page", ["imp", "hostile", "transfer", "structured"])
def test_nothing_is_wider_than_the_screen(page: str, folder: Path, driver: Any) -> None:
    for width, media in ((1280, ""), (400, ""), (720, "print")):  # 720: A4 less its margins
        set_screen(driver, width, media=media)
        if page in ("imp", "hostile") or width == 1280:  # figures are drawn for the width that they are loaded at
            driver.get((folder / f"{page}.html").as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") == width
        wide = driver.find_elements("css selector", ".main-svg, .scroll, .verdict, p, dl")
        assert max(one.rect["x"] + one.rect["width"] for one in wide) <= width


@pytest.mark.parametrize("page", ["imp", "transfer"])
def test_all_text_is_readable(page: str, folder: Path, driver: Any) -> None:
    """On the deepest shades too."""
    driver.get((folder / f"{page}.html").as_uri())
    check_contrast(driver)


def test_cells_are_marked_by_more_than_colour(folder: Path, driver: Any) -> None:
    set_screen(driver, 1280)
    driver.get((folder / "transfer.html").as_uri())

    def style(selector: str, what: str) -> str:
        return str(driver.find_element("css selector", f".shades {selector}").value_of_css_property(what))

    assert style("td.own", "outline-style") == "solid"
    assert style("td.same-task", "outline-style") == "dashed"
    assert "gradient" in style("td.missing", "background-image")
    assert style("td.as-good", "font-weight") == "700"
    own = [cell.value_of_css_property("background-color") for cell in driver.find_elements("css selector", "td.own")]
    assert {colour.rsplit(",", 1)[0] for colour in own} == {"rgba(0, 114, 178", "rgba(213, 94, 0"}
    assert style("td.own", "print-color-adjust") == "exact"  # browsers leave colours out of prints otherwise


def test_tables_sort(folder: Path, driver: Any) -> None:
    driver.get((folder / "transfer.html").as_uri())
    scores = driver.find_element("css selector", '[aria-label="scores by source and task"] table')
    button = scores.find_elements("css selector", "th button")[3]
    for reverse in (False, True):
        driver.execute_script("arguments[0].click()", button)
        shown = [one.get_attribute("textContent") for one in scores.find_elements("css selector", "td:nth-child(4)")]
        assert shown[-1] == "-"  # what is missing comes last either way
        means = [float(text.split(" ")[0]) for text in shown[:-1]]
        assert means == sorted(means, reverse=reverse)


def test_every_picture_has_words(folder: Path, driver: Any) -> None:
    for page, pictures in (("imp", 2), ("transfer", 0)):
        driver.get((folder / f"{page}.html").as_uri())
        found = driver.find_elements("css selector", "figure")
        assert len(found) == pictures
        assert all((picture.get_attribute("aria-label") or "").count(" ") > 4 for picture in found)
        tables = driver.find_elements("css selector", ".scroll")
        assert all(table.get_attribute("aria-label") for table in tables)


# --- `supertickets report` --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real studies of a tiny model: tickets found on a task, and trained on it."""
    folder = tmp_path_factory.mktemp("studies")
    shared: dict[str, Any] = {"model": str(tiny_model), "epochs": 1, "max_length": 16, "workers": 1}
    found = supertickets.imp(
        task="words", **words, **shared, sparsities=(0.3, 0.6), seeds=2, rewind=("0", "none"), controls=("random",),
        out=folder / "imp",
    )  # fmt: skip
    tried = supertickets.transfer(tickets=(found.folder,), sparsity=0.6, seeds=2, **shared, out=folder / "transfer")
    assert found.report.is_file()
    assert tried.report.is_file()
    return {"imp": found.folder, "transfer": tried.folder}


@pytest.mark.parametrize("study", ["imp", "transfer"])
def test_a_report_of_a_finished_study_is_the_one_it_wrote(study: str, studies: dict[str, Path]) -> None:
    page = studies[study] / "report.html"
    before, tables = page.read_text(), {p: p.read_bytes() for p in (studies[study] / "tables").iterdir()}
    made = report([studies[study]])
    assert made.page == page
    assert without_names(page.read_text()) == without_names(before)
    assert {p: p.read_bytes() for p in (studies[study] / "tables").iterdir()} == tables
    assert f"supertickets {study} --config {studies[study] / 'settings.yaml'}" in page.read_text()
    assert not made.tables["means"].empty
    assert list(made.verdicts) == [str(studies[study])]


@pytest.mark.parametrize(("study", "left"), [("imp", 10), ("imp", 1), ("transfer", 5), ("transfer", 1)])
def test_a_report_of_an_unfinished_study(study: str, left: int, studies: dict[str, Path], tmp_path: Path) -> None:
    """Some runs are gone, down to a single one that is left; what cannot be known is not made up."""
    copy = shutil.copytree(studies[study], tmp_path / "copy")
    runs = pd.read_csv(copy / "results.csv")
    keys = list(dict.fromkeys(runs["trial"]))
    for key in keys[left:]:
        (copy / "trials" / key / "outcome.json").unlink()
    before = sorted(copy.glob("trials/*/outcome.json"))
    page = report([copy]).page.read_text()
    assert "This study is not finished:" in page
    assert ">nan<" not in page
    assert sorted(copy.glob("trials/*/outcome.json")) == before


def test_what_cannot_be_reported_is_told(
    studies: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(studies["imp"]), str(studies["transfer"])]) == 2
    assert "report studies of `imp` one at a time" in capsys.readouterr().err
    assert main(["report", str(studies["transfer"]), "--out", str(tmp_path / "else")]) == 0
    assert f"report: {tmp_path / 'else' / 'report.html'}" in capsys.readouterr().out
    copy = shutil.copytree(studies["transfer"], tmp_path / "copy")
    for outcome in copy.glob("trials/*/outcome.json"):
        outcome.unlink()
    assert main(["report", str(copy)]) == 2
    assert "no run has finished yet" in capsys.readouterr().err
