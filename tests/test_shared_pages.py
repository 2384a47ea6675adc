"""The pages about shared tickets and about adaptation, of made-up studies; in a real browser where there is one."""

import itertools
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.browser import requests, set_screen
from supertickets.anatomy import Shape
from supertickets.evidence.adapt import analyse_adapt
from supertickets.evidence.compare import analyse_compare
from supertickets.evidence.findings import Findings
from supertickets.evidence.rates import SPREAD
from supertickets.evidence.runs import Runs, TaskInfo, understood
from supertickets.evidence.share import MODELS, MT_DNN, TICKET_SHARE, ShareFindings, analyse_share
from supertickets.lab.steps import Label, Run, Step
from supertickets.reports.adapt import adapt_sections
from supertickets.reports.compare import compare_sections
from supertickets.reports.maps import StructureMap
from supertickets.reports.page import write_page
from supertickets.reports.sections import Table, tables_section
from supertickets.reports.share import share_sections
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket

HOSTILE = "<img src=x onerror=alert(1)>"
SHAPE = Shape(4, 6, 48, 96)
FULL = Ticket.full(SHAPE.layers, SHAPE.heads)
TICKETS = (
    Ticket.from_pruned(4, 6, [(0, 1), (0, 2), (2, 5)], [0]),
    Ticket.from_pruned(4, 6, [(0, 1), (1, 0), (2, 5)], [0, 3]),
    Ticket.from_pruned(4, 6, [(0, 1), (3, 3)], []),
)
METRICS = {"words": ("accuracy",), HOSTILE: ("accuracy",), "graded": ("pearson", "spearman")}
SETTINGS = {"study": "x", "epochs": 3, "levels": (0.1, 0.2), "address": None}


def info(task: str, train: int = 1234) -> TaskInfo:
    return TaskInfo(
        model="default", model_type="bert", weight_hash="w", shape=SHAPE, task=task, data_hash=f"{task} {train}",
        labels=("0", "1"), metrics=METRICS[task], train=train, targets=np.zeros(50, int), source=TaskSource(task=task),
    )  # fmt: skip


def a_run(labels: Mapping[str, Label], tasks: Sequence[TaskInfo], tickets: Sequence[Ticket], finished: bool) -> Run:
    """A run with made-up scores, better with tickets, after fine-tuning and with more examples."""
    step, kind = Step(labels, lambda done: None), str(labels["kind"])
    parts = [
        SimpleNamespace(ticket=ticket, data_hash=one.data_hash) for one, ticket in zip(tasks, tickets, strict=True)
    ]
    recipe = SimpleNamespace(epochs=3)
    examples = tuple(one.data_hash for one in tasks)
    trial: Any = SimpleNamespace(key=f"key-{step}", tasks=parts, ticket=tickets[0], recipe=recipe, examples=examples)
    if not finished:
        return Run(step, trial)
    rng = np.random.default_rng(zlib.crc32(str(step).encode()))
    better = 60 + 2 * ("Share" in kind or "Super" in kind) + 3 * (labels.get("stage") == "fine-tuned")
    by_task = []
    for one in tasks:
        values = better + 2 * np.log(one.train) + rng.normal(size=len(one.metrics))
        by_task.append(
            {"dev": dict(zip(one.metrics, values.tolist(), strict=True)) | {"score": float(np.mean(values))}}
        )
    cost = {"parameters": 200_000.0, "tokens": 1e6, "flops": 1e12, "seconds": 12.3}
    outcome: Any = SimpleNamespace(
        finished=True, status="finished", by_task=by_task, metrics=by_task[0], score=by_task[0]["dev"]["score"],
        key=f"key-{step}", best_epoch=1, cost=cost, environment={"python": "3.11", "torch": "2.6"}, trial=trial,
        epochs=[{"epoch": 1, "score": by_task[0]["dev"]["score"], "metrics": dict(enumerate(by_task))}],
        predictions=lambda place: {"dev": rng.normal(size=(1, 50, 2))},
    )  # fmt: skip
    return Run(step, trial, outcome)


