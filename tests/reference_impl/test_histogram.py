"""Histograms: known edges, the promised error, nothing lost between threads, and what is no duration."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.metrics.histogram import Buckets, Histogram, Latency, Scheme, order

FINE = Scheme.log_linear(1e-6, 64.0, 4)
TICK = 2.0**-10  # seconds; sums of it are exact in binary


def nearest_rank(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def test_edges_are_octaves_cut_evenly() -> None:
    scheme = Scheme.log_linear(1.0, 7.0, 2)
    assert scheme.edges == (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, math.inf)
    assert scheme.values[0] == 1.0
    assert scheme.values[-1] == 8.0
    assert scheme.values[1] == pytest.approx(2 * 1.0 * 1.5 / 2.5)


@given(st.lists(st.floats(1.01e-6, 64.0), min_size=1, max_size=300), st.sampled_from([1, 2, 4, 8]), st.floats(0, 1))
def test_a_quantile_is_within_the_schemes_error(values: list[float], subdivisions: int, q: float) -> None:
    scheme = Scheme.log_linear(1e-6, 64.0, subdivisions)
    histogram = Histogram(scheme)
    for value in values:
        histogram.observe(value)
    read = histogram.read()
    true = nearest_rank(values, q)
    assert abs(read.quantile(q) - true) <= scheme.error * true * (1 + 1e-9)
    assert read.count == len(values)
    assert read.seconds == pytest.approx(sum(values))


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200))
def test_buckets_agree_with_counting_one_by_one(values: list[float]) -> None:
    ordered = sorted(values)
    buckets = Buckets(FINE)
    hit = buckets.add(ordered, sum(ordered))
    slow = [sum(low < value <= high for value in values) for low, high in pairwise((-1.0, *FINE.edges))]
    assert list(buckets.counts) == slow
    assert dict(hit) == {bucket: n for bucket, n in enumerate(slow) if n}


@given(st.integers(0, len(FINE.edges) - 2))
def test_a_fine_bucket_lies_within_its_octave(bucket: int) -> None:
    octaves = Scheme.log_linear(1e-6, 64.0, 1)
    octave = FINE.octave(bucket)
    assert FINE.edges[bucket] <= octaves.edges[octave] * (1 + 1e-9)
    assert octave == 0 or FINE.edges[bucket] > octaves.edges[octave - 1]


def test_an_edge_belongs_to_the_bucket_below_it() -> None:
    histogram = Histogram(Scheme.log_linear(1.0, 4.0, 1))
    for value in (1.0, 2.0, 2.1, 4.0, 5.0):
        histogram.observe(value)
    assert histogram.read().cumulative() == [(1.0, 1), (2.0, 2), (4.0, 4), (math.inf, 5)]


def test_outside_the_range_quantiles_saturate_and_the_sum_does_not() -> None:
    histogram = Histogram(Scheme.log_linear(0.5, 4.0, 1))
    for value in (0.0, 1e-9, 1000.0):
        histogram.observe(value)
    read = histogram.read()
    assert (read.quantile(0.0), read.quantile(1.0)) == (0.5, 4.0)
    assert read.seconds == pytest.approx(1000.0)


def test_what_is_no_duration_is_refused_and_counted() -> None:
    histogram = Histogram(FINE)
    for value in (math.nan, 0.25, math.inf, -0.001, -math.inf, 1e10, 0.5, math.nan):
        histogram.observe(value)
    read = histogram.read()
    assert (read.count, read.seconds, histogram.refused) == (2, 0.75, 6)
    with pytest.raises(TypeError):
        histogram.observe("soon")  # type: ignore[arg-type]


def test_only_refused_values_leave_an_empty_histogram() -> None:
    histogram = Histogram(FINE)
    histogram.observe(math.nan)
    read = histogram.read()
    assert (read.count, read.seconds, histogram.refused) == (0, 0.0, 1)
    assert math.isnan(read.quantile(0.5))


def test_counts_go_on_beyond_32_bits() -> None:
    buckets = Buckets(FINE)
    buckets.counts[0] = 2**32 - 1
    buckets.add([0.0, 0.0, 1.0], 1.0)
    assert buckets.counts[0] == 2**32 + 1
    assert buckets.read().count == 2**32 + 2


def test_order_rejects_nan_wherever_it_hides() -> None:
    for place in range(5):
        values = [0.1, 0.4, 0.2, 0.3]
        values.insert(place, math.nan)
        assert order(values) is None
    assert order([]) is None
    assert order([0.5, "late"]) is None  # type: ignore[list-item]
    assert order([0.5, 0.25]) == 0.75


def test_quantile_of_samples_is_the_nearest_rank_and_refuses_nonsense() -> None:
    latency = Latency(4, 10.0, (4.0, 1.0, 3.0, 2.0))
    assert [latency.quantile(q) for q in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert latency.cumulative() == []
    with pytest.raises(ValueError, match=r"quantile is 1\.5"):
        latency.quantile(1.5)


@pytest.mark.usefixtures("eager_switching")
def test_eight_threads_lose_nothing_and_no_reader_sees_count_without_sum() -> None:
    histogram = Histogram(FINE)
    running = threading.Event()

    def write() -> None:
        running.wait()
        for _ in range(5_000):
            histogram.observe(TICK)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    running.set()
    last = 0
    while any(thread.is_alive() for thread in threads):
        read = histogram.read()
        assert read.seconds == read.count * TICK
        assert read.count >= last
        last = read.count
    for thread in threads:
        thread.join()
    assert histogram.read().count == 40_000


def test_a_writer_never_waits_for_a_reader() -> None:
    histogram = Histogram(FINE)
    with histogram._lock:  # a finalizer that runs in the middle of read() finds it so
        for _ in range(500):
            histogram.observe(TICK)
    assert histogram.read().count == 500


def test_a_busy_histogram_stays_below_one_kibibyte_at_octaves() -> None:
    octaves = Scheme.log_linear(1e-6, 64.0, 1)
    tracemalloc.start()
    try:
        histograms = [Histogram(octaves) for _ in range(50)]
        for histogram in histograms:
            for step in range(1_000):
                histogram.observe(step * 1e-5)
        size = tracemalloc.get_traced_memory()[0] / len(histograms)
    finally:
        tracemalloc.stop()
    assert size <= 1024


@pytest.mark.parametrize(
    "first", ["import reference_impl.metrics.histogram", "from gevent import monkey; monkey.patch_all()"]
)
def test_threads_are_told_apart_by_the_unpatched_get_ident(first: str) -> None:
    code = f"""
import _thread
raw, lock = _thread.get_ident, _thread.allocate_lock
{first}
from gevent import monkey; monkey.patch_all()
from reference_impl.metrics.histogram import unpatched
assert _thread.get_ident is not raw
assert unpatched("_thread", "get_ident") is raw
assert unpatched("_thread", "allocate_lock") is lock
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_gevent_is_not_imported_for_it() -> None:
    code = "import sys, reference_impl.metrics; assert not any(name.startswith('gevent') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
