"""Pooling: the contract of all twins, then the laws of the pool.

Everything here holds under plain threads and under gevent: `test_pooling_gevent.py` runs this file again in an
interpreter that gevent has patched. So nothing here may rely on which of the two a thread is.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reference_impl.pooling import (
    POOLING,
    ConnectionPool,
    Lease,
    LeaseError,
    LockedReuse,
    PerRequest,
    Pool,
    PoolClosed,
    PoolSettings,
    PoolTimeout,
)
from reference_impl.pooling.seating import Seat, Seating, Waiter
from reference_impl.settings import SettingsError
from tests.clock import Clock

TWINS: list[Callable[..., Pool[Any]]] = [PerRequest, LockedReuse, ConnectionPool]
PEER, OTHER = b"p" * 32, b"q" * 32
PATIENT = 60.0  # longer than any test: a wait that ends by it fails the test


class Connection:
    def __init__(self, peer: bytes) -> None:
        self.peer = peer
        self.alive = True
        self.closes = 0


class Network:
    """Makes and closes connections, and knows how many were ever open at once to each peer."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.made: list[Connection] = []
        self.open: Counter[bytes] = Counter()
        self.most_open: Counter[bytes] = Counter()
        self.polls = 0
        self.connect_error: BaseException | None = None
        self.close_error: BaseException | None = None
        self.poll_error: BaseException | None = None
        self.on_connect: Callable[[], object] = int
        self._lock = threading.Lock()

    def connect(self, peer: bytes) -> Connection:
        with self._lock:
            self.open[peer] += 1
            self.most_open[peer] = max(self.most_open[peer], self.open[peer])
        try:
            self.on_connect()
            if self.connect_error is not None:
                raise self.connect_error
        except BaseException:
            with self._lock:
                self.open[peer] -= 1
            raise
        connection = Connection(peer)
        self.made.append(connection)
        return connection

    def close(self, connection: Connection) -> None:
        with self._lock:
            connection.closes += 1
            self.open[connection.peer] -= 1
        if self.close_error is not None:
            raise self.close_error

    def is_alive(self, connection: Connection) -> bool:
        self.polls += 1
        if self.poll_error is not None:
            raise self.poll_error
        return connection.alive

    def pool(self, **settings: Any) -> ConnectionPool[Connection]:
        settings = {"wait_timeout": PATIENT, **settings}
        return ConnectionPool(
            PoolSettings(**settings), self.connect, self.close, self.is_alive, self.clock, random.Random(3)
        )


@pytest.fixture
def net() -> Network:
    return Network()


def until(condition: Callable[[], bool]) -> None:
    """Yield to the other threads until the condition holds; pytest-timeout ends a wait in vain."""
    while not condition():
        time.sleep(0)


@contextmanager
def running(*bodies: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Threads for the bodies, joined at the end; an error in one fails the test."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


# -- the contract of every twin


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest, net: Network) -> Pool[Connection]:
    made: Pool[Connection] = request.param(
        PoolSettings(wait_timeout=PATIENT), net.connect, net.close, net.is_alive, net.clock, random.Random(1)
    )
    return made


def test_the_switch_names_the_twins_and_the_control() -> None:
    assert POOLING.pick(frozenset()) is PerRequest
    assert POOLING.pick(frozenset({"pooling"})) is ConnectionPool
    assert POOLING.pick(frozenset({"first-day-reuse"})) is LockedReuse


def test_a_lease_shows_the_fields_of_the_plan(twin: Pool[Connection], net: Network) -> None:
    lease = twin.checkout(PEER)
    assert lease.connection is net.made[0]
    assert lease.connection.peer == PEER
    states = [lease.in_use]
    assert lease.created_at == lease.last_used == net.clock.now
    assert twin.gauges()["in_use"] == 1
    twin.checkin(lease)
    assert [*states, lease.in_use] == [True, False]
    assert twin.gauges()["in_use"] == 0


def test_a_second_checkin_raises_and_changes_nothing(twin: Pool[Connection], net: Network) -> None:
    lease = twin.checkout(PEER)
    twin.checkin(lease)
    before = twin.gauges()
    with pytest.raises(LeaseError):
        twin.checkin(lease)
    with pytest.raises(LeaseError):
        twin.discard(lease)
    assert twin.gauges() == before
    assert net.made[0].closes <= 1


def test_a_stale_lease_cannot_return_what_somebody_else_borrowed(twin: Pool[Connection]) -> None:
    stale = twin.checkout(PEER)
    twin.checkin(stale)
    current = twin.checkout(PEER)
    with pytest.raises(LeaseError):
        twin.checkin(stale)
    assert current.in_use
    twin.checkin(current)


def test_use_after_checkin_raises(twin: Pool[Connection]) -> None:
    lease = twin.checkout(PEER)
    twin.checkin(lease)
    with pytest.raises(AttributeError):
        _ = lease.connection


def test_discard_closes_once_and_the_next_checkout_connects_anew(twin: Pool[Connection], net: Network) -> None:
    twin.discard(twin.checkout(PEER))
    assert net.made[0].closes == 1
    lease = twin.checkout(PEER)
    assert lease.connection is net.made[1]
    twin.checkin(lease)