def shared_runs(tasks: Sequence[str], seeds: int = 3, finished: int = 99) -> Runs:
    """A study of `share` whose first runs are finished."""
    infos, runs = [info(task) for task in tasks], list[Run]()
    own = {MT_DNN: [FULL] * len(tasks), TICKET_SHARE: list(TICKETS[: len(tasks)])}
    for seed, model in itertools.product(range(seeds), MODELS):
        labels: dict[str, Label] = {"stage": "shared", "kind": model, "seed": seed}
        runs.append(a_run(labels, infos, own[model], len(runs) < finished))
        for one, ticket in zip(infos, own[model], strict=True):
            tuned = labels | {"stage": "fine-tuned", "task": one.task}
            runs.append(a_run(tuned, [one], [ticket], len(runs) < finished))
    return Runs(tuple(infos), Path("x"), SETTINGS, runs, finished >= len(runs))


def share_page(path: Path, runs: Runs, scores: bool = True, spread: Mapping[str, pd.DataFrame] | None = None) -> str:
    tasks, given = [one.task for one in runs.tasks], {}
    for i, task in enumerate(tasks):
        ours = np.random.default_rng(i).random((4, 6)) ** 3
        given[task] = {"heads": ours, "ffns": ours[:, 0]} if scores else {}
    seen = analyse_share(runs, dict(zip(tasks, TICKETS, strict=False)), given)
    seen = ShareFindings(**{**vars(seen), "spread": spread or {}})
    title = f"Tickets shared by {len(tasks)} tasks on the default encoder"
    write_page(path, title, share_sections(seen, runs), runs, seen, "supertickets share --config it.yaml")
    return path.read_text(encoding="utf-8")


def adapt_page(path: Path, finished: int = 99) -> str:
    infos, runs = [info(HOSTILE, train) for train in (23, 235, 2350)], list[Run]()
    models = ("RTE-ST-DNN", "RTE-SuperT", MT_DNN, TICKET_SHARE)
    for one, seed, model in itertools.product(infos, range(3), models):
        labels: dict[str, Label] = {"kind": model, "examples": one.train, "seed": seed}
        runs.append(a_run(labels, [one], [FULL if "DNN" in model else TICKETS[0]], len(runs) < finished))
    study = Runs(tuple(infos), Path("x"), SETTINGS, runs, finished >= len(runs))
    seen = analyse_adapt(study, [(models[1], models[0]), (models[3], models[2])])
    command = "supertickets adapt --config it.yaml"
    write_page(path, "Adapted", adapt_sections(seen, study), study, seen, command)
    return path.read_text(encoding="utf-8")


def compare_page(path: Path, finished: int = 99) -> str:
    one, runs = info(HOSTILE), list[Run]()
    for choice, kind, level, seed in itertools.product(
        ("", "counts=ladder", "lr_schedule=released"), ("dense", "winning"), (0.0, 0.3, 0.6), range(2)
    ):
        if (kind == "dense") == (level == 0):
            labels: dict[str, Label] = {"choice": choice, "kind": kind, "level": level, "seed": seed}
            runs.append(a_run(labels, [one], [TICKETS[seed] if level else FULL], len(runs) < finished))
    study = Runs((one,), Path("x"), SETTINGS, runs, finished >= len(runs))
    seen, command = analyse_compare(study, ["lr_schedule=released"]), "supertickets compare --config it.yaml"
    write_page(path, "Compared", compare_sections(seen, study), study, seen, command)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    """Each page's text, less plotly; they lie in `folder` under these names."""
    frame = pd.DataFrame({HOSTILE: [0.5]}, index=["MT-DNN"])
    made = {
        "three": share_page(folder / "three.html", shared_runs(list(METRICS)), spread=dict.fromkeys(SPREAD, frame)),
        "two": share_page(folder / "two.html", shared_runs([HOSTILE, "words"], seeds=2, finished=8), scores=False),
        "begun": share_page(folder / "begun.html", shared_runs(["words", HOSTILE], finished=0)),
        "adapted": adapt_page(folder / "adapted.html"),
        "adapting": adapt_page(folder / "adapting.html", finished=14),
        "to adapt": adapt_page(folder / "to adapt.html", finished=0),
        "compared": compare_page(folder / "compared.html"),
        "to compare": compare_page(folder / "to compare.html", finished=0),
    }
    return {name: text[: text.index("<script>")] + text[text.index("</head>") :] for name, text in made.items()}


