"""The generator ceiling: one tiny run for real, and its arithmetic on made-up rounds."""

from __future__ import annotations

import math
import random

import psutil
import pytest

from harness.errors import LoadError
from scenarios import ceiling
from scenarios.ceiling import Round


def test_both_sides_answer_and_every_process_is_ended() -> None:
    measured = list(ceiling.rounds(1, 2, 0.05, random.Random(0)))
    assert [each.start for each in measured] == [0, 0]
    assert all(each.bare > 0 and each.locust > 0 for each in measured)
    assert not [child for child in psutil.Process().children() if "scenarios.bare" in child.cmdline()]


def test_the_ratio_is_the_centre_over_starts_of_the_median_over_rounds() -> None:
    shares = [0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.9]
    measured = [Round(start, 100.0, 100.0 * share * bump) for start, share in enumerate(shares) for bump in (0.5, 1, 2)]
    found = ceiling.ceiling(measured)
    assert found.ratio == pytest.approx(0.598956, rel=1e-6)
    ends = math.sqrt(0.4 * 0.55), math.sqrt(0.65 * 0.9)  # of seven values the third mean of two from either end
    assert (found.low, found.high) == pytest.approx(ends)
    assert [found.bare, found.locust] == pytest.approx([100.0, 60.0])


@pytest.mark.parametrize(
    "options", [("--starts", "0"), ("--rounds", "0"), ("--seconds", "0"), ("--seconds", "nan"), ("--seconds", "inf")]
)
def test_an_option_that_measures_nothing_is_refused(
    options: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "rounds", lambda *_: [])
    with pytest.raises(SystemExit, match="2"):
        ceiling.main(options)
    assert "expected at least one start, one round and slices of more than 0 seconds" in capsys.readouterr().err


def test_an_error_is_one_line_and_no_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds(*_: object) -> list[Round]:
        raise LoadError("the bare loop died")

    monkeypatch.setattr(ceiling, "rounds", rounds)
    assert ceiling.main([]) == 2
    assert capsys.readouterr().err == "python -m scenarios.ceiling: load: the bare loop died\n"


@pytest.mark.parametrize(("share", "status"), [(0.6, 0), (0.4, 1)])
def test_the_command_prints_both_rates_and_says_whether_the_goal_is_met(
    share: float, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds(starts: int, per_start: int, *_: object) -> list[Round]:
        return [Round(start, 70_000.0, 70_000.0 * share) for start in range(starts) for _ in range(per_start)]

    monkeypatch.setattr(ceiling, "rounds", rounds)
    assert ceiling.main([]) == status
    printed = capsys.readouterr().out
    assert f"bare gevent loop 70,000 requests/s, one Locust process {70_000 * share:,.0f} requests/s" in printed
    assert f"ratio {share:.3f}, 95% interval {share:.3f} to {share:.3f} (goal 0.5)" in printed
