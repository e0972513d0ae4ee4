"""Who gets a connection: seats, permits and queues of the connection pool. Decides only; never connects or closes.

Laws. (1) An open or opening connection sits on a seat, and a peer has a fixed number of them: as long as a seat
is vacated only after its connection is closed, the cap holds. (2) Everything changes under `lock`, except that
borrowers push and pop `Slot.idle` and `room` without it: each is one step, and whoever popped a seat owns it.
(3) A waiter is queued first and looks for an idle seat after; a borrower pushes first and looks for waiters
after. So one of the two sees the other, and nobody waits beside an idle connection.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import StackSummary
from typing import Generic, TypeVar

from reference_impl.pooling.lease import PoolClosed, PooledConnection, PoolSettings

C = TypeVar("C")

SWEEP_STEP = 32  # peers that one step of the sweep examines, about 10 us
COLDEST_OF = 8  # peers among which the coldest idle connection is sought when the idle cap is reached
NEVER, AT_ONCE = math.inf, -math.inf  # values of Seat.expires_at


@dataclass(frozen=True, slots=True)
class Leak:
    """A lease held longer than `leak_after`: for how many seconds, and who borrowed it."""

    peer: bytes
    held_for: float
    stack: str


class Slot(Generic[C]):
    """One peer: its idle seats, the last used at the end, how many seats are vacant, and who waits for one."""

    __slots__ = ("idle", "orphans", "peer", "seats", "vacant", "waiters")

    def __init__(self, peer: bytes, seats: int, orphans: deque[Seat[C]]) -> None:
        self.peer = peer
        self.vacant = seats
        self.idle: list[Seat[C]] = []
        self.seats: dict[int, weakref.ref[Seat[C]]] = {}
        self.waiters: deque[Waiter[C]] | tuple[()] = ()
        self.orphans = orphans

    def taken(self) -> list[Seat[C]]:
        """Every seat that is not vacant."""
        return [seat for ref in self.seats.values() if (seat := ref()) is not None]


class Seat(PooledConnection[C]):
    """The right to one connection. While it is blank it has no attribute `connection`."""

    __slots__ = ("borrowed", "expires_at", "hits", "reported", "slot", "taken")

    def __init__(self, slot: Slot[C]) -> None:
        super().__init__()
        self.slot = slot
        self.expires_at = NEVER
        self.hits = 0
        self.borrowed: tuple[float, StackSummary] | None = None
        self.reported = False
        self.taken = True

    def __del__(self) -> None:
        # Dropped with its lease, or by an interrupt between two steps. A finalizer takes no lock and does no
        # I/O: the seat comes back to life in the queue, and whoever sweeps next closes and vacates it.
        if self.taken:
            self.slot.orphans.append(self)


class Waiter(Generic[C]):
    """A place in the queue of `slot`. The seat is put in first, then `wake` is released."""

    __slots__ = ("seat", "slot", "wake")

    def __init__(self, slot: Slot[C]) -> None:
        self.slot = slot
        self.seat: Seat[C] | None = None
        self.wake = threading.Lock()  # made at the time of use: gevent may have patched it by then
        self.wake.acquire()


class Seating(Generic[C]):
    """The seats of one pool."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self.lock = threading.Lock()
        self.closed = False
        self.peers: OrderedDict[bytes, Slot[C]] = OrderedDict()  # the longest unexamined first
        self.room: list[None] = [None] * settings.max_idle_total  # a token for each idle connection allowed
        self.orphans: deque[Seat[C]] = deque()
        self.surplus: deque[Seat[C]] = deque()  # nobody's, and one more than may be idle
        self.unexamined = 0  # peers left in this round of the sweep
        self._tally: Counter[str] = Counter()

    def request(self, peer: bytes) -> Seat[C] | Waiter[C]:
        """A seat, idle or blank, or a place in the queue: first come, first served. Raises `PoolClosed`."""
        with self.lock:
            if self.closed:
                raise PoolClosed("the pool is closed")
            slot = self.peers.get(peer)
            if slot is None:
                slot = self.peers[peer] = Slot(peer, self._settings.max_connections_per_peer, self.orphans)
            else:
                slot.peer = peer  # the same identity, and maybe another address
            seat = None if slot.waiters else self._free(slot)
            if seat is not None:
                return seat
            waiter: Waiter[C] = Waiter(slot)
            slot.waiters = slot.waiters or deque()
            slot.waiters.append(waiter)
            self._tally["waits"] += 1
            self._serve(slot)
            return waiter

    def withdraw(self, waiter: Waiter[C]) -> Seat[C] | None:
        """Leave the queue; the seat, if one was handed over before that."""
        with self.lock:
            slot = waiter.slot
            if waiter.seat is None and slot.waiters and waiter in slot.waiters:
                slot.waiters.remove(waiter)
                slot.waiters = slot.waiters or ()
            return waiter.seat

    def decline(self, waiter: Waiter[C]) -> None:
        """Leave the queue for good; a seat handed over meanwhile goes to the next in line."""
        seat = self.withdraw(waiter)
        if seat is None:
            return
        with self.lock:
            if not hasattr(seat, "connection"):
                self._vacate(seat)
            elif not self._hand_over(seat):
                try:
                    self.room.pop()
                except IndexError:
                    self.surplus.append(seat)
                else:
                    seat.slot.idle.append(seat)

    def swap(self, blank: Seat[C]) -> Seat[C] | None:
        """Another idle seat of the same peer for a blank one, if there is one."""
        with self.lock:
            other = self._free_idle(blank.slot)
            if other is not None:
                self._vacate(blank)
            return other

    def opened(self, seat: Seat[C], lifetime: float) -> None:
        """The connection on the seat was opened at `created_at`. If the pool was closed or the peer evicted
        meanwhile, the borrower still gets it, and checkin closes it."""
        with self.lock:
            self._tally["misses"] += 1
            seat.expires_at = AT_ONCE if self.closed else min(seat.expires_at, seat.created_at + lifetime)

    def vacate(self, seat: Seat[C], reason: str) -> None:
        """Give a seat free whose connection is closed, counting the reason."""
        with self.lock:
            self._tally[reason] += 1
            self._vacate(seat)

    def count(self, what: str) -> None:
        with self.lock:
            self._tally[what] += 1

    def hand_over(self, seat: Seat[C]) -> bool:
        """Give the seat, which needs no token then, to who waits longest; False if nobody does."""
        with self.lock:
            return self._hand_over(seat)

    def serve(self, slot: Slot[C]) -> None:
        """Give what is free to those who wait longest."""
        with self.lock:
            self._serve(slot)

    def expired(self, seat: Seat[C], now: float) -> bool:
        return now >= seat.expires_at or now - seat.last_used >= self._settings.max_idle_time

    def examine(self, now: float) -> list[Seat[C]]:
        """One bounded step of a round over all peers: their expired idle seats, now the caller's to close."""
        with self.lock:
            if self.unexamined <= 0:
                self.unexamined = len(self.peers)
            slots = list(self._rotate(min(SWEEP_STEP, self.unexamined)))
            self.unexamined = self.unexamined - len(slots) if slots else 0
            return self._claim_expired(slots, now)

    def coldest(self) -> Seat[C] | None:
        """The least recently used idle seat of the next few peers, now the caller's to close, with its token."""
        with self.lock:
            heads = [seat for slot in self._rotate(COLDEST_OF) for seat in slot.idle[:1]]
            for seat in sorted(heads, key=lambda seat: seat.last_used):
                if self._claim(seat):
                    return seat
            return None

    def evict(self, peer: bytes | None) -> list[Seat[C]]:
        """Mark every seat of the peer, or all; the idle ones are now the caller's to close."""
        with self.lock:
            slots = [slot for slot in self.peers.values() if peer is None or slot.peer == peer]
            for slot in slots:
                for seat in slot.taken():
                    seat.expires_at = AT_ONCE
            return self._claim_expired(slots, AT_ONCE)

    def close(self) -> None:
        """Refuse requests from now on and send everybody who waits away."""
        with self.lock:
            self.closed = True
            for slot in self.peers.values():
                for waiter in slot.waiters:
                    waiter.wake.release()
                slot.waiters = ()

    def disown(self) -> None:
        """In a forked child, in place of the lock: no seat is ours any more."""
        for slot in self.peers.values():
            for seat in slot.taken():
                seat.taken = False
                seat.expires_at = AT_ONCE
            slot.idle.clear()
        for seat in (*self.orphans, *self.surplus):
            seat.taken = False
        self.orphans.clear()
        self.surplus.clear()

    def leaks(self, now: float) -> list[tuple[Seat[C], Leak]]:
        """Seats lent longer than `leak_after`."""
        found = []
        with self.lock:
            for seat in (seat for slot in self.peers.values() for seat in slot.taken()):
                if seat.in_use and seat.borrowed is not None:
                    since, stack = seat.borrowed
                    if now - since >= self._settings.leak_after:
                        found.append((seat, Leak(seat.slot.peer, now - since, "".join(stack.format()))))
        return found

    def gauges(self) -> Counter[str]:
        with self.lock:
            known = self._tally.copy()
            for slot in self.peers.values():
                idle = len(slot.idle)
                known["hits"] += sum(seat.hits for seat in slot.taken())
                known["idle"] += idle
                known["in_use"] += max(0, self._settings.max_connections_per_peer - slot.vacant - idle)
                known["waiting"] += len(slot.waiters)
            known["peers"] = len(self.peers)
            return known

    # Below here the caller holds the lock.

    def _free(self, slot: Slot[C]) -> Seat[C] | None:
        seat = self._free_idle(slot)
        if seat is None and slot.vacant:
            seat = Seat(slot)
            slot.vacant -= 1
            slot.seats[id(seat)] = weakref.ref(seat)
        return seat

    def _free_idle(self, slot: Slot[C]) -> Seat[C] | None:
        try:
            seat = slot.idle.pop()
        except IndexError:
            return None
        self.room.append(None)
        return seat

    def _serve(self, slot: Slot[C]) -> None:
        while slot.waiters and (seat := self._free(slot)) is not None:
            self._hand_over(seat)

    def _hand_over(self, seat: Seat[C]) -> bool:
        slot = seat.slot
        if not slot.waiters:
            return False
        waiter = slot.waiters.popleft()
        waiter.seat = seat
        waiter.wake.release()
        slot.waiters = slot.waiters or ()
        return True

    def _vacate(self, seat: Seat[C]) -> None:
        slot = seat.slot
        seat.taken = False
        self._tally["hits"] += seat.hits
        slot.seats.pop(id(seat), None)
        slot.vacant += 1
        self._serve(slot)
        if slot.vacant == self._settings.max_connections_per_peer:
            self.peers.pop(slot.peer, None)

    def _rotate(self, count: int) -> Iterator[Slot[C]]:
        for _ in range(min(count, len(self.peers))):
            slot = next(iter(self.peers.values()))
            self.peers.move_to_end(slot.peer)
            yield slot

    def _claim(self, seat: Seat[C]) -> bool:
        """Take the seat out of the idle ones, unless a borrower was faster. Its token stays taken."""
        try:
            seat.slot.idle.remove(seat)
        except ValueError:
            return False
        return True

    def _claim_expired(self, slots: list[Slot[C]], now: float) -> list[Seat[C]]:
        idle = [seat for slot in slots for seat in tuple(slot.idle) if self.expired(seat, now)]
        claimed = [seat for seat in idle if self._claim(seat)]
        self.room.extend([None] * len(claimed))
        return claimed
