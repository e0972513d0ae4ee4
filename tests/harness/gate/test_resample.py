"""Resampled gates: the same word as the gate's own, no effect without alarm, and exact intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analyse.contrast import Pairs
from harness.gate.resample import _reached, gates, rate
from harness.gate.rules import Policy, decide

POLICY = Policy()


def pairs(bursts: int = 30, blocks: int = 8, sd: float = 0.03, seed: int = 1) -> Pairs:
    rng = np.random.default_rng(seed)
    layout = np.repeat(rng.normal(0.0, 0.014, bursts), blocks)
    return Pairs(np.repeat(np.arange(bursts), blocks), layout + sd * rng.standard_t(5, bursts * blocks), {})


def measured(**options: float) -> dict[str, Pairs]:
    return {
        name: pairs(seed=seed, **options)  # type: ignore[arg-type]
        for seed, name in enumerate(("latency_p50", "cpu_per_request", "throughput"))
    }


def test_no_effect_raises_no_alarm_and_real_ones_do() -> None:
    quiet = gates(measured(), POLICY, effect=0.0, bursts=40, runs=500, seed=1)
    assert quiet.fail.count <= 1
    assert quiet.passed.count >= 490
    slow = gates(measured(), POLICY, effect=0.06, bursts=40, runs=500, seed=1)
    assert slow.fail.count >= 495
    assert slow.fail.count + slow.passed.count + slow.inconclusive.count == 500
    assert 15 <= slow.bursts < 40


def test_undecided_is_counted_as_such() -> None:
    found = gates(measured(sd=0.5), POLICY, effect=0.0, bursts=15, runs=50, seed=2)
    assert (found.inconclusive.count, found.bursts) == (50, 15.0)


@pytest.mark.parametrize("effect", [0.0, 0.025, 0.06])
def test_each_gate_says_what_the_gate_itself_says(effect: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        losses = math.log1p(effect) + rng.normal(0.0, 0.04, (2, 1, 40, 4))
        fail, passed = (_reached(losses, POLICY, word)[:, 0] for word in ("fail", "pass"))
        for count in (14, 15, 25, 40):
            numbers = np.repeat(np.arange(count), 4)
            so_far = {
                name: Pairs(numbers, losses[place, 0, :count].ravel(), {})
                for place, name in enumerate(("latency_p50", "cpu_per_request"))
            }
            word = "FAIL" if fail.min() <= count else "PASS" if passed.max() <= count else "INCONCLUSIVE"
            assert decide(so_far, POLICY).outcome == word


def test_every_burst_is_drawn_and_its_arms_change_places() -> None:
    """One burst gone wrong is drawn now and then; arms that change places have no effect of their own."""
    quiet = pairs(sd=0.005)
    spoilt = Pairs(quiet.bursts, np.where(quiet.bursts == 0, 0.5, quiet.differences), {})
    assert gates({"latency_p50": spoilt}, POLICY, effect=0.0, bursts=40, runs=500, seed=1).passed.count >= 490
    level = Pairs(quiet.bursts, np.full(quiet.bursts.size, 0.05), {})
    word = gates({"latency_p50": level}, POLICY, effect=0.0, bursts=40, runs=500, seed=1)
    assert word.fail.count < 250


def test_bursts_that_some_metric_lacks_are_left_out() -> None:
    all_of = measured()
    short = Pairs(all_of["throughput"].bursts[16:-3], all_of["throughput"].differences[16:-3], {})
    found = gates({**all_of, "throughput": short}, POLICY, effect=0.0, bursts=15, runs=20, seed=1)
    assert found.fail.of == 20
    with pytest.raises(ValueError, match="no burst"):
        gates(
            {"latency_p50": Pairs(np.array([], dtype=np.int64), np.array([]), {})},
            POLICY,
            effect=0.0,
            bursts=15,
            runs=2,
            seed=1,
        )
    with pytest.raises(ValueError, match="no burst"):
        gates({}, POLICY, effect=0.0, bursts=15, runs=2, seed=1)


def test_rates_come_with_exact_intervals() -> None:
    none = rate(0, 1_000)
    assert none.low == 0.0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 1_000))
    assert rate(5, 10).low == pytest.approx(0.1871, abs=1e-4)  # Clopper and Pearson's own table
    assert rate(10, 10).high == 1.0