def test_abandoning_gives_the_place_free_and_only_the_pool_closes(twin: Pool[Connection], net: Network) -> None:
    lease = twin.checkout(PEER)
    twin.abandon(lease)
    assert twin.gauges()["in_use"] == 0
    assert net.made[0].closes == (1 if isinstance(twin, ConnectionPool) else 0)
    with pytest.raises(LeaseError):
        twin.abandon(lease)
    again = twin.checkout(PEER)
    assert again.connection is net.made[1]
    twin.checkin(again)


def test_a_failed_connect_is_raised_as_it_is_and_leaves_the_twin_usable(twin: Pool[Connection], net: Network) -> None:
    net.connect_error = ConnectionRefusedError("nobody there")
    for _ in range(50):
        with pytest.raises(ConnectionRefusedError, match="nobody there"):
            twin.checkout(PEER)
    net.connect_error = None
    twin.checkin(twin.checkout(PEER))
    assert len(net.made) == 1


def test_after_close_nothing_stays_open_and_checkout_is_refused(twin: Pool[Connection], net: Network) -> None:
    twin.checkin(twin.checkout(PEER))
    lent = twin.checkout(OTHER)
    twin.close()
    with pytest.raises(PoolClosed):
        twin.checkout(PEER)
    twin.checkin(lent)
    assert net.open.total() == 0
    assert [connection.closes for connection in net.made] == [1] * len(net.made)


def test_eight_threads_never_share_a_connection(twin: Pool[Connection], net: Network) -> None:
    holders: Counter[int] = Counter()
    most = []

    def borrow() -> None:
        for _ in range(200):
            lease = twin.checkout(PEER)
            holders[id(lease.connection)] += 1
            most.append(holders[id(lease.connection)])
            holders[id(lease.connection)] -= 1
            twin.checkin(lease)

    with running(*[borrow] * 8):
        pass
    assert max(most) == 1
    assert len(most) == 1600
    assert twin.gauges()["in_use"] == 0
    assert twin.gauges()["hits"] + twin.gauges()["misses"] == 1600


def test_every_twin_has_the_same_gauges(net: Network) -> None:
    names = [frozenset(made(PoolSettings(), net.connect, net.close, net.is_alive).gauges()) for made in TWINS]
    assert len(set(names)) == 1


def test_off_connects_for_every_request_and_the_control_once(net: Network) -> None:
    made: dict[Any, int] = {}
    for make in TWINS:
        own = Network()
        twin = make(PoolSettings(), own.connect, own.close, own.is_alive, own.clock)
        for _ in range(10):
            twin.checkin(twin.checkout(PEER))
        made[make] = len(own.made)
        assert twin.sweep() == 0
    assert made == {PerRequest: 10, LockedReuse: 1, ConnectionPool: 1}


# -- settings


