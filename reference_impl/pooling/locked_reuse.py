"""The control arm `first-day-reuse` of the pooling room: what the pool must beat, beside no reuse at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from reference_impl import forks
from reference_impl.pooling.lease import (
    Lease,
    PoolClosed,
    PooledConnection,
    PoolSettings,
    PoolTimeout,
    all_gauges,
    lend,
    take_back,
)

C = TypeVar("C")


class _Shared(PooledConnection[C]):
    """One peer's only connection."""

    __slots__ = ("hits", "is_open", "lock", "misses")

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.is_open = False
        self.hits = self.misses = 0


class LockedReuse(Generic[C]):
    """Control `first-day-reuse`: a dict of one connection per peer, each under its own lock.

    A connection is made again after a borrower has found it broken and discarded it; nothing polls, expires
    or caps. Waiting for the lock is bounded by `wait_timeout`. A forked child begins with no connection.
    """

    def __init__(
        self,
        settings: PoolSettings,
        connect: Callable[[bytes], C],
        close: Callable[[C], object],
        is_alive: Callable[[C], bool],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._connect, self._close, self._clock = connect, close, clock
        self._lock = threading.Lock()
        self._closed = False
        self._peers: dict[bytes, _Shared[C]] = {}
        forks.join(self)

    def checkout(self, peer: bytes) -> Lease[C]:
        shared = self._peers.get(peer)
        if shared is None:
            with self._lock:
                shared = self._peers.setdefault(peer, _Shared())
        if not shared.lock.acquire(timeout=self._settings.wait_timeout):
            raise PoolTimeout(f"the connection was not free within {self._settings.wait_timeout} s")
        try:
            if self._closed:
                raise PoolClosed("the pool is closed")
            if shared.is_open:
                shared.hits += 1
            else:
                shared.connection = self._connect(peer)
                shared.created_at = shared.last_used = self._clock()
                shared.is_open = True
                shared.misses += 1
            return lend(shared)
        except BaseException:
            shared.lock.release()
            raise

    def checkin(self, lease: Lease[C]) -> None:
        shared: _Shared[C] = take_back(lease)
        try:
            shared.last_used = self._clock()
            if self._closed:
                self._drop(shared)
        finally:
            shared.lock.release()

    def discard(self, lease: Lease[C]) -> None:
        shared: _Shared[C] = take_back(lease)
        try:
            self._drop(shared)
        finally:
            shared.lock.release()

    def abandon(self, lease: Lease[C]) -> None:
        shared: _Shared[C] = take_back(lease)
        shared.is_open = False
        shared.lock.release()  # as the end of a `with` block does, whatever ended it

    def sweep(self) -> int:
        """Nothing expires: 0."""
        return 0

    def close(self) -> None:
        self._closed = True
        for shared in list(self._peers.values()):
            if shared.lock.acquire(blocking=False):
                try:
                    self._drop(shared)
                finally:
                    shared.lock.release()

    def gauges(self) -> dict[str, float]:
        peers = list(self._peers.values())
        in_use = sum(shared.in_use for shared in peers)
        return all_gauges(
            {
                "hits": sum(shared.hits for shared in peers),
                "misses": sum(shared.misses for shared in peers),
                "in_use": in_use,
                "idle": sum(shared.is_open for shared in peers) - in_use,
                "peers": len(peers),
            }
        )

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._peers = {}

    def _drop(self, shared: _Shared[C]) -> None:
        if shared.is_open:
            shared.is_open = False
            self._close(shared.connection)
