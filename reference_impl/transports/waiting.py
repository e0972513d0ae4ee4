"""Receiving with a time limit that costs next to nothing when the bytes come in time.

A gevent socket with a timeout makes a Timeout for every wait, in Python: 5 us, a fifth of a request. A link waits
thousands of times on one socket, so it keeps one timer of gevent's loop and starts it anew for each wait. Under plain
threads the socket's own timeout is what it should be.
"""

from __future__ import annotations

import socket
import sys
from typing import Any, Protocol


class Receiver(Protocol):
    """The reading half of a connected socket; both calls wait, and raise `TimeoutError` after the limit."""

    def recv(self, size: int) -> bytes: ...
    def recv_into(self, buffer: memoryview) -> int: ...


def receiver(connected: socket.socket, seconds: float) -> Receiver:
    """What reads `connected` with at most `seconds` for each wait; every other wait on it gets the same limit."""
    connected.settimeout(seconds)
    gevent_socket = sys.modules.get("gevent.socket")
    if gevent_socket is not None and isinstance(connected, gevent_socket.socket):
        return _GeventReceiver(connected, seconds)
    return connected


class _GeventReceiver:
    """Waits first and reads then: right after a request there is nothing to be read yet."""

    __slots__ = ("_current", "_hub", "_readable", "_recv", "_recv_into", "_timer")

    def __init__(self, connected: Any, seconds: float) -> None:
        self._current = sys.modules["greenlet"].getcurrent
        self._hub = connected.hub
        # The socket's own watcher, so that closing the socket ends the wait.
        self._readable = connected._read_event
        # Repeating, and wound up by `again`: libev's stop keeps what is left, and a new start would go on from there.
        self._timer = self._hub.loop.timer(seconds, seconds)
        self._recv, self._recv_into = connected.recv, connected.recv_into

    def recv(self, size: int) -> bytes:
        # `_wait`, written out. `update`: a limit counts from now, not from when the loop last looked at its clock.
        timer = self._timer
        timer.again(self._current().throw, TimeoutError, "timed out", update=True)
        try:
            self._hub.wait(self._readable)
        finally:
            timer.stop()
        return self._recv(size)  # type: ignore[no-any-return]

    def recv_into(self, buffer: memoryview) -> int:
        self._wait()
        return self._recv_into(buffer)  # type: ignore[no-any-return]

    def _wait(self) -> None:
        timer = self._timer
        timer.again(self._current().throw, TimeoutError, "timed out", update=True)
        try:
            self._hub.wait(self._readable)
        finally:
            timer.stop()
