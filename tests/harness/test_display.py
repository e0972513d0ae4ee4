"""What a person sees while a study runs, on a terminal and in a log, at times a fake clock tells."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.analyse.analysis import interim
from harness.analyse.records import Verdict
from harness.display import RunDisplay
from harness.execute.burst import Step
from harness.plan.budget import Forecast
from harness.study.records import Expectation
from tests.clock import Clock
from tests.harness.analyse.synthetic import a_run, a_study

EXPECTATION = Expectation(
    name="[bold]speed", claim="x2.5", workload="surge", metric="throughput", arm="all", at_least=2.5
)
STUDY = a_study(EXPECTATION)
FORECAST = Forecast(bursts=8, burst_seconds=12.4, seconds=99.0, lasts=165.0, proofs=())


@pytest.fixture(scope="module")
def so_far() -> tuple[Verdict, ...]:
    return interim(STUDY, a_run(STUDY, {"all": 0.25}, bursts=12))


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def rendered(display: RunDisplay) -> str:
    out = console(terminal=False)
    out.print(display.renderable())
    return text(out)


def test_a_log_gets_the_plan_and_a_line_per_burst(so_far: tuple[Verdict, ...]) -> None:
    out, clock = console(terminal=False), Clock()
    with RunDisplay(out, clock) as display:
        display.forecast(FORECAST, 0.0, 165.0)
        display.step(Step("slice", "none", "surge"))
        display.burst_done(0, 40.0, 125.0, so_far)
    first, second = text(out).splitlines()
    assert first == "measuring for about 2:45 min, in bursts of about 12 s"
    (verdict,) = so_far
    assert verdict.contrast
    assert verdict.contrast.estimate
    ratio = f"{verdict.contrast.estimate.ratio:.3g}"
    assert second.startswith(f"burst 1 done, about 2:05 min to go; [bold]speed vs none: x {ratio} (3.")
    assert " to 4" in second


def test_a_log_line_without_evidence_and_one_without_expectations() -> None:
    out = console(terminal=False)
    few = a_run(STUDY, {"all": 0.25}, bursts=2)
    with RunDisplay(out, Clock()) as display:
        display.burst_done(1, 10.0, 20.0, interim(STUDY, few))
        display.burst_done(2, 20.0, 0.0, interim(a_study(), few))
    first, second = text(out).splitlines()
    assert first.endswith("too few bursts for intervals yet")
    assert second == "burst 3 done, the last"


def test_a_terminal_shows_what_is_running_the_time_left_and_the_estimates(so_far: tuple[Verdict, ...]) -> None:
    out, clock = console(terminal=True), Clock()
    with RunDisplay(out, clock) as display:
        assert "starting" in rendered(display)
        display.forecast(FORECAST, 0.0, 165.0)
        clock.now += 500.0  # a slow start is not measuring
        display.step(Step("warm-up", "first-day-reuse", "dial"))
        clock.now += 33.0
        shown = rendered(display)
        assert "warm-up dial on first-day-reuse" in shown
        assert "20%" in shown
        assert "about 2:12 min to go" in shown
        display.burst_done(0, 30.0, 135.0, so_far)
        shown = rendered(display)
        assert "[bold]speed" in shown
        assert "at least x 2.5" in shown
        assert "about 2:15 min to go" in shown
        clock.now += 900.0
        assert "100% finishing" in rendered(display)
    assert "at least x 2.5" not in rendered(display)  # the result that follows says it better


def test_a_resumed_run_starts_where_it_stopped() -> None:
    out, clock = console(terminal=False), Clock()
    display = RunDisplay(out, clock)
    display.forecast(FORECAST, 60.0, 40.0)
    display.step(Step("starting target", "none"))
    assert "measuring for about 40 s" in text(out)
    assert "60%" in rendered(display)
    assert "about 40 s to go" in rendered(display)
