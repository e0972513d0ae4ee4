"""Room 1, connection pooling. (docstring: laws of the room in 2-3 sentences)"""

from __future__ import annotations

from typing import Protocol, TypeVar, Generic, Callable
from reference_impl.optimizations import Switch

# STUB - interface agreed with the dialer; keep these names.
C = TypeVar("C")


class Lease(Protocol[C]):
    """What checkout lends. `connection` is the live connection; created_at, last_used, in_use are the plan's fields."""

    connection: C
    created_at: float
    last_used: float
    in_use: bool


class Pool(Protocol[C]):
    def checkout(self, peer: bytes) -> Lease[C]: ...
    def checkin(self, lease: Lease[C]) -> None: ...
    def discard(self, lease: Lease[C]) -> None:
        """Instead of checkin when the connection is broken: closes it, returns the permit."""
    def sweep(self) -> int: ...
    def close(self) -> None: ...
    def gauges(self) -> dict[str, float]:
        """hits, misses, waits, timeouts, idle, in_use, evicted, discarded_dead ..."""


# Constructor of every twin (PerRequest off, ConnectionPool on, LockedReuse = control "first-day-reuse"):
#   Twin(settings: PoolSettings, connect: Callable[[bytes], C], close: Callable[[C], None],
#        is_alive: Callable[[C], bool], clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None)
# POOLING: Switch[Pool[Any]] = Switch("pooling", off=PerRequest, on=ConnectionPool, controls={"first-day-reuse": LockedReuse})
