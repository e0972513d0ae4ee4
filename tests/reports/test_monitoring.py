"""The plan's monitoring list in a report: hit rates from counts, transitions summed, nothing where nothing was kept."""

from __future__ import annotations

from reports import monitoring, words
from reports.tables import Table
from tests.reports.sample import sample


def rows() -> dict[tuple[str, ...], tuple[str, ...]]:
    shown: Table = monitoring.table(sample())
    assert shown.headings[3:] == (
        "pool hit rate", "breaker transitions", "rejected requests", "refused at the door", "buffer reuse",
        "memory (USS)",
    )  # fmt: skip
    return {row[:3]: tuple(cell.replace(words.THIN, " ") for cell in row[3:]) for row in shown.rows}


def test_a_dialers_hit_rate_comes_from_its_counts() -> None:
    hit_rate, transitions, rejection, refused, reuse, _ = rows()["surge", "all", "load"]
    assert hit_rate.startswith("96")
    assert "(97.0 %, " in hit_rate
    assert transitions.endswith(")")
    assert (rejection, refused, reuse) == (words.ABSENT,) * 3
    assert rows()["surge", "none", "load"][0].startswith("0 %")


def test_what_was_never_used_has_no_rate() -> None:
    assert rows().get(("steady", "all", "load")) is None
    target = rows()["slices", "all", "target"]
    assert target[2].startswith("0 %")
    assert target[4] == words.ABSENT  # no buffer was ever acquired
    assert target[5].endswith("MiB)")