def test_what_is_said_of_the_model_is_of_no_task() -> None:
    one, other = (replace(info(task), notices=("m",), description=("d",)) for task in ("words", "graded"))
    assert understood([one, other]) == ["m", "words: d", "graded: d"]
    assert understood([one]) == ["m", "d"]


# --- what they say ----------------------------------------------------------------------------------------------------


def test_the_page_of_shared_tickets(pages: dict[str, str]) -> None:
    page = pages["three"]
    for said in (
        "<title>Tickets shared by 3 tasks on the default encoder</title>",
        "words: 1,234 training and 50 dev examples; score: accuracy.",
        "graded: 1,234 training and 50 dev examples; score: pearson and spearman.",
        "MT-DNN + fine-tuning",
        "Union size",
        "p_holm",
        "kept by at least one task",
        "layer 0, head 1: kept by no task",
        "layer 3, FFN: kept by words, graded",
        "layer 0, head 3: kept by all tasks",
        "Of 28 heads and FFNs, all tasks keep 21, some but not all 6, none 1.",
        "supertickets share --config it.yaml",
        "<dt>levels</dt><dd>0.1, 0.2</dd>",
        "<dt>torch</dt><dd>2.6</dd>",
        "overlap of all pairs",
        "Sensitivity",
    ):
        assert said in page, said
    assert "not finished" not in page
    assert page.count("of 28 heads and FFNs are nearest to this pattern") == 3  # even, one task, two tasks


def test_an_unfinished_study_of_two_tasks_without_scores(pages: dict[str, str]) -> None:
    page = pages["two"]
    assert "This study is not finished: 5 of 16 runs are missing." in page
    assert "The tickets have no importance scores" in page
    assert page.count("plotly-graph-div") == 1  # no panels
    assert "overlap of all pairs" not in page  # which is a single one
    assert "Sensitivity" not in page


@pytest.mark.parametrize(("page", "runs"), [("begun", 24), ("to adapt", 36), ("to compare", 18)])
def test_a_study_with_no_run_yet(page: str, runs: int, pages: dict[str, str]) -> None:
    assert f"This study is not finished: {runs} of {runs} runs are missing." in pages[page]
    assert "No training has finished yet." in pages[page]
    assert ">nan<" not in pages[page]


def test_the_page_of_an_adaptation(pages: dict[str, str]) -> None:
    page = pages["adapted"]
    for said in (
        "RTE-ST-DNN, RTE-SuperT, MT-DNN, Ticket-Share are fine-tuned on few training examples",
        ": 23, 235, 2,350 training and 50 dev examples; score: accuracy.",
        "2,350 examples</button>",
        "p_holm",
        "supertickets adapt --config it.yaml",
        "<dt>python</dt><dd>3.11</dd>",
    ):
        assert said in page, said
    assert "not finished" not in page
    assert "This study is not finished: 22 of 36 runs are missing." in pages["adapting"]


def test_the_page_of_a_comparison(pages: dict[str, str]) -> None:
    page = pages["compared"]
    assert page.count(">counts=ladder</td>") == 2 + 6  # a row a level, and all runs
    assert page.count(">lr_schedule=released</td>") == 3 + 6  # which trains the dense model otherwise, too
    for said in ("Effect of each changed setting", "overlap: of the pruned heads and FFNs", "100.0%", "p_holm"):
        assert said in page, said


def test_a_study_without_sections_shows_its_tables(folder: Path) -> None:
    runs = shared_runs(["words", HOSTILE])
    tables = {"best": pd.DataFrame({"score": [71.5]}), "nothing": pd.DataFrame()}
    write_page(folder / "plain.html", "x", [tables_section(tables)], runs, Findings(runs.table), "supertickets mine")
    page = (folder / "plain.html").read_text(encoding="utf-8")
    assert "<h3>Best</h3>" in page
    assert 'data-key="71.5">71.50</td>' in page
    assert "Nothing" not in page


def test_a_hostile_name_is_escaped_everywhere(pages: dict[str, str]) -> None:
    for page in pages.values():
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert "Content-Security-Policy" in page


