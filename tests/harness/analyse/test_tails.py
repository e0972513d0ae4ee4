"""Tails compared by exceedances: a known share of slow requests, and what cannot be told."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from harness.analyse.analysis import analyse
from harness.analyse.records import TailTest
from harness.analyse.rows import arrange
from harness.analyse.tails import shares, tails
from harness.analyse.validity import Subject, evidence
from harness.measure.records import Burst, Latencies, Measured, Slice, Unanswered
from harness.plan.arms import Comparison
from harness.study.records import Budget, Design, Study, Workload
from tests.harness.analyse.synthetic import a_stretch, a_study

STEADY = Workload(name="steady", file="steady.py", arrivals="constant", rate=500.0, segment_seconds=10.0)
COMPARED = Comparison("none", "all", "treatment")
STUDY = a_study(workloads=(STEADY,), design=Design(hidden=False))


def stretch(arm: str, burst: int, block: int, slow: float, requests: int, seed: int) -> Slice:
    """A share `slow` of the requests take around 50 ms, the others around 1 ms."""
    rng = np.random.default_rng((seed, burst, block, len(arm)))
    quick, stalled = rng.lognormal(-7.0, 0.2, requests), rng.lognormal(-3.0, 0.01, requests)
    service = np.where(rng.random(requests) < slow, stalled, quick).astype("<f4")
    kind = "slice" if block < 3 else "segment"
    row = a_stretch(arm, burst=burst, block=block, workload="steady", requests=requests, kind=kind, rate=500.0)  # type: ignore[arg-type]
    return msgspec.structs.replace(row, latencies=(Latencies("request", service.tobytes()),))


def run(slow: dict[str, float], bursts: int = 12, requests: int = 5_000, seed: int = 1) -> Measured:
    slices = [
        stretch(arm, burst, block, share, 2_000 if block < 3 else requests, seed)
        for burst in range(bursts)
        for arm, share in slow.items()
        for block in range(5)
    ]
    headers = tuple(Burst(number, tuple(slow), 0.0, complete=True) for number in range(bursts))
    return Measured(headers, tuple(slices), ())


def judged(measured: Measured, study: Study = STUDY) -> dict[float, TailTest]:
    return {each.percentile: each for each in tails(arrange(measured), study, STEADY, COMPARED)}


def test_more_slow_requests_are_found_with_their_ratio() -> None:
    found = judged(run({"none": 0.015, "all": 0.045}))[99.0]
    assert found.estimate is not None
    ratio = found.share_b / found.share_a
    assert 2.0 < found.estimate.low < ratio < found.estimate.high
    assert (found.estimate.bursts, found.estimate.pairs) == (12, 24)
    assert found.p_value == pytest.approx(2 / 2**12)
    assert 0.0 < found.share_a < found.share_b <= 0.05
    assert 0.001 < found.threshold <= 0.051


def test_the_interval_of_a_tail_is_at_the_confidence_of_the_study() -> None:
    measured = run({"none": 0.02, "all": 0.02})
    wide, narrow = (
        judged(measured, msgspec.structs.replace(STUDY, confidence=each))[99.0].estimate for each in (0.99, 0.8)
    )
    assert wide is not None
    assert narrow is not None
    assert (wide.confidence, narrow.confidence) == (0.99, 0.8)
    assert wide.low < narrow.low < narrow.ratio < narrow.high < wide.high


def test_slices_that_fix_every_threshold_are_not_remarked_on() -> None:
    rows = tuple(stretch("none", 0, block, 0.01, 10_000, 1) for block in (0, 3))
    measured = Measured((Burst(0, ("none",), 0.0, complete=True),), rows, ())
    assert not list(evidence.thresholds(Subject(STUDY, (STEADY,), ("none",), arrange(measured), ())))


def test_equal_tails_are_not_told_apart() -> None:
    wrong = sum(judged(run({"none": 0.01, "all": 0.01}, seed=seed))[99.0].p_value < 0.05 for seed in range(60))
    assert wrong <= 8  # P(Binomial(60, 0.05) > 8) = 0.3 %


def test_sequential_p_values_and_intervals_hold_at_any_time() -> None:
    early = msgspec.structs.replace(STUDY, budget=Budget(stop_early=True))
    measured = run({"none": 0.015, "all": 0.045})
    fixed, anytime = judged(measured)[99.0], judged(measured, early)[99.0]
    assert anytime.p_value > fixed.p_value
    assert anytime.p_value < 0.05
    assert anytime.estimate is not None
    assert anytime.estimate.method == "sequential"


def test_the_threshold_is_fixed_before_any_segment() -> None:
    slices, other = run({"none": 0.01, "all": 0.01}), run({"none": 0.2, "all": 0.4})
    mixed = [row for row in slices.slices if row.kind == "slice"] + [
        row for row in other.slices if row.kind == "segment"
    ]
    found = judged(msgspec.structs.replace(slices, slices=tuple(mixed)))
    assert {each.threshold for each in found.values()} == {each.threshold for each in judged(slices).values()}
    first = np.concatenate(
        [
            row.latencies[0].latency_seconds()
            for row in slices.slices
            if (row.burst, row.arm, row.kind) == (0, "none", "slice")
        ]
    )
    assert found[99.0].threshold == pytest.approx(np.percentile(first.astype(float), 99.0))


def test_a_segment_without_exceedance_has_a_share_all_the_same() -> None:
    found = judged(run({"none": 0.0, "all": 0.02}))[99.0]
    none = run({"none": 0.0, "all": 0.02})
    counted = shares(arrange(none).of("steady", "none", "segment"), "request", 0.04)
    assert set(counted.values()) == {(0, 5_000)}
    assert found.estimate is not None
    assert math.isfinite(found.estimate.ratio)


def test_segments_without_exceedance_do_not_differ_though_one_arm_did_more() -> None:
    """A closed loop: `all` makes twice the requests, and after the first burst nothing is slow on either arm."""
    slow, calm = run({"none": 0.02, "all": 0.02}), run({"none": 0.0, "all": 0.0})
    more = run({"none": 0.0, "all": 0.0}, requests=10_000)
    slices = [row for row in slow.slices if row.kind == "slice"]
    segments = [row for row in calm.slices if (row.kind, row.arm) == ("segment", "none")]
    segments += [row for row in more.slices if (row.kind, row.arm) == ("segment", "all")]
    found = judged(msgspec.structs.replace(slow, slices=(*slices, *segments)))[99.0]
    assert (found.share_a, found.share_b) == (0.0, 0.0)
    assert found.p_value == 1.0
    assert found.estimate is not None
    assert (found.estimate.low, found.estimate.ratio, found.estimate.high) == (1.0, 1.0, 1.0)


def test_too_few_requests_resolve_no_tail() -> None:
    few = judged(run({"none": 0.01, "all": 0.01}, requests=900))[99.0]
    assert few.estimate is None
    assert few.p_value == 1.0
    assert few.reasons == {"fewer than 1,000 requests in a segment": 24}
    assert 99.9 not in judged(run({"none": 0.01, "all": 0.01}))  # 6,000 requests of warm-up cannot fix it


def test_segments_on_one_arm_are_no_comparison() -> None:
    assert judged(run({"none": 0.01})) == {}


def test_the_analysis_carries_them() -> None:
    found = analyse(STUDY, run({"none": 0.015, "all": 0.045})).tails
    assert [(each.a, each.b, each.percentile) for each in found] == [("none", "all", 99.0)]
    assert analyse(STUDY, Measured((), (), ())).tails == ()


def test_a_request_without_an_answer_is_slower_than_the_threshold() -> None:
    """Who lets its slowest requests fail has no better tail for it."""
    measured = run({"none": 0.008, "all": 0.008})  # all of these are beyond the threshold
    failing = []
    for row in measured.slices:
        if (row.arm, row.kind) != ("all", "segment"):
            failing.append(row)
            continue
        seconds = row.latencies[0].latency_seconds()
        quick = seconds[seconds < 0.04].astype("<f4")
        lost = Unanswered("request", 0, seconds.size - quick.size, 1.0)
        failed = {"TimeoutError": lost.failed}
        answered = (Latencies("request", quick.tobytes()),)
        failing.append(msgspec.structs.replace(row, latencies=answered, unanswered=(lost,), failed=failed))
    before, after = judged(measured)[99.0], judged(msgspec.structs.replace(measured, slices=tuple(failing)))[99.0]
    assert (after.share_a, after.share_b) == (before.share_a, before.share_b)
    assert after.p_value == before.p_value


def test_a_warm_up_too_short_for_a_threshold_is_told() -> None:
    measured = run({"none": 0.01, "all": 0.01})
    told = [each for each in analyse(STUDY, measured).checks if each.name == "tail thresholds"]
    assert [(each.status, each.where) for each in told] == [("note", "steady")]
    assert told[0].saw == "6,000 requests in the baseline's slices of the first burst: no test beyond percentile 99.9"
    assert told[0].bound == "at least 10,000 for 99.9"
