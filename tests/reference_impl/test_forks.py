"""A forked child can use every room, whatever threads of its parent were doing.

Each scenario runs in a fresh interpreter: forking this one, with its threads, would be no test but a gamble. A child
that hangs is ended by its own alarm.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reference_impl import forks
from reference_impl.buffer_pool import BufferSettings, CryptoBufferPool
from reference_impl.circuit_breaker import CircuitBreakers
from reference_impl.circuit_breaker.breaker import BreakerSettings, CircuitBreaker, CircuitState
from reference_impl.cleanup import GuardedClose
from reference_impl.metrics import Metrics, MetricsSettings, PerThreadMetrics
from reference_impl.metrics.histogram import unpatched
from reference_impl.metrics.locked_metrics import LockedMetrics
from reference_impl.pooling import ConnectionPool, LockedReuse, PerRequest, Pool, PoolSettings
from reference_impl.pooling.resumption import Ticket, Tickets
from reference_impl.rate_limit import GcraLimiter, RateLimiter, RateLimitSettings
from reference_impl.rate_limit.locked_buckets import LockedBuckets
from tests.clock import Clock

ROOT = Path(__file__).parents[2]
BREAKING = BreakerSettings(failure_threshold=2, timeout=1.0, jitter=0.0, max_keys=2, retries=0)
_here = __name__


def forked(check: Callable[[], object]) -> int:
    """The exit code of a child that runs `check`: 0 when that returns, 1 when it raises, -14 when it hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(module: str, scenario: str, *, patched: bool = False) -> None:
    """Run a function of a test module in a fresh interpreter; its asserts are ours."""
    program = f"from {module} import {scenario} as run\nrun()"
    if patched:
        program = "from gevent import monkey; monkey.patch_all()\n" + program
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- locks that somebody else holds


class Rooms:
    """One of everything that has a lock, of both twins."""

    def __init__(self) -> None:
        calls = (lambda peer: object(), lambda made: None, lambda made: True)
        self.pools: tuple[Pool[Any], ...] = tuple(
            make(PoolSettings(wait_timeout=30.0), *calls) for make in (ConnectionPool, PerRequest, LockedReuse)
        )
        self.cleanup = GuardedClose(int, lambda number: 1 / 0, lambda *_: None)
        self.limiters: tuple[RateLimiter, ...] = (GcraLimiter(RateLimitSettings()), LockedBuckets(RateLimitSettings()))
        self.heard: list[Any] = []
        self.breaker = CircuitBreaker(BREAKING, Clock(), listeners=(self.heard.append,))
        self.breakers = CircuitBreakers(BREAKING, Clock(), listeners=(self.heard.append,))
        self.metrics: tuple[Metrics, ...] = (PerThreadMetrics(MetricsSettings()), LockedMetrics(MetricsSettings()))
        self.buffers = CryptoBufferPool(BufferSettings())
        self.tickets = Tickets(PoolSettings())
        self.tickets.keep(b"known", Ticket(b"name", bytearray(b"secret"), b"known", 1e12))
        self.breakers.failed("known")
        for metrics in self.metrics:
            metrics.recorder(b"known", "tcp").opened(0.1)

    def locks(self) -> list[Any]:
        pool, off, reuse = self.pools
        known = self.breakers._breakers["known"]
        return [
            *(one._lock for one in (off, reuse, *self.limiters, self.breaker, known, self.breakers, *self.metrics)),  # type: ignore[attr-defined]
            self.tickets._lock,
            pool._seating.lock,  # type: ignore[attr-defined]
            self.cleanup._tally_lock,
            self.breaker._telling,
            known._telling,
            self.metrics[0]._ledgers["tcp"].connect._lock,  # type: ignore[attr-defined]
        ]

    def use(self) -> None:
        for pool in self.pools:
            pool.checkin(pool.checkout(b"peer"))
            pool.gauges()
        self.tickets.keep(b"new", Ticket(b"name", bytearray(b"secret"), b"new", 1e12))
        assert self.tickets.take(b"new") is not None
        self.cleanup.guard(socket.socket()).release()
        assert self.cleanup.gauges()["hook_errors"] == 1
        for limiter in self.limiters:
            assert limiter.check(b"stranger") == 0.0
            limiter.sweep()
        for _ in range(2):
            self.breaker.report(worked=False)
            self.breakers.failed("known")
        assert [each.after for each in self.heard] == [CircuitState.OPEN] * 2
        assert self.breakers.gauges()["closed_to_open"] == 1
        for metrics in self.metrics:
            recorder = metrics.recorder(b"peer", "tcp")
            for _ in range(300):
                recorder.opened(0.1)
                recorder.request(0.1, 1, 1)
            assert metrics.snapshot().totals.successful_connections == 301
            metrics.sweep()
        self.buffers.acquire(4096, secret=True).release()