def test_a_shared_map_counts_who_keeps_what() -> None:
    drawn = StructureMap.shared("m", dict(zip("abc", TICKETS, strict=True)))
    kept = sum(np.column_stack([ticket.heads, ticket.ffns]).ravel().astype(int) for ticket in TICKETS)
    cells = [cell for layer in drawn.layers for cell in layer]
    assert [count for _, _, count in cells] == kept.tolist()
    shades = {count: shade for shade, _, count in cells}
    assert shades[0] == 0 < shades[1] < shades[2] < 1 == shades[3]


def test_large_counts_have_all_their_digits() -> None:
    table = pd.DataFrame({"neurons": [131072, 3071.5], "neurons (of 200,000)": [131072.0, 42.25]})
    html = Table(table, "counts", "{:,.5g}").__html__()
    assert re.findall(r'data-key=".*?">(.*?)</td>', html) == ["131072", "131,072", "3071.5", "42.25"]


def test_cells_of_a_table() -> None:
    table = pd.DataFrame({"low": [3, 4], "p": [0.001234, np.nan], "what": ["a", None], "yes": [True, False]})
    html = Table(table, "cells").__html__()
    rows = [re.findall(r'data-key="(.*?)">(.*?)</td>', row) for row in html.split("<tr>")[2:]]
    assert rows[0] == [("3", "+3.00"), ("0.001234", "0.0012"), ("a", "a"), ("True", "yes")]
    assert rows[1] == [("4", "+4.00"), ("", "-"), ("", "-"), ("False", "no")]
    html = Table(table.set_index("what"), "cells").__html__()
    assert re.findall(r'<th scope="col"><button type="button">(.*?)</button>', html) == ["what", "low", "p", "yes"]


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(pages: dict[str, str], driver: Any) -> Any:
    """The browser, when the pages lie in their folder."""
    return driver


PLOTS = {"three": 4, "two": 1, "adapted": 1, "adapting": 1, "compared": 1}


@pytest.mark.parametrize("page", PLOTS)
def test_it_works_with_no_network(page: str, folder: Path, driver: Any) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    driver.get_log("browser"), requests(driver)
    url = (folder / f"{page}.html").as_uri()
    driver.get(url)
    plots = driver.find_elements("css selector", ".js-plotly-plot")
    assert len(plots) == PLOTS[page]
    for plot in plots:
        assert plot.find_elements("css selector", ".points path")
        assert plot.size["height"] > 200
    with pytest.raises(NoAlertPresentException):
        _ = driver.switch_to.alert.text
    assert driver.find_elements("css selector", "img[src=x]") == []
    assert HOSTILE in driver.find_element("css selector", "body").text
    assert driver.get_log("browser") == []
    assert requests(driver) == [url]


def show(page: str, folder: Path, driver: Any) -> None:
    """Open a page, unless it is there already: it takes seconds."""
    if driver.current_url != (url := (folder / f"{page}.html").as_uri()):
        driver.get(url)


@pytest.mark.parametrize(("page", "pictures"), [("adapted", 1), ("three", 4 + 3 + 1)])
def test_every_picture_has_words(page: str, pictures: int, folder: Path, driver: Any) -> None:
    show(page, folder, driver)
    found = driver.find_elements("css selector", "figure:not(.map, .shared), .map svg, .shared svg")
    assert len(found) == pictures
    assert all((picture.get_attribute("aria-label") or "").count(" ") > 4 for picture in found)


@pytest.mark.parametrize(("page", "intervals"), [("three", 0), ("adapted", 4 * 3)])
def test_means_and_single_seeds_are_both_drawn(page: str, intervals: int, folder: Path, driver: Any) -> None:
    show(page, folder, driver)
    plot = driver.find_element("css selector", ".js-plotly-plot")
    assert len(plot.find_elements("css selector", ".points path")) == 4 * 3 + 4 * 3 * 3
    assert len(plot.find_elements("css selector", ".legendtext")) == 4
    assert len(plot.find_elements("css selector", ".yerror")) == intervals


