"""A target that stands still shows in what the harness reports, and hardly in what waits for its answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import TargetError
from scenarios import stall
from scenarios.stall import Stall, percentile, with_harness, with_locust
from tests.processes import command, wait_for

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


def test_a_killed_command_leaves_no_locust_behind(tmp_path: Path) -> None:
    code = "from scenarios.stall import Stall, with_locust; with_locust(Stall(seconds=600.0))"
    with command(sys.executable, "-c", code, cwd=tmp_path) as started:
        wait_for(lambda: bool(started.descendants("locust")), started.said)
        started.process.kill()
        started.ended()


def died(_: Stall) -> float:
    """In place of a measurement."""
    raise TargetError("the node died")


@pytest.mark.parametrize("seconds", ["1.9", "1000", "nan", "inf"])
def test_a_length_whose_percentile_shows_no_stall_is_refused(
    seconds: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "with_harness", died)
    with pytest.raises(SystemExit, match="2"):
        stall.main(["--seconds", seconds])
    assert f"--seconds {seconds}; expected 2 or more and less than 1000" in capsys.readouterr().err


def test_an_error_is_one_line_and_no_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "with_harness", died)
    assert stall.main([]) == 2
    assert capsys.readouterr().err == "python -m scenarios.stall: target: the node died\n"