def every_lock_is_held() -> None:
    """The native locks by a thread of the kernel's, the others (gevent's) by whoever runs this."""
    rooms = Rooms()
    locks = rooms.locks()
    kinds = [type(lock) for lock in locks]
    native = {type(unpatched("_thread", name)()) for name in ("allocate_lock", "RLock")}
    assert len(native & set(kinds)) == 2, "the metrics' locks are never gevent's"
    held, over = (unpatched("_thread", "allocate_lock")() for _ in range(2))
    held.acquire()
    over.acquire()

    def hold() -> None:
        for lock in locks:
            assert type(lock) not in native or lock.acquire(False)
        held.release()
        over.acquire()

    unpatched("_thread", "start_new_thread")(hold, ())
    held.acquire()
    for lock in locks:
        assert type(lock) in native or lock.acquire(False)

    def check() -> None:
        assert [type(lock) for lock in rooms.locks()] == kinds
        assert not {id(lock) for lock in rooms.locks()} & {id(lock) for lock in locks}
        assert rooms.tickets.take(b"known") is None, "its parent's ticket is its parent's"
        rooms.use()

    assert forked(check) == 0
    assert all(one is other for one, other in zip(rooms.locks(), locks, strict=True)), "the parent keeps its own"
    assert rooms.tickets.gauges()["tickets"] == 1


@pytest.mark.parametrize("patched", [False, True])
def test_a_child_does_not_wait_for_locks_of_threads_it_does_not_have(patched: bool) -> None:
    run(_here, "every_lock_is_held", patched=patched)


def a_listener_forks() -> None:
    codes: list[int] = []
    parent = os.getpid()

    def listen(_: object) -> None:
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    breaker = CircuitBreaker(BREAKING, Clock(), listeners=(listen,))
    for _ in range(2):
        breaker.report(worked=False)
    expected = [0] if os.getpid() == parent else []  # the child goes on from the listener
    assert codes == expected


def test_who_forks_while_holding_a_lock_gives_back_the_one_it_took() -> None:
    run(_here, "a_listener_forks")


def a_hook_fails() -> None:
    class Broken:
        def after_fork(self) -> None:
            raise ZeroDivisionError

    broken = [Broken() for _ in range(8)]
    limiter = GcraLimiter(RateLimitSettings())
    for one in broken:
        forks.join(one)
    limiter._lock.acquire()
    assert forked(lambda: limiter.check(b"stranger")) == 0


def test_one_that_cannot_be_renewed_keeps_no_other_from_it() -> None:
    run(_here, "a_hook_fails")


def test_breakers_of_a_map_are_renewed_by_their_keeper_and_cost_no_entry() -> None:
    breakers = CircuitBreakers(BREAKING, Clock())
    breakers.failed("key")
    kept = breakers._breakers["key"]
    assert breakers in forks._all
    assert kept not in forks._all
    before = (kept._lock, kept._telling)
    breakers.after_fork()
    assert kept._lock is not before[0]
    assert kept._telling is not before[1]


def test_what_is_gone_is_not_kept_for_a_child() -> None:
    limiter = GcraLimiter(RateLimitSettings())
    assert limiter in forks._all
    size = len(forks._all)
    del limiter
    assert len(forks._all) < size
