"""Metrics: what it costs to count, to observe, to remember, and to read everything at once.

Counting that is put off is not left out: batches are counted within the same stretch of events. Peers' children are
looked up beforehand, as our recorders are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

from reference_impl.metrics import METRICS, MetricsSettings
from reference_impl.metrics.histogram import Histogram, Scheme
from scenarios.micro.suite import TURNS, Builder, Case, Goal, Room, Setup, Timed, bytes_per, each, in_threads, main

PEER = bytes(32)
SERIES = 7000
HISTOGRAMS = 500
OBSERVATIONS = 95
"""Of each histogram whose memory is counted. Ours is then at its largest: 47 wait for the 48th of a batch."""
SECONDS = (0.0004, 0.003, 0.02, 0.11)
Event = Callable[..., object]


def _repeated(event: Callable[[], Event], *arguments: Any) -> Builder:
    def build(setup: Setup) -> Timed:
        happened = event()

        def work(times: Iterator[None]) -> None:
            for _ in times:
                happened(*arguments)

        def work_bare(times: Iterator[None]) -> None:
            for _ in times:
                happened()

        return each([None], work if arguments else work_bare)

    return build


def _threads(event: Callable[[], Callable[[], Event]], *arguments: Any) -> Builder:
    """`event()` makes the shared collector, what it returns gives each thread its handle on the same series."""

    def build(setup: Setup) -> Timed:
        handle = event()

        def make(number: int) -> Callable[[int], object]:
            happened = handle()

            def work(loops: int) -> None:
                for _ in range(loops):
                    happened(*arguments)

            return work

        return in_threads(setup.threads, make)

    return build


def _observed(observe: Callable[[], Event]) -> Builder:
    def build(setup: Setup) -> Timed:
        seen = observe()

        def work(values: Iterator[float]) -> None:
            for value in values:
                seen(value)

        return each(SECONDS, work)

    return build


def _recorder(twin: Callable[..., Any]) -> Any:
    return twin(MetricsSettings()).recorder(PEER, "tcp")


def _attempt(twin: Callable[..., Any]) -> Callable[[], Event]:
    def handle() -> Event:
        # The recorder is kept alive by its bound method.
        return _recorder(twin).attempt  # type: ignore[no-any-return]

    return handle


def _attempts(twin: Callable[..., Any]) -> Callable[[], Callable[[], Event]]:
    def collector() -> Callable[[], Event]:
        metrics = twin(MetricsSettings())
        return lambda: metrics.recorder(PEER, "tcp").attempt

    return collector


def _shared(made: Callable[[], Event]) -> Callable[[], Callable[[], Event]]:
    """Each thread gets the same handle."""

    def collector() -> Callable[[], Event]:
        event = made()
        return lambda: event

    return collector


def _prometheus_counter() -> Event:
    # A float under a lock, one per label set; a snapshot is no cut over several counters.
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    return prometheus_client.Counter("attempts", "", ["peer"], registry=registry).labels("a").inc


def _prometheus_histogram() -> Event:
    # Its default 14 buckets and +Inf, found by walking them; count and sum are read one after the other.
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    return prometheus_client.Histogram("seconds", "", ["peer"], registry=registry).labels("a").observe


def _opentelemetry(kind: str) -> Callable[[], Event]:
    # Views, exemplars and a look-up by attributes at every event, under a lock.
    def made() -> Event:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("micro")
        attributes = {"peer": "a"}
        if kind == "counter":
            add = meter.create_counter("attempts").add
            return lambda amount=1: add(amount, attributes)
        record = meter.create_histogram("seconds").record
        return lambda value: record(value, attributes)

    return made


def _hdrhistogram() -> Event:
    # Whole microseconds up to a minute at two digits: finer than ours, 30 times the memory, and not thread-safe.
    from hdrh.histogram import HdrHistogram

    record = HdrHistogram(1, 60_000_000, 2).record_value
    return lambda seconds: record(int(seconds * 1e6))


def _prometheus_request() -> Event:
    import prometheus_client as client

    registry = client.CollectorRegistry()
    requests, sent, received = (
        client.Counter(name, "", ["peer"], registry=registry).labels("a").inc for name in ("r", "s", "t")
    )
    observe = client.Histogram("seconds", "", ["peer"], registry=registry).labels("a").observe

    def request(seconds: float, out: int, back: int) -> None:
        requests()
        sent(out)
        received(back)
        observe(seconds)

    return request


def _filled(twin: Callable[..., Any], peers: int) -> Any:
    """A collector that has seen a few requests of each of many peers, whose connections are closed by now."""
    metrics = twin(MetricsSettings())
    for number in range(peers):
        recorder = metrics.recorder(number.to_bytes(32, "big"), "tcp")
        recorder.attempt()
        recorder.opened(0.001)
        for seconds in SECONDS:
            recorder.request(seconds, 1024, 1024)
        recorder.closed()
    metrics.sweep()
    return metrics


def _filled_prometheus(peers: int) -> Any:
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    histogram = prometheus_client.Histogram("seconds", "", ["peer"], registry=registry)
    for number in range(peers):
        child = histogram.labels(str(number))
        for seconds in SECONDS:
            child.observe(seconds)
    return registry


def _collected(setup: Setup) -> Timed:
    # The same peers with their latency only: without the seven counters of ours.
    registry = _filled_prometheus(SERIES)
    return _repeated(lambda: lambda: list(registry.collect()))(setup)


def _histograms(make: Callable[[], tuple[object, Event]]) -> Builder:
    def fill(count: int) -> object:
        kept = []
        for _ in range(count):
            histogram, observe = make()
            for seconds in islice(cycle(SECONDS), OBSERVATIONS):
                observe(seconds)
            kept.append(histogram)
        return kept

    return lambda setup: bytes_per(HISTOGRAMS, fill)


OCTAVES = Scheme.log_linear(1e-6, 64.0, 1)
"""One bucket an octave: between 5 ms and 10 s, Prometheus' range, as fine as its default buckets."""


