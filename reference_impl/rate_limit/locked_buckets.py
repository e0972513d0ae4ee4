"""A limiter of the first day, beside the rate_limit room: what its check and its bytes a key are compared with."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable

from reference_impl import forks
from reference_impl.rate_limit.limiter import ULPS, RateLimitSettings, gauges_of


class LockedBuckets:
    """Control: a dict of four fields a key under one lock, unbounded."""

    def __init__(self, settings: RateLimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.eviction_interval = settings.eviction_interval
        self._clock = clock
        self._rate = float(settings.max_requests_per_second)
        self._burst = settings.burst_size
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, dict[str, float]] = {}
        self._admitted = self._rejected = self._evicted = 0
        forks.join(self)

    def check(self, key: Hashable, n: int = 1) -> float:
        if not n >= 1:
            raise ValueError(f"n is {n!r}; expected a whole number >= 1")
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = {
                    "tokens": self._burst,
                    "last_refill": now,
                    "rate": self._rate,
                    "burst_size": self._burst,
                }
                self._buckets[key] = bucket
            elif now > bucket["last_refill"]:
                refilled = bucket["tokens"] + (now - bucket["last_refill"]) * bucket["rate"]
                bucket["last_refill"] = now  # first: a child forked in between must not refill twice
                bucket["tokens"] = min(bucket["burst_size"], refilled)
            if bucket["tokens"] >= n:
                bucket["tokens"] -= n
                self._admitted += 1
                return 0.0
            self._rejected += 1
            if n > bucket["burst_size"]:
                return math.inf
            wait = (n - bucket["tokens"]) / bucket["rate"]
            return wait + (now + wait) * ULPS

    def sweep(self) -> int:
        with self._lock:
            now = self._clock()
            idle = [
                key
                for key, bucket in self._buckets.items()
                if bucket["tokens"] + (now - bucket["last_refill"]) * bucket["rate"] >= bucket["burst_size"]
            ]
            for key in idle:
                del self._buckets[key]
            self._evicted += len(idle)
            return len(idle)

    def __len__(self) -> int:
        return len(self._buckets)

    def gauges(self) -> dict[str, float]:
        return gauges_of(self._admitted, self._rejected, keys=len(self), evicted=self._evicted)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
