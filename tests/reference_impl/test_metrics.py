"""The contract of both metrics twins, then what only the optimized one promises."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import astuple, replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.metrics import METRICS, Metrics, MetricsSettings, PerThreadMetrics
from reference_impl.metrics.locked_metrics import LockedMetrics
from reference_impl.metrics.series import (
    OCTAVES,
    OTHER,
    SECONDS,
    Counts,
    Snapshot,
    Tally,
    pack,
    rested_at,
    total,
    unpack,
)
from reference_impl.settings import SettingsError
from tests.clock import Clock

TICK = 2.0**-10  # seconds; sums of it are exact in binary
TWINS = [METRICS.off, METRICS.on]
Twin = Callable[..., Metrics]


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Twin:
    made: Twin = request.param
    return made


def peer(number: int) -> bytes:
    return number.to_bytes(32, "big")


def by_series(snapshot: Snapshot) -> dict[tuple[bytes, str], Counts]:
    return {(one.peer, one.transport): one.counts for one in snapshot.series}


def use(metrics: Metrics, who: bytes, transport: str = "tcp") -> None:
    """One connection with one request, from attempt to close, whose recorder is then forgotten."""
    recorder = metrics.recorder(who, transport)
    recorder.attempt()
    recorder.opened(TICK)
    recorder.request(TICK, 3, 5)
    recorder.closed()


def test_a_snapshot_answers_what_happened(twin: Twin) -> None:
    metrics = twin(MetricsSettings())
    tcp, tls = metrics.recorder(peer(1), "tcp"), metrics.recorder(peer(1), "tls")
    tcp.attempt()
    tcp.failed()
    tcp.attempt()
    tcp.opened(0.25)
    for milliseconds in range(1, 101):
        tcp.request(milliseconds / 1000, 10, 20)
    tls.attempt()
    tls.opened(0.5)
    tls.closed()
    snapshot = metrics.snapshot()
    expected = Counts(
        connection_attempts=2,
        successful_connections=1,
        failed_connections=1,
        bytes_sent=1000,
        bytes_received=2000,
        requests=100,
    )
    assert by_series(snapshot)[peer(1), "tcp"] == expected
    assert by_series(snapshot)[peer(1), "tls"].active == 0
    assert snapshot.totals == total(by_series(snapshot).values())
    assert snapshot.totals.active == 1
    tcp_total = next(one for one in snapshot.transports if one.transport == "tcp")
    assert (tcp_total.counts, tcp_total.connect.count, tcp_total.connect.seconds) == (expected, 1, 0.25)
    assert tcp_total.latency.count == 100
    assert tcp_total.latency.seconds == pytest.approx(5.05)
    assert tcp_total.latency.quantile(0.5) == pytest.approx(0.050, rel=0.12)
    series = next(one for one in snapshot.series if one.transport == "tcp")
    assert series.latency.quantile(0.99) == pytest.approx(0.099, rel=0.34)


def test_nothing_yet_is_an_empty_snapshot(twin: Twin) -> None:
    metrics = twin(MetricsSettings())
    assert metrics.snapshot() == Snapshot(Counts(), (), ())
    metrics.recorder(peer(1), "tcp")
    (series,) = metrics.snapshot().series
    assert series.counts == Counts()
    assert math.isnan(series.latency.quantile(0.5))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1e-9, 2e9])
def test_an_impossible_duration_counts_as_invalid_and_nowhere_else(twin: Twin, seconds: float) -> None:
    metrics = twin(MetricsSettings())
    recorder = metrics.recorder(peer(1), "tcp")
    recorder.opened(seconds)
    recorder.request(TICK, 3, 5)
    recorder.request(seconds, 3, 5)
    snapshot = metrics.snapshot()
    assert snapshot.totals == Counts(successful_connections=1, invalid=2, bytes_sent=3, bytes_received=5, requests=1)
    assert snapshot.transports[0].latency.seconds == TICK
    assert snapshot.transports[0].connect.count == 0


@pytest.mark.parametrize("sizes", [(-1, 5), (3, -1)])
def test_a_negative_size_counts_as_invalid(twin: Twin, sizes: tuple[int, int]) -> None:
    metrics = twin(MetricsSettings())
    metrics.recorder(peer(1), "tcp").request(TICK, *sizes)
    assert metrics.snapshot().totals == Counts(invalid=1)


def test_sizes_and_durations_have_no_upper_limit_that_wraps(twin: Twin) -> None:
    metrics = twin(MetricsSettings())
    recorder = metrics.recorder(peer(1), "tcp")
    for _ in range(3):
        recorder.request(1e9, 2**63, 2**62)
    counts = metrics.snapshot().totals
    assert (counts.bytes_sent, counts.bytes_received, counts.requests) == (3 * 2**63, 3 * 2**62, 3)
    assert metrics.snapshot().series[0].latency.seconds == 3e9


def test_gauges_are_the_totals(twin: Twin) -> None:
    metrics = twin(MetricsSettings())
    use(metrics, peer(1))
    metrics.recorder(peer(2), "tcp").opened(TICK)
    gauges = metrics.gauges()
    assert (gauges["requests"], gauges["active"], gauges["series"], gauges["evicted"]) == (1, 1, 2, 0)


def test_idle_series_join_other_and_totals_do_not_move(twin: Twin) -> None:
    clock = Clock()
    metrics = twin(MetricsSettings(idle_after=60.0), clock)
    for number in range(5):
        use(metrics, peer(number))
    held = metrics.recorder(peer(9), "tcp")
    held.opened(TICK)
    before = metrics.snapshot().totals
    assert metrics.sweep() == 0
    clock.now += 61.0
    assert metrics.sweep() == 5
    snapshot = metrics.snapshot()
    assert {one.peer for one in snapshot.series} == {OTHER, peer(9)}
    assert snapshot.totals == before
    assert snapshot.totals == total(by_series(snapshot).values())
    assert by_series(snapshot)[OTHER, "tcp"].requests == 5
    assert metrics.gauges()["evicted"] == 5


def test_a_peer_that_comes_back_has_a_series_again(twin: Twin) -> None:
    clock = Clock()
    metrics = twin(MetricsSettings(idle_after=60.0), clock)
    use(metrics, peer(1))
    metrics.sweep()
    clock.now += 61.0
    metrics.sweep()
    use(metrics, peer(1))
    counts = by_series(metrics.snapshot())
    assert (counts[OTHER, "tcp"].requests, counts[peer(1), "tcp"].requests) == (1, 1)


def test_a_held_recorder_counts_whatever_became_of_its_series(twin: Twin) -> None:
    clock = Clock()
    metrics = twin(MetricsSettings(idle_after=60.0), clock)
    recorder = metrics.recorder(peer(1), "tcp")
    for _ in range(3):
        recorder.request(TICK, 3, 5)
        clock.now += 1000.0
        metrics.sweep()
        metrics.sweep()
    assert metrics.snapshot().totals.requests == 3
    assert metrics.snapshot().transports[0].latency.count == 3


def test_beyond_the_cap_new_peers_share_other(twin: Twin) -> None:
    metrics = twin(MetricsSettings(max_series=4))
    held = [metrics.recorder(peer(number), "tcp") for number in range(10)]
    for recorder in held:
        recorder.opened(TICK)
        recorder.request(TICK, 3, 5)
    counts = by_series(metrics.snapshot())
    assert set(counts) == {(peer(number), "tcp") for number in range(4)} | {(OTHER, "tcp")}
    assert counts[OTHER, "tcp"].requests == 6
    assert metrics.snapshot().totals.requests == 10


def churn(metrics: Metrics, rounds: int) -> int:
    """So many one-shot peers; returns the most series there were."""
    most = 0
    for number in range(rounds):
        recorder = metrics.recorder(number.to_bytes(32, "big"), "tcp")
        recorder.attempt()
        recorder.request(TICK, 3, 5)
        if number % 10_000 == 0:
            most = max(most, int(metrics.gauges()["series"]))
    return most


def test_one_million_one_shot_peers_leave_bounded_maps_and_exact_totals() -> None:
    clock = Clock()
    metrics = PerThreadMetrics(MetricsSettings(max_series=1_000), clock)
    assert churn(metrics, 1_000_000) <= 1_001
    assert metrics.snapshot().totals == Counts(
        connection_attempts=10**6, bytes_sent=3 * 10**6, bytes_received=5 * 10**6, requests=10**6
    )
    metrics.sweep()
    clock.now += 1000.0
    metrics.sweep()
    assert metrics.gauges()["series"] == 1


def test_the_off_twin_is_bounded_too() -> None:
    metrics = LockedMetrics(MetricsSettings(max_series=1_000))
    assert churn(metrics, 50_000) <= 1_001
    assert metrics.snapshot().totals.requests == 50_000


def test_memory_falls_after_cleanup(twin: Twin) -> None:
    clock = Clock()
    metrics = twin(MetricsSettings(idle_after=60.0), clock)
    use(metrics, OTHER)
    gc.collect()
    tracemalloc.start()
    try:
        empty = tracemalloc.get_traced_memory()[0]
        for number in range(5_000):
            use(metrics, peer(number))
        full = tracemalloc.get_traced_memory()[0] - empty
        metrics.sweep()
        clock.now += 61.0
        metrics.sweep()
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    assert left <= 0.05 * full


def test_a_peer_at_rest_takes_238_bytes_key_and_map_included() -> None:
    metrics = PerThreadMetrics(MetricsSettings())
    use(metrics, OTHER)
    gc.collect()
    tracemalloc.start()
    try:
        empty = tracemalloc.get_traced_memory()[0]
        for number in range(7_000):
            recorder = metrics.recorder(peer(number), "tcp")
            for step in range(1, 9):
                recorder.request(1e-5 * 2**step, 1024, 1024)
        metrics.sweep()
        del recorder
        metrics.sweep()
        gc.collect()
        size = (tracemalloc.get_traced_memory()[0] - empty) / 7_000
    finally:
        tracemalloc.stop()
    assert size <= 238


@pytest.mark.usefixtures("eager_switching")
def test_eight_threads_are_counted_exactly_after_they_exited(twin: Twin) -> None:
    metrics = twin(MetricsSettings())
    shared = metrics.recorder(peer(99), "tcp")

    def work(number: int) -> None:
        own = metrics.recorder(peer(number % 4), "tcp")
        for _ in range(1_000):
            own.attempt()
            own.opened(TICK)
            own.request(TICK, 3, 5)
            shared.request(TICK, 3, 5)
            own.closed()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.sweep()
    counts = by_series(metrics.snapshot())
    assert counts[peer(0), "tcp"] == Counts(2_000, 2_000, 0, 2_000, 0, 6_000, 10_000, 2_000)
    assert counts[peer(99), "tcp"].requests == 8_000
    assert metrics.snapshot().totals.requests == 16_000
    assert metrics.snapshot().transports[0].connect.count == 8_000


@pytest.mark.usefixtures("eager_switching")
def test_snapshots_under_writers_never_go_back_and_are_never_torn(twin: Twin) -> None:
    metrics = twin(MetricsSettings(max_series=6, idle_after=1.0), Clock())
    running = threading.Event()

    def work(number: int) -> None:
        running.wait()
        for turn in range(300):
            recorder = metrics.recorder(peer((number + turn) % 8), "tcp")
            recorder.attempt()
            recorder.opened(TICK)
            for _ in range(5):
                recorder.request(TICK, 3, 5)
            recorder.closed()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    running.set()
    last = (0,) * len(astuple(Counts()))
    while any(thread.is_alive() for thread in threads):
        snapshot = metrics.snapshot()
        totals = snapshot.totals
        now = astuple(totals)
        assert all(before <= after for before, after in zip(last, now, strict=True))
        assert (totals.bytes_sent, totals.bytes_received) == (3 * totals.requests, 5 * totals.requests)
        assert totals.closed_connections <= totals.successful_connections <= totals.connection_attempts
        assert totals == total(by_series(snapshot).values())
        measured = [(one.counts, one.latency) for one in snapshot.series]
        for counts, latency in (*measured, *((one.counts, one.latency) for one in snapshot.transports)):
            assert latency.count == counts.requests
            assert latency.seconds == counts.requests * TICK
        last = now
        metrics.sweep()
    for thread in threads:
        thread.join()
    assert metrics.snapshot().totals == Counts(1_200, 1_200, 0, 1_200, 0, 18_000, 30_000, 6_000)


def test_a_finalizer_may_report_while_its_own_thread_holds_the_lock() -> None:
    locked = LockedMetrics(MetricsSettings())
    buffered = PerThreadMetrics(MetricsSettings())
    for metrics in (locked, buffered):
        recorder = metrics.recorder(peer(1), "tcp")
        with metrics._lock:
            for _ in range(1_000):
                recorder.opened(TICK)
                recorder.request(TICK, 3, 5)
                recorder.closed()
        assert metrics.snapshot().totals.closed_connections == 1_000
        assert metrics.snapshot().totals.requests == 1_000


EVENTS = st.one_of(
    st.tuples(st.just("request"), st.sampled_from([0.0, 1e-7, TICK, 0.3, 100.0, math.nan, -1.0]), st.integers(-1, 9)),
    st.tuples(st.sampled_from(["attempt", "failed", "closed", "sweep", "snapshot"]), st.just(0.0), st.just(0)),
    st.tuples(st.just("opened"), st.sampled_from([TICK, math.inf]), st.just(0)),
)
STEPS = st.lists(st.tuples(EVENTS, st.integers(0, 3), st.sampled_from(["tcp", "tls"])), max_size=120)


def play(metrics: Metrics, steps: list[tuple[tuple[str, float, int], int, str]], *, hold: bool) -> None:
    held = {}
    for (event, seconds, size), number, transport in steps:
        if event in ("sweep", "snapshot"):
            getattr(metrics, event)()
            continue
        recorder = metrics.recorder(peer(number), transport)
        if hold:
            held[number, transport] = recorder
        if event == "request":
            recorder.request(seconds, size, 2 * size)
        elif event == "opened":
            recorder.opened(seconds)
        else:
            getattr(recorder, event)()


@given(STEPS, st.booleans(), st.integers(1, 4))
def test_both_twins_count_any_sequence_alike(
    steps: list[tuple[tuple[str, float, int], int, str]], hold: bool, batch: int
) -> None:
    options = MetricsSettings(batch=batch)
    off, on = LockedMetrics(options), PerThreadMetrics(options)
    play(off, steps, hold=hold)
    play(on, steps, hold=hold)
    left, right = off.snapshot(), on.snapshot()
    assert left.totals == right.totals
    assert by_series(left) == by_series(right)
    assert {one.transport: one.counts for one in left.transports} == {
        one.transport: one.counts for one in right.transports
    }
    seconds = {(one.peer, one.transport): one.latency.seconds for one in right.series}
    for one in left.series:
        assert seconds[one.peer, one.transport] == pytest.approx(one.latency.seconds)


@given(STEPS, st.booleans())
@settings(max_examples=60)
def test_totals_survive_any_eviction(steps: list[tuple[tuple[str, float, int], int, str]], hold: bool) -> None:
    options = MetricsSettings(max_series=2, idle_after=1e-9)
    off, on = LockedMetrics(options), PerThreadMetrics(options)
    play(off, steps, hold=hold)
    play(on, steps, hold=hold)
    assert off.snapshot().totals == on.snapshot().totals
    for metrics in (off, on):
        snapshot = metrics.snapshot()
        assert snapshot.totals == total(by_series(snapshot).values())
        assert len(snapshot.series) <= 2 + len(snapshot.transports)


@given(
    st.lists(st.integers(0, 2**66), min_size=7, max_size=7),
    st.floats(0, 1e30),
    st.lists(st.one_of(st.just(0), st.integers(0, 2**33)), min_size=28, max_size=28),
    st.integers(0, 2**32 - 1),
)
def test_packing_keeps_every_number_or_saturates(
    counts: list[int], seconds: float, octaves: list[int], at: int
) -> None:
    tally: Tally = [*counts, seconds, *octaves]
    packed = pack(tally, at)
    limited = [*(min(n, 2**64 - 1) for n in counts), seconds, *octaves]
    assert unpack(packed, 28) == limited
    assert rested_at(packed) == at


def test_an_empty_tally_packs_to_its_head() -> None:
    empty: Tally = [*([0] * SECONDS), 0.0, *([0] * 28)]
    packed = pack(empty, 7)
    assert len(packed) < 40
    assert unpack(packed, 28) == unpack(b"", 28) == empty
    assert len(empty) == OCTAVES + 28


def test_busy_recorders_stay_within_the_batch_budget() -> None:
    options = MetricsSettings(batch=256, batch_budget=512)
    metrics = PerThreadMetrics(options)
    held = [metrics.recorder(peer(number), "tcp") for number in range(40)]
    for recorder in held:
        for _ in range(2_000):
            recorder.request(TICK, 1, 1)
    books = [book for _, book in metrics._ledgers["tcp"].all_books()]
    assert sum(book.limit // 3 - 16 for book in books) <= 512
    assert max(book.limit for book in books) == 3 * 256
    metrics.sweep()
    metrics.sweep()
    assert metrics._budget == 512
    assert metrics.snapshot().totals.requests == 80_000


def test_a_flood_of_held_peers_does_not_look_for_room_each_time() -> None:
    metrics = PerThreadMetrics(MetricsSettings(max_series=64))
    held = [metrics.recorder(peer(number), "tcp") for number in range(64)]
    with mock.patch.object(metrics, "_rest", wraps=metrics._rest) as look:
        for number in range(64, 1_000):
            metrics.recorder(peer(number), "tcp").attempt()
    assert look.call_count == 1
    assert metrics.snapshot().totals.connection_attempts == 936
    assert len(held) == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_series", 0),
        ("max_series", 1.5),
        ("idle_after", -1.0),
        ("idle_after", math.nan),
        ("shortest", 0.0),
        ("longest", math.inf),
        ("longest", 1e-9),
        ("longest", 1e12),
        ("subdivisions", 0),
        ("sample_bound", True),
        ("batch", -1),
        ("batch_budget", "many"),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"MetricsSettings\.\w*.*{value!r}") as refused:
        replace(MetricsSettings(), **{name: value})  # type: ignore[arg-type]
    assert name in str(refused.value)


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent, threading
from reference_impl.metrics import METRICS, MetricsSettings
for twin in (METRICS.off, METRICS.on):
    metrics = twin(MetricsSettings())
    shared = metrics.recorder(b"s" * 32, "tcp")
    def work(number):
        own = metrics.recorder(bytes([number % 5]) * 32, "tcp")
        for turn in range(100):
            own.attempt(); own.opened(0.25); own.request(0.25, 3, 5)
            gevent.sleep(0)
            shared.request(0.25, 3, 5); own.closed()
            if turn % 50 == 0:
                counts = metrics.snapshot().totals
                assert counts.bytes_sent == 3 * counts.requests
    greenlets = [gevent.spawn(work, number) for number in range(50)]
    gevent.get_hub().threadpool.apply(work, (1,))  # a real thread beside them
    gevent.joinall(greenlets, raise_error=True)
    counts = metrics.snapshot().totals
    assert (counts.requests, counts.closed_connections) == (2 * 51 * 100, 51 * 100), counts
    books = getattr(metrics, "_ledgers", None)
    assert books is None or len(books["tcp"].books) == 2, "one shard per operating system thread"
"""


@pytest.mark.parametrize("early", ["", "import reference_impl.metrics\n"])
def test_greenlets_are_counted_exactly(early: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", early + GREENLETS], check=True, timeout=60)