def _our_histogram() -> tuple[object, Event]:
    histogram = Histogram(OCTAVES)
    return histogram, histogram.observe


def _their_histogram() -> tuple[object, Event]:
    import prometheus_client

    histogram = prometheus_client.Histogram("seconds", "", registry=None)
    return histogram, histogram.observe


def _hdr_histogram() -> tuple[object, Event]:
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 60_000_000, 2)
    return histogram, lambda seconds: histogram.record_value(int(seconds * 1e6))


REQUEST = (0.0004, 1024, 1024)
INC = "inc"
ROOM = Room(
    "metrics",
    __doc__,
    (
        Case(
            INC,
            {
                "off": _repeated(_attempt(METRICS.off)),
                "on": _repeated(_attempt(METRICS.on)),
                "prometheus": _repeated(_prometheus_counter),
                "opentelemetry": _repeated(_opentelemetry("counter")),
            },
            (Goal(100 / 271, "prometheus", "100 ns where prometheus-client takes 271"),),
        ),
        Case(
            "inc, threads",
            {
                "off": _threads(_attempts(METRICS.off)),
                "on": _threads(_attempts(METRICS.on)),
                "prometheus": _threads(_shared(_prometheus_counter)),
                "opentelemetry": _threads(_shared(_opentelemetry("counter"))),
            },
            (Goal(180 / 271, "prometheus", "180 ns where prometheus-client takes 271 on one thread", INC),),
            weight=TURNS,
        ),
        Case(
            "observe",
            {
                "on": _observed(lambda: Histogram(OCTAVES).observe),
                "prometheus": _observed(_prometheus_histogram),
                "opentelemetry": _observed(_opentelemetry("histogram")),
                "hdrhistogram": _observed(_hdrhistogram),
            },
            (Goal(200 / 628, "prometheus", "200 ns where prometheus-client takes 628"),),
        ),
        Case(
            "one request: count, bytes both ways, latency",
            {
                "off": _repeated(lambda: _recorder(METRICS.off).request, *REQUEST),
                "on": _repeated(lambda: _recorder(METRICS.on).request, *REQUEST),
                "prometheus": _repeated(_prometheus_request, *REQUEST),
            },
        ),
        Case(
            "snapshot of 7,000 series",
            {
                "off": _repeated(lambda: _filled(METRICS.off, SERIES).snapshot),
                "on": _repeated(lambda: _filled(METRICS.on, SERIES).snapshot),
                "prometheus": _collected,
            },
            (Goal(50 / 336, "prometheus", "50 ms where prometheus-client takes 336"),),
        ),
        Case(
            "memory of a peer's series, 7,000 peers",
            {
                "off": lambda setup: bytes_per(SERIES, partial(_filled, METRICS.off)),
                "on": lambda setup: bytes_per(SERIES, partial(_filled, METRICS.on)),
                "prometheus": lambda setup: bytes_per(SERIES, _filled_prometheus),
            },
            unit="byte",
        ),
        Case(
            "memory of a histogram",
            {
                "on": _histograms(_our_histogram),
                "prometheus": _histograms(_their_histogram),
                "hdrhistogram": _histograms(_hdr_histogram),
            },
            (Goal(1024, why="1 KiB"), Goal(1024 / 3914, "prometheus", "1 KiB where prometheus-client takes 3,914 B")),
            "byte",
        ),
    ),
    needs={"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.sdk", "hdrhistogram": "hdrh"},
)

if __name__ == "__main__":
    main(ROOM)
