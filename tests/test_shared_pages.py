"""The pages about shared tickets and about adaptation, of made-up studies; in a real browser where there is one."""

import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.browser import requests, set_screen
from supertickets.anatomy import Shape
from supertickets.evidence.adaptation import Compared, conclude_adaptation
from supertickets.evidence.record import Record, Subject
from supertickets.evidence.sharing import MODELS, MT_DNN, TICKET_SHARE, conclude_sharing
from supertickets.evidence.table import Role, Row
from supertickets.report.adapted import write_adaptation_report
from supertickets.report.html import grid
from supertickets.report.maps import StructureMap
from supertickets.report.shared import write_sharing_report
from supertickets.tasks import TaskSource
from supertickets.tickets import Ticket
from supertickets.tickets.folder import SharedTicket

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


def subject(task: str, train: int = 1234) -> Subject:
    return Subject(
        "default", "bert", "w", SHAPE, task, "d", ("0", "1"), METRICS[task], train, np.zeros(50, int),
        TaskSource(task=task),
    )  # fmt: skip


def row(role: Role, subjects: Sequence[Subject], tickets: Sequence[Ticket], finished: bool = True) -> Row:
    """A run with made-up scores, better with tickets, after fine-tuning and with more examples."""
    if not finished:
        return Row(role, None, None)
    rng = np.random.default_rng(zlib.crc32(str(role).encode()))
    better = 60 + 2 * ("Share" in role.kind or "Super" in role.kind) + 3 * bool(role.variant)
    by_task = []
    for one in subjects:
        values = better + 2 * np.log(one.train) + rng.normal(size=len(one.metrics))
        by_task.append(
            {"dev": dict(zip(one.metrics, values.tolist(), strict=True)) | {"score": float(np.mean(values))}}
        )
    cost = {"parameters": 200_000.0, "tokens": 1e6, "flops": 1e12, "seconds": 12.3}
    outcome = SimpleNamespace(
        finished=True, status="finished", by_task=by_task, metrics=by_task[0], score=by_task[0]["dev"]["score"],
        best_epoch=2, cost=cost, environment={"python": "3.11", "torch": "2.6"},
    )  # fmt: skip
    parts = [SimpleNamespace(ticket=ticket) for ticket in tickets]
    return Row(role, SimpleNamespace(key=f"key-{role}", tasks=parts, ticket=tickets[0]), outcome)  # type: ignore[arg-type]


def shared_record(tasks: Sequence[str], seeds: int = 3, finished: int = 99) -> Record:
    """A study of `share` whose first runs are finished."""
    subjects, rows = [subject(task) for task in tasks], []
    own = {MT_DNN: [FULL] * len(tasks), TICKET_SHARE: list(TICKETS[: len(tasks)])}
    for seed, model in itertools.product(range(seeds), MODELS):
        rows.append(row(Role(model, 0.0, seed), subjects, own[model], len(rows) < finished))
        for one, ticket in zip(subjects, own[model], strict=True):
            rows.append(row(Role(model, 0.0, seed, one.task), [one], [ticket], len(rows) < finished))
    return Record(tuple(subjects), Path("x"), SETTINGS, rows, finished >= len(rows))


def share_page(path: Path, record: Record, scores: bool = True, **sensitivity: pd.DataFrame) -> str:
    tasks, given = [one.task for one in record.subjects], []
    for i, ticket in enumerate(TICKETS[: len(tasks)]):
        ours = np.random.default_rng(i).random((4, 6)) ** 3
        found = {"heads": ours, "ffns": ours[:, 0]} if scores else {}
        given.append(SharedTicket(ticket, {}, {}, {}, found))
    seen = conclude_sharing(record, given)
    tickets = dict(zip(tasks, TICKETS, strict=False))
    write_sharing_report(path, record, seen, tickets, "supertickets share --config it.yaml", sensitivity)
    return path.read_text(encoding="utf-8")


