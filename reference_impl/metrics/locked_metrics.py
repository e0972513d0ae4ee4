"""The off twin of the metrics room."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reference_impl import forks
from reference_impl.metrics.histogram import CREDIBLE_SECONDS, Latency, unpatched
from reference_impl.metrics.series import OTHER, Counts, Series, Snapshot, Transport, gauges_of, total

if TYPE_CHECKING:
    from reference_impl.metrics.collector import MetricsSettings, Recorder


class LockedMetrics:
    """Off: one lock, a dict of counters and the last samples per (peer, transport)."""

    def __init__(self, settings: MetricsSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self.after_fork()
        self._series: dict[tuple[bytes, str], dict[str, Any]] = {}
        self._connects: dict[str, dict[str, Any]] = {}
        self._evicted = 0
        forks.join(self)

    def recorder(self, peer: bytes, transport: str) -> Recorder:
        with self._lock:
            return _LockedRecorder(self, self._series_of(peer, transport))

    def snapshot(self) -> Snapshot:
        with self._lock:
            series = tuple(
                Series(peer, transport, _counts_of(one), _latency_of(one))
                for (peer, transport), one in self._series.items()
            )
            transports = tuple(self._transport(name, series) for name in self._connects)
        return Snapshot(total(one.counts for one in transports), transports, series)

    def sweep(self) -> int:
        with self._lock:
            before = self._clock() - self._settings.idle_after
            idle = [
                key
                for key, one in self._series.items()
                if key[0] != OTHER and one["opened"] <= one["closed"] and one["touched"] <= before
            ]
            for key in idle:
                one = self._series.pop(key)
                one["gone"] = True
                _merge(self._series_of(OTHER, key[1]), one)
            self._evicted += len(idle)
            return len(idle)

    def gauges(self) -> dict[str, float]:
        with self._lock:
            totals = total(_counts_of(one) for one in self._series.values())
            return gauges_of(totals, len(self._series), self._evicted)

    def after_fork(self) -> None:
        # Reentrant: a connection's finalizer may report `closed` while this very thread holds the lock. Unpatched:
        # gevent's is written in Python, and nothing under this lock ever waits.
        self._lock = unpatched("_thread", "RLock")()

    def _series_of(self, peer: bytes, transport: str) -> dict[str, Any]:
        one = self._series.get((peer, transport))
        if one is None:
            if len(self._series) >= self._settings.max_series and peer != OTHER:
                return self._series_of(OTHER, transport)
            bound = self._settings.sample_bound
            one = dict.fromkeys(_LOCKED_FIELDS, 0)
            one |= {"seconds": 0.0, "samples": deque(maxlen=bound), "gone": False, "touched": self._clock()}
            one |= {"peer": peer, "transport": transport}
            if transport not in self._connects:  # first: a series without one breaks a child forked here
                self._connects[transport] = {"count": 0, "seconds": 0.0, "samples": deque(maxlen=bound)}
            self._series[peer, transport] = one
        return one

    def _transport(self, name: str, series: tuple[Series, ...]) -> Transport:
        own = [one for one in series if one.transport == name]
        counts = total(one.counts for one in own)
        samples = tuple(sample for one in own for sample in one.latency.values)
        latency = Latency(counts.requests, sum(one.latency.seconds for one in own), samples)
        connects = self._connects[name]
        connect = Latency(connects["count"], connects["seconds"], tuple(connects["samples"]))
        return Transport(name, counts, latency, connect)


class _LockedRecorder:
    __slots__ = ("__weakref__", "_metrics", "_series")

    def __init__(self, metrics: LockedMetrics, series: dict[str, Any]) -> None:
        self._metrics = metrics
        self._series = series

    def attempt(self) -> None:
        self._count("attempts")

    def failed(self) -> None:
        self._count("failed")

    def closed(self) -> None:
        self._count("closed")

    def opened(self, seconds: float) -> None:
        with self._metrics._lock:
            series = self._own()
            series["opened"] += 1
            series["touched"] = self._metrics._clock()
            if not 0.0 <= seconds <= CREDIBLE_SECONDS:
                series["invalid"] += 1
                return
            connects = self._metrics._connects[series["transport"]]
            connects["count"] += 1
            connects["seconds"] += seconds
            connects["samples"].append(seconds)

    def request(self, seconds: float, sent: int, received: int) -> None:
        with self._metrics._lock:
            series = self._own()
            if not (0.0 <= seconds <= CREDIBLE_SECONDS and sent >= 0 and received >= 0):
                series["invalid"] += 1
                return
            series["requests"] += 1
            series["sent"] += sent
            series["received"] += received
            series["seconds"] += seconds
            series["samples"].append(seconds)

    def _count(self, name: str) -> None:
        with self._metrics._lock:
            series = self._own()
            series[name] += 1
            series["touched"] = self._metrics._clock()

    def _own(self) -> dict[str, Any]:
        if self._series["gone"]:
            self._series = self._metrics._series_of(self._series["peer"], self._series["transport"])
        return self._series


_LOCKED_FIELDS = ("attempts", "opened", "failed", "closed", "invalid", "sent", "received", "requests")


def _counts_of(one: dict[str, Any]) -> Counts:
    return Counts(*(one[name] for name in _LOCKED_FIELDS))


def _latency_of(one: dict[str, Any]) -> Latency:
    return Latency(one["requests"], one["seconds"], tuple(one["samples"]))


def _merge(into: dict[str, Any], one: dict[str, Any]) -> None:
    for name in (*_LOCKED_FIELDS, "seconds"):
        into[name] += one[name]
    into["samples"].extend(one["samples"])
