"""A child process in a group of its own: its last lines, its death, its certain end.

Only groups this module started are ever signalled, and what left them for another. All stay in one session: Linux
shares cores out among sessions (autogroups) first, which makes waking a process dearer, and gives idle priority no
meaning between two of them.
Starting must happen on a thread that outlives the child: Linux delivers the parent-death signal of a load process
when the starting *thread* ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

import harness
from harness.execute.counters import tree
from harness.execute.guard import GUARD

_LINES = 40
_LINE_BYTES = 256 * 1024
_KEPT = 2000
_POLL_SECONDS = 0.005
_VERIFY_SECONDS = 5.0


class Tail:
    """Drains one output stream on a thread and keeps its last lines; `on_line` sees each line as it comes."""

    def __init__(self, stream: IO[bytes], on_line: Callable[[str], None] | None = None) -> None:
        self._stream = stream
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._thread = threading.Thread(target=self._drain, name="drain", daemon=True)
        self._thread.start()

    def last(self, beside: str = "", count: int = 3) -> str:
        """The last non-empty lines other than `beside`, joined to one."""
        return " | ".join([line for line in list(self._lines) if line.strip() and line != beside[:_KEPT]][-count:])

    def finish(self, timeout: float) -> None:
        """Wait until the stream has ended, at most `timeout` seconds (a grandchild may hold it open)."""
        self._thread.join(timeout)

    def _drain(self) -> None:
        with self._stream:
            for raw in iter(lambda: self._stream.readline(_LINE_BYTES), b""):
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._lines.append(line[:_KEPT])
                if self._on_line:
                    self._on_line(line)


class Child:
    """One started program. `on_line` sees its standard output; with None both streams go to one tail."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        pass_fds: tuple[int, ...] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        GUARD.start()
        self._popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if on_line else subprocess.STDOUT,
            env={**os.environ, **env},
            cwd=cwd,
            pass_fds=pass_fds,
            process_group=0,
        )
        self.pid = self._popen.pid
        try:
            GUARD.watch(self.pid)
        except BaseException:  # Ctrl-C: nobody else knows of the program yet
            with self._popen:
                os.killpg(self.pid, signal.SIGKILL)
            GUARD.release(self.pid)
            raise
        assert self._popen.stdout is not None
        self._out = Tail(self._popen.stdout, on_line)
        self._errors = self._out if self._popen.stderr is None else Tail(self._popen.stderr)

    def alive(self) -> bool:
        """Whether the started process itself still runs."""
        return self._popen.poll() is None

    def pids(self) -> tuple[int, ...]:
        """This process and all its descendants, as of now; empty when it is dead."""
        if not self.alive():
            return ()
        return tree(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; a dead one gets none."""
        self._popen.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Whether the process has ended within `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        return not self.alive()

    def epitaph(self, beside: str = "") -> str:
        """How it ended and its last words other than `beside`, e.g. `exit status 1; last lines: ...`."""
        self._errors.finish(0.5)
        status = self._popen.poll()
        if status is None:
            how = "still running"
        elif status < 0:
            how = f"killed by {signal.Signals(-status).name}" if -status in set(signal.Signals) else f"signal {-status}"
        else:
            how = f"exit status {status}"
        words = self._errors.last(beside) or self._out.last(beside)
        return f"{how}; last lines: {words}" if words else how

    def end(self, grace: float) -> bool:
        """SIGTERM, wait `grace` seconds, SIGKILL to the whole group and to descendants outside it; True when nothing of
        them is left.
        """
        # Asked before it ends: then they are nobody's descendants.
        descendants = psutil.Process(self.pid).children(recursive=True) if self.alive() else []
        if self.alive() and grace > 0:
            self._popen.terminate()
            self.wait(grace)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in descendants:
            with suppress(psutil.Error):  # it has ended; what has its number now began at another time and is spared
                process.kill()
        self.wait(_VERIFY_SECONDS)
        gone = self._verify(descendants)
        if gone:
            GUARD.release(self.pid)
        self._out.finish(0.5)
        self._errors.finish(0.5)
        return gone

    def _verify(self, descendants: Sequence[psutil.Process]) -> bool:
        deadline = time.monotonic() + _VERIFY_SECONDS
        while _group_alive(self.pid) or any(map(_runs, descendants)):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return not self.alive()


def python_path(env: Mapping[str, str] = os.environ) -> str:
    """Where a child finds the modules that `env`, or else our environment, asks for, and behind them our own."""
    asked = env.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    root = str(Path(harness.__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (asked, root)))


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS answers so for a group of zombies
        return False
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and _runs(process):
                return True
    return False


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
