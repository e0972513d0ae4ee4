from __future__ import annotations

import re
from itertools import pairwise

import msgspec
import pytest

from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis
from harness.measure.records import Environment, Measured
from harness.study.records import Study
from reports import html
from reports.info import RunInfo
from reports.words import THIN, change
from tests.reports import page
from tests.reports.sample import ENVIRONMENT, INFO, STUDY, attributed, invalid, sample, small, swept, tailed

HOSTILE = "<script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;$x_2$ {{ 7*7 }} \u4f60\u597d"


def rendered(
    analysis: Analysis, study: Study = STUDY, environment: Environment = ENVIRONMENT, info: RunInfo = INFO
) -> str:
    return html.render(study, analysis, environment, info)


@pytest.fixture(scope="module")
def text() -> str:
    return rendered(attributed())


@pytest.fixture(scope="module")
def shown(text: str) -> page.Page:
    return page.read(text)


def test_the_answer_comes_before_everything_else(shown: page.Page) -> None:
    (answer,) = shown.marked("answer")
    assert answer.text == sample().answer
    assert shown.elements.index(answer) < shown.elements.index(shown.all("h2")[0])


def test_each_expectation_has_its_verdicts_side_by_side(shown: page.Page) -> None:
    groups = shown.marked("answers")
    assert len(groups) == len(STUDY.expectations)
    for group, expectation in zip(groups, STUDY.expectations, strict=True):
        for against in expectation.against:
            assert f"against {against}" in group.text
    cards = shown.marked("verdict")
    assert len(cards) == len(sample().verdicts)
    for card, verdict in zip(cards, sample().verdicts, strict=True):
        assert verdict.outcome in card.text
        assert verdict.sentence in card.text


