"""The guard ends what a killed harness leaves behind: one small process that outlives it and kills its
process groups.

A harness ended by SIGKILL can clean nothing up, and the kernel's parent-death signal reaches neither
grandchildren nor every platform. So each started group is announced to the guard (`+PGID`), each ended one
withdrawn (`-PGID`); when the pipe ends, the guard kills what is still announced. Run as a script it needs
the standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO


class Guard:
    """This process's guard, started with the first group it has to watch."""

    def __init__(self) -> None:
        self._pipe: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Be there before there is anything to watch. Raises OSError."""
        with self._lock:
            self._begin()

    def watch(self, group: int) -> None:
        """Have process group `group` killed when this process dies."""
        self._tell(b"+%d\n" % group)

    def release(self, group: int) -> None:
        """The group has ended (its number may be used anew): forget it."""
        self._tell(b"-%d\n" % group)

    @property
    def pid(self) -> int:
        """Pid of the guard process; 0 before it was needed."""
        return self._process.pid if self._process else 0

    def _tell(self, line: bytes) -> None:
        with self._lock:
            self._begin()
            assert self._pipe is not None
            with suppress(BrokenPipeError):  # somebody killed the guard: its watch is over, ours goes on
                self._pipe.write(line)
                self._pipe.flush()

    def _begin(self) -> None:
        if self._pipe is not None and self._owner == os.getpid():
            return
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # neither Ctrl-C nor a closing terminal may end it first
        )
        self._pipe = self._process.stdin
        self._owner = os.getpid()


GUARD = Guard()


def main() -> int:
    """The guard process: collect group numbers until the pipe ends, then kill what is left."""
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        number = int(line[1:])
        if line[:1] == b"+":
            groups.add(number)
        else:
            groups.discard(number)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
