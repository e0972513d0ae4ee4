"""Room 1, connection pooling: connections to a peer are lent, returned and lent again.

Laws of the on side. (1) The hot path takes no lock: an idle connection is popped and pushed in one step each
(`seating.py` says why that is enough). (2) Connecting, polling and closing happen outside every lock.
(3) Whatever ends a borrower's use - checkin, discard, an error in connecting or polling, cancellation, a lease
dropped and collected - gives the seat back exactly once.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from reference_impl import forks
from reference_impl.optimizations import Switch
from reference_impl.pooling.lease import (
    Lease,
    LeaseError,
    Pool,
    PoolClosed,
    PoolSettings,
    PoolTimeout,
    all_gauges,
    lend,
    take_back,
)
from reference_impl.pooling.locked_reuse import LockedReuse
from reference_impl.pooling.per_request import PerRequest
from reference_impl.pooling.seating import AT_ONCE, NEVER, Leak, Seat, Seating

_log = logging.getLogger(__name__)
C = TypeVar("C")


class ConnectionPool(Generic[C]):
    """On: LIFO reuse under a cap per peer and an idle cap over all, first come first served.

    An idle connection that was not used for `liveness_after` is polled before it is lent. Expired ones are
    closed by checkout, checkin, or the sweep, which checkin advances by a bounded step once `cleanup_interval`
    has passed; no thread is needed. A failing close is counted and logged, never raised into a borrower. In a
    forked child the pool is empty: inherited connections are neither lent nor closed.
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
        self.settings = settings
        self._connect, self._close, self._is_alive, self._clock = connect, close, is_alive, clock
        self._random = (rng or random.Random()).random
        self._watching = settings.leak_after > 0
        # For how long the hot path may lend without a second look.
        self._trusted_for = 0.0 if self._watching else min(settings.liveness_after, settings.max_idle_time)
        self._begin()
        forks.join(self)

    def _begin(self) -> None:
        self._seating: Seating[C] = Seating(self.settings)
        self._peers, self._room = self._seating.peers, self._seating.room  # a step shorter for the hot path
        self._sweep_due = self._clock() + self.settings.cleanup_interval

    def checkout(self, peer: bytes) -> Lease[C]:
        try:
            slot = self._peers[peer]
            seat = None if slot.waiters else slot.idle.pop()
        except (KeyError, IndexError):
            seat = None
        if seat is None:
            return self._lend(self._usable(self._next_seat(peer)))
        self._room.append(None)
        clock = self._clock  # a local: calling an instance attribute directly is slow on CPython 3.11
        now = clock()
        if (now - seat.last_used >= self._trusted_for or now >= seat.expires_at) and (
            self._watching or self._fault(seat, now) is not None
        ):
            slot.peer = peer
            return self._lend(self._usable(seat))
        seat.hits += 1
        # lend(seat), written out: the call would cost a tenth of checkout and checkin together.
        seat.in_use = True
        lease: Lease[C] = Lease()
        lease.connection = seat.connection
        lease.record = seat
        return lease

    def checkin(self, lease: Lease[C]) -> None:
        try:  # take_back(lease), written out
            del lease.connection
        except AttributeError:
            raise LeaseError("this lease was given back before") from None
        seat: Seat[C] = lease.record
        lease.record = None  # an old lease kept somewhere must not hide that a later one was dropped
        seat.in_use = False
        clock = self._clock
        now = clock()
        if now >= seat.expires_at:
            self._retire(seat, "evicted")
            return
        seat.last_used = now
        try:
            self._room.pop()
        except IndexError:
            self._squeeze_in(seat)
        else:
            slot = seat.slot
            slot.idle.append(seat)
            if slot.waiters:
                self._seating.serve(slot)
        if now >= self._sweep_due:
            self._sweep_step(now)

    def discard(self, lease: Lease[C]) -> None:
        self._retire(take_back(lease), "discarded")

    def abandon(self, lease: Lease[C]) -> None:
        self._retire(take_back(lease), "discarded")

    def evict(self, peer: bytes | None = None) -> int:
        """Close the idle connections to `peer`, or all, and the lent ones on checkin; how many were idle."""
        return self._retire_each(self._seating.evict(peer))

    def sweep(self) -> int:
        """One whole round over all peers, in bounded steps, so that the lock is never held for long."""
        now = self._clock()
        self._seating.unexamined = 0
        closed = self._sweep_step(now)
        while self._seating.unexamined > 0:
            closed += self._sweep_step(now)
        return closed

    def close(self) -> None:
        self._seating.close()
        self._sweep_due = AT_ONCE  # a checkin too late for the eviction sweeps its own connection away
        self.evict()
        self._reap()

    def leaks(self) -> tuple[Leak, ...]:
        """Leases held longer than `leak_after`, with the stack that borrowed them; empty where that is 0."""
        return tuple(leak for _, leak in self._seating.leaks(self._clock()))

    def gauges(self) -> dict[str, float]:
        return all_gauges(self._seating.gauges())

    def _next_seat(self, peer: bytes) -> Seat[C]:
        self._reap()
        place = self._seating.request(peer)
        if isinstance(place, Seat):
            return place
        try:
            if not place.wake.acquire(timeout=self.settings.wait_timeout):
                self._reap()  # the last look: the seat may have leaked
            seat = self._seating.withdraw(place)
        except BaseException:
            self._seating.decline(place)
            raise
        if seat is not None:
            return seat
        if self._seating.closed:
            raise PoolClosed("the pool was closed while waiting")
        self._seating.count("timeouts")
        raise PoolTimeout(f"no connection became free within {self.settings.wait_timeout} s")

    def _usable(self, seat: Seat[C]) -> Seat[C]:
        """The seat with a connection that works: the one on it, another idle one, or a new one."""
        try:
            while hasattr(seat, "connection"):
                fault = self._fault(seat, self._clock())
                if fault is None:
                    seat.hits += 1
                    return seat
                self._shut(seat)
                self._seating.count(fault)
                seat = self._seating.swap(seat) or seat
            seat.expires_at = NEVER
            seat.connection = self._connect(seat.slot.peer)
        except BaseException:
            self._retire(seat, "connect_failures")
            raise
        seat.created_at = seat.last_used = self._clock()
        jitter = self.settings.lifetime_jitter * self._random()
        self._seating.opened(seat, self.settings.max_lifetime * (1 - jitter))
        return seat

    def _fault(self, seat: Seat[C], now: float) -> str | None:
        """Why the idle connection cannot be lent, by the name of the gauge that counts it."""
        idle_for = now - seat.last_used
        if now >= seat.expires_at or idle_for >= self.settings.max_idle_time:
            return "evicted"
        if idle_for < self.settings.liveness_after:
            return None
        is_alive = self._is_alive
        try:
            return None if is_alive(seat.connection) else "discarded_dead"
        except Exception:
            return "discarded_dead"
        except BaseException:
            self._retire(seat, "connect_failures")
            raise

    def _squeeze_in(self, seat: Seat[C]) -> None:
        """Without a token: hand the seat to who waits, or keep it in place of the coldest, or retire it."""
        if self._seating.hand_over(seat):
            return
        coldest = self._seating.coldest()
        if coldest is None:
            self._retire(seat, "evicted")
            return
        try:
            self._retire(coldest, "evicted")
        except BaseException:
            self._room.append(None)
            self._retire(seat, "evicted")
            raise
        seat.slot.idle.append(seat)
        self._seating.serve(seat.slot)

    def _lend(self, seat: Seat[C]) -> Lease[C]:
        if self._watching:
            frames = traceback.walk_stack(sys._getframe(2))
            seat.borrowed = (self._clock(), traceback.StackSummary.extract(frames, limit=16, lookup_lines=False))
            seat.reported = False
        return lend(seat)

    def _shut(self, seat: Seat[C]) -> None:
        """Close what is on the seat, which is blank from then on."""
        if not hasattr(seat, "connection"):
            return
        connection = seat.connection
        del seat.connection
        try:
            self._close(connection)
        except Exception:
            self._seating.count("close_errors")
            _log.warning("closing a pooled connection failed", exc_info=True)

    def _retire(self, seat: Seat[C], reason: str) -> None:
        """Close, then vacate. A seat inherited over a fork is neither ours to close nor to vacate."""
        if seat.taken:
            try:
                self._shut(seat)
            finally:
                self._seating.vacate(seat, reason)

    def _retire_each(self, seats: list[Seat[C]]) -> int:
        for seat in seats:
            self._retire(seat, "evicted")
        return len(seats)

    def _reap(self) -> int:
        """Retire the seats whose leases were dropped, and those that nobody may keep."""
        reaped = 0
        for seat in _popped(self._seating.surplus):
            self._retire(seat, "evicted")
            reaped += 1
        for seat in _popped(self._seating.orphans):
            self._retire(seat, "leaked")  # before the log, whose interrupt would lose the seat for ever
            _log.warning("a lease was dropped without checkin%s", _borrower(seat))
            reaped += 1
        return reaped

    def _sweep_step(self, now: float) -> int:
        closed = self._reap() + self._retire_each(self._seating.examine(now))
        if self._seating.unexamined == 0:
            self._sweep_due = now + self.settings.cleanup_interval
            if self._seating.closed:  # written first, asked after: `close` does it the other way round
                self._sweep_due = AT_ONCE
            if self._watching:
                self._report_leaks(now)
        return closed

    def _report_leaks(self, now: float) -> None:
        for seat, leak in self._seating.leaks(now):
            if not seat.reported:
                seat.reported = True
                _log.warning("a lease is held for %.1f s%s", leak.held_for, _borrower(seat))

    def after_fork(self) -> None:
        self._seating.disown()
        closed = self._seating.closed
        self._begin()
        self._seating.closed = closed


def _popped(seats: deque[Seat[C]]) -> Iterator[Seat[C]]:
    """One after another until none is left; a finalizer may add some meanwhile."""
    while seats:
        try:
            seat = seats.popleft()
        except IndexError:  # another thread's sweep was first
            return
        yield seat


def _borrower(seat: Seat[C]) -> str:
    return "" if seat.borrowed is None else "; borrowed at:\n" + "".join(seat.borrowed[1].format())


POOLING: Switch[Pool[Any]] = Switch(
    "pooling", off=PerRequest, on=ConnectionPool, controls={"first-day-reuse": LockedReuse}
)
