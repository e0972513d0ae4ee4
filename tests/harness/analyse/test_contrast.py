"""Estimates against the slow reference and scipy, unusable pairs, and coverage under burst effects."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analyse.centre import centre, centre_interval
from harness.analyse.contrast import (
    Contrast,
    Pairs,
    Readings,
    burst_medians,
    estimate,
    judge_contrast,
    pair_up,
    readings,
)
from harness.measure.metrics import metric
from harness.measure.records import Latencies, Unanswered
from tests.harness.analyse import reference
from tests.harness.analyse.simulation import BLOCKS, differences, runs
from tests.harness.analyse.synthetic import a_reading, a_stretch, a_study

positive = st.floats(1e-6, 1e6)
triples = st.lists(st.tuples(st.integers(0, 12), positive, positive), min_size=1, max_size=60)


FAILED = {"failed": {"timeout": 1}}
REFUSED = {"latencies": (), "unanswered": (Unanswered("request", 0, 70, 0.0),)}


@pytest.mark.parametrize(
    ("name", "a", "b", "ratio"),
    [
        ("error_ratio", {}, {}, 1.0),
        ("error_ratio", FAILED, {}, (0.5 / 51) / (1.5 / 101)),
        ("error_ratio", FAILED, FAILED, (1.5 / 51) / (1.5 / 101)),
        ("rejection_ratio", {}, {}, 1.0),
        ("page_faults_per_request", {"page_faults": 0}, {"page_faults": 0}, 1.0),
        ("page_faults_per_request", {"page_faults": 0}, {"page_faults": 5}, 10.0),
        ("success_ratio", {}, {}, 1.0),
        ("success_ratio", REFUSED, REFUSED, 1.0),
        ("success_ratio", REFUSED, {}, (50.5 / 51) / (0.5 / 71)),
    ],
)
def test_shares_of_none_or_of_all_do_not_differ_though_one_arm_did_more(
    name: str, a: dict[str, Any], b: dict[str, Any], ratio: float
) -> None:
    more, fewer = (
        readings([msgspec.structs.replace(a_stretch(requests=count), **changes)], metric(name), "request").values
        for count, changes in ((100, a), (50, b))
    )
    assert np.exp(pair_up(more, fewer).differences) == pytest.approx([ratio])


@pytest.mark.parametrize(
    ("name", "few", "many", "ratio"),
    [
        ("error_ratio", {}, FAILED, 1.0),  # 0 of 50, 1 of 1,000
        ("error_ratio", {}, {"failed": {"timeout": 60}}, (60.5 / 1001) / (0.5 / 51)),
        ("page_faults_per_request", {"page_faults": 0}, {"page_faults": 3}, 1.0),
        ("success_ratio", {}, {"unanswered": (Unanswered("request", 0, 1, 0.0),)}, 1.0),
        ("success_ratio", REFUSED, {}, (1000.5 / 1001) / (0.5 / 71)),
        ("success_ratio", {"latencies": (), "unanswered": (Unanswered("request", 0, 5, 0.0),)}, REFUSED, 1.0),
    ],
)
def test_none_of_few_is_not_more_than_some_of_many_nor_all_less(
    name: str, few: dict[str, Any], many: dict[str, Any], ratio: float
) -> None:
    a, b = (
        readings([msgspec.structs.replace(a_stretch(requests=count), **changes)], metric(name), "request").values
        for count, changes in ((50, few), (1_000, many))
    )
    assert np.exp(pair_up(a, b).differences) == pytest.approx([ratio])
    assert pair_up(b, a).differences == pytest.approx(-pair_up(a, b).differences)


def test_equally_rare_errors_are_no_difference_where_one_arm_is_faster() -> None:
    """One request in 2,000 fails in both arms; one of them makes twenty times as many."""
    rng = np.random.default_rng(9)

    def rows(requests: int) -> Readings:
        failed = rng.binomial(requests, 1 / 2_000, (40, 8))
        keys = [(burst, block) for burst in range(40) for block in range(8)]
        stretches = [
            msgspec.structs.replace(
                a_stretch(burst=burst, block=block, requests=requests), failed={"reset": int(failed[burst, block])}
            )
            for burst, block in keys
        ]
        return readings(stretches, metric("error_ratio"), "")

    found, _ = judge_contrast(question("error_ratio"), rows(100), rows(2_000), a_study(), 0.95)
    assert found.estimate is not None
    assert found.estimate.low <= 1.0 <= found.estimate.high


@given(triples)
def test_burst_medians_match_the_reference(rows: list[tuple[int, float, float]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    a = {(burst, block): value for block, (burst, value, _) in enumerate(rows)}
    b = {(burst, block): value for block, (burst, _, value) in enumerate(rows)}
    pairs = pair_up(a, b)
    numbers, medians = burst_medians(pairs)
    assert numbers.tolist() == sorted({burst for burst, _, _ in rows})
    assert medians.tolist() == pytest.approx(reference.burst_medians(rows))
    assert not pairs.reasons


@pytest.mark.parametrize(("size", "bounded"), [(5, False), (6, True)])
def test_too_few_bursts_bound_nothing(size: int, bounded: bool) -> None:
    pairs = Pairs(np.arange(size), np.linspace(-0.1, 0.1, size), {})
    found = estimate(pairs, 0.95)
    assert found.bounded is bounded
    assert ((found.low, found.high) == (0.0, math.inf)) is not bounded


def test_estimate_travels_with_all_it_says() -> None:
    rng = np.random.default_rng(5)
    d = rng.normal(0.1, 0.05, 40)
    pairs = Pairs(np.repeat(np.arange(10), 4), d, {})
    medians = np.median(d.reshape(10, 4), axis=1)
    found = estimate(pairs, 0.95)
    assert found.ratio == pytest.approx(math.exp(centre(medians)))
    assert found.change == found.ratio - 1.0
    assert found.low <= found.ratio <= found.high
    assert (found.bursts, found.pairs, found.method) == (10, 40, "signed rank")
    assert found.sd == pytest.approx(np.std(medians, ddof=1))
    assert found.pair_sd == pytest.approx(np.std(d, ddof=1))


def test_sequential_estimate_is_wider_and_says_so() -> None:
    pairs = Pairs(np.arange(30), np.random.default_rng(2).normal(0.0, 0.02, 30), {})
    fixed, sequential = estimate(pairs, 0.95), estimate(pairs, 0.95, sequential=True)
    assert sequential.method == "sequential"
    assert sequential.low < fixed.low < fixed.high < sequential.high
    assert sequential.ratio == pytest.approx(math.exp(np.median(pairs.differences)))


def question(name: str = "latency_p50") -> Contrast:
    return Contrast("none", "all", "treatment", "surge", metric(name), "request", "slice")


def test_unusable_pairs_are_counted_with_their_reasons() -> None:
    a = readings([a_stretch(burst=n, requests=0 if n == 3 else 10) for n in range(8)], metric("latency_p50"), "request")
    b = readings(
        [a_stretch("all", burst=n, latency=0.0 if n == 5 else 0.0005) for n in range(9)],
        metric("latency_p50"),
        "request",
    )
    result, medians = judge_contrast(question(), a, b, a_study(), 0.95)
    assert result.unusable == 2
    assert result.reasons == {"no answered 'request' request": 1, "zero": 1}
    assert result.estimate is not None
    assert result.estimate.pairs == medians.size == 6
    assert result.burst_numbers == (0, 1, 2, 4, 6, 7)
    assert result.burst_ratios == pytest.approx([0.5] * 6)
    assert result.value_a == pytest.approx(0.001)
    assert result.problem == "2 of 8 pairs are unusable: 1 x no answered 'request' request, 1 x zero"


def test_nothing_to_compare_says_so() -> None:
    empty = Readings({}, 0)
    dead = Readings({(0, 0): "no answered request", (1, 0): "zero"}, 0)
    alive = Readings({(0, 0): 1.0, (1, 0): 1.0}, 10)
    missing, _ = judge_contrast(question(), empty, alive, a_study(), 0.95)
    assert missing.estimate is None
    assert missing.problem == "no pair of all and none was measured"
    assert math.isnan(missing.value_a)
    useless, _ = judge_contrast(question(), dead, alive, a_study(), 0.95)
    assert useless.problem == "no usable pair: 1 x no answered request, 1 x zero"


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [  # stretches of an arm, and requests in each
        ((15, 2_000), (15, 2_000), ""),
        ((14, 2_000), (14, 2_000), "28,000 requests in 14 stretches"),
        ((15, 1_000), (15, 1_000), "15,000 requests in 15 stretches"),
        ((15, 2_000), (15, 1_000), "15,000 requests in 15 stretches"),
        ((14, 2_000), (15, 2_000), "28,000 requests in 14 stretches"),
    ],
)
def test_a_tail_needs_enough_requests_and_segments_on_both_arms(
    a: tuple[int, int], b: tuple[int, int], told: str
) -> None:
    p999 = metric("latency_p999")
    of_a, of_b = (
        readings(
            [a_stretch(burst=burst, kind="segment", requests=requests) for burst in range(stretches)], p999, "request"
        )
        for stretches, requests in (a, b)
    )
    result, _ = judge_contrast(question("latency_p999"), of_a, of_b, a_study(), 0.95)
    assert result.problem == (
        told and f"not resolvable: {told} an arm; the 99.9th percentile of latency needs 20,000 in 15"
    )
    assert result.estimate is not None


def test_readings_of_memory_have_block_zero() -> None:
    found = readings([a_reading(burst=4)], metric("target_memory"), "")
    assert dict(found.values) == {(4, 0): 4e6}
    assert found.requests == 2000


@pytest.mark.parametrize("bursts", [12, 17, 30])
def test_coverage_of_the_fixed_length_interval(bursts: int) -> None:
    """93-97 % with burst effects and heavy-tailed, autocorrelated noise; from pairs as units it would be
    far less.
    """
    count = runs(10_000, 2_000)
    d = differences(0.05, (count, bursts), np.random.default_rng(bursts)).reshape(count, bursts, BLOCKS)
    ends = np.array([centre_interval(medians, 0.95) for medians in np.median(d, axis=2)])
    truth = math.log1p(0.05)
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert 0.93 <= covered <= 0.97


def test_a_value_rests_on_the_requests_of_its_own_name() -> None:
    both = msgspec.structs.replace(
        a_stretch(requests=200),
        latencies=(Latencies("rare", b"\0" * 40), Latencies("often", b"\0" * 760)),
        unanswered=(Unanswered("rare", rejected=9, failed=2, seconds=1.0),),
    )
    rows = [msgspec.structs.replace(both, block=block) for block in range(3)]
    counted = {name: readings(rows, metric("latency_p99"), name).requests for name in ("rare", "often", "")}
    assert counted == {"rare": 36, "often": 570, "": 606}
    assert readings(rows, metric("throughput"), "rare").requests == 600
