"""A target that stands still shows in what the harness reports, and hardly in what waits for its answers."""

from __future__ import annotations

import pytest

from scenarios.stall import Stall, percentile, with_harness, with_locust

SHORT = Stall(seconds=3.0, rate=200.0, stopped=0.5)


def test_what_an_unbroken_schedule_sees() -> None:
    assert Stall().expected() == pytest.approx(0.94)
    assert Stall(seconds=1e6).expected() == 0.0


def test_a_percentile_of_counts() -> None:
    assert percentile({5.0: 9_980, 400.0: 15, 1_000.0: 5}) == 400.0
    assert percentile({5.0: 9_995, 1_000.0: 5}) == 5.0
    assert percentile({}) == 0.0


def test_a_stall_shows_from_the_intended_start() -> None:
    assert with_harness(SHORT) >= 0.9 * SHORT.expected()


def test_locust_is_measured_through_the_same_stall() -> None:
    """Twenty late requests of some six hundred do show in a thousandth; in a minute of 500/s they do not."""
    assert with_locust(SHORT) >= 0.5 * SHORT.stopped
