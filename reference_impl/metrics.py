"""Room 6, metrics collection. (docstring: laws of the room)"""

from __future__ import annotations

from typing import Any, Protocol

# STUB - interface agreed with dialer and node; keep these names.


class Recorder(Protocol):
    """The metrics of one (peer, transport), held by a connection so that the hot path does no look-up."""

    def attempt(self) -> None: ...
    def opened(self, seconds: float) -> None: ...
    def failed(self) -> None: ...
    def request(self, seconds: float, sent: int, received: int) -> None:
        """One answered request: latency and payload bytes. The hot path: one call per request."""
    def closed(self) -> None: ...


class Metrics(Protocol):
    def recorder(self, peer: bytes, transport: str) -> Recorder: ...
    def snapshot(self) -> Any:
        """The same frozen record from both twins: totals (connection_attempts, successful_connections, failed_connections,
        active, requests, bytes_sent, bytes_received) and per (peer, transport) counts, latency sum, quantiles."""
    def sweep(self) -> int: ...
    def gauges(self) -> dict[str, float]: ...


# Constructor of both twins: Twin(settings: MetricsSettings, clock=time.monotonic)
# METRICS: Switch[Metrics] = Switch("metrics", off=LockedMetrics, on=PerThreadMetrics)
