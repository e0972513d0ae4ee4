"""The report in a real browser, opened from disk, with the network closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, Request, Route, sync_playwright

import reports
from harness.analyse.analysis import analyse
from harness.study.records import Design, Expectation
from tests.harness.analyse.synthetic import a_run, a_study
from tests.reports.sample import ENVIRONMENT, INFO, STUDY, attributed, invalid, small

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")

CONTRASTS = """() => {
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const parse = (colour) => {
    if (!known.has(colour)) known.set(colour, painted(colour));
    return known.get(colour);
  };
  const painted = (colour) => {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
    return Array.from(probe.getImageData(0, 0, 1, 1).data);
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  document.querySelectorAll('details').forEach(each => { each.open = true; });
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.getClientRects().length || element.closest('title,desc')) continue;
    const style = getComputedStyle(element);
    const inChart = element.closest('svg') !== null;
    const [a, b] = [light(parse(inChart ? style.fill : style.color)), light(behind(element))];
    found.push({
      kind: inChart ? 'chart' : element.closest('table') ? 'table' : 'text',
      ratio: (Math.max(a, b) + .05) / (Math.min(a, b) + .05),
      words: node.textContent.trim().slice(0, 40),
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    return reports.write(folder, STUDY, attributed(), ENVIRONMENT, INFO).as_uri()


def opened(browser: Browser, address: str, width: int = 1440, **context: Any) -> tuple[Page, list[str]]:
    """The page at that width, and every address it asked for; all but files is refused."""
    asked: list[str] = []
    page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()

    def note(request: Request) -> None:
        asked.append(request.url)

    def decide(route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    page.on("request", note)
    page.route("**/*", decide)
    page.goto(address)
    return page, asked


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_never_scrolls_sideways(browser: Browser, address: str, width: int) -> None:
    page, _ = opened(browser, address, width)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
          .filter(e => !e.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > innerWidth + 1)
          .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    page.context.close()


def test_the_tables_that_answer_fit_a_page_of_1280_pixels(browser: Browser, tmp_path: Path) -> None:
    """Nothing says that a column is beyond the edge; an estimate's change is its fourth, what follows may be."""
    asked = Expectation(name="q", claim="c", workload="surge", metric="latency_p999", request="r", at_most=1.0)
    study = a_study(asked, design=Design(kind="ablation"))
    found = analyse(study, a_run(study, {"all-circuit_breaker": 0.5}, 20))
    kinds = {"ConnectionResetError": 35_066, "PoolTimeout": 8, "TimeoutError": 112, "CircuitOpen": 9_120}
    failed = tuple(msgspec.structs.replace(each, failed=kinds) for each in found.summaries)
    why = "the percentile lies among requests without an answer in one of them, so that nothing bounds it from above"
    contrasts = tuple(msgspec.structs.replace(each, estimate=None, problem=why) for each in found.contrasts[:3])
    shown = msgspec.structs.replace(found, summaries=failed, contrasts=(*contrasts, *found.contrasts[3:]))
    page, _ = opened(browser, reports.write(tmp_path, study, shown, ENVIRONMENT, INFO).as_uri(), 1280)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    beyond = page.evaluate(
        """() => [...document.querySelectorAll(
          '#flags th, #memory th, #counted > .scroll th, #setup th, #estimates th:nth-child(4)')]
          .filter(e => e.getBoundingClientRect().right > e.closest('.scroll').getBoundingClientRect().right + 1)
          .map(e => e.closest('.scroll').getAttribute('aria-label') + ': ' + e.textContent)"""
    )
    assert page.locator("#flags th").count() > 10
    assert beyond == []
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 718, "all of them fit a sheet of A4"
    page.context.close()


@pytest.mark.parametrize("width", [360, 1440])
def test_no_text_of_a_chart_is_cut_off(browser: Browser, address: str, width: int) -> None:
    page, _ = opened(browser, address, width)
    cut = page.evaluate(
        """() => [...document.querySelectorAll('svg text')].filter(text => {
          const [box, chart] = [text, text.closest('svg')].map(e => e.getBoundingClientRect());
          return box.width && (box.left < chart.left - 2 || box.right > chart.right + 2);
        }).map(text => text.textContent)"""
    )
    assert cut == []
    page.context.close()


def test_one_size_of_each_chart_is_visible(browser: Browser, address: str) -> None:
    for width, visible in ((360, "narrow"), (1440, "wide")):
        page, _ = opened(browser, address, width)
        seen = page.evaluate(
            "[...document.querySelectorAll('figure > div')].filter(e => e.offsetHeight).map(e => e.className)"
        )
        assert len(seen) > 5
        assert set(seen) == {visible}
        page.context.close()


def test_nothing_is_asked_for_beyond_the_file(browser: Browser, address: str) -> None:
    page, asked = opened(browser, address)
    page.wait_for_load_state("networkidle")
    assert asked == [address]
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible(browser: Browser, address: str, tmp_path: Path, scheme: Any) -> None:
    void = msgspec.structs.replace(small(), valid=False, checks=invalid().checks)
    cut = msgspec.structs.replace(INFO, complete=False)
    broken = reports.write(tmp_path, STUDY, void, ENVIRONMENT, cut).as_uri()
    for each in (address, broken):
        page, _ = opened(browser, each, color_scheme=scheme)
        found = page.evaluate(CONTRASTS)
        assert {item["kind"] for item in found} == {"text", "table", "chart"}
        assert [item for item in found if item["ratio"] < 4.5] == []
        page.context.close()


def test_dark_is_dark_and_print_has_no_navigation(browser: Browser, address: str) -> None:
    def background(page: Page) -> int:
        return int(page.evaluate("+getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))

    dark, _ = opened(browser, address, color_scheme="dark")
    bright, _ = opened(browser, address, color_scheme="light")
    assert background(dark) < 40
    assert background(bright) == 255
    bright.emulate_media(media="print")
    assert not bright.locator("nav").is_visible()
    dark.context.close()
    bright.context.close()


def test_it_works_without_scripts(browser: Browser, address: str) -> None:
    page, _ = opened(browser, address, java_script_enabled=False)
    assert page.locator(".answer").is_visible()
    assert page.locator("#latency-0 .wide svg").is_visible()
    folded = page.locator("#estimates-compare-0 details")
    assert not folded.locator("table").is_visible()
    folded.locator("summary").click()
    assert folded.locator("table").is_visible()
    page.context.close()
