"""Each metric of the table against the number worked out by hand, and what has no value says why."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from harness.analyse.contrast import value_of
from harness.errors import StudyError
from harness.measure.metrics import METRICS, PACE, metric, missing
from harness.measure.records import Latencies, Slice, Unanswered
from tests.harness.analyse.synthetic import a_reading, a_stretch

STRETCH = Slice(
    burst=0,
    block=0,
    position=0,
    workload="surge",
    arm="none",
    kind="slice",
    began=0.0,
    planned=0.2,
    seconds=0.5,
    started=8,
    answered=4,
    rejected=1,
    failed={"reset": 2},
    cancelled=1,
    cpu_target=0.3,
    cpu_load=0.1,
    page_faults=10,
    lag_max=0.2,
    latencies=(
        Latencies(
            "request",
            np.array([1, 2, 3, 10], dtype="<f4").tobytes(),
            np.array([0, 0, 1, 2], dtype="<f4").tobytes(),
        ),
    ),
    cache_misses=100.0,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("latency_p50", 12.0),  # of seven: two that failed and one that was cancelled are slower than any
        ("latency_mean", 4.75),
        ("service_p50", 2.5),  # of those that have one
        ("throughput", 8.0),
        ("cpu_per_request", 0.1),
        ("cpu_target_per_request", 0.075),
        ("cpu_load_per_request", 0.025),
        ("page_faults_per_request", 2.5),
        ("cache_misses_per_request", 25.0),
        ("error_ratio", 3.5 / 9.0),  # two failed, one was never answered
        ("rejection_ratio", 1.5 / 9.0),
    ],
)
def test_metric_of_a_stretch(name: str, expected: float) -> None:
    assert value_of(metric(name), STRETCH, "request") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("target_memory", 4e6),
        ("target_memory_whole", 24e6),
        ("load_memory", 4e6),
        ("load_memory_whole", 24e6),
        ("memory", 8e6),
        ("descriptors_delta", 2.0),
    ],
)
def test_metric_of_a_reading(name: str, expected: float) -> None:
    assert value_of(metric(name), a_reading(), "") == expected


def test_the_pace_of_a_load_process_shows_in_every_time_and_rate_of_load_but_cpu_time() -> None:
    timed = {name for name, of in METRICS.items() if of.unit in ("s", "requests/s") and "episode" in of.sources}
    assert {name for name in timed if not name.startswith("cpu_")} == PACE


def test_every_metric_is_described_and_measured_where_it_says() -> None:
    for name, of in METRICS.items():
        assert of.info().name == name
        assert of.definition.endswith(".")
        stretch = value_of(of, a_stretch(), "request")
        reading = value_of(of, a_reading(), "")
        assert (stretch != "not a metric of a stretch of load") == bool(
            {"slice", "segment", "episode"} & set(of.sources)
        )
        assert (reading != "not a metric of a memory reading") == of.after_work
        assert ("reading" in of.sources) == (of.after_work or of.of_episode is not None)


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("latency_p50", {"latencies": ()}, "no answered 'request' request"),
        ("service_p50", {"latencies": ()}, "no answered 'request' request"),
        ("throughput", {"seconds": 0.0, "cancelled": 0}, "the stretch has no duration"),
        ("throughput", {"answered": 0}, "zero"),
        ("cpu_per_request", {"answered": 0}, "no answered request"),
        ("cpu_per_request", {"cpu_target": -1.0}, "negative"),
        ("cpu_per_request", {"cpu_target": float("nan")}, "not a finite number"),
        ("cache_misses_per_request", {"cache_misses": None}, "no counter"),
        ("cache_misses_per_request", {"cache_misses": float("nan")}, "not a finite number"),
        ("error_ratio", {"started": 0}, "no request was started"),
    ],
)
def test_what_has_no_value_says_why(name: str, fields: dict[str, object], reason: str) -> None:
    assert value_of(metric(name), msgspec.structs.replace(STRETCH, **fields), "request") == reason


def test_unknown_metric_names_the_choices() -> None:
    with pytest.raises(StudyError, match=r"unknown metric 'latency'; expected one of latency_p50, "):
        metric("latency")


def test_percentiles_count_requests_without_an_answer_as_slower_than_any() -> None:
    """Against the sorted values with infinities in their place."""
    rng = np.random.default_rng(7)
    for without in (0, 1, 9):
        seconds = rng.exponential(1.0, 991).astype("<f4")
        lost = (Unanswered("request", rejected=5, failed=without, seconds=1.0), Unanswered("other", 0, 90, 1.0))
        stretch = msgspec.structs.replace(
            a_stretch(requests=991),
            latencies=(Latencies("request", seconds.tobytes()),),
            unanswered=lost,
            failed={"reset": without + 90},
        )
        whole = np.concatenate([seconds, np.full(without, 1e9)])
        expected = np.quantile(whole, 0.99)
        assert value_of(metric("latency_p99"), stretch, "request") == pytest.approx(expected, rel=1e-6)
    failed = msgspec.structs.replace(stretch, failed={"reset": 20})
    assert value_of(metric("latency_p50"), failed, "") == pytest.approx(np.quantile([*seconds, *([9.0] * 20)], 0.5))
    assert value_of(metric("latency_p99"), failed, "") == seconds.max()
    long = msgspec.structs.replace(failed, seconds=60.0)
    assert value_of(metric("latency_p99"), long, "") == 60.0  # in all that time no answer came


def test_where_every_request_failed_they_took_the_whole_stretch() -> None:
    lost = (Unanswered("request", rejected=0, failed=300, seconds=1.0),)
    dead = msgspec.structs.replace(
        a_stretch(seconds=1.0), answered=0, latencies=(), unanswered=lost, failed={"reset": 300}
    )
    assert value_of(metric("latency_p50"), dead, "request") == dead.seconds
    assert value_of(metric("latency_p50"), dead, "") == dead.seconds
    assert value_of(metric("latency_p50"), dead, "other") == "no answered 'other' request"


def test_who_stops_answering_was_not_done_early() -> None:
    """200 answers in 0.05 s of a second, then nothing: 300 requests in flight never end."""
    frozen = msgspec.structs.replace(a_stretch(seconds=1.0), seconds=0.05, started=500, cancelled=300)
    assert value_of(metric("throughput"), frozen, "") == 200.0
    assert value_of(metric("goodput"), frozen, "request") == 200.0
    assert value_of(metric("latency_p99"), frozen, "request") == 1.0
    done = msgspec.structs.replace(frozen, started=200, cancelled=0)
    assert value_of(metric("throughput"), done, "") == 4_000.0
    untaken = msgspec.structs.replace(frozen, arrivals=500, tasks=200, seconds=6.0)
    assert value_of(metric("throughput"), untaken, "") == pytest.approx(200 / 6.0)


def test_no_error_and_no_success_have_a_ratio_too() -> None:
    assert value_of(metric("error_ratio"), a_stretch(requests=99), "") == pytest.approx(0.005)
    none = msgspec.structs.replace(a_stretch(requests=9), latencies=(), unanswered=(Unanswered("request", 0, 9, 1.0),))
    assert value_of(metric("success_ratio"), none, "request") == pytest.approx(0.05)


def test_failures_that_nobody_named_count_for_every_name() -> None:
    """A task that raised outside any request may have been about to make one of that name."""
    seconds = np.full(99, 0.5, "<f4")
    stretch = msgspec.structs.replace(
        a_stretch(requests=99),
        latencies=(Latencies("request", seconds.tobytes()),),
        unanswered=(Unanswered("other", 0, 3, 1.0),),
        failed={"ValueError": 7},
        seconds=2.0,
    )
    assert missing(stretch, "request") == 4
    assert missing(stretch, "other") == missing(stretch, "") == 7
    assert value_of(metric("latency_p99"), stretch, "request") == 2.0
