"""The gate's decision: its rules on hand-made pairs, and its error rates in simulated truth."""

from __future__ import annotations

import math
from operator import attrgetter

import numpy as np
import pytest

from harness.analyse.contrast import Pairs
from harness.analyse.sequential import log_e
from harness.gate.rules import EXIT_CODES, Policy, centres, decide, worse
from tests.harness.analyse.simulation import (
    BLOCKS,
    BURSTS,
    GATE,
    METRICS,
    ONE,
    QUIET,
    Floats,
    Setting,
    differences,
    gate_counts,
    gates,
    runs,
)

CLEAN = np.zeros(METRICS)
POLICY = Policy()


def some_pairs(effect: float, bursts: int = 60, seed: int = 1, sd: float = 0.01) -> Pairs:
    rng = np.random.default_rng(seed)
    d = rng.normal(math.log1p(effect), sd, bursts * BLOCKS)
    return Pairs(np.repeat(np.arange(bursts), BLOCKS), d, {})


@pytest.mark.parametrize(
    ("effect", "outcome"), [(0.05, "FAIL"), (0.0, "PASS"), (-0.2, "PASS"), (0.02, "FAIL"), (0.01, "PASS")]
)
def test_outcome_of_one_metric(effect: float, outcome: str) -> None:
    decision = decide({"latency_p50": some_pairs(effect)}, POLICY)
    assert decision.outcome == outcome
    assert decision.final
    (found,) = decision.metrics
    assert found.low <= 1.0 + effect <= found.high
    assert (found.bursts, found.pairs) == (60, 240)


def test_worse_is_lower_where_higher_is_better() -> None:
    assert worse("higher", np.array([0.1])).tolist() == [-0.1]
    decision = decide({"throughput": some_pairs(-0.05)}, POLICY)
    assert decision.outcome == "FAIL"
    assert decision.reason == "throughput 5.1 % worse"
    assert decision.metrics[0].log_e_exact > math.log(1000.0)


def test_no_verdict_before_fifteen_bursts() -> None:
    early = decide({"latency_p50": some_pairs(0.5, bursts=14)}, POLICY)
    assert (early.outcome, early.final) == ("INCONCLUSIVE", False)
    assert early.reason == "not decided: latency_p50 (14 of the 15 bursts before any word)"
    assert early.metrics[0].log_e_fail == 0.0
    assert decide({"latency_p50": some_pairs(0.5, bursts=15)}, POLICY).outcome == "FAIL"


def test_undecided_is_never_pass() -> None:
    noisy = some_pairs(0.02, bursts=POLICY.max_bursts, sd=1.0)
    decision = decide({"latency_p50": noisy, "throughput": some_pairs(0.0)}, POLICY)
    assert (decision.outcome, decision.reason) == ("INCONCLUSIVE", "not decided: latency_p50")
    assert not decision.final  # throughput has had fewer bursts than the policy allows
    spent = decide({"latency_p50": noisy}, POLICY)
    assert (spent.outcome, spent.final) == ("INCONCLUSIVE", True)


def test_invalid_comes_first() -> None:
    failing = {"latency_p50": some_pairs(0.5)}
    assert decide(failing, POLICY, void="A/A: equal arms differ").outcome == "INVALID"
    dead = Pairs(np.empty(0, dtype=np.int64), np.empty(0), {"no answered request": 4})
    decision = decide({**failing, "throughput": dead}, POLICY)
    assert (decision.outcome, decision.reason) == ("INVALID", "throughput: no answered request")
    assert math.isnan(decision.metrics[1].slowdown)
    assert decide({}, POLICY).reason == "no metrics"
    assert [EXIT_CODES[each] for each in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")] == [0, 1, 3, 4]


def test_centre_is_hodges_lehmann() -> None:
    bursts, d = np.array([0, 0, 0, 1]), np.array([1.0, 2.0, 9.0, 4.0])
    assert centres(bursts, d).tolist() == [3.5, 4.0]


def test_evidence_counts_at_the_ends_of_bursts() -> None:
    pairs = some_pairs(0.02, bursts=20, seed=3)
    exceeding = np.cumsum(pairs.differences > math.log1p(0.01))
    looks = [log_e(exceeding[n * BLOCKS - 1], n * BLOCKS) for n in range(15, 21)]
    assert decide({"latency_p50": pairs}, POLICY).metrics[0].log_e_fail == pytest.approx(max(looks))


@pytest.mark.parametrize("effect", [0.0, 0.02, 0.03])
def test_simulated_gates_are_the_real_ones(effect: float) -> None:
    """The table look-up of the simulation is final with the same outcome as `decide`, and at the same burst."""
    losses = differences(effect, (12, 2, BURSTS), np.random.default_rng(4))
    failed, passed, bursts = gates(losses, Policy())
    for run, number in enumerate(bursts):
        outcome = "FAIL" if failed[run] else "PASS" if passed[run] else "INCONCLUSIVE"
        decision = decide(first_bursts(losses[run], number), Policy())
        assert (decision.final, decision.outcome) == (True, outcome)
        assert number == Policy().min_bursts or not decide(first_bursts(losses[run], number - 1), Policy()).final


def first_bursts(losses: Floats, number: int) -> dict[str, Pairs]:
    held = np.repeat(np.arange(number), BLOCKS)
    names = ("latency_p50", "cpu_per_request")
    return {name: Pairs(held, d[: number * BLOCKS], {}) for name, d in zip(names, losses, strict=True)}


@pytest.mark.parametrize("setting", [ONE, GATE, QUIET], ids=attrgetter("name"))
def test_no_effect_hardly_ever_fails(setting: Setting) -> None:
    """At most 0.1 % FAIL per gate of ten metrics, at most 1 % INCONCLUSIVE."""
    count = runs(10_000, 1_000)
    found = gate_counts(CLEAN, count, seed=1, setting=setting)
    assert found.fail <= count // 1000
    assert found.inconclusive <= count // 100


@pytest.mark.parametrize("setting", [ONE, GATE, QUIET], ids=attrgetter("name"))
@pytest.mark.parametrize(("effect", "share"), [(0.03, 0.99), (0.05, 0.999)])
def test_a_slowdown_of_one_metric_is_found(effect: float, share: float, setting: Setting) -> None:
    count = runs(10_000, 1_000)
    found = gate_counts(np.array([effect, *CLEAN[1:]]), count, seed=2, setting=setting)
    slack = 3.0 * math.sqrt(share * (1.0 - share) / count)
    assert found.fail / count >= share - slack


def test_a_slowdown_of_one_per_cent_is_let_through() -> None:
    count = runs(2_000, 300)
    found = gate_counts(np.array([0.01, *CLEAN[1:]]), count, seed=3)
    assert found.inconclusive <= 0.01 * count + 3.0
    assert found.fail <= 0.01 * count
