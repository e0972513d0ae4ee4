"""CPU time and page faults of other processes, cheap enough to read at every slice boundary (about 20 us a process).

A process that ends takes its clock with it, but what it used goes to the parent that waited for it: so both are read,
and a program that forks for its work is measured whole.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

LINUX: bool = sys.platform == "linux"
_PROCESS_CLOCK = 2
_MINOR_FAULTS, _CHILDREN_FAULTS, _CHILDREN_TIMES = 7, 8, slice(13, 15)
"fields 10, 11 and 16-17 of proc(5) stat, counted after the name in parentheses"
_TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> tuple[int, ...]:
    """This process and all its descendants as of now, breadth first.

    Linux lists children by thread; elsewhere psutil scans all processes.
    """
    tasks = Path(f"/proc/{pid}/task")
    if not LINUX or not (tasks / str(pid) / "children").exists():
        with suppress(psutil.NoSuchProcess):
            return (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
        return (pid,)
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return tuple(found)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds (user + system) that all threads of these processes and the children they waited for have used.

    On Linux each process's CPU clock in ns (the kernel's clock id of process p is (~p << 3) | 2), children in ticks of
    10 ms; elsewhere psutil. Raises ProcessLookupError when the first one is gone; another one counts with its parent.
    """
    return sum(_each(pids, _cpu_linux if LINUX else _cpu_elsewhere))


def minor_faults(pids: Sequence[int]) -> int:
    """Page faults served without disk since each process began, with those of children it waited for; 0 where the
    system does not tell.
    """
    return int(sum(_each(pids, _minor_faults))) if LINUX else 0


def _each(pids: Sequence[int], read: Callable[[int], float]) -> Iterable[float]:
    for number, pid in enumerate(pids):
        try:
            yield read(pid)
        except ProcessLookupError:
            if not number:
                raise


def _cpu_linux(pid: int) -> float:
    try:
        own = time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK)
    except OSError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    return own / 1e9 + sum(map(int, _stat(pid)[_CHILDREN_TIMES])) / _TICK


def _cpu_elsewhere(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess as gone:
        raise ProcessLookupError(str(gone)) from gone
    return float(times.user + times.system)


def _minor_faults(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[_MINOR_FAULTS]) + int(fields[_CHILDREN_FAULTS])


def _stat(pid: int) -> list[bytes]:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    return text[text.rindex(b")") + 2 :].split()