def adapt_page(path: Path, finished: int = 99) -> str:
    subjects, rows = [subject(HOSTILE, train) for train in (23, 235, 2350)], []
    models = ("RTE-ST-DNN", "RTE-SuperT", MT_DNN, TICKET_SHARE)
    for one, seed, model in itertools.product(subjects, range(3), models):
        role = Role(model, 0.0, seed, f"{one.train} examples")
        rows.append(row(role, [one], [FULL if "DNN" in model else TICKETS[0]], len(rows) < finished))
    record = Record(tuple(subjects), Path("x"), SETTINGS, rows, finished >= len(rows))
    seen = conclude_adaptation(record, [Compared(models[1], models[0]), Compared(models[3], models[2])])
    write_adaptation_report(path, record, seen, "supertickets adapt --config it.yaml")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    """Each page's text, less plotly; they lie in `folder` under these names."""
    frame = pd.DataFrame({HOSTILE: [0.5]}, index=["MT-DNN"])
    made = {
        "three": share_page(folder / "three.html", shared_record(list(METRICS)), more=frame),
        "two": share_page(folder / "two.html", shared_record([HOSTILE, "words"], seeds=2, finished=8), scores=False),
        "begun": share_page(folder / "begun.html", shared_record(["words", HOSTILE], finished=0)),
        "adapted": adapt_page(folder / "adapted.html"),
        "adapting": adapt_page(folder / "adapting.html", finished=14),
        "to adapt": adapt_page(folder / "to adapt.html", finished=0),
    }
    return {name: text[: text.index("<script>")] + text[text.index("</head>") :] for name, text in made.items()}


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
        "what some task keeps",
        "layer 0, head 1: kept by no task",
        "layer 3, FFN: kept by words, graded",
        "layer 0, head 3: kept by all tasks",
        "Of 28 heads and FFNs, all tasks keep 21, some but not all 6, none 1.",
        "supertickets share --config it.yaml",
        "<dt>levels</dt><dd>0.1, 0.2</dd>",
        "<dt>torch</dt><dd>2.6</dd>",
        "Sensitivity",
    ):
        assert said in page, said
    assert "not finished" not in page
    assert page.count("of 28 heads and FFNs are nearest to this pattern") == 3  # even, one task, two tasks


def test_an_unfinished_study_of_two_tasks_without_scores(pages: dict[str, str]) -> None:
    page = pages["two"]
    assert "This study is not finished: 5 of 16 runs are missing." in page
    assert "The tickets came without importance scores" in page
    assert page.count("plotly-graph-div") == 1  # no heatmap of a single pair, no panels
    assert "Sensitivity" not in page


@pytest.mark.parametrize(("page", "runs"), [("begun", 24), ("to adapt", 36)])
def test_a_study_with_no_run_yet(page: str, runs: int, pages: dict[str, str]) -> None:
    assert f"This study is not finished: {runs} of {runs} runs are missing." in pages[page]
    assert "No training has finished yet." in pages[page]
    assert ">nan<" not in pages[page]


def test_the_page_of_an_adaptation(pages: dict[str, str]) -> None:
    page = pages["adapted"]
    for said in (
        "RTE-ST-DNN, RTE-SuperT, MT-DNN, Ticket-Share, trained before, go on with 23, 235, 2,350 training examples",
        "2,350 examples</button>",
        "p_holm",
        "supertickets adapt --config it.yaml",
        "<dt>python</dt><dd>3.11</dd>",
    ):
        assert said in page, said
    assert "not finished" not in page
    assert "This study is not finished: 22 of 36 runs are missing." in pages["adapting"]


def test_a_hostile_name_is_escaped_everywhere(pages: dict[str, str]) -> None:
    for page in pages.values():
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert "Content-Security-Policy" in page


def test_a_shared_map_counts_who_keeps_what() -> None:
    drawn = StructureMap.shared("m", dict(zip("abc", TICKETS, strict=True)))
    kept = sum(np.append(ticket.heads.ravel(), ticket.ffns).astype(int) for ticket in TICKETS)
    assert [int(cell.mark) for cell in drawn.cells] == kept.tolist()
    shades = {cell.mark: cell.shade for cell in drawn.cells}
    assert shades["0"] == 0 < shades["1"] < shades["2"] < 1 == shades["3"]


def test_cells_of_a_grid() -> None:
    table = pd.DataFrame({"n": [3, 4], "low": [0.001234, np.nan], "what": ["a", None], "yes": [True, False]})
    shown = grid(table, {"n": "{:+d}"})
    assert shown.rows[0] == [("+3", 3), ("0.0012", 0.001234), ("a", "a"), ("yes", True)]
    assert shown.rows[1] == [("+4", 4), ("-", ""), ("-", ""), ("no", False)]
    assert grid(table.set_index("what")).columns == ["what", "n", "low", "yes"]


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(pages: dict[str, str], driver: Any) -> Any:
    """The browser, when the pages lie in their folder."""
    return driver


PLOTS = {"three": 5, "two": 1, "adapted": 1, "adapting": 1}


