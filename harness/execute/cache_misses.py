"""Cache misses of running processes, where the machine has a counter of them: perf_event_open(2).

Most virtual machines hide it, and many systems keep it for root (/proc/sys/kernel/perf_event_paranoid above 2). No
maintained library reads it for another process. What the kernel does is left out, as not everybody may count that.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

CACHE_MISSES = (0, 3)
"type and number of the event: PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES (of the last level, as a rule)"
_CALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
_ATTRIBUTE = struct.Struct("=II5QIIQ")
"perf_event_attr as it first was: type, size, config, period, samples, read_format, flags, three unused"
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_TIMES = 0b11
"read_format: with the time the event was enabled and the time it was counted"
_READING = struct.Struct("=3Q")
_CLOSE_ON_EXEC = 8


class Counter:
    """One event of processes that run, in all their threads and in whatever those start from now on."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors

    def read(self) -> float:
        """The count since it was opened; where events had to share a counter, in proportion to the time it had one, and
        NaN where it never had.
        """
        total = 0.0
        for descriptor in self._descriptors:
            count, enabled, counted = _READING.unpack(os.read(descriptor, _READING.size))
            if enabled:
                total += count * enabled / counted if counted else math.nan
        return total

    def close(self) -> None:
        """Give the counter back."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()


def counting(pids: Sequence[int], event: tuple[int, int] = CACHE_MISSES) -> Counter | None:
    """A counter of `event` in these processes; None where there is none, or not for us."""
    call = _CALL.get(platform.machine()) if sys.platform == "linux" else None
    if call is None:
        return None
    open_event = ctypes.CDLL(None, use_errno=True).syscall
    flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
    attribute = _ATTRIBUTE.pack(event[0], _ATTRIBUTE.size, event[1], 0, 0, _TIMES, flags, 0, 0, 0)
    descriptors: list[int] = []
    for thread in _threads(pids):
        found = open_event(call, attribute, thread, -1, -1, ctypes.c_ulong(_CLOSE_ON_EXEC))
        if found >= 0:
            descriptors.append(found)
        elif ctypes.get_errno() != errno.ESRCH:  # a thread may have ended meanwhile
            Counter(descriptors).close()
            return None
    return Counter(descriptors) if descriptors else None


def _threads(pids: Sequence[int]) -> Iterator[int]:
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, os.listdir(f"/proc/{pid}/task"))
