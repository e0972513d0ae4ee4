"""A forked child can use every room, whatever a thread of its parent was in the middle of changing.

Every line of a change is a fork of its own, in a fresh interpreter (see `test_forks.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reference_impl.circuit_breaker import CircuitBreakers
from reference_impl.circuit_breaker.breaker import CircuitOpen, CircuitState
from reference_impl.metrics import MetricsSettings, PerThreadMetrics
from reference_impl.metrics.locked_metrics import LockedMetrics
from reference_impl.pooling import ConnectionPool, PoolSettings
from reference_impl.rate_limit import GcraLimiter, RateLimiter, RateLimitSettings
from reference_impl.rate_limit.locked_buckets import LockedBuckets
from tests.clock import Clock
from tests.reference_impl.test_forks import BREAKING, forked, run

_here = __name__


def fork_at_every_line(operation: Callable[[], object], check: Callable[[], object]) -> None:
    """Children for which what happens in the rooms breaks off at a line, as what another thread does would."""
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "reference_impl" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        if event == "line":
            at = (Path(frame.f_code.co_filename).name, frame.f_lineno)
            lines.add(at)
            assert forked(check) == 0, at
        return trace

    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(None)
    assert len(lines) >= 10


def metrics_break_off(make: type[PerThreadMetrics] | type[LockedMetrics]) -> None:
    clock = Clock()
    metrics = make(MetricsSettings(max_series=4, batch=4, idle_after=5.0), clock)
    kept = metrics.recorder(b"kept", "tcp")

    def use(peer: bytes, transport: str) -> None:
        recorder = metrics.recorder(peer, transport)
        recorder.attempt()
        recorder.opened(0.1)
        recorder.request(0.1, 1, 1)
        recorder.closed()

    def operation() -> None:
        use(b"new", "tls")
        for _ in range(2):
            kept.request(0.1, 1, 1)
            clock.now += 10
            metrics.sweep()
        metrics.sweep()  # finds `kept` at rest

    def check() -> None:
        metrics.snapshot()
        metrics.sweep()
        for _ in range(2):
            for peer in (b"new", b"kept", b"one", b"crowd", b"crowd too"):
                use(peer, "tls")
                use(peer, "tcp")
            kept.closed()
            before = metrics.snapshot()
            clock.now += 10
            metrics.sweep()
            after = metrics.snapshot()
            assert after.totals == before.totals
            assert {each.transport for each in after.series} == {"tcp", "tls"}
            metrics.gauges()

    use(b"one", "tcp")
    fork_at_every_line(operation, check)


def per_thread_metrics_break_off() -> None:
    metrics_break_off(PerThreadMetrics)


def locked_metrics_break_off() -> None:
    metrics_break_off(LockedMetrics)


def limiters_break_off() -> None:
    """At most the one bucket that was being moved begins anew, and no time counts twice."""
    for make, most in ((GcraLimiter, 10), (LockedBuckets, 5)):
        clock = Clock()
        limiter = make(RateLimitSettings(max_requests_per_second=1.0, burst_size=10), clock)
        keys = [b"a", b"b", b"c"]
        for key in keys:
            assert limiter.check(key, 10) == 0.0
        clock.now += 5

        def operation(limiter: RateLimiter = limiter, keys: list[bytes] = keys) -> None:
            for key in (*keys, b"stranger"):
                limiter.check(key, 2)
            limiter.sweep()
            limiter.sweep()
            limiter.check(keys[0])

        def check(limiter: RateLimiter = limiter, keys: list[bytes] = keys, most: int = most) -> None:
            granted = sorted(sum(limiter.check(key) == 0.0 for _ in range(20)) for key in keys)
            assert granted[-1] <= most
            assert granted[-2] <= 5
            limiter.sweep()
            limiter.gauges()
            assert limiter.check(b"other", 10) == 0.0
            assert len(limiter) > 0

        fork_at_every_line(operation, check)


def breakers_break_off() -> None:
    clock = Clock()
    breakers = CircuitBreakers(BREAKING, clock, sleep=lambda seconds: None)

    def attempt(works: bool) -> Callable[[object], str]:
        return lambda key: "connected" if works else _refuse()

    def operation() -> None:
        for key in ("a", "b", "c"):
            for works in (False, False, True, True):
                clock.now += 3
                try:
                    breakers.connect([key], attempt(works))
                except OSError:
                    clock.now += 0.5
            breakers.succeeded(key)
        breakers.sweep()

    def check() -> None:
        for key in ("a", "b", "c"):
            for _ in range(3):  # trials of the parent's come back at their deadlines
                clock.now += BREAKING.max_timeout
                assert breakers.connect([key], attempt(True)) == "connected"
            assert breakers.state(key) is CircuitState.CLOSED
            for _ in range(2):
                breakers.failed(key)
            with pytest.raises(CircuitOpen):
                breakers.connect([key], attempt(True))
            breakers.gauges()
            clock.now += BREAKING.max_timeout
            breakers.sweep()

    fork_at_every_line(operation, check)


def _refuse() -> str:
    raise ConnectionRefusedError


def pools_break_off() -> None:
    clock = Clock()
    settings = PoolSettings(max_connections_per_peer=2, max_idle_time=5.0, wait_timeout=0.001)
    pool = ConnectionPool(settings, lambda peer: os.getpid(), lambda made: None, lambda made: True, clock)

    def operation() -> None:
        leases = [pool.checkout(b"p"), pool.checkout(b"p")]
        pool.checkin(leases[0])
        pool.discard(leases[1])
        clock.now += 10
        pool.sweep()

    def check() -> None:
        leases = [pool.checkout(b"p"), pool.checkout(b"p")]
        assert [lease.connection for lease in leases] == [os.getpid()] * 2
        with pytest.raises(TimeoutError):
            pool.checkout(b"p")
        for lease in leases:
            pool.checkin(lease)
        assert pool.gauges()["idle"] == 2

    fork_at_every_line(operation, check)


@pytest.mark.parametrize("room", ["per_thread_metrics", "locked_metrics", "limiters", "breakers", "pools"])
def test_a_child_can_use_what_a_thread_of_its_parent_was_changing(room: str) -> None:
    run(_here, f"{room}_break_off")