def test_tables_sort(folder: Path, driver: Any) -> None:
    show("three", folder, driver)
    runs = driver.find_elements("css selector", "table.sortable")[-1]
    column = [head.text for head in runs.find_elements("css selector", "th")].index("score")
    button = runs.find_elements("css selector", "th button")[column]
    for reverse in (False, True):
        driver.execute_script("arguments[0].click()", button)
        cells = runs.find_elements("css selector", f"td:nth-child({column + 1})")
        numbers = [float(cell.get_attribute("textContent")) for cell in cells]
        assert numbers == sorted(numbers, reverse=reverse)
        assert len(set(numbers)) > 2


def test_names_in_plots_are_text(folder: Path, driver: Any) -> None:
    show("three", folder, driver)
    labels = [one.text for one in driver.find_elements("css selector", ".xtick text, .ytick text, .legendtext")]
    assert sum(label.startswith("<img src=x onerror=ale") for label in labels) == 1 + 3  # an axis, legends
    driver.execute_script(
        "Plotly.Fx.hover([...document.querySelectorAll('.js-plotly-plot')].at(-1), [{curveNumber: 1, pointNumber: 0}])"
    )
    shown = driver.execute_script("return [...document.querySelectorAll('.hoverlayer')].at(-1).textContent")
    assert f"{HOSTILE}:" in shown
    assert "of its importance" in shown


def width_of(driver: Any) -> int:
    """How wide a page is with all its pictures."""
    pictures = driver.find_elements("css selector", ".main-svg, .shared svg, .map svg")
    right = max(one.rect["x"] + one.rect["width"] for one in pictures)
    return max(driver.execute_script("return document.documentElement.scrollWidth"), math.ceil(right))


@pytest.mark.parametrize("page", ["three", "adapted", "compared"])
def test_nothing_is_wider_than_the_screen(page: str, folder: Path, driver: Any) -> None:
    """On a wide screen, printed from there, and on a narrow one."""
    from selenium.webdriver.support.wait import WebDriverWait

    url = (folder / f"{page}.html").as_uri()
    set_screen(driver, 1280)
    driver.get(url)
    assert width_of(driver) == 1280
    set_screen(driver, 964, media="print")  # A4 less its margins
    WebDriverWait(driver, 20).until(lambda found: width_of(found) == 964)  # figures follow when they are told
    set_screen(driver, 400)
    driver.get(url)
    assert width_of(driver) == 400


# The least contrast of any text with what is behind it. A number on the map lies on the cell of the same place.
CONTRAST = """
const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (top, a, under) => top.slice(0, 3).map((c, i) => a * c + (1 - a) * under[i]);
const light = rgb => rgb.slice(0, 3).map(c => c / 255)
  .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((s, c, i) => s + c * [.2126, .7152, .0722][i], 0);
const behind = node => {
  for (; node; node = node.parentElement) {
    const ground = parse(getComputedStyle(node).backgroundColor);
    if (ground[3] === 1) return ground;
  }
};
let least = [99, ""];
for (const node of document.querySelectorAll("body *:not(script)")) {
  const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest("title, defs") || !node.getClientRects().length) continue;
  const style = getComputedStyle(node), map = node.closest(".shared svg");
  let ground = behind(node);
  if (map) {
    const rects = [...map.querySelectorAll("rect")], at = [...map.querySelectorAll("text")].indexOf(node);
    if (at < rects.length) {
      const cell = getComputedStyle(rects[at]);
      ground = over(parse(cell.fill), Number(cell.fillOpacity), ground);
    }
  }
  const [a, b] = [light(parse(node.closest("svg") ? style.fill : style.color)), light(ground)];
  const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (contrast < least[0]) least = [contrast, node.textContent];
}
return [light(behind(document.body)), ...least];
"""


@pytest.mark.parametrize("page", ["three", "adapting", "compared"])
def test_all_text_is_readable(page: str, folder: Path, driver: Any) -> None:
    """Contrast of at least 4.5 (WCAG AA); print is dark on white whatever the screen was."""
    set_screen(driver, 1280)
    driver.get((folder / f"{page}.html").as_uri())
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        set_screen(driver, 1280, scheme=scheme, media=media)
        ground, least, where = driver.execute_script(CONTRAST)
        assert (ground > 0.5) == (scheme == "light" or media == "print")
        assert 4.5 <= least < 21.01, (scheme, media, where)