def test_sections_headings_and_tables_are_in_order_for_readers_who_hear_them(shown: page.Page) -> None:
    levels = [int(each.tag[1]) for each in shown.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(each.attributes.get("scope") in ("col", "row") for each in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table"))
    links = [each.attributes["href"] for each in shown.all("a")]
    ids = [each.attributes["id"] for each in shown.elements if "id" in each.attributes]
    assert {link.removeprefix("#") for link in links if link} <= set(ids)


def test_ids_are_unique_and_every_reference_inside_charts_resolves(shown: page.Page, text: str) -> None:
    ids = [each.attributes["id"] for each in shown.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)
    assert references
    assert set(references) <= set(ids)


def test_charts_say_what_they_show_and_take_the_colours_of_the_page(shown: page.Page, text: str) -> None:
    charts = shown.all("svg")
    assert len(charts) >= 20
    for chart in charts:
        assert chart.attributes["role"] == "img"
        names = (chart.attributes["aria-labelledby"] or "").split()
        assert [each.tag for each in shown.elements if each.attributes.get("id") in names] == ["title", "desc"]
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b|font-family|DejaVu", drawn)
    defined = set(re.findall(r"(--[a-z0-9-]+):", text))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) <= defined


def test_nothing_is_fetched_and_nothing_runs(shown: page.Page, text: str) -> None:
    assert not shown.all("script", "iframe", "object", "img", "base")
    assert not re.search(r"@import|url\((?!#)", text)
    assert all(not name.startswith("on") for each in shown.elements for name in each.attributes)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_everything_a_reader_needs_to_repeat_and_to_doubt_it(shown: page.Page) -> None:
    words = shown.all("main")[0].text
    for needed in (INFO.command, INFO.run, ENVIRONMENT.cpu, ENVIRONMENT.revision, "seed 20", "MALLOC_ARENA_MAX"):
        assert needed in words
    assert "nothing about the Rust crate" in words
    for check in sample().checks:
        assert check.saw in words
        assert check.bound in words
        assert check.remedy in words
    for metric in sample().metrics:
        assert metric.definition in words


def test_every_estimate_is_in_a_table_with_its_interval(shown: page.Page) -> None:
    rows = [each.text for each in shown.all("tr")]
    estimates = [each.estimate for each in sample().contrasts if each.estimate is not None]
    assert estimates
    for estimate in estimates:
        assert any(change(estimate) in row for row in rows)


def test_the_claimed_bound_is_marked_where_it_was_claimed(text: str) -> None:
    drawn = {key: chart for key, chart in _charts(text).items() if key.startswith("estimates-compare")}
    claims = {key: chart.count("stroke: var(--claim)") for key, chart in drawn.items() if key.endswith("w")}
    assert sorted(claims.values()) == [0, 2, 2, 2]


def _charts(text: str) -> dict[str, str]:
    found = re.findall(r'<svg[^>]*aria-labelledby="(\S+)-t .*?</svg>', text, flags=re.DOTALL)
    bodies = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    return dict(zip(found, bodies, strict=True))


def test_attribution_says_whether_it_closes(shown: page.Page) -> None:
    (section,) = (each for each in shown.all("section") if each.attributes.get("id") == "attribution")
    assert "does NOT agree" in section.text
    assert "measured separately" in section.text
    assert "attribution" not in rendered(small()).split("<nav")[1].split("</nav>")[0]


def test_a_sweep_says_from_where_on_it_pays() -> None:
    shown = page.read(rendered(swept()))
    (section,) = (each for each in shown.all("section") if each.attributes.get("id") == "crossovers")
    plain = section.text.replace(THIN, " ")
    assert "pays from message_bytes = 2 400 (1 100\u2013\u221e)" in plain
    assert "pays at every value between 64 and 1 048 576" in plain
    assert plain.count("message_bytes = 16 384") == 8, "two sweeps, two widths, drawn and described"
    assert "crossovers" not in rendered(small())


def test_tails_say_what_they_were_held_to() -> None:
    shown = page.read(rendered(tailed()))
    (section,) = (each for each in shown.all("section") if each.attributes.get("id") == "latency")
    plain = section.text.replace(THIN, " ")
    assert "p99 = 4.20 ms" in plain
    assert "1.01 %" in plain
    assert "\u221266.0 % (61.0\u201370.0 %)" in plain
    assert "4 fewer than 1,000 requests in a segment" in plain
    assert "Tails:" not in rendered(small())


def test_an_invalid_run_is_marked_on_top_and_shows_no_green() -> None:
    shown = page.read(rendered(invalid()))
    (banner,) = shown.marked("invalid")
    assert banner.text.strip().startswith("INVALID.")
    assert "more like it" in banner.text
    assert shown.elements.index(banner) < shown.elements.index(shown.all("h1")[0])
    assert shown.all("title")[0].text.startswith("INVALID: ")
    assert not shown.marked("met")
    assert not shown.marked("missed")


def test_a_valid_verdict_of_an_invalid_run_is_not_green_either() -> None:
    void = msgspec.structs.replace(small(), valid=False)
    assert page.read(rendered(small())).marked("met")
    assert not page.read(rendered(void)).marked("met")


def test_an_interrupted_run_is_marked_on_top() -> None:
    cut = page.read(rendered(small(), info=msgspec.structs.replace(INFO, complete=False)))
    (banner,) = cut.marked("interrupted")
    assert banner.text.strip().startswith("INTERRUPTED.")
    assert "holds unless it was stopped because of what it said" in banner.text, "who stops at a MET has chosen it"
    assert "14 complete bursts" in banner.text
    assert not page.read(rendered(small())).marked("banner")


def test_a_run_without_rows_still_gives_a_page() -> None:
    nothing = analyse(STUDY, Measured((), (), ()))
    shown = page.read(rendered(nothing))
    assert "No request was answered." in shown.all("main")[0].text
    assert not shown.all("svg")


def test_no_text_can_become_markup() -> None:
    study = msgspec.structs.replace(STUDY, name=HOSTILE, title=HOSTILE, question=HOSTILE)
    info = msgspec.structs.replace(INFO, command=HOSTILE, run=HOSTILE, notes=(HOSTILE,))
    environment = msgspec.structs.replace(ENVIRONMENT, cpu=HOSTILE, packages={HOSTILE: HOSTILE})
    text = rendered(renamed(small(), "surge", HOSTILE), study, environment, info)
    shown = page.read(text)
    assert not shown.all("script", "img")
    assert shown.all("h1")[0].text == HOSTILE
    assert any(HOSTILE in each.text for each in shown.all("title") if "svg" in each.ancestors)
    assert "49" not in shown.all("h1")[0].text


def renamed(analysis: Analysis, workload: str, name: str) -> Analysis:
    """The same analysis with a workload of another name."""
    raw = msgspec.to_builtins(analysis)
    for table in ("contrasts", "curves", "throughput", "cpu", "summaries"):
        for row in raw[table]:
            row["workload"] = name if row["workload"] == workload else row["workload"]
    return msgspec.convert(raw, Analysis)


def test_the_same_input_gives_the_same_bytes(text: str) -> None:
    assert rendered(attributed()) == text
