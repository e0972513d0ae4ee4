"""Prometheus exposition of a node: a custom collector over a snapshot, and a port on 127.0.0.1 to scrape it.

Nothing is kept twice: a scrape takes one snapshot and turns it into samples, so samples of one scrape belong to one
instant. Peers get series of their own only when asked for, because a label per peer is what floods a Prometheus.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from reference_impl.metrics.collector import Metrics
from reference_impl.metrics.histogram import Latency
from reference_impl.metrics.series import OTHER, Counts, Snapshot
from reference_impl.settings import SettingsError, count

Gauges = Callable[[], Mapping[str, Mapping[str, float]]]  # {room: {name: value}}

_PREFIX = "synapsed"
_HOST = "127.0.0.1"  # never another: gauges tell an observer who talks to whom
_QUANTILES = (0.5, 0.9, 0.99)
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_]")
_COUNTERS = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, slots=True)
class ExpositionSettings:
    """Settings of the exposition; each comment gives unit and the reason for the default."""

    port: int = 0  # TCP port on 127.0.0.1: 0 lets the kernel choose a free one, so that nodes never collide
    per_peer: bool = False  # series per peer: off, since 10,000 peers are 100,000 lines a scrape

    def __post_init__(self) -> None:
        owner = type(self).__name__
        count(owner, "port", self.port, least=0, most=65_535)
        if not isinstance(self.per_peer, bool):
            raise SettingsError(f"{owner}.per_peer is {self.per_peer!r}; expected true or false")


class NodeCollector(Collector):
    """Gauges of all rooms and the metrics of all connections, read anew at each scrape.

    Counters are labelled by transport, durations are summaries (quantiles) and, from a twin that keeps buckets,
    histograms too, which can be aggregated over nodes.
    """

    def __init__(self, gauges: Gauges, metrics: Metrics, *, per_peer: bool = False) -> None:
        self._gauges = gauges
        self._metrics = metrics
        self._per_peer = per_peer

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not take a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        for room, values in self._gauges().items():
            for name, value in values.items():
                full = _FORBIDDEN.sub("_", f"{_PREFIX}_{room}_{name}")
                yield GaugeMetricFamily(full, f"{name} of the {room} room", value=value)
        snapshot = self._metrics.snapshot()
        yield from _by_transport(snapshot)
        if self._per_peer:
            yield from _by_peer(snapshot)


def _by_transport(snapshot: Snapshot) -> Iterator[Metric]:
    yield from _count_families("", ["transport"], [((one.transport,), one.counts) for one in snapshot.transports])
    for name, what in (("latency", "request"), ("connect", "connect")):
        durations = [(one.transport, getattr(one, name)) for one in snapshot.transports]
        yield _summary(f"{_PREFIX}_{what}_seconds", f"{what} time in seconds", durations)
        if any(latency.edges for _, latency in durations):
            yield _histogram(f"{_PREFIX}_{what}_duration_seconds", f"{what} time in seconds", durations)


def _by_peer(snapshot: Snapshot) -> Iterator[Metric]:
    labelled = [((_peer_name(one.peer), one.transport), one.counts) for one in snapshot.series]
    yield from _count_families("peer_", ["peer", "transport"], labelled)


def _count_families(infix: str, labels: list[str], rows: Sequence[tuple[Sequence[str], Counts]]) -> Iterator[Metric]:
    for name in _COUNTERS:
        family = CounterMetricFamily(f"{_PREFIX}_{infix}{name}", f"{name} since the start", labels=labels)
        for row, counts in rows:
            family.add_metric(row, getattr(counts, name))
        yield family
    active = GaugeMetricFamily(f"{_PREFIX}_{infix}active_connections", "connections open now", labels=labels)
    for row, counts in rows:
        active.add_metric(row, counts.active)
    yield active


def _summary(name: str, text: str, durations: list[tuple[str, Latency]]) -> Metric:
    family = SummaryMetricFamily(name, text, labels=["transport"])
    for transport, latency in durations:
        for q in _QUANTILES:
            labels = {"transport": transport, "quantile": str(q)}
            family.add_sample(name, labels, latency.quantile(q))
        family.add_metric([transport], latency.count, latency.seconds)
    return family


def _histogram(name: str, text: str, durations: list[tuple[str, Latency]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["transport"])
    for transport, latency in durations:
        buckets = [("+Inf" if math.isinf(edge) else repr(edge), float(n)) for edge, n in latency.cumulative()]
        family.add_metric([transport], buckets, latency.seconds)
    return family


def _peer_name(peer: bytes) -> str:
    return OTHER.decode() if peer == OTHER else peer.hex()


class Exposition:
    """An HTTP server on 127.0.0.1 that answers `/metrics`, until `close`; also a context manager.

    `port` is the port it listens on. Raises `OSError` when the port is taken. Beside the node's own metrics it
    exposes the process's memory, CPU time and descriptors, so that their trend can be watched.
    """

    def __init__(self, gauges: Gauges, metrics: Metrics, settings: ExpositionSettings | None = None) -> None:
        settings = settings or ExpositionSettings()
        registry = CollectorRegistry()
        registry.register(NodeCollector(gauges, metrics, per_peer=settings.per_peer))
        ProcessCollector(registry=registry)
        self._server: Any
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(settings.port, addr=_HOST, registry=registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop answering and give the port back. Safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