@pytest.mark.parametrize("page", PLOTS)
def test_it_works_with_no_network(page: str, folder: Path, driver: Any) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    driver.get_log("browser"), requests(driver)
    url = (folder / f"{page}.html").as_uri()
    driver.get(url)
    plots = driver.find_elements("css selector", ".js-plotly-plot")
    assert len(plots) == PLOTS[page]
    for plot in plots:
        assert plot.find_elements("css selector", ".points path, .heatmaplayer image")
        assert plot.size["height"] > 200
    with pytest.raises(NoAlertPresentException):
        _ = driver.switch_to.alert.text
    assert driver.find_elements("css selector", "img[src=x]") == []
    assert HOSTILE in driver.find_element("css selector", "body").text
    assert driver.get_log("browser") == []
    assert requests(driver) == [url]


def test_names_in_plots_are_text(folder: Path, driver: Any) -> None:
    driver.get((folder / "three.html").as_uri())
    labels = [one.text for one in driver.find_elements("css selector", ".xtick text, .ytick text, .legendtext")]
    assert sum(label.startswith("<img src=x onerror=ale") for label in labels) == 1 + 2 + 3  # axes, legends
    driver.execute_script(
        "Plotly.Fx.hover([...document.querySelectorAll('.js-plotly-plot')].at(-1), [{curveNumber: 1, pointNumber: 0}])"
    )
    shown = driver.execute_script("return [...document.querySelectorAll('.hoverlayer')].at(-1).textContent")
    assert f"{HOSTILE}:" in shown
    assert "of its importance" in shown


def test_means_and_single_seeds_are_both_drawn(folder: Path, driver: Any) -> None:
    for page, means, points in (("three", 4 * 3, 4 * 3 * 3), ("adapted", 4 * 3, 4 * 3 * 3)):
        driver.get((folder / f"{page}.html").as_uri())
        plot = driver.find_element("css selector", ".js-plotly-plot")
        assert len(plot.find_elements("css selector", ".points path")) == means + points
        assert len(plot.find_elements("css selector", ".legendtext")) == 4
        assert len(plot.find_elements("css selector", ".yerror")) == (means if page == "adapted" else 0)


@pytest.mark.parametrize(("width", "media"), [(1280, ""), (400, ""), (720, "print")])  # 720: A4 less its margins
@pytest.mark.parametrize("page", ["three", "adapted"])
def test_nothing_is_wider_than_the_screen(width: int, media: str, page: str, folder: Path, driver: Any) -> None:
    set_screen(driver, width, media=media)
    driver.get((folder / f"{page}.html").as_uri())
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    pictures = driver.find_elements("css selector", ".main-svg, .shared svg, .map svg")
    assert max(one.rect["x"] + one.rect["width"] for one in pictures) <= width


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


@pytest.mark.parametrize(("scheme", "media"), [("light", ""), ("dark", ""), ("dark", "print")])
@pytest.mark.parametrize("page", ["three", "adapting"])
def test_all_text_is_readable(scheme: str, media: str, page: str, folder: Path, driver: Any) -> None:
    """Contrast of at least 4.5 (WCAG AA); print is dark on white whatever the screen was."""
    set_screen(driver, 1280, scheme=scheme, media=media)
    driver.get((folder / f"{page}.html").as_uri())
    ground, least, where = driver.execute_script(CONTRAST)
    assert (ground > 0.5) == (scheme == "light" or media == "print")
    assert 4.5 <= least < 21.01, where


def test_tables_sort(folder: Path, driver: Any) -> None:
    driver.get((folder / "three.html").as_uri())
    runs = driver.find_elements("css selector", "table.sortable")[-1]
    column = [head.text for head in runs.find_elements("css selector", "th")].index("score")
    button = runs.find_elements("css selector", "th button")[column]
    for reverse in (False, True):
        driver.execute_script("arguments[0].click()", button)
        cells = runs.find_elements("css selector", f"td:nth-child({column + 1})")
        numbers = [float(cell.get_attribute("textContent")) for cell in cells]
        assert numbers == sorted(numbers, reverse=reverse)
        assert len(set(numbers)) > 2


def test_every_picture_has_words(folder: Path, driver: Any) -> None:
    for page, pictures in (("three", 5 + 3 + 1), ("adapted", 1)):
        driver.get((folder / f"{page}.html").as_uri())
        found = driver.find_elements("css selector", "figure:not(.map, .shared), .map svg, .shared svg")
        assert len(found) == pictures
        assert all((picture.get_attribute("aria-label") or "").count(" ") > 4 for picture in found)
