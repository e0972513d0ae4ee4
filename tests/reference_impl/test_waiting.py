"""Receiving under a time limit, by gevent and by plain threads: in time, too late, interrupted, closed meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket as gevent_socket

from reference_impl.transports.waiting import Receiver, receiver

LONG, SHORT = 60.0, 0.005


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    """Two connected gevent sockets."""
    here, there = gevent_socket.socketpair()
    yield here, there
    here.close()
    there.close()


def waiting(reading: Receiver) -> Any:
    """A greenlet that waits for bytes, and has begun to."""
    greenlet = gevent.spawn(reading.recv, 100)
    gevent.sleep(0)
    assert not greenlet.dead
    return greenlet


def received(reading: Receiver, limit: float) -> bytes:
    """What came in time; nothing where the machine stood still for the whole limit, which then has ended rightly."""
    began = time.perf_counter()
    try:
        return reading.recv(100)
    except TimeoutError:
        assert time.perf_counter() - began >= limit, "ended before its time"
        return b""


def test_bytes_that_come_in_time_are_received_again_and_again(ends: tuple[Any, Any]) -> None:
    here, there = ends
    reading = receiver(here, LONG)
    for number in range(3):
        greenlet = waiting(reading)
        there.sendall(b"answer %d" % number)
        assert greenlet.get() == b"answer %d" % number
    there.sendall(b"into")
    buffer = memoryview(bytearray(8))
    assert reading.recv_into(buffer) == 4
    assert bytes(buffer[:4]) == b"into"
    there.close()
    assert reading.recv(100) == b""


def test_waits_that_end_in_time_do_not_add_up_to_the_limit(ends: tuple[Any, Any]) -> None:
    here, there = ends
    limit = 1.0
    reading = receiver(here, limit)
    began = time.perf_counter()
    while time.perf_counter() - began < 1.5 * limit:  # real waits: the limit is measured by the loop's own clock
        gevent.spawn_later(limit / 20, there.sendall, b"x")
        assert set(received(reading, limit)) <= {ord("x")}


def test_silence_is_a_timeout_and_the_next_wait_has_its_own_limit(ends: tuple[Any, Any]) -> None:
    here, there = ends
    reading = receiver(here, SHORT)
    for _ in range(2):
        with pytest.raises(TimeoutError, match="timed out"):
            reading.recv(100)
    with pytest.raises(TimeoutError):
        reading.recv_into(memoryview(bytearray(1)))
    there.sendall(b"late")
    assert receiver(here, LONG).recv(100) == b"late"


def test_a_limit_that_was_not_reached_strikes_nobody_later(ends: tuple[Any, Any]) -> None:
    here, there = ends
    reading: Any = receiver(here, LONG)
    greenlet = waiting(reading)
    assert reading._timer.active
    there.sendall(b"in time")
    assert greenlet.get() == b"in time"
    assert not reading._timer.active


def test_a_limit_counts_from_now_however_long_the_hub_has_not_run(ends: tuple[Any, Any]) -> None:
    here, there = ends
    limit = 0.25
    reading = receiver(here, limit)
    there.sendall(b"there already")
    time.sleep(1.2 * limit)  # a user that computes: the loop's own clock still shows the time before
    assert received(reading, limit) in (b"there already", b"")


def test_a_killed_wait_leaves_the_socket_usable(ends: tuple[Any, Any]) -> None:
    here, there = ends
    reading = receiver(here, LONG)
    greenlet = waiting(reading)
    greenlet.kill()
    assert isinstance(greenlet.value, gevent.GreenletExit)
    there.sendall(b"next")
    assert reading.recv(100) == b"next"


def test_closing_the_socket_ends_the_wait(ends: tuple[Any, Any]) -> None:
    here, _ = ends
    greenlet = waiting(receiver(here, LONG))
    here.close()
    with pytest.raises(OSError, match="closed"):
        greenlet.get()


def test_a_plain_socket_waits_by_itself() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert receiver(here, SHORT) is here
        with pytest.raises(TimeoutError):
            here.recv(1)
        there.sendall(b"answer")
        assert here.recv(100) == b"answer"
