"""What to watch in production, as gauges: pool hit rate, breaker transitions, limiter rejection rate, buffer pool
efficiency, memory trend. Both ends hand them to an `Exposition`; they are read when scraped, and at no other time.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping

import psutil

from reference_impl.dialer import Dialer
from reference_impl.metrics.exposition import Gauges
from reference_impl.node import Node

WINDOW_SECONDS = 600.0
_READINGS = 256


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


class MemoryTrend:
    """Resident memory, and its slope (least squares) over the readings of the last ten minutes."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, resident: Callable[[], int] = resident_bytes
    ) -> None:
        self._clock = clock
        self._resident = resident
        self._readings: deque[tuple[float, int]] = deque(maxlen=_READINGS)

    def gauges(self) -> dict[str, float]:
        """resident_bytes now, and slope_bytes_per_second: 0 until there are two readings at different times."""
        now, resident = self._clock(), self._resident()
        self._readings.append((now, resident))
        while self._readings[0][0] < now - WINDOW_SECONDS:
            self._readings.popleft()
        times, sizes = zip(*self._readings, strict=True)
        slope = statistics.linear_regression(times, sizes).slope if times[-1] > times[0] else 0.0
        return {"resident_bytes": float(resident), "slope_bytes_per_second": float(slope)}


def node_gauges(node: Node, trend: MemoryTrend | None = None) -> Gauges:
    """A node's gauges by room: rejection_rate of its limiters, reuse_ratio of its buffer pool, the memory's trend."""
    memory = trend or MemoryTrend()
    return lambda: {**node.stats(), "memory": memory.gauges()}


def dialer_gauges(dialer: Dialer, trend: MemoryTrend | None = None) -> Gauges:
    """A dialer's gauges by room: hit_rate of its pool, transitions of its breakers, reuse_ratio, the memory's trend."""
    memory = trend or MemoryTrend()

    def gauges() -> Mapping[str, Mapping[str, float]]:
        rooms = dialer.gauges()
        rooms["pooling"] = {**rooms["pooling"], "hit_rate": hit_rate(rooms["pooling"])}
        return {**rooms, "memory": memory.gauges()}

    return gauges


def hit_rate(pooling: Mapping[str, float]) -> float:
    """Share of checkouts that found a connection to reuse; 0 before the first."""
    hits, misses = pooling.get("hits", 0.0), pooling.get("misses", 0.0)
    return hits / (hits + misses) if hits + misses else 0.0
