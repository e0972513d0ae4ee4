"""The off twin of the pooling room: no reuse at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from reference_impl import forks
from reference_impl.pooling.lease import Lease, PoolClosed, PooledConnection, PoolSettings, all_gauges, lend, take_back

C = TypeVar("C")


class PerRequest(Generic[C]):
    """Off: a new connection for every checkout, closed on checkin."""

    def __init__(
        self,
        settings: PoolSettings,
        connect: Callable[[bytes], C],
        close: Callable[[C], object],
        is_alive: Callable[[C], bool],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._connect, self._close, self._clock = connect, close, clock
        self._lock = threading.Lock()
        self._closed = False
        self._misses = self._in_use = 0
        forks.join(self)

    def checkout(self, peer: bytes) -> Lease[C]:
        if self._closed:
            raise PoolClosed("the pool is closed")
        record: PooledConnection[C] = PooledConnection()
        record.connection = self._connect(peer)
        record.created_at = record.last_used = self._clock()
        with self._lock:
            self._misses += 1
            self._in_use += 1
        return lend(record)

    def checkin(self, lease: Lease[C]) -> None:
        self._close(self._end(lease))

    def discard(self, lease: Lease[C]) -> None:
        self.checkin(lease)

    def abandon(self, lease: Lease[C]) -> None:
        self._end(lease)

    def _end(self, lease: Lease[C]) -> C:
        record: PooledConnection[C] = take_back(lease)
        with self._lock:
            self._in_use -= 1
        return record.connection

    def sweep(self) -> int:
        """Nothing is kept: 0."""
        return 0

    def close(self) -> None:
        self._closed = True

    def gauges(self) -> dict[str, float]:
        return all_gauges({"misses": self._misses, "in_use": self._in_use})

    def after_fork(self) -> None:
        self._lock = threading.Lock()
