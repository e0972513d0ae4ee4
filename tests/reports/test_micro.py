"""The micro run's page, tables and summary from made-up results."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from harness.analyse.micro import Case, Goal, Reading, Room, analyse
from reports import micro
from tests.reports.sample import ENVIRONMENT

TAKE = Case("take <& give>", ("off", "on", "peer"), (Goal(0.4, "peer", "as told"), Goal(9.0, "peer", case="other")))
BYTES = Case("bytes", ("on",), (Goal(80),), "byte")
SEAL = Case("seal", ("off", "on"), (Goal(1.0, of="page_faults"),))
ROOMS = [
    Room("pooling", "About <pools>.", ("peer",), ("absent",), {}, (TAKE, BYTES)),
    Room("buffer_pool", "About buffers.", (), (), {}, (SEAL,)),
]
ABOUT = micro.About("a-run", "synapsed-bench micro --peers", 1_767_322_000.0, 7, 8, True)
RESULTS = analyse(
    ROOMS,
    [
        Reading(room, case, variant, number, value * (1 + number / 50), faults, value)
        for room, case, variant, value, faults in (
            ("pooling", TAKE.name, "off", 900e-9, 0.0),
            ("pooling", TAKE.name, "on", 300e-9, 0.0),
            ("pooling", TAKE.name, "peer", 2.5e-6, 0.0),
            ("pooling", BYTES.name, "on", 76.4, 0.0),
            ("buffer_pool", SEAL.name, "off", 2e-3, 480.0),
            ("buffer_pool", SEAL.name, "on", 1e-3, 0.5),
        )
        for number in range(8)
    ],
)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(3.14e-7, "second", "314\u202fns"), (2.5e-3, "second", "2.50\u202fms"), (7497.2, "byte", "7\u202f497\u202fB")],
)
def test_values_have_the_unit_that_suits_them(value: float, unit: str, expected: str) -> None:
    assert micro.spelled(value, unit) == expected


def test_the_time_table_compares_on_with_each_other_variant() -> None:
    rows = micro.times(RESULTS).rows
    assert rows[0][:2] == ("pooling: take <& give>", "on")
    assert [row[1] for row in rows] == ["on", "off", "peer", "on", "off"]
    assert rows[2][3].startswith("\u00d7\u202f0.120 (0.120\u20130.120)")
    assert all(row[0] != "pooling: bytes" for row in rows)


def test_goals_say_bound_measurement_and_verdict() -> None:
    said = {row[3]: (row[2], row[1]) for row in micro.goals(RESULTS).rows}
    assert said["at most \u00d7\u202f0.400 of peer: as told"][1] == "MET"
    assert said["at most \u00d7\u202f9.00 of peer (other)"] == ("\u2013", "NOT MEASURED")
    assert said["at most 80\u202fB"][1] == "INCONCLUSIVE"
    assert said["at most 1 page faults an operation"] == ("0.500", "MET")


def test_allocation_overhead_tells_what_on_saves() -> None:
    (row,) = micro.allocation(RESULTS).rows
    assert row == ("seal", "2.00\u202fms", "1.00\u202fms", "1\u202f000\u202f000\u202fns (50.0\u202f%)", "480", "0.50")


def test_the_page_is_whole_escaped_and_asks_for_nothing() -> None:
    page = micro.page(RESULTS, ROOMS, ENVIRONMENT, ABOUT)
    assert "take &lt;&amp; give&gt;" in page
    assert "<pools>" not in page
    assert "Not installed, so not measured: absent." in page
    assert page.count('<svg class="chart"') == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    for chart in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + chart.split("</svg>")[0] + "</svg>")
    assert page == micro.page(RESULTS, ROOMS, ENVIRONMENT, ABOUT)


def test_the_summary_is_json_with_estimates() -> None:
    document = json.loads(micro.summary(RESULTS, ROOMS, ENVIRONMENT, ABOUT))
    assert document["missing_peers"] == ["absent"]
    take = document["cases"][0]
    assert {each["against"]: round(each["estimate"]["ratio"], 3) for each in take["ratios"]} == {
        "off": 0.333, "peer": 0.12,
    }  # fmt: skip
    assert take["goals"][1]["value"] is None


def test_the_terminal_needs_no_more_than_80_columns() -> None:
    console = Console(width=80, record=True)
    with console.capture() as captured:
        console.print(micro.terminal(RESULTS))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("MET" in line for line in lines)
