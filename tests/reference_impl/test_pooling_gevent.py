"""Pooling under gevent: the whole of `test_pooling.py` again, and greenlets killed wherever they may be.

gevent must patch before anything else is imported, so each test here has an interpreter of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

POOLING = Path(__file__).with_name("test_pooling.py")
ROOT = POOLING.parents[2]


def run_patched(program: str) -> str:
    """Run a program in a fresh, patched interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-c", "from gevent import monkey; monkey.patch_all()\n" + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_everything_that_holds_under_threads_holds_under_gevent() -> None:
    output = run_patched(f"""
        import sys, threading, pytest
        from gevent.thread import LockType
        assert isinstance(threading.Lock(), LockType)
        sys.exit(pytest.main([
            {str(POOLING)!r}, "-v", "-p", "no:cacheprovider", "-p", "no:randomly",
            "-k", "not one_million and not Machine and not settings",
        ]))
    """)
    assert re.search(r"\b1\d\d passed", output)
    assert "failed" not in output


def test_killed_greenlets_lose_no_seat_wherever_they_are() -> None:
    """Waiting, connecting, polling, holding, or just handed a seat: a kill gives it back, the cap holds."""
    run_patched("""
        import random, gevent
        from reference_impl.pooling import ConnectionPool, PoolSettings
        rng = random.Random(8)
        now = [0.0]
        opened = most = 0
        live = set()
        killed = {"waiting": 0, "connecting": 0, "polling": 0, "holding": 0}

        def connect(peer):
            global opened, most
            opened += 1
            most = max(most, opened)
            try:
                gevent.sleep(0)
            except gevent.GreenletExit:
                killed["connecting"] += 1
                opened -= 1
                raise
            made = object()
            live.add(made)
            return made

        def close(made):
            global opened
            opened -= 1
            live.remove(made)

        def is_alive(made):
            try:
                gevent.sleep(0)
            except gevent.GreenletExit:
                killed["polling"] += 1
                raise
            return rng.random() < 0.7

        pool = ConnectionPool(PoolSettings(max_connections_per_peer=3, wait_timeout=30.0, liveness_after=0.1),
                              connect, close, is_alive, lambda: now[0], rng)

        def use():
            lease = None
            try:
                lease = pool.checkout(b"p")
                gevent.sleep(0)
            except gevent.GreenletExit:
                killed["holding" if lease else "waiting"] += 1
                raise
            finally:
                if lease is not None:
                    (pool.discard if rng.random() < 0.3 else pool.checkin)(lease)

        greenlets = []
        for step in range(6_000):
            now[0] += rng.choice((0.0, 0.05, 0.2))
            greenlets.append(gevent.spawn(use))
            if rng.random() < 0.5:
                gevent.sleep(0)
            if len(greenlets) > 12:
                greenlets.pop(rng.randrange(len(greenlets))).kill(block=rng.random() < 0.5)
        gevent.joinall(greenlets)
        gauges = pool.gauges()
        assert most == 3, most
        assert gauges["in_use"] == gauges["waiting"] == gauges["timeouts"] == gauges["leaked"] == 0, gauges
        assert gauges["idle"] == len(live) == opened, gauges
        assert min(killed.values()) > 20, killed
        leases = [pool.checkout(b"p") for _ in range(3)]
        pool.close()
        for lease in leases:
            pool.checkin(lease)
        assert not live
    """)


def test_a_gevent_timeout_while_waiting_loses_no_seat() -> None:
    run_patched("""
        import gevent
        from reference_impl.pooling import ConnectionPool, PoolSettings
        pool = ConnectionPool(PoolSettings(max_connections_per_peer=1, wait_timeout=30.0),
                              lambda peer: object(), lambda made: None, lambda made: True)
        lease = pool.checkout(b"p")
        try:
            with gevent.Timeout(0.001):
                pool.checkout(b"p")
        except gevent.Timeout:
            pass
        else:
            raise AssertionError("two borrowers of one seat")
        assert pool.gauges()["waiting"] == 0
        first = lease.connection
        pool.checkin(lease)
        assert pool.checkout(b"p").connection is first
    """)
