"""Room 3, rate limiting. (docstring: laws of the room)"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

# STUB - interface agreed with the node; keep these names.


class RateLimiter(Protocol):
    """Admission by key (a source address before the handshake, a peer id after it)."""

    def check(self, key: Hashable, n: int = 1) -> float:
        """0.0 when admitted; otherwise seconds until `n` could be admitted (inf = never: n > burst). A reject consumes nothing."""

    def sweep(self) -> int: ...
    def __len__(self) -> int: ...
    def gauges(self) -> dict[str, float]:
        """admitted, rejected, keys, evicted ..."""


# Constructor of every twin: Twin(settings: RateLimitSettings, clock: Callable[[], float] = time.monotonic)
# RATE_LIMIT: Switch[RateLimiter] = Switch("rate_limit", off=Unlimited, on=GcraLimiter)
# beside them LockedBuckets: the dict-of-buckets under one lock, for the overhead comparison (rooms.md, honest off side 3)
