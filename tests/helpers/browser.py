"""A real browser for tests of the report: the system's Chromium, driven by selenium; never downloaded."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def why_not() -> str:
    """Return why there is no browser to test with; empty if there is one."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium on this machine (Debian: apt-get install chromium chromium-driver)"
    return "" if shutil.which("chromedriver") else "no chromedriver on this machine (Debian: chromium-driver)"


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Give a headless Chromium that logs its console and every request."""
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = next(found for name in BROWSERS if (found := shutil.which(name)))
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
        "--hide-scrollbars",        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    get, drawn = driver.get, "return !document.querySelector('.plotly-graph-div:not(.js-plotly-plot)')"

    def get_drawn(url: str) -> None:
        """Open a page; Chromium may say that it has loaded before its figures are drawn."""
        get(url)
        WebDriverWait(driver, 20).until(lambda found: found.execute_script(drawn))

    driver.get = get_drawn
    try:
        yield driver
    finally:
        driver.quit()


def set_screen(driver: Any, width: int, height: int = 900, scheme: str = "light", media: str = "") -> None:
    """Set the screen's true width (a window cannot be narrower than some 500 pixels) and light, dark or print."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def reset_screen(driver: Any) -> None:
    """Undo `set_screen`."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def requests(driver: Any) -> list[str]:
    """Return the addresses asked for since the last look, those inside the page left out."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [url for url in found if not url.startswith(("data:", "blob:", "chrome:", "chrome-untrusted:", "about:"))]


def screenshot(driver: Any, path: Path) -> None:
    """Save the whole page, however long, as a PNG."""
    import base64

    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))


SCHEMES = (("light", ""), ("dark", ""), ("dark", "print"))
"""What a page is looked at in: the scheme that is preferred, and the medium."""
CONTRAST = """
const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const light = rgb => rgb.slice(0, 3).map(c => c / 255)
  .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((s, c, i) => s + c * [.2126, .7152, .0722][i], 0);
const behind = node => {
  const ground = parse(getComputedStyle(node).backgroundColor);
  if (ground[3] === 1) return ground;
  const under = behind(node.parentElement);
  return under.map((c, i) => i < 3 ? ground[3] * ground[i] + (1 - ground[3]) * c : 1);
};
let least = [99, ""];
for (const node of document.querySelectorAll("body *:not(script)")) {
  const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest("title, defs") || !node.getClientRects().length) continue;
  const style = getComputedStyle(node);
  const [a, b] = [light(parse(node.closest("svg") ? style.fill : style.color)), light(behind(node))];
  const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (contrast < least[0]) least = [contrast, node.textContent];
}
return [light(behind(document.body)), ...least];
"""
"""Of the page's ground its lightness; the least contrast of any text with what is behind it, and that text.

Cells' half-transparent colours are taken into account.
"""


def check_contrast(driver: Any) -> None:
    """The open page's text has a contrast of at least 4.5 (WCAG AA), in every scheme; print is dark on white."""
    for scheme, media in SCHEMES:
        set_screen(driver, 1280, scheme=scheme, media=media)
        ground, least, where = driver.execute_script(CONTRAST)
        assert (ground > 0.5) == (scheme == "light" or media == "print"), (scheme, media)
        assert 4.5 <= least < 21.01, (scheme, media, where)
