"""Memory within episodes: one line per arm, one chart and table per workload and end, folded in the page."""

from __future__ import annotations

import msgspec

from harness.analyse.records import Analysis, MemoryTrace
from reports import html, traces
from tests.reports.sample import ENVIRONMENT, INFO, STUDY, small

SECONDS = (0.25, 0.5, 0.75, 1.0)


def watched() -> Analysis:
    grown = tuple(float(count << 20) for count in (1, 2, 3, 4))
    found = (
        MemoryTrace("soak", "none", "target", SECONDS, grown, 7),
        MemoryTrace("soak", "none", "load", SECONDS, (0.0, 0.0, 0.0, 0.0), 7),
        MemoryTrace("soak", "all", "target", SECONDS, (-5e4, 1e5, 1e5, 1e5), 7),
    )
    return msgspec.structs.replace(small(), traces=found)


def test_each_end_of_a_workload_has_a_chart_with_every_arm() -> None:
    assert traces.places(watched()) == (("soak", "target"), ("soak", "load"))
    drawn = traces.chart(watched(), ("soak", "target"), "key")
    level = traces.chart(watched(), ("soak", "load"), "key")
    assert drawn is not None
    assert level is not None
    assert "none 4.00" in drawn.wide
    assert "all 97.7" in drawn.narrow
    assert "seconds since the episode began" in drawn.wide
    assert "none 0" in level.wide, "memory that never moves is a line too"


def test_of_many_arms_the_chart_shows_the_main_ones() -> None:
    """Fourteen lines in five colours could not be told apart."""
    names = ("none", *(f"x{number}" for number in range(12)), "all")
    traced = tuple(MemoryTrace("soak", name, "target", SECONDS, (1.0, 2.0, 3.0, 4.0), 7) for name in names)
    many = msgspec.structs.replace(small(), arms=names, traces=traced)
    drawn = traces.chart(many, ("soak", "target"), "key")
    assert drawn is not None
    assert "all 4.00" in drawn.wide
    assert "x3" not in drawn.wide


def test_the_table_tells_first_middle_and_last_moment() -> None:
    none, all_on = traces.table(watched(), ("soak", "target")).rows
    assert none[0] == "none"
    assert none[1:4] == ("1.00\u202fMiB at 250\u202fms", "2.00\u202fMiB at 500\u202fms", "4.00\u202fMiB at 1.00\u202fs")
    assert none[4] == all_on[4] == "7"


def test_the_page_has_them_folded_beside_the_slopes() -> None:
    page = html.render(STUDY, watched(), ENVIRONMENT, INFO)
    assert page.count("memory of the target within an episode</h3></summary>") == 1
    assert 'id="trace-1"' in page
    assert "within an episode" not in html.render(STUDY, small(), ENVIRONMENT, INFO)
