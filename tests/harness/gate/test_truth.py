"""The real-truth command on made-up traces: it counts right, and common ways of comparing fall for drift."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.gate import two_arms
from harness.gate.rules import Policy
from tests import truth
from tests.harness.analyse.synthetic import a_run
from tests.truth import Trace, judge, mann_whitney, mean_threshold, report, t_test, table

POLICY = Policy(max_bursts=20)
CPU = "cpu_per_request on solo"


def a_trace(effect: float, bursts: int = 60, drift: float = 0.0, seed: int = 1) -> Trace:
    """Bursts of 20 ms slices; the machine gets slower by `drift` with each."""
    asked = truth.question(0.0, 1.0)
    _, busy = asked.arms
    measured = a_run(asked.study, {busy: 1.0 + effect}, bursts, sd_pair=0.01, seed=seed)
    made = truth.trace(effect, asked, measured, 5.0 * bursts)
    slower = {burst: (1.0 + drift) ** burst for burst in range(bursts)}
    sides = tuple(
        {label: {burst: values * slower[burst] for burst, values in of.items()} for label, of in side.items()}
        for side in made.values
    )
    return Trace(effect, made.pairs, (sides[0], sides[1]), made.burst_seconds, made.directions)


def test_equal_arms_pass_and_slower_ones_fail() -> None:
    equal, slow = judge(a_trace(0.0), POLICY), judge(a_trace(0.08), POLICY)
    assert equal.gates >= 3
    assert equal.outcomes["FAIL"].count == 0
    assert slow.outcomes["FAIL"].count == slow.gates >= 3
    assert all(15 <= each <= 20 for each in (*equal.bursts, *slow.bursts))
    assert sum(slow.bursts) <= 60


def test_an_effect_is_a_share_of_what_a_request_costs_the_plain_arm() -> None:
    plain, slow = (truth.cost_of_a_request(a_trace(effect)) for effect in (0.0, 0.5))
    assert plain == slow  # the effect is the other arm's
    assert plain == pytest.approx(np.median(np.concatenate([*a_trace(0.0).values[0][CPU].values()])))


def test_drift_deceives_sequential_halves_but_not_pairs() -> None:
    drifting = judge(a_trace(0.0, drift=0.03), POLICY)
    assert drifting.outcomes["FAIL"].count == 0
    for name in truth.METHODS:
        assert drifting.methods[name].count == drifting.gates


def test_a_trace_too_short_for_a_gate_counts_nothing() -> None:
    found = judge(a_trace(0.0, bursts=14), POLICY)
    assert (found.gates, found.outcomes, found.methods) == (0, {}, {})
    assert "| no effect | 0 | - |" in "\n".join(table({0.0: found}, {0.0: 5.0}))


@pytest.mark.parametrize("method", [t_test, mean_threshold, mann_whitney])
def test_methods_want_b_to_be_slower(method: truth.Method) -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(1.0, 0.01, 50)
    assert method(a, 1.2 * a)
    assert not method(1.2 * a, a)
    assert not method(a, a)


def test_both_arms_play_a_script_and_one_is_busier() -> None:
    plain, busy = truth.question(0.001, 1.0).study.arms
    scripts = [arm.target.settings["faults"]["rules"][0] for arm in (plain, busy) if arm.target is not None]
    assert scripts == [{"kind": "busy", "iterations": 1}, {"kind": "busy", "seconds": 0.001}]


def test_the_report_names_every_truth_and_what_a_request_costs() -> None:
    traces = {0.0: a_trace(0.0), 0.05: a_trace(0.08)}
    cost = truth.cost_of_a_request(traces[0.0])
    assert cost == pytest.approx(0.0005, rel=0.05)  # half of the made-up millisecond is CPU
    text = "\n".join(report(traces, POLICY, cost))
    assert "| no effect |" in text
    assert "| +5 % of a request |" in text
    assert "gates resampled from the 60 bursts of equal arms: 0 false alarms" in text
    assert math.isfinite(truth.policy(5.0).max_bursts)
    assert truth.policy(1000.0).max_bursts == two_arms.POLICY.min_bursts
