"""The word on two arms: known truths, a twin that must be equal, and evidence that the display can show."""

from __future__ import annotations

import io
import math

import msgspec
import pytest
from rich.console import Console

from harness.analyse.analysis import analyse, interim
from harness.errors import UsageError
from harness.gate.rules import MAX_PAIRS, Policy
from harness.gate.runner import DuelDisplay, evidence, line
from harness.gate.two_arms import BLOCKS, Duel, DuelSteering, decide, duel, refuse_too_short, values
from harness.measure.records import Measured
from harness.plan.arms import layout
from harness.plan.budget import forecast
from harness.study.records import Arm, Workload
from tests.harness.analyse.synthetic import a_run, changed

CLOSED = Workload(name="surge", file="surge.py")


def asked(*workloads: Workload, policy: Policy | None = None, seconds: float = 300.0) -> Duel:
    arms = Arm(name="base"), Arm(name="head")
    return duel("gate", "head against base", arms, workloads or (CLOSED,), seconds, policy or Policy())


def measured(factors: dict[str, float], bursts: int = 30, seed: int = 1, sd: float = 0.02) -> Measured:
    return a_run(asked().study, factors, bursts, sd_pair=sd, seed=seed)


@pytest.mark.parametrize(
    ("factors", "outcome"),
    [
        ({}, "PASS"),
        ({"head": 1.06}, "FAIL"),
        ({"head": 0.8}, "PASS"),
        ({"base-again": 1.08}, "INVALID"),
        ({"base-again": 0.92}, "INVALID"),
    ],
)
def test_outcome(factors: dict[str, float], outcome: str) -> None:
    decision = decide(asked(), measured(factors))
    assert decision.outcome == outcome
    assert decision.final


def test_a_failure_is_named_with_its_size_and_is_found_before_the_twin_is_shown_equal() -> None:
    decision = decide(asked(), measured({"head": 1.2}, bursts=15))
    assert decision.outcome == "FAIL"
    assert [each.name for each in decision.metrics] == ["latency_p50", "throughput", "cpu_per_request"]
    assert all(1.1 < each.slowdown < 1.3 and each.low < 1.2 < each.high for each in decision.metrics)


def test_pass_waits_until_equal_arms_are_shown_equal() -> None:
    run = measured({"head": 0.9})
    noisy = measured({"head": 0.9, "base-again": 1.02}, bursts=15, sd=0.1)
    assert decide(asked(), run).outcome == "PASS"
    waiting = decide(asked(), noisy)
    assert (waiting.outcome, waiting.final) == ("INCONCLUSIVE", False)
    assert waiting.reason.startswith("equal arms are not yet shown to be equal")
    spent = decide(asked(policy=Policy(max_bursts=15)), noisy)
    assert (spent.outcome, spent.final) == ("INCONCLUSIVE", True)


def test_a_twin_without_values_is_no_pass() -> None:
    run = measured({})
    rows = tuple(msgspec.structs.replace(row, latencies=()) if row.arm == "base-again" else row for row in run.slices)
    decision = decide(asked(), msgspec.structs.replace(run, slices=rows))
    assert (decision.outcome, decision.final) == ("INVALID", True)
    assert decision.reason.startswith("of equal arms, ")


def test_no_word_before_the_first_bursts() -> None:
    early = decide(asked(), measured({"head": 2.0}, bursts=14))
    assert (early.outcome, early.final) == ("INCONCLUSIVE", False)


def test_a_run_that_is_not_valid_is_no_pass() -> None:
    run = changed(measured({}), failed={"OSError": 5})
    decision = decide(asked(), run, analyse(asked().study, run))
    assert decision.outcome == "INVALID"
    assert decision.reason.startswith("errors: ")
    assert decide(asked(), run).outcome == "PASS"  # without the analysis nobody looks


def test_an_open_workload_judges_no_throughput() -> None:
    found = asked(Workload(name="steady", file="steady.py", arrivals="poisson", rate=100.0))
    assert [each.label for each in found.judged] == ["latency_p50", "cpu_per_request"]
    assert found.study.budget.blocks == MAX_PAIRS
    assert found.study.budget.stop_early


def test_with_both_kinds_of_workload_each_says_what_it_can() -> None:
    open_one = Workload(name="steady", file="steady.py", arrivals="poisson", rate=500.0)
    both = asked(CLOSED, open_one)
    labels = ["throughput on surge", "cpu_per_request on surge", "latency_p50 on steady", "cpu_per_request on steady"]
    assert [each.label for each in both.judged] == labels
    assert both.study.budget.blocks == BLOCKS // 2
    run = a_run(both.study, {"head": 1.1}, 20, sd_pair=0.02)
    failed = decide(both, run)
    assert failed.outcome == "FAIL"
    assert failed.reason.startswith("throughput on surge ")  # worse is fewer, where more is better
    assert all(1.05 < each.slowdown < 1.15 for each in failed.metrics)
    assert list(values(both, run)) == labels


def test_any_request_counts_when_none_is_named() -> None:
    anything = asked(msgspec.structs.replace(CLOSED, request=""))
    assert values(anything, measured({})) == values(asked(), measured({}))
    other = asked(msgspec.structs.replace(CLOSED, request="login"))
    assert math.isnan(values(other, measured({}))["latency_p50"][0])
    assert decide(other, measured({})).outcome == "INVALID"


def test_the_run_ends_when_the_word_is_final() -> None:
    steering = DuelSteering(asked())
    assert not steering.decided(measured({}, bursts=14))
    assert steering.decided(measured({"head": 1.2}, bursts=15))
    assert steering.decision is not None
    assert steering.decision.outcome == "FAIL"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_the_word_coming(terminal: bool) -> None:
    steering = DuelSteering(asked())
    out = io.StringIO()
    display = DuelDisplay(Console(file=out, force_terminal=terminal, width=120), steering)
    run = measured({}, bursts=15)
    display.burst_done(0, 1.0, 9.0, interim(asked().study, run))
    steering.decided(run)
    display.burst_done(14, 1.0, 9.0, interim(asked().study, run))
    shown = out.getvalue()
    if terminal:
        console = Console(file=io.StringIO(), width=120)
        console.print(display.renderable())
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "for PASS" in shown
    else:
        assert shown.count("evidence FAIL") == 3
    assert steering.decision is not None
    fail, passed = evidence(steering.decision.metrics[0], steering.decision, Policy())
    assert 0.0 <= fail < passed <= 1.0
    assert f"{passed:.0%}" in shown
    assert line(steering.decision.metrics[0], steering.decision, Policy()).startswith("latency_p50 ")


def test_a_time_that_is_not_forecast_to_hold_the_bursts_before_any_word_is_refused() -> None:
    study = asked().study
    each = forecast(study, layout(study)).burst_seconds
    refuse_too_short(asked(seconds=15.01 * each))
    least = rf"{math.ceil(15 * each)} s \(2.5 minutes\), the 15 bursts of about {each:.1f} s before any word"
    with pytest.raises(UsageError, match=rf"110 s to measure; expected at least {least}"):
        refuse_too_short(asked(seconds=110.0))
    with pytest.raises(UsageError, match="-1 s to measure"):
        refuse_too_short(asked(seconds=-1.0))


def test_the_time_is_a_limit() -> None:
    """No burst is due when it is over, however few there are: the word is then INCONCLUSIVE."""
    assert asked().study.budget.min_bursts == 1
    few = decide(asked(), measured({"head": 1.5}, bursts=3))
    assert (few.outcome, few.final) == ("INCONCLUSIVE", False)
    assert few.reason.endswith("(3 of the 15 bursts before any word)")