@pytest.mark.parametrize("name", ["max_connections_per_peer", "max_idle_total"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", math.nan])
def test_a_count_must_be_a_positive_whole_number(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"PoolSettings.{name} is "):
        PoolSettings(**{name: value})


@pytest.mark.parametrize("name", ["max_idle_time", "cleanup_interval", "max_lifetime", "wait_timeout"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", None])
def test_a_time_must_be_positive_and_finite(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"PoolSettings.{name} is "):
        PoolSettings(**{name: value})


@pytest.mark.parametrize(
    "bad",
    [
        {"lifetime_jitter": 1.0},
        {"lifetime_jitter": -0.1},
        {"liveness_after": -1},
        {"leak_after": math.nan},
        {"cleanup_interval": 61.0},
        {"max_idle_time": 1801.0},
    ],
)
def test_contradictions_and_shares_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"PoolSettings\."):
        PoolSettings(**bad)  # type: ignore[arg-type]


# -- reuse, liveness, expiry


def test_the_last_returned_is_the_first_lent(net: Network) -> None:
    pool = net.pool()
    leases = [pool.checkout(PEER) for _ in range(3)]
    connections = [lease.connection for lease in leases]
    for lease in leases:
        pool.checkin(lease)
    assert [pool.checkout(PEER).connection for _ in range(1)] == [connections[2]]


def test_liveness_is_polled_only_after_half_a_second(net: Network) -> None:
    pool = net.pool()
    pool.checkin(pool.checkout(PEER))
    net.clock.now += 0.499
    pool.checkin(pool.checkout(PEER))
    assert net.polls == 0
    net.clock.now += 0.5
    pool.checkin(pool.checkout(PEER))
    assert net.polls == 1
    assert len(net.made) == 1


def test_dead_idle_connections_are_discarded_until_a_live_one_is_found(net: Network) -> None:
    pool = net.pool()
    leases = [pool.checkout(PEER) for _ in range(4)]
    for lease in leases:
        pool.checkin(lease)
    for connection in net.made[1:]:
        connection.alive = False
    net.clock.now += 1
    lease = pool.checkout(PEER)
    assert lease.connection is net.made[0]
    assert [connection.closes for connection in net.made] == [0, 1, 1, 1]
    pool.checkin(lease)
    gauges = pool.gauges()
    assert gauges["discarded_dead"] == 3
    assert gauges["idle"] == 1


def test_when_all_idle_ones_are_dead_it_connects(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=2)
    for lease in [pool.checkout(PEER), pool.checkout(PEER)]:
        pool.checkin(lease)
    for connection in net.made:
        connection.alive = False
    net.clock.now += 1
    first, second = pool.checkout(PEER), pool.checkout(PEER)
    assert {first.connection, second.connection} == set(net.made[2:])
    assert net.most_open[PEER] == 2


def test_one_found_dead_is_made_anew_where_the_peer_is_now(net: Network) -> None:
    """The same identity at another address: the same key, but not the same peer to be dialed."""
    before, now = (bytes(bytearray(PEER)) for _ in range(2))
    pool = net.pool(liveness_after=0.5)
    lease = pool.checkout(before)
    pool.checkin(lease)
    net.made[0].alive = False
    net.clock.now += 0.5
    assert pool.checkout(now).connection.peer is now


def test_a_poll_that_raises_means_dead(net: Network) -> None:
    pool = net.pool()
    pool.checkin(pool.checkout(PEER))
    net.clock.now += 1
    net.poll_error = OSError("bad descriptor")
    assert pool.checkout(PEER).connection is net.made[1]
    assert net.made[0].closes == 1


def test_idle_too_long_is_not_lent_even_if_no_sweep_came(net: Network) -> None:
    pool = net.pool(max_idle_time=10.0)
    pool.checkin(pool.checkout(PEER))
    net.clock.now += 10
    assert pool.checkout(PEER).connection is net.made[1]
    assert net.made[0].closes == 1
    assert net.polls == 0
    assert pool.gauges()["evicted"] == 1


def test_lifetime_ends_on_checkin_with_its_jitter(net: Network) -> None:
    pool = net.pool(max_lifetime=100.0, lifetime_jitter=0.5)
    leases = [pool.checkout(PEER) for _ in range(32)]
    ends = sorted(lease.record.expires_at - net.clock.now for lease in leases)
    assert 50 < ends[0] < 60
    assert 90 < ends[-1] <= 100
    net.clock.now += 75
    for lease in leases:
        pool.checkin(lease)
    expected = sum(end <= 75 for end in ends)
    assert 0 < expected < 32
    assert pool.gauges()["evicted"] == expected
    assert sum(connection.closes for connection in net.made) == expected


def test_a_hot_connection_is_not_lent_past_its_lifetime(net: Network) -> None:
    pool = net.pool(max_idle_time=1.0, cleanup_interval=1.0, max_lifetime=1.0, lifetime_jitter=0.0)
    pool.checkin(pool.checkout(PEER))
    for _ in range(20):
        net.clock.now += 0.1
        pool.checkin(pool.checkout(PEER))
    assert len(net.made) == 3


# -- caps


def test_the_idle_cap_over_all_peers_closes_the_coldest(net: Network) -> None:
    pool = net.pool(max_idle_total=4)
    peers = [bytes([n]) for n in range(6)]
    for peer in peers:
        net.clock.now += 0.01
        pool.checkin(pool.checkout(peer))
    assert pool.gauges()["idle"] == 4
    assert [connection.closes for connection in net.made] == [1, 1, 0, 0, 0, 0]
    assert pool.gauges()["peers"] == 4


def test_an_interrupt_while_making_room_costs_neither_seat_nor_room(net: Network) -> None:
    pool = net.pool(max_idle_total=1)
    pool.checkin(pool.checkout(OTHER))
    lease = pool.checkout(PEER)
    net.close_error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.checkin(lease)
    net.close_error = None
    assert net.open.total() == 0
    pool.checkin(pool.checkout(PEER))
    assert pool.gauges()["idle"] == 1
    assert pool.gauges()["leaked"] == 0


def test_the_idle_cap_holds_when_nothing_else_is_idle(net: Network) -> None:
    pool = net.pool(max_idle_total=1)
    first, second = pool.checkout(PEER), pool.checkout(PEER)
    pool.checkin(first)
    pool.checkin(second)
    assert pool.gauges()["idle"] == 1
    assert sum(connection.closes for connection in net.made) == 1


def test_one_million_one_shot_peers_leave_nothing_behind(net: Network) -> None:
    """Every map is bounded by the caps, and empty once the idle time has passed."""
    pool: ConnectionPool[object] = ConnectionPool(
        PoolSettings(max_idle_total=64), lambda peer: peer, lambda connection: None, lambda c: True, net.clock
    )
    most = 0
    for n in range(1_000_000):
        lease = pool.checkout(n.to_bytes(8, "big"))
        if n % 8:
            pool.discard(lease)
        else:
            pool.checkin(lease)
        if n % 1_000 == 0:
            net.clock.now += 0.001
            most = max(most, len(pool._seating.peers))
    assert most <= 65
    assert pool.gauges()["misses"] == 1_000_000
    net.clock.now += 60
    assert pool.sweep() == 64
    assert len(pool._seating.peers) == 0
    assert len(pool._room) == 64
    assert not pool._seating.orphans
    del lease
    gc.collect()
    assert not [
        thing for thing in gc.get_objects() if type(thing) is Seat and thing.slot.orphans is pool._seating.orphans
    ]


# -- the sweep


def fill(pool: ConnectionPool[Connection], peers: int) -> None:
    for lease in [pool.checkout(n.to_bytes(4, "big")) for n in range(peers)]:
        pool.checkin(lease)


def test_sweep_closes_what_is_idle_too_long_and_forgets_empty_peers(net: Network) -> None:
    pool = net.pool(max_idle_time=10.0)
    fill(pool, 100)
    net.clock.now += 6
    kept = pool.checkout(b"\0\0\0\0")
    pool.checkin(kept)
    net.clock.now += 6
    assert pool.sweep() == 99
    assert pool.gauges()["idle"] == pool.gauges()["peers"] == 1
    assert net.open.total() == 1


def test_checkin_advances_the_sweep_by_bounded_steps_once_it_is_due(net: Network) -> None:
    pool = net.pool(max_idle_time=10.0, cleanup_interval=5.0)
    fill(pool, 500)
    net.clock.now += 11
    closed = []
    for _ in range(40):
        before = sum(connection.closes for connection in net.made)
        pool.checkin(pool.checkout(PEER))
        closed.append(sum(connection.closes for connection in net.made) - before)
    assert sum(closed) == 500
    assert max(closed) <= 32
    assert closed[-1] == 0
    net.clock.now += 4.9
    pool.checkin(pool.checkout(PEER))
    assert pool._sweep_due > net.clock.now


def test_checkin_before_the_interval_does_not_sweep(net: Network) -> None:
    pool = net.pool(max_idle_time=10.0, cleanup_interval=10.0)
    fill(pool, 3)
    net.clock.now += 9.9
    pool.checkin(pool.checkout(PEER))
    assert net.open.total() == 4


def test_evict_closes_idle_now_and_lent_on_checkin(net: Network) -> None:
    pool = net.pool()
    idle, lent, other = pool.checkout(PEER), pool.checkout(PEER), pool.checkout(OTHER)
    pool.checkin(idle)
    assert pool.evict(PEER) == 1
    assert [connection.closes for connection in net.made] == [1, 0, 0]
    pool.checkin(lent)
    pool.checkin(other)
    assert [connection.closes for connection in net.made] == [1, 1, 0]
    assert pool.evict() == 1
    assert net.open.total() == 0
    assert pool.evict(b"unknown") == 0


def test_evicted_or_closed_while_connecting_is_closed_on_checkin(net: Network) -> None:
    pool = net.pool()
    net.on_connect = lambda: pool.evict(PEER)
    pool.checkin(pool.checkout(PEER))
    assert net.made[0].closes == 1
    net.on_connect = pool.close
    pool.checkin(pool.checkout(PEER))
    assert net.made[1].closes == 1
    assert pool.gauges()["peers"] == 0


def test_a_failing_close_is_counted_and_costs_no_seat(net: Network, caplog: pytest.LogCaptureFixture) -> None:
    pool = net.pool(max_connections_per_peer=1)
    net.close_error = OSError("already gone")
    for _ in range(3):
        pool.discard(pool.checkout(PEER))
    assert pool.gauges()["close_errors"] == 3
    assert pool.gauges()["peers"] == 0
    assert "already gone" in caplog.text


def test_an_interrupt_in_close_travels_on_and_costs_no_seat(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    net.close_error = KeyboardInterrupt()
    lease = pool.checkout(PEER)
    with pytest.raises(KeyboardInterrupt):
        pool.discard(lease)
    net.close_error = None
    pool.checkin(pool.checkout(PEER))
    assert pool.gauges()["idle"] == 1


# -- exhausted: queues, stampedes, races


def test_a_stampede_of_100_misses_opens_at_most_the_cap(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=8)
    full = threading.Barrier(8)
    first = [8]

    def connect_together() -> None:
        if first[0]:
            first[0] -= 1
            full.wait()  # all eight are connecting now, and 92 callers find the peer full

    net.on_connect = connect_together

    def borrow() -> None:
        pool.checkin(pool.checkout(PEER))

    with running(*[borrow] * 100):
        pass
    gauges = pool.gauges()
    assert net.most_open[PEER] == 8
    assert gauges["misses"] == 8
    assert gauges["hits"] == 92
    assert gauges["idle"] == 8
    assert gauges["in_use"] == gauges["waiting"] == 0


def test_a_stampede_of_failing_connects_returns_every_permit(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=4)
    net.connect_error = ConnectionRefusedError()
    refused = []

    def borrow() -> None:
        try:
            pool.checkout(PEER)
        except ConnectionRefusedError:
            refused.append(1)

    with running(*[borrow] * 100):
        pass
    assert len(refused) == 100
    assert net.most_open[PEER] <= 4
    assert pool.gauges()["connect_failures"] == 100
    assert pool.gauges()["peers"] == 0
    net.connect_error = None
    assert len([pool.checkout(PEER) for _ in range(4)]) == 4


def queue_up(pool: ConnectionPool[Connection], served: list[int], count: int) -> list[Callable[[], None]]:
    """Borrowers that take their places in the queue one after the other."""

    def borrower(number: int) -> Callable[[], None]:
        def borrow() -> None:
            until(lambda: pool.gauges()["waiting"] == number)
            lease = pool.checkout(PEER)
            served.append(number)
            pool.checkin(lease)

        return borrow

    return [borrower(number) for number in range(count)]


@pytest.mark.parametrize("give_back", ["checkin", "discard", "drop"])
def test_waiters_are_served_in_the_order_they_came(net: Network, give_back: str) -> None:
    pool = net.pool(max_connections_per_peer=1)
    lease: Lease[Connection] | None = pool.checkout(PEER)
    served: list[int] = []
    with running(*queue_up(pool, served, 10)):
        until(lambda: pool.gauges()["waiting"] == 10)
        assert lease is not None
        if give_back == "drop":
            lease = None
            assert pool.sweep() == 1
        else:
            getattr(pool, give_back)(lease)
    assert served == list(range(10))
    assert net.most_open[PEER] == 1
    assert pool.gauges()["waits"] == 10


def test_a_newcomer_does_not_overtake_those_who_wait(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    lease = pool.checkout(PEER)
    served: list[str] = []

    def borrow(name: str) -> None:
        mine = pool.checkout(PEER)
        served.append(name)
        pool.checkin(mine)

    with running(lambda: borrow("early")):
        until(lambda: pool.gauges()["waiting"] == 1)
        seat = lease.record
        del lease.connection, lease.record
        seat.slot.idle.append(seat)  # a checkin that has not come to serving yet
        pool._room.pop()
        with running(lambda: borrow("late")):
            until(lambda: "late" in served)
    assert served == ["early", "late"]


def test_a_timeout_raises_and_leaves_the_queue(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1, wait_timeout=0.001)
    lease = pool.checkout(PEER)
    with pytest.raises(PoolTimeout, match=r"0\.001 s"):
        pool.checkout(PEER)
    assert pool.gauges()["timeouts"] == 1
    assert pool.gauges()["waiting"] == 0
    pool.checkin(lease)
    assert pool.checkout(PEER).connection is net.made[0]


@pytest.mark.parametrize("waiting", [2, 1_000])
def test_to_leave_the_queue_takes_no_step_for_each_who_stays(waiting: int) -> None:
    seating: Seating[str] = Seating(PoolSettings(max_connections_per_peer=1))
    seat = seating.request(PEER)
    waiters = [seating.request(PEER) for _ in range(waiting)]
    calls: Counter[str] = Counter()

    def leave(waiter: Seat[str] | Waiter[str]) -> None:
        assert isinstance(waiter, Waiter)
        sys.setprofile(lambda frame, event, argument: calls.update([event]))
        try:
            assert seating.withdraw(waiter) is None
        finally:
            sys.setprofile(None)

    leave(waiters.pop(0))
    assert calls["call"] <= 5
    while waiters:
        leave(waiters.pop())
    assert seating.gauges()["waiting"] == 0
    assert isinstance(seat, Seat)
    assert seat.slot.waiters == ()


def test_a_failed_connect_of_one_waiter_lets_the_next_try(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    lease = pool.checkout(PEER)
    failed: list[int] = []

    def borrow() -> None:
        try:
            pool.checkin(pool.checkout(PEER))
        except ConnectionRefusedError:
            failed.append(1)

    net.connect_error = ConnectionRefusedError()
    with running(*[borrow] * 5):
        until(lambda: pool.gauges()["waiting"] == 5)
        pool.discard(lease)
    assert len(failed) == 5
    assert pool.gauges()["peers"] == 0


def test_closing_sends_waiters_away(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    lease = pool.checkout(PEER)
    refused = []

    def borrow() -> None:
        with pytest.raises(PoolClosed):
            pool.checkout(PEER)
        refused.append(1)

    with running(*[borrow] * 5):
        until(lambda: pool.gauges()["waiting"] == 5)
        pool.close()
    assert len(refused) == 5
    pool.checkin(lease)
    assert net.open.total() == 0


@pytest.mark.parametrize("connected", [True, False])
def test_a_hand_over_that_beats_the_timeout_is_accepted(connected: bool, net: Network) -> None:
    """The waiter's time is up, but before it can leave the queue the seat is already its own."""
    pool = net.pool(max_connections_per_peer=1, wait_timeout=0.001)
    lease = pool.checkout(PEER)
    withdraw = pool._seating.withdraw

    def late(waiter: Waiter[Connection]) -> Seat[Connection] | None:
        (pool.checkin if connected else pool.discard)(lease)
        return withdraw(waiter)

    pool._seating.withdraw = late  # type: ignore[method-assign]
    second = pool.checkout(PEER)
    pool._seating.withdraw = withdraw  # type: ignore[method-assign]
    assert (second.connection is net.made[0]) is connected
    pool.checkin(second)
    assert pool.gauges()["timeouts"] == 0
    assert pool.gauges()["idle"] == 1


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("others_wait", [True, False])
def test_a_hand_over_to_a_cancelled_waiter_goes_to_the_next(connected: bool, others_wait: bool) -> None:
    settings = PoolSettings(max_connections_per_peer=1)
    seating: Seating[str] = Seating(settings)
    seat = seating.request(PEER)
    assert isinstance(seat, Seat)
    seat.connection = "open"
    cancelled = seating.request(PEER)
    following = seating.request(PEER) if others_wait else None
    assert isinstance(cancelled, Waiter)
    if connected:
        seating.room.pop()
        seat.slot.idle.append(seat)
        seating.serve(seat.slot)
    else:
        del seat.connection
        seating.vacate(seat, "discarded")
    assert cancelled.seat is not None
    seating.decline(cancelled)
    if isinstance(following, Waiter):
        assert following.seat is not None
        assert following.wake.acquire(blocking=False)
    gauges = seating.gauges()
    assert gauges["in_use"] == int(others_wait)
    assert gauges["idle"] == int(connected and not others_wait)
    assert gauges["waiting"] == 0
    assert len(seating.room) == settings.max_idle_total - gauges["idle"]


def test_a_hand_over_to_a_cancelled_waiter_goes_to_the_next_where_nothing_more_may_be_idle(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1, max_idle_total=1)
    lease = pool.checkout(PEER)
    cancelled, following = pool._seating.request(PEER), pool._seating.request(PEER)
    assert isinstance(cancelled, Waiter)
    assert isinstance(following, Waiter)
    pool.checkin(lease)
    pool.checkin(pool.checkout(OTHER))
    pool._seating.decline(cancelled)
    assert following.wake.acquire(blocking=False)
    assert following.seat is cancelled.seat
    assert following.seat is not None
    assert following.seat.connection is net.made[0]
    assert not pool._seating.surplus
    assert pool.gauges()["idle"] == 1
    assert pool.gauges()["waiting"] == 0


@pytest.mark.parametrize("others_idle", [True, False])
def test_a_checkin_for_who_waits_closes_nothing_where_nothing_more_may_be_idle(net: Network, others_idle: bool) -> None:
    pool = net.pool(max_connections_per_peer=1, max_idle_total=1, max_idle_time=10.0, cleanup_interval=10.0)
    lease = pool.checkout(PEER)
    if others_idle:
        pool.checkin(pool.checkout(OTHER))
    else:
        pool._room.clear()  # a token is out with a checkin that has not come to its push yet
    net.clock.now += 9.0
    waiter = pool._seating.request(PEER)
    pool.checkin(lease)
    assert isinstance(waiter, Waiter)
    assert waiter.wake.acquire(blocking=False)
    assert waiter.seat is not None
    assert waiter.seat.connection is net.made[0]
    assert waiter.seat.last_used == net.clock.now
    assert [connection.closes for connection in net.made] == [0] * len(net.made)


def test_a_checkin_for_who_waits_advances_the_sweep_where_nothing_more_may_be_idle(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1, max_idle_total=1, max_idle_time=10.0, cleanup_interval=5.0)
    lease = pool.checkout(PEER)
    pool.checkin(pool.checkout(OTHER))
    net.clock.now += 11.0
    waiter = pool._seating.request(PEER)
    pool.checkin(lease)
    assert isinstance(waiter, Waiter)
    assert waiter.seat is not None
    assert [connection.closes for connection in net.made] == [0, 1]


def test_a_cancelled_waiter_with_a_seat_and_no_room_to_idle_leaves_it_to_the_sweep(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1, max_idle_total=1)
    lease = pool.checkout(PEER)
    waiter = pool._seating.request(PEER)
    assert isinstance(waiter, Waiter)
    pool.checkin(lease)
    pool.checkin(pool.checkout(OTHER))
    pool._seating.decline(waiter)
    del waiter
    assert pool.sweep() == 1
    assert net.made[0].closes == 1
    counted = pool.gauges()
    assert (counted["peers"], counted["evicted"], counted["leaked"]) == (1, 1, 0)


def test_timeouts_racing_hand_overs_lose_no_permit_and_keep_the_cap(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=2, wait_timeout=0.0005)
    timeouts = [0] * 8

    def churn(number: int) -> Callable[[], None]:
        rng = random.Random(number)

        def borrow() -> None:
            for _ in range(150):
                try:
                    lease = pool.checkout(PEER)
                except PoolTimeout:
                    timeouts[number] += 1
                    continue
                time.sleep(rng.choice((0, 0.0005)))
                (pool.discard if rng.random() < 0.2 else pool.checkin)(lease)

        return borrow

    with running(*[churn(number) for number in range(8)]):
        pass
    gauges = pool.gauges()
    assert net.most_open[PEER] == 2
    assert gauges["in_use"] == gauges["waiting"] == 0
    assert gauges["timeouts"] == sum(timeouts)
    assert gauges["hits"] + gauges["misses"] == 1200 - sum(timeouts)
    assert net.open.total() == gauges["idle"]
    assert [pool.checkout(PEER).in_use, pool.checkout(PEER).in_use] == [True, True]


# -- leases that are lost


def test_an_old_lease_kept_does_not_hide_a_dropped_one(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    old = pool.checkout(PEER)
    pool.checkin(old)
    pool.checkout(PEER)
    assert pool.sweep() == 1
    assert net.made[0].closes == 1


def test_a_dropped_lease_gives_its_seat_back(net: Network, caplog: pytest.LogCaptureFixture) -> None:
    pool = net.pool(max_connections_per_peer=1)
    pool.checkout(PEER)
    assert net.made[0].closes == 0
    lease = pool.checkout(PEER)
    assert net.made[0].closes == 1
    assert lease.connection is net.made[1]
    assert pool.gauges()["leaked"] == 1
    assert "dropped without checkin" in caplog.text


class Interrupting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_while_a_dropped_lease_is_told_of_costs_no_seat(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1)
    pool.checkout(PEER)
    log, interrupting = logging.getLogger("reference_impl.pooling.pool"), Interrupting()
    log.addHandler(interrupting)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.sweep()
    finally:
        log.removeHandler(interrupting)
    assert net.made[0].closes == 1
    gauges = pool.gauges()
    assert (gauges["in_use"], gauges["leaked"], gauges["peers"]) == (0, 1, 0)


def test_a_waiter_whose_time_is_up_looks_for_a_leaked_seat(net: Network) -> None:
    pool = net.pool(max_connections_per_peer=1, wait_timeout=0.001)
    leases = [pool.checkout(PEER)]
    reap = pool._reap
    reaps: list[int] = []

    def leak_after_the_first_look() -> int:
        reaped = reap()
        leases.clear()
        reaps.append(reaped)
        return reaped

    pool._reap = leak_after_the_first_look  # type: ignore[method-assign]
    assert pool.checkout(PEER).connection is net.made[1]
    assert reaps == [0, 1]


def test_leak_detection_names_the_borrower(net: Network, caplog: pytest.LogCaptureFixture) -> None:
    pool = net.pool(leak_after=30.0)

    def careless_borrower() -> Lease[Connection]:
        return pool.checkout(PEER)

    lease = careless_borrower()
    net.clock.now += 29
    assert pool.leaks() == ()
    net.clock.now += 1
    (leak,) = pool.leaks()
    assert leak.peer == PEER
    assert leak.held_for == 30
    assert "careless_borrower" in leak.stack
    pool.sweep()
    pool.sweep()
    assert caplog.text.count("a lease is held for 30.0 s") == 1
    assert "careless_borrower" in caplog.text
    pool.checkin(lease)
    assert pool.leaks() == ()
    assert pool.checkout(PEER).connection is net.made[0]


def test_without_leak_detection_no_stack_is_kept(net: Network) -> None:
    pool = net.pool()
    lease = pool.checkout(PEER)
    net.clock.now += 1e9
    assert pool.leaks() == ()
    assert lease.record.borrowed is None


# -- faults at every step, with real descriptors


class Descriptor:
    def __init__(self) -> None:
        self.fd = os.dup(2)


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_100_000_faults_leak_no_descriptor_and_no_permit(kind: type[BaseException]) -> None:
    rng = random.Random(4)
    clock = Clock()
    fault = [""]

    def fail(step: str) -> None:
        if fault[0] == step:
            raise kind(step)

    def connect(peer: bytes) -> Descriptor:
        fail("before connect")
        made = Descriptor()
        try:
            fail("handshake")
        except BaseException:
            os.close(made.fd)
            raise
        return made

    def close(made: Descriptor) -> None:
        os.close(made.fd)
        fail("close")

    def is_alive(made: Descriptor) -> bool:
        fail("poll")
        return rng.random() < 0.8

    pool = ConnectionPool(
        PoolSettings(max_connections_per_peer=2, wait_timeout=0.001, max_idle_total=4),
        connect, close, is_alive, clock, rng,
    )  # fmt: skip
    logging.getLogger("reference_impl.pooling.pool").disabled = True
    before = len(os.listdir("/dev/fd"))
    try:
        for _ in range(50_000):
            fault[0] = rng.choice(["before connect", "handshake", "close", "poll", "drop"])
            with suppress(kind):
                lease = pool.checkout(rng.choice((PEER, OTHER, b"third")))
                if fault[0] != "drop":
                    (pool.discard if rng.random() < 0.3 else pool.checkin)(lease)
                del lease
            clock.now += rng.choice((0.1, 1.0, 61.0))
        fault[0] = ""
        pool.sweep()
        gauges = pool.gauges()
        assert gauges["in_use"] == gauges["waiting"] == gauges["timeouts"] == 0
        assert gauges["leaked"] > 2_500
        assert len(os.listdir("/dev/fd")) - before == gauges["idle"]
        assert len(pool._room) == 4 - gauges["idle"]
        pool.close()
        assert len(os.listdir("/dev/fd")) == before
    finally:
        logging.getLogger("reference_impl.pooling.pool").disabled = False


# -- real sockets


def socket_is_alive(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    finally:
        connection.settimeout(None)


class Listener:
    """Accepts on loopback, and closes or resets its side of a connection when told."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.accepted: list[socket.socket] = []

    def connect(self, peer: bytes) -> socket.socket:
        ours = socket.create_connection(self.socket.getsockname())
        self.accepted.append(self.socket.accept()[0])
        return ours

    def end(self, how: str) -> None:
        theirs = self.accepted.pop()
        if how == "half-close":
            theirs.shutdown(socket.SHUT_WR)
            self.accepted.insert(0, theirs)
            return
        if how == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()

    def close(self) -> None:
        for accepted in self.accepted:
            accepted.close()
        self.socket.close()


@pytest.mark.parametrize("how", ["half-close", "close", "reset"])
def test_a_connection_ended_by_the_peer_while_idle_is_discarded(how: str) -> None:
    clock = Clock()
    listener = Listener()
    pool = ConnectionPool(PoolSettings(), listener.connect, socket.socket.close, socket_is_alive, clock)
    lease = pool.checkout(PEER)
    first = lease.connection
    pool.checkin(lease)
    clock.now += 1
    lease = pool.checkout(PEER)
    assert lease.connection is first
    pool.checkin(lease)
    listener.end(how)
    clock.now += 1

    def use() -> None:
        lease = pool.checkout(PEER)
        assert lease.connection is not first
        lease.connection.sendall(b"hello")
        assert listener.accepted[-1].recv(5) == b"hello"
        pool.checkin(lease)

    with running(use):
        pass
    assert first.fileno() == -1
    assert pool.gauges()["discarded_dead"] == 1
    pool.close()
    listener.close()


def test_a_forked_child_reuses_and_closes_nothing_of_its_parent() -> None:
    """In a fresh interpreter: forking this one, with its threads, would be no test but a gamble."""
    program = """
        import os, socket
        from reference_impl.pooling import ConnectionPool, LeaseError, PoolSettings
        ends = []
        def connect(peer):
            ours, theirs = socket.socketpair()
            ends.append(theirs)
            return ours
        def close(ours):
            ours.shutdown(socket.SHUT_RDWR)  # what a goodbye would do: it reaches the parent's socket too
            ours.close()
        pool = ConnectionPool(PoolSettings(max_connections_per_peer=2), connect, close, lambda c: True)
        lent, idle, dropped = pool.checkout(b"p"), pool.checkout(b"p"), pool.checkout(b"q")
        inherited = {lent.connection.fileno(), idle.connection.fileno()}
        pool.checkin(idle)
        del dropped
        pool._seating.lock.acquire()  # some thread is in the middle of something
        child = os.fork()
        if child == 0:
            assert pool.gauges()["idle"] == pool.gauges()["in_use"] == pool.gauges()["peers"] == 0
            made = len(ends)
            own = [pool.checkout(b"p"), pool.checkout(b"p")]
            assert len(ends) == made + 2
            own[0].connection.sendall(b"own")
            assert ends[-2].recv(3) == b"own"
            pool.checkin(lent)
            try:
                pool.discard(lent)
            except LeaseError:
                pass
            else:
                raise AssertionError("a second return went through")
            assert pool.gauges()["idle"] == 0
            for lease in own:
                pool.checkin(lease)
            pool.sweep()
            pool.close()
            assert pool.gauges()["leaked"] == 0
            os._exit(0)
        pool._seating.lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        lent.connection.sendall(b"still here")
        assert ends[0].recv(10) == b"still here"
        pool.checkin(lent)
        again = pool.checkout(b"p")
        again.connection.sendall(b"and here")
        assert ends[0].recv(8) == b"and here"
        assert pool.gauges()["misses"] == 3
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


# -- any sequence of operations


class PoolMachine(RuleBasedStateMachine):
    """A pool of three peers against a model of who holds what."""

    PEERS = st.sampled_from([b"a", b"b", b"c"])

    def __init__(self) -> None:
        super().__init__()
        self.net = Network()
        self.leases: list[Lease[Connection]] = []
        self.ended: list[Lease[Connection]] = []
        self.leaked = 0

    @initialize(cap=st.integers(1, 3), idle=st.integers(1, 4), watching=st.booleans())
    def make(self, cap: int, idle: int, watching: bool) -> None:
        self.cap = cap
        self.pool = self.net.pool(
            max_connections_per_peer=cap,
            max_idle_total=idle,
            max_idle_time=20.0,
            cleanup_interval=5.0,
            max_lifetime=50.0,
            wait_timeout=1e-4,
            leak_after=10.0 * watching,
        )

    def held(self, peer: bytes) -> int:
        return sum(lease.record.slot.peer == peer for lease in self.leases)

    @rule(peer=PEERS)
    def checkout(self, peer: bytes) -> None:
        full = self.held(peer) == self.cap
        try:
            lease = self.pool.checkout(peer)
        except PoolTimeout:
            assert full
            return
        assert not full
        assert lease.connection.closes == 0
        assert lease.connection.peer == peer
        assert all(lease.connection is not other.connection for other in self.leases)
        assert lease.created_at <= lease.last_used <= self.net.clock.now
        self.leases.append(lease)

    @rule(peer=PEERS)
    def fail_to_connect(self, peer: bytes) -> None:
        self.net.connect_error = KeyboardInterrupt()
        try:
            lease = self.pool.checkout(peer)
        except KeyboardInterrupt:
            assert self.held(peer) < self.cap
        except PoolTimeout:
            assert self.held(peer) == self.cap
        else:
            self.leases.append(lease)
        self.net.connect_error = None

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), end=st.sampled_from(["checkin", "discard"]))
    def give_back(self, data: st.DataObject, end: str) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        getattr(self.pool, end)(lease)
        self.ended.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.pool.sweep()
        self.leaked += 1

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def give_back_again(self, data: st.DataObject) -> None:
        with pytest.raises(LeaseError):
            self.pool.checkin(data.draw(st.sampled_from(self.ended)))

    @precondition(lambda self: self.net.made)
    @rule(data=st.data())
    def peer_goes_away(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.net.made)).alive = False

    @rule(seconds=st.sampled_from([0.1, 0.5, 5.0, 20.0, 50.0]))
    def time_passes(self, seconds: float) -> None:
        self.net.clock.now += seconds

    @rule(peer=st.none() | PEERS)
    def evict(self, peer: bytes | None) -> None:
        self.pool.evict(peer)

    @rule()
    def sweep(self) -> None:
        self.pool.sweep()
        now = self.net.clock.now
        idle = [seat for slot in self.pool._peers.values() for seat in slot.idle]
        assert all(now < seat.last_used + 20 and now < seat.expires_at for seat in idle)

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "pool"):
            return
        gauges = self.pool.gauges()
        assert gauges["in_use"] == len(self.leases)
        assert gauges["waiting"] == 0
        assert gauges["idle"] <= self.pool.settings.max_idle_total
        assert gauges["leaked"] == self.leaked
        assert self.net.open.total() == gauges["idle"] + gauges["in_use"]
        assert max(self.net.most_open.values(), default=0) <= self.cap
        assert all(connection.closes <= 1 for connection in self.net.made)
        assert len(self.pool._room) == self.pool.settings.max_idle_total - gauges["idle"]
        assert all(slot.idle or self.held(peer) for peer, slot in self.pool._peers.items())

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()
            for lease in self.leases:
                self.pool.checkin(lease)
            assert self.net.open.total() == 0
            assert self.pool.gauges()["peers"] == 0


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
