"""A one-shot alarm inside gevent's loop, precise to some 10 us where the kernel allows.

libev's timers wake on whole milliseconds of its cached clock, which is longer than many requests; a timerfd
watched as a descriptor is not rounded. Setting the alarm anew forgets the earlier time; the callback runs
in the hub and must not block.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE = 1
_HAS_TIMERFD: bool = sys.platform == "linux"
COARSE = "timerfd is missing: arrivals are paced by the event loop's timers, to about 1 ms"


class Alarm(Protocol):
    """Calls its callback once, at or after the time set (seconds of `time.monotonic`)."""

    def set(self, deadline: float) -> None:
        """Ring at `deadline`, at once when it is past; replaces what was set before."""

    def cancel(self) -> None:
        """Forget what was set."""


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class TimerfdAlarm:
    """Linux: a timerfd on the monotonic clock. Arming anew also clears an expiry nobody read."""

    def __init__(self, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        self._callback = callback
        self._watcher = gevent.get_hub().loop.io(self._fd, 1)
        self._watcher.start(self._ring)

    def set(self, deadline: float) -> None:
        """Ring at `deadline` seconds of the monotonic clock."""
        nanoseconds = max(1, int(deadline * 1e9))  # all zero would disarm
        value = self._setting.value
        value.seconds, value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        self._settime(self._fd, _ABSOLUTE, self._pointer, None)

    def cancel(self) -> None:
        """Forget what was set."""
        value = self._setting.value
        value.seconds = value.nanoseconds = 0
        self._settime(self._fd, _ABSOLUTE, self._pointer, None)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # armed anew between expiry and this call
        self._callback()


class LoopAlarm:
    """Elsewhere: the event loop's own timer, about 1 ms coarse. It may ring early by its rounding, never
    forgotten.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer: Any = None

    def set(self, deadline: float) -> None:
        """Ring at `deadline` seconds of the monotonic clock."""
        self.cancel()
        self._timer = gevent.get_hub().loop.timer(max(0.0, deadline - time.monotonic()))
        self._timer.start(self._ring, deadline, update=True)

    def cancel(self) -> None:
        """Forget what was set."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _ring(self, deadline: float) -> None:
        if time.monotonic() < deadline:
            self.set(deadline)
        else:
            self.cancel()
            self._callback()


def alarm(callback: Callable[[], None]) -> tuple[Alarm, str]:
    """The most precise alarm of this platform, with a note when it is a coarse one."""
    if _HAS_TIMERFD:
        return TimerfdAlarm(callback), ""
    return LoopAlarm(callback), COARSE
